"""Two heads over one trunk: their losses, the weights of them, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from dlcore import metrics, models, tasks
from dlcore.errors import UsageError

MODEL = models.create("multitask_mlp", hidden=(6,))
RNG = np.random.default_rng(0)
BATCH = {
    "image": jnp.asarray(RNG.normal(size=(8, 5)), jnp.float32),
    "label": jnp.arange(8, dtype=jnp.int32),
    "mask": jnp.array([1, 1, 1, 1, 1, 1, 0, 1], jnp.float32),
}
# The segments top, upper right, lower right, bottom, lower left, upper left, middle of 0 to 7.
SEGMENTS = np.array(
    [
        [1, 1, 1, 1, 1, 1, 0],
        [0, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 1],
        [1, 1, 1, 1, 0, 0, 1],
        [0, 1, 1, 0, 0, 1, 1],
        [1, 0, 1, 1, 0, 1, 1],
        [1, 0, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0, 0],
    ]
)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(MODEL.init)(jax.random.key(0), BATCH["image"])


def weighted(class_weight, tag_weight):
    return tasks.create("multitask", MODEL, class_weight=class_weight, tag_weight=tag_weight)


def test_the_loss_is_the_weighted_sum_of_both_heads_losses(variables):
    task = weighted(2.0, 0.5)

    @jax.jit
    def run():
        outputs = MODEL.apply(variables, BATCH["image"])
        return (
            outputs,
            task.evaluate(variables, BATCH, jax.random.key(0)),
            task.predict(variables, BATCH),
        )

    outputs, sums, probabilities = run()
    values = metrics.compute(sums)
    scores, logits = map(np.float64, outputs)
    real = np.array(BATCH["mask"]) > 0
    of_class = -scipy.special.log_softmax(scores, axis=1)[np.arange(8), np.arange(8)][real]
    of_tags = -scipy.special.log_expit((2 * SEGMENTS - 1) * logits).sum(1)[real]
    assert values["tag_loss"] == pytest.approx(of_tags.mean(), rel=1e-5)
    assert values["loss"] == pytest.approx(2 * of_class.mean() + 0.5 * of_tags.mean(), rel=1e-5)
    right = scores.argmax(1) == np.arange(8)
    assert values["accuracy"] == pytest.approx(right[real].mean())
    np.testing.assert_allclose(probabilities, scipy.special.softmax(scores, axis=1), rtol=1e-4)


def test_the_trunk_gets_the_weighted_sum_of_what_the_heads_ask_and_a_head_its_own(variables):
    @jax.jit
    def gradients(params):
        return [
            jax.grad(lambda own, task=task: task.loss(own, {}, BATCH, jax.random.key(0))[0])(params)
            for task in (weighted(1.0, 0.0), weighted(0.0, 1.0), weighted(2.0, 0.5))
        ]

    alone, other, both = gradients(variables["params"])
    jax.tree.map(
        lambda a, b, ab: np.testing.assert_allclose(ab, 2 * a + 0.5 * b, rtol=1e-4, atol=1e-6),
        alone,
        other,
        both,
    )
    assert not np.any(alone["tag_logits"]["kernel"])
    assert not np.any(other["class_logits"]["kernel"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": -1.0}, "class_weight=-1.0: it must be at least 0"),
        ({"tag_weight": float("nan")}, "tag_weight=nan"),
        ({"class_weight": 0.0, "tag_weight": 0.0}, "both 0: nothing would be learned"),
    ],
)
def test_weights_that_cannot_be_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        tasks.create("multitask", MODEL, **options)


def test_heads_of_other_sizes_are_refused():
    with pytest.raises(UsageError, match=r"10 digits and 7 segments, not \(3, 7\)"):
        tasks.create("multitask", models.create("multitask_mlp", num_classes=3))


def test_a_head_of_nan_is_wrong_in_what_it_tells_and_counted(variables):
    params = variables["params"]
    nan = jnp.full_like(params["class_logits"]["bias"], jnp.nan)
    broken = {**params, "class_logits": {**params["class_logits"], "bias": nan}}
    batch = {**BATCH, "label": jnp.zeros(8, jnp.int32)}
    found = weighted(1.0, 1.0).evaluate({"params": broken}, batch, jax.random.key(0))
    values = metrics.compute(found)
    assert values["accuracy"] == 0
    assert values["nan_predictions"] == 7
    assert values["tag_accuracy"] > 0


def test_the_loss_keeps_its_digits_at_large_scores(variables):
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    params["class_logits"]["bias"] = jnp.full(10, -1e4)
    values = metrics.compute(
        weighted(1.0, 0.0).evaluate({"params": params}, BATCH, jax.random.key(0))
    )
    assert values["loss"] == pytest.approx(np.log(10), rel=1e-6)
