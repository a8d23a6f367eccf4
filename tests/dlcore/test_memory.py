"""The bytes that there are, and that arrays take."""

import math
import types

import jax
import jax.numpy as jnp
import pytest

from dlcore import memory


@pytest.fixture
def machine(monkeypatch):
    """A machine of 4 KiB x 1000, whose files are these."""

    def make(files):
        sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
        monkeypatch.setattr(memory.os, "sysconf", sizes.__getitem__)
        monkeypatch.setattr(memory, "_read", lambda path: files.get(path, ""))

    return make


@pytest.mark.parametrize(
    ("files", "there"),
    [
        ({}, 4_096_000),
        ({"/sys/fs/cgroup/memory.max": "max\n"}, 4_096_000),
        ({"/sys/fs/cgroup/memory.max": "1000000\n"}, 1_000_000),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n"}, 2_000_000),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 4_096_000),
        ({"/proc/meminfo": "MemTotal: 7 kB\nSwapTotal:    10 kB\nSwapFree: 3 kB\n"}, 4_106_240),
        ({"/sys/fs/cgroup/memory.max": "1000", "/proc/meminfo": "SwapTotal: 1 kB\n"}, 2024),
    ],
)
def test_a_process_has_the_machines_memory_and_swap_or_what_its_container_may_have(
    machine, files, there
):
    machine(files)
    assert memory.of_host() == there


def test_a_device_has_what_its_backend_says_and_a_cpu_the_hosts():
    def device(platform, stats):
        return types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)

    assert memory.of_device(device("gpu", {"bytes_limit": 5, "bytes_in_use": 3})) == 5
    for unknown in (None, {}, {"bytes_in_use": 3}):
        assert memory.of_device(device("cpu", unknown)) == memory.of_host()
        # A GPU may have more than its host, and some of its allocators do not tell.
        assert memory.of_device(device("gpu", unknown)) == math.inf
    assert memory.of_device(jax.devices()[0]) == memory.of_host() > 2**28


def test_arrays_are_counted_by_their_shapes_and_types():
    tree = {"a": jnp.zeros((3, 4)), "b": [jax.ShapeDtypeStruct((5,), jnp.bfloat16), jnp.int8(1)]}
    assert memory.of_arrays(tree) == 4 * 12 + 2 * 5 + 1
    # No machine's integers hold this.
    assert memory.of_shape((2**31, 2**31, 2**31), 4) == 2**95
