"""What tasks over labels share: training and evaluation differ by the mode, not by the loss."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models
from dlcore.metrics import Mean
from dlcore.tasks.supervised import Supervised
from tests import small


@dataclasses.dataclass(frozen=True)
class SumOfOutputs(Supervised):
    """The sum of an example's outputs, less its label."""

    def metrics(self, outputs, batch):
        return {"loss": Mean.of(outputs.sum(-1) - batch["label"], batch["mask"])}


BATCH = {
    "image": jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32),
    "label": jnp.arange(6.0),
    "mask": jnp.array([1, 1, 1, 1, 0, 0], jnp.float32),
}


@pytest.fixture(scope="module")
def task():
    return SumOfOutputs(models.create("mlp", num_classes=3, hidden=(40,), dropout_rate=0.5))


@pytest.fixture(scope="module")
def variables(task):
    return small.init(task, BATCH)


def trained(task, variables, seed):
    return task.loss(variables["params"], {}, BATCH, jax.random.key(seed))


def test_the_loss_is_the_metric_of_that_name_over_the_unmasked_examples(task, variables):
    total, aux = trained(task, variables, 1)
    assert float(total) == float(aux.metrics["loss"].total)
    assert float(aux.count) == 4


def test_training_is_random_by_its_key_and_evaluation_is_not(task, variables):
    first, again, other = (float(trained(task, variables, seed)[0]) for seed in (1, 1, 2))
    assert first == again != other
    evaluated, again = (
        task.evaluate(variables, BATCH, jax.random.key(seed))["loss"].total for seed in (1, 2)
    )
    assert evaluated == again
    outputs = task.model.apply(variables, BATCH["image"])
    assert float(evaluated) == pytest.approx(float(outputs[:4].sum()) - 6, rel=1e-5)


class Distance(nn.Module):
    """How far apart the codes of two inputs are."""

    @nn.compact
    def __call__(self, one, other, train=False):
        code = nn.Dense(3, name="code")
        return jnp.abs(code(one) - code(other)).sum(-1, keepdims=True)


class Apart(SumOfOutputs):
    def describe_inputs(self, batch):
        return batch["image"], batch["image"][::-1]


def test_a_model_of_two_inputs_needs_them_described_once():
    task = Apart(Distance())
    variables = small.init(task, BATCH)
    assert variables["params"]["code"]["kernel"].shape == (5, 3)
    evaluated = task.evaluate(variables, BATCH, jax.random.key(0))["loss"].total
    outputs = task.model.apply(variables, BATCH["image"], BATCH["image"][::-1])
    assert float(evaluated) == pytest.approx(float(outputs[:4].sum()) - 6, rel=1e-5)
    assert float(trained(task, variables, 1)[0]) == pytest.approx(float(evaluated), rel=1e-5)
