"""The proofs of an implementation of the block, for every test of one."""

import functools

import pytest

from kernels import testing
from kernels.conv_bn_relu import cases


@pytest.fixture
def prove():
    """`prove(implementation, case)`; see `testing.prove`."""
    return functools.partial(testing.prove, cases)


@pytest.fixture
def lower():
    """`lower(target, implementation, case)`; see `testing.lower`."""
    return functools.partial(testing.lower, cases)
