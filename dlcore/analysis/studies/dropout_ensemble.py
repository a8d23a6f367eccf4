"""Dropout as an ensemble of sub-networks: their averaged predictions against test-time scaling."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlcore import data, models, plots, tasks
from dlcore.analysis import study
from dlcore.analysis.descent import descend, random_start
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.ranges import Natural, Positive, Range
from dlcore.tasks.classification import Classification

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BATCH_SIZE = 64
_LEARNING_RATE = 3e-3


@dataclasses.dataclass(frozen=True)
class DropoutEnsemble(study.Study):
    """How near test-time scaling comes to averaging the sub-networks that dropout trains.

    A network is trained with classic dropout on the bundled digits. Its sub-networks, one drawn
    mask of the units each, then predict the test digits. Averages over more and more of them, of
    probabilities (arithmetic) and of their logarithms (geometric, normalized), are compared with
    the one network whose unit outputs are multiplied by the probability of being kept.

    With one hidden layer the geometric average over all masks is that network exactly (Hinton et
    al., 2012; Baldi and Sadowski, 2013), so the distance falls as 1/sqrt(sub-networks) to nothing;
    with more layers the scaled network is an approximation and the distance ends above zero.

    Attributes:
      depths: numbers of hidden layers, one network each.
      units: units of each hidden layer.
      rate: probability of dropping a hidden unit, above 0 and below 1.
      subnetworks: number of sub-networks averaged, at least 2.
      epochs: length of the training.
      seed: of the parameters, the order and the masks.

    Raises:
      UsageError: an option is out of range.
    """

    depths: tuple[Positive, ...] = (1, 3)
    units: Positive = 128
    rate: Annotated[float, Range(above=0, below=1)] = 0.5
    subnetworks: Annotated[int, Range(least=2)] = 1024
    epochs: Positive = 30
    seed: Natural = 0

    expectations = (
        *study.near("power_1", -0.5, 0.1, "Baldi and Sadowski (2013): exact for one layer"),
        Expectation("distance_1", 0.002, "min", "Baldi and Sadowski (2013): exact for one layer"),
        Expectation("distance_3", 0.002, "max", "Baldi and Sadowski (2013): approximate beyond"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.depths:
            raise UsageError("depths is empty: name numbers of hidden layers, each at least 1")

    def run(self) -> study.Numbers:
        """Errors, losses and distances by the number of sub-networks that are averaged.

        - `count` `[counts]`: powers of two up to `subnetworks`;
        - `arithmetic_error`, `geometric_error` `[depths, counts]`: shares of wrong test digits, and
          `arithmetic_loss`, `geometric_loss`: mean negative log-probabilities of the right one;
        - `scaled_error`, `scaled_loss` `[depths]`: of the network with test-time scaling;
        - `arithmetic_distance`, `geometric_distance` `[depths, counts]`: mean total variation
          between the average and the network with test-time scaling;
        - `distance_DEPTH`: the last geometric distance of the network of that depth, and
          `power_DEPTH`: the power of the number of sub-networks as which it falls.
        """
        train, test = _digits("train"), _digits("test")
        count = 2 ** np.arange(int(np.log2(self.subnetworks)) + 1)
        rows = [self._measure(depth, train, test, count) for depth in self.depths]
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        scalars = {}
        for depth, distance in zip(self.depths, arrays["geometric_distance"], strict=True):
            scalars[f"distance_{depth}"] = distance[-1]
            scalars[f"power_{depth}"] = np.polyfit(np.log(count), np.log(distance), 1)[0]
        return {"count": count} | arrays | scalars

    def _measure(
        self, depth: int, train: tasks.Batch, test: tasks.Batch, count: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The numbers of one network."""
        model = models.create(
            "mlp",
            hidden=(self.units,) * depth,
            activation="relu",
            dropout_rate=self.rate,
            classic_dropout=True,
        )
        key = jax.random.key(self.seed)
        params = self._trained(Classification(model), train, key)

        def log_probabilities(params: Any, image: jax.Array, key: jax.Array | None) -> jax.Array:
            rngs = None if key is None else {"dropout": key}
            logits: Any = model.apply({"params": params}, image, key is not None, rngs=rngs)
            return jax.nn.log_softmax(logits)

        @jax.jit
        def predict(params: Any, image: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            """By sub-networks, and by the one network with test-time scaling."""
            by_mask = functools.partial(log_probabilities, params, image)
            masks = jax.random.split(key, count[-1])
            return jax.lax.map(by_mask, masks), log_probabilities(params, image, None)

        predicted = jax.device_get(predict(params, test["image"], jax.random.fold_in(key, 1)))
        drawn, scaled = (own.astype(np.float64) for own in predicted)
        averages = {
            "arithmetic": np.log([np.exp(drawn[:number]).mean(0) for number in count]),
            "geometric": _normalized(np.stack([drawn[:number].mean(0) for number in count])),
        }
        label = np.asarray(test["label"])
        numbers = _scores(scaled, label, "scaled")
        for name, average in averages.items():
            difference = np.abs(np.exp(average) - np.exp(scaled))
            numbers |= _scores(average, label, name)
            numbers[f"{name}_distance"] = difference.sum(-1).mean(-1) / 2
        return numbers

    def _trained(self, task: tasks.Descent, train: tasks.Batch, key: jax.Array) -> Any:
        """The parameters after some epochs of Adam."""
        examples = len(train["label"])
        generator = np.random.default_rng(self.seed)
        orders = [generator.permutation(examples) for _ in range(self.epochs)]
        whole = examples // _BATCH_SIZE * _BATCH_SIZE
        order = np.concatenate([own[:whole].reshape(-1, _BATCH_SIZE) for own in orders])

        @jax.jit
        def train_all(start: Any, train: tasks.Batch, order: jax.Array, key: jax.Array) -> Any:
            def gradient(params: Any, own: tuple[jax.Array, jax.Array]) -> Any:
                chosen, mask_key = own
                batch = {name: array[chosen] for name, array in train.items()}
                gradients, _ = jax.grad(task.loss, has_aux=True)(params, {}, batch, mask_key)
                return jax.tree.map(lambda total: total / _BATCH_SIZE, gradients)

            keys = jax.random.split(key, len(order))
            return descend(optax.adam(_LEARNING_RATE), gradient, start, (order, keys))

        shapes = jax.eval_shape(task.init, key, train)["params"]
        return train_all(random_start(shapes, generator), train, order, key)

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """Losses by the number of sub-networks, and how near the averages come to scaling."""
        count = numbers["count"]
        losses, distances = [], []
        for row, depth in enumerate(self.depths):
            layers = f"{depth} hidden layer{'s' if depth > 1 else ''}"
            scaled = np.full(len(count), numbers["scaled_loss"][row])
            lines = _averages(numbers, "loss", row)
            lines.append(plots.Line(count, scaled, "test-time scaling", "dashed", 2))
            losses.append(plots.Panel(layers, lines, "sub-networks averaged", "test loss", True))
            lines = _averages(numbers, "distance", row)
            middle = len(count) // 2
            law = numbers["geometric_distance"][row, middle] * np.sqrt(count[middle] / count)
            lines.append(plots.Line(count, law, "1 / sqrt(sub-networks)", "dashed", 3))
            labels = "sub-networks averaged", "distance from scaling"
            distances.append(plots.Panel(layers, lines, *labels, log_x=True, log_y=True))
        return plots.line_panels([*losses, *distances], columns=len(self.depths))


def _averages(numbers: Mapping[str, np.ndarray], what: str, row: int) -> list[plots.Line]:
    return [
        plots.Line(numbers["count"], numbers[f"{name}_{what}"][row], f"{name} average")
        for name in ("arithmetic", "geometric")
    ]


@functools.cache
def _digits(split: str) -> tasks.Batch:
    """The bundled digits of a split, as one batch on the device."""
    dataset = data.load("digits")
    batch = next(dataset.evaluation_batches(split, dataset.num_examples(split)))
    return jax.tree.map(jnp.asarray, dataset.transform(batch, None, False))


def _normalized(log_values: np.ndarray) -> np.ndarray:
    """Log-probabilities: the values, shifted so that each row's exponentials sum to 1."""
    return log_values - np.log(np.exp(log_values).sum(-1, keepdims=True))


def _scores(log_probabilities: np.ndarray, label: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Error and loss of predictions `[..., examples, classes]`."""
    right = np.take_along_axis(
        log_probabilities, np.broadcast_to(label[:, None], (*log_probabilities.shape[:-1], 1)), -1
    )
    return {
        f"{name}_error": (log_probabilities.argmax(-1) != label).mean(-1),
        f"{name}_loss": -right.mean((-2, -1)),
    }


study.register("dropout_ensemble", DropoutEnsemble)
