"""Answers for one's own files: `python -m experiments.predict --workdir=runs/digits photo.png`.

A classifier names the likeliest classes of each image, which is brought to the size and colors of
its training images. A language model goes on from each text file.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from dlcore import data
from dlcore.data import decoding
from dlcore.data.text import TextDataset
from dlcore.errors import UsageError
from experiments import flags, outputs, report, session, workdir

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
    session.use_compilation_cache()
    recipe = workdir.read_recipe(directory)
    settings = session.Settings(data_dir=values.data_dir, kernels=values.kernels)
    prepared = session.prepare(recipe, settings)
    variables = report.restore(prepared, directory, values.checkpoint).state.variables()
    if isinstance(prepared.dataset, TextDataset):
        for path in files:
            prompt = read_text(path)
            print(
                outputs.continue_text(
                    prepared, variables, prompt, values.length, values.temperature
                )
            )
        return
    if not hasattr(prepared.program.task, "predict"):
        raise UsageError(f"{directory} holds a {recipe.task}: it has no answer for a file")
    names = next(
        feature.names
        for feature in prepared.dataset.features.values()
        if isinstance(feature, data.features.ClassLabel | data.features.Tags)
    )
    images = np.stack([read_image(path, prepared, values.invert) for path in files])
    probabilities = outputs.classifier(prepared, variables)({"image": images})
    for path, row in zip(files, probabilities, strict=True):
        best = np.argsort(-row)[:SHOWN_CLASSES]
        print(f"{path}: " + ", ".join(f"{names[label]} {row[label]:.1%}" for label in best))


def read_text(path: pathlib.Path) -> str:
    """The text of a file; UsageError where it is not UTF-8."""
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8: {error.reason}") from error


def read_image(path: pathlib.Path, prepared: session.Session, invert: bool) -> np.ndarray:
    """An image file in the size, colors and range of the training images."""
    example = prepared.dataset.example_batch(1)["image"][0]
    if example.ndim != 3:
        raise UsageError(f"{prepared.recipe.data} holds no images: there is no answer for {path}")
    pixels = decoding.decode(path, example.shape[-1], example.shape[:2])
    pixels = 255 - pixels if invert else pixels
    return pixels if example.dtype == np.uint8 else (pixels / 255).astype(example.dtype)


if __name__ == "__main__":
    flags.run(main, define)
