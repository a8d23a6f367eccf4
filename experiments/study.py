"""Runs a study of the lectures: `python -m experiments.study --study=initialization`.

Prints the numbers that it measures and, where all options have their defaults, the bounds that are
expected. Leaves in `--workdir` `summary.json` (options and scalars), `numbers.npz` (arrays) and
`figure.png`. Every option of a study is a flag.
"""

import inspect
from collections.abc import Sequence

import numpy as np

from dlcore import paths, plots
from dlcore.analysis import studies
from dlcore.errors import UsageError
from dlcore.train import workdir
from experiments import flags, tables


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program and of the study."""
    name = flags.peek(argv, "study")
    flags.define_one(values, "study", None, "Study to run.", str)
    flags.define_one(values, "workdir", None, "Directory to write; runs/STUDY by default.", str)
    flags.define_one(values, "list", False, "List the studies, and stop.")
    if name:
        meanings = flags.descriptions(studies.kind(name))
        for option, default in studies.defaults(name).items():
            flags.define_one(values, option, default, meanings[option])


def main(values: flags.FlagValues) -> None:
    """Runs the study, prints its scalars and writes all of its numbers."""
    if values.list:
        print(listing())
        return
    if not values.study:
        raise UsageError(f"--study is missing: it is one of {', '.join(studies.names())}")
    defaults = studies.defaults(values.study)
    options = {option: values[option].value for option in defaults}
    chosen = studies.create(values.study, **options)
    directory = workdir.to_write(values.workdir or f"runs/{values.study}")
    directory.mkdir(parents=True, exist_ok=True)
    numbers = chosen.run()
    scalars = tables.scalars(numbers)
    summary = {"study": values.study, "options": options, "numbers": scalars}
    workdir.write_json(directory / "summary.json", summary)
    with paths.writing(directory / "numbers.npz"):
        np.savez(directory / "numbers.npz", **numbers)
    plots.save(chosen.draw(numbers), directory / "figure.png")
    shown = {name: f"{number:.6g}" for name, number in scalars.items()}
    if options == defaults:
        for expected in chosen.expectations:
            verdict = "met" if expected.met(scalars[expected.metric]) else "MISSED"
            shown[expected.metric] += f", expected {expected.bound}: {verdict}"
    print(tables.aligned({**shown, "figure": directory / "figure.png"}))


def listing() -> str:
    """Every study with what it shows, a line each."""
    width = max(map(len, studies.names()))
    return "\n".join(f"{name:<{width}}  {what_it_shows(name)}" for name in studies.names())


def what_it_shows(name: str) -> str:
    """The first line of a study's docstring."""
    return (inspect.getdoc(studies.kind(name)) or "").splitlines()[0]


if __name__ == "__main__":
    flags.run(main, define)
