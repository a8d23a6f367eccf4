"""What a task or an evaluator needs, found among what a dataset has."""

from collections.abc import Iterable, Mapping

from dlcore.data.dataset import Needs
from dlcore.data.features import INPUTS, Feature, Text, Tokens
from dlcore.errors import UsageError


def match(
    needs: Needs, features: Mapping[str, Feature], name: str, who: str = "the task"
) -> dict[str, str]:
    """The key of the feature that serves each need, as `Dataset.provide` says.

    Where tokens are needed and there are none, a text will do.

    Args:
      needs: kinds by the keys under which they are wanted.
      features: of the dataset.
      name: of the dataset.
      who: needs it, for a message.

    Raises:
      UsageError: no feature or more than one would do.
    """
    if not any(isinstance(feature, Tokens) for feature in features.values()):
        needs = {key: (*kinds, Text) if Tokens in kinds else kinds for key, kinds in needs.items()}
    found = {key: key for key, kinds in needs.items() if isinstance(features.get(key), kinds)}
    while open_needs := {key: kinds for key, kinds in needs.items() if key not in found}:
        free = {
            key: [
                other
                for other, feature in features.items()
                if isinstance(feature, kinds) and other not in found.values()
            ]
            for key, kinds in open_needs.items()
        }
        # What one need takes may leave only one feature to another.
        key = min(free, key=lambda key: len(free[key]))
        if len(free[key]) > 1:
            raise UsageError(
                f"dataset {name!r} has {', '.join(free[key])}, each of which may be the"
                f" {key!r} that {who} needs: set features, as in"
                f' features="{key}:{free[key][0]}"'
            )
        if not free[key]:
            lacking = {other: needs[other] for other in free if not free[other]}
            besides = f" besides {', '.join(map(repr, found))}" if found else ""
            raise UsageError(
                f"{who} needs {_listed(lacking)}{besides}: dataset {name!r} has"
                f" {described(features)}"
            )
        found[key] = free[key][0]
    return {key: found[key] for key in needs}


def described(features: Mapping[str, Feature]) -> str:
    """The features of a dataset, for a message."""
    return ", ".join(f"{key!r} ({feature.noun})" for key, feature in features.items())


def _listed(needs: Needs) -> str:
    return ", ".join(f"{key!r} ({_nouns(kinds)})" for key, kinds in needs.items())


def _nouns(kinds: Iterable[type[Feature]]) -> str:
    kinds = tuple(kinds)
    if kinds == INPUTS:
        return "an image, a row of numbers or another dense array"
    return " or ".join(kind.noun for kind in kinds)
