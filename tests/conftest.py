"""Eight virtual devices, and the real data where it is present."""

import os

# Before JAX starts: the whole suite runs on eight virtual CPU devices, as a small pod would.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import pathlib

import hypothesis
import pytest

# The first call of a law compiles: a time limit on single examples would only measure that.
hypothesis.settings.register_profile("dlcore", deadline=None)
hypothesis.settings.load_profile("dlcore")


def pytest_sessionstart() -> None:
    """Makes the accelerators' compilers known, where they are, before JAX looks for devices."""
    from kernels import aot

    aot.prepare()


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The TFDS data directory of the environment; tests of real data skip without one."""
    directory = os.environ.get("DLCORE_DATA_DIR")
    if not directory:
        pytest.skip("DLCORE_DATA_DIR is not set: no real data on this machine")
    return pathlib.Path(directory)
