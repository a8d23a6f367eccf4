"""Compiled programs, kept on disk."""

import jax

from dlcore import paths


def use() -> None:
    """Keeps compiled programs in the user's cache, if any: a second start need not compile."""
    root = paths.cache()
    if root is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(root / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
