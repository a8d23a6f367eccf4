"""Recipes: one line of the results table each, one file a regime."""

from experiments.recipes import classification
from experiments.recipes.base import (
    Expectation,
    Recipe,
    get,
    listing,
    names,
    register,
    with_facts_of,
)

__all__ = [
    "Expectation",
    "Recipe",
    "classification",
    "get",
    "listing",
    "names",
    "register",
    "with_facts_of",
]
