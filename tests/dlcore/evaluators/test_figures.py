"""Evaluators that show a trained model: what they draw it from, and where they draw nothing."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import evaluators
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


def test_the_kernels_of_the_convolution_that_sees_the_image_are_drawn():
    kernel = np.arange(54.0).reshape(3, 3, 1, 6)
    params = {
        "dense": {"kernel": np.zeros((5, 6))},
        "first": {"bias": np.zeros(6), "kernel": kernel},
        "second": {"kernel": np.zeros((3, 3, 6, 8))},
    }
    np.testing.assert_array_equal(first_image_kernel(params), kernel)
    trained = types.SimpleNamespace(variables={"params": params})
    assert list(evaluate("filters", trained).figures) == ["filters"]


@pytest.mark.parametrize("shape", [(5, 6), (3, 3, 4, 8), (1, 1, 3, 8)])
def test_where_no_kernel_sees_the_image_nothing_is_drawn(shape):
    trained = types.SimpleNamespace(variables={"params": {"layer": {"kernel": np.zeros(shape)}}})
    assert evaluate("filters", trained) == evaluators.Findings()


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
