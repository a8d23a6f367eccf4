"""Writers of datasets, so that reading them can be tested without TensorFlow or a download."""

import io
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from dlcore.data import registration

WriteDataset = Callable[..., pathlib.Path]
WriteImage = Callable[[str, np.ndarray], pathlib.Path]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Decoded images are cached for the session, not in the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def register() -> Iterator[Callable[..., None]]:
    """`data.register`, for the time of one test."""
    added = []

    def register(name: str, *arguments: Any) -> None:
        registration.register(name, *arguments)
        added.append(name)

    yield register
    for name in added:
        del registration._datasets._things[name]


@pytest.fixture
def write_dataset(tmp_path: pathlib.Path) -> WriteDataset:
    """Writes a dataset as TFDS would prepare it; returns the data directory.

    Takes its name, the shape of its images and, for each split, images and labels: uint8 images are
    stored as PNG, floats as they are.
    """

    def write(
        splits: Mapping[str, tuple[Sequence[np.ndarray], Sequence[int]]],
        shape: Sequence[int | None],
        name: str = "shapes",
        num_classes: int = 3,
        version: str = "1.0.0",
    ) -> pathlib.Path:
        directory = tmp_path / "data" / name / version
        directory.mkdir(parents=True)
        first = next(images[0] for images, _ in splits.values() if len(images))
        for split, (images, labels) in splits.items():
            path = directory / f"{name}-{split}.array_record-00000-of-00001"
            _write_records(path, images, labels)
        features = _features(shape, first.dtype, num_classes)
        (directory / "features.json").write_text(json.dumps(features))
        counts = {split: len(images) for split, (images, _) in splits.items()}
        (directory / "dataset_info.json").write_text(json.dumps(_info(name, version, counts)))
        return tmp_path / "data"

    return write


@pytest.fixture
def write_image(tmp_path: pathlib.Path) -> WriteImage:
    """Writes pixels `[height, width]` or `[height, width, 3]` below a folder, and returns that."""

    def write(path: str, pixels: np.ndarray) -> pathlib.Path:
        from PIL import Image

        file = tmp_path / "own" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels, np.uint8)).save(file)
        return tmp_path / "own"

    return write


@pytest.fixture
def write_features(tmp_path: pathlib.Path) -> WriteDataset:
    """Writes a dataset of any features of TFDS; returns the data directory.

    Takes the features by name, for each split its examples as TFDS encodes them, and what is
    changed in the description of some features after that.
    """

    def write(
        features: Mapping[str, Any],
        splits: Mapping[str, Sequence[Mapping[str, Any]]],
        described: Mapping[str, Any] | None = None,
        name: str = "things",
    ) -> pathlib.Path:
        import tensorflow_datasets as tfds
        from array_record.python import array_record_module

        directory = tmp_path / "data" / name / "1.0.0"
        directory.mkdir(parents=True)
        whole = tfds.features.FeaturesDict(dict(features))
        for split, examples in splits.items():
            path = directory / f"{name}-{split}.array_record-00000-of-00001"
            writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
            for example in examples:
                writer.write(whole.serialize_example(dict(example)))
            writer.close()
        whole.save_config(directory)
        config = json.loads((directory / "features.json").read_text())
        config["featuresDict"]["features"] |= described or {}
        (directory / "features.json").write_text(json.dumps(config))
        counts = {split: len(examples) for split, examples in splits.items()}
        (directory / "dataset_info.json").write_text(json.dumps(_info(name, "1.0.0", counts)))
        return tmp_path / "data"

    return write


@pytest.fixture
def encoded() -> Callable[[np.ndarray], io.BytesIO]:
    """A PNG file of pixels `[height, width]` or `[height, width, channels]`."""

    def encode(pixels: np.ndarray) -> io.BytesIO:
        return io.BytesIO(_png(pixels if pixels.ndim == 3 else pixels[..., None]))

    return encode


def _write_records(path: pathlib.Path, images: Sequence[np.ndarray], labels: Sequence[int]) -> None:
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for image, label in zip(images, labels, strict=True):
        example = tf_example_pb2.Example()
        feature = example.features.feature
        if image.dtype == np.uint8:
            feature["image"].bytes_list.value.append(_png(image))
        else:
            feature["image"].float_list.value.extend(image.ravel().tolist())
        feature["label"].int64_list.value.append(int(label))
        writer.write(example.SerializeToString())
    writer.close()


def _png(image: np.ndarray) -> bytes:
    """An image `[height, width, channels]` as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


def _features(shape: Sequence[int | None], dtype: np.dtype, num_classes: int) -> dict[str, Any]:
    package = "tensorflow_datasets.core.features"
    dimensions = {"dimensions": ["-1" if size is None else str(size) for size in shape]}
    if dtype == np.uint8:
        image = {
            "pythonClassName": f"{package}.image_feature.Image",
            "image": {"dtype": "uint8", "shape": dimensions},
        }
    else:
        image = {
            "pythonClassName": f"{package}.tensor_feature.Tensor",
            "tensor": {"dtype": "float32", "encoding": "none", "shape": dimensions},
        }
    label = {
        "pythonClassName": f"{package}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(num_classes)},
    }
    return {
        "pythonClassName": f"{package}.features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": image, "label": label}},
    }


def _info(name: str, version: str, counts: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "moduleName": "tests",
        "fileFormat": "array_record",
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": "1",
                "shardLengths": [str(count)],
            }
            for split, count in counts.items()
        ],
    }
