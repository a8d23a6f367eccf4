"""Data augmentation (decks K and D): what each kind does to digits and to a photograph."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import numpy as np

from dlcore import data, plots
from dlcore.analysis import study
from dlcore.analysis.photograph import color_photograph
from dlcore.data import augmentation, sources, statistics
from dlcore.data.features import Image
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.ranges import Natural, Positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Sides in pixels; recipes enlarge a digit to that.
_DIGIT, _PHOTOGRAPH = 28, 112


@dataclasses.dataclass(frozen=True)
class Augmentations(study.Study):
    """Every augmentation of images by itself on handwritten digits and a photograph, several times.

    Attributes:
      augment: the augmentations, in the form of the dataset's option of that name.
      digits: how many different digits each is shown on.
      photographs: how many times each is shown on the photograph.
      seed: of the random changes.
    """

    augment: str = ",".join(
        name for name, kind in augmentation.AUGMENTATIONS.items() if Image in kind.changes
    )
    digits: Positive = 3
    photographs: Positive = 4
    seed: Natural = 0

    expectations = (
        Expectation("least_change", 1 / 255, "max", "dlcore: visible, one of 255 gray levels"),
        *study.near(
            "noise:0.05",
            0.05 * math.sqrt(2 / math.pi),
            1e-3,
            "mean absolute value of a normal number",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not augmentation.parse(self.augment):
            raise UsageError("augment is empty: name at least one augmentation")

    def run(self) -> study.Numbers:
        """Images `[1 + augmentations, n, ...]`, the originals first, and mean absolute changes."""
        shown = {
            "digits": self._gallery(*_digits(self.digits)),
            "photographs": self._gallery(*_photographs(self.photographs)),
        }
        differences = [np.abs(images[1:] - images[:1]) for images in shown.values()]
        changes = {
            f"{name}:{strength:g}": np.mean([images[index].mean() for images in differences])
            for index, (name, strength) in enumerate(augmentation.parse(self.augment))
        }
        return {**shown, **changes, "least_change": min(changes.values())}

    def _gallery(self, images: np.ndarray, color_components: np.ndarray) -> np.ndarray:
        keys = jax.random.split(jax.random.key(self.seed), len(images))
        features = {"image": Image(images.shape[1:])}
        measured = {"image": {"color_components": color_components}}
        rows = [images]
        for choice in augmentation.parse(self.augment):
            change = jax.jit(jax.vmap(augmentation.compose([choice], features, measured)))
            rows.append(np.asarray(change(keys, {"image": images})["image"]))
        return np.stack(rows)

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """Two galleries side by side, each row an augmentation with its strength."""
        scale = _PHOTOGRAPH // _DIGIT
        digits = numbers["digits"].repeat(scale, axis=2).repeat(scale, axis=3).repeat(3, axis=4)
        rows = np.concatenate([digits, numbers["photographs"]], axis=1)
        choices = augmentation.parse(self.augment)
        names = ["original", *(f"{name}:{strength:g}" for name, strength in choices)]
        captions = [[""] * rows.shape[1] for _ in names]
        for row, name in zip(captions, names, strict=True):
            row[len(row) // 2] = name
        return plots.image_grid(
            rows.reshape(-1, *rows.shape[2:]),
            captions=[caption for row in captions for caption in row],
            columns=2 * rows.shape[1],
        )


def _digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first digits `[n, 28, 28, 1]`, and their one component of color."""
    digits = data.load("digits", options={"resize": _DIGIT, "augment": "pca_color"})
    components = digits.statistics["image"]["color_components"]
    return digits.example_batch(count)["image"], components


def _photographs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The photograph several times, `[n, 112, 112, 3]`, and the components of its colors."""
    images = color_photograph(_PHOTOGRAPH)[None]
    image = Image(images.shape[1:])
    source = sources.Arrays({"image": image}, {"image": images})
    alone = sources.Split(source, np.zeros(1, np.int64), {"image": "image"})
    return images.repeat(count, axis=0), statistics.color_components(alone, "image", image)


study.register("augmentations", Augmentations)
