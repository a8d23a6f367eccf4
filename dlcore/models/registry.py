"""The registry of models: every architecture by name, with the facts that its test checks.

A model's file calls `register` once for each name, and `MODULES` lists that name: the file is
imported when one of its names is first asked for. The sweep in
`tests/dlcore/models/test_registry.py` then holds every entry to its declared parameter count, its
output shapes and its gradient flow, and to layers that are named by hand.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from dlcore import ranges
from dlcore.registry import Registry, plain


@dataclasses.dataclass(frozen=True)
class Entry:
    """The facts of a model.

    A model of dlcore declares all facts, which the sweep then checks. One from elsewhere needs only
    its constructor.

    Attributes:
      name: the registry's name, as `--model` takes it.
      constructor: a Linen module class, or a `functools.partial` of one that fixes its fields.
      example_inputs: the positional inputs of `__call__`, each a pytree of `jax.ShapeDtypeStruct`;
        the first axis is the batch.
      output_shapes: the shapes that `__call__` returns for them, as a pytree of tuples (a tuple of
        integers is one shape).
      parameter_count: exact number of trainable parameters at the default options.
      source: the paper or program that the layout comes from (author, year, table or figure).
      training_output_shapes: the shapes in training mode, where they differ (auxiliary heads); None
        where they are `output_shapes`.
      without_gradient: parameter paths ("hidden0/bias") that rightly get no gradient at
        initialization, each with the reason.
    """

    name: str
    constructor: Callable[..., nn.Module]
    example_inputs: tuple[Any, ...] = ()
    output_shapes: Any = None
    parameter_count: int | None = None
    source: str = ""
    training_output_shapes: Any = None
    without_gradient: Mapping[str, str] = dataclasses.field(default_factory=dict)


# The names that each file of this package registers.
MODULES: Mapping[str, tuple[str, ...]] = {
    "alexnet": ("alexnet", "alexnet_one_tower"),
    "bag_of_words": ("bag_of_words",),
    "char_lstm": ("char_lstm", "char_lstm_512"),
    "convnet": ("convnet_bn",),
    "densenet": (
        *("densenet121", "densenet161", "densenet169", "densenet201"),
        *("densenet40_12_cifar", "densenet100_12_cifar", "densenet_bc100_12_cifar"),
        "uva_densenet_cifar",
    ),
    "fractal_mlp": ("fractal_mlp",),
    "fractalnet": ("fractalnet20_cifar",),
    "gan": ("gan",),
    "googlenet": ("googlenet", "googlenet_bn", "uva_googlenet_cifar"),
    "kim_cnn": ("kim_cnn",),
    "lenet": ("lenet1", "lenet4", "lenet5", "lenet5_modern"),
    "linear": ("linear_units", "logistic_regression", "nonlinear_units", "softmax_regression"),
    "lstm_classifier": ("lstm_classifier",),
    "mlp": ("maxout", "mlp", "mlp_dropout"),
    "multitask": ("multitask_mlp",),
    "neocognitron": ("cognitron", "neocognitron"),
    "nin": ("nin_cifar",),
    "perceptron": ("perceptron",),
    "plain": ("plain20_cifar", "plain34", "plain56_cifar"),
    "preresnet": (
        *("preresnet20_cifar", "uva_preresnet_cifar"),
        *("wrn16_8", "wrn28_10", "wrn40_4"),
    ),
    "residual_mlp": ("residual_mlp",),
    "resnet": (
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        *("resnet20_cifar", "resnet32_cifar", "resnet44_cifar", "resnet56_cifar"),
        *("resnet110_cifar", "stochastic_depth110_cifar", "uva_resnet_cifar", "wrn50_2"),
    ),
    "squeezenet": ("squeezenet1_0", "squeezenet1_1"),
    "vgg": (
        *("vgg11", "vgg13", "vgg16", "vgg19", "vgg_cifar"),
        *("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    ),
}

_entries: Registry[Entry] = Registry("model", "dlcore.models", MODULES)
names, listed, entry = _entries.names, _entries.listed, _entries.get


def register(name: str, constructor: Callable[..., nn.Module], **facts: Any) -> None:
    """Adds a model; the keywords are the remaining fields of `Entry`.

    Raises:
      ValueError: the name is taken.
    """
    _entries.add(name, Entry(name=name, constructor=constructor, **facts))


def create(name: str, **overrides: Any) -> nn.Module:
    """The Linen module of that name, with some of its fields overridden.

    Raises:
      UsageError: no such model, or it has no such field, or a field is out of its range.
    """
    _entries.check_options(name, overrides, _fields(name))
    model = entry(name).constructor(**overrides)
    ranges.check(model)
    return model


def defaults(name: str) -> dict[str, Any]:
    """The options of a model that a recipe can hold and their defaults, in the fields' order."""
    return plain(_fields(name))


def _fields(name: str) -> dict[str, Any]:
    module = entry(name).constructor()
    return {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name not in ("parent", "name")
    }
