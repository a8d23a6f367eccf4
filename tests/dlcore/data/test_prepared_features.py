"""Every feature of TFDS as one of ours, and what is read of it."""

import numpy as np
import pytest

from dlcore.data import features as kinds
from dlcore.data import load, sources
from dlcore.errors import UsageError

HALVES = {"validation_fraction": 0, "test_fraction": 0.5}
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def tfds():
    """TFDS's features; importing them takes a second."""
    from tensorflow_datasets import features

    return features


def both(data, *keys):
    """What two examples hold under the keys that a task needs, in the order they were written."""
    needs = {key: (type(data.features[key]),) for key in keys}
    provided = data.provide(needs)
    splits = [provided.splits[split] for split in ("train", "test")]
    order = np.argsort(np.concatenate([split.indices for split in splits]))
    parts = [split.fetch(np.arange(len(split))) for split in splits]
    return {key: np.concatenate([part[key] for part in parts])[order] for key in parts[0]}


def opened(write_features, features, first, second, options=None, described=None, known=None):
    """A dataset of two examples."""
    data_dir = write_features(features, {"train": [first, second]}, described)
    return load("things", data_dir, {**HALVES, **(options or {})}, known)


def test_numbers_are_told_by_their_axes(write_features, tfds):
    described = {
        "age": tfds.Scalar(np.float32),
        "count": tfds.Scalar(np.int64),
        "row": tfds.Tensor(shape=(3,), dtype=np.float64),
        "flags": tfds.Tensor(shape=(2,), dtype=np.bool_),
        "steps": tfds.Tensor(shape=(4, 2), dtype=np.float32),
        "grid": tfds.Tensor(shape=(2, 5, 6), dtype=np.uint8),
        "image": tfds.Tensor(shape=(4, 5, 3), dtype=np.float32),
        "images": tfds.Tensor(shape=(2, 4, 5, 3), dtype=np.uint8),
        "outer": tfds.FeaturesDict({"inner": tfds.Scalar(np.float32)}),
        "mask": tfds.Scalar(np.float32),
    }
    values = [
        {
            "age": number + 0.5,
            "count": 7 * number,
            "row": rng.normal(size=3),
            "flags": np.array([True, number == 1]),
            "steps": rng.normal(size=(4, 2)).astype(np.float32),
            "grid": rng.integers(0, 256, (2, 5, 6), dtype=np.uint8),
            "image": rng.normal(size=(4, 5, 3)).astype(np.float32),
            "images": rng.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8),
            "outer": {"inner": -float(number)},
            "mask": 3.0,
        }
        for number in range(2)
    ]
    data = opened(write_features, described, *values)
    assert data.features == {
        "age": kinds.Numbers(("age",)),
        "count": kinds.Numbers(("count",)),
        "row": kinds.Row(("0", "1", "2")),
        "flags": kinds.Tags(("0", "1")),
        "steps": kinds.Series((4, 2)),
        "grid": kinds.Volume((2, 5, 6, 1)),
        "image": kinds.Image((4, 5, 3)),
        "images": kinds.Images((2, 4, 5, 3)),
        "outer/inner": kinds.Numbers(("outer/inner",)),
        "example_mask": kinds.Numbers(("mask",)),
    }
    # The order, too, does not depend on TFDS.
    assert list(data.features) == sorted(data.features, key=lambda name: name.split("_")[-1])
    found = both(data, *data.features)
    for key in ("age", "count", "row", "flags", "steps", "grid", "image", "images"):
        expected = np.stack([value[key] for value in values]).astype(found[key].dtype)
        np.testing.assert_array_equal(found[key], expected.reshape(found[key].shape))
    assert found["outer/inner"].tolist() == [[0], [-1]]
    assert found["example_mask"].tolist() == [[3], [3]]
    assert found["images"].dtype == found["grid"].dtype == np.uint8


def test_whole_numbers_that_float32_cannot_hold_are_refused_only_where_they_are_needed(
    write_features, tfds
):
    described = {"id": tfds.Scalar(np.int64), "label": tfds.ClassLabel(num_classes=2)}
    data = opened(
        write_features, described, {"id": 2**40, "label": 0}, {"id": 2**40 + 1, "label": 1}
    )
    assert both(data, "label")["label"].tolist() == [0, 1]
    with pytest.raises(UsageError, match="example 0 has id 1099511627776: float32 holds"):
        data.provide({"id": (kinds.Numbers,)})


def test_texts_are_strings_on_the_host_and_in_a_batch_only_where_they_are_needed(
    write_features, tfds, tmp_path
):
    described = {"text": tfds.Text(), "label": tfds.ClassLabel(num_classes=2)}
    values = {"text": "Größe", "label": 0}, {"text": "", "label": 1}
    data = opened(write_features, described, *values)
    assert set(data.example_batch(2)) == {"label", "mask"}
    needs = {"sentence": (kinds.Text,), "label": (kinds.ClassLabel,)}
    provided = data.provide(needs)
    assert both(data, "text")["text"].tolist() == ["Größe", ""]
    (batch,) = provided.evaluation_batches("test", 3)
    assert batch["sentence"].dtype == object
    assert {*batch["sentence"]} <= {"Größe", ""}
    assert batch["mask"].tolist() == [1, 0, 0]


def test_texts_stream_through_the_reading_threads(write_features, tfds, monkeypatch):
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", -1)
    examples = [{"text": str(number)} for number in range(12)]
    described = {"text": tfds.Text(), "n": tfds.Scalar(np.int64)}
    examples = [{"text": str(number), "n": number} for number in range(12)]
    data = load("things", write_features(described, {"train": examples}), HALVES)
    provided = data.provide({"text": (kinds.Text,), "n": (kinds.Numbers,)})
    assert provided.splits["train"].source.streams
    stream = provided.train_batches(2, seed=0).start(0)
    for _ in range(5):
        batch = next(stream)
        assert batch["text"].tolist() == [str(int(number)) for number in batch["n"][:, 0]]


def test_boxes_are_padded_and_masked(write_features, tfds):
    box = tfds.FeaturesDict(
        {"bbox": tfds.BBoxFeature(), "label": tfds.ClassLabel(names=["cat", "dog"])}
    )
    described = {"objects": tfds.Sequence(box), "alone": tfds.Sequence(tfds.BBoxFeature())}
    first, second = tfds.BBox(0.0, 0.25, 0.5, 1.0), tfds.BBox(0.25, 0.0, 1.0, 0.5)
    values = (
        {"objects": [{"bbox": first, "label": 1}, {"bbox": second, "label": 0}], "alone": []},
        {"objects": [], "alone": [second]},
    )
    data = opened(write_features, described, *values, {"max_boxes": 3})
    assert data.features == {
        "alone": kinds.Boxes(("object",), 3),
        "objects": kinds.Boxes(("cat", "dog"), 3),
    }
    found = both(data, "objects", "alone")
    np.testing.assert_array_equal(
        found["objects"][0], [[0, 0.25, 0.5, 1], [0.25, 0, 1, 0.5], [0] * 4]
    )
    assert found["objects_label"].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert found["objects_mask"].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert found["alone_mask"].tolist() == [[0, 0, 0], [1, 0, 0]]
    batch = data.provide({"boxes": (kinds.Boxes,), "alone": (kinds.Boxes,)}).example_batch(1)
    assert {"boxes", "boxes_label", "boxes_mask"} < set(batch)


def test_more_boxes_than_there_is_room_for_are_refused(write_features, tfds):
    described = {"objects": tfds.Sequence(tfds.BBoxFeature())}
    values = {"objects": [tfds.BBox(0.0, 0.0, 1.0, 1.0)] * 2}, {"objects": []}
    data = opened(write_features, described, *values, {"max_boxes": 1})
    with pytest.raises(UsageError, match="an example has 2 boxes, max_boxes is 1: set it to 2 or"):
        data.provide({"boxes": (kinds.Boxes,)})


def test_a_class_for_every_pixel_is_resized_to_its_nearest_neighbor(write_features, tfds, encoded):
    classes = [rng.integers(0, 3, (4, 6), dtype=np.uint8) for _ in range(2)]
    described = {
        "labeled": tfds.LabeledImage(labels=["a", "b", "c"], shape=(4, 6, 1)),
        "segmentation_mask": tfds.Image(shape=(4, 6, 1)),
    }
    values = [{key: encoded(one) for key in described} for one in classes]
    data = opened(write_features, described, *values)
    assert data.features == {
        "labeled": kinds.Segmentation(("a", "b", "c"), (4, 6)),
        "segmentation_mask": kinds.Segmentation((), (4, 6)),
    }
    found = both(data, *described)
    for key in described:
        np.testing.assert_array_equal(found[key], classes)


def test_resizing_keeps_pictures_and_classes_together(write_features, tfds, encoded):
    classes = np.repeat(np.repeat(np.array([[0, 1], [2, 1]], np.uint8), 4, 0), 6, 1)
    described = {
        "image": tfds.Image(shape=(None, None, 1)),
        "segmentation_mask": tfds.Image(shape=(None, None, 1)),
    }
    values = [
        {"image": encoded(one * 100), "segmentation_mask": encoded(one)}
        for one in (classes, classes[::2, ::3])
    ]
    options = {**HALVES, "resize": 4}
    data_dir = write_features(described, {"train": values})
    known = {"segmentation_mask": kinds.Segmentation(("a", "b"), (None, None), ignore=2)}
    data = load("things", data_dir, options, known)
    assert data.features["segmentation_mask"] == kinds.Segmentation(("a", "b"), (4, 4), ignore=2)
    found = both(data, "image", "segmentation_mask")
    expected = np.repeat(np.repeat(np.array([[0, 1], [2, 1]]), 2, 0), 2, 1)
    np.testing.assert_array_equal(found["segmentation_mask"], [expected] * 2)
    np.testing.assert_array_equal(found["image"].round(-2)[..., 0], [expected * 100] * 2)


def test_what_is_better_known_is_believed_and_checked(write_features, tfds):
    described = {"person": tfds.Scalar(np.int64)}
    data_dir = write_features(described, {"train": [{"person": 0}, {"person": 2}]})
    three = load("things", data_dir, HALVES, {"person": kinds.ClassLabel(("a", "b", "c"))})
    assert both(three, "person")["person"].tolist() == [0, 2]
    assert three.facts["num_classes"] == 3
    two = load("things", data_dir, HALVES, {"person": kinds.ClassLabel(("a", "b"))})
    with pytest.raises(UsageError, match="example 1 has person 2: it must be in 0..1"):
        two.provide({"label": (kinds.ClassLabel,)})
    with pytest.raises(UsageError, match="has no feature 'people': it has person"):
        load("things", data_dir, HALVES, {"people": kinds.Text()})


AUDIO = {
    "pythonClassName": "tensorflow_datasets.core.features.audio_feature.Audio",
    "audio": {
        "dtype": "int64",
        "encoding": "NONE",
        "sampleRate": "8000",
        "shape": {"dimensions": ["-1"]},
    },
}


def test_sound_is_cut_and_padded_and_says_how_much_of_it_is_real(write_features, tfds):
    described = {"speech": tfds.Tensor(shape=(None,), dtype=np.int64)}
    values = {"speech": np.array([1, -2, 3])}, {"speech": np.array([5, 6, 7, 8, 9, 32767])}
    data_dir = write_features(described, {"train": values}, {"speech": AUDIO})
    uneven = load("things", data_dir, HALVES)
    assert uneven.features == {"speech": kinds.Audio((None,), 8000)}
    with pytest.raises(UsageError, match="'things', 'speech': examples differ in length: set le"):
        uneven.provide({"image": kinds.INPUTS})
    data = load("things", data_dir, {**HALVES, "length": 5})
    assert data.features == {"speech": kinds.Audio((5,), 8000, padded=True)}
    assert (data.facts["audio_rate"], data.facts["input_length"]) == (8000, 5)
    found = both(data, "speech")
    assert found["speech"].tolist() == [[1, -2, 3, 0, 0], [5, 6, 7, 8, 9]]
    assert found["speech"].dtype == np.int16
    assert found["speech_length"].tolist() == [3, 5]


def test_sound_that_only_tensorflow_decodes_is_refused_in_one_line(write_features, tfds):
    files = {**AUDIO, "audio": {**AUDIO["audio"], "lazyDecode": True}}
    described = {"speech": tfds.Tensor(shape=(None,), dtype=np.int64)}
    values = [{"speech": np.array([1])}] * 2
    with pytest.raises(UsageError, match="a feature that TFDS cannot read without tensorflow"):
        opened(write_features, described, *values, described={"speech": files})


def test_sound_of_more_than_16_bits_is_refused(write_features, tfds):
    described = {"speech": tfds.Tensor(shape=(2,), dtype=np.int64)}
    audio = {**AUDIO, "audio": {**AUDIO["audio"], "shape": {"dimensions": ["2"]}}}
    values = {"speech": np.array([1, -2])}, {"speech": np.array([5, 2**15])}
    data = opened(write_features, described, *values, described={"speech": audio})
    with pytest.raises(UsageError, match="its sound has more than 16 bits"):
        data.provide({"image": kinds.INPUTS})


VIDEO = {
    "pythonClassName": "tensorflow_datasets.core.features.video_feature.Video",
    "video": {
        "dtype": "uint8",
        "encodingFormat": "png",
        "shape": {"dimensions": ["-1", "4", "4", "3"]},
    },
}


@pytest.mark.parametrize("described", [None, {"clip": VIDEO}])
def test_a_video_is_a_volume_of_frames(write_features, tfds, encoded, described):
    frames = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    features = {"clip": tfds.Sequence(tfds.Image(shape=(4, 4, 3)))}
    values = [{"clip": [encoded(frame) for frame in frames[:count]]} for count in (3, 1)]
    data = opened(write_features, features, *values, {"length": 2}, described)
    assert data.features == {"clip": kinds.Volume((2, 4, 4, 3), 255, padded=True)}
    found = both(data, "clip")
    np.testing.assert_array_equal(found["clip"][0], frames[:2])
    np.testing.assert_array_equal(found["clip"][1], [frames[0], np.zeros((4, 4, 3))])
    assert found["clip_length"].tolist() == [2, 1]


def test_what_no_kind_describes_is_given_as_it_is(write_features, tfds):
    described = {"words": tfds.Sequence(tfds.Text()), "label": tfds.ClassLabel(num_classes=2)}
    values = {"words": ["a", "b"], "label": 0}, {"words": [], "label": 1}
    data = opened(write_features, described, *values)
    assert data.features["words"] == kinds.Raw()
    assert set(data.example_batch(1)) == {"label", "mask"}
    found = both(data, "words")["words"]
    assert [list(words) for words in found] == [[b"a", b"b"], []]


def test_a_feature_may_be_used_under_another_name(write_features, tfds, tmp_path):
    described = {name: tfds.ClassLabel(num_classes=2) for name in ("species", "island")}
    values = {"species": 0, "island": 1}, {"species": 1, "island": 0}
    data = opened(write_features, described, *values)
    with pytest.raises(UsageError, match='set features, as in features="label:island"'):
        data.provide({"label": (kinds.ClassLabel,)})
    named = load("things", tmp_path / "data", {**HALVES, "features": "label:species"})
    assert set(named.features) == {"label", "island"}
    assert both(named, "label")["label"].tolist() == [0, 1]
    with pytest.raises(
        UsageError, match="features has 'kind': dataset 'things' has 'island' .a cl"
    ):
        load("things", tmp_path / "data", {**HALVES, "features": "label:kind"})


def test_every_folder_of_real_data_opens_or_says_in_one_line_why_not(data_dir, monkeypatch):
    """The first example of each feature, alone; what needs an option says which."""
    # Whatever streams is only read where it is asked for.
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", -1)
    refused = {}
    for directory in sorted(data_dir.iterdir()):
        try:
            data = load(directory.name, data_dir, {"validation_fraction": 0})
        except UsageError as error:
            refused[directory.name] = str(error)
            continue
        for key, feature in data.features.items():
            try:
                batch = data.provide({key: (type(feature),)}).example_batch(1)
                assert len(batch[key]) == len(batch["mask"]) == 1
            except UsageError as error:
                refused[f"{directory.name}/{key}"] = str(error)
    for message in refused.values():
        assert "\n" not in message
        assert any(f"set {option}" in message for option in ("resize", "length", "splits"))
    assert len(refused) < 20


@pytest.mark.parametrize(
    ("name", "options", "shapes"),
    [
        ("fsdd", {"length": 4000}, {"audio": (4000,), "label": ()}),
        ("bccd", {"resize": 64}, {"image": (64, 64, 3), "objects": (100, 4)}),
        ("camvid_240x180", {}, {"image": (180, 240, 3), "segmentation_mask": (180, 240)}),
        ("modelnet10_voxels32", {}, {"voxels": (32, 32, 32, 1), "label": ()}),
        ("natural_clips", {"resize": 16, "length": 4}, {"video": (4, 16, 16, 1)}),
        ("bandai_mocap1", {"length": 20}, {"positions": (20, 21, 3), "style": ()}),
        ("omniglot_one_shot", {"splits": "train:test"}, {"class_images": (20, 105, 105, 3)}),
        ("ag_news_7600", {"splits": "train:test"}, {"text": (), "label": ()}),
        ("multi30k_en_de", {}, {"en": (), "de": ()}),
    ],
)
def test_real_data_of_many_kinds_comes_in_batches(data_dir, monkeypatch, name, options, shapes):
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", -1)
    data = load(name, data_dir, {"validation_fraction": 0.25, **options})
    provided = data.provide({key: (type(data.features[key]),) for key in shapes})
    batch = provided.train_batches(2, seed=0).batch(0)
    assert {key: batch[key].shape[1:] for key in shapes} == shapes
