"""The registered models, of which the tests run the smallest one of each kind in full.

Two are of one kind if they are of the same class and their options differ only in how many of
something there are: ResNet-50 and ResNet-152, but neither ResNet-18 (without bottlenecks) nor a
plain network. What is larger than the smallest one is more of the same code; of it, shapes and
counts are tested.
"""

import collections
from typing import Any

import pytest

from dlcore import models

# A family whose smallest member has more parameters runs under `make test-all` only, and so do
# these, whose smallest member is deep: that many layers take their time to compile.
LARGE = 10_000_000
DEEP = {"uva_densenet_cifar", "uva_googlenet_cifar"}


def class_of(name: str) -> type:
    """The class of modules that a name is registered with: its family."""
    constructor: Any = models.entry(name).constructor
    return getattr(constructor, "func", constructor)


def kind_of(name: str) -> tuple[Any, ...]:
    """What two models have in common that differ only in how many of something they have."""
    options = {key: _kind_of_option(value) for key, value in models.defaults(name).items()}
    return class_of(name), tuple(sorted(options.items()))


def _kind_of_option(value: Any) -> Any:
    """Whether a number is above zero, or which of several are; anything else as it is."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, tuple):
        return frozenset(map(_kind_of_option, value))
    return value > 0


def _smallest(key: Any) -> set[str]:
    groups = collections.defaultdict(list)
    for name in models.listed():
        groups[key(name)].append((models.entry(name).parameter_count, name))
    return {name for _, name in map(min, groups.values())}


# One of each kind.
KINDS = _smallest(kind_of)
# One of each family, which the short tests can afford.
SMALLEST = {
    name for name in _smallest(class_of) if models.entry(name).parameter_count < LARGE
} - DEEP
# For tests that are long for all but the smallest ones.
EVERY = [
    pytest.param(name, marks=[] if name in SMALLEST else [pytest.mark.slow])
    for name in models.listed()
    if name in KINDS | SMALLEST
]
