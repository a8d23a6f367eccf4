"""Recipes: one line of the results table each, one file a regime."""

# Importing a file registers its recipes.
import experiments.recipes.classification
import experiments.recipes.evolution
import experiments.recipes.gan
import experiments.recipes.language
import experiments.recipes.linear
import experiments.recipes.multi_label
import experiments.recipes.perceptron  # noqa: F401
from experiments.recipes.base import Recipe, get, listing, names, register

__all__ = ["Recipe", "get", "listing", "names", "register"]
