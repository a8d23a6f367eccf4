"""Datasets of examples: their splits, their statistics, and what the device does to a batch."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dlcore import parallel
from dlcore.data import crops, curriculum, from_arrays, load
from dlcore.data.features import (
    INPUTS,
    Audio,
    Boxes,
    ClassLabel,
    Image,
    Images,
    Numbers,
    Row,
    Segmentation,
    Series,
    Volume,
)
from dlcore.errors import UsageError

rng = np.random.default_rng(0)
images = rng.integers(0, 256, (100, 6, 5, 3), dtype=np.uint8)
labels = np.arange(100, dtype=np.int32) % 4
rows = rng.normal([3, -5, 100], [2, 0.1, 7], (100, 3)).astype(np.float32)


def dataset(inputs=images, test=None, classes="abcd", **options):
    """Images, or rows of numbers, with a class each, under the key `image`."""
    shape = inputs.shape[1:]
    look = Image(shape) if inputs.ndim == 4 else Row(tuple(map(str, range(shape[0]))))
    own = {"train": {"image": inputs, "label": labels[: len(inputs)] % len(classes)}}
    if test is not None:
        own["test"] = {"image": test, "label": labels[: len(test)]}
    return from_arrays({"image": look, "label": ClassLabel(tuple(classes))}, own, options, "shapes")


def everything(data, split="train", train=False):
    (batch,) = data.evaluation_batches(split, data.num_examples(split))
    return np.asarray(data.transform(batch, jax.random.key(0), train)["image"], np.float64)


def test_missing_splits_are_carved_out_of_train_and_share_no_example():
    data = dataset(validation_fraction=0.3, test_fraction=0.3)
    # The lectures' split: 30 % for the test, then 30 % of the remaining 70 for validation.
    sizes = {split: data.num_examples(split) for split in data.splits}
    assert sizes == {"train": 49, "validation": 21, "test": 30}
    chosen = np.concatenate([split.indices for split in data.splits.values()])
    np.testing.assert_array_equal(np.sort(chosen), np.arange(100))


def test_splits_depend_on_their_seed_alone():
    def validation(seed):
        return dataset(split_seed=seed).splits["validation"].indices.tolist()

    assert validation(0) == validation(0) != validation(1)


def test_a_split_of_its_own_stays_whole():
    data = dataset(test=images[:7], test_fraction=0.5, validation_fraction=0)
    assert {split: data.num_examples(split) for split in data.splits} == {"train": 100, "test": 7}
    batch = next(data.evaluation_batches("test", 7))
    np.testing.assert_array_equal(batch["image"], images[:7])


@pytest.mark.parametrize("inputs", [images, rows])
def test_normalized_training_inputs_have_mean_zero_and_deviation_one(inputs):
    normalized = everything(dataset(inputs))
    but_last = tuple(range(normalized.ndim - 1))
    np.testing.assert_allclose(normalized.mean(but_last), 0, atol=2e-5)
    np.testing.assert_allclose(normalized.std(but_last), 1, rtol=2e-5)


def test_statistics_are_of_the_training_split_alone():
    data = dataset()
    train = images[data.splits["train"].indices] / 255
    np.testing.assert_allclose(data.statistics["image"]["mean"], train.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(
        data.statistics["image"]["standard_deviation"], train.std((0, 1, 2)), rtol=1e-6
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_an_input_that_never_varies_is_centered(value):
    constant = np.concatenate([rows, np.full((100, 1), value, np.float32)], axis=1)
    np.testing.assert_allclose(everything(dataset(constant))[:, 3], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("normalize", "black", "white"),
    [("none", 0, 1), ("symmetric", -1, 1), ("lenet", -0.1, 1.175)],
)
def test_pixels_are_mapped_to_the_published_range_and_padding_is_black(normalize, black, white):
    data = dataset(np.full((100, 2, 2, 1), 255, np.uint8), normalize=normalize, pad=2)
    expected = np.pad(np.full((2, 2), white, np.float64), 2, constant_values=black)
    assert data.facts["image_shape"] == (6, 6, 1)
    np.testing.assert_allclose(everything(data)[0, ..., 0], expected, atol=1e-6)


def test_augmentation_is_for_training_only():
    data = dataset(augment="crop")
    assert np.abs(everything(data, train=True) - everything(data)).max() > 0.1


def test_colors_are_jittered_along_the_components_of_the_training_images():
    data = dataset(augment="pca_color:1", normalize="none")
    change = np.ptp(everything(data, train=True) - everything(data), axis=(1, 2))
    np.testing.assert_allclose(change, 0, atol=1e-6)
    colors = images[data.splits["train"].indices].reshape(-1, 3) / 255
    eigenvalues, eigenvectors = np.linalg.eigh(np.cov(colors.T))
    added = (everything(data, train=True) - everything(data))[:, 0, 0] @ eigenvectors
    # 72 draws: the deviation of each is known to a quarter.
    np.testing.assert_allclose(added.std(0), eigenvalues, rtol=0.25)
    assert "color_components" not in dataset(augment="flip").statistics["image"]


def things(**options):
    """Images with a class for every pixel and with boxes."""
    corners = np.sort(rng.uniform(size=(100, 2, 2, 2)), axis=2).reshape(100, 2, 4)
    features = {
        "image": Image((6, 5, 3)),
        "classes": Segmentation(("a", "b"), (6, 5), ignore=255),
        "boxes": Boxes(("x", "y"), 2),
    }
    arrays = {
        "image": images,
        "classes": images[..., 0] % 2,
        "boxes": corners,
        "boxes_label": np.ones((100, 2), np.int64),
        "boxes_mask": np.arange(200).reshape(100, 2) % 3 > 0,
    }
    return from_arrays(features, {"train": arrays}, options, "things")


@pytest.mark.parametrize("options", [{}, {"pad": 1}, {"pad": 1, "crop_size": 4}])
def test_outside_training_images_classes_and_boxes_are_padded_and_cut_alike(options):
    data = things(normalize="none", **options)
    batch = data.example_batch(20)
    result = data.transform(batch, None, False)
    pad, side = options.get("pad", 0), options.get("crop_size")
    around = ((0, 0), (pad, pad), (pad, pad))
    pixels = np.pad(batch["image"] / 255, (*around, (0, 0)))
    classes = np.pad(batch["classes"].astype(np.int32), around, constant_values=255)
    boxes = batch["boxes"] * (6, 5, 6, 5) + pad
    size = np.array([6, 5, 6, 5]) + 2 * pad
    if side:
        row, column = (size[:2] - side) // 2
        pixels = pixels[:, row : row + side, column : column + side]
        classes = classes[:, row : row + side, column : column + side]
        boxes, size = boxes - [row, column, row, column], side
    np.testing.assert_allclose(result["image"], pixels, atol=1e-6)
    np.testing.assert_array_equal(result["classes"], classes)
    assert result["classes"].dtype == np.int32
    kept = np.asarray(result["boxes_mask"]) > 0
    assert kept.sum() > 5
    assert (kept <= (batch["boxes_mask"] > 0)).all()
    np.testing.assert_allclose(result["boxes"][kept], (boxes / size)[kept].clip(0, 1), atol=1e-5)
    assert data.facts["image_shape"] == result["image"].shape[1:]


@pytest.mark.parametrize("data", [dataset(augment="crop", crop_size=4), things(augment="shift")])
def test_eight_devices_prepare_a_batch_as_one_does(data):
    batch = next(data.train_batches(16, seed=0).start(0))

    def transform(batch):
        return data.transform(batch, jax.random.key(1), train=True)

    mesh = jax.make_mesh((8,), (parallel.AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    share = PartitionSpec(parallel.AXIS)
    sharded = jax.jit(jax.shard_map(transform, mesh=mesh, in_specs=share, out_specs=share))
    jax.tree.map(np.testing.assert_array_equal, sharded(batch), jax.jit(transform)(batch))


def test_a_crop_is_random_in_training_and_in_the_center_otherwise():
    data = dataset(pad=1, crop_size=4, normalize="none")
    assert data.facts["image_shape"] == (4, 4, 3)
    padded = np.pad(images[data.splits["train"].indices] / 255, ((0, 0), (1, 1), (1, 1), (0, 0)))
    np.testing.assert_allclose(everything(data), padded[:, 2:6, 1:5], atol=1e-6)
    cut = everything(data, train=True)
    places = []
    for crop, source in zip(cut, padded, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(source, (4, 4), axis=(0, 1))
        distance = np.abs(np.moveaxis(windows, 2, -1) - crop).max((2, 3, 4))
        assert distance.min() < 1e-6
        places.append(np.unravel_index(distance.argmin(), distance.shape))
    assert len(set(places)) > 10


@pytest.mark.parametrize("count", [5, 10])
def test_a_test_of_several_crops_shows_them_all_beside_the_center(count):
    data = dataset(crop_size=4, test_crops=count)
    (batch,) = data.evaluation_batches("test", 20)
    prepared = data.transform(batch, None, False)
    whole = dataset().transform(batch, None, False)["image"]
    expected = crops.views(whole, 4, count)
    np.testing.assert_allclose(prepared["views"], expected, atol=1e-6)
    np.testing.assert_allclose(prepared["image"], expected[:, 4], atol=1e-6)
    assert "views" not in data.transform(batch, jax.random.key(0), True)


def test_a_curriculum_begins_with_what_is_near_its_own_class():
    data = dataset(curriculum_epochs=4, validation_fraction=0, test=images[:10])
    difficulty = curriculum.difficulty(data.splits["train"], "image", "label", 4)
    batch = data.train_batches(20, seed=0).batch(0)
    easiest = images[np.argsort(difficulty)[:20]]
    np.testing.assert_array_equal(
        np.sort(batch["image"].reshape(20, -1), axis=0), np.sort(easiest.reshape(20, -1), axis=0)
    )
    limited = data.limited(30).train_batches(30, seed=0)
    assert limited.curriculum is None


def test_a_limited_dataset_validates_on_the_very_examples_that_it_trains_on():
    whole = dataset(augment="crop", crop_size=4)
    data = whole.limited(5)
    assert {split: data.num_examples(split) for split in ("train", "validation")} == {
        "train": 5,
        "validation": 5,
    }
    np.testing.assert_array_equal(
        everything(data, "validation"), everything(data, "train", train=True)
    )
    assert whole.num_examples("test") == data.num_examples("test")
    with pytest.raises(UsageError, match="cannot take 101 of the 72 training examples"):
        whole.limited(101)


@pytest.mark.parametrize("batch_size", [3, 200])
def test_an_example_batch_has_the_form_of_a_training_batch(batch_size):
    data = dataset(pad=1)
    batch = data.example_batch(batch_size)
    trained = next(data.train_batches(2, seed=0).start(0))
    assert {key: (value.dtype, value.shape[1:]) for key, value in batch.items()} == {
        key: (value.dtype, value.shape[1:]) for key, value in trained.items()
    }
    assert batch["image"].shape[0] == batch_size
    assert (
        data.transform(batch, jax.random.key(0), False)["image"].shape[1:]
        == data.facts["image_shape"]
    )


def test_a_split_left_without_examples_is_refused():
    with pytest.raises(UsageError, match=r"\(2 in train\) leaves no examples for the test split"):
        dataset(images[:2], test_fraction=0.1, validation_fraction=0)


def test_an_unknown_split_is_refused_with_those_that_there_are():
    with pytest.raises(UsageError, match="no split 'dev': it has train, validation, test"):
        dataset().evaluation_batches("dev", 10)


def test_bad_examples_are_refused_before_any_training():
    with pytest.raises(UsageError, match="split 'test' of dataset 'shapes': example 1 .* NaN"):
        dataset(rows, test=np.array([[1, 2, 3], [4, np.nan, 6]], np.float32))
    with pytest.raises(UsageError, match=r"split 'train' .* example 2 has label 2: .* in 0\.\.1"):
        from_arrays({"label": ClassLabel(("a", "b"))}, {"train": {"label": labels}}, name="shapes")


def test_a_task_gets_what_it_needs_under_its_own_keys_and_nothing_else():
    data = from_arrays(
        {"photo": Image((6, 5, 3)), "kind": ClassLabel(tuple("abcd")), "weight": Numbers(("g",))},
        {"train": {"photo": images, "kind": labels, "weight": rows[:, :1]}},
    )
    assert set(data.example_batch(2)) == {"photo", "kind", "weight", "mask"}
    provided = data.provide({"image": INPUTS, "label": (ClassLabel,)})
    assert provided.features == {"image": Image((6, 5, 3)), "label": ClassLabel(tuple("abcd"))}
    batch = provided.train_batches(8, seed=1).batch(0)
    whole = data.train_batches(8, seed=1).batch(0)
    assert set(batch) == {"image", "label", "mask"}
    np.testing.assert_array_equal(batch["image"], whole["photo"])
    np.testing.assert_array_equal(batch["label"], whole["kind"])
    assert set(provided.statistics) == {"image"}
    assert provided.facts["num_classes"] == 4
    assert {key: len(split) for key, split in provided.splits.items()} == {
        key: len(split) for key, split in data.splits.items()
    }


def test_options_have_to_fit_what_a_task_needs_and_not_what_else_there_is():
    data = things(augment="elastic:5")
    assert set(data.provide({"image": INPUTS}).example_batch(1)) == {"image", "mask"}
    with pytest.raises(UsageError, match="augment has 'elastic', which boxes cannot follow"):
        data.provide({"image": INPUTS, "boxes": (Boxes,)})
    with pytest.raises(UsageError, match="pad is 1, for images: dataset 'things' has 'boxes'"):
        things(pad=1).provide({"boxes": (Boxes,)})


def test_sound_and_series_come_in_units_of_one_with_nothing_behind_their_end():
    sound = rng.integers(-30000, 30000, (100, 7), dtype=np.int16)
    steps, lengths = rng.normal(5, 2, (100, 6, 2)), rng.integers(1, 7, 100)
    features = {
        "audio": Audio((7,), 8000),
        "series": Series((6, 2), padded=True),
        "volume": Volume((2, 2, 2, 1)),
        "video": Volume((2, 2, 2, 1), 255),
        "several": Images((2, 6, 5, 3)),
    }
    arrays = {
        "audio": sound,
        "series": steps,
        "series_length": lengths,
        "volume": images[:, :2, :2, :2, None] % 2,
        "video": images[:, :2, :2, :2, None],
        "several": np.stack([images, 255 - images], axis=1),
    }
    data = from_arrays(features, {"train": arrays}, {"normalize": "none"})
    batch = data.example_batch(9)
    plain = data.transform(batch, None, True)
    np.testing.assert_allclose(plain["audio"], batch["audio"] / 32768, rtol=1e-6)
    np.testing.assert_array_equal(plain["volume"], batch["volume"])
    np.testing.assert_allclose(plain["video"], batch["video"] / 255, rtol=1e-6)
    np.testing.assert_allclose(plain["several"], batch["several"] / 255, rtol=1e-6)
    assert all(plain[key].dtype == np.float32 for key in features)
    data = from_arrays(features, {"train": arrays})
    batch = data.example_batch(72)
    normalized = data.transform(batch, None, True)
    real = np.arange(6) < batch["series_length"][:, None]
    series = np.asarray(normalized["series"])
    np.testing.assert_allclose(series[real].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(series[real].std(0), 1, rtol=1e-5)
    assert not series[~real].any()
    for key in ("audio", "volume", "video", "several"):
        assert abs(np.asarray(normalized[key]).mean()) < 1e-5


def test_arrays_are_resized_images_bilinearly_and_classes_to_the_nearest():
    data = things(resize=3, normalize="none")
    assert data.features["image"] == Image((3, 3, 3))
    assert data.features["classes"].shape == (3, 3)
    batch = data.example_batch(4)
    assert batch["image"].shape == (4, 3, 3, 3)
    assert set(np.unique(batch["classes"])) <= {0, 1}


def test_a_row_of_numbers_may_be_a_series():
    data = dataset(rows, augment="time_shift:0.3", normalize="none")
    (batch,) = data.evaluation_batches("train", 72)
    shifted = np.asarray(data.transform(batch, jax.random.key(0), True)["image"])
    first = batch["image"][:, [0, 0, 1]]
    later = batch["image"][:, [1, 2, 2]]
    moved = [(shifted == values).all(1) for values in (batch["image"], first, later)]
    assert np.logical_or.reduce(moved).all()
    assert all(0 < one.sum() < 72 for one in moved)


def test_few_examples_of_each_class_are_trained_on_and_all_others_stay_where_they_were():
    whole, few = dataset(), dataset(examples_per_class=3)
    assert np.bincount(few.splits["train"].fetch(np.arange(12))["label"]).tolist() == [3, 3, 3, 3]
    assert set(few.splits["train"].indices) < set(whole.splits["train"].indices)
    for split in ("validation", "test"):
        np.testing.assert_array_equal(few.splits[split].indices, whole.splits[split].indices)
    train = images[few.splits["train"].indices] / 255
    np.testing.assert_allclose(few.statistics["image"]["mean"], train.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(few.facts["frequencies"], [3, 3, 3, 3])


def test_a_split_seed_draws_the_few_examples_anew():
    def chosen(seed):
        few = dataset(test=images[:9], validation_fraction=0, examples_per_class=3, split_seed=seed)
        return few.splits["train"].indices.tolist()

    assert chosen(0) == chosen(0) != chosen(1)


def test_few_examples_are_counted_by_the_only_class_or_by_the_label():
    features = {"image": Row(("x",)), "a": ClassLabel(("u", "v")), "b": ClassLabel(("u", "v"))}
    arrays = {"train": {"image": rows[:, :1], "a": labels % 2, "b": labels // 2}}
    with pytest.raises(UsageError, match="examples_per_class is 2: it needs one class, or one"):
        from_arrays(features, arrays, {"examples_per_class": 2})
    chosen = from_arrays(features, arrays, {"examples_per_class": 2, "features": "label:b"})
    train = chosen.splits["train"].fetch(np.arange(4))
    assert sorted(train["label"]) == [0, 0, 1, 1]


@pytest.mark.parametrize("options", [{}, {"crop_size": 4, "test_crops": 5}])
def test_gray_images_get_three_equal_channels_and_color_ones_stay(options):
    gray, color = images[..., :1], dataset(color=True, **options)
    batch = next(dataset(gray, **options).evaluation_batches("test", 20))
    alone = dataset(gray, **options).transform(batch, None, False)
    data = dataset(gray, color=True, **options)
    assert data.facts["image_channels"] == 3
    colored = data.transform(batch, None, False)
    for name in ("image", "views") if options else ("image",):
        assert colored[name].shape == (*alone[name].shape[:-1], 3)
        np.testing.assert_array_equal(colored[name], np.repeat(alone[name], 3, axis=-1))
    assert color.facts["image_shape"] == dataset(**options).facts["image_shape"]
    np.testing.assert_array_equal(everything(color), everything(dataset(**options)))


def test_only_one_channel_becomes_three():
    with pytest.raises(UsageError, match="color is True: the images of dataset 'shapes' have 2 ch"):
        dataset(images[..., :2], color=True)


@pytest.mark.parametrize(
    "option",
    [{"pad": 2}, {"augment": "time_mask,flip"}, {"crop_size": 2}, {"color": True}],
)
def test_what_only_images_have_is_refused_for_rows_of_numbers(option):
    with pytest.raises(UsageError, match=f"{next(iter(option))} .*for images"):
        dataset(rows, **option)


def test_a_move_by_as_many_pixels_as_the_images_have_is_refused():
    for move in ("crop", "shift"):
        dataset(augment=f"{move}:4")
        dataset(augment=f"{move}:6", pad=1)
        with pytest.raises(
            UsageError, match=f"augment has {move}:5, .* 'shapes' have 6 x 5 pixels"
        ):
            dataset(augment=f"{move}:5")


def test_a_crop_larger_than_the_images_is_refused():
    assert dataset(pad=1, crop_size=7).facts["image_shape"] == (7, 7, 3)
    with pytest.raises(UsageError, match="crop_size is 8: .* 'shapes' have 6 x 5 pixels and a pad"):
        dataset(pad=1, crop_size=8)


def test_squares_are_not_cut_out_of_images_whose_segmentation_would_stay():
    features = {"image": Image((6, 5, 3)), "classes": Segmentation(("a", "b"), (6, 5))}
    arrays = {"train": {"image": images, "classes": images[..., 0] % 2}}
    data = from_arrays(features, arrays, {"resize": 4, "cut_square": True}, "scenes")
    assert data.provide({"image": INPUTS}).facts["image_shape"] == (4, 4, 3)
    with pytest.raises(UsageError, match="cut_square is True: classes of dataset 'scenes' cannot"):
        data.provide({"image": INPUTS, "classes": (Segmentation,)})


def test_a_curriculum_without_two_classes_is_refused():
    with pytest.raises(
        UsageError, match="curriculum_epochs is 1: it needs .* classes, at least two"
    ):
        dataset(classes="a", curriculum_epochs=1)


def test_a_stratified_choice_needs_one_class():
    with pytest.raises(
        UsageError, match="stratified is True: it needs one class, .*'diabetes' has"
    ):
        load("diabetes", options={"stratified": True})


def test_a_stratified_choice_may_be_by_a_class_under_another_name():
    features = {"kind": ClassLabel(("a", "b")), "other": ClassLabel(("c", "d"))}
    arrays = {"kind": np.repeat([0, 1], [30, 10]), "other": np.arange(40) % 2}
    options = {"stratified": True, "features": "label:kind", "validation_fraction": 0}
    for seed in range(5):
        opened = from_arrays(features, {"train": arrays}, {**options, "split_seed": seed})
        test = opened.splits["test"].fetch(np.arange(8))
        assert np.bincount(test["label"]).tolist() == [6, 2]


def test_a_sample_is_of_all_classes_alike_and_of_its_seed():
    # In the order of their classes, as a folder's examples are: 40 of a, 25 of b, 3 of c, 12 of d.
    sizes = [40, 25, 3, 12]
    own = {"image": images[:80], "label": np.repeat(np.arange(4, dtype=np.int32), sizes)}
    features = {"image": Image(images.shape[1:]), "label": ClassLabel(tuple("abcd"))}
    options = {"validation_fraction": 0, "test_fraction": 0.0125}
    data = from_arrays(features, {"train": own, "test": own}, options)

    def chosen(count, seed):
        few = data.sampled(count, seed)
        assert few.splits["train"] is few.splits["validation"]
        return few.splits["train"].fetch(np.arange(count))["label"].tolist(), (
            few.splits["train"].indices.tolist()
        )

    for count, expected in ((8, [2, 2, 2, 2]), (20, [6, 6, 3, 5]), (80, sizes)):
        found = np.bincount(chosen(count, seed=0)[0], minlength=4)
        if count != 20:
            np.testing.assert_array_equal(found, expected)
        else:
            # 17 over three classes: one of them has one less.
            assert found[2] == 3
            assert sorted(found) == [3, 5, 6, 6]
    assert sorted(chosen(2, seed=0)[0]) == sorted(set(chosen(2, seed=0)[0]))
    assert chosen(8, seed=1) == chosen(8, seed=1)
    assert chosen(8, seed=1) != chosen(8, seed=2)
    with pytest.raises(UsageError, match="cannot take 81 of the 80"):
        data.sampled(81, 0)


def test_the_same_picture_under_two_labels_cannot_be_sampled():
    twice = np.concatenate([images[:10], images[3:4]])
    features = {"image": Image(images.shape[1:]), "label": ClassLabel(tuple("abcd"))}

    def of(last):
        own = {"image": twice, "label": np.array([*labels[:10], last], np.int32)}
        options = {"validation_fraction": 0}
        return from_arrays(features, {"train": own, "test": own}, options, "drawn")

    with pytest.raises(UsageError, match="examples 3 and 10 of .*'drawn' have the same image"):
        of(last=(labels[3] + 1) % 4).sampled(11, 0)
    assert of(last=labels[3]).sampled(11, 0).num_examples("train") == 11
