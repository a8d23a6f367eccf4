"""What each penalty does to the numbers that it penalizes, in an autoencoder of the digits."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import data, losses, penalties, plots
from dlcore.analysis import study
from dlcore.analysis.descent import descend
from dlcore.expectation import Expectation
from dlcore.optim import builder, schedules
from dlcore.ranges import Natural, NotNegative, Positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BATCH = 100
# A weight, or a unit's output, below this does next to nothing: pixels are in 0..1.
_SMALL = 0.01

# Which options each row of the figure puts to work.
_ROWS = {
    "none": (),
    "L2": ("weight_decay",),
    "L1": ("l1",),
    "elastic": ("weight_decay", "l1"),
    "sparsity": ("sparsity",),
    "contractive": ("contraction",),
}
_WEIGHTS = ("weight_decay", "l1", "sparsity", "contraction")

Params = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Penalties(study.Study):
    """A tied autoencoder, h = relu(W x + b), x' = W^T h + c, under one penalty at a time.

    Attributes:
      weight_decay: of the squared weights, halved ("L2").
      l1: of the absolute weights; "elastic" has both.
      sparsity: of the absolute activations of the code.
      contraction: of the code's squared derivatives with respect to the input.
      units: of the code.
      steps: of Adam, on batches of 100 digits.
      seed: of the first weights and of the batches.
    """

    weight_decay: NotNegative = 0.02
    l1: NotNegative = 0.01
    sparsity: NotNegative = 0.2
    contraction: NotNegative = 0.2
    units: Positive = 64
    steps: Positive = 1000
    seed: Natural = 0

    expectations = (
        Expectation("L2_norm_over_none", 0.9, "min", "P K L D: L2 shrinks the weights"),
        Expectation("L1_small_weights_over_none", 3, "max", "P K L D: L1 makes weights vanish"),
        Expectation("sparsity_silent_over_none", 2, "max", "P K L D: fewer units answer"),
        Expectation("contractive_slope_over_none", 0.5, "min", "K L D: the code is flatter"),
    )

    def run(self) -> study.Numbers:
        """For each penalty weights, codes and slopes, and scalars that sum them up.

        What a penalty is meant to change is also divided by its value without a penalty.
        """
        split: Any = data.load("digits").splits["train"]
        x = split.fetch(np.arange(len(split)))["image"].reshape(len(split), -1)
        generator = np.random.default_rng(self.seed)
        kernel = generator.standard_normal((x.shape[1], self.units), np.float32)
        kernel /= np.sqrt(len(kernel), dtype=np.float32)
        order = generator.integers(0, len(x), (self.steps, _BATCH))
        train = jax.jit(self._train)
        numbers: study.Numbers = {}
        for name, options in _ROWS.items():
            chosen = {option: getattr(self, option) * (option in options) for option in _WEIGHTS}
            params = train(x, kernel, order, chosen)
            measured = jax.device_get(_measure(params, x))
            numbers |= {f"{name} {key}": value for key, value in measured.items()}
        compared = {
            "L2_norm": ("L2", "norm"),
            "L1_small_weights": ("L1", "small_weights"),
            "sparsity_silent": ("sparsity", "silent_units"),
            "contractive_slope": ("contractive", "slope"),
        }
        ratios = {
            f"{label}_over_none": numbers[f"{name} {key}"] / numbers[f"none {key}"]
            for label, (name, key) in compared.items()
        }
        return numbers | ratios

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """Histograms: a row for each penalty."""
        rows = {
            name: [numbers[f"{name} {column}"] for column in ("weights", "code", "slopes")]
            for name in _ROWS
        }
        return plots.histograms(rows, ("weights", "code", "slope"), scale_by="column")

    def _train(
        self, x: jax.Array, kernel: jax.Array, order: jax.Array, weights: Mapping[str, jax.Array]
    ) -> Params:
        """The parameters after a step for each row of examples in `order`."""
        optimizer = builder.build("adam", schedules.build("cosine", 0.01, self.steps))
        start = {"kernel": kernel, "bias": jnp.zeros(self.units), "output_bias": x.mean(0)}

        def gradient(params: Params, chosen: jax.Array) -> Params:
            return jax.grad(_objective)(params, x[chosen], weights)

        return descend(optimizer, gradient, start, order)


@jax.jit
def _measure(params: Params, x: jax.Array) -> dict[str, jax.Array]:
    """Weights, codes and slopes, and scalars that sum them up."""
    code = _encode(params, x)
    slopes = jax.vmap(jax.jacrev(lambda x: _encode(params, x)))(x)
    squares = jnp.square(slopes).sum((1, 2))
    return {
        "weights": params["kernel"].ravel(),
        "norm": jnp.linalg.norm(params["kernel"]),
        "small_weights": (jnp.abs(params["kernel"]) < _SMALL).mean(),
        "code": code.ravel(),
        "silent_units": (code < _SMALL).mean(),
        "slopes": jnp.sqrt(squares),
        "slope": squares.mean(),
        "error": losses.square(_decode(params, code), x).mean(),
    }


def _objective(params: Params, x: jax.Array, weights: Mapping[str, jax.Array]) -> jax.Array:
    code = _encode(params, x)
    contraction = penalties.contractive(lambda x: _encode(params, x), x)
    by_example = (
        losses.square(_decode(params, code), x)
        + weights["sparsity"] * penalties.sparsity(code)
        + weights["contraction"] * contraction
    )
    by_weights = penalties.elastic(params, weights["l1"], weights["weight_decay"])
    return by_example.mean() + by_weights


def _encode(params: Params, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ params["kernel"] + params["bias"])


def _decode(params: Params, code: jax.Array) -> jax.Array:
    return code @ params["kernel"].T + params["output_bias"]


study.register("penalties", Penalties)
