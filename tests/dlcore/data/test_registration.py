"""Datasets of one's own, by name."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from dlcore import data
from dlcore.data.features import ClassLabel, Row
from dlcore.errors import UsageError


@dataclasses.dataclass(frozen=True)
class BlobOptions(data.ExampleOptions):
    """With an option of its own.

    Attributes:
      spread: of each blob.
    """

    spread: float = 1.0


@pytest.fixture
def blobs(register):
    """A dataset that is registered for one test."""

    def blobs(name, options):
        rng = np.random.default_rng(0)
        labels = np.arange(30) % 2
        rows = labels[:, None] + options.spread * rng.normal(size=(30, 1))
        features = {"row": Row(("x",)), "label": ClassLabel(("a", "b"))}
        return data.from_arrays(features, {"train": {"row": rows, "label": labels}}, options, name)

    register("blobs", blobs, BlobOptions)


@pytest.mark.usefixtures("blobs")
def test_a_registered_dataset_is_loaded_by_name_with_its_own_options():
    assert "blobs" in data.names()
    assert data.options_kind("blobs") is BlobOptions
    near = data.load("blobs", options={"spread": 0.0, "test_fraction": 0.5})
    batch = near.example_batch(4)
    np.testing.assert_array_equal(batch["row"][:, 0], batch["label"])
    assert near.num_examples("test") == 15
    assert near.options == BlobOptions(spread=0.0, test_fraction=0.5)
    with pytest.raises(UsageError, match="'blobs' has no option 'width': it has .*, spread"):
        data.load("blobs", options={"width": 2})
    with pytest.raises(UsageError, match="spread=nan: it must be a finite number"):
        data.load("blobs", options={"spread": float("nan")})


@pytest.mark.usefixtures("blobs")
def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="dataset 'blobs' is registered twice"):
        data.register("blobs", lambda name, options: None)


def test_scikit_learn_is_imported_only_for_its_own_datasets():
    program = (
        "import sys; from dlcore import data;"
        "data.names(); data.options_kind('iris');"
        "print('sklearn' in sys.modules); data.load('iris'); print('sklearn' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["False", "True"]


def test_arrays_need_a_split_to_learn_from():
    features = {"label": ClassLabel(("a", "b"))}
    with pytest.raises(UsageError, match="'arrays' has no split 'train' to learn from: it has dev"):
        data.from_arrays(features, {"dev": {"label": np.zeros(1, int)}})


def test_arrays_of_another_name_serve_as_the_split_that_is_asked_for():
    features = {"label": ClassLabel(("a", "b"))}
    own = {"train": {"label": np.zeros(9, int)}, "dev": {"label": np.ones(4, int)}}
    options = {"splits": "validation:dev", "test_fraction": 0.5}
    opened = data.from_arrays(features, own, options)
    [batch] = opened.evaluation_batches("validation", 4)
    assert batch["label"].tolist() == [1] * 4
    with pytest.raises(UsageError, match="splits has 'small': dataset 'arrays' has the splits"):
        data.from_arrays(features, own, {"splits": "train:small"})
