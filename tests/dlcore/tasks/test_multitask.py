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
VARIABLES = MODEL.init(jax.random.key(0), BATCH["image"])
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


def gradients(class_weight, tag_weight):
    task = tasks.create("multitask", MODEL, class_weight=class_weight, tag_weight=tag_weight)
    return jax.grad(lambda params: task.loss(params, {}, BATCH, jax.random.key(0))[0])(
        VARIABLES["params"]
    )


def test_the_loss_is_the_weighted_sum_of_both_heads_losses():
    task = tasks.create("multitask", MODEL, class_weight=2.0, tag_weight=0.5)
    sums = task.evaluate(VARIABLES, BATCH)
    values = metrics.compute(sums)
    scores, logits = (np.float64(output) for output in MODEL.apply(VARIABLES, BATCH["image"]))
    real = np.array(BATCH["mask"]) > 0
    of_class = -scipy.special.log_softmax(scores, axis=1)[np.arange(8), np.arange(8)][real]
    of_tags = -scipy.special.log_expit((2 * SEGMENTS - 1) * logits).sum(1)[real]
    assert values["tag_loss"] == pytest.approx(of_tags.mean(), rel=1e-5)
    assert values["loss"] == pytest.approx(2 * of_class.mean() + 0.5 * of_tags.mean(), rel=1e-5)
    right = scores.argmax(1) == np.arange(8)
    assert values["accuracy"] == pytest.approx(right[real].mean())
    assert values["confusion"].sum() == 7
    probabilities = task.predict(VARIABLES, BATCH)
    np.testing.assert_allclose(probabilities, scipy.special.softmax(scores, axis=1), rtol=1e-4)


def test_the_trunk_gets_the_weighted_sum_of_what_the_heads_ask_and_a_head_its_own():
    alone, other, both = gradients(1.0, 0.0), gradients(0.0, 1.0), gradients(2.0, 0.5)
    jax.tree.map(
        lambda a, b, ab: np.testing.assert_allclose(ab, 2 * a + 0.5 * b, rtol=1e-4, atol=1e-6),
        alone,
        other,
        both,
    )
    assert not np.any(alone["tag_head"]["kernel"])
    assert not np.any(other["class_head"]["kernel"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": -1.0}, "class_weight is -1.0: it must not be negative"),
        ({"tag_weight": -0.1}, "tag_weight is -0.1"),
        ({"class_weight": 0.0, "tag_weight": 0.0}, "both 0: nothing would be learnt"),
    ],
)
def test_weights_that_cannot_be_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        tasks.create("multitask", MODEL, **options)


def test_heads_of_other_sizes_are_refused():
    with pytest.raises(UsageError, match=r"10 digits and 7 segments, not \(3, 7\)"):
        tasks.create("multitask", models.create("multitask_mlp", num_classes=3))
