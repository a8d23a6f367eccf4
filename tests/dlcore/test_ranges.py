"""Ranges: what is in one, and that every number that a user can give has one and is held to it."""

import dataclasses
import functools
import math
from typing import Annotated, Any

import numpy as np
import pytest

from dlcore import data, evaluators, models, ranges, tasks
from dlcore.analysis import studies
from dlcore.data.synthetic import SyntheticOptions
from dlcore.errors import UsageError
from dlcore.ranges import AboveZero, Natural, Positive, Range, Rate
from dlcore.train import Recipe, Settings, checks

RECIPE = Recipe(name="mlp", model="mlp", data="digits", learning_rate=0.1)
TINY = float(np.finfo(np.float32).tiny)


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Natural, [0, 7, 2**31 - 1, np.int64(3)], [-1, 2**31, 0.5, 1.0, math.nan]),
        (Positive, [1], [0, -1]),
        (Rate, [0, 0.0, 0.5, 1 - 2**-24], [-1e-9, 1, 1 - 1e-12, math.nan, math.inf, -math.inf]),
        # A float32 knows nothing between 0 and its smallest normal number, or above its largest.
        (AboveZero, [1, TINY, 3e38], [0, -1, TINY / 2, 1e-46, 1e39, math.inf, math.nan]),
        (Annotated[float, Range(least=1, or_zero=True)], [0, 1, 1.5], [0.5, -1, math.nan]),
        # As float32, 0.1 and 1.1 are more than that, and 0.7 is less.
        (Annotated[float, Range(least=0.7, most=1.1)], [0.7, 1.1], [0.699, 1.101]),
        (Annotated[float, Range(above=0.1, below=0.7)], [0.101, 0.699], [0.1, 0.1 + 1e-12, 0.7]),
        (Annotated[float, Range(least=0, most=0.1)], [0, 0.1], [-1e-9, 0.101]),
        (Annotated[int, Range(least=2, most=4)], [2, 4], [1, 5]),
        (Annotated[float, Range()], [-3.0, 0, 1e30], [math.nan, math.inf, -math.inf, 1e39]),
        (float, [-3.0, 2], [math.nan, math.inf]),
        (Any, [-3, "a word", None, True], [2**31]),
    ],
)
def test_a_number_is_in_its_range_or_told_what_it_has_to_be(kind, inside, outside):
    for value in inside:
        assert ranges.problem(kind, value) is None, value
        assert ranges.problem(tuple[kind, ...], (value, value)) is None, value
    for value in outside:
        assert ranges.problem(kind, value), value
        assert ranges.problem(tuple[kind, ...], (inside[0], value)), value


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        (Natural, -1, "at least 0"),
        (Natural, 1.5, "a whole number"),
        (Natural, 2**31, "at most 2147483647"),
        (Rate, 1, "at least 0 and below 1"),
        (Annotated[float, Range(above=0, most=0.5)], 0, "above 0 and at most 0.5"),
        (Annotated[float, Range(least=1, or_zero=True)], 0.5, "at least 1, or 0"),
        (Annotated[float, Range()], math.nan, "a finite number"),
        (AboveZero, 1e-46, "above 0, as a float32"),
        (float, 1e39, "finite, as a float32"),
        (AboveZero, 1e39, "above 0 and finite, as a float32"),
        (AboveZero, math.inf, "above 0 and finite"),
        (AboveZero, -math.inf, "above 0"),
        (Annotated[float, Range(above=0, most=0.5)], math.inf, "above 0 and at most 0.5"),
    ],
)
def test_a_range_is_said_in_words(kind, value, wanted):
    assert ranges.problem(kind, value) == wanted


@dataclasses.dataclass(frozen=True)
class Own:
    """As a user may write it, who declares no range."""

    units: int = 3
    widths: tuple[int, ...] = (4, 5)
    skipped: int = 0
    weight: float = 1.0


def test_what_is_undeclared_is_finite_and_a_size_is_at_least_1():
    ranges.check(Own(weight=-2.0, skipped=-1))
    for field, value in (("units", 0), ("widths", (4, 0)), ("weight", math.nan)):
        with pytest.raises(UsageError, match=f"^{field}="):
            ranges.check(Own(**{field: value}))


def test_only_a_bases_fields_are_looked_at_where_it_is_named():
    @dataclasses.dataclass(frozen=True)
    class More(Own):
        rate: Rate = 0.5

    ranges.check(More(rate=2), Own)
    with pytest.raises(UsageError, match="^rate=2: it must be at least 0 and below 1"):
        ranges.check(More(rate=2))


# Everything that a user can set.


def of_recipe(**options):
    checks.numbers(dataclasses.replace(RECIPE, **options))


def of_task(name):
    return lambda **options: tasks.create(name, models.create("multitask_mlp"), **options)


def small():
    """What has options: a name for messages, the dataclass's instance, and what makes one."""
    yield "recipe", RECIPE, of_recipe
    for kind in (Settings, data.ExampleOptions, data.TextOptions, SyntheticOptions):
        yield kind.__name__, kind(), kind
    for name in tasks.listed():
        yield f"task {name}", of_task(name)(), of_task(name)
    for name in evaluators.names():
        make = functools.partial(evaluators.create, name)
        yield f"evaluator {name}", make(), make


def large():
    """The same of models, one of each family, and of studies, of which each has to be imported."""
    families = {type(models.create(name)): name for name in models.listed()}
    for registry, names in ((models, families.values()), (studies, studies.names())):
        for name in names:
            make = functools.partial(registry.create, name)
            yield f"{registry.__name__} {name}", make(), make


def numeric(thing):
    """The fields that hold numbers, each with the type of one of them."""
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        is_tuple = ranges.plain(field.type) is tuple
        kind = field.type.__args__[0] if is_tuple else field.type
        if ranges.plain(kind) in (int, float) or type(value) in (int, float):
            yield field.name, kind, is_tuple


def outside(declared):
    """Numbers that are just outside of a range, or in none."""
    bounds, step = declared.range, 1 if declared.whole else 1e-3
    values = [bounds.least - step, bounds.above, bounds.most + step, bounds.below]
    if declared.whole:
        return [value for value in values if math.isfinite(value)] + [2**31]
    return [*map(float, values), math.nan, 1e39]


@pytest.mark.parametrize("settable", [small, pytest.param(large, marks=pytest.mark.slow)])
def test_every_number_that_can_be_set_has_a_range_and_is_held_to_it(settable):
    checked = 0
    for name, thing, make in settable():
        if not type(thing).__module__.startswith("dlcore."):
            continue  # Another test has registered it.
        for field, kind, is_tuple in numeric(thing):
            declared = ranges.declaration(kind)
            assert declared, f"{name}: {field} declares no range: see dlcore.ranges"
            for value in outside(declared):
                given = (value,) * max(len(getattr(thing, field)), 1) if is_tuple else value
                with pytest.raises(UsageError) as refused:
                    make(**{field: given})
                told = str(refused.value)
                assert f"{field}=" in told, (name, field, value, told)
                assert "it must be" in told, (name, field, value, told)
                checked += 1
    assert checked > 200


def test_a_number_without_a_range_would_be_found():
    assert [field for field, kind, _ in numeric(Own()) if not ranges.declaration(kind)] == [
        "units",
        "widths",
        "skipped",
        "weight",
    ]
