"""How many bytes there are, and how many arrays take.

Who compares the two counts the least that is needed, and all that there is as free: nothing is
refused that would have run.
"""

import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax

# What a container may use at most, by both generations of Linux's control groups.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def of_host() -> int:
    """The bytes of this machine's memory that a process may use, swap included."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # Where there is no limit, it is a word or larger than the memory.
    limits = [int(text) for path in _LIMITS if (text := _read(path).strip()).isdecimal()]
    return min([physical, *limits]) + _swap()


def of_device(device: jax.Device) -> float:
    """The bytes that a device can hold, infinite where it does not tell; a CPU's are the host's."""
    # Not every backend counts, nor every allocator of a GPU's memory.
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return limit or (of_host() if device.platform == "cpu" else math.inf)


def of_arrays(tree: Any) -> int:
    """The bytes of all arrays, or shapes of arrays, in a tree."""
    return sum(of_shape(array.shape, array.dtype.itemsize) for array in jax.tree.leaves(tree))


def of_shape(shape: Iterable[int], item: int) -> int:
    """The bytes of an array of that shape; Python's integers do not overflow."""
    return math.prod(map(int, shape)) * item


def shown(count: float) -> str:
    """A number of bytes, for a message."""
    return f"{count / 1e9:,.1f} GB"


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


def _swap() -> int:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("SwapTotal:"):
            return 1024 * int(line.split()[1])
    return 0
