"""Writes the README's table of models: `python -m experiments.models`.

For each model its parameters and multiply-adds, its paper, and the best results that
`experiments/results` has of it.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from dlcore import models
from dlcore.analysis import counts
from dlcore.train import workdir
from experiments import flags, recipes, tables
from experiments.reproduce import RESULTS, ROOT

_HEADER = ("model", "parameters", "multiply-adds", "of an input", "source", "best results")


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """This program has no flags."""


def main(values: flags.FlagValues) -> None:
    """Counts and writes."""
    write_table(ROOT / "README.md")


def write_table(readme: pathlib.Path) -> None:
    """Replaces the README's table of models by a new one.

    Raises:
      UsageError: the README lacks the marks between which the table stands.
    """
    results = [workdir.read_json(path) for path in sorted(RESULTS.glob("*.json"))]
    rows = [row(name, results) for name in models.listed()]
    tables.replace(readme, "models", tables.markdown(_HEADER, rows))


def row(name: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cells of a model's line.

    Args:
      name: of the model.
      results: what `experiments.reproduce` wrote of recipes, of any model.
    """
    entry = models.entry(name)
    count = counts.of_model(models.create(name), *entry.example_inputs)
    return [
        f"`{name}`",
        f"{count.parameters:,}",
        f"{count.multiply_adds:,}",
        ", ".join(_sizes(entry.example_inputs)),
        entry.source,
        ", ".join(best_results(name, results)),
    ]


def _sizes(inputs: Sequence[Any]) -> Iterator[str]:
    """The size of each input but states: "28x28x1"."""
    for own in inputs:
        if isinstance(own, jax.ShapeDtypeStruct):
            yield "x".join(map(str, own.shape[1:])) or "1"


def best_results(name: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A model's best result by each metric on each dataset, with the recipe that reached it."""
    comparable: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        recipe = recipes.get(result["recipe"])
        if recipe.model == name:
            comparable.setdefault((recipe.data, result["metric"]), []).append(result)
    best = []
    for (data, metric), own in comparable.items():
        choose = max if own[0]["expected"]["mode"] == "max" else min
        chosen = choose(own, key=lambda result: result["score"])
        best.append(f"{metric} {chosen['score']:.4f} on {data} (`{chosen['recipe']}`)")
    return best


if __name__ == "__main__":
    flags.run(main, define)
