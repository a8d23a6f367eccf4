"""How difficult examples are, and when they join the training."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid

from dlcore.data import curriculum, sources
from dlcore.data.features import ClassLabel, Image
from dlcore.data.sources import Arrays, Split


def split_of(inputs, labels):
    features = {"image": Image(inputs.shape[1:]), "label": ClassLabel(tuple("abcd"))}
    source = Arrays(features, {"image": inputs, "label": labels})
    return Split(source, np.arange(len(labels)), {"look": "image", "class": "label"})


def test_difficulty_is_the_margin_between_distances_to_means(monkeypatch):
    monkeypatch.setattr(sources, "_CHUNK", 7)
    monkeypatch.setattr(curriculum, "CHUNK_BYTES", 8 * 20 * 3)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40).astype(np.int32)
    images = rng.integers(0, 200, (40, 4, 5, 1)).astype(np.uint8)
    images[:, 0, 0, 0] += 20 * labels.astype(np.uint8)
    images[:3] = 1
    means = [images[labels == label].mean(0, dtype=np.float64) for label in range(3)]
    expected = []
    for image, label in zip(images, labels, strict=True):
        distances = [np.linalg.norm(image - mean) for mean in means]
        expected.append(distances.pop(label) - min(distances))
    # A fourth class without examples has no mean to be near to.
    difficulty = curriculum.difficulty(split_of(images, labels), "look", "class", 4)
    np.testing.assert_allclose(difficulty, expected, atol=1e-6)
    flat = images.reshape(40, -1).astype(np.float64)
    right = NearestCentroid().fit(flat, labels).predict(flat) == labels
    np.testing.assert_array_equal(difficulty < 0, right)


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.integers(1, 5), st.integers(1, 30))
def test_the_pool_grows_from_the_easiest_and_never_holds_a_harder_one_before_an_easier(
    difficulty, epochs, least
):
    scores = np.array(difficulty)
    plan = curriculum.Curriculum(scores, epochs)
    pools = [plan.pool(epoch, least) for epoch in range(epochs)]
    for pool in pools:
        assert len(set(pool.tolist())) == len(pool) >= min(least, len(scores))
        left = np.setdiff1d(np.arange(len(scores)), pool)
        assert (np.diff(scores[pool]) >= 0).all()
        assert not left.size or scores[pool].max() <= scores[left].min()
    sizes = [len(pool) for pool in pools]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(("epochs", "sizes"), [(1, [5]), (2, [4, 7]), (4, [2, 4, 6, 8])])
def test_equal_shares_rounded_up_join_in_each_epoch(epochs, sizes):
    plan = curriculum.Curriculum(np.arange(10.0), epochs)
    assert [len(plan.pool(epoch, 1)) for epoch in range(epochs)] == sizes
