"""What is measured of a training split, against NumPy in float64."""

import tracemalloc

import numpy as np
import pytest

from dlcore.data import curriculum, sources, statistics
from dlcore.data.features import Audio, ClassLabel, Image, Row, Series
from dlcore.data.sources import Arrays, Split

rng = np.random.default_rng(0)
MIXTURE = np.array([[60, 20, 0], [0, 40, 10], [0, 0, 20]])
COLORS = np.clip(rng.normal(size=(300, 4, 5, 3)) @ MIXTURE + 120, 0, 255).astype(np.uint8)


class Streamed(Arrays):
    streams = True


def split_of(images, kind=Arrays):
    source = kind({"image": Image(images.shape[1:])}, {"image": images})
    return Split(source, np.arange(len(images)), {"image": "image"})


def measured(split):
    return statistics.mean_and_deviation(split, "image", split.source.features["image"])


def components_of(split):
    return statistics.color_components(split, "image", split.source.features["image"])


@pytest.mark.parametrize("images", [COLORS, (COLORS / 255).astype(np.float32)])
def test_color_components_are_the_covariances_eigenvectors_times_eigenvalues(images):
    components = components_of(split_of(images)).astype(np.float64)
    covariance = np.cov(COLORS.reshape(-1, 3).T / 255, ddof=0)
    eigenvalues = np.sort(np.linalg.eigvalsh(covariance))[::-1]
    np.testing.assert_allclose(np.linalg.norm(components, axis=0), eigenvalues, rtol=1e-5)
    directions = components / eigenvalues
    np.testing.assert_allclose(covariance @ directions, components, atol=1e-6)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-5)


def test_a_gray_image_has_its_variance_as_the_only_component():
    gray = COLORS[..., :1]
    components = components_of(split_of(gray))
    np.testing.assert_allclose(np.abs(components), [[np.var(gray / 255)]], rtol=1e-5)


def test_a_dataset_that_streams_is_measured_on_examples_spread_over_all(monkeypatch):
    monkeypatch.setattr(statistics, "_STREAMED_EXAMPLES", 100)
    found = measured(split_of(COLORS, Streamed))
    some = COLORS[::3] / 255
    np.testing.assert_allclose(found["mean"], some.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found["standard_deviation"], some.std((0, 1, 2)), rtol=1e-6)


def test_a_series_is_measured_channel_by_channel_and_sound_as_a_whole():
    series = rng.normal([1, -2], [3, 0.5], (50, 7, 2))
    sound = rng.integers(-20000, 20000, (50, 9), dtype=np.int16)
    features = {"series": Series((7, 2)), "sound": Audio((9,), 8000)}
    source = Arrays(features, {"series": series, "sound": sound})
    split = Split(source, np.arange(50), {key: key for key in features})
    found = statistics.measure(split, features, with_colors=True)
    np.testing.assert_allclose(found["series"]["mean"], series.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found["series"]["standard_deviation"], series.std((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found["sound"]["mean"], [(sound / 32768).mean()], rtol=1e-5)
    np.testing.assert_allclose(
        found["sound"]["standard_deviation"], [(sound / 32768).std()], rtol=1e-5
    )


def test_padding_is_not_measured():
    lengths = np.array([2, 5, 3])
    real = np.arange(5) < lengths[:, None]
    series = np.where(real[..., None], rng.normal(4, 2, (3, 5, 2)), 0)
    feature = Series((5, 2), padded=True)
    source = Arrays({"steps": feature}, {"steps": series, "steps_length": lengths})
    split = Split(source, np.arange(3), {"look": "steps"})
    found = statistics.mean_and_deviation(split, "look", feature)
    np.testing.assert_allclose(found["mean"], series[real].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["standard_deviation"], series[real].std(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("center", "width"), [(1.6e7, 10.0), (1.6e7, 40.0), (-1e6, 0.5), (0.1, 1e-6)]
)
def test_a_column_that_varies_little_about_a_large_number_is_scaled(center, width):
    column = np.float32(center + width * np.random.default_rng(0).normal(size=(600, 1)))
    constant = np.full((600, 1), np.float32(center))
    rows = np.concatenate([column, constant], axis=1)
    source = Arrays({"row": Row(("varying", "constant"))}, {"row": rows})
    split = Split(source, np.arange(600), {"row": "row"})
    found = statistics.mean_and_deviation(split, "row", source.features["row"])
    wide = np.float64(column)
    expected = [wide.std(), 1.0]
    np.testing.assert_allclose(found["standard_deviation"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["mean"], [wide.mean(), np.float32(center)], rtol=1e-6)


class Decoded:
    """Large color images, each of which is made when it is asked for."""

    streams = False
    side = 512

    def __init__(self):
        shape = (self.side, self.side, 3)
        self.features = {"image": Image(shape), "label": ClassLabel(("a", "b"))}

    def __len__(self):
        return 40

    def prepare(self, names):
        pass

    def image(self, index):
        gradient = np.arange(self.side * self.side * 3, dtype=np.uint32) * (index + 3) // 4096
        return gradient.astype(np.uint8).reshape(self.side, self.side, 3)

    def fetch(self, indices, names):
        found = {}
        if "image" in names:
            images = np.empty((len(indices), self.side, self.side, 3), np.uint8)
            for place, index in enumerate(indices):
                images[place] = self.image(index)
            found["image"] = {"": images}
        if "label" in names:
            found["label"] = {"": (indices % 2).astype(np.int32)}
        return found


def test_large_images_are_looked_at_a_few_at_a_time_with_the_same_result():
    source = Decoded()
    split = Split(source, np.arange(len(source)), {"image": "image", "label": "label"})
    image = source.features["image"]
    looks = {
        "statistics": lambda: statistics.mean_and_deviation(split, "image", image),
        "colors": lambda: statistics.color_components(split, "image", image),
        "difficulty": lambda: curriculum.difficulty(split, "image", "label", 2),
    }
    found = {}
    for name, look in looks.items():
        tracemalloc.start()
        found[name] = look()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # In float64 all of them take 252 MB.
        assert peak < 150e6, f"{name} took {peak / 1e6:.0f} MB"
    total, squares, products, sums = 0, 0, 0, [0, 0]
    for index in range(len(source)):
        pixels = source.image(index).reshape(-1, 3).astype(np.float64)
        total, squares = total + pixels.sum(0), squares + (pixels**2).sum(0)
        products = products + pixels.T @ pixels
        sums[index % 2] = sums[index % 2] + pixels.ravel()
    count = len(source) * source.side**2
    mean = total / count
    np.testing.assert_allclose(found["statistics"]["mean"], mean / 255, rtol=1e-6)
    deviation = np.sqrt(squares / count - mean**2) / 255
    np.testing.assert_allclose(found["statistics"]["standard_deviation"], deviation, rtol=1e-6)
    covariance = (products / count - np.outer(mean, mean)) / 255**2
    components = found["colors"].astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(np.linalg.norm(components, axis=0), eigenvalues, rtol=1e-5)
    means = np.array(sums) * 2 / len(source)
    for index in (0, 17, 39):
        own, other = means[index % 2], means[1 - index % 2]
        pixels = source.image(index).ravel()
        expected = np.linalg.norm(pixels - own) - np.linalg.norm(pixels - other)
        np.testing.assert_allclose(found["difficulty"][index], expected, atol=1e-6)


@pytest.mark.parametrize("numbers", [1, 7, 2**18])
def test_pieces_of_any_size_join_to_the_statistics_of_the_whole(monkeypatch, numbers):
    monkeypatch.setattr(statistics, "_NUMBERS", numbers)
    monkeypatch.setattr(sources, "_CHUNK", 9)
    found = measured(split_of(COLORS[:40]))
    some = COLORS[:40] / 255
    np.testing.assert_allclose(found["mean"], some.mean((0, 1, 2)), rtol=1e-7)
    np.testing.assert_allclose(found["standard_deviation"], some.std((0, 1, 2)), rtol=1e-7)
