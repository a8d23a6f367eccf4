"""Trains a recipe: `python -m experiments.train --recipe=lenet5_digits --workdir=runs/digits`.

The run directory receives the resolved recipe, metrics, checkpoints, figures and a summary. The
same command resumes a run that was interrupted, and says so where it is complete. Every field of
the recipe is a flag.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dlcore import data, processes
from dlcore.errors import TrainingError, UsageError
from dlcore.train.loop import Loop
from experiments import checks, dry_run, flags, outputs, recipes, report, session, tables, workdir


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program, of the machine, and of the recipe that is named."""
    flags.define_one(values, "list", False, "List the recipes with the scores they should reach.")
    flags.define_one(values, "recipe", None, "Name of the recipe; --list shows them.", str)
    flags.define_one(values, "workdir", None, "Run directory: new, or of the same recipe.", str)
    flags.define_one(values, "seeds", None, "Train once for each seed, as in 0,1,2.", tuple)
    flags.define_one(values, "dry_run", False, "Build and compile all, print its size, and stop.")
    flags.define_dataclass(values, session.Settings)
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
    settings = flags.read_dataclass(values, session.Settings)
    recipe = flags.read_recipe(values, recipes.get(values.recipe))
    for seed in values.seeds or ():
        checks.numbers(dataclasses.replace(recipe, seed=seed))
    session.use_compilation_cache()
    if addresses := flags.read_distributed(values):
        processes.start(*addresses)
    if values.dry_run:
        dry_run.show(session.prepare(recipe, settings))
        return
    directory = pathlib.Path(values.workdir)
    if values.seeds is None:
        show(directory, train(recipe, settings, directory))
        return
    summaries = train_seeds(recipe, settings, directory, values.seeds)
    if summaries[-1]["status"] == "stopped":
        show(directory, summaries[-1])
    elif jax.process_index() == 0:
        print(f"\n{recipe.name}, seeds {', '.join(map(str, values.seeds))}: mean and deviation")
        print(tables.aligned(across_seeds(summaries)))


def train_seeds(
    recipe: recipes.Recipe,
    settings: session.Settings,
    directory: pathlib.Path,
    seeds: Sequence[int],
) -> list[dict[str, Any]]:
    """Trains once for each seed; the summaries, of which the last may say "stopped"."""
    summaries = []
    for seed in seeds:
        one = dataclasses.replace(recipe, seed=seed)
        summaries.append(train(one, settings, directory / f"seed_{seed}"))
        if summaries[-1]["status"] == "stopped":
            break
    return summaries


def train(
    recipe: recipes.Recipe, settings: session.Settings, directory: pathlib.Path
) -> dict[str, Any]:
    """Trains a recipe in a run directory, or takes up what is there; returns the summary."""
    prepared = session.prepare(recipe, settings)
    with workdir.claim(directory, prepared.recipe):
        summary_path = directory / "summary.json"
        if processes.first_says(summary_path.exists()):
            print(f"{directory}: this run is complete; its summary:")
            return checked(recipe, workdir.read_json(summary_path))
        judge = None
        if recipe.judge and jax.process_count() == 1:
            judge = train_judge(recipe, settings, directory / "judge")
            if judge is None:
                return {"status": "stopped", "reason": "while its judge was trained"}
        outcome = Loop(
            prepared.program,
            prepared.dataset,
            prepared.plan,
            directory,
            seed=prepared.recipe.seed,
            callbacks=session.callbacks(prepared, directory, settings),
        ).run()
        if outcome.status == "stopped":
            return {"status": "stopped", "reason": outcome.reason}
        return checked(recipe, report.finish(prepared, outcome, directory, judge))


def checked(recipe: recipes.Recipe, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary, unless it says that a few examples could not be learnt by heart."""
    if summary.get("learnt_by_heart") is False:
        raise TrainingError(
            f"--overfit={recipe.overfit}: the loss is still {summary['validation']['loss']:.3g} "
            f"after {summary['step']} steps: model, loss or learning rate is at fault"
        )
    return summary


def train_judge(
    recipe: recipes.Recipe, settings: session.Settings, directory: pathlib.Path
) -> outputs.Judge | None:
    """The classifier that judges what a recipe generates, trained here; None where stopped."""
    judge = recipes.get(recipe.judge)
    # On the same splits, so that it never sees the images that samples are compared with.
    ours = data.Options(**recipe.data_options)
    splits = {name: getattr(ours, name) for name in data.SPLIT_OPTIONS}
    options = {**judge.data_options, **splits}
    judge = dataclasses.replace(judge, data=recipe.data, data_options=options)
    if train(judge, settings, directory)["status"] == "stopped":
        return None
    prepared = session.prepare(judge, settings)
    return outputs.Judge(prepared, report.restore(prepared, directory).state.variables())


def show(directory: pathlib.Path, summary: dict[str, Any]) -> None:
    """Prints a run's summary."""
    if jax.process_index() != 0:
        return
    if summary["status"] == "stopped":
        print(f"stopped ({summary['reason']}), saved; run the same command again to go on")
        return
    rows = {"ended after": summary["reason"], "parameters": f"{summary['parameters']:,}"}
    for split in ("validation", "test", "samples"):
        rows |= {f"{split} {name}": value for name, value in summary.get(split, {}).items()}
    rows |= {"seconds": summary["seconds"], "run directory": directory}
    print(tables.aligned(rows))


def across_seeds(summaries: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Mean and sample deviation of every test score over complete runs."""
    scores = [summary["test"] for summary in summaries]
    columns = {name: [score[name] for score in scores] for name in scores[0]}
    return {
        f"test {name}": f"{np.mean(column):.4f} +- {np.std(column, ddof=len(column) > 1):.4f}"
        for name, column in columns.items()
    }


if __name__ == "__main__":
    flags.run(main, define)
