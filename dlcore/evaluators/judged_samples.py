"""Samples of a generative model, judged by a classifier that was trained on the same data.

Two numbers: how many classes the samples cover, and the Frechet distance between samples and
held-out images in the classifier's features (Heusel et al., 2017, with a classifier of the data at
hand in place of Inception). A Gaussian fitted to the pixels is the baseline that a network has to
beat.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, override

import flax.linen as nn
import jax
import numpy as np

from dlcore import data, plots
from dlcore.data.features import Image
from dlcore.errors import UsageError
from dlcore.evaluators.evaluator import Evaluator, Findings, Trained
from dlcore.evaluators.registry import register
from dlcore.evaluators.samples import draw
from dlcore.ranges import Range
from dlcore.tasks import Learner, Samples, Variables
from dlcore.tasks.classification import Classification

# Images [N, H, W, C] to features [N, F] and class probabilities [N, K].
Judge = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class JudgedSamples(Evaluator):
    """Samples judged by the classifier that the recipe needs under the name "judge".

    Attributes:
      count: samples that are judged; enough that the distance is of the generator and not of the
        draw.

    Raises:
      UsageError: there are too few for a covariance.
    """

    count: Annotated[int, Range(least=2, most=10**6)] = 10_000

    ability: ClassVar[type] = Samples
    needs: ClassVar[data.Needs] = {"image": (Image,)}
    needed: ClassVar[tuple[str, ...]] = ("judge",)

    @override
    def check_needed(self, role: str, learner: Learner, dataset: data.Dataset) -> None:
        of_images = isinstance(dataset.features.get("image"), Image)
        if not (isinstance(learner, Classification) and of_images):
            raise UsageError(
                f"needs.{role}: a judge classifies images, {type(learner).__name__} of "
                f"{dataset.name} does not: name a recipe of task=classification on images"
            )

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        """The numbers of `judge_samples`, against the images of the split, and a figure.

        "judged_samples" shows the samples that the judge is surest of, a row for each class.
        """
        judge = judge_of(trained.needed["judge"])
        real = trained.rows(_images, split)
        generated = draw(trained, key, self.count)
        _, probabilities = judge(generated)
        best = np.concatenate(
            [np.argsort(-column, kind="stable")[:10] for column in probabilities.T]
        )
        figure = plots.image_grid(generated[best], value_range=(-1, 1))
        return Findings(
            scalars=judge_samples(judge, real, generated), figures={"judged_samples": figure}
        )


def _images(variables: Variables, batch: Any) -> Any:
    del variables
    return batch["image"]


def judge_of(classifier: Trained) -> Judge:
    """A trained classifier as the judge of images in -1..1."""
    size = classifier.dataset.example_batch(1)["image"].shape[1:]

    def prepare(images: jax.Array) -> jax.Array:
        # The judge was trained on what its own dataset makes of 0..1, perhaps of another size.
        images = jax.image.resize((images + 1) / 2, (images.shape[0], *size), "bilinear")
        return classifier.dataset.transform({"image": images}, None, False)["image"]

    return judge_of_classifier(classifier.learner.model, classifier.variables, prepare)


def judge_of_classifier(
    model: nn.Module,
    variables: Variables,
    prepare: Callable[[Any], Any],
    batch_size: int = 500,
) -> Judge:
    """A classifier as a judge: its features are what its last dense layer sees.

    Args:
      model: a classifier whose `__call__` gives logits and whose last dense layer makes them.
      variables: its variables.
      prepare: from the images that are judged to the classifier's input (another normalization).
      batch_size: images that are classified at a time.
    """

    @jax.jit
    def classify(variables: Variables, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen: list[jax.Array] = []

        def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if isinstance(context.module, nn.Dense):
                seen.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(watch):
            logits: Any = model.apply(variables, prepare(images))
        if not seen:
            raise UsageError(f"a judge has a last dense layer: {type(model).__name__} has none")
        return seen[-1], jax.nn.softmax(logits)

    def judge(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = range(0, len(images), batch_size)
        parts = [
            jax.device_get(classify(variables, images[start : start + batch_size]))
            for start in starts
        ]
        features, probabilities = zip(*parts, strict=True)
        return np.concatenate(features), np.concatenate(probabilities)

    return judge


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The squared Frechet distance between Gaussians fitted to two sets of vectors.

        |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2))

    of the means and the unbiased covariances. The matrix under the outer root is symmetric, so both
    roots come from symmetric eigendecompositions, which rank-deficient covariances do not upset;
    negative eigenvalues of rounding count as zero. The estimate is biased upwards, the more so the
    fewer the vectors: compare only distances of equally many.

    Source: Dowson and Landau (1982), eq. 4; as a measure of generators, Heusel et al. (2017).

    Args:
      first: `[N, F]`, at least two vectors.
      second: `[M, F]`, at least two vectors.

    Returns:
      The distance, in squared units of the features, at least 0.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    mean_difference = first.mean(axis=0) - second.mean(axis=0)
    first_covariance, second_covariance = _covariance(first), _covariance(second)
    root = _symmetric_root(first_covariance)
    eigenvalues = np.linalg.eigvalsh(root @ second_covariance @ root)
    cross = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    spread = np.trace(first_covariance) + np.trace(second_covariance) - 2 * cross
    return float(mean_difference @ mean_difference + max(spread, 0.0))


def class_coverage(
    predictions: np.ndarray, reference: np.ndarray, num_classes: int, least_ratio: float = 0.25
) -> dict[str, float]:
    """How the classes of samples are spread, compared with those of real images.

    Args:
      predictions: `[N]`, classes of the samples, as a classifier sees them.
      reference: `[M]`, classes of the real images, as the same classifier sees them.
      num_classes: how many there are.
      least_ratio: a class is covered if its share of the samples is at least this part of its share
        of the real images.

    Returns:
      "classes_covered", a number of classes; "class_coverage", the same as a fraction of the
      classes that occur in the reference; "class_total_variation", half the sum of the absolute
      differences between the two shares, from 0 (equal) to 1 (disjoint).
    """
    share = np.bincount(predictions, minlength=num_classes) / len(predictions)
    due = np.bincount(reference, minlength=num_classes) / len(reference)
    present = due > 0
    covered = int((share[present] >= least_ratio * due[present]).sum())
    return {
        "classes_covered": covered,
        "class_coverage": covered / int(present.sum()),
        # At most 1, also after rounding.
        "class_total_variation": min(float(np.abs(share - due).sum() / 2), 1.0),
    }


def fitted_gaussian_samples(images: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Samples of the Gaussian with the mean and the full pixel covariance of some images.

    The empirical covariance is used as it is, without shrinkage: with fewer images than pixels its
    rank is lower and the draws stay in the images' own affine span. Draws are clipped to the range
    of the images, which brings them nearer.

    Args:
      images: `[N, H, W, C]`, at least two.
      count: how many samples to draw.
      seed: of the draw.

    Returns:
      `[count, H, W, C]`, float32.
    """
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    noise = np.random.default_rng(seed).standard_normal((count, flat.shape[1]))
    samples = flat.mean(axis=0) + noise @ _symmetric_root(_covariance(flat))
    samples = np.clip(samples, flat.min(), flat.max())
    return samples.reshape(count, *images.shape[1:]).astype(np.float32)


def judge_samples(
    judge: Judge, real: np.ndarray, generated: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """The numbers that a generator is judged by, beside those of a Gaussian fitted to the pixels.

    The Gaussian is fitted to `real` itself, the images that it is then compared with: an advantage
    over a generator, which has seen only training images. It draws as many samples as `generated`.

    Args:
      judge: gives features and class probabilities of images.
      real: `[N, H, W, C]`, held-out images.
      generated: `[M, H, W, C]`, samples in the same range.
      seed: of the Gaussian's samples.

    Returns:
      The numbers of `class_coverage`; "confidence", the judge's mean probability of the class that
      it gives to a sample; "frechet_distance" of the samples and "gaussian_frechet_distance" of the
      Gaussian's to the real images; "frechet_ratio", the first divided by the second.
    """
    real_features, real_probabilities = judge(real)
    features, probabilities = judge(generated)
    gaussian_features, _ = judge(fitted_gaussian_samples(real, len(generated), seed))
    distance = frechet_distance(features, real_features)
    gaussian_distance = frechet_distance(gaussian_features, real_features)
    return {
        **class_coverage(
            probabilities.argmax(-1), real_probabilities.argmax(-1), probabilities.shape[-1]
        ),
        "confidence": float(probabilities.max(-1).mean()),
        "frechet_distance": distance,
        "gaussian_frechet_distance": gaussian_distance,
        "frechet_ratio": distance / gaussian_distance,
    }


def _covariance(vectors: np.ndarray) -> np.ndarray:
    centered = vectors - vectors.mean(axis=0)
    return centered.T @ centered / (len(vectors) - 1)


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric positive semidefinite matrix."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(eigenvalues, 0))) @ vectors.T


register("judged_samples", JudgedSamples)
