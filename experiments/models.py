"""Writes the README's table of models: `python -m experiments.models`.

For each model its parameters and multiply-adds, its paper, what others have published of it on
ImageNet, and the best results that `experiments/results` has of it. With `--plot=FILE` it draws
instead the published accuracy against the multiply-adds, the discs' areas the parameters, after
Canziani, Paszke and Culurciello (2016), "An analysis of deep neural network models for practical
applications", figure 2.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from dlcore import models, paths, plots
from dlcore.analysis import counts
from dlcore.errors import UsageError
from dlcore.train import workdir
from experiments import flags, published, recipes, tables
from experiments.reproduce import RESULTS, ROOT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADER = (
    *("model", "parameters", "multiply-adds", "of an input", "source"),
    *("published on ImageNet", "best results"),
)
# Of the discs in the plot's legend.
_SIZES = {f"{millions} M parameters": 1e6 * millions for millions in (5, 25, 140)}


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flag of this program."""
    meaning = "Draw the published accuracies into this file (.png, .svg or .pdf), and stop."
    flags.define_one(values, "plot", None, meaning, str)


def main(values: flags.FlagValues) -> None:
    """Counts, then writes the table or the plot."""
    if not values.plot:
        write_table(ROOT / "README.md")
        return
    path = paths.local(values.plot, "plot")
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot={path}: its suffix must be .png, .svg or .pdf")
    if path.is_dir():
        raise UsageError(f"--plot={path} is a directory: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"--plot={path}: there is no folder {path.parent}")
    paths.to_write(path.parent, "plot")
    plots.save(plot(), path)
    print(path)


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
        _published(name),
        ", ".join(best_results(name, results)),
    ]


def _published(name: str) -> str:
    """What others say of a model, with its multiply-adds at the size they tested it at."""
    score = published.SCORES.get(name)
    if score is None:
        return ""
    top_1 = "" if score.top_1 is None else f"top-1 {score.top_1:.1f} %, "
    billions = on_imagenet(name).multiply_adds / 1e9
    crops = "1 crop" if score.crops == 1 else f"{score.crops} crops"
    return (
        f"{top_1}top-5 {score.top_5:.1f} % ({score.source}; {crops}), "
        f"{billions:.2f} billion multiply-adds"
    )


def on_imagenet(name: str) -> counts.Counts:
    """The size of a model as its published score was measured.

    Args:
      name: one of `published.SCORES`.
    """
    score = published.SCORES[name]
    model = models.create(name, **score.options)
    shape = (1, score.image_size, score.image_size, 3)
    return counts.of_model(model, jax.ShapeDtypeStruct(shape, jnp.float32))


def plot() -> "Figure":
    """Published top-1 accuracy against multiply-adds; the area is the number of parameters."""
    points = []
    for name, score in published.SCORES.items():
        if score.top_1 is not None:
            count = on_imagenet(name)
            billions = count.multiply_adds / 1e9
            label = name if score.crops == 1 else f"{name} ({score.crops} crops)"
            family = type(models.create(name)).__name__
            points.append(plots.Bubble(billions, score.top_1, count.parameters, label, family))
    return plots.bubbles(
        points,
        "Accuracy on ImageNet as published by torchvision, or by the paper (10 crops)",
        "multiply-adds of an image, in billions",
        "top-1 accuracy, in percent",
        _SIZES,
        log_x=True,
    )


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
