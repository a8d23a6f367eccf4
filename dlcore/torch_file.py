"""Reads the tensors of a PyTorch file, `torch.save(model.state_dict(), path)`, without PyTorch.

Since PyTorch 1.6 such a file is a zip archive: a pickle that names tensors, and the bytes of each
storage. Before, it was one pickle after another, and then the storages; some of torchvision's
published files are of that kind. Nothing in either is executed: the pickle may refer to the few
names below, and to no other, as with PyTorch's own `weights_only`.
"""

import collections
import io
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from dlcore.errors import UsageError

_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

# With which the older files begin.
_MAGIC = 0x1950A86A20F9469CFC6C

# The numbers of a storage by their type, its key, and their count.
_Storage = Callable[[Any, str, int], np.ndarray]


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name; those that share numbers in PyTorch share them here.

    Raises:
      UsageError: the file is missing, damaged, no such file, or holds more than tensors.
    """
    try:
        with pathlib.Path(path).open("rb") as file:
            is_archive = file.read(4) == b"PK\3\4"
            file.seek(0)
            return _checked(_of_archive(file) if is_archive else _of_stream(file))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist: name a file of weights") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except zipfile.BadZipFile as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    # There is no end of what a pickle that PyTorch has not written can raise.
    except Exception as error:
        raise UsageError(f"{path} is not a plain state dict of PyTorch: {error}") from error


def _of_archive(file: io.BufferedReader) -> Any:
    """What a file of today holds."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickled = next((name for name in names if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise ValueError("it is another archive")
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}byteorder" in names:
            _check_order(archive.read(f"{folder}byteorder") == b"little")

        def storage(dtype: Any, key: str, count: int) -> np.ndarray:
            return np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)[:count]

        # The checksum is that of the whole, which therefore comes first.
        return _Unpickler(io.BytesIO(archive.read(pickled)), storage).load()


def _of_stream(file: io.BufferedReader) -> Any:
    """What a file of before PyTorch 1.6 holds."""
    size = pathlib.Path(file.name).stat().st_size
    storages = {}

    def storage(dtype: Any, key: str, count: int) -> np.ndarray:
        # The numbers themselves come later.
        if count * np.dtype(dtype).itemsize > size:
            raise ValueError("a storage is larger than the file")
        storages[key] = np.zeros(count, dtype)
        return storages[key]

    def load() -> Any:
        return _Unpickler(file, storage).load()

    if load() != _MAGIC:
        raise ValueError("it is another pickle")
    _, system = load(), load()
    _check_order(system["little_endian"])
    state = load()
    for key in load():
        (count,) = np.frombuffer(file.read(8), np.int64)
        array = storages[key]
        if count != array.size or file.readinto(array.view(np.uint8)) != array.nbytes:
            raise ValueError("a storage is not whole")
    return state


def _check_order(is_little: bool) -> None:
    if not is_little:
        raise ValueError("its numbers are big-endian")


def _checked(state: Any) -> dict[str, np.ndarray]:
    """The state dict, if it is one."""
    if not isinstance(state, dict):
        raise ValueError("it holds no dictionary: save model.state_dict()")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise ValueError(f"{name!r} is no tensor: save model.state_dict()")
    return dict(state)


class _Unpickler(pickle.Unpickler):
    """Makes NumPy arrays of what PyTorch pickles, and refuses all else."""

    def __init__(self, file: Any, storage: _Storage) -> None:
        super().__init__(file)
        self._storage = storage
        self._known: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the file stands for."""
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) in known:
            return known[module, name]
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is no part of weights")

    def persistent_load(self, reference: Any) -> np.ndarray:
        """The numbers of a storage: `("storage", type, key, device, count)`."""
        _, dtype, key, _, count, *view = reference
        if any(view):
            raise ValueError("a storage is part of another")
        if key not in self._known:
            self._known[key] = self._storage(dtype, key, count)
        return self._known[key]


def _tensor(
    storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int], *others: Any
) -> np.ndarray:
    """A view of a storage; strides count numbers."""
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    last = offset + sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or last >= len(storage):
        raise ValueError("a tensor reaches beyond its storage")
    steps = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps)


def _parameter(tensor: np.ndarray, *others: Any) -> np.ndarray:
    """A `torch.nn.Parameter` is its tensor."""
    return tensor
