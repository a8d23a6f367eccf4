"""Shapes that a kernel can take: rounding, padding, and the results of a call."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that is not below the size."""
    return -(-size // multiple) * multiple


def pad_to(array: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """The array with zeros behind it on every axis, up to the sizes."""
    return jnp.pad(array, [(0, new - old) for new, old in zip(sizes, array.shape, strict=True)])


def like(shape: tuple[int, ...], dtype: Any, *arguments: jax.Array) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a kernel's result, which varies over a mesh as its arguments do."""
    axes = jax.sharding.ManualAxisType(varying=_varying(arguments))
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=axes)


def vary_alike(tree: Any) -> Any:
    """The arrays, each varying over a mesh (within `jax.shard_map`) as all of them together do.

    What was the same on every device gets its gradient summed over them.
    """
    varying = _varying(jax.tree.leaves(tree))

    def vary(array: jax.Array) -> jax.Array:
        missing = varying - jax.typeof(array).manual_axis_type.varying
        return jax.lax.pcast(array, tuple(missing), to="varying") if missing else array

    return jax.tree.map(vary, tree)


def _varying(arrays: Iterable[jax.Array]) -> frozenset[str]:
    return frozenset[str]().union(*(jax.typeof(array).manual_axis_type.varying for array in arrays))


def in_32_bits[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """The function, traced with numbers of 32 bits, as kernels have them, whatever the default."""

    @functools.wraps(function)
    def traced(*args: P.args, **options: P.kwargs) -> R:
        with jax.enable_x64(False):
            return function(*args, **options)

    return traced
