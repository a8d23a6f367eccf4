"""What a machine may run out of."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Writing more into a file fails, as on a full disk (and as root too)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
