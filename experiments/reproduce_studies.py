"""The studies' part of `python -m experiments.reproduce --studies=hopfield,units`.

Runs each study with its default options, compares what it measures with what it is expected to,
writes `experiments/results/studies/NAME.json` and the README's table of studies.
"""

import dataclasses
import datetime
import pathlib
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from dlcore import data
from dlcore.analysis import studies
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.train import report, workdir
from experiments import tables
from experiments.study import what_it_shows

_HEADER = ("study", "what it shows", "measured", "expected", "time")


def reproduce_all(names: Iterable[str], results: pathlib.Path) -> bool:
    """Runs studies and writes their results; whether all expectations were met.

    Args:
      names: of the studies; "all" by itself is a word for all.
      results: directory of the files.

    Raises:
      UsageError: there is no study of such a name, or not the data of one; nothing has been run
        then.
    """
    names = studies.names() if list(names) == ["all"] else list(names)
    for name in names:
        for dataset in studies.create(name).datasets:
            data.load(dataset)
    results.mkdir(parents=True, exist_ok=True)
    all_met = True
    for name in names:
        result = reproduce(name)
        workdir.write_json(results / f"{name}.json", result)
        missed = [str(Expectation(**_bound(own))) for own in result["expected"] if not own["met"]]
        print(f"{name}: " + (f"MISSED {', '.join(missed)}" if missed else "met"), flush=True)
        all_met &= result["met"]
    return all_met


def reproduce(name: str) -> dict[str, Any]:
    """Runs a study with its default options; what its results file holds.

    Raises:
      UsageError: it expects something of a number that it does not measure.
    """
    study = studies.create(name)
    # Of the code that runs: a long study may outlive a commit.
    commit = report.commit()
    started = time.perf_counter()
    measured = tables.scalars(study.run())
    seconds = time.perf_counter() - started
    expected = compare(study.expectations, measured)
    return {
        "study": name,
        "description": what_it_shows(name),
        "options": dataclasses.asdict(study),
        "measured": measured,
        "expected": expected,
        "met": all(own["met"] for own in expected),
        "seconds": round(seconds, 1),
        "devices": {
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
            "host": platform.machine(),
        },
        "versions": report.versions(),
        "commit": commit,
        "date": datetime.date.today().isoformat(),
        "command": f"python -m experiments.reproduce --studies={name}",
    }


def compare(
    expectations: Sequence[Expectation], measured: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The fields of each expectation, and whether it is "met".

    Raises:
      UsageError: one is of a number that was not measured.
    """
    for expected in expectations:
        if expected.metric not in measured:
            raise UsageError(
                f"no number {expected.metric!r} was measured: there are {', '.join(measured)}"
            )
    return [
        {**dataclasses.asdict(expected), "met": expected.met(measured[expected.metric])}
        for expected in expectations
    ]


def write_table(readme: pathlib.Path, results: pathlib.Path) -> None:
    """Replaces the README's table of studies by one made from the results files.

    Raises:
      UsageError: the README lacks the marks between which the table stands.
    """
    rows = [table_row(workdir.read_json(path)) for path in sorted(results.glob("*.json"))]
    tables.replace(readme, "studies", tables.markdown(_HEADER, rows))


def table_row(result: Mapping[str, Any]) -> list[str]:
    """The cells of a study's line: a number that it is judged by stands beside its bounds."""
    measured, expected = [], []
    for metric in dict.fromkeys(own["metric"] for own in result["expected"]):
        bounds = [
            Expectation(**_bound(own)) for own in result["expected"] if own["metric"] == metric
        ]
        measured.append(f"{metric} {result['measured'][metric]:.4g}")
        sources = ", ".join(dict.fromkeys(bound.source for bound in bounds))
        expected.append(f"{_limits(bounds)} ({sources})")
    return [
        f"`{result['study']}`",
        result["description"],
        "<br>".join(measured),
        "<br>".join(expected),
        f"{result['seconds']:.0f} s",
    ]


def _limits(bounds: Sequence[Expectation]) -> str:
    """The bounds on one number; from both sides the same, they are an equation."""
    if len(bounds) == 2 and bounds[0].value == bounds[1].value:
        return f"= {bounds[0].value:g}"
    return " and ".join(bound.bound for bound in bounds)


def _bound(expected: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in expected.items() if name != "met"}
