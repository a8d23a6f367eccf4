"""Flags: every field is one, what is given arrives, and a program ends with the right code."""

import dataclasses
import math
import sys
import types

import flax.linen as nn
import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcore import data, models
from dlcore.errors import TrainingError, UsageError
from dlcore.train import Need, Phase, Recipe, Settings
from experiments import flags, recipes, train

RECIPES = recipes.names()


def parsed(recipe: Recipe, *words: str) -> Recipe:
    values = flags.FlagValues()
    argv = ["train", *words]
    flags.define_recipe(values, recipe, argv)
    values(argv)
    return flags.read_recipe(values, recipe)


def program(main, **defined):
    """A program with some flags, as a module."""

    def define(values, argv):
        del argv
        for name, default in defined.items():
            flags.define_one(values, name, default, f"the {name}.")

    return types.SimpleNamespace(__name__="program", main=main, define=define)


# From the command line to a recipe.


@pytest.mark.parametrize("name", RECIPES)
def test_without_a_flag_a_recipe_stays_as_it_is_but_for_the_complete_options_of_its_data(name):
    recipe = recipes.get(name)
    found = parsed(recipe)
    assert dataclasses.replace(found, data_options=recipe.data_options) == recipe
    kind = data.TextOptions if recipe.task == "language_model" else data.ExampleOptions
    assert found.data_options.keys() == {field.name for field in dataclasses.fields(kind)}
    assert recipe.data_options.items() <= found.data_options.items()


texts = st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), min_size=1)


@given(
    learning_rate=st.floats(allow_nan=False),
    num_epochs=st.integers(-(2**40), 2**40),
    decoupled_weight_decay=st.booleans(),
    schedule=texts,
    hidden=st.lists(st.integers(-5, 5000), min_size=1).map(tuple),
    dropout_rate=st.floats(allow_nan=False),
)
def test_what_is_given_is_what_arrives(hidden, dropout_rate, **fields):
    words = [f"--{name}={value}" for name, value in fields.items()]
    words += [
        f"--model.hidden={','.join(map(str, hidden))}",
        f"--model.dropout_rate={dropout_rate}",
    ]
    found = parsed(recipes.get("mlp_mnist"), *words)
    assert {name: getattr(found, name) for name in fields} == fields
    assert found.model_options["hidden"] == hidden
    assert found.model_options["dropout_rate"] == dropout_rate
    assert isinstance(found.learning_rate, float)


def test_an_option_that_is_given_its_default_is_given():
    recipe = recipes.get("mlp_mnist")
    assert parsed(recipe, "--model.num_classes=10").model_options["num_classes"] == 10
    assert "num_classes" not in parsed(recipe, "--model.dropout_rate=0.5").model_options


def test_another_model_takes_none_of_the_recipes_options():
    recipe = recipes.get("mlp_mnist")
    changed = dataclasses.replace(recipe, model_options={"hidden": (7,)})
    assert parsed(changed).model_options["hidden"] == (7,)
    for words in (
        ["--model=lenet5_modern"],
        ["--model", "lenet5_modern"],
        ["-model=lenet5_modern"],
    ):
        assert parsed(changed, *words).model_options == {}
        with_rate = parsed(changed, *words, "--model.dropout_rate=0.5")
        assert with_rate.model_options == {"dropout_rate": 0.5}
    assert parsed(changed, "--model=mlp", "--model.hidden=8,9").model_options["hidden"] == (8, 9)


def test_the_regularized_lenet_is_the_modern_one_with_flags():
    given = parsed(
        recipes.get("lenet5_modern_mnist"),
        "--model.dropout_rate=0.2",
        "--model.normalization=batch",
        "--optimizer=nesterov",
        "--learning_rate=0.05",
        "--weight_decay=1e-4",
        "--gradient_noise=0.01",
        "--num_epochs=12",
    )
    registered = parsed(recipes.get("lenet5_regularized_mnist"))
    different = {name: getattr(registered, name) for name in ("name", "description", "expected")}
    assert dataclasses.replace(given, **different) == registered


PHASED = Recipe(
    name="phased",
    model="mlp",
    data="digits",
    learning_rate=0.1,
    needs={"judge": Need(recipes.get("lenet5_digits"), same_data=True)},
    phases=(
        Phase("start", {"learning_rate": 0.3, "model_options": {"hidden": (4,)}}),
        Phase("end", {"groups": "hidden0/.*:frozen"}),
    ),
)


def test_a_whole_number_where_a_fraction_may_be_takes_a_fraction():
    whole = Recipe(
        name="whole",
        model="mlp",
        model_options={"dropout_rate": 0},
        data="digits",
        learning_rate=1,
        phases=(Phase("end", {"ema_decay": 0}),),
    )
    words = ("--learning_rate=0.5", "--model.dropout_rate=0.2", "--phase.end.ema_decay=0.9")
    found = parsed(whole, *words)
    assert (found.learning_rate, found.model_options["dropout_rate"]) == (0.5, 0.2)
    assert found.phases[0].overrides == {"ema_decay": 0.9}


def test_options_that_no_command_line_can_hold_stay_as_the_recipe_has_them(monkeypatch):
    class Own(nn.Module):
        units: int | None = None
        width: int = 1

    entry = dataclasses.replace(models.entry("mlp"), constructor=Own)
    monkeypatch.setattr(models.registry, "entry", lambda name: entry)
    own = Recipe(name="own", model="x", model_options={"units": 3}, data="digits", learning_rate=1)
    assert parsed(own, "--model.width=2").model_options == {"units": 3, "width": 2}


def test_a_needed_run_has_another_recipe_or_none():
    recipe = parsed(PHASED, "--needs.judge=softmax_regression_mnist")
    assert recipe.needs == {"judge": Need(recipes.get("softmax_regression_mnist"), same_data=True)}
    assert parsed(PHASED, "--needs.judge=").needs == {}
    assert parsed(PHASED).needs == PHASED.needs


def test_a_phase_s_fields_and_its_length_are_flags():
    assert parsed(PHASED).phases == PHASED.phases
    words = ("--phase.start.learning_rate=0.2", "--phase.end.num_epochs=3")
    start, end = parsed(PHASED, *words).phases
    assert start.overrides == {**PHASED.phases[0].overrides, "learning_rate": 0.2}
    assert end.overrides == {**PHASED.phases[1].overrides, "num_epochs": 3}
    # What a phase leaves to the recipe is set for all phases at once.
    assert parsed(PHASED, "--num_epochs=7").of_phase(start).num_epochs == 7


def test_data_of_another_name_keeps_the_recipes_preparation():
    recipe = recipes.get("lenet5_digits")
    assert recipe.data_options["resize"] == 28
    assert parsed(recipe, "--data=somewhere/else").data_options["resize"] == 28


def test_a_flag_can_be_peeked_at_before_it_is_defined():
    for words in (["--recipe=a"], ["--recipe", "a"], ["-recipe=a"], ["--x", "--recipe=a", "--y=b"]):
        assert flags.peek(words, "recipe") == "a"
    for words in ([], ["--recipes=a"], ["--recipe"]):
        assert flags.peek(words, "recipe") is None


# Documentation.


def test_descriptions_are_read_from_the_attributes_section_only():
    class Documented:
        """Text before: not this.

        Attributes:
          first: one line.
          second: two lines, the
            second of which belongs to it: with a colon.

        Raises:
          Third: nothing.
        """

    assert flags.descriptions(Documented) == {
        "first": "one line.",
        "second": "two lines, the second of which belongs to it: with a colon.",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_help_lists_every_field_and_option_with_its_meaning_and_default(call, name):
    code, output, errors = call(train, f"--recipe={name}", "--help")
    assert (code, errors) == (0, "")
    recipe = parsed(recipes.get(name))
    lines = {line.strip().split(": ")[0]: line for line in output.splitlines()}
    expected = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    for own in ("name", "description", "expected", "imports", "phases"):
        del expected[own]
    for component in ("task", "model", "data"):
        options = expected.pop(f"{component}_options")
        expected |= {f"{component}.{option}": value for option, value in options.items()}
    needs = expected.pop("needs")
    expected |= {f"needs.{role}": need.recipe.name for role, need in needs.items()}
    expected |= dataclasses.asdict(Settings())
    for flag, default in expected.items():
        line = lines[f"--{flag}"]
        meaning = line.split(": ", 1)[1].removesuffix(f"(default: {default})")
        assert len(meaning.split()) > 1, line
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        assert line.endswith(f" (default: {shown})") or not shown, line


def test_help_without_a_recipe_says_how_to_see_its_fields(call):
    assert "With --recipe=NAME, --help also lists" in call(train, "--help")[1]


def test_list_names_every_recipe_with_the_score_to_reach(call):
    code, output, errors = call(train, "--list")
    assert (code, errors) == (0, "")
    lines = {line.split()[0]: line for line in output.splitlines()}
    assert lines.keys() == set(RECIPES)
    for name, line in lines.items():
        recipe = recipes.get(name)
        assert recipe.description in line
        assert str(recipe.expected) in line
        assert recipe.expected.source in line


# From the library's fields to the flags.


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("patience=3: it must be more", "--patience=3: it must be more"),
        ("use xla, or parallelism=data", "use xla, or --parallelism=data"),
        (
            "clip_norm=1.0 and clip_average_factor=2.0 are two",
            "--clip_norm=1.0 and --clip_average_factor=2.0 are two",
        ),
        ("resize is -1: it must not be", "--data.resize is -1: it must not be"),
        ("hidden=(0,) has (window=2) in it", "--model.hidden=(0,) has (--model.window=2) in it"),
        ("model.hidden=(0,): sizes", "--model.hidden=(0,): sizes"),
        ("Lower learning_rate, set clip_norm.", "Lower --learning_rate, set --clip_norm."),
        # Two components have this option.
        ("normalize is before or after", "normalize is before or after"),
        # Names of no field, and fields that are words of prose.
        ("cross_entropy or batches", "cross_entropy or batches"),
        ("set it to false, or take momentum", "set it to false, or take momentum"),
        ("the model is a task of its data", "the model is a task of its data"),
        ("data directory x", "data directory x"),
        ("step 5: loss is nan", "step 5: loss is nan"),
        ("it has rate, weight_decay, l1", "it has rate, weight_decay, l1"),
        # Values and files are left as they are, and so are flags.
        ("groups=a/.*:momentum=2,weight_decay=1", "--groups=a/.*:momentum=2,weight_decay=1"),
        ("data=/tmp/batch_size=3/x", "--data=/tmp/batch_size=3/x"),
        ("data=/my batch_size/x", "--data=/my batch_size/x"),
        ("'batch_size' there, --batch_size=3 here", "'batch_size' there, --batch_size=3 here"),
        # A phase and a needed run.
        ("phase.end: num_epochs=0: at", "phase.end: --phase.end.num_epochs=0: at"),
        ("phase.end: learning_rate=0: above", "phase.end: --learning_rate=0: above"),
        ("needs.judge: batch_size=3: odd", "--needs.judge: batch_size=3: odd"),
    ],
)
def test_a_field_that_the_library_names_gets_dashes_and_no_other_word_does(
    call, monkeypatch, line, shown
):
    def main(values):
        raise UsageError(line)

    monkeypatch.setattr(recipes, "get", lambda name: PHASED)
    broken = types.SimpleNamespace(__name__="program", main=main, define=train.define)
    assert call(broken, "--recipe=phased") == (2, "", f"error: {shown}\n")


# How a program ends.


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (UsageError("--x=1: it is 2,\n  or 3"), 2, "error: --x=1: it is 2, or 3\n"),
        (TrainingError("step 5: stuck"), 1, "error: step 5: stuck\n"),
        (
            OSError(28, "No space left on device", "run/summary.json"),
            1,
            "error: run/summary.json: No space left on device\n",
        ),
        (OSError("the connection broke"), 1, "error: the connection broke\n"),
        (MemoryError("no 9 GiB"), 1, "error: there is not enough memory: no 9 GiB\n"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
            1,
            "error: there is not enough memory: RESOURCE_EXHAUSTED: Out of memory allocating 9"
            " bytes.\n",
        ),
    ],
)
def test_the_exit_code_says_how_it_ended(call, end, code, message):
    def main(values):
        del values
        if isinstance(end, Exception):
            raise end
        return end

    assert call(program(main)) == (code, "", message)


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program"])
    broken = program(lambda values: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        flags.run(broken.main, broken.define)


@pytest.mark.parametrize(
    ("default", "word", "value"),
    [
        (1, "-3", -3),
        (1.0, "1e-3", 1e-3),
        (1.0, "inf", math.inf),
        (False, "true", True),
        ("a", "b=c,d", "b=c,d"),
        ((1,), "-2,3", (-2, 3)),
        ((1.0,), "0,0.5", (0.0, 0.5)),
    ],
)
def test_a_flag_is_read_as_its_defaults_type(call, default, word, value):
    seen = []
    assert call(program(lambda values: seen.append(values.x), x=default), f"--x={word}")[0] == 0
    assert seen == [value]
    assert type(seen[0]) is type(value)


@pytest.mark.parametrize(
    ("default", "word", "takes"),
    [
        (1, "1.0", "an integer"),
        (1.0, "1,0", "a number"),
        (False, "yes!", "true or false"),
        ((1,), "1;2", "integers with commas between them"),
        ((1.0,), "1;2", "numbers with commas between them"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_would_be_right(call, default, word, takes):
    code, _, errors = call(program(print, x=default), f"--x={word}")
    assert (code, errors) == (2, f"error: --x={word}: it takes {takes}\n")


def test_flags_that_no_program_defined_are_refused_as_well(call):
    # absl's own, such as --verbosity, would be taken otherwise.
    code, _, errors = call(program(print, x=1), "--verbosity=1")
    assert code == 2
    assert errors.startswith("error: Unknown command line flag 'verbosity'")
