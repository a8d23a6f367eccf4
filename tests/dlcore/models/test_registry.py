"""The registry, and the sweep that holds every entry to what it declares.

Parameter paths are an interface: warm starts, groups of parameters, exports and published weights
refer to them. Hence the sweep refuses the names that Linen makes up where a layer has none
(`Dense_0`): they would change with every layer that is put in front.

The smallest member of each family, that is of each class of modules, is run in full, and under
`make test-all` the smallest of each kind (`tests.registered`); of the others shapes are evaluated.
Everything is traced under strict dtype promotion, by which no float32 becomes another type unasked.
"""

import functools
import importlib
import math
import pathlib
import re
import subprocess
import sys

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dlcore import models
from dlcore.errors import UsageError
from dlcore.models import registry
from dlcore.models.linear import SoftmaxRegression
from kernels import dispatch
from tests import registered


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def counted(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def shapes_of(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def drawn_inputs(shapes, seed):
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
        # Tokens of any vocabulary; or lengths, more than one step so that state is carried.
        low, high = (0, 2) if leaf.ndim > 1 else (2, 5)
        return jnp.asarray(rng.integers(low, high, leaf.shape), leaf.dtype)

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
        init = functools.partial(self.model.init_with_output, jax.random.key(0))
        self.outputs, self.shapes = jax.eval_shape(init, *self.entry.example_inputs)
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

    def descend(self, variables, key, *inputs):
        """Outputs in training mode, and the gradients of a random sum of them."""

        def random_sum(params):
            outputs = self.train({**variables, "params": params}, {"dropout": key}, *inputs)
            weigh = [
                jnp.vdot(leaf, jax.random.normal(jax.random.fold_in(key, i), leaf.shape))
                for i, leaf in enumerate(jax.tree.leaves(outputs))
            ]
            return sum(weigh), outputs

        gradients, outputs = jax.grad(random_sum, has_aux=True)(variables["params"])
        return outputs, gradients

    @functools.cached_property
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
        """What `descend` gives for several rngs."""
        run = jax.jit(self.descend)
        return [
            run(self.variables, jax.random.key(key), *self.inputs(seed))
            for key, seed in ((0, 0), (1, 0), (2, 1), (3, 2))
        ]


@pytest.fixture(scope="module", params=registered.EVERY)
def subject(request):
    return Subject(request.param)


def equal(first, second, tolerance=0.0):
    close = functools.partial(np.allclose, rtol=tolerance, atol=tolerance)
    return all(jax.tree.leaves(jax.tree.map(close, first, second)))


@pytest.mark.parametrize("name", models.listed())
def test_parameters_and_outputs_are_as_many_as_declared_and_layers_named_by_hand(name):
    subject = Subject(name)
    assert counted(subject.shapes["params"]) == subject.entry.parameter_count
    assert shapes_of(subject.outputs) == subject.entry.output_shapes
    parts = {part for path in flatten_dict(subject.shapes) for part in path}
    assert not {part for part in parts if re.fullmatch(r"[A-Z]\w*_\d+", part)}


@pytest.mark.parametrize(
    "name",
    [
        *sorted(registered.SMALLEST),
        *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(registered.DEEP)),
    ],
)
def test_parameters_state_and_outputs_are_float32_wherever_64_bits_are_the_default(name):
    with jax.enable_x64(True):
        subject = Subject(name)
        trained = jax.eval_shape(
            subject.train,
            subject.shapes,
            {"dropout": jax.random.key(0)},
            *subject.entry.example_inputs,
        )
    for leaf in jax.tree.leaves((subject.shapes, subject.outputs, trained)):
        assert leaf.dtype == jnp.float32


def test_the_outputs_have_the_declared_shapes_in_both_modes(subject):
    in_training = subject.entry.training_output_shapes
    if in_training is None:
        in_training = subject.entry.output_shapes
    assert shapes_of(subject.evaluated) == subject.entry.output_shapes
    assert shapes_of(subject.trained[0][0]) == in_training


def test_gradients_are_of_the_parameters_shapes_in_float32(subject):
    expected = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), subject.shapes["params"])
    _, gradients = subject.trained[0]
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), gradients) == expected


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
    first, other_rng = (outputs for outputs, _ in subject.trained[:2])
    if subject.entry.training_output_shapes is not None:
        first, other_rng = first[0], other_rng[0]  # What auxiliary heads say has no counterpart.
    if subject.needs_noise:
        assert not equal(first, other_rng)
    else:
        assert equal(first, other_rng)
    if subject.needs_noise or subject.has_statistics:
        assert not equal(first, subject.evaluated, tolerance=1e-4)
    else:
        assert equal(first, subject.evaluated, tolerance=1e-4)


def test_of_every_family_one_is_run_in_full_but_for_the_large_ones():
    assert {
        "resnet20_cifar",
        "mlp",
        "lenet5",
        "char_lstm",
        "gan",
        "linear_units",
    } <= registered.SMALLEST
    assert not registered.SMALLEST & {"resnet18", "resnet152", "char_lstm_512"}


def test_models_are_of_one_kind_where_they_differ_in_numbers_only():
    kind = registered.kind_of
    assert kind("resnet50") == kind("resnet152") != kind("resnet18")
    assert kind("vgg11_bn") == kind("vgg_cifar") != kind("vgg11")
    assert kind("resnet56_cifar") == kind("resnet20_cifar") != kind("plain20_cifar")
    assert kind("densenet40_12_cifar") != kind("densenet_bc100_12_cifar")
    assert {"resnet50", "resnet18", "vgg_cifar"} <= registered.KINDS


def test_every_option_is_documented_and_can_be_set_by_a_flag():
    for name in models.listed():
        documentation = type(models.create(name)).__doc__
        for option, value in models.defaults(name).items():
            assert f"{option}: " in documentation, f"{name}: {option}"
            numbers = value if isinstance(value, tuple) else (value,)
            assert all(isinstance(number, int | float | str) for number in numbers)


def in_a_fresh_process(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_nothing_of_a_family_is_imported_before_it_is_named():
    program = """
import sys
import dlcore.models
def files():
    return {name for name in sys.modules if name.startswith("dlcore.models.")}
dlcore.models.names()
print(*files(), "then")
dlcore.models.entry("softmax_regression")
print(*files(), "dlcore.nn.conv_norm" in sys.modules)
"""
    before, after = " ".join(in_a_fresh_process(program)).split(" then ")
    assert before == "dlcore.models.registry"
    assert set(after.split()) == {"dlcore.models.registry", "dlcore.models.linear", "False"}


def test_registering_a_model_builds_none_and_evaluates_no_shape():
    program = """
import importlib
import flax.linen as nn
import jax
from dlcore.models import registry
def refuse(*args, **kwargs):
    raise AssertionError("evaluated at import")
def refuse_to_build(module):
    if type(module).__module__.startswith("dlcore.models"):
        refuse()
jax.eval_shape = jax.jit = refuse
nn.Module.__post_init__ = refuse_to_build
for name in registry.MODULES:
    importlib.import_module(f"dlcore.models.{name}")
"""
    in_a_fresh_process(program)


@pytest.mark.parametrize("module", registry.MODULES)
def test_a_file_registers_the_names_that_the_table_lists(module):
    source = importlib.import_module(f"dlcore.models.{module}")
    defined = {
        name for name in models.listed() if registered.class_of(name).__module__ == source.__name__
    }
    assert defined == set(registry.MODULES[module])


def test_every_file_of_models_is_in_the_table():
    folder = pathlib.Path(registry.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "registry"}
    assert files == set(registry.MODULES)


def test_a_name_is_registered_once():
    models.entry("lenet5")
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
    [("char_lstm", {"lstm"}), ("resnet20_cifar", {"conv_stats", "normalize"}), ("mlp", set())],
)
def test_a_context_knows_which_kernels_a_model_calls(name, operations):
    subject = Subject(name)
    with dispatch.using("xla") as within:
        rngs = {"dropout": jax.random.key(0)}
        jax.eval_shape(subject.train, subject.shapes, rngs, *subject.entry.example_inputs)
    called = {
        next(known for known in ("conv_stats", "normalize", "lstm") if known in choice.operation)
        for choice in within.choices
    }
    assert called == operations
    assert all(choice.implementation == "xla" for choice in within.choices)
