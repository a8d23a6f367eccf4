"""What the kernels for NVIDIA Hopper GPUs share."""

from typing import Any

from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array


def store(place: Any, value: Array) -> None:
    """Stores into memory, by whatever way the value's layout leaves."""
    if hasattr(plgpu, "store"):
        plgpu.store(place, value, optimized=False)
    else:
        # Before JAX 0.12 no store had to be the best one.
        place[...] = value
