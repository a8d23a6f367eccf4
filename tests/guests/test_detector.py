"""A detector of digits: several in a picture, each found in the cell of a grid where its center is.

So does YOLO (Redmon et al., 2016). The score is an average precision, which is no sum: what was
found is collected as rows, and the metric makes a number of all of them at the end.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import datasets

from dlcore import data, evaluators, models, plots, tasks
from dlcore.data.features import Boxes, Image
from dlcore.evaluators import Evaluator, Findings, Trained
from dlcore.metrics import Mean, Metrics, Rows
from dlcore.tasks import Aux, Batch, Descent, Variables
from dlcore.train import Recipe, Run, Session
from tests.guests.harness import Guest

# Sides in pixels and in cells; digits that are the same in a mirror, as pictures are flipped.
SIZE, CELLS, MOST = 24, 3, 4
DIGITS = (0, 1, 8)


def scenes(name: str, options: data.ExampleOptions) -> data.Dataset:
    """One to four digits in a picture, each in a cell of its own, with the box around its ink."""
    digits = datasets.load_digits()
    chosen = np.flatnonzero(np.isin(digits.target, DIGITS))
    rng, count = np.random.default_rng(0), 1200
    images = np.zeros((count, SIZE, SIZE, 1))
    boxes, classes = np.zeros((count, MOST, 4)), np.zeros((count, MOST), int)
    mask = np.arange(MOST) < rng.integers(1, MOST + 1, (count, 1))
    for index in range(count):
        cells = rng.permutation(CELLS**2)[: mask[index].sum()]
        for place, cell in enumerate(cells):
            digit = rng.choice(chosen)
            image = digits.images[digit] / 16
            image = image[:, image.any(0)]
            middle = np.array(divmod(cell, CELLS)) * 8 + 4 + rng.integers(-1, 2, 2)
            first = (middle - np.array(image.shape) // 2).clip(0, SIZE - np.array(image.shape))
            last = first + image.shape
            part = images[index, first[0] : last[0], first[1] : last[1], 0]
            np.maximum(part, image, out=part)
            boxes[index, place] = np.concatenate([first, last]) / SIZE
            classes[index, place] = DIGITS.index(digits.target[digit])
    arrays = {"image": images, "boxes": boxes, "boxes_label": classes, "boxes_mask": mask * 1.0}
    features = {
        "image": Image(images.shape[1:]),
        "boxes": Boxes(tuple(map(str, DIGITS)), MOST),
    }
    return data.from_arrays(features, {"train": arrays}, options, name)


data.register("guest_scenes", scenes)


class Detector(nn.Module):
    """Three convolutions down to the grid.

    Attributes:
      num_classes: of the boxes.
      features: channels.
    """

    num_classes: int = 2
    features: int = 32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """`[batch, cells, 5 + classes]`: is there a box, its center and size, and its class."""
        del train
        x = images
        for layer in range(3):
            x = nn.Conv(self.features, (3, 3), (2, 2), name=f"conv{layer}")(x)
            x = nn.relu(x)
        x = nn.Dense(5 + self.num_classes, name="head")(x)
        return x.reshape(x.shape[0], -1, x.shape[-1])


models.register("guest_detector", Detector)


@flax.struct.dataclass
class AveragePrecision(Rows):
    """Of boxes that were found; `values` are the arguments of `average_precision`."""

    def compute(self) -> float:
        return average_precision(**self.real())


def average_precision(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    true_boxes: np.ndarray,
    true_classes: np.ndarray,
    true_mask: np.ndarray,
) -> float:
    """The mean over classes of the area under precision by recall (Everingham et al., 2010).

    A box is right where it covers a true one of its class by half (intersection over union) that
    nothing of a better score has found.

    Args:
      boxes: corners `[images, found, 4]`.
      scores: `[images, found]`.
      classes: `[images, found]`.
      true_boxes: `[images, most, 4]`.
      true_classes: `[images, most]`.
      true_mask: `[images, most]`, 0 for padding.
    """
    areas = []
    for own in np.unique(true_classes[true_mask > 0]):
        wanted = (true_classes == own) & (true_mask > 0)
        found, right = set(), []
        where = np.argwhere(classes == own)
        for image, place in where[np.argsort(-scores[classes == own], kind="stable")]:
            overlaps = overlap(boxes[image, place], true_boxes[image]) * wanted[image]
            best = int(overlaps.argmax())
            right.append(overlaps[best] >= 0.5 and (image, best) not in found)
            if right[-1]:
                found.add((image, best))
        precision = np.cumsum(right) / (np.arange(len(right)) + 1)
        # The best that can be had at this recall or a higher one.
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        areas.append(envelope[np.array(right, bool)].sum() / wanted.sum())
    return float(np.mean(areas))


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box `[4]` and others `[count, 4]`."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(0).prod(-1)
    return common / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1) - common)


@dataclasses.dataclass(frozen=True)
class Detection(Descent):
    """Is there a box in a cell, and where and what it is."""

    needs: ClassVar[Mapping[str, Any]] = {"image": (Image,), "boxes": (Boxes,)}
    watched_metric: ClassVar[str] = "average_precision"
    watched_mode: ClassVar[str] = "max"
    evaluators: ClassVar[tuple[str, ...]] = ("guest_found",)

    def init(self, key: jax.Array, batch: Batch) -> dict[str, Any]:
        return self.init_model(key, *self.describe_inputs(batch))

    def loss(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        applied = self.apply(params, model_state, batch["image"], key=key)
        loss = self._loss(applied.outputs, batch)
        return loss.total, Aux(loss.count, applied.model_state, {"loss": loss})

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        del key
        rows = {
            **self.detect(variables, batch),
            "true_boxes": batch["boxes"],
            "true_classes": batch["boxes_label"],
            "true_mask": batch["boxes_mask"],
        }
        return {
            "loss": self._loss(self.model.apply(variables, batch["image"]), batch),
            "average_precision": AveragePrecision(rows, batch["mask"]),
        }

    def detect(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """A box for each cell, `[batch, cells, ...]`, with its score."""
        outputs = self.model.apply(variables, batch["image"])
        cells = jnp.stack(jnp.divmod(jnp.arange(CELLS**2), CELLS), -1)
        center = (cells + nn.sigmoid(outputs[..., 1:3])) / CELLS
        half = nn.sigmoid(outputs[..., 3:5]) / 2
        probabilities = nn.softmax(outputs[..., 5:])
        return {
            "boxes": jnp.concatenate([center - half, center + half], -1),
            "scores": nn.sigmoid(outputs[..., 0]) * probabilities.max(-1),
            "classes": probabilities.argmax(-1),
        }

    def _loss(self, outputs: jax.Array, batch: Batch) -> Mean:
        first, last = jnp.split(batch["boxes"], 2, axis=-1)
        scaled = (first + last) / 2 * CELLS
        row, column = jnp.moveaxis(jnp.floor(scaled).astype(int), -1, 0)
        # One for the cell that has to find a box, [batch, most, cells].
        chosen = jax.nn.one_hot(row * CELLS + column, CELLS**2) * batch["boxes_mask"][..., None]
        of_box = jnp.einsum("bmc,bco->bmo", chosen, outputs)
        where = jnp.concatenate([scaled - jnp.floor(scaled), last - first], -1)
        errors = jnp.square(nn.sigmoid(of_box[..., 1:5]) - where).sum(-1)
        softmax = optax.softmax_cross_entropy_with_integer_labels
        nats = softmax(of_box[..., 5:], batch["boxes_label"])
        there = optax.sigmoid_binary_cross_entropy(outputs[..., 0], chosen.sum(1))
        of_boxes = ((10 * errors + nats) * batch["boxes_mask"]).sum(1)
        return Mean.of(there.sum(1) + of_boxes, batch["mask"])


tasks.register("guest_detection", Detection)


@dataclasses.dataclass(frozen=True)
class Found(Evaluator):
    """Pictures with true boxes (green), and those that were found (red)."""

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        rows = trained.rows(trained.learner.detect, split)
        batch = next(trained.batches(split))
        pictures = np.kron(batch["image"][:12], np.ones((1, 4, 4, 3)))
        for index, picture in enumerate(pictures):
            for box in batch["boxes"][index][batch["boxes_mask"][index] > 0]:
                _frame(picture, box, (0, 1, 0))
            for box in rows["boxes"][index][rows["scores"][index] > 0.5]:
                _frame(picture, box, (1, 0, 0))
        return Findings(figures={"found": plots.image_grid(pictures)})


def _frame(picture: np.ndarray, box: np.ndarray, color: tuple[int, ...]) -> None:
    top, left, bottom, right = np.rint(box * len(picture)).astype(int).clip(0, len(picture) - 1)
    picture[[top, bottom], left:right] = picture[top:bottom, [left, right]] = color


evaluators.register("guest_found", Found)

recipe = Recipe(
    name="guest_detector",
    imports=(__name__,),
    task="guest_detection",
    model="guest_detector",
    data="guest_scenes",
    data_options={"augment": "flip", "normalize": "none"},
    learning_rate=0.05,
    schedule="cosine",
    batch_size=32,
    num_epochs=8,
    evaluate_every=4,
)


class TestGuest(Guest):
    stop_after, crash_after, compared_after = 40, 100, 20
    figures = ("found",)

    def test_it_finds_the_digits(self, run: Run):
        assert run.summary["best"]["metric"] == "average_precision"
        assert run.summary["test"]["average_precision"] > 0.85

    def test_boxes_stay_around_their_ink_when_pictures_are_flipped(self, session: Session):
        dataset = session.prepared.dataset
        batch = dataset.train_batches(64, 0).batch(0)
        flipped = dataset.transform(batch, jax.random.key(0), True)
        assert 10 < (flipped["image"] != batch["image"]).any((1, 2, 3)).sum() < 54
        pixels = np.rint(np.asarray(flipped["boxes"]) * SIZE).astype(int)
        for image, boxes in zip(np.array(flipped["image"]), pixels, strict=True):
            for top, left, bottom, right in boxes:
                assert bottom == top or image[top:bottom, [left, right - 1]].any(0).all()
            for top, left, bottom, right in boxes:
                image[top:bottom, left:right] = 0
            assert not image.any()


def test_the_average_precision_of_a_tiny_case_is_found_by_hand():
    square, other, nowhere = [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.4, 0.4, 0.6, 0.6]
    # Of class 0 two are there: found first, then missed, then found: 1/2 + 1/2 * 2/3. Of class 1
    # one, found twice: the second time does not count. Padding is no box.
    found = average_precision(
        boxes=np.array([[square, other, other], [nowhere, square, nowhere]]),
        scores=np.array([[0.9, 0.6, 0.5], [0.8, 0.7, 0.1]]),
        classes=np.array([[0, 1, 1], [0, 0, 0]]),
        true_boxes=np.array([[other, square], [square, nowhere]]),
        true_classes=np.array([[1, 0], [0, 0]]),
        true_mask=np.array([[1, 1], [1, 0]]),
    )
    assert found == pytest.approx((5 / 6 + 1) / 2)
