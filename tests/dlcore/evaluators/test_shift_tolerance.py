"""What shifted images cost, on answers that are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import evaluators
from dlcore.errors import UsageError
from dlcore.evaluators.shift_tolerance import shifted


@dataclasses.dataclass(frozen=True)
class BrightColumn:
    """What the evaluator asks of a model that takes the brightest column for the class.

    Attributes:
      image: one bright pixel each, in the column of its class.
      label: the classes.
      width: columns that it takes for one; with two of them, a shift by one may go unnoticed.
      needed: the baseline.
    """

    image: np.ndarray
    label: np.ndarray
    width: int = 1
    needed: dict = dataclasses.field(default_factory=dict)

    @property
    def learner(self):
        return self

    def predict(self, variables, batch):
        column = batch["image"].sum((1, 3)).argmax(-1)
        own = column == batch["label"]
        near = (column // self.width) == (batch["label"] // self.width)
        return jax.nn.one_hot(jnp.where(own | near, batch["label"], column), 8)

    def rows(self, function, split, *inputs):
        assert split == "test"
        batch = {"image": jnp.asarray(self.image), "label": jnp.asarray(self.label)}
        return np.asarray(function({}, batch, *map(jnp.asarray, inputs)))


def bright_pixels():
    label = np.array([2, 3, 4, 5])
    image = np.zeros((4, 8, 8, 1), np.float32)
    image[np.arange(4), 4, label] = 1
    return image, label


def test_the_loss_is_the_mean_over_four_directions_beside_that_of_the_baseline():
    image, label = bright_pixels()
    baseline = BrightColumn(image, label)
    trained = BrightColumn(image, label, width=2, needed={"baseline": baseline})
    judge = evaluators.create("shift_tolerance", pixels=1)
    findings = judge.evaluate(trained, "test", jax.random.key(0))
    # Up and down change no column. To the right 2 and 4 stay in their pair, to the left 3 and 5.
    assert findings.scalars == pytest.approx(
        {
            "shifted_accuracy": 0.75,
            "shift_loss": 0.25,
            "baseline_shift_loss": 0.5,
            "shift_loss_ratio": 0.5,
        }
    )
    found = findings.arrays["shift_tolerance"]
    np.testing.assert_array_equal(found["shift"], [0, 1])
    np.testing.assert_allclose(found["own"], [1, 0.75])
    np.testing.assert_allclose(found["baseline"], [1, 0.5])
    assert set(findings.figures) == {"shift_tolerance"}


def test_a_baseline_that_loses_nothing_gives_no_ratio():
    image, label = bright_pixels()
    baseline = BrightColumn(image, label, width=8)
    trained = BrightColumn(image, label, needed={"baseline": baseline})
    judge = evaluators.create("shift_tolerance", pixels=1)
    scalars = judge.evaluate(trained, "test", jax.random.key(0)).scalars
    assert scalars["baseline_shift_loss"] == 0
    assert np.isnan(scalars["shift_loss_ratio"])


@pytest.mark.parametrize("offset", [(2, 0), (-2, 0), (0, 2), (1, -2), (0, 0)])
def test_a_shift_moves_down_and_right_and_repeats_the_edge(offset):
    images = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    rows = np.clip(np.arange(5) - offset[0], 0, 4)
    columns = np.clip(np.arange(6) - offset[1], 0, 5)
    moved = shifted(jnp.asarray(images), jnp.asarray(offset), 2)
    np.testing.assert_array_equal(moved, images[:, rows][:, :, columns])


def test_no_shift_is_refused():
    with pytest.raises(UsageError, match="pixels=0: it must be at least 1"):
        evaluators.create("shift_tolerance", pixels=0)
