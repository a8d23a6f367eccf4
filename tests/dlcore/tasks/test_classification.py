"""Classification against closed forms in float64, with masks, and over several devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from dlcore import metrics, models, tasks
from dlcore.errors import UsageError
from dlcore.parallel import AXIS, psum
from dlcore.tasks import classification
from tests import small
from tests.fixtures import cases, layer_cases, network_cases

CLASSES, KEY = 4, jax.random.key(0)


def make_batch(count=12, seed=0, masked=0):
    """Random rows of `CLASSES` numbers as images, and labels; the last `masked` are padding."""
    rng = np.random.default_rng(seed)
    mask = np.ones(count, np.float32)
    mask[count - masked :] = 0
    return {
        "image": jnp.asarray(rng.normal(size=(count, CLASSES)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, CLASSES, count), jnp.int32),
        "mask": jnp.asarray(mask),
    }


def identity_task(**options):
    """A task whose scores are the images themselves, so that a loss is a function of its batch."""
    model = models.create("softmax_regression", num_classes=CLASSES)
    params = {"logits": {"kernel": jnp.eye(CLASSES), "bias": jnp.zeros(CLASSES)}}
    return tasks.create("classification", model, **options), params


def loss_of(batch, **options):
    task, params = identity_task(**options)
    total, aux = task.loss(params, {}, batch, KEY)
    return float(total), aux


def log_softmax(scores):
    return scipy.special.log_softmax(np.asarray(scores, np.float64), axis=1)


def test_the_loss_is_the_sum_of_the_labels_surprises():
    batch = make_batch()
    total, aux = loss_of(batch)
    expected = -log_softmax(batch["image"])[np.arange(12), batch["label"]].sum()
    assert total == pytest.approx(expected, rel=1e-5)
    assert float(aux.count) == 12
    assert metrics.compute(aux.metrics)["loss"] == pytest.approx(expected / 12, rel=1e-5)


def test_the_accuracy_is_the_share_of_largest_scores_on_labels():
    batch = make_batch()
    hits = np.asarray(batch["image"]).argmax(1) == np.asarray(batch["label"])
    assert metrics.compute(loss_of(batch)[1].metrics)["accuracy"] == pytest.approx(hits.mean())


@pytest.mark.parametrize(("classes", "counted"), [(99, False), (100, True)])
def test_of_many_classes_the_five_best_count(classes, counted):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, classes)).astype(np.float32)
    # The label has the fifth or the sixth largest score.
    ranks = np.arange(40) % 2 + 4
    labels = np.argsort(-scores, axis=1)[np.arange(40), ranks]
    task = tasks.create("classification", nn.Dense(classes))
    mask = np.ones(40, np.float32)
    mask[:10] = 0
    batch = {"label": jnp.asarray(labels), "mask": jnp.asarray(mask)}
    found = metrics.compute(task.metrics(jnp.asarray(scores), batch))
    assert found["accuracy"] == 0
    assert found.get("top_5_accuracy") == (0.5 if counted else None)


@settings(max_examples=20, deadline=None)
@given(smoothing=st.floats(0, 0.99))
def test_label_smoothing_mixes_the_label_with_the_uniform_distribution(smoothing):
    batch = make_batch()
    surprise = -log_softmax(batch["image"])
    of_label = surprise[np.arange(12), batch["label"]]
    expected = ((1 - smoothing) * of_label + smoothing * surprise.mean(1)).sum()
    assert loss_of(batch, label_smoothing=smoothing)[0] == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_and_its_gradient_equal_pytorch_s():
    case, stored = layer_cases.cross_entropy(), cases.load("cross_entropy")
    model = models.create("softmax_regression", num_classes=7)
    params = {"logits": {"kernel": jnp.eye(7), "bias": jnp.zeros(7)}}
    for row, smoothing in enumerate(case["label_smoothing"]):
        task = tasks.create("classification", model, label_smoothing=float(smoothing))

        def loss(logits, task=task):
            labels, mask = jnp.asarray(case["labels"]), jnp.ones(12)
            batch = {"image": logits, "label": labels, "mask": mask}
            return task.loss(params, {}, batch, KEY)[0]

        total, gradient = jax.value_and_grad(loss)(jnp.asarray(case["logits"]))
        assert float(total) == pytest.approx(stored["losses"][row], rel=1e-5)
        np.testing.assert_allclose(gradient, stored["gradients"][row], rtol=1e-4, atol=1e-6)


def assert_summary(stored, kind, network, values):
    """Norms and parts along directions of a tree of values are the stored ones."""
    for layer, named in network.directions().items():
        for name, direction in named.items():
            value = np.asarray(values[layer][name], np.float64)
            norm = stored[f"{kind}_norm/{layer}/{name}"]
            assert np.linalg.norm(value) == pytest.approx(norm, rel=1e-4)
            part = stored[f"{kind}_part/{layer}/{name}"]
            assert (value * direction).sum() == pytest.approx(part, abs=1e-4 * norm)


@pytest.mark.parametrize("name", ["mlp", "lenet5_modern"])
def test_five_steps_of_momentum_equal_pytorch_s(name):
    network, stored = getattr(network_cases, name)(), cases.load(name)
    task = tasks.create("classification", models.create(name))
    batch = {
        "image": jnp.asarray(network.images),
        "label": jnp.asarray(network.labels),
        "mask": jnp.ones(len(network.labels)),
    }
    optimizer = optax.sgd(cases.LEARNING_RATE, cases.MOMENTUM)

    @jax.jit
    def step(params, opt_state):
        (total, aux), gradients = jax.value_and_grad(task.loss, has_aux=True)(
            params, {}, batch, KEY
        )
        gradients = jax.tree.map(lambda sums: sums / aux.count, gradients)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), opt_state, total / aux.count, gradients

    params = jax.tree.map(jnp.asarray, network.params)
    logits = task.model.apply({"params": params}, batch["image"])
    np.testing.assert_allclose(logits, stored["logits"], rtol=1e-4, atol=1e-5)
    opt_state, losses = optimizer.init(params), []
    for index in range(cases.STEPS):
        params, opt_state, loss, gradients = step(params, opt_state)
        losses.append(float(loss))
        if index == 0:
            assert_summary(stored, "gradient", network, gradients)
    np.testing.assert_allclose(losses, stored["losses"], rtol=1e-4)
    change = jax.tree.map(lambda new, old: np.asarray(new) - old, params, network.params)
    assert_summary(stored, "change", network, change)


@settings(max_examples=20, deadline=None)
@given(penalty=st.floats(0.01, 50))
def test_a_rubbish_penalty_gives_the_map_criterion(penalty):
    # LeCun et al. (1998), eq. 9, with penalties y = -scores: y_D + log(exp(-j) + sum of exp(-y_i)).
    batch = make_batch()
    y = -np.asarray(batch["image"], np.float64)
    of_label = y[np.arange(12), batch["label"]]
    expected = (of_label + np.log(np.exp(-penalty) + np.exp(-y).sum(1))).sum()
    assert loss_of(batch, rubbish_penalty=penalty)[0] == pytest.approx(expected, rel=1e-5)


def test_the_rubbish_class_keeps_penalties_from_all_growing_at_no_cost():
    # Without it, moving all penalties together changes nothing.
    batch = make_batch()
    further = {**batch, "image": batch["image"] - 10}
    assert loss_of(further)[0] == pytest.approx(loss_of(batch)[0], rel=1e-4)
    assert loss_of(further, rubbish_penalty=5.0)[0] > loss_of(batch, rubbish_penalty=5.0)[0] + 10


@settings(max_examples=10, deadline=None)
@given(masked=st.integers(0, 12))
def test_an_evaluation_counts_unmasked_examples_whatever_the_others_hold(masked):
    count = 12 - masked
    batch = make_batch(masked=masked)
    scores, labels = np.asarray(batch["image"]), np.asarray(batch["label"])
    batch["image"] = jnp.where(batch["mask"][:, None] > 0, batch["image"], jnp.nan)
    batch["label"] = jnp.where(batch["mask"] > 0, batch["label"], 99)
    task, params = identity_task()
    sums = task.evaluate({"params": params}, batch, KEY)
    right = scores[:count].argmax(1) == labels[:count]
    assert float(sums["accuracy"].total) == right.sum()
    surprise = -log_softmax(scores)[np.arange(count), labels[:count]].sum()
    assert float(sums["loss"].total) == pytest.approx(surprise, rel=1e-5)
    assert float(sums["loss"].count) == float(sums["accuracy"].count) == count


def one_hot(labels):
    return np.eye(CLASSES)[np.asarray(labels)]


CRITERIA = {
    "cross_entropy": lambda scores, labels: -log_softmax(scores)[np.arange(12), labels],
    "kl_divergence": lambda scores, labels: -log_softmax(scores)[np.arange(12), labels],
    "square": lambda scores, labels: np.square(scores - one_hot(labels)).sum(1),
    "half_square": lambda scores, labels: np.square(scores - one_hot(labels)).sum(1) / 2,
    "mean_square": lambda scores, labels: np.square(scores - one_hot(labels)).mean(1),
    "absolute": lambda scores, labels: np.abs(scores - one_hot(labels)).sum(1),
    "hinge": lambda scores, labels: (
        (scores + 1 - one_hot(labels)).max(1) - scores[np.arange(12), labels]
    ),
}


def test_every_criterion_is_one_that_is_tested():
    assert set(CRITERIA) == set(classification.CRITERIA)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_criterion_sums_its_loss_over_the_examples(criterion):
    batch = make_batch()
    scores, labels = np.float64(batch["image"]), np.asarray(batch["label"])
    expected = CRITERIA[criterion](scores, labels).sum()
    assert loss_of(batch, criterion=criterion)[0] == pytest.approx(expected, rel=1e-5)


def test_the_kl_divergence_of_smoothed_labels_is_0_where_they_are_met():
    batch = make_batch()
    smoothed = 0.8 * one_hot(batch["label"]) + 0.2 / CLASSES
    met = {**batch, "image": jnp.log(smoothed).astype(jnp.float32)}
    options = {"label_smoothing": 0.2}
    assert loss_of(met, criterion="kl_divergence", **options)[0] == pytest.approx(0, abs=1e-5)
    entropy = -(smoothed * np.log(smoothed)).sum()
    assert loss_of(met, **options)[0] == pytest.approx(entropy, rel=1e-5)


def test_predictions_are_probabilities_and_leave_rubbish_out():
    batch = make_batch()
    task, params = identity_task(rubbish_penalty=1.0)
    probabilities = task.predict({"params": params}, batch)
    np.testing.assert_allclose(probabilities, np.exp(log_softmax(batch["image"])), rtol=1e-5)


class Heads(nn.Module):
    """The images themselves as scores, in training beside those of two auxiliary heads."""

    @nn.compact
    def __call__(self, x, train=False):
        factors = self.param("factors", nn.initializers.ones, (2,))
        return (x, factors[0] * x, factors[1] * jnp.flip(x, 1)) if train else x


def test_auxiliary_heads_add_their_weighted_losses_in_training_only():
    # Szegedy et al. (2015), section 5.
    batch, factors = make_batch(masked=2), np.array([2.0, -1.0])
    task = tasks.create("classification", Heads())
    total, aux = task.loss({"factors": jnp.asarray(factors)}, {}, batch, KEY)
    scores, labels = np.float64(batch["image"])[:10], np.asarray(batch["label"])[:10]
    heads = (scores, 2 * scores, -scores[:, ::-1])
    main, *others = (-log_softmax(head)[np.arange(10), labels].sum() for head in heads)
    assert float(total) == pytest.approx(main + 0.3 * sum(others), rel=1e-5)
    accuracy = (scores.argmax(1) == labels).mean()
    values = metrics.compute(aux.metrics)
    assert values["accuracy"] == pytest.approx(accuracy)
    evaluated = metrics.compute(task.evaluate({"params": {"factors": factors}}, batch, KEY))
    assert evaluated == pytest.approx({"loss": main / 10, "accuracy": accuracy}, rel=1e-5)
    heavier = tasks.create("classification", Heads(), auxiliary_weight=1.0)
    total, _ = heavier.loss({"factors": jnp.asarray(factors)}, {}, batch, KEY)
    assert float(total) == pytest.approx(main + sum(others), rel=1e-5)


@functools.cache
def normalized():
    """A task whose model has batch normalization, its first variables and a batch."""
    model = models.create("convnet_bn", num_classes=CLASSES, features=(3,))
    task = tasks.create("classification", model)
    images = np.random.default_rng(1).normal(size=(16, 4, 4, 1)).astype(np.float32)
    batch = {**make_batch(16), "image": jnp.asarray(images)}
    return task, small.init(task, batch), batch


def gradients(batch):
    """The sums of a training step and of an evaluation, over all devices, and the new state."""
    task, variables, _ = normalized()
    state = {"batch_stats": variables["batch_stats"]}
    (total, aux), slopes = jax.value_and_grad(task.loss, has_aux=True)(
        variables["params"], state, batch, jax.random.key(5)
    )
    sums = (total, aux.count, slopes, aux.metrics, task.evaluate(variables, batch, KEY))
    return psum(sums), aux.model_state


@pytest.mark.slow
def test_training_moves_the_model_s_state_and_eight_devices_sum_to_what_one_gives():
    _, variables, batch = normalized()
    sums, state = jax.jit(gradients)(batch)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).all()), dict(state), {"batch_stats": variables["batch_stats"]}
    )
    assert all(jax.tree.leaves(moved))
    assert sums[-1].keys() == {"loss", "accuracy", "nan_predictions"}
    mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    split, same = PartitionSpec(AXIS), PartitionSpec()
    several = jax.shard_map(gradients, mesh=mesh, in_specs=split, out_specs=same, check_vma=False)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        jax.jit(several)(batch),
        (sums, state),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing=1.0: it must be at least 0 and below 1"),
        (
            {"criterion": "mse"},
            "unknown criterion 'mse': it is one of cross_entropy, hinge, square",
        ),
        ({"criterion": "hinge", "label_smoothing": 0.1}, "does not go with hinge"),
        (
            {"criterion": "square", "rubbish_penalty": 1.0},
            "goes with cross_entropy, not with square",
        ),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1: it must be at least 0"),
        ({"rubbish_penalty": -1.0}, "rubbish_penalty=-1.0: it must be at least 0"),
        ({"auxiliary_weight": -0.3}, "auxiliary_weight=-0.3: it must be at least 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        identity_task(**options)


@pytest.mark.parametrize("criterion", ["cross_entropy", "square"])
def test_several_views_of_an_example_are_averaged_into_one_prediction(criterion):
    batch = make_batch(count=6, masked=1)
    views = 3 * np.random.default_rng(1).normal(size=(6, 10, CLASSES)).astype(np.float32)
    task, params = identity_task(criterion=criterion)
    seen = {**batch, "views": jnp.asarray(views)}
    probability = scipy.special.softmax(views.astype(np.float64), axis=-1).mean(1)
    # An output that is itself the prediction is averaged itself.
    scores = np.log(probability) if criterion == "cross_entropy" else views.mean(1)
    expected = scipy.special.softmax(scores, axis=-1)
    np.testing.assert_allclose(task.predict({"params": params}, seen), expected, atol=1e-6)

    def measured_with(**options):
        task, params = identity_task(criterion=criterion, **options)
        return metrics.compute(task.evaluate({"params": params}, seen, KEY))

    measured = measured_with()
    accuracy = (scores.argmax(1) == batch["label"])[:5].mean()
    assert measured["accuracy"] == pytest.approx(accuracy)
    if criterion == "cross_entropy":
        surprises = -np.log(probability[np.arange(5), batch["label"][:5]])
        assert measured["loss"] == pytest.approx(surprises.mean(), rel=1e-5)
        # A rubbish class competes with the averaged probabilities, which add up to 1.
        rubbish = measured_with(rubbish_penalty=0.5)["loss"] - measured["loss"]
        assert rubbish == pytest.approx(np.log(1 + np.exp(-0.5)), rel=1e-5)
    one_view = {**batch, "views": batch["image"][:, None]}
    single = metrics.compute(task.evaluate({"params": params}, one_view, KEY))
    plain = metrics.compute(task.evaluate({"params": params}, batch, KEY))
    assert single["loss"] == pytest.approx(plain["loss"], rel=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scores", [(300.0, 290.0, 0.0), (-1e4,) * 7])
def test_the_loss_keeps_its_digits_at_large_scores(scores, smoothing, penalty):
    count = len(scores)
    task = tasks.create(
        "classification",
        models.create("softmax_regression", num_classes=count),
        label_smoothing=smoothing,
        rubbish_penalty=penalty,
    )
    params = {"logits": {"kernel": jnp.eye(count), "bias": jnp.zeros(count)}}
    batch = {"image": jnp.array([scores]), "label": jnp.array([0]), "mask": jnp.ones(1)}
    total, _ = task.loss(params, {}, batch, KEY)
    rivals = np.array([*scores, -penalty] if penalty else scores, np.float64)
    targets = (1 - smoothing) * np.eye(count)[0] + smoothing / count
    expected = -(targets * scipy.special.log_softmax(rivals)[:count]).sum()
    assert float(total) == pytest.approx(expected, rel=2e-3 if expected < 1e-3 else 1e-6)


def test_nan_scores_are_wrong_and_counted():
    task, params = identity_task()
    batch = make_batch(6, masked=1)
    right = np.asarray(batch["image"]).argmax(1)
    whole = {**batch, "label": jnp.asarray(right, jnp.int32)}
    assert metrics.compute(task.evaluate({"params": params}, whole, KEY)).keys() == {
        "loss",
        "accuracy",
    }
    # Two of the five, one of them in one score only; and the masked one.
    image = batch["image"].at[np.array([0, 5])].set(np.nan).at[1, right[1]].set(np.nan)
    values = metrics.compute(task.evaluate({"params": params}, {**whole, "image": image}, KEY))
    assert values["accuracy"] == pytest.approx(3 / 5)
    assert values["nan_predictions"] == 2
    views = jnp.stack([whole["image"], image], 1)
    values = metrics.compute(task.evaluate({"params": params}, {**whole, "views": views}, KEY))
    assert values["nan_predictions"] == 2


@pytest.mark.parametrize("rubbish", [np.nan, np.inf])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_masked_example_reaches_no_gradient_whatever_it_holds(criterion, rubbish):
    task, params = identity_task(criterion=criterion)
    batch = make_batch(5, masked=2)
    kept = {name: array[:3] for name, array in batch.items()}
    image = batch["image"].at[3:].set(rubbish)
    batch = {**batch, "image": image, "label": batch["label"].at[3:].set(99)}
    slopes = jax.grad(lambda params, batch: task.loss(params, {}, batch, KEY)[0])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        slopes(params, batch),
        slopes(params, kept),
    )
