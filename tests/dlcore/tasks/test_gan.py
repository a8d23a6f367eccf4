"""Algorithm 1 against its transcription in NumPy, its theory, and other device layouts."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from dlcore import metrics, models, tasks
from dlcore.errors import UsageError
from dlcore.nn.normalization import BatchNorm
from dlcore.nn.regularization import Dropout
from dlcore.parallel import AXIS, psum
from dlcore.tasks.gan import GENERATOR_LOSSES
from tests import small


class Pair(nn.Module):
    """Two players to be completed by `generator` and `discriminator`; images are single pixels."""

    image_size: int = 1
    image_channels: int = 1
    latent_size: int = 1

    def generate(self, latent, train=False):
        return self.generator(latent).reshape(-1, 1, 1, 1)

    def discriminate(self, images, train=False):
        return self.discriminator(images.reshape(-1, 1))[:, 0]

    def __call__(self, images, latent, train=False):
        return self.generate(latent, train), self.discriminate(images, train)


class LinearPair(Pair):
    """G(z) = a z + b against the logit w x + c."""

    def setup(self):
        self.generator = nn.Dense(1)
        self.discriminator = nn.Dense(1)


def started(task, batch, optimizer, seed=0):
    variables = dict(small.init(task, batch, seed))
    params = variables.pop("params")
    return small.state(params, task.init_optimizer(optimizer, params), variables)


def pixels(count, seed=0):
    images = np.random.default_rng(seed).normal(2, 1, (count, 1, 1, 1))
    return {"image": jnp.asarray(images, jnp.float32), "mask": jnp.ones(count)}


def recorded_update(task, state, batch, optimizer):
    """An update, run without compilation, and the players' inputs in the order of their turns."""
    turns = []

    def record(call, args, kwargs, context):
        if context.method_name in ("generate", "discriminate"):
            turns.append((context.method_name, args[0]))
        return call(*args, **kwargs)

    with jax.disable_jit(), nn.intercept_methods(record):
        state, sums = task.update(state, batch, jax.random.key(7), optimizer)
    return state, sums, turns


def sigmoid(logit):
    return 1 / (1 + np.exp(-logit))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("generator_loss", ["saturating", "non_saturating"])
def test_an_update_is_an_iteration_of_algorithm_1(generator_loss, steps):
    options = {"generator_loss": generator_loss, "discriminator_steps": steps}
    task = tasks.create("gan", LinearPair(), **options)
    rate, batch = 0.1, pixels(4 * steps)
    state = started(task, batch, optax.sgd(rate))
    new_state, sums, turns = recorded_update(task, state, batch, optax.sgd(rate))

    assert [method for method, _ in turns] == (
        ["generate", "discriminate", "discriminate"] * steps + ["generate", "discriminate"]
    )
    latents = [np.ravel(x).astype(np.float64) for method, x in turns if method == "generate"]
    assert len(np.unique(latents)) == 4 * (steps + 1), "every latent vector is fresh"
    images = [np.ravel(turns[3 * step + 1][1]).astype(np.float64) for step in range(steps)]
    np.testing.assert_array_equal(np.sort(np.ravel(images)), np.sort(np.ravel(batch["image"])))

    (a, b), (w, c) = (
        (float(layer["kernel"][0, 0]), float(layer["bias"][0]))
        for layer in (state.params["generator"], state.params["discriminator"])
    )
    losses = []
    for x, z in zip(images, latents, strict=False):
        fake = a * z + b
        real_score, fake_score = sigmoid(w * x + c), sigmoid(w * fake + c)
        losses.append(-(np.log(real_score) + np.log(1 - fake_score)))
        w_ascent = ((1 - real_score) * x - fake_score * fake).mean()
        c_ascent = ((1 - real_score) - fake_score).mean()
        w, c = w + rate * w_ascent, c + rate * c_ascent
    z = latents[-1]
    score = sigmoid(w * (a * z + b) + c)
    if generator_loss == "saturating":
        loss, slope = np.log(1 - score), -score
    else:
        loss, slope = -np.log(score), -(1 - score)
    a, b = a - rate * (slope * w * z).mean(), b - rate * (slope * w).mean()

    leaves = (new_state.params[player] for player in ("generator", "discriminator"))
    (new_a, new_b), (new_w, new_c) = ((leaf["kernel"], leaf["bias"]) for leaf in leaves)
    learned = np.ravel([new_a[0], new_b, new_w[0], new_c])
    np.testing.assert_allclose(learned, [a, b, w, c], rtol=1e-5, atol=1e-7)
    values = metrics.compute(sums)
    assert values["loss"] == values["discriminator_loss"]
    assert values["discriminator_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert values["generator_loss"] == pytest.approx(loss.mean(), rel=1e-5)


def test_each_player_keeps_its_own_optimizer():
    task = tasks.create("gan", LinearPair(), discriminator_steps=3)
    batch, optimizer = pixels(6), optax.adam(1e-3)
    state = started(task, batch, optimizer)
    new_state, _ = jax.jit(task.update, static_argnums=3)(
        state, batch, jax.random.key(0), optimizer
    )
    assert int(optax.tree.get(new_state.opt_state["discriminator"], "count")) == 3
    assert int(optax.tree.get(new_state.opt_state["generator"], "count")) == 1


@settings(max_examples=25, deadline=None)
@given(st.floats(-15, 15))
def test_both_generator_losses_push_the_same_way_but_not_as_hard(logit):
    slopes = {name: float(jax.grad(loss)(logit)) for name, loss in GENERATOR_LOSSES.items()}
    assert slopes["saturating"] == pytest.approx(-sigmoid(logit), rel=1e-5)
    assert slopes["non_saturating"] == pytest.approx(-sigmoid(-logit), rel=1e-5)
    # Where the discriminator is sure that an image is made (a low logit), only one of them is felt.
    ratio = slopes["saturating"] / slopes["non_saturating"]
    assert ratio == pytest.approx(math.exp(logit), rel=1e-4)


@pytest.mark.parametrize(
    ("generator_loss", "expected"),
    [("saturating", -math.log(2)), ("non_saturating", math.log(2))],
)
def test_a_discriminator_in_doubt_makes_the_value_minus_log_4(generator_loss, expected):
    task = tasks.create("gan", LinearPair(), generator_loss=generator_loss)
    batch = pixels(5)
    variables = jax.tree.map(jnp.zeros_like, small.init(task, batch))
    assert metrics.compute(task.evaluate(variables, batch, jax.random.key(0))) == pytest.approx(
        {
            "loss": math.log(4),
            "discriminator_loss": math.log(4),
            "generator_loss": expected,
            "real_score": 0.5,
            "fake_score": 0.5,
        }
    )


class Steps(nn.Module):
    """A fixed distribution: three values, by where a normal number falls."""

    @nn.compact
    def __call__(self, latent):
        unused = self.param("unused", nn.initializers.zeros, ())
        return jnp.floor(jnp.clip(latent, -1, 1) + 0.5) + 0 * unused


class Table(nn.Module):
    """One logit for each of the values -1, 0 and 1."""

    @nn.compact
    def __call__(self, images):
        logits = self.param("logits", nn.initializers.zeros, (3,))
        return logits[images.astype(jnp.int32) + 1]


class DiscretePair(Pair):
    def setup(self):
        self.generator = Steps()
        self.discriminator = Table()


def test_the_discriminator_tends_to_p_over_p_plus_q():
    # Goodfellow et al. (2014), proposition 1 and theorem 1.
    p = np.array([0.125, 0.25, 0.625])
    tail = (1 - math.erf(0.5 / math.sqrt(2))) / 2
    q = np.array([tail, 1 - 2 * tail, tail])
    values = np.repeat([-1.0, 0.0, 1.0], (p * 1024).astype(int))
    batch = {"image": jnp.asarray(values.reshape(-1, 1, 1, 1)), "mask": jnp.ones(1024)}
    task = tasks.create("gan", DiscretePair())
    optimizer = optax.sgd(optax.linear_schedule(4.0, 0.0, 300))
    state = started(task, batch, optimizer)

    def step(state, key):
        state, sums = task.update(state, batch, key, optimizer)
        return state, sums["loss"].total / sums["loss"].count

    play = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))
    state, losses = play(state, jax.random.split(jax.random.key(0), 300))
    scores = jax.nn.sigmoid(state.params["discriminator"]["logits"])
    np.testing.assert_allclose(scores, p / (p + q), atol=0.02)
    m = (p + q) / 2
    divergence = (p * np.log(p / m) + q * np.log(q / m)).sum() / 2
    assert np.mean(losses[-50:]) == pytest.approx(math.log(4) - 2 * divergence, abs=0.01)


class NoisyLayers(nn.Module):
    """Batch statistics and dropout."""

    @nn.compact
    def __call__(self, x, train):
        x = BatchNorm()(nn.Dense(4, use_bias=False)(x), train)
        return nn.Dense(1)(Dropout(0.5)(nn.relu(x), train))


class NoisyPair(Pair):
    def setup(self):
        self.generator = NoisyLayers()
        self.discriminator = NoisyLayers()

    def generate(self, latent, train=False):
        return self.generator(latent, train).reshape(-1, 1, 1, 1)

    def discriminate(self, images, train=False):
        return self.discriminator(images.reshape(-1, 1), train)[:, 0]


@pytest.mark.slow
def test_eight_devices_equal_one():
    task = tasks.create("gan", NoisyPair(), discriminator_steps=2)
    batch, optimizer = pixels(32), optax.sgd(0.1, momentum=0.9)
    # A batch's masked examples need not be spread evenly over the devices.
    batch["mask"] = batch["mask"].at[jnp.array([0, 1, 2, 3, 5, 21])].set(0)
    state = started(task, batch, optimizer)

    def train(state, batch):
        def step(state, key):
            state, sums = task.update(state, batch, key, optimizer)
            return state, psum(sums)

        return jax.lax.scan(step, state, jax.random.split(jax.random.key(0), 3))

    mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    replicated, split = PartitionSpec(), PartitionSpec(AXIS)
    sharded = jax.shard_map(
        train, mesh=mesh, in_specs=(replicated, split), out_specs=replicated, check_vma=False
    )
    one, eight = jax.jit(train)(state, batch), jax.jit(sharded)(state, batch)
    assert not jax.tree.all(jax.tree.map(np.allclose, one[0].params, state.params))
    stayed = jax.tree.map(np.allclose, one[0].model_state, state.model_state)
    assert not any(jax.tree.leaves(stayed)), "every batch statistic moves"
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, eight, one)


def test_the_pairs_of_masked_examples_do_not_count():
    task, optimizer = tasks.create("gan", LinearPair()), optax.sgd(0.1)
    batch = pixels(8)
    batch["mask"] = batch["mask"].at[6:].set(0)
    other = {**batch, "image": batch["image"].at[6:].set(100.0)}
    state = started(task, batch, optimizer)
    update = jax.jit(lambda batch: task.update(state, batch, jax.random.key(0), optimizer))
    assert jax.tree.all(jax.tree.map(np.array_equal, update(batch), update(other)))
    assert float(update(batch)[1]["loss"].count) == 6
    variables = {"params": state.params}
    whole, padded = (
        metrics.compute(jax.jit(task.evaluate)(variables, batch, jax.random.key(0)))
        for batch in (jax.tree.map(lambda leaf: leaf[:6], batch), other)
    )
    assert padded == pytest.approx(whole)


def test_samples_are_images_that_their_key_determines():
    task = tasks.create("gan", models.create("gan", image_size=4, generator_hidden=(8,)))
    variables = small.init(task, {"image": jnp.zeros((2, 4, 4, 1))})
    sample = jax.jit(task.sample, static_argnums=2)
    images = sample(variables, jax.random.key(1), 6)
    assert images.shape == (6, 4, 4, 1)
    assert np.abs(images).max() <= 1
    assert len(np.unique(images, axis=0)) == 6
    np.testing.assert_allclose(sample(variables, jax.random.key(1), 3), images[:3], rtol=1e-5)
    assert not np.allclose(sample(variables, jax.random.key(2), 6), images)


def test_an_unknown_generator_loss_names_the_known_ones():
    with pytest.raises(UsageError, match="generator_loss=hinge.*non_saturating, saturating"):
        tasks.create("gan", LinearPair(), generator_loss="hinge")


def test_fewer_discriminator_steps_than_one_are_refused():
    with pytest.raises(UsageError, match="discriminator_steps=0"):
        tasks.create("gan", LinearPair(), discriminator_steps=0)


def test_a_batch_that_does_not_hold_k_minibatches_is_refused():
    task, optimizer = tasks.create("gan", LinearPair(), discriminator_steps=3), optax.sgd(0.1)
    state = started(task, pixels(8), optimizer)
    with pytest.raises(UsageError, match="batch_size gives .* 8 .* discriminator_steps=3"):
        task.update(state, pixels(8), jax.random.key(0), optimizer)


def test_images_of_another_size_than_the_generators_are_refused():
    task = tasks.create("gan", models.create("gan"))
    with pytest.raises(UsageError, match="8x8x1.*28x28x1.*model.image_size.*data.resize"):
        task.init(jax.random.key(0), {"image": jnp.zeros((2, 8, 8, 1))})
