"""Trains a recipe: `python -m experiments.train --recipe=lenet5_digits --workdir=runs/digits`.

The run directory receives the resolved recipe, metrics, checkpoints, figures and a summary. The
same command resumes a run that was interrupted, and says so where it is complete. Every field of
the recipe is a flag. A recipe of one's own is named `--recipe=my_package.my_module:recipe`.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dlcore.errors import UsageError
from dlcore.ranges import Natural
from dlcore.train import Recipe, Session, Settings, workdir
from experiments import cache, dry_run, flags, recipes, tables

# What --seeds takes.
SEEDS = tuple[Natural, ...]


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program, of the machine, and of the recipe that is named."""
    flags.define_one(values, "list", False, "List the recipes with the scores they should reach.")
    flags.define_one(values, "recipe", None, "Name of the recipe; --list shows them.", str)
    flags.define_one(values, "workdir", None, "Run directory: new, or of the same recipe.", str)
    flags.define_one(values, "seeds", None, "Train once for each seed, as in 0,1,2.", SEEDS)
    flags.define_one(values, "dry_run", False, "Build and compile all, print its size, and stop.")
    flags.define_dataclass(values, Settings)
    flags.define_distributed(values)
    recipe = flags.peek(argv, "recipe")
    if recipe:
        flags.define_recipe(values, recipes.get(recipe), argv)


def main(values: flags.FlagValues) -> None:
    """Lists, or trains once for each seed."""
    if values.list:
        print(recipes.listing())
        return
    if not values.recipe:
        raise UsageError("--recipe is missing: --list shows what there is")
    if not values.workdir and not values.dry_run:
        raise UsageError("--workdir is missing: name the directory that the run is to be kept in")
    directory = values.workdir and workdir.to_write(values.workdir)
    settings = flags.read_dataclass(values, Settings)
    recipe = flags.read_recipe(values, recipes.get(values.recipe))
    check_seeds(values.seeds or ())
    cache.use()
    flags.join_processes(values)
    if values.dry_run:
        dry_run.show(Session(recipe, settings))
        return
    if values.seeds is None:
        show(directory, train(recipe, settings, directory))
        return
    summaries = train_seeds(recipe, settings, directory, values.seeds)
    if summaries[-1]["status"] == "stopped":
        show(directory, summaries[-1])
    elif jax.process_index() == 0:
        print(f"\n{recipe.name}, seeds {', '.join(map(str, values.seeds))}: mean and deviation")
        print(tables.aligned(across_seeds(summaries)))


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises UsageError where a seed is named twice and would count twice."""
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds={','.join(map(str, seeds))}: each may be named once")


def train(recipe: Recipe, settings: Settings, directory: pathlib.Path) -> dict[str, Any]:
    """Trains a recipe in a run directory, or takes up what is there; returns the summary."""
    complete = (directory / "summary.json").exists()
    summary = Session(recipe, settings).run(directory)
    if complete and jax.process_index() == 0:
        print(f"{directory}: this run is complete; its summary:")
    return summary


def train_seeds(
    recipe: Recipe, settings: Settings, directory: pathlib.Path, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Trains once for each seed; the summaries, of which the last may say "stopped"."""
    summaries = []
    for seed in seeds:
        one = dataclasses.replace(recipe, seed=seed)
        summaries.append(train(one, settings, directory / f"seed_{seed}"))
        if summaries[-1]["status"] == "stopped":
            break
    return summaries


def show(directory: pathlib.Path, summary: dict[str, Any]) -> None:
    """Prints a run's summary."""
    if jax.process_index() != 0:
        return
    if summary["status"] == "stopped":
        print(f"stopped ({summary['reason']}), saved; run the same command again to go on")
        return
    rows = {"ended after": summary["reason"], "parameters": f"{summary['parameters']:,}"}
    if skipped := summary["skipped_updates"]:
        rows["skipped updates"] = f"{skipped:,} of {summary['step']:,}"
    for split in ("train", "validation", "test"):
        for name, value in summary.get(split, {}).items():
            rows[f"{split} {name}"] = "not finite" if value is None else value
    rows |= {"seconds": summary["seconds"], "run directory": directory}
    print(tables.aligned(rows))


def across_seeds(summaries: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Mean and sample deviation of every test score over complete runs."""
    scores = [summary["test"] for summary in summaries]
    # In a summary, a score that is not finite is None.
    columns = {
        name: np.asarray([score[name] for score in scores], np.float64) for name in scores[0]
    }
    return {
        f"test {name}": f"{np.mean(column):.4f} +- {np.std(column, ddof=len(column) > 1):.4f}"
        for name, column in columns.items()
    }


if __name__ == "__main__":
    flags.run(main, define)
