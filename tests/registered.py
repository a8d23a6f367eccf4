"""The registered models, of which the short tests run the smallest one of each family in full."""

import collections
from typing import Any

import pytest

from dlcore import models

# An entry with more parameters runs under `make test-all` only, and so do these, whose smallest
# member is deep: that many layers take their time to compile.
LARGE = 10_000_000
DEEP = {"uva_densenet_cifar", "uva_googlenet_cifar"}


def class_of(name: str) -> type:
    """The class of modules that a name is registered with: its family."""
    constructor: Any = models.entry(name).constructor
    return getattr(constructor, "func", constructor)


def _smallest() -> set[str]:
    families = collections.defaultdict(list)
    for name in models.listed():
        families[class_of(name)].append((models.entry(name).parameter_count, name))
    return {name for count, name in map(min, families.values()) if count < LARGE} - DEEP


SMALLEST = _smallest()
# Every name, for tests that are long for all but the smallest ones.
EVERY = [
    pytest.param(name, marks=[] if name in SMALLEST else [pytest.mark.slow])
    for name in models.listed()
]
