"""Every program's own numbers: what is out of range is refused by the flag's name at once."""

import pytest

from experiments import (
    benchmark,
    evaluate,
    export,
    find_rate,
    flags,
    models,
    predict,
    prepare,
    reproduce,
    soak,
    study,
    train,
)
from experiments import compile as compile_
from tests.experiments.refusals import assert_refused

PROGRAMS = (
    *(benchmark, compile_, evaluate, export, find_rate, models, predict, prepare, reproduce),
    *(soak, study, train),
)
# Nothing that can be counted or weighed; of a float, NaN is in no range, either.
BAD = {"int": ("-1", "2147483648"), "integers": ("-1", "0,-1"), "float": ("-1", "nan", "inf")}


def test_every_number_that_a_program_takes_is_held_to_its_range(call):
    found = []
    for program in PROGRAMS:
        values = flags.FlagValues()
        program.define(values, ["program"])
        for name in values:
            for word in BAD.get(values[name].flag_type(), ()):
                found.append(name)
                assert_refused(call(program, f"--{name}={word}"), f"--{name}=", "it must be")
    assert {"length", "temperature", "seconds", "rounds", "epochs", "seeds", "minutes"} <= set(
        found
    )


@pytest.mark.parametrize(
    ("program", "words", "fragments"),
    [
        (predict, ("--temperature=nan",), ("--temperature=nan: it must be at least 0",)),
        (
            predict,
            ("--length=1000000000000",),
            ("--length=1000000000000: it must be at least 1 and at most",),
        ),
        (benchmark, ("--batch_size=0",), ("--batch_size=0: it must be at least 1",)),
        (
            benchmark,
            ("--recipes=lenet5_digits", "--batch_size=0"),
            ("--batch_size=0 is no step to be timed", "at least 1"),
        ),
        (soak, ("--minutes=inf",), ("--minutes=inf: it must be above 0 and at most 10080",)),
        (soak, ("--checkpoint_every=0",), ("--checkpoint_every=0: it must be at least 1",)),
        (study, ("--study=hopfield", "--sizes=49"), ("--sizes=49: it must be at least 50",)),
        (study, ("--study=losses", "--truth=nan"), ("--truth=nan: it must be above 0 and below",)),
    ],
)
def test_a_value_that_means_nothing_is_refused(call, program, words, fragments):
    assert_refused(call(program, *words), *fragments)


def test_a_recipes_whole_training_split_may_be_a_step_that_is_timed():
    values = flags.FlagValues()
    argv = ["benchmark", "--recipes=ridge_diabetes"]
    benchmark.define(values, argv)
    values(argv)
    [recipe] = benchmark.chosen(values, flags.read_dataclass(values, benchmark.Settings))
    assert recipe.batch_size == 0
