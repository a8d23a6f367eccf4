"""Reads the tensors of a PyTorch file, `torch.save(model.state_dict(), path)`, without PyTorch.

Such a file is a zip archive: a pickle that names tensors, and the bytes of each storage. Nothing in
it is executed: the pickle may refer to the few names below, and to no other, as with PyTorch's own
`weights_only`.
"""

import collections
import pathlib
import pickle
import zipfile
from collections.abc import Sequence
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


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name.

    Raises:
      UsageError: the file is missing, damaged, no such file, or holds more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist: name a file of weights") from error
    except zipfile.BadZipFile as error:
        raise UsageError(
            f"{path} is damaged, or older than PyTorch 1.6: save it again, or as .safetensors"
        ) from error
    except (pickle.UnpicklingError, KeyError, TypeError, ValueError, EOFError) as error:
        raise UsageError(f"{path} is not a plain state dict of PyTorch: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _read(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    order = "little"
    if f"{folder}byteorder" in archive.namelist():
        order = archive.read(f"{folder}byteorder").decode()
    if order != "little":
        raise ValueError(f"its numbers are {order}-endian")
    with archive.open(pickled) as file:
        state = _Unpickler(file, archive, folder).load()
    if not isinstance(state, dict):
        raise ValueError("it holds no dictionary: save model.state_dict()")
    strange = [name for name, value in state.items() if not isinstance(value, np.ndarray)]
    if strange:
        raise ValueError(f"{strange[0]!r} is no tensor: save model.state_dict()")
    return dict(state)


class _Unpickler(pickle.Unpickler):
    """Makes NumPy arrays of what PyTorch pickles, and refuses all else."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder

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
        _, dtype, key, _, count = reference
        return np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), dtype, count)


def _tensor(
    storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int], *others: Any
) -> np.ndarray:
    """A view of a storage, copied; strides count numbers."""
    size = storage.itemsize
    last = offset + sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    if min((offset, *strides)) < 0 or last >= len(storage):
        raise ValueError("a tensor reaches beyond its storage")
    steps = [step * size for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()


def _parameter(tensor: np.ndarray, *others: Any) -> np.ndarray:
    """A `torch.nn.Parameter` is its tensor."""
    return tensor
