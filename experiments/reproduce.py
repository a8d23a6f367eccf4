"""Reproduces scores: `python -m experiments.reproduce --recipes=softmax_mnist,mlp_mnist`.

Trains each recipe, compares its test score with the expected one, writes
`experiments/results/NAME.json` and makes the README's table of results anew from those files. The
same for `--studies=hopfield,units`. Exit code 1 where a score was missed.
"""

import dataclasses
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dlcore.errors import TrainingError, UsageError
from dlcore.expectation import Expectation
from dlcore.train import Recipe, Settings, workdir
from experiments import cache, flags, recipes, reproduce_studies, tables, train

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
BEGIN, END = tables.marks("results")


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program."""
    flags.define_one(
        values,
        "recipes",
        [],
        "Recipes to reproduce, with commas; all is a word for all whose data are at hand.",
        list,
    )
    flags.define_one(
        values, "studies", [], "Studies to reproduce, with commas; all is a word for all.", list
    )
    flags.define_one(values, "workdir", "runs/reproduce", "Where the run directories are kept.")
    flags.define_one(values, "seeds", (0,), "The score is the mean over these seeds.", train.SEEDS)
    flags.define_one(values, "readme_only", False, "Only make the README's table from the files.")
    flags.define_dataclass(values, Settings)


def main(values: flags.FlagValues) -> int:
    """Trains, compares, writes; returns 1 where a score was missed."""
    settings = flags.read_dataclass(values, Settings)
    directory = workdir.to_write(values.workdir)
    chosen = values.recipes
    if chosen == ["all"]:
        every = map(recipes.get, recipes.names())
        chosen = [one.name for one in every if recipes.at_hand(one, settings.data_dir)]
    if not (chosen or values.studies or values.readme_only):
        raise UsageError(f"--recipes is missing: all, or some of {', '.join(recipes.names())}")
    known = [recipes.get(name) for name in chosen]
    unscored = [recipe.name for recipe in known if recipe.expected is None]
    if unscored:
        raise UsageError(f"--recipes={unscored[0]}: this recipe has no score to compare with")
    train.check_seeds(values.seeds)
    tables.check(ROOT / "README.md", "results")
    cache.use()
    met = True
    for recipe in known:
        result = reproduce(recipe, settings, directory / recipe.name, values.seeds)
        RESULTS.mkdir(exist_ok=True)
        workdir.write_json(RESULTS / f"{recipe.name}.json", result)
        verdict = "met" if result["met"] else "MISSED"
        score = f"{result['metric']} {result['score']:.4f}"
        print(f"{recipe.name}: {score}, expected {recipe.expected}: {verdict}")
        met &= result["met"]
    write_table(ROOT / "README.md")
    if values.studies:
        met &= reproduce_studies.reproduce_all(values.studies, RESULTS / "studies")
    if values.studies or values.readme_only:
        reproduce_studies.write_table(ROOT / "README.md", RESULTS / "studies")
    return 0 if met else 1


def reproduce(
    recipe: Recipe,
    settings: Settings,
    directory: pathlib.Path,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Trains a recipe with each seed and compares the mean score; what a results file holds."""
    assert recipe.expected
    summaries = train.train_seeds(recipe, settings, directory, seeds)
    scores = [score_of(recipe, summary) for summary in summaries]
    score = float(np.mean(scores))
    return {
        "recipe": recipe.name,
        "description": recipe.description,
        "metric": recipe.expected.metric,
        "score": score,
        "scores": scores,
        "deviation": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "expected": dataclasses.asdict(recipe.expected),
        "met": recipe.expected.met(score),
        "measured": {
            name: float(np.mean([found(summary)[name] for summary in summaries]))
            for name in found(summaries[0])
            if all(name in found(summary) for summary in summaries)
        },
        "seeds": list(seeds),
        "parameters": summaries[0]["parameters"],
        "seconds": [summary["seconds"] for summary in summaries],
        "devices": {**summaries[0]["devices"], "host": platform.machine()},
        "versions": summaries[0]["versions"],
        "commit": summaries[0]["commit"],
        "date": summaries[0]["date"],
        "command": f"python -m experiments.reproduce --recipes={recipe.name} --seeds="
        + ",".join(map(str, seeds)),
    }


def found(summary: Mapping[str, Any]) -> dict[str, float]:
    """Every finite score of a run on the test split."""
    return {name: score for name, score in summary["test"].items() if score is not None}


def score_of(recipe: Recipe, summary: Mapping[str, Any]) -> float:
    """The expected metric of a run on the test split.

    Raises:
      TrainingError: the run was stopped.
      UsageError: it has no such metric.
    """
    assert recipe.expected
    if summary["status"] != "complete":
        raise TrainingError(f"{recipe.name} was stopped: run the same command again to go on")
    scores = found(summary)
    if recipe.expected.metric not in scores:
        raise UsageError(
            f"{recipe.name} has no score {recipe.expected.metric!r}: it has {', '.join(scores)}"
        )
    return scores[recipe.expected.metric]


def write_table(readme: pathlib.Path) -> None:
    """Replaces the README's table of results by one made from the results files.

    Raises:
      UsageError: the README lacks the marks between which the table stands.
    """
    rows = [table_row(workdir.read_json(path)) for path in sorted(RESULTS.glob("*.json"))]
    header = ("recipe", "what it is", "parameters", "measured", "expected", "time", "device")
    tables.replace(readme, "results", tables.markdown(header, rows))


def table_row(result: Mapping[str, Any]) -> list[str]:
    """The cells of a recipe's line."""
    expected = Expectation(**result["expected"])
    deviation = f" ± {result['deviation']:.4f}" if result["deviation"] is not None else ""
    return [
        f"`{result['recipe']}`",
        result["description"],
        f"{result['parameters']:,}",
        f"{result['metric']} {result['score']:.4f}{deviation} ({len(result['seeds'])} seed"
        + ("s)" if len(result["seeds"]) > 1 else ")"),
        f"{expected} ({expected.source})",
        f"{np.mean(result['seconds']):.0f} s",
        f"{result['devices']['count']} x {result['devices']['kind']}",
    ]


if __name__ == "__main__":
    flags.run(main, define)
