"""The error landscape around trained parameters (Krawiec's and Deledalle's slides), drawn."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, override

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlcore import data, models, paths, plots, tasks
from dlcore.analysis import parameter_plane, study
from dlcore.analysis.descent import descend, random_start
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.ranges import AboveZero, Natural, Positive, Range
from dlcore.tasks.classification import Classification
from dlcore.train import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = {"random": 1, "points": 3}
_VIEWS = ("contour", "surface")
_BATCH_SIZE = 500
# How far the plane of three points goes beyond them, in parts of their width and height.
_MARGIN = 0.3
# The training that stands in for a run: seconds, and nearly no error on the training split.
_STEPS, _TRAIN_BATCH_SIZE, _RATE = 300, 128, 3e-3


class _Trained(NamedTuple):
    """Trained models of one kind, and the data that they learned from."""

    task: tasks.Descent
    dataset: data.Dataset
    params: list[Any]
    model_state: Mapping[str, Any]  # Of the first.


@dataclasses.dataclass(frozen=True)
class Landscape(study.Study):
    """The training loss over a plane through trained parameters.

    All other variables (the averages of a normalization) stay as they are in the first model.

    Attributes:
      plane: random, along two filter-normalized directions around one model; or points, through
        three models.
      runs: directories of the trained runs, one or three, with commas between them; by default
        networks of one hidden layer are trained on the bundled digits, which takes seconds.
      view: contour or surface.
      resolution: points along each axis of the grid.
      extent: how far a random plane goes each way; 1 is a change as large as the filter itself.
      examples: how many of the training split's are used at most, in whole batches.
      seed: of the random directions, and of the networks that are trained here.

    Raises:
      UsageError: an option is out of range, or the plane needs another number of runs.
    """

    plane: str = "random"
    runs: str = ""
    view: str = "contour"
    resolution: Annotated[int, Range(least=2)] = 41
    extent: AboveZero = 1.0
    examples: Positive = 1000
    seed: Natural = 0

    expectations = (
        Expectation("loss_of_trained", 0.1, "min", "dlcore: 300 steps of Adam"),
        Expectation("trained_above_least", 0.01, "min", "K: training ends in a valley"),
        Expectation("greatest", math.log(10), "max", "K: around it rise hills, here above chance"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("plane", tuple(_POINTS)), ("view", _VIEWS)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"unknown {name} {getattr(self, name)!r}: it is {' or '.join(known)}"
                )
        if self.runs and len(self._directories) != _POINTS[self.plane]:
            raise UsageError(
                f"plane={self.plane} takes {_POINTS[self.plane]} in runs, "
                f"not {len(self._directories)}: {self.runs}"
            )
        for name in self._directories if self.runs else ():
            paths.directory(name, "runs")

    @property
    def _directories(self) -> list[str]:
        return self.runs.split(",")

    @override
    def run(self) -> study.Numbers:
        """The loss over the grid.

        Returns:
          "x" and "y" `[resolution]`, "loss" `[y, x]`, "least" and "greatest" of it; "points"
          `[models, 2]`, where the trained models are, and "loss_at_points" `[models]`, the largest
          of which is "loss_of_trained", by "trained_above_least" above the least.
        """
        trained = self._open() if self.runs else self._train()
        if self.plane == "points":
            plane, points = parameter_plane.plane_through(trained.params)
            margin = _MARGIN * np.ptp(points, axis=0)
            low, high = points.min(0) - margin, points.max(0) + margin
        else:
            generator = np.random.default_rng(self.seed)
            plane = parameter_plane.random_plane(trained.params[0], generator)
            points = np.zeros((1, 2))
            low, high = np.full(2, -self.extent), np.full(2, self.extent)
        x, y = np.linspace(low, high, self.resolution).T
        grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        losses = self._losses(trained, plane, np.concatenate([grid, points]))
        loss = losses[: len(grid)].reshape(self.resolution, self.resolution)
        return {
            "x": x,
            "y": y,
            "loss": loss,
            "least": loss.min(),
            "greatest": loss.max(),
            "points": points,
            "loss_at_points": losses[len(grid) :],
            "loss_of_trained": losses[len(grid) :].max(),
            "trained_above_least": losses[len(grid) :].max() - loss.min(),
        }

    @override
    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """Contour lines with the trained models on them, or the surface."""
        x, y, loss = numbers["x"], numbers["y"], numbers["loss"]
        title = "Training loss over a plane of parameters"
        unit = "distance" if self.plane == "points" else "in norms of the filters"
        labels = f"direction 1, {unit}", f"direction 2, {unit}"
        if self.view == "surface":
            return plots.surface(x, y, loss, title, *labels, "loss")
        trained = plots.Line(
            numbers["points"][:, 0], numbers["points"][:, 1], "trained", style="points", color=1
        )
        return plots.contour_panels(
            [plots.Contour(title, x, y, loss, [trained], *labels, log=True)]
        )

    def _losses(
        self, trained: _Trained, plane: parameter_plane.Plane, positions: np.ndarray
    ) -> np.ndarray:
        size = min(_BATCH_SIZE, self.examples)
        batches = itertools.islice(
            trained.dataset.evaluation_batches("train", size), self.examples // size
        )

        key = jax.random.key(self.seed)

        def loss(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
            prepared = trained.dataset.transform(batch, None, False)
            variables = {"params": params, **trained.model_state}
            mean: Any = trained.task.evaluate(variables, prepared, key)["loss"]
            return mean.total, mean.count

        return parameter_plane.losses(loss, plane, positions, batches)

    def _open(self) -> _Trained:
        runs = [Run(directory) for directory in self._directories]
        for field in ("task", "model", "model_options", "data", "data_options"):
            if any(getattr(run.recipe, field) != getattr(runs[0].recipe, field) for run in runs):
                raise UsageError(f"the runs {self.runs} have no plane in common: {field} differs")
        trained = [run.trained() for run in runs]
        task = trained[0].learner
        if not isinstance(task, tasks.Descent):
            raise UsageError(f"runs={self.runs}: their task {runs[0].recipe.task} descends no loss")
        model_state = {name: own for name, own in trained[0].variables.items() if name != "params"}
        params = [one.variables["params"] for one in trained]
        return _Trained(task, trained[0].dataset, params, model_state)

    def _train(self) -> _Trained:
        dataset = data.load("digits")
        task = Classification(models.create("mlp", hidden=(32,), activation="relu"))
        host = dataset.example_batch(dataset.num_examples("train"))
        examples = dataset.transform(jax.tree.map(jnp.asarray, host), None, False)
        key = jax.random.key(self.seed)
        shapes = jax.eval_shape(task.init, key, examples)["params"]
        generator = np.random.default_rng(self.seed)
        params = []
        for _ in range(_POINTS[self.plane]):
            start = random_start(shapes, generator)
            order = generator.integers(0, len(host["label"]), (_STEPS, _TRAIN_BATCH_SIZE))
            params.append(_descend(task, examples, start, order, key))
        return _Trained(task, dataset, params, {})


@functools.partial(jax.jit, static_argnums=0)
def _descend(
    task: tasks.Descent, examples: tasks.Batch, start: Any, order: jax.Array, key: jax.Array
) -> Any:
    """The parameters that Adam reaches from a start, by the batches of an order."""

    def gradient(params: Any, chosen: jax.Array) -> Any:
        batch = jax.tree.map(lambda array: array[chosen], dict(examples))

        def mean(params: Any) -> jax.Array:
            # Nothing in this network draws.
            total, aux = task.loss(params, {}, batch, key)
            return total / aux.count

        return jax.grad(mean)(params)

    return descend(optax.adam(_RATE), gradient, start, order)


study.register("landscape", Landscape)
