"""Answers for one's own files: `python -m experiments.predict --workdir=runs/digits photo.png`.

Of each image, which is brought to the size and colors of the training images, or of each text the
likeliest classes or tags are named, or the numbers that are predicted. A language model goes on
from each text file.
"""

import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dlcore import data, paths, ranges
from dlcore.data import decoding, tokenization
from dlcore.data.features import ClassLabel, Image, Numbers, Tags, Tokens
from dlcore.data.text import read_file
from dlcore.errors import UsageError
from dlcore.evaluators import Trained
from dlcore.evaluators.continuation import continue_text
from dlcore.tasks import Continues, Predicts
from experiments import cache, flags

SHOWN = 3
Answers = ClassLabel | Tags | Numbers
# The arrays of one example, by the key of a batch.
Example = Mapping[str, np.ndarray]


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program."""
    flags.define_run(values)
    flags.define_one(values, "files", [], "The files to answer for.", list)
    flags.define_one(
        values, "invert", False, "Images: dark strokes on light paper become light on dark."
    )
    flags.define_one(values, "length", 500, "Texts: characters to write.", ranges.Length)
    flags.define_one(
        values,
        "temperature",
        0.8,
        "Texts: 0 takes the likeliest character every time.",
        ranges.NotNegative,
    )


def main(values: flags.FlagValues) -> None:
    """Restores the model and answers for each file."""
    directory = flags.run_directory(values)
    if not values.files:
        raise UsageError("no file is named: give one or more after the flags")
    files = [paths.local(name, "file") for name in values.files]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]} is not a file: name images or texts")
    cache.use()
    run = flags.open_run(values, directory)
    trained = run.answering(values.checkpoint)
    if isinstance(trained.learner, Continues):
        key = jax.random.key(run.recipe.seed)
        for path in files:
            prompt = read_file(path)
            print(continue_text(trained, key, prompt, values.length, values.temperature))
        return
    if not isinstance(trained.learner, Predicts):
        raise UsageError(f"{directory}: task={run.recipe.task} has no answer for a file")
    feature = answers(trained.dataset)
    examples = (read(path, trained.dataset, values.invert) for path in files)
    for path, row in zip(files, predict(trained, examples), strict=True):
        print(f"{path}: {worded(feature, row)}")


def predict(trained: Trained, examples: Iterable[Example]) -> Iterator[np.ndarray]:
    """The answer for each example as the dataset stores it.

    As many as in a batch of the training are read when the first of their answers is asked for.
    """
    learner: Any = trained.learner
    answer = jax.jit(learner.predict)
    for some in itertools.batched(examples, trained.batch_size):
        stacked = {key: np.stack([one[key] for one in some]) for key in some[0]}
        batch = trained.dataset.transform(stacked, None, False)
        yield from np.asarray(answer(trained.variables, batch))


def answers(dataset: data.Dataset) -> Answers:
    """The feature that is predicted; UsageError where it is not known which, or of what."""
    found = [one for one in dataset.features.values() if isinstance(one, Answers)]
    if len(found) != 1:
        raise UsageError(
            f"{dataset.name} has {len(found)} features of classes, tags or numbers: what is "
            "predicted has to be the only one"
        )
    return found[0]


def worded(feature: Answers, row: np.ndarray) -> str:
    """An answer `[names]` in words: the likeliest classes or tags, or all numbers."""
    if isinstance(feature, Numbers):
        return ", ".join(
            f"{name} {value:.4g}" for name, value in zip(feature.names, row, strict=True)
        )
    likeliest = np.argsort(-row)[:SHOWN]
    return ", ".join(f"{feature.names[index]} {row[index]:.1%}" for index in likeliest)


def read(path: pathlib.Path, dataset: data.Dataset, invert: bool) -> Example:
    """What a file holds, under the keys of a batch.

    Raises:
      UsageError: it cannot be read, or is not of the kind that the model was trained on.
    """
    for key, feature in dataset.features.items():
        if isinstance(feature, Tokens) and feature.tokenizer:
            parts = tokenization.encode(feature, [read_file(path)])
            return {key + part: array[0] for part, array in parts.items()}
    return {"image": read_image(path, dataset, invert)}


def read_image(path: pathlib.Path, dataset: data.Dataset, invert: bool) -> np.ndarray:
    """An image file in the size, colors and range of the training images."""
    if not isinstance(dataset.features.get("image"), Image):
        raise UsageError(f"{dataset.name} holds no images: there is no answer for {path}")
    example = dataset.example_batch(1)["image"][0]
    options = dataset.options
    cut_square = isinstance(options, data.ExampleOptions) and options.cut_square
    pixels = decoding.decode(path, example.shape[-1], example.shape[:2], cut_square)
    pixels = 255 - pixels if invert else pixels
    return pixels if example.dtype == np.uint8 else (pixels / 255).astype(example.dtype)


if __name__ == "__main__":
    flags.run(main, define)
