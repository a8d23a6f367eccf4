"""The description of a prepared dataset, put so that TFDS opens it without TensorFlow.

TFDS cannot even name its audio and video features without TensorFlow. But sound that was decoded
when the dataset was prepared is stored as whole numbers, and a video as a sequence of images: TFDS
is told so, by a temporary folder with the same files and another description.
"""

import json
import pathlib
import tempfile
from typing import Any, NamedTuple

# Under which a class is named, in the present notation (protobuf has two spellings) and the older.
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
# Under which a description of the older notation stands in one of the present.
_JSON_KEY = "json"
_PACKAGE = "tensorflow_datasets.core.features"
_IMAGE = f"{_PACKAGE}.image_feature.Image"
_SEQUENCE = f"{_PACKAGE}.sequence_feature.Sequence"
_TENSOR = f"{_PACKAGE}.tensor_feature.Tensor"


class Readable(NamedTuple):
    """A folder that TFDS can open.

    Attributes:
      directory: the dataset's own, or a temporary one.
      rates: samples a second of what is sound in the dataset, by name; 0 where it is not known.
      owner: removes a temporary folder when it is no longer used; None for the dataset's own.
    """

    directory: pathlib.Path
    rates: dict[str, int]
    owner: tempfile.TemporaryDirectory | None


def read(directory: pathlib.Path) -> dict[str, Any]:
    """What the file `features.json` of a prepared dataset holds.

    Raises:
      Exception: of any kind; the file is damaged.
    """
    path = directory / "features.json"
    if not path.is_file():  # To open a pipe would be to wait for whoever writes it.
        raise FileNotFoundError(f"{path} is no file")
    return json.loads(path.read_text(encoding="utf-8"))


def foreign_classes(described: Any) -> list[str]:
    """The classes in a description, of whatever depth, that are not TFDS's own.

    TFDS imports the module of every class that a description names, and so runs its code.
    """
    if isinstance(described, list):
        return [name for item in described for name in foreign_classes(item)]
    if not isinstance(described, dict):
        return []
    found = []
    for key, value in described.items():
        if not isinstance(value, str):
            found += foreign_classes(value)
        elif key in _CLASS_KEYS and not value.startswith("tensorflow_datasets."):
            found.append(value)
        elif key == _JSON_KEY:
            found += foreign_classes(json.loads(value))
    return found


def names(described: dict[str, Any]) -> set[str]:
    """The names of the features, as old and new versions of TFDS write them."""
    new = described.get("featuresDict", {}).get("features")
    return set(new or described.get("content", {}))


def readable(directory: pathlib.Path) -> Readable:
    """The folder of a prepared dataset, or one that stands in for it.

    Raises:
      Exception: of any kind; the dataset's description is damaged.
    """
    described = read(directory)
    rates: dict[str, int] = {}
    plain = _plain(described, "", rates)
    if plain == described:
        return Readable(directory, rates, None)
    owner = tempfile.TemporaryDirectory(prefix="dlcore-")
    folder = pathlib.Path(owner.name)
    for path in directory.iterdir():
        if path.name != "features.json":
            (folder / path.name).symlink_to(path.resolve())
    (folder / "features.json").write_text(json.dumps(plain), encoding="utf-8")
    return Readable(folder, rates, owner)


def _plain(described: dict[str, Any], name: str, rates: dict[str, int]) -> dict[str, Any]:
    """A description without audio and video; rates of sound are added to what is known of them."""
    if "featuresDict" in described:
        inner = {
            key: _plain(feature, f"{name}/{key}" if name else key, rates)
            for key, feature in described["featuresDict"]["features"].items()
        }
        return {**described, "featuresDict": {**described["featuresDict"], "features": inner}}
    # Files of sound that are only decoded when they are read stay as they are.
    if (sound := described.get("audio")) and not sound.get("lazyDecode"):
        rates[name] = int(sound.get("sampleRate", 0))
        numbers = {"encoding": "none", **{key: sound[key] for key in ("dtype", "shape")}}
        return {"pythonClassName": _TENSOR, "tensor": numbers}
    if video := described.get("video"):
        length, *frame = video["shape"]["dimensions"]
        image = {
            **{key: video[key] for key in ("dtype", "encodingFormat") if key in video},
            "shape": {"dimensions": frame},
        }
        frames = {"feature": {"pythonClassName": _IMAGE, "image": image}, "length": length}
        return {"pythonClassName": _SEQUENCE, "sequence": frames}
    return described
