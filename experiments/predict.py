"""Answers for one's own files: `python -m experiments.predict --workdir=runs/digits photo.png`.

A classifier names the likeliest classes of each image, which is brought to the size and colors of
its training images. A language model goes on from each text file.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dlcore import data
from dlcore.data import decoding
from dlcore.errors import UsageError
from dlcore.evaluators import Trained
from dlcore.evaluators.continuation import continue_text
from dlcore.tasks import Continues, Predicts
from dlcore.train import Run
from experiments import cache, flags

SHOWN_CLASSES = 3


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program."""
    flags.define_run(values)
    flags.define_one(values, "files", [], "The files to answer for.", list)
    flags.define_one(
        values, "invert", False, "Images: dark strokes on light paper become light on dark."
    )
    flags.define_one(values, "length", 500, "Texts: characters to write.")
    flags.define_one(
        values, "temperature", 0.8, "Texts: 0 takes the likeliest character every time."
    )


def main(values: flags.FlagValues) -> None:
    """Restores the model and answers for each file."""
    directory = flags.run_directory(values)
    if not values.files:
        raise UsageError("no file is named: give one or more behind the flags")
    files = [pathlib.Path(name) for name in values.files]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]} is no file: name images or texts that exist")
    cache.use()
    run = Run(directory, flags.settings_of_run(values))
    trained = run.trained(values.checkpoint)
    if isinstance(trained.learner, Continues):
        key = jax.random.key(run.recipe.seed)
        for path in files:
            prompt = read_text(path)
            print(continue_text(trained, key, prompt, values.length, values.temperature))
        return
    if not isinstance(trained.learner, Predicts):
        raise UsageError(f"{directory} holds a {run.recipe.task}: it has no answer for a file")
    images = np.stack([read_image(path, trained.dataset, values.invert) for path in files])
    probabilities = predict(trained, images)
    for path, row in zip(files, probabilities, strict=True):
        best = np.argsort(-row)[:SHOWN_CLASSES]
        names = class_names(trained.dataset)
        print(f"{path}: " + ", ".join(f"{names[label]} {row[label]:.1%}" for label in best))


def predict(trained: Trained, images: np.ndarray) -> np.ndarray:
    """The answers for images as the dataset stores them."""
    learner: Any = trained.learner
    batch = trained.dataset.transform({"image": images}, None, False)
    return np.asarray(jax.jit(learner.predict)(trained.variables, batch))


def class_names(dataset: data.Dataset) -> tuple[str, ...]:
    """What the answers are called: the classes, tags or numbers that a task needs."""
    named: Any = [one for key, one in dataset.features.items() if key != "image"]
    return tuple(named[0].names)


def read_text(path: pathlib.Path) -> str:
    """The text of a file; UsageError where it is not UTF-8."""
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8: {error.reason}") from error


def read_image(path: pathlib.Path, dataset: data.Dataset, invert: bool) -> np.ndarray:
    """An image file in the size, colors and range of the training images."""
    example = dataset.example_batch(1)["image"][0]
    if example.ndim != 3:
        raise UsageError(f"{dataset.name} holds no images: there is no answer for {path}")
    pixels = decoding.decode(path, example.shape[-1], example.shape[:2])
    pixels = 255 - pixels if invert else pixels
    return pixels if example.dtype == np.uint8 else (pixels / 255).astype(example.dtype)


if __name__ == "__main__":
    flags.run(main, define)
