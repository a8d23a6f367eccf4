"""Recipes: one line of the results table each, one file a family."""

from experiments.recipes.registry import get, listing, names, register

__all__ = ["get", "listing", "names", "register"]
