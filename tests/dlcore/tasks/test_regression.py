"""Regression against float64 NumPy and scikit-learn, with masks, and over several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from dlcore import metrics, models, tasks
from dlcore.errors import UsageError
from dlcore.parallel import AXIS, psum

COUNT, OUTPUTS = 16, 3


def identity_task(**options):
    """A task whose outputs are its inputs, so that a loss is a function of its batch."""
    model = models.create("linear_units", num_classes=OUTPUTS)
    params = {"units": {"kernel": jnp.eye(OUTPUTS), "bias": jnp.zeros(OUTPUTS)}}
    return tasks.create("regression", model, **options), params


def make_batch(masked=0):
    rng = np.random.default_rng(0)
    outputs, targets = rng.normal([1, -2, 50], [1, 2, 9], (2, COUNT, OUTPUTS)).astype(np.float32)
    mask = np.arange(COUNT) < COUNT - masked
    batch = {"image": outputs, "numbers": targets, "mask": mask.astype(np.float32)}
    return jax.tree.map(jnp.asarray, batch)


@settings(max_examples=10, deadline=None)
@given(masked=st.integers(0, COUNT // 2))
def test_an_evaluation_scores_the_unmasked_examples_as_scikit_learn_does(masked):
    batch = make_batch(masked)
    count = COUNT - masked
    outputs, targets = batch["image"][:count], batch["numbers"][:count]
    batch["image"] = jnp.where(batch["mask"][:, None] > 0, batch["image"], jnp.nan)
    task, params = identity_task()
    scores = metrics.compute(task.evaluate({"params": params}, batch, jax.random.key(0)))
    r_squared = sklearn.metrics.r2_score(targets, outputs)
    absolute = sklearn.metrics.mean_absolute_error(targets, outputs)
    assert scores["r_squared"] == pytest.approx(r_squared, rel=1e-4)
    assert scores["mean_absolute_error"] == pytest.approx(absolute, rel=1e-5)
    square = sklearn.metrics.mean_squared_error(targets, outputs) * OUTPUTS
    assert scores["loss"] == pytest.approx(square, rel=1e-5)


@pytest.mark.parametrize(
    ("criterion", "share"), [("square", 1), ("half_square", 1 / 2), ("mean_square", 1 / OUTPUTS)]
)
def test_the_criteria_of_the_decks_are_shares_of_the_sum_of_squares(criterion, share):
    task, params = identity_task(criterion=criterion)
    batch = make_batch()
    total, aux = task.loss(params, {}, batch, jax.random.key(0))
    squares = np.square(np.float64(batch["image"]) - batch["numbers"]).sum()
    assert float(total) == pytest.approx(share * squares, rel=1e-5)
    assert float(aux.count) == COUNT


def test_eight_devices_sum_to_what_one_gives():
    task, params = identity_task(criterion="half_square")

    def sums(batch):
        (total, aux), gradients = jax.value_and_grad(task.loss, has_aux=True)(
            params, {}, batch, jax.random.key(5)
        )
        return psum((total, aux.count, gradients, aux.metrics))

    mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    split, same = PartitionSpec(AXIS), PartitionSpec()
    several = jax.shard_map(sums, mesh=mesh, in_specs=split, out_specs=same, check_vma=False)
    batch = make_batch(masked=3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        jax.jit(several)(batch),
        jax.jit(sums)(batch),
    )


def test_an_unknown_criterion_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="'hinge': it is one of square, half_square, mean_square"):
        identity_task(criterion="hinge")
