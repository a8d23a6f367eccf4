"""The proofs of an implementation of the LSTM, for every test of one."""

import functools

import pytest

from kernels import testing
from kernels.lstm import cases


@pytest.fixture
def prove():
    """`prove(implementation, case)`; see `testing.prove`."""
    return functools.partial(testing.prove, cases)


@pytest.fixture
def lower():
    """`lower(target, implementation, case)`; see `testing.lower`."""
    return functools.partial(testing.lower, cases)
