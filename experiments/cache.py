"""Compiled programs, kept on disk."""

import os
import pathlib

import jax


def use() -> None:
    """Keeps compiled programs in the user's cache, so that a second start need not compile."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(home) / "dlcore" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
