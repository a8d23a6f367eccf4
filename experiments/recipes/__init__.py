"""Recipes: one line of the results table each, one file a family."""

from experiments.recipes.registry import at_hand, get, listing, names, register

__all__ = ["at_hand", "get", "listing", "names", "register"]
