"""Groups of parameters: freezing, layer-wise rates, one decay or one optimizer for each part.

A recipe's field `groups` lists patterns of parameter paths with settings, in the grammar of
`dlcore.words`:

    trunk/.*:frozen head/.*:rate=10,weight_decay=0 .*bias:optimizer=sgd

A pattern is a regular expression that must match a whole path, such as
`stage2_block0/conv1/kernel`. The first group that matches a parameter counts; parameters that no
group matches follow the recipe, and so does a group in whatever it does not set:

- `frozen`: nothing changes these parameters, and their gradients do not count in clipping;
- `rate=FACTOR`: multiplies the learning rate of the recipe's schedule;
- `optimizer=NAME`: another rule, one of `builder.NAMES`;
- any field of `builder.Options` but those of clipping, as in `weight_decay=0`.

`builder.build` makes the optimizer. A learner with several players may call it with one player's
parameters at a time, under their full paths (`{"generator": {...}}`); whether every pattern
matches something is therefore asked separately, of all parameters (`check`).
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlcore import words
from dlcore.errors import UsageError, some

# Parameters that no group matches: their label, and their name in `describe`.
OTHERS = "others"


@dataclasses.dataclass(frozen=True)
class Group:
    """One group of parameters.

    Attributes:
      label: its name in the optimizer's state. A pattern would be a poor one: checkpoints make
        files of such names.
      pattern: what matches the paths of its parameters.
      frozen: whether its parameters stay as they are.
      settings: the other settings.
    """

    label: str
    pattern: re.Pattern[str]
    frozen: bool
    settings: Mapping[str, words.Setting]


def parse(groups: str) -> tuple[Group, ...]:
    """Reads groups from a recipe's field.

    The settings themselves are checked by `builder.build`, which knows what an optimizer has.

    Raises:
      UsageError: it does not parse, a pattern is not a regular expression or is there twice, or
        `frozen` has company.
    """
    parsed: list[Group] = []
    for pattern, settings in words.parse(groups, "groups"):
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise UsageError(
                f"groups={pattern}: it is not a regular expression: {error}"
            ) from error
        if any(group.pattern == compiled for group in parsed):
            raise UsageError(f"groups={pattern}: it is there twice, and only the first would count")
        frozen = "frozen" in settings
        if frozen and settings != {"frozen": True}:
            raise UsageError(
                f"groups={pattern}: nothing changes a frozen group: write {pattern}:frozen alone, "
                "or leave frozen out"
            )
        own = {} if frozen else settings
        parsed.append(Group(f"group{len(parsed) + 1}", compiled, frozen, own))
    return tuple(parsed)


def labels(groups: Sequence[Group], params: Any) -> Any:
    """The label of each parameter's group, a pytree of strings shaped as the parameters."""

    def label(path: Any, _: Any) -> str:
        name = _name(path)
        return next((group.label for group in groups if group.pattern.fullmatch(name)), OTHERS)

    return jax.tree_util.tree_map_with_path(label, params)


def frozen_mask(groups: Sequence[Group], params: Any) -> Any:
    """Which parameters are frozen, a pytree of booleans shaped as the parameters."""
    frozen = {group.label for group in groups if group.frozen}
    return jax.tree.map(lambda label: label in frozen, labels(groups, params))


def check(groups: str, params: Any) -> None:
    """Refuses groups that do not do what they say, given all parameters or their shapes.

    Raises:
      UsageError: a pattern that matches no parameter, or only such that an earlier group has taken,
        or groups that freeze everything.
    """
    parsed = parse(groups)
    members = _members(parsed, params)
    paths = [path for own in members.values() for path in own]
    for group in parsed:
        pattern = group.pattern.pattern
        if members[group.label]:
            continue
        if taken := [path for path in paths if group.pattern.fullmatch(path)]:
            raise UsageError(
                f"groups={pattern}: an earlier group has taken all that it matches "
                f"({some(taken)}), and the first counts: put it in front"
            )
        near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.3)
        raise UsageError(
            f"groups={pattern}: it matches no parameter: it has to match a whole path, such as "
            f"{some(near or paths)}"
        )
    if all(jax.tree.leaves(frozen_mask(parsed, params))):
        raise UsageError(f"groups={groups}: every parameter is frozen: nothing is left to train")


def describe(groups: str, params: Any) -> dict[str, tuple[str, ...]]:
    """The paths of each group's parameters, by its pattern; `OTHERS` are last, where there are any.

    Args:
      groups: a recipe's field.
      params: all parameters, or their shapes.
    """
    parsed = parse(groups)
    members = _members(parsed, params)
    described = {group.pattern.pattern: tuple(members[group.label]) for group in parsed}
    return described | ({OTHERS: tuple(members[OTHERS])} if members[OTHERS] else {})


def drop_frozen_gradients(groups: Sequence[Group]) -> optax.GradientTransformation:
    """Replaces the gradients of frozen parameters by zeros, whatever they are."""

    def drop(gradients: Any, _: Any) -> Any:
        return jax.tree.map(
            lambda frozen, gradient: jnp.zeros_like(gradient) if frozen else gradient,
            frozen_mask(groups, gradients),
            gradients,
        )

    return optax.stateless(drop)


def freeze() -> optax.GradientTransformation:
    """Makes every update the one that changes no bit of a parameter."""
    # Minus zero: adding plus zero would turn a parameter of -0.0 into 0.0.
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda leaf: jnp.full_like(leaf, -0.0), updates)
    )


def _members(groups: Sequence[Group], params: Any) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {label: [] for label in (*(g.label for g in groups), OTHERS)}
    for path, label in jax.tree.leaves_with_path(labels(groups, params)):
        members[label].append(_name(path))
    return members


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
