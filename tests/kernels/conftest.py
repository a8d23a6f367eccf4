"""Kernels are compared with what XLA makes of a reference, as both are compiled for users."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def with_optimizations() -> Iterator[None]:
    """Within, LLVM optimizes: how a product and a sum are rounded depends on it."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
