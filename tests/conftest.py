"""Eight virtual devices, compiled programs shared by all workers, and the real data if present."""

import os
import pathlib
import tempfile
from collections.abc import Iterator

# Before JAX starts: the whole suite runs on eight virtual CPU devices, as a small pod would.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

# What several tests compile, in whichever worker or child, is compiled once. A new directory each
# time: a child that is killed may leave half a file.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    # Its list of fonts takes seconds to make.
    os.environ.setdefault("MPLCONFIGDIR", str(pathlib.Path(_home) / "matplotlib"))
    _cache = tempfile.TemporaryDirectory(prefix="dlcore-cache-")
    os.environ["XDG_CACHE_HOME"] = _cache.name
os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{os.environ['XDG_CACHE_HOME']}/dlcore/jax"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

# What a test compiles it runs a few times: LLVM's optimizations are not worth their time, here and
# in children. XLA's own passes stay.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import flax.struct
import hypothesis
import jax
import pytest

# Shapes are checked in signatures of functions. What a tree holds in place of arrays while JAX maps
# over it, no annotation says.
setattr(flax.struct.PyTreeNode, "__no_type_check__", True)  # noqa: B010

# The first call of a law compiles: a time limit on single examples would only measure that.
hypothesis.settings.register_profile("dlcore", deadline=None)
hypothesis.settings.load_profile("dlcore")


def pytest_sessionstart() -> None:
    """Makes the accelerators' compilers known, where they are, before JAX looks for devices."""
    from kernels import aot

    aot.prepare()


@pytest.fixture
def optimized() -> Iterator[None]:
    """For a test that runs what it compiles for long, or compares roundings: all optimizations."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The TFDS data directory of the environment; tests of real data skip without one."""
    directory = os.environ.get("DLCORE_DATA_DIR")
    if not directory:
        pytest.skip("DLCORE_DATA_DIR is not set: no real data on this machine")
    return pathlib.Path(directory)
