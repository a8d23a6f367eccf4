"""One train step: what it sums, what it keeps, what it refuses, against closed forms."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlcore import models, optim, parallel, tasks
from dlcore.errors import UsageError
from dlcore.metrics import Mean, Rows
from dlcore.tasks import Aux, Descent
from dlcore.tasks.perceptron import Perceptron
from dlcore.train import evaluation
from tests import small

BATCH_SIZE = 16


def images(seed=0, count=BATCH_SIZE):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(size=(count, 3, 3, 1)).astype(np.float32),
        "label": rng.integers(3, size=count).astype(np.int32),
        "mask": np.ones(count, np.float32),
    }


def letters(seed=0, count=BATCH_SIZE):
    text = np.random.default_rng(seed).integers(5, size=(count, 7)).astype(np.int32)
    return {
        "tokens": text[:, :-1],
        "targets": text[:, 1:],
        "mask": np.ones((count, 6), np.float32),
        "start": np.arange(count) % 3 == 0,
    }


@functools.cache
def task(name):
    """A task by the name of its model; `noisy_mlp` has dropout."""
    if name == "perceptron":
        return tasks.create("perceptron", models.create("perceptron", num_classes=3))
    if name == "char_lstm":
        model = models.create(name, vocabulary_size=5, hidden=4, layers=1, dropout_rate=0.5)
        return tasks.create("language_model", model)
    model, options = {
        "convnet_bn": (name, {"features": (4,)}),
        "mlp": (name, {"hidden": (4,)}),
        "noisy_mlp": ("mlp", {"hidden": (8,), "dropout_rate": 0.5}),
        "softmax_regression": (name, {}),
    }[name]
    return tasks.create("classification", models.create(model, num_classes=3, **options))


@functools.cache
def build(which, layout="jit", *, count=BATCH_SIZE, **options):
    """The program of a task; its rate falls by half every five steps."""
    chosen = task(which) if isinstance(which, str) else which
    batch = letters(count=count) if which == "char_lstm" else images(count=count)
    schedule = optim.schedules.build("exponential", 0.1, 10, decay_steps=5, decay_factor=0.5)
    return small.build(chosen, batch, layout, schedule=schedule, **{"log_every": 4, **options})


def run(made, *batches):
    """The canonical states before and after steps on the host, and their reports."""
    layout = made.parallelism
    placed = layout.place_state(made.initialize())
    states, reports = [jax.device_get(layout.canonical_state(placed))], []
    for batch in batches:
        placed, report = made.step(placed, layout.place_batch(batch))
        states.append(jax.device_get(layout.canonical_state(placed)))
        reports.append(layout.to_host(report))
    return states, reports


def assert_close(one, two, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, two)


def assert_same_bits(one, two):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), b), one, two)


# Sums over examples.


def masked(batch, rows, rubbish):
    mask, image = batch["mask"].copy(), batch["image"].copy()
    mask[rows], image[rows] = 0, rubbish
    return batch | {"mask": mask, "image": image}


def test_a_step_of_softmax_regression_is_that_of_the_textbook():
    batch = masked(images(), [1, 5], rubbish=1e3)
    # The first step leaves the zeros that all scores begin with.
    (_, before, after), (_, report) = run(build("softmax_regression"), images(1), batch)
    real = batch["mask"] > 0
    inputs = np.float64(batch["image"][real]).reshape(-1, 9)
    (kernel, bias) = (np.float64(before.params["logits"][name]) for name in ("kernel", "bias"))
    scores = np.exp(inputs @ kernel + bias)
    probabilities, labels = scores / scores.sum(1, keepdims=True), batch["label"][real]
    errors = (probabilities - np.eye(3)[labels]) / 14
    gradients = {"kernel": inputs.T @ errors, "bias": errors.sum(0)}
    for name, gradient in gradients.items():
        step = after.params["logits"][name] - before.params["logits"][name]
        np.testing.assert_allclose(step, -0.1 * 0.5**0.2 * gradient, rtol=1e-4, atol=1e-7)
    loss = -np.log(probabilities[np.arange(14), labels]).mean()
    norm = np.sqrt(sum(np.square(gradient).sum() for gradient in gradients.values()))
    assert float(report.loss) == pytest.approx(loss, rel=1e-5)
    assert float(report.gradient_norm) == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("layout", ["jit", "data", "fsdp"])
def test_a_masked_example_is_as_good_as_absent(layout):
    # The first four are all that the first two of eight devices have.
    rows = [0, 1, 2, 3, 7]
    batch = masked(images(), rows, rubbish=1e3)
    present = {name: np.delete(array, rows, axis=0) for name, array in images().items()}
    (_, expected), (alone,) = run(build("mlp", count=BATCH_SIZE - len(rows)), present)
    (_, state), (report,) = run(build("mlp", layout), batch)
    assert_close(state.params, expected.params, rtol=1e-5, atol=1e-6)
    assert_close(state.metrics, expected.metrics, rtol=1e-5)
    np.testing.assert_allclose(report.loss, alone.loss, rtol=1e-5)
    np.testing.assert_allclose(report.gradient_norm, alone.gradient_norm, rtol=1e-5)


@pytest.mark.parametrize(
    ("which", "layout"),
    [
        ("noisy_mlp", "jit"),
        ("char_lstm", "data"),
        *(
            pytest.param(*both, marks=pytest.mark.slow)
            for both in (
                ("char_lstm", "jit"),
                ("noisy_mlp", "data"),
                ("noisy_mlp", "fsdp"),
                ("char_lstm", "fsdp"),
            )
        ),
    ],
)
def test_accumulation_gives_the_gradient_of_the_whole_batch_noise_included(which, layout):
    make = letters if which == "char_lstm" else images
    batches = [make(seed) for seed in range(3)]
    whole, reports = run(build(which, rule="momentum"), *batches)
    parts, reports_of_parts = run(build(which, layout, rule="momentum", accumulate=2), *batches)
    # The state that examples carry from batch to batch, and the metrics, are the same too.
    assert_close(parts[-1], whole[-1], rtol=1e-5, atol=1e-6)
    assert_close(reports_of_parts, reports, rtol=1e-5)


def test_accumulation_moves_the_running_statistics_once_for_every_part():
    made = build("convnet_bn", accumulate=2)
    (before, after), _ = run(made, images())
    convolved = jax.lax.conv_general_dilated(
        images()["image"],
        before.params["conv1"]["kernel"],
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    first, second = (np.asarray(convolved)[index::2].mean((0, 1, 2)) for index in range(2))
    statistics = after.model_state["batch_stats"]["conv1_norm"]
    np.testing.assert_allclose(statistics["mean"], 0.09 * first + 0.1 * second, atol=1e-6)


def test_accumulation_is_refused_to_a_rule_of_its_own():
    with pytest.raises(UsageError, match="^accumulate=2 needs .* Perceptron has .*=1$"):
        build("perceptron", accumulate=2)


# What is kept from step to step.


@pytest.mark.parametrize("which", ["mlp", "convnet_bn"])
def test_moving_averages_of_parameters_and_statistics_are_sums_of_their_closed_form(which):
    decay, steps = 0.75, 6
    states, _ = run(build(which, ema_decay=decay), *(images(seed) for seed in range(steps)))
    weights = [decay**steps, *((1 - decay) * decay ** (steps - i) for i in range(1, steps + 1))]
    assert sum(weights) == pytest.approx(1)
    latest = [{"params": state.params, **state.model_state} for state in states]
    expected = jax.tree.map(
        lambda *values: sum(w * np.float64(v) for w, v in zip(weights, values, strict=True)),
        *latest,
    )
    assert_close(states[-1].average, expected, rtol=1e-5, atol=1e-7)
    assert_same_bits(states[0].average, latest[0])
    assert_same_bits(states[-1].variables(), states[-1].average)


def test_the_moving_average_is_what_is_evaluated():
    made = build("mlp", ema_decay=0.75)
    states, _ = run(made, *(images(seed) for seed in range(6)))
    sums = made.evaluate(jax.device_put(states[-1]), images(), np.int32(0))
    real = jax.tree.map(jnp.asarray, images())
    by_hand = {
        name: made.learner.evaluate({"params": params}, real, jax.random.key(0))["loss"].compute()
        for name, params in (
            ("average", states[-1].average["params"]),
            ("latest", states[-1].params),
        )
    }
    assert float(sums["loss"].compute()) == pytest.approx(by_hand["average"], rel=1e-5)
    assert by_hand["average"] != pytest.approx(by_hand["latest"], rel=1e-3)


def test_without_a_decay_there_is_no_average_and_the_parameters_are_evaluated():
    (state,), _ = run(build("mlp"))
    assert state.average is None
    assert state.variables()["params"] is state.params


def test_metrics_are_of_the_steps_since_the_last_record():
    states, reports = run(build("mlp", log_every=4), *(images(seed) for seed in range(6)))
    for step, first in ((3, 0), (4, 0), (5, 4), (6, 4)):
        loss, rate = states[step].metrics["loss"], states[step].metrics["learning_rate"]
        assert loss.count == BATCH_SIZE * (step - first)
        losses = [report.loss for report in reports[first:step]]
        assert loss.compute() == pytest.approx(np.mean(losses), rel=1e-5)
        rates = [0.1 * 0.5 ** (i / 5) for i in range(first, step)]
        assert rate.compute() == pytest.approx(np.mean(rates), rel=1e-5)
    assert states[-1].step == 6


# Randomness.


def test_a_step_repeats_itself_and_differs_from_the_next_and_from_another_seed():
    made = build("noisy_mlp")
    (_, state), (first,) = run(made, images())
    (_, again), (repeated,) = run(made, images())
    assert_same_bits(again, state)
    assert repeated.loss == first.loss
    # The same state but for its number, and but for the run's key.
    begun = made.initialize()
    later = made.step(begun.replace(step=jnp.int32(1)), images())[1]
    assert later.loss != first.loss
    begun = made.initialize()
    other = made.step(begun.replace(rng=begun.rng + 1), images())[1]
    assert other.loss not in (first.loss, later.loss)


def test_the_first_state_is_a_function_of_the_seed():
    (one,), _ = run(build("mlp"))
    (same,), _ = run(build("mlp", log_every=1))
    (other,), _ = run(build("mlp", seed=1))
    assert_same_bits(same.params, one.params)
    assert_same_bits(same.rng, one.rng)
    assert (other.rng != one.rng).any()
    assert (other.params["hidden0"]["kernel"] != one.params["hidden0"]["kernel"]).all()
    assert not any(np.any(total) for total in jax.tree.leaves(one.metrics))


@dataclasses.dataclass(frozen=True)
class Drawing(Perceptron):
    """Its evaluation gives numbers that it draws: one a batch, and one an example."""

    parallelisms: ClassVar = parallel.NAMES

    def evaluate(self, variables, batch, key):
        count = len(batch["mask"])
        of_batch = jnp.broadcast_to(jax.random.normal(key), (count,))
        of_examples = jax.vmap(jax.random.normal)(parallel.example_keys(key, count))
        return {"drawn": Rows(jnp.stack([of_batch, of_examples], 1), batch["mask"])}


def drawn(layout="jit", count=3, **changes):
    """What three batches of an evaluation draw, `[batches, examples, 2]`."""
    made = build(Drawing(models.create("perceptron", num_classes=3)), layout, devices=4)
    state = made.parallelism.place_state(made.initialize().replace(**changes))
    found = evaluation.evaluate(made, state, [images(seed) for seed in range(count)])
    return found["drawn"].reshape(count, BATCH_SIZE, 2)


def test_an_evaluation_draws_the_same_at_every_call_and_anew_for_every_batch():
    first, later, other = drawn(), drawn(step=jnp.int32(9)), drawn(rng=jnp.zeros(2, jnp.uint32))
    np.testing.assert_array_equal(first, later)
    assert not np.isin(other, first).any()
    of_batch, of_examples = first[..., 0], first[..., 1]
    assert [len(set(numbers)) for numbers in of_batch] == [1, 1, 1]
    assert len(np.unique(of_batch)) == 3
    assert len(np.unique(of_examples)) == 3 * BATCH_SIZE


@pytest.mark.parametrize("layout", ["pmap", "data", "fsdp"])
def test_what_an_evaluation_draws_does_not_depend_on_the_layout(layout):
    np.testing.assert_array_equal(drawn(layout), drawn())


# Numbers that are not finite.


@pytest.mark.parametrize(
    ("which", "layout"),
    [("convnet_bn", "jit"), ("convnet_bn", "data"), ("convnet_bn", "fsdp"), ("perceptron", "jit")],
)
@pytest.mark.parametrize("rubbish", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_the_number_of_the_step_and_no_other_bit(
    which, layout, rubbish
):
    rule = "sgd" if which == "perceptron" else "adam"
    poisoned = images()
    # In the hands of one device of eight.
    poisoned["image"][5, 1, 1, 0] = rubbish
    made = build(which, layout, rule=rule, ema_decay=0.9)
    states, reports = run(made, images(1), poisoned, images(2))
    assert [bool(report.finite) for report in reports] == [True, False, True]
    assert_same_bits(states[2], states[1].replace(step=np.int32(2)))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), states[3].params, states[2].params)
    assert any(jax.tree.leaves(changed))
    assert np.isfinite(reports[2].loss)


def test_a_record_that_begins_with_such_a_step_does_not_hold_the_one_before():
    poisoned = images()
    poisoned["image"][0] = np.nan
    states, _ = run(build("mlp"), *(images(seed) for seed in range(4)), poisoned, images(4))
    assert states[4].metrics["loss"].count == 4 * BATCH_SIZE
    assert states[5].metrics["loss"].count == 0
    assert states[6].metrics["loss"].count == BATCH_SIZE


@dataclasses.dataclass(frozen=True)
class Root(Descent):
    """sqrt(w) at w = 0: a finite loss whose gradient is not."""

    def init(self, key, batch):
        return {"params": {"w": jnp.zeros(())}}

    def loss(self, params, model_state, batch, key):
        count = batch["mask"].sum()
        total = jnp.sqrt(params["w"]) * count
        return total, Aux(count, model_state, {"loss": Mean(total, count)})

    def evaluate(self, variables, batch, key):
        return {"loss": Mean.of(jnp.sqrt(variables["params"]["w"]))}


def test_a_finite_loss_with_a_gradient_that_is_not_is_not_finite():
    states, (report,) = run(build(Root(model=None)), images())
    assert np.isfinite(report.loss)
    assert not np.isfinite(report.gradient_norm)
    assert not report.finite
    assert states[1].params["w"] == 0


class Steep(Root):
    """1e10 w: a step of rate 1e30 leads beyond the largest number of float32."""

    def loss(self, params, model_state, batch, key):
        count = batch["mask"].sum()
        total = 1e10 * params["w"] * count
        return total, Aux(count, model_state, {"loss": Mean(total, count)})


@pytest.mark.parametrize("layout", ["jit", "data"])
def test_parameters_that_an_update_makes_infinite_are_not_taken_over(layout):
    states, (report,) = run(
        small.build(Steep(model=None), images(), layout, schedule=1e30), images()
    )
    assert float(report.gradient_norm) == pytest.approx(1e10)
    assert not report.finite
    assert states[1].params["w"] == 0


# What a rule of its own reports.


def test_a_rule_of_its_own_reports_how_far_it_moved():
    (before, after), (report,) = run(build("perceptron"), images())
    moved = optax.tree.norm(jax.tree.map(np.subtract, after.params, before.params))
    assert float(report.gradient_norm) == pytest.approx(float(moved), rel=1e-5)
    assert moved > 0
