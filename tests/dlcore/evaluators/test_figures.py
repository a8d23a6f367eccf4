"""Evaluators that show a trained model: what they draw it from, and where they draw nothing."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import data, evaluators, models, tasks
from dlcore.data.features import ClassLabel, Row
from dlcore.errors import UsageError
from dlcore.evaluators.continuation import continue_text
from dlcore.evaluators.filters import first_image_kernel
from tests import small

KEY = jax.random.key(3)


def evaluate(name, trained, **options):
    return evaluators.create(name, **options).evaluate(trained, "validation", KEY)


def test_samples_are_drawn_with_the_key_that_is_given():
    seen = []

    def sample(variables, key, count):
        seen.append((variables, key, count))
        return jnp.zeros((count, 4, 4, 1))

    learner = types.SimpleNamespace(sample=sample)
    trained = types.SimpleNamespace(learner=learner, variables="its own")
    found = evaluate("samples", trained, count=5)
    assert list(found.figures) == ["samples"]
    assert seen == [("its own", KEY, 5)]


class Separable(nn.Module):
    """A convolution of the image, then one of each channel alone, whose name comes first."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(6, (3, 3), name="stem")(x)
        x = nn.Conv(6, (3, 3), feature_group_count=6, name="depthwise")(x)
        return nn.Dense(4, name="logits")(x.mean((1, 2)))


def trained_on(dataset, model):
    learner = tasks.create("classification", model)
    batch = jax.tree.map(jnp.asarray, dataset.example_batch(1))
    variables = learner.init(KEY, dataset.transform(batch, None, False))
    return types.SimpleNamespace(dataset=dataset, learner=learner, variables=variables)


def test_the_kernels_of_the_convolution_that_sees_the_image_are_drawn():
    trained = trained_on(small.images(), Separable())
    assert trained.variables["params"]["depthwise"]["kernel"].shape == (3, 3, 1, 6)
    kernel = trained.variables["params"]["stem"]["kernel"]
    np.testing.assert_array_equal(first_image_kernel(trained), kernel)
    assert list(evaluate("filters", trained).figures) == ["filters"]


def test_where_no_kernel_sees_the_image_nothing_is_drawn():
    row = {"row": Row(("x",)), "label": ClassLabel(("a", "b"))}
    rows = data.from_arrays(row, {"train": {"row": np.zeros((9, 1)), "label": np.zeros(9, int)}})
    needs = {"image": (Row,), "label": (ClassLabel,)}
    for dataset, model in (
        (small.images(), models.create("mlp", num_classes=4)),
        (small.images(shape=(4, 4, 2)), Separable()),
        (rows.provide(needs), models.create("mlp", num_classes=2)),
    ):
        found = evaluate("filters", trained_on(dataset, model))
        assert found == evaluators.Findings()


def test_the_metrics_so_far_are_drawn_and_none_before_the_first():
    metrics = {"train": {name: np.array([1.0, 2.0]) for name in ("step", "epoch", "loss")}}
    found = evaluate("learning_curves", types.SimpleNamespace(metrics=metrics))
    assert list(found.figures) == ["learning_curves"]
    assert evaluate("learning_curves", types.SimpleNamespace(metrics={})) == evaluators.Findings()


class Alphabet:
    """Goes on with the next characters of the vocabulary."""

    def continuation(self, variables, key, prompt, length, temperature):
        self.asked = variables, key, temperature
        return (prompt[:, -1:] + 1 + np.arange(length)) % 5


def test_a_text_is_the_prompt_and_what_the_model_makes_of_it():
    dataset = small.letters()
    learner = Alphabet()
    trained = types.SimpleNamespace(learner=learner, variables="its own", dataset=dataset)
    assert dataset.vocabulary == " abcd"
    assert continue_text(trained, KEY, "a", 6, 0.5) == "abcd ab"
    assert learner.asked == ("its own", KEY, 0.5)
    with pytest.raises(UsageError, match="has '\\?'"):
        continue_text(trained, KEY, "a?", 6, 0.5)
    # Of a text without a line break, it begins with a character that is there.
    assert evaluate("continuation", trained).texts["sample"].startswith(" abcd abcd")
