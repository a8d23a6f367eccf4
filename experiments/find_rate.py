"""Finds a learning rate: `python -m experiments.find_rate --recipe=mlp_mnist --workdir=runs/rates`.

`--method=successive` trains the recipe at each of `--rates`, for `--epochs` each, in run
directories of their own, and compares; a rate that diverged is a result as well. `--method=range`
lets the rate grow from `--lowest` to `--highest` within `--epochs` and follows the loss (Smith,
2017). Either prints a table and leaves NAME.json and NAME.png, where NAME is the method. Every
other field of the recipe is a flag.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dlcore import plots, tasks
from dlcore.errors import NotFiniteError, UsageError
from dlcore.ranges import AboveZero, Positive
from dlcore.train import Recipe, Settings, fit, rate_range, workdir
from dlcore.train.preparation import prepare
from dlcore.train.writers import read_records
from experiments import cache, flags, recipes, tables, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("successive", "range")
# Of the range test's updates as many are shown in its table.
ROWS = 12


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program, of the machine, and of the recipe that is named."""
    flags.define_one(values, "recipe", None, "Name of the recipe.", str)
    flags.define_one(values, "workdir", None, "Directory of the results, new or the same.", str)
    flags.define_one(values, "method", METHODS[0], f"How: {' or '.join(METHODS)}.")
    flags.define_one(
        values, "epochs", 1, "Epochs at each rate, or of the whole range test.", Positive
    )
    # The successive rates of Deledalle's lecture.
    rates = ["0.3", "0.1", "0.03", "0.01", "0.003", "0.001"]
    flags.define_one(values, "rates", rates, "Learning rates to try, with commas.", list)
    flags.define_one(
        values, "lowest", 1e-5, "Learning rate at which the range test begins.", AboveZero
    )
    flags.define_one(values, "highest", 10.0, "Learning rate at which it ends.", AboveZero)
    flags.define_dataclass(values, Settings)
    recipe = flags.peek(argv, "recipe")
    if recipe:
        flags.define_recipe(values, recipes.get(recipe), argv)


def main(values: flags.FlagValues) -> None:
    """Trains, compares, writes, prints."""
    recipe, settings, directory = read(values)
    cache.use()
    if values.method == "range":
        result = range_test(recipe, settings, directory, values.lowest, values.highest)
        table, figure = range_table(result), draw_range(result)
    else:
        result = successive(recipe, settings, directory, parsed(values.rates))
        if result["status"] == "stopped":
            train.show(directory, result)
            return
        table, figure = successive_table(result), draw_successive(result, directory)
    workdir.write_json(directory / f"{values.method}.json", result)
    plots.save(figure, directory / f"{values.method}.png")
    print(table)


def read(values: flags.FlagValues) -> tuple[Recipe, Settings, pathlib.Path]:
    """The recipe to train, for `--epochs`; the settings; the directory of the results.

    Raises:
      UsageError: a flag is missing, out of its range, or not for this program.
    """
    for name in ("recipe", "workdir"):
        if not values[name].value:
            raise UsageError(f"--{name} is missing")
    if values.method not in METHODS:
        raise UsageError(f"--method={values.method}: it is {' or '.join(METHODS)}")
    for name, instead in (("learning_rate", "rates"), ("num_epochs", "epochs")):
        if values[name].present:
            raise UsageError(f"--{name} is what this program sets: use --{instead}")
    for name in ("overfit", "prune_fraction", "evaluators"):
        if values[name].present:
            raise UsageError(f"--{name} has no part in the search for a rate: leave it out")
    recipe = dataclasses.replace(
        flags.read_recipe(values, recipes.get(values.recipe)),
        num_epochs=values.epochs,
        # None of them belongs to the first epochs.
        evaluators="",
        needs={},
        phases=(),
        prune_fraction=0.0,
    )
    if tasks.kind(recipe.task).watched_metric is None:
        raise UsageError(f"--task={recipe.task} has no loss that says which rate is better")
    settings = flags.read_dataclass(values, Settings)
    directory = workdir.to_write(values.workdir)
    workdir.check_apart(directory, recipe, settings)
    return recipe, settings, directory


def parsed(rates: Sequence[str]) -> list[float]:
    """The rates of the flag.

    Raises:
      UsageError: there is none, or one that is no number above 0.
    """
    try:
        numbers = [float(rate) for rate in rates]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise UsageError(f"--rates={','.join(rates)}: it takes numbers above 0 with commas")
    return numbers


def successive(
    recipe: Recipe,
    settings: Settings,
    directory: pathlib.Path,
    rates: Sequence[float],
) -> dict[str, Any]:
    """Trains at each rate, in `rate_RATE` of a directory; what came of each, and the best.

    The best is by the watched metric on the validation split, or else by the training loss. Where a
    training was stopped, its summary is returned instead.
    """
    task = tasks.kind(recipe.task)
    trials: list[dict[str, Any]] = []
    for rate in rates:
        one, run = dataclasses.replace(recipe, learning_rate=rate), directory / f"rate_{rate:g}"
        try:
            summary = train.train(one, settings, run)
        except NotFiniteError as error:
            reason = str(error).partition(";")[0]
            trials.append({"rate": rate, "status": "diverged", "reason": reason})
            continue
        if summary["status"] == "stopped":
            return summary
        loss = training_losses(run)[-1][1]
        if not math.isfinite(loss):
            reason = "no update of the last record was finite"
            trials.append({"rate": rate, "status": "diverged", "reason": reason})
            continue
        trial = {"rate": rate, "status": "complete", "training_loss": loss}
        if best := summary["best"]:
            trial[best["metric"]] = best["value"]
        trials.append(trial)
    metric, choose = task.watched_metric, max if task.watched_mode == "max" else min
    if metric is None or not any(metric in trial for trial in trials):
        metric, choose = "training_loss", min
    # Where no evaluation was finite, there is no best.
    scored = [trial for trial in trials if metric in trial]
    chosen = choose(scored, key=lambda trial: trial[metric]) if scored else {"rate": None}
    return {"status": "complete", "metric": metric, "best_rate": chosen["rate"], "trials": trials}


def training_losses(run: pathlib.Path) -> list[tuple[float, float]]:
    """Epoch and mean loss of each record of the training split; NaN where it was not finite."""
    return [
        (record["epoch"], math.nan if record["loss"] is None else record["loss"])
        for record in read_records(run / "metrics.jsonl")
        if record["split"] == "train"
    ]


def successive_table(result: Mapping[str, Any]) -> str:
    """A line for each rate, and the best one."""
    metric, rows = result["metric"], {}
    for trial in result["trials"]:
        shown = [f"{name} {trial[name]:.4f}" for name in ("training_loss", metric) if name in trial]
        rows[f"{trial['rate']:g}"] = ", ".join(dict.fromkeys(shown)) or trial["reason"]
    return tables.aligned(rows | {"best": f"{result['best_rate']} by {metric}"})


def draw_successive(result: Mapping[str, Any], directory: pathlib.Path) -> "Figure":
    """The training loss at each rate over the epochs, and the metric by rate."""
    metric = result["metric"]
    curves = []
    for trial in result["trials"]:
        losses = np.asarray(training_losses(directory / f"rate_{trial['rate']:g}")).reshape(-1, 2)
        curves.append(plots.Line(losses[:, 0], losses[:, 1], f"{trial['rate']:g}", style="path"))
    found = [(trial["rate"], trial[metric]) for trial in result["trials"] if metric in trial]
    rates, values = np.asarray(found).reshape(-1, 2).T
    name = metric.replace("_", " ")
    return plots.line_panels(
        [
            plots.Panel("training loss", curves, x_label="epoch", log_y=True),
            plots.Panel(
                name, [plots.Line(rates, values, style="path")], "learning rate", log_x=True
            ),
        ]
    )


def range_test(
    recipe: Recipe, settings: Settings, directory: pathlib.Path, lowest: float, highest: float
) -> dict[str, Any]:
    """Lets the rate grow exponentially; the loss at each rate, as a list for JSON.

    The directory, for the results, is made as soon as nothing else is wrong.

    Raises:
      UsageError: the rates are no range above 0, there are too few updates for one, or the
        directory cannot be written.
    """
    if lowest >= highest:
        raise UsageError(
            f"--lowest={lowest} and --highest={highest}: 0 < lowest < highest must hold"
        )
    recipe = dataclasses.replace(
        recipe,
        learning_rate=lowest,
        schedule="constant",
        warmup_steps=0,
        restart_from_best=False,
    )
    prepared = prepare(recipe, settings)
    fit.check(prepared)
    num_steps = prepared.plan.num_steps
    if num_steps < ROWS:
        raise UsageError(
            f"--epochs={recipe.num_epochs} makes {num_steps} updates: {ROWS} are needed at least"
        )
    directory.mkdir(parents=True, exist_ok=True)
    batches = prepared.dataset.train_batches(
        prepared.recipe.batch_size, recipe.seed, jax.process_index(), jax.process_count()
    )
    rates = np.geomspace(lowest, highest, num_steps)
    found = rate_range.run(prepared.program, batches, rates)
    return {
        "steepest": found.steepest,
        "lowest": found.lowest,
        "diverged_at": float(found.rate[-1]) if len(found.rate) < num_steps else None,
        "rate": found.rate.tolist(),
        "loss": found.loss.tolist(),
        "smoothed": found.smoothed.tolist(),
    }


def range_table(result: Mapping[str, Any]) -> str:
    """The smoothed loss at some of the rates, and the rates that mark the range."""
    places = np.linspace(0, len(result["rate"]) - 1, ROWS).round().astype(int)
    rows = {
        f"{result['rate'][place]:.3g}": f"loss {result['smoothed'][place]:.4f}" for place in places
    }
    rows["falls fastest at"] = f"{result['steepest']:.3g}"
    rows["lowest at"] = f"{result['lowest']:.3g}"
    return tables.aligned(rows)


def draw_range(result: Mapping[str, Any]) -> "Figure":
    """The loss by rate, as it was and smoothed."""
    rates = np.asarray(result["rate"])
    lines = [
        plots.Line(rates, np.asarray(result["loss"]), "batch", style="points"),
        plots.Line(rates, np.asarray(result["smoothed"]), "smoothed"),
    ]
    panel = plots.Panel("loss", lines, x_label="learning rate", log_x=True, log_y=True)
    return plots.line_panels([panel])


if __name__ == "__main__":
    flags.run(main, define)
