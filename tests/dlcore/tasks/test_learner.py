"""The one place where a model is applied in training: its random streams, and what layers sow."""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.metrics import Mean
from dlcore.tasks import Aux, Descent
from tests import small

BATCH = {"image": np.arange(12.0, dtype=np.float32).reshape(4, 3), "mask": np.ones(4, np.float32)}


class Sowing(nn.Module):
    """Draws from two streams, sows into two collections, and counts its calls in a third."""

    @nn.compact
    def __call__(self, x, train=False):
        calls = self.variable("counts", "calls", jnp.zeros, ())
        calls.value += jnp.float32(train)
        x = nn.Dense(2, name="head")(x)
        self.sow("losses", "size", jnp.abs(x).sum())
        self.sow("intermediates", "seen", x)
        return x, *(jax.random.normal(self.make_rng(name), (5,)) for name in ("latent", "dropout"))


@dataclasses.dataclass(frozen=True)
class Sparse(Descent):
    """The sum of the outputs, and a tenth of what the layers have sown as losses."""

    rngs: ClassVar[tuple[str, ...]] = ("dropout", "latent")

    def init(self, key, batch):
        return self.init_model(key, batch["image"])

    def loss(self, params, model_state, batch, key):
        applied = self.apply(params, model_state, batch["image"], key=key)
        (size,) = applied.sown["losses"]["size"]
        loss = Mean(applied.outputs[0].sum() + 0.1 * size, batch["mask"].sum())
        return loss.total, Aux(loss.count, applied.model_state, {"loss": loss}, applied.sown)

    def evaluate(self, variables, batch, key):
        rngs = {"latent": key, "dropout": key}
        outputs, _, _ = self.model.apply(variables, batch["image"], rngs=rngs)
        return {"loss": Mean.of(outputs.sum(-1), batch["mask"])}


LEARNER = Sparse(Sowing())


@functools.cache
def variables():
    return jax.jit(LEARNER.init)(jax.random.key(0), BATCH)


def apply(seed):
    params, counts = (variables()[name] for name in ("params", "counts"))
    key = jax.random.key(seed)
    return jax.jit(LEARNER.apply)(params, {"counts": counts}, BATCH["image"], key=key)


def test_what_layers_sow_is_handed_back_apart_from_the_state():
    applied = apply(1)
    layer = variables()["params"]["head"]
    expected = BATCH["image"] @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(applied.outputs[0], expected, rtol=1e-5)
    assert applied.sown.keys() == {"losses", "intermediates"}
    np.testing.assert_array_equal(applied.sown["intermediates"]["seen"][0], applied.outputs[0])
    np.testing.assert_allclose(applied.sown["losses"]["size"][0], abs(expected).sum(), rtol=1e-5)
    assert applied.model_state == {"counts": {"calls": 1}}


def test_the_first_variables_hold_nothing_that_was_sown():
    assert variables().keys() == {"params", "counts"}


def test_every_stream_has_a_key_of_its_own_and_follows_the_key_of_the_call():
    (_, latent, dropout), (_, again, _), (_, other, _) = (apply(seed)[0] for seed in (1, 1, 2))
    assert not np.isin(latent, dropout).any()
    np.testing.assert_array_equal(latent, again)
    assert not np.isin(latent, other).any()


def test_a_stream_that_the_learner_does_not_name_is_missing():
    @dataclasses.dataclass(frozen=True)
    class Forgetful(Sparse):
        rngs = ("dropout",)

    with pytest.raises(Exception, match="latent"):
        Forgetful(Sowing()).apply(
            variables()["params"], {"counts": {"calls": 0.0}}, BATCH["image"], key=jax.random.key(0)
        )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_descends_what_was_sown_and_keeps_none_of_it(accumulate):
    made = small.build(LEARNER, BATCH, schedule=0.5, accumulate=accumulate)
    before = jax.device_get(made.initialize())
    after, _ = made.step(made.initialize(), BATCH)
    assert after.model_state == {"counts": {"calls": accumulate}}
    outputs = BATCH["image"] @ before.params["head"]["kernel"] + before.params["head"]["bias"]
    # d(sum y + |y| / 10) / dy, divided by the number of examples.
    slopes = (1 + 0.1 * np.sign(outputs)) / 4
    moved = after.params["head"]["kernel"] - before.params["head"]["kernel"]
    np.testing.assert_allclose(moved, -0.5 * BATCH["image"].T @ slopes, rtol=1e-4)


def test_a_model_of_images_is_described_by_the_images():
    batch = jax.tree.map(jnp.asarray, BATCH)
    assert LEARNER.describe_inputs(batch) == (batch["image"],)
