"""The proofs that an implementation is right, and that it compiles, for every test of one."""

import contextlib

import jax
import pytest

from kernels import aot, dispatch, testing
from kernels.lstm import cases


@pytest.fixture
def prove():
    """`prove(implementation, case)`: as right as XLA, and XLA as right as the reference is.

    Pallas kernels are interpreted, with everything checked that interpretation can check.
    """

    def run(implementation, case):
        arguments = cases.draw(case)
        kernel = implementation.startswith("mosaic")
        if kernel and (reason := testing.no_interpreter(implementation)):
            pytest.skip(reason)
        other = cases.call(case, arguments, "xla" if kernel else "reference")
        right = cases.right(case, arguments)
        with testing.interpreted(implementation) if kernel else contextlib.nullcontext():
            result = cases.call(case, arguments, implementation)
            testing.assert_as_right_as_xla(result, other, right, case.dtype)

    return run


@pytest.fixture
def lower():
    """`lower(target, implementation, case)`: values and gradients, lowered for one device of it."""

    def run(name, implementation, case):
        machine = aot.target(name)
        if reason := aot.missing(machine.chip.platform):
            pytest.skip(reason)
        sharding = jax.sharding.SingleDeviceSharding(machine.devices[0])
        with dispatch.target(machine.chip.device_kind):
            return machine, cases.lower(case, implementation, sharding)

    return run
