"""The registry of evaluators, and the words in which a recipe chooses them."""

import dataclasses

import pytest

from dlcore import evaluators
from dlcore.errors import UsageError

NAMES = ("continuation", "filters", "judged_samples", "learning_curves", "predictions", "samples")


def test_the_library_s_own_are_known_by_name():
    assert set(NAMES) <= set(evaluators.names())


@pytest.mark.parametrize("name", NAMES)
def test_every_evaluator_is_made_with_its_default_options_each_of_them_documented(name):
    made = evaluators.create(name)
    described = f"{evaluators.Evaluator.__doc__}{made.__doc__}"
    for field in dataclasses.fields(made):
        assert getattr(made, field.name) == field.default
        assert f"{field.name}: " in described


# The words of a recipe.


def test_a_recipe_that_says_nothing_has_those_of_every_run_and_of_its_task():
    chosen = evaluators.choose(("samples",), "")
    assert list(chosen) == ["learning_curves", "filters", "samples"]
    assert chosen["samples"] == evaluators.create("samples")


def test_words_add_and_drop_evaluators_and_set_their_options():
    words = "-filters samples:count=9,every=2 predictions -learning_curves"
    chosen = evaluators.choose(("samples",), words)
    assert chosen == {
        "samples": evaluators.create("samples", count=9, every=2),
        "predictions": evaluators.create("predictions"),
    }


def test_the_last_word_about_an_evaluator_counts():
    chosen = evaluators.choose((), "samples:count=9 samples:count=4 predictions -predictions")
    assert chosen["samples"].count == 4
    assert "predictions" not in chosen


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sample", "unknown evaluator 'sample': did you mean samples"),
        ("-samples", "evaluators=-samples: '-samples' drops what is not there: there are learning"),
        ("-predictions -predictions", "'-predictions' drops what is not there"),
        ("samples:number=3", "evaluator 'samples' has no option 'number': it has every, count"),
        ("samples:count=some", "evaluator 'samples': count=some: it takes an integer"),
        ("samples:count=1.5", "evaluator 'samples': count=1.5: it takes an integer"),
        ("samples:count", "evaluator 'samples': count=True: it takes an integer"),
        ("samples:count=0", "evaluator 'samples': count=0: it must be at least 1"),
        ("judged_samples:count=1", "evaluator 'judged_samples': count=1: it must be at least 2"),
        ("continuation:temperature=hot", "'continuation': temperature=hot: it takes a number"),
        ("predictions:every=-1", "evaluator 'predictions': every=-1: it must be at least 0"),
        ("samples:", "evaluators=samples:: '' in 'samples:' is not a setting"),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_one_line_that_names_it(words, message):
    with pytest.raises(UsageError) as error:
        evaluators.choose(("predictions",), words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_number_may_be_written_without_a_point():
    assert evaluators.choose((), "continuation:temperature=2")["continuation"].temperature == 2
