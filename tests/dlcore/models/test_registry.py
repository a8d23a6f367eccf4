"""The registry, and the sweep that holds every entry to what it declares."""

import functools
import math

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dlcore import models
from dlcore.errors import UsageError
from dlcore.models.linear import SoftmaxRegression
from kernels import dispatch

# The issues' table of counts, written down apart from the entries.
PUBLISHED_COUNTS = {
    "softmax_regression": 7_850,
    "mlp": 397_510,
    "mlp_dropout": 669_706,
    "lenet5": 60_000,
    "lenet5_modern": 61_706,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet20_cifar": 269_722,
    "resnet32_cifar": 464_154,
    "resnet44_cifar": 658_586,
    "resnet56_cifar": 853_018,
    "resnet110_cifar": 1_727_962,
}
# An entry with more parameters runs under `make test-all` only; its count and shapes always.
LARGE = 10_000_000
# So does one that takes long to compile: a deeper form of one that is always run.
DEEP = {"resnet32_cifar", "resnet44_cifar", "resnet56_cifar", "resnet110_cifar"}


def counted(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def drawn_inputs(shapes, seed):
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
        return jnp.asarray(rng.integers(0, 2, leaf.shape), leaf.dtype)  # Tokens of any vocabulary.

    return jax.tree.map(draw, shapes)


def drawn_variables(shapes):
    """Variables drawn by NumPy: compiling a large network's `init` takes minutes."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        numbers = rng.normal(size=leaf.shape)
        if path[-1].key == "var":
            numbers = np.ones(leaf.shape)
        elif path[-1].key == "scale":
            numbers = 1 + 0.1 * numbers
        elif leaf.ndim > 1:
            numbers /= math.sqrt(math.prod(leaf.shape[:-1]))
        else:
            numbers *= 0.1
        return jnp.asarray(numbers, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


class Subject:
    """A registry entry, and its runs, each compiled once for all checks."""

    def __init__(self, name):
        self.entry = models.entry(name)
        self.model = models.create(name)
        init = functools.partial(self.model.init, jax.random.key(0))
        self.shapes = jax.eval_shape(init, *self.entry.example_inputs)
        self.has_statistics = "batch_stats" in self.shapes

    @functools.cached_property
    def variables(self):
        return drawn_variables(self.shapes)

    def inputs(self, seed=0):
        return drawn_inputs(self.entry.example_inputs, seed)

    def evaluate(self, variables, *inputs):
        return self.model.apply(variables, *inputs, train=False)

    def train(self, variables, rngs, *inputs):
        outputs, _ = self.model.apply(
            variables, *inputs, train=True, rngs=rngs, mutable=["batch_stats"]
        )
        return outputs

    @property
    def needs_noise(self):
        """Whether training mode asks for an rng."""
        try:
            jax.eval_shape(self.train, self.shapes, {}, *self.entry.example_inputs)
        except flax.errors.InvalidRngError:
            return True
        return False

    @functools.cached_property
    def evaluated(self):
        return jax.jit(self.evaluate)(self.variables, *self.inputs())

    @functools.cached_property
    def trained(self):
        """Outputs in training mode and the gradients of a random sum of them, for several rngs."""

        @jax.jit
        def run(params, key, *inputs):
            def random_sum(params):
                variables = {**self.variables, "params": params}
                outputs = self.train(variables, {"dropout": key}, *inputs)
                weigh = [
                    jnp.vdot(leaf, jax.random.normal(jax.random.fold_in(key, i), leaf.shape))
                    for i, leaf in enumerate(jax.tree.leaves(outputs))
                ]
                return sum(weigh), outputs

            gradients, outputs = jax.grad(random_sum, has_aux=True)(params)
            return outputs, gradients

        return [
            run(self.variables["params"], jax.random.key(key), *self.inputs(seed))
            for key, seed in ((0, 0), (1, 0), (2, 1), (3, 2))
        ]


def sized(name):
    long = name in DEEP or models.entry(name).parameter_count > LARGE
    return pytest.param(name, marks=[pytest.mark.slow] if long else [])


@pytest.fixture(scope="module", params=[sized(name) for name in models.names()])
def subject(request):
    return Subject(request.param)


def equal(first, second, tolerance=0.0):
    close = functools.partial(np.allclose, rtol=tolerance, atol=tolerance)
    return all(jax.tree.leaves(jax.tree.map(close, first, second)))


@pytest.mark.parametrize("name", models.names())
def test_the_declared_parameter_count_is_the_counted_one(name):
    assert counted(Subject(name).shapes["params"]) == models.entry(name).parameter_count


@pytest.mark.parametrize(("name", "count"), PUBLISHED_COUNTS.items())
def test_the_declared_parameter_count_is_the_published_one(name, count):
    assert models.entry(name).parameter_count == count


@pytest.mark.parametrize("name", models.names())
def test_the_outputs_have_the_declared_shapes_in_both_modes(name):
    subject = Subject(name)
    rngs = {"dropout": jax.random.key(0)}
    inputs = subject.entry.example_inputs
    for outputs in (
        jax.eval_shape(subject.evaluate, subject.shapes, *inputs),
        jax.eval_shape(subject.train, subject.shapes, rngs, *inputs),
    ):
        assert jax.tree.map(lambda leaf: leaf.shape, outputs) == subject.entry.output_shapes


def test_outputs_and_gradients_are_finite(subject):
    for leaf in jax.tree.leaves((subject.evaluated, subject.trained)):
        assert np.isfinite(leaf).all()


def test_every_parameter_gets_a_gradient_but_those_that_say_why_not(subject):
    reached = {
        path
        for _, gradients in subject.trained
        for path, gradient in flatten_dict(gradients, sep="/").items()
        if np.any(gradient)
    }
    unreached = set(flatten_dict(subject.shapes["params"], sep="/")) - reached
    assert unreached == set(subject.entry.without_gradient)


def test_jit_equals_no_jit(subject):
    plain = subject.evaluate(subject.variables, *subject.inputs())
    assert equal(plain, subject.evaluated, tolerance=1e-4)


def test_training_differs_from_evaluation_only_by_noise_and_batch_statistics(subject):
    first, other_rng = subject.trained[0][0], subject.trained[1][0]
    if subject.needs_noise:
        assert not equal(first, other_rng)
    else:
        assert equal(first, other_rng)
    if subject.needs_noise or subject.has_statistics:
        assert not equal(first, subject.evaluated, tolerance=1e-4)
    else:
        assert equal(first, subject.evaluated, tolerance=1e-4)


def test_every_option_is_documented_and_can_be_set_by_a_flag():
    for name in models.names():
        documentation = type(models.create(name)).__doc__
        for option, value in models.defaults(name).items():
            assert f"{option}: " in documentation, f"{name}: {option}"
            numbers = value if isinstance(value, tuple) else (value,)
            assert all(isinstance(number, int | float | str) for number in numbers)


def test_a_name_is_registered_once():
    facts = {"example_inputs": (), "output_shapes": (), "parameter_count": 0, "source": "here"}
    with pytest.raises(ValueError, match="'lenet5' is registered twice"):
        models.register("lenet5", SoftmaxRegression, **facts)


def test_an_unknown_model_is_refused_with_near_matches():
    with pytest.raises(UsageError, match="unknown model 'lenet6': did you mean lenet5"):
        models.create("lenet6")


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(
        UsageError, match=r"'mlp' has no option 'width': it has num_classes, hidden"
    ):
        models.create("mlp", width=3)


def test_an_option_overrides_its_default():
    assert models.defaults("mlp")["hidden"] == (500,)
    assert models.create("mlp", hidden=(30, 20)).hidden == (30, 20)


def test_which_kernels_serve_a_model_is_no_option_of_it():
    with pytest.raises(UsageError, match="'char_lstm' has no option 'kernels'"):
        models.create("char_lstm", kernels="xla")


@pytest.mark.parametrize(
    ("name", "operations"),
    [("char_lstm", {"lstm"}), ("resnet20_cifar", {"conv_stats", "normalise"}), ("mlp", set())],
)
def test_a_context_knows_which_kernels_a_model_calls(name, operations):
    subject = Subject(name)
    with dispatch.using("xla") as within:
        rngs = {"dropout": jax.random.key(0)}
        jax.eval_shape(subject.train, subject.shapes, rngs, *subject.entry.example_inputs)
    called = {
        next(known for known in ("conv_stats", "normalise", "lstm") if known in choice.operation)
        for choice in within.choices
    }
    assert called == operations
    assert all(choice.implementation == "xla" for choice in within.choices)
