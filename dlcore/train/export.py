"""A trained model for use elsewhere: a program without dlcore, its weights, and a card about it."""

from typing import Any

import jax
import jax.export

from dlcore import models
from dlcore.data.features import ClassLabel, Numbers, Tags
from dlcore.errors import UsageError
from dlcore.evaluators import Trained
from dlcore.tasks import Predicts
from dlcore.train.recipe import Recipe
from dlcore.train.run import Run
from kernels import dispatch

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(trained: Trained) -> bytes:
    """The answers to raw inputs as one serialized StableHLO program, weights inside.

    Normalization and whatever else evaluation does to an input are part of it. It takes a batch of
    any size, of the shape and dtype that the dataset hands over (the card says which), and gives
    what the learner predicts. Any process with JAX runs it, on any of `PLATFORMS`:

        jax.export.deserialize(bytearray(serialized)).call(images)

    Raises:
      UsageError: the learner predicts nothing of one input.
    """
    learner: Any = trained.learner
    example = trained.dataset.example_batch(1)
    if not isinstance(learner, Predicts) or "image" not in example:
        raise UsageError(
            "format=stablehlo: the task answers no single input, so there is no program of it: "
            "export its weights (safetensors)"
        )

    def answer(image: jax.Array) -> Any:
        batch = trained.dataset.transform({"image": image}, None, False)
        return learner.predict(trained.variables, batch)

    stored = example["image"]
    shape = (*jax.export.symbolic_shape("batch"), *stored.shape[1:])
    inputs = jax.ShapeDtypeStruct(shape, stored.dtype)
    # A Pallas kernel would tie the program to one kind of device.
    with dispatch.using("xla"):
        exported = jax.export.export(jax.jit(answer), platforms=PLATFORMS)(inputs)
    return bytes(exported.serialize())


def card(run: Run, trained: Trained) -> str:
    """A short description of a trained model in Markdown: what it is, takes, gives and reached.

    Raises:
      UsageError: the training is not complete.
    """
    recipe, summary = run.recipe, run.summary
    split = next(name for name in ("test", "validation", "train") if name in summary)
    lines = [
        f"# {recipe.name}",
        "",
        recipe.description,
        "",
        f"- model: `{recipe.model}`, {summary['parameters']:,} parameters{_options(recipe)}",
        f"- data: `{recipe.data}`; scores are of its {split} split",
        f"- task: `{recipe.task}`",
        *_interface(trained),
        *(f"- {name}: {value:.4f}" for name, value in summary[split].items() if value is not None),
    ]
    if recipe.expected:
        lines.append(f"- expected: {recipe.expected}")
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    devices = summary["devices"]
    lines += [
        f"- trained: {summary['step']:,} steps of {recipe.batch_size or 'all'} examples in "
        f"{summary['seconds']} s, seed {recipe.seed}, {devices['count']} x {devices['kind']}, "
        f"{summary['date']}",
        f"- versions: {versions}; commit {summary['commit']}",
    ]
    return "\n".join(lines) + "\n"


def _options(recipe: Recipe) -> str:
    """The model's options that are not the defaults, in parentheses."""
    usual = models.defaults(recipe.model)
    options = [
        f"{name}={value}" for name, value in recipe.model_options.items() if value != usual[name]
    ]
    return f" ({', '.join(options)})" if options else ""


def _interface(trained: Trained) -> list[str]:
    """What goes in, and the meaning of each number that comes out."""
    stored = trained.dataset.example_batch(1).get("image")
    lines = []
    if stored is not None:
        shape = "x".join(map(str, stored.shape[1:]))
        lines.append(f"- input: a batch of {shape}, {stored.dtype}")
    for feature in trained.dataset.features.values():
        if isinstance(feature, ClassLabel | Tags | Numbers):
            lines.append(f"- output: {', '.join(feature.names)}")
    return lines
