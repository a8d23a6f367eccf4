"""PyTorch's files are read without PyTorch, and what is no state dict is refused in one line."""

import io
import os
import pickle
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from dlcore import torch_file
from dlcore.errors import UsageError
from tests.fixtures import cases, file_cases

ARCHIVE, STREAM = cases.DIRECTORY / "state_dict.pt", cases.DIRECTORY / "stream.pt"


@pytest.mark.parametrize("path", [ARCHIVE, STREAM], ids=["archive", "stream"])
def test_tensors_of_every_type_and_form_are_read(path):
    found, expected = torch_file.read(path), file_cases.state_dict()
    assert list(found) == list(expected)
    for name, array in expected.items():
        dtype = ml_dtypes.bfloat16 if name == "bfloat16" else array.dtype
        assert (found[name].dtype, found[name].shape) == (dtype, array.shape), name
        np.testing.assert_array_equal(found[name].astype(array.dtype), array, err_msg=name)
    assert not found["turned"].flags.c_contiguous


# Files as others may write them.


class Stub:
    """Pickled as a call of a global with arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Storage:
    """Pickled as a reference to a storage of an archive."""

    def __init__(self, *reference):
        self.reference = reference


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.reference if isinstance(obj, Storage) else None


@pytest.fixture
def torch(monkeypatch):
    """Globals with PyTorch's names, for the time of pickling."""

    def named(module, name):
        made = type(name, (), {"__module__": module})
        setattr(modules[module], name, made)
        return made

    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils", "torch.nn")}
    made = types.SimpleNamespace(
        FloatStorage=named("torch", "FloatStorage"),
        rebuild=named("torch._utils", "_rebuild_tensor_v2"),
        Linear=named("torch.nn", "Linear"),
    )

    def pickled(value):
        with monkeypatch.context() as patched:
            for name, module in modules.items():
                patched.setitem(sys.modules, name, module)
            file = io.BytesIO()
            Pickler(file, protocol=2).dump(value)
        return file.getvalue()

    made.pickled = pickled
    return made


def archive(path, pickled, **files):
    """Writes an archive as PyTorch lays it out."""
    with zipfile.ZipFile(path, "w") as written:
        numbers = np.arange(6, dtype=np.float32).tobytes()
        for name, content in {"data.pkl": pickled, "data/0": numbers, **files}.items():
            written.writestr(f"any/{name}", content)
    return path


def tensor(torch, offset=0, shape=(2, 3), strides=(3, 1), key="0", count=6, *view):
    storage = Storage("storage", torch.FloatStorage, key, "cpu", count, *view)
    return Stub(torch.rebuild, storage, offset, shape, strides, False, {})


def test_the_archives_of_these_tests_are_sound(torch, tmp_path):
    pickled = torch.pickled({"w": tensor(torch), "row": tensor(torch, 3, (3,), (1,))})
    found = torch_file.read(archive(tmp_path / "sound.pt", pickled))
    np.testing.assert_array_equal(found["w"], np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(found["row"], [3, 4, 5])


STRANGE = {
    "a shell's command": (
        lambda torch: Stub(os.system, "touch executed"),
        "it refers to posix.system, which is no part of weights",
    ),
    "a function of Python": (
        lambda torch: Stub(eval, "1"),
        "it refers to __builtin__.eval, which is no part of weights",
    ),
    "a whole network": (
        lambda torch: {"model": torch.Linear},
        "it refers to torch.nn.Linear, which is no part of weights",
    ),
    "a list": (lambda torch: [1, 2], "it holds no dictionary: save model.state_dict()"),
    "a training's state": (
        lambda torch: {"state_dict": {"w": tensor(torch)}, "epoch": 3},
        "'state_dict' is no tensor: save model.state_dict()",
    ),
    "numbers for names": (
        lambda torch: {0: tensor(torch)},
        "0 is no tensor: save model.state_dict()",
    ),
    "a tensor beyond its storage": (
        lambda torch: {"w": tensor(torch, offset=1)},
        "a tensor reaches beyond its storage",
    ),
    "a tensor before its storage": (
        lambda torch: {"w": tensor(torch, offset=-1, shape=(2,), strides=(1,))},
        "a tensor reaches beyond its storage",
    ),
    "steps backwards": (
        lambda torch: {"w": tensor(torch, offset=5, shape=(3,), strides=(-1,))},
        "a tensor reaches beyond its storage",
    ),
    "a storage that is not there": (
        lambda torch: {"w": tensor(torch, key="1")},
        "\"There is no item named 'any/data/1' in the archive\"",
    ),
    "a storage shorter than it says": (
        lambda torch: {"w": tensor(torch, shape=(7,), strides=(1,), count=7)},
        "a tensor reaches beyond its storage",
    ),
    "a part of a storage": (
        lambda torch: {"w": tensor(torch, 0, (6,), (1,), "0", 6, ("1", 0, 3))},
        "a storage is part of another",
    ),
}


@pytest.mark.parametrize("name", list(STRANGE))
def test_what_is_more_than_tensors_or_less_is_refused_and_not_executed(
    name, torch, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    make, message = STRANGE[name]
    path = archive(tmp_path / "strange.pt", torch.pickled(make(torch)))
    with pytest.raises(UsageError) as error:
        torch_file.read(path)
    assert str(error.value) == f"{path} is not a plain state dict of PyTorch: {message}"
    assert not (tmp_path / "executed").exists()


def test_other_files_are_refused(tmp_path):
    plain = {"w": [1.0]}
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as other:
        other.writestr("words.txt", "no weights")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(plain))
    big = archive(tmp_path / "big.pt", pickle.dumps(plain), byteorder="big")
    for name, message in (
        ("no.pt", "does not exist: name a file of weights"),
        ("", "cannot be read: "),
        ("other.pt", "is not a plain state dict of PyTorch: it is another archive"),
        ("text.pt", "is not a plain state dict of PyTorch: "),
        ("empty.pt", "is not a plain state dict of PyTorch: "),
        ("pickle.pt", "is not a plain state dict of PyTorch: it is another pickle"),
        (big.name, "is not a plain state dict of PyTorch: its numbers are big-endian"),
    ):
        with pytest.raises(UsageError) as error:
            torch_file.read(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name} {message}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", [ARCHIVE, STREAM], ids=["archive", "stream"])
def test_a_file_that_is_cut_off_is_refused(path, tmp_path):
    whole, part = path.read_bytes(), tmp_path / "part.pt"
    for length in range(1, len(whole), 37):
        part.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="is damaged|is not a plain state dict"):
            torch_file.read(part)


def test_a_flipped_bit_is_found_by_the_checksum_of_an_archive(tmp_path):
    whole, changed = ARCHIVE.read_bytes(), tmp_path / "changed.pt"
    with zipfile.ZipFile(ARCHIVE) as stored:
        pickled = next(name for name in stored.namelist() if name.endswith("data.pkl"))
        content = stored.read(pickled)
    begin = whole.index(content)
    for place in (begin + 50, begin + len(content) // 2):
        changed.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UsageError, match="is damaged: Bad CRC-32"):
            torch_file.read(changed)


def test_a_pickle_of_whatever_bytes_is_read_or_refused(tmp_path):
    with zipfile.ZipFile(ARCHIVE) as stored:
        content = {name.partition("/")[2]: stored.read(name) for name in stored.namelist()}
    pickled, random = content.pop("data.pkl"), np.random.RandomState(0)
    refused = 0
    for _ in range(300):
        changed = bytearray(pickled)
        changed[random.randint(len(changed))] = random.randint(256)
        try:
            torch_file.read(archive(tmp_path / "changed.pt", bytes(changed)))
        except UsageError:
            refused += 1
    assert refused > 100


def test_a_stream_whose_storage_is_larger_than_the_file_takes_no_memory(torch, tmp_path):
    huge = tensor(torch, 0, (1,), (1,), "0", 10**12, None)
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"w": huge}, ["0"]]
    path = tmp_path / "huge.pt"
    path.write_bytes(b"".join(map(torch.pickled, head)))
    with pytest.raises(UsageError, match="a storage is larger than the file"):
        torch_file.read(path)
