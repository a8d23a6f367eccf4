"""Which implementation of the LSTM serves a call."""

from types import ModuleType
from typing import Any

import jax.numpy as jnp

from kernels import dispatch
from kernels.lstm import mosaic_gpu, mosaic_tpu, xla

# Who implements the recurrence, by name; "reference" is the whole layer and has none.
RECURRENCES: dict[str, ModuleType] = {
    "xla": xla,
    "mosaic_gpu": mosaic_gpu,
    "mosaic_tpu": mosaic_tpu,
}


def refusals(batch: int, time: int, hidden: int, dtype: Any) -> dict[str, str | None]:
    """For each implementation why it cannot serve such a call on any device, or None."""
    return {
        "reference": None,
        "xla": None,
        "mosaic_gpu": mosaic_gpu.refusal(batch, time, hidden, dtype),
        "mosaic_tpu": mosaic_tpu.refusal(batch, time, hidden, dtype),
    }


def choose(
    implementation: str | None, batch: int, time: int, hidden: int, dtype: Any
) -> dispatch.Choice:
    """Who serves a call; see `kernels.dispatch.choose`."""
    refused = refusals(batch, time, hidden, dtype)
    shape = {"batch": batch, "time": time, "hidden": hidden}
    if dispatch.requested(implementation) == "auto":
        refused["mosaic_gpu"] = (
            refused["mosaic_gpu"]
            or mosaic_gpu.unproved(batch, hidden)
            or _unmeasured(shape, jnp.dtype(dtype))
        )
    return dispatch.choose("lstm", implementation, refused, shape, jnp.dtype(dtype))


def _unmeasured(shape: dict[str, int], dtype: Any) -> str | None:
    """Why what was measured of `mosaic_gpu` says nothing of such a call, or None."""
    row = dispatch.nearest("lstm", shape, dtype)
    if row is None:
        return None
    measured, wanted = (
        mosaic_gpu.paths(sizes["batch"], sizes["hidden"]) for sizes in (row["shape"], shape)
    )
    return None if measured == wanted else "others of its kernels were measured there"
