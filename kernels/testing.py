"""What the proofs of every kernel share: how wrong a result may be, and interpretation."""

import contextlib
import functools
import unittest
import unittest.mock
from collections.abc import Callable, Hashable, Iterable, Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from kernels import aot, dispatch


def error(result: Any, expected: Any) -> float:
    """The norm of the difference over the norm of what is expected."""
    result, expected = np.asarray(result, np.float64), np.asarray(expected, np.float64)
    norm = np.linalg.norm(expected)
    return float(np.linalg.norm(result - expected) / (norm or 1.0))


def assert_as_right_as_xla(result: Any, xla: Any, expected: Any, dtype: Any) -> None:
    """Asserts that each array of a tree is at most twice as wrong as XLA's.

    Four units in the last place of the dtype are always allowed.

    Args:
      result: of the implementation under test.
      xla: of XLA's implementation, for the same inputs and dtype.
      expected: in float64.
      dtype: of the computation.
    """
    least = 4 * float(jnp.finfo(dtype).eps)
    trees = (jax.tree.leaves_with_path(result), jax.tree.leaves(xla), jax.tree.leaves(expected))
    for (path, array), other, right in zip(*trees, strict=True):
        name = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(np.asarray(array, np.float64))), f"{name} is not finite"
        limit = max(2 * error(other, right), least)
        assert error(array, right) <= limit, f"{name}: {error(array, right):.3g} > {limit:.3g}"


@contextlib.contextmanager
def interpreted(implementation: str) -> Iterator[None]:
    """Within, the kernels of "mosaic_tpu" or "mosaic_gpu" are interpreted on the CPU.

    Memory begins as NaN; a read out of bounds and a race between threads or copies raise.
    """
    checks: Any = {
        "detect_races": True,
        "uninitialized_memory": "nan",
        "out_of_bounds_reads": "raise",
    }
    mode: contextlib.AbstractContextManager[Any]
    if implementation == "mosaic_tpu":
        from jax.experimental.pallas import tpu as pltpu

        mode = pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(**checks))
    else:
        from jax.experimental.pallas import mosaic_gpu as plgpu

        mode = plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(**checks))
    with dispatch.target(implementation.removeprefix("mosaic_")), mode:
        yield


@contextlib.contextmanager
def interpreted_within_transformations() -> Iterator[None]:
    """Within, TPU kernels are interpreted by the interpreter that knows vmap, remat and pmap.

    It checks nothing: neither races nor what memory begins with.
    """
    plain = functools.partial(pl.pallas_call, interpret=True)
    with dispatch.target("tpu"), unittest.mock.patch.object(pl, "pallas_call", plain):
        yield


def one_of_each[Case](cases: Iterable[Case], kind: Callable[[Case], Hashable]) -> list[Case]:
    """The first case of each kind, in their order."""
    first: dict[Hashable, Case] = {}
    for case in cases:
        first.setdefault(kind(case), case)
    return list(first.values())


def prove(cases: ModuleType, implementation: str, case: Any) -> None:
    """Asserts that an implementation is as right as XLA, and XLA as right as the reference is.

    Pallas kernels are interpreted, with everything checked that interpretation can check.

    Args:
      cases: an operation's, with `draw`, `call` and `right`.
      implementation: its name.
      case: the call.
    """
    arguments = cases.draw(case)
    kernel = implementation.startswith("mosaic")
    other = cases.call(case, arguments, "xla" if kernel else "reference")
    right = cases.right(case, arguments)
    with interpreted(implementation) if kernel else contextlib.nullcontext():
        result = cases.call(case, arguments, implementation)
        assert_as_right_as_xla(result, other, right, case.dtype)


def lower(cases: ModuleType, name: str, implementation: str, case: Any) -> tuple[aot.Target, Any]:
    """A target, and a call with its gradients, lowered for one device of it.

    Args:
      cases: an operation's, with `lower`.
      name: of the target.
      implementation: its name.
      case: the call.

    Raises:
      unittest.SkipTest: the target's compiler is not installed.
    """
    machine = aot.target(name)
    if reason := aot.missing(machine.chip.platform):
        raise unittest.SkipTest(reason)
    sharding = jax.sharding.SingleDeviceSharding(machine.devices[0])
    with dispatch.target(machine.chip.device_kind):
        return machine, cases.lower(case, implementation, sharding)
