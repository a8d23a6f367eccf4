"""Truncated back-propagation through time: loss, carried state, evaluation and sampling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dlcore import metrics, models, parallel, tasks
from dlcore.errors import UsageError
from tests import small

VOCABULARY, ROWS, TIME = 7, 8, 5


def _batch(time=TIME, rows=ROWS, seed=0, start=True):
    text = np.random.default_rng(seed).integers(0, VOCABULARY, (rows, time + 1), np.int32)
    return {
        "tokens": jnp.asarray(text[:, :-1]),
        "targets": jnp.asarray(text[:, 1:]),
        "mask": jnp.ones((rows, time)),
        "start": jnp.full(rows, start),
    }


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(task, variables, batch):
    return task.evaluate(variables, batch, jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def _read(task, params, tokens):
    """The logits after every token, and the state after the last."""
    carry = task.model.initial_carry(tokens.shape[0])
    return task.model.apply({"params": params}, tokens, carry)


def _task(**options):
    options = {"vocabulary_size": VOCABULARY, "hidden": 8, **options}
    return tasks.create("language_model", models.create("char_lstm", **options))


@pytest.fixture(scope="module")
def task():
    return _task()


@pytest.fixture(scope="module")
def variables(task):
    return small.init(task, _batch())


@pytest.fixture(scope="module")
def loss(task):
    """The compiled loss, `(params, carry, batch) -> (sum, aux)`."""
    key = jax.random.key(1)
    return jax.jit(lambda params, carry, batch: task.loss(params, {"carry": carry}, batch, key))


def _noise(carry, seed=2):
    return jax.tree.map(lambda x: jax.random.normal(jax.random.key(seed), x.shape), carry)


def _close(first, second, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), first, second)


def test_a_fresh_model_is_about_as_surprised_as_by_chance():
    task = tasks.create("language_model", models.create("char_lstm", hidden=32))
    text = jax.random.randint(jax.random.key(0), (4, 33), 0, 65)
    batch = {
        "tokens": text[:, :-1],
        "targets": text[:, 1:],
        "mask": jnp.ones((4, 32)),
        "start": jnp.ones(4, bool),
    }
    variables = small.init(task, batch, seed=1)
    values = metrics.compute(_evaluate(task, variables, batch))
    assert values["loss"] == pytest.approx(np.log(65), abs=0.05)
    assert values["perplexity"] == pytest.approx(np.exp(values["loss"]))


def test_the_loss_is_the_surprise_summed_over_unmasked_characters(task, variables, loss):
    mask = np.random.default_rng(3).integers(0, 2, (ROWS, TIME)).astype(np.float32)
    batch = {**_batch(), "mask": jnp.asarray(mask)}
    total, aux = loss(variables["params"], variables["carry"], batch)
    logits, carry = _read(task, variables["params"], batch["tokens"])
    scores = np.exp(np.asarray(logits, np.float64))
    probability = scores / scores.sum(axis=-1, keepdims=True)
    right = np.take_along_axis(probability, np.asarray(batch["targets"])[..., None], axis=-1)[
        ..., 0
    ]
    assert total == pytest.approx(-(mask * np.log(right)).sum(), rel=1e-5)
    assert aux.count == mask.sum()
    assert aux.metrics["loss"].total == total
    _close(aux.model_state, {"carry": carry})


def test_a_text_in_two_batches_costs_what_it_costs_in_one(variables, loss):
    params, carry = variables["params"], variables["carry"]
    long = _batch(time=2 * TIME)
    first = {name: x[:, :TIME] if x.ndim > 1 else x for name, x in long.items()}
    second = {name: x[:, TIME:] if x.ndim > 1 else ~x for name, x in long.items()}
    whole, aux = loss(params, carry, long)
    first_half, middle = loss(params, carry, first)
    second_half, end = loss(params, middle.model_state["carry"], second)
    assert first_half + second_half == pytest.approx(float(whole), rel=1e-5)
    _close(end.model_state, aux.model_state)


def test_a_row_that_starts_forgets_its_state_and_no_other_row_does(task, variables, loss):
    params, fresh = variables["params"], variables["carry"]
    carried = _noise(fresh)
    starts = jnp.arange(ROWS) < 3
    _, mixed = loss(params, carried, {**_batch(), "start": starts})
    _, reset = loss(params, fresh, _batch())
    _, kept = loss(params, carried, _batch(start=False))
    expected = jax.tree.map(
        lambda a, b: jnp.where(starts[:, None], a, b), reset.model_state, kept.model_state
    )
    _close(mixed.model_state, expected)
    assert not np.allclose(reset.model_state["carry"][0][0], kept.model_state["carry"][0][0])


def test_evaluation_reads_every_row_from_the_initial_state(task, variables):
    batch = _batch()
    clean = _evaluate(task, variables, batch)
    carried = _evaluate(task, {**variables, "carry": _noise(variables["carry"])}, batch)
    _close(carried, clean, rtol=0, atol=0)


def test_evaluation_does_not_depend_on_how_rows_are_batched(task, variables):
    batch = _batch()
    parts = [jax.tree.map(lambda x, i=i: x[i : i + 2], batch) for i in range(0, ROWS, 2)]
    merged = metrics.merge(
        metrics.merge(*(_evaluate(task, variables, part) for part in parts[:2])),
        metrics.merge(*(_evaluate(task, variables, part) for part in parts[2:])),
    )
    _close(merged, _evaluate(task, variables, batch))


@pytest.mark.slow
def test_eight_devices_give_the_loss_gradient_and_state_of_one():
    task = _task(dropout_rate=0.5)
    batch = _batch(start=False)
    variables = small.init(task, batch)
    params, carry = variables["params"], _noise(variables["carry"])

    def step(params, carry, batch):
        gradient = jax.value_and_grad(task.loss, has_aux=True)
        (total, aux), gradients = gradient(params, {"carry": carry}, batch, jax.random.key(4))
        return parallel.psum((total, aux.count, gradients)), aux.model_state["carry"]

    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    sharded = jax.shard_map(
        step,
        mesh=jax.sharding.Mesh(np.asarray(jax.devices()), (parallel.AXIS,)),
        in_specs=(whole, split, split),
        out_specs=(whole, split),
        check_vma=False,
    )
    assert jax.device_count() == ROWS
    _close(jax.jit(sharded)(params, carry, batch), jax.jit(step)(params, carry, batch))


def test_samples_are_a_function_of_the_key_and_stay_in_the_vocabulary(task, variables):
    prompt = _batch()["tokens"][:, :3]
    first, again, other = (
        task.continuation(variables, jax.random.key(seed), prompt, 20) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == (ROWS, 20)
    assert ((first >= 0) & (first < VOCABULARY)).all()


def test_at_temperature_zero_each_character_is_the_likeliest_one_after_all_before_it(
    task, variables
):
    sharp = jax.tree.map(lambda x: 3 * x, variables)  # So that the text is not one character only.
    for given in (1, 3):
        prompt = _batch()["tokens"][:, :given]
        sampled = task.continuation(sharp, jax.random.key(0), prompt, 13 - given, temperature=0.0)
        text = jnp.concatenate([prompt, sampled], axis=1)
        logits, _ = _read(task, sharp["params"], text)
        np.testing.assert_array_equal(sampled, logits.argmax(axis=-1)[:, given - 1 : -1])
        assert np.unique(sampled).size > 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_have_the_frequencies_of_the_softmax_at_that_temperature(
    task, variables, temperature
):
    count = 20_000
    sharp = jax.tree.map(lambda x: 3 * x, variables)
    prompt = jnp.tile(jnp.array([[1, 2, 3]]), (count, 1))
    drawn = task.continuation(sharp, jax.random.key(0), prompt, 1, temperature)[:, 0]
    logits, _ = _read(task, sharp["params"], prompt[:1])
    scores = np.exp(np.asarray(logits[0, -1], np.float64) / temperature)
    expected = count * scores / scores.sum()
    chi_squared = ((np.bincount(drawn, minlength=VOCABULARY) - expected) ** 2 / expected).sum()
    # Exceeded once in 100,000 keys by 6 degrees of freedom.
    assert chi_squared < 33.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": jnp.zeros((1, 0), jnp.int32)}, "the prompt is empty"),
        ({"length": 0}, "cannot sample 0 characters"),
        ({"temperature": -1.0}, "a temperature is 0 or more, not -1.0"),
    ],
)
def test_an_impossible_sample_is_refused(task, variables, change, message):
    arguments = {"prompt": jnp.zeros((1, 1), jnp.int32), "length": 1, "temperature": 1.0, **change}
    with pytest.raises(UsageError, match=message):
        task.continuation(variables, jax.random.key(0), **arguments)


def test_the_loss_keeps_its_digits_at_large_logits_and_nan_is_counted(task, variables):
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    for value, loss, nan in ((-1e4, np.log(VOCABULARY), None), (np.nan, np.nan, ROWS * TIME - 1)):
        params["logits"]["bias"] = jnp.full(VOCABULARY, value)
        batch = _batch()
        batch["mask"] = batch["mask"].at[0, -1].set(0)
        values = metrics.compute(_evaluate(task, {"params": params}, batch))
        assert values["loss"] == pytest.approx(loss, rel=1e-6, nan_ok=True)
        assert values.get("nan_predictions") == nan
