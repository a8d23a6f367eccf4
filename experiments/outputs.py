"""What a trained model puts out: predictions, samples and their judgement, figures."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dlcore import plots
from dlcore.analysis import generative
from dlcore.analysis.runs import Run
from dlcore.data.text import TextDataset
from experiments.session import Session

SAMPLE_GRID = 100
# Enough that the Frechet distance is of the generator and not of the draw.
JUDGED_SAMPLES = 10_000
SAMPLE_CHARACTERS = 1000

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Judge:
    """The trained classifier that generated images are judged by.

    Attributes:
      session: of its recipe.
      variables: its trained variables.
    """

    session: Session
    variables: Variables


def leave(
    session: Session,
    variables: Variables,
    test: Mapping[str, Any],
    workdir: pathlib.Path,
    judge: Judge | None,
) -> dict[str, Any]:
    """Writes outputs and figures of a trained model into its run directory.

    Args:
      session: of the model's recipe.
      variables: trained, on the host.
      test: the metrics on the test split.
      workdir: the run directory.
      judge: of samples, where the recipe names one.

    Returns:
      What the outputs add to the summary.
    """
    folder = workdir / "plots"
    folder.mkdir(exist_ok=True)
    plots.save(plots.learning_curves(Run(workdir).metrics), folder / "learning_curves.png")
    kernel = first_image_kernel(variables["params"])
    if kernel is not None:
        plots.save(plots.filters(kernel), folder / "filters.png")
    if "confusion" in test:
        outputs = predict(session, variables, "test")
        outputs["confusion"] = np.asarray(test["confusion"]).astype(np.int64)
        np.savez(workdir / "test_outputs.npz", allow_pickle=False, **outputs)
        figure = plots.confusion_matrix(test["confusion"], session.dataset.class_names)
        plots.save(figure, folder / "confusion_matrix.png")
    if isinstance(session.dataset, TextDataset):
        (workdir / "sample.txt").write_text(continue_text(session, variables, "\n"))
    if judge is None:
        return {}
    images = sample_images(session, variables, JUDGED_SAMPLES)
    plots.save(plots.image_grid(images[:SAMPLE_GRID], value_range=(-1, 1)), folder / "samples.png")
    return {"samples": judge_images(session, images, judge)}


def read_records(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def first_image_kernel(params: Any) -> np.ndarray | None:
    """The convolution kernel `[height, width, channels, features]` that sees the image, if any."""
    for array in jax.tree.leaves(params):
        if np.ndim(array) == 4 and array.shape[2] in (1, 3) and array.shape[0] > 1:
            return np.asarray(array)
    return None


def predict(session: Session, variables: Variables, split: str) -> dict[str, np.ndarray]:
    """Label, prediction and class probabilities of every example of a split, in order."""
    batches = session.dataset.evaluation_batches(split, session.recipe.batch_size)
    classify = classifier(session, variables)
    labels, outputs = [], []
    for batch in batches:
        real = batch["mask"] > 0
        labels.append(batch["label"][real])
        outputs.append(classify(batch)[real])
    probability = np.concatenate(outputs)
    return {
        "label": np.concatenate(labels),
        "prediction": probability.argmax(-1),
        "probability": probability,
    }


def classifier(session: Session, variables: Variables) -> Any:
    """The function from a host batch to class probabilities `[batch, classes]`."""
    task: Any = session.program.task

    @jax.jit
    def probabilities(batch: Any) -> jax.Array:
        return task.predict(variables, session.dataset.transform(batch, None, False))

    return lambda batch: np.asarray(probabilities(batch))


def continue_text(
    session: Session,
    variables: Variables,
    prompt: str,
    length: int = SAMPLE_CHARACTERS,
    temperature: float = 1.0,
) -> str:
    """A prompt and what a language model makes of it; the run's seed draws.

    Raises:
      UsageError: the prompt is empty or has characters that the model does not know.
    """
    task: Any = session.program.task
    text: Any = session.dataset
    key = jax.random.key(session.recipe.seed)
    drawn = task.sample(variables, key, text.encode(prompt)[None], length, temperature)
    return prompt + text.decode(np.asarray(drawn)[0])


def sample_images(session: Session, variables: Variables, count: int) -> np.ndarray:
    """Images `[count, height, width, channels]` in -1..1, drawn by the run's seed."""
    task: Any = session.program.task
    key = jax.random.key(session.recipe.seed)
    return np.asarray(task.sample(variables, key, count))


def judge_images(session: Session, generated: np.ndarray, judge: Judge) -> dict[str, float]:
    """The numbers of `generative.judge_samples`, against the images of the test split."""
    dataset, batch_size = session.dataset, session.recipe.batch_size
    real = []
    for batch in dataset.evaluation_batches("test", batch_size):
        images = np.asarray(dataset.transform(batch, None, False)["image"])
        real.append(images[batch["mask"] > 0])

    size = judge.session.dataset.example_batch(1)["image"].shape[1:]

    def prepare(images: Any) -> Any:
        # A generator draws in -1..1, the judge was trained on what its own dataset makes of 0..1,
        # perhaps of another size.
        images = jax.image.resize((images + 1) / 2, (images.shape[0], *size), "bilinear")
        return judge.session.dataset.transform({"image": images}, None, False)["image"]

    judge_function = generative.judge_of_classifier(
        judge.session.program.task.model, judge.variables, prepare
    )
    return generative.judge_samples(judge_function, np.concatenate(real), generated)
