"""What a network that was trained on other images is worth where examples are few (decks P L D).

Sources: Pratt (1993); Yosinski, Clune, Bengio and Lipson (2014), "How transferable are features in
deep neural networks?", section 2.
"""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from dlcore import data, plots
from dlcore.analysis import study
from dlcore.errors import TrainingError, UsageError
from dlcore.expectation import Expectation
from dlcore.ranges import Positive, Range
from dlcore.train import Recipe, Session

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Fields of the recipe that learns the target. All that is new is the last layer.
_TRANSFERRED = {"start_mapping": "logits/.*<- <-logits/.*"}
_WAYS: Mapping[str, Mapping[str, Any]] = {
    "from_scratch": {},
    "features": {
        **_TRANSFERRED,
        "groups": "conv.*:frozen hidden.*:frozen",
        "learning_rate": 1e-2,
    },
    "fine_tuned": _TRANSFERRED,
}


@dataclasses.dataclass(frozen=True)
class Transfer(study.Study):
    """A small VGG from CIFAR images learns digits from few examples of each class, or from scratch.

    It starts from the trained network but for the last layer, and either this layer alone learns
    ("features": a linear classifier of what the network has made of the images) or all of them do
    ("fine tuned"). All trainings on the target have as many steps and images in a batch, and those
    of one draw the same examples. Gray images stand in three equal channels.

    Attributes:
      source: the dataset that the network is trained on first.
      target: the one of which it learns from few examples.
      examples: of each class of the target, ascending.
      draws: of those examples, each with weights of its own; accuracies are means over them.
      size: height and width to which all images are brought, 8 or more.
      features: channels of the convolutions of each of the network's three stages.
      source_epochs: passes over the source's training images.
      steps: of each training on the target, at least.
    """

    source: str = "cifar10_jpeg"
    target: str = "mnist"
    examples: tuple[Positive, ...] = (5, 10, 25, 50, 100)
    draws: Positive = 3
    size: Annotated[int, Range(least=8)] = 16
    features: tuple[Positive, ...] = (24, 48, 96)
    source_epochs: Positive = 5
    steps: Positive = 200

    expectations = (
        Expectation("source_accuracy", 0.6, "max", "dlcore: no published score"),
        Expectation("fewest_gain", 0.02, "max", "L: a pre-trained model; P: fine-tune"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.examples or any(np.diff(self.examples) < 1):
            raise UsageError(f"examples={self.examples}: they must ascend, from at least 1")

    @property
    def datasets(self) -> tuple[str, ...]:
        """See `Study`."""
        return self.source, self.target

    def run(self) -> study.Numbers:
        """Accuracies on the test images: of the source, and of the target `[examples, draws]`.

        The means over the draws are scalars, such as "fine_tuned_5" of five examples of each class.
        "fewest_gain" and "most_gain" are by how much the fine-tuned networks are better, in the
        mean, with the fewest and with the most examples.
        """
        data.load(self.target)  # What is missing shows before the source is trained.
        with tempfile.TemporaryDirectory() as directory:
            place = pathlib.Path(directory)
            score = _test_accuracy(self._recipe_of_source(), place / "source")
            accuracies = {
                way: np.array(
                    [
                        [
                            _test_accuracy(
                                self._recipe_of_target(way, count, draw, place / "source"),
                                place / f"{way}_{count}_{draw}",
                            )
                            for draw in range(self.draws)
                        ]
                        for count in self.examples
                    ]
                )
                for way in _WAYS
            }
        gain = (accuracies["fine_tuned"] - accuracies["from_scratch"]).mean(1)
        means = {
            f"{way}_{count}": mean
            for way, own in accuracies.items()
            for count, mean in zip(self.examples, own.mean(1), strict=True)
        }
        return {
            "source_accuracy": score,
            "examples": np.array(self.examples),
            **accuracies,
            **means,
            "fewest_gain": gain[0],
            "most_gain": gain[-1],
        }

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """The accuracy by the number of examples, and each of the draws."""
        x = numbers["examples"]
        lines = [
            plots.Line(x, numbers[way].mean(1), way.replace("_", " "), color=color)
            for color, way in enumerate(_WAYS)
        ]
        points = [
            plots.Line(x, draw, "", "points", color=color)
            for color, way in enumerate(_WAYS)
            for draw in numbers[way].T
        ]
        title = f"{self.target}, by a network from {self.source}"
        panel = plots.Panel(
            title, [*lines, *points], "training examples of each class", "accuracy", log_x=True
        )
        return plots.line_panels([panel])

    def _recipe_of_source(self) -> Recipe:
        return Recipe(
            name="source",
            data=self.source,
            data_options={"augment": "crop:2,flip", **self._of_all_images},
            learning_rate=3e-3,
            num_epochs=self.source_epochs,
            **self._of_all,
        )

    def _recipe_of_target(self, way: str, count: int, draw: int, source: pathlib.Path) -> Recipe:
        batch_size = self.examples[0] * self._classes
        epochs = -(-self.steps * batch_size // (count * self._classes))
        return Recipe(
            name=way,
            data=self.target,
            data_options={
                "examples_per_class": count,
                "split_seed": draw,
                "validation_fraction": 0.0,
                **self._of_all_images,
            },
            batch_size=batch_size,
            num_epochs=epochs,
            evaluate_every=epochs,
            # The source's averages are of other images.
            recompute_statistics=True,
            seed=draw,
            start_from=str(source) if _WAYS[way] else "",
            **self._of_all,
            **{"learning_rate": 1e-3, **_WAYS[way]},
        )

    @functools.cached_property
    def _classes(self) -> int:
        return data.load(self.target).facts["num_classes"]

    @property
    def _of_all_images(self) -> dict[str, Any]:
        return {"resize": self.size, "color": True}

    @property
    def _of_all(self) -> dict[str, Any]:
        return {
            "model": "vgg_cifar",
            # After three poolings there is no more to average.
            "model_options": {
                "features": self.features,
                "grid": self.size // 8,
                "dropout_rate": 0.0,
            },
            "optimizer": "adam",
            "schedule": "cosine",
            "evaluators": "-learning_curves -filters -predictions",
        }


def _test_accuracy(recipe: Recipe, directory: pathlib.Path) -> float:
    """Of a recipe that is trained in a new directory.

    Raises:
      TrainingError: it was stopped.
    """
    summary = Session(recipe).run(directory)
    if summary["status"] != "complete":
        raise TrainingError("transfer was stopped, and leaves nothing to go on with: run it again")
    return float(summary["test"]["accuracy"])


study.register("transfer", Transfer)
