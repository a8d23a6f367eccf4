"""How gradients vanish and explode over the steps of a recurrent network, and clipping (deck P)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlcore import plots
from dlcore.analysis import study
from dlcore.expectation import Expectation
from dlcore.nn.recurrent import Cell, GRUCell, LSTMCell, RNNCell
from dlcore.ranges import AboveZero, Natural, Positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What is recalled in the training: vectors of so many numbers, so many of them.
_FEATURES, _EXAMPLES = 4, 64


@dataclasses.dataclass(frozen=True)
class RecurrentGradients(study.Study):
    """The gradient's norm against the distance in time: vanilla RNN, GRU, LSTM; clipping by norm.

    The loss is the last state times a random vector of norm 1; for an LSTM the state is its memory
    c. A matrix that would make gradients explode need not do so through tanh, which saturates: it
    is a necessary condition (Pascanu et al. 2013, section 2.1).

    The clipped and the unclipped training are of a linear recurrence that has to recall its first
    input, at a rate that falls linearly to zero; gradient descent begins where gradients explode.

    Attributes:
      hidden: units of every network.
      steps: of every sequence.
      shrinking: factor of the orthogonal recurrent matrix that makes gradients vanish.
      growing: factor that makes them explode.
      forget_bias: of the LSTM that is made to remember.
      clip_norm: the norm to which gradients are clipped.
      learning_rate: of the trainings' first update.
      updates: of each training.
      seed: of parameters and inputs.
    """

    hidden: Positive = 32
    steps: Positive = 40
    shrinking: AboveZero = 0.9
    growing: AboveZero = 1.1
    forget_bias: AboveZero = 3.0
    clip_norm: AboveZero = 1.0
    learning_rate: AboveZero = 0.002
    updates: Positive = 100
    seed: Natural = 0

    expectations = (
        Expectation("linear_error", 1e-4, "min", "closed form: factor^distance, relative error"),
        Expectation(
            "tanh_over_bound",
            1.0001,
            "min",
            "Pascanu et al. (2013), eq. 7: at most factor^distance",
        ),
        Expectation(
            "memory_error",
            1e-4,
            "min",
            "closed form without recurrent products: sigmoid(bias)^distance, relative error",
        ),
        Expectation("clipped_over_limit", 1.0001, "min", "Pascanu et al. (2013), algorithm 1"),
        Expectation("unclipped_diverges", 1, "max", "Pascanu et al. (2013), section 2.3"),
        Expectation("clipped_loss_ratio", 0.5, "min", "Pascanu et al. (2013), section 3.2"),
    )

    def run(self) -> study.Numbers:
        """For each network `NAME_norms`, by distance from 0 to `steps`, and the trainings' curves.

        `clipped_loss_ratio` is the last loss over the first; `unclipped_diverges` is 1 where the
        last loss without clipping is not finite or larger than the first.
        """
        distances = np.arange(self.steps + 1)
        norms = {}
        for name, factor in (("shrinking", self.shrinking), ("growing", self.growing)):
            norms[f"linear_{name}"] = self._norms(_Linear(self.hidden, use_bias=False), factor)
            norms[f"rnn_{name}"] = self._norms(RNNCell(self.hidden), factor)
        norms["gru"] = self._norms(GRUCell(self.hidden))
        norms["lstm"] = self._norms(LSTMCell(self.hidden))
        remembering = LSTMCell(self.hidden, forget_bias=self.forget_bias)
        norms["lstm_remembering"] = self._norms(remembering)
        memory = self._norms(remembering, input_factor=0.0, factor=0.0)
        bounds = {
            "shrinking": self.shrinking**distances,
            "growing": self.growing**distances,
        }
        linear = [norms[f"linear_{name}"] / bound - 1 for name, bound in bounds.items()]
        tanh = [norms[f"rnn_{name}"][1:] / bound[1:] for name, bound in bounds.items()]
        kept = (1 / (1 + np.exp(-self.forget_bias))) ** distances
        return {
            "distances": distances,
            **{f"{name}_norms": values for name, values in norms.items()},
            "linear_error": np.abs(linear).max(),
            "tanh_over_bound": np.max(tanh),
            "memory_error": np.abs(memory / kept - 1).max(),
            **self._trainings(),
        }

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """Norms by distance, losses by update, and the norms of the updates."""
        labels = {
            "linear_shrinking": f"linear, {self.shrinking:g}",
            "linear_growing": f"linear, {self.growing:g}",
            "rnn_shrinking": f"tanh, {self.shrinking:g}",
            "rnn_growing": f"tanh, {self.growing:g}",
            "gru": "GRU",
            "lstm": "LSTM",
            "lstm_remembering": f"LSTM, forget bias {self.forget_bias:g}",
        }
        lines = [
            plots.Line(numbers["distances"], numbers[f"{name}_norms"], label)
            for name, label in labels.items()
        ]
        panels = [plots.Panel("gradient of the state", lines, "steps before", "norm", log_y=True)]
        # A logarithmic axis has no place for what is infinite or no number. A training that
        # diverges at once has a single finite loss, which is no line.
        lines = []
        for name, style in (("unclipped", "points"), ("clipped", "line")):
            losses = numbers[f"{name}_losses"]
            finite = np.isfinite(losses)
            lines.append(plots.Line(np.flatnonzero(finite), losses[finite], name, style))
        panels.append(plots.Panel("recall", lines, "update", "loss", log_y=True))
        updates = np.arange(self.updates)
        lines = [
            plots.Line(updates, numbers["update_norms_before_clipping"], "before clipping"),
            plots.Line(updates, numbers["clipped_update_norms"], "after clipping"),
        ]
        panels.append(plots.Panel("updates", lines, "update", "norm", log_y=True))
        return plots.line_panels(panels, columns=3)

    def _norms(self, cell: Cell, factor: float = 1.0, input_factor: float = 1.0) -> np.ndarray:
        """Norms of the loss's gradient by the state, from the last state to the first."""
        keys = jax.random.split(jax.random.key(self.seed), 3)
        inputs = jax.random.normal(keys[0], (self.steps, 1, _FEATURES))
        direction = jax.random.normal(keys[1], (1, self.hidden))
        direction /= jnp.linalg.norm(direction)
        params = dict(cell.init(keys[2], cell.initial_carry(1), inputs[0])["params"])
        params["recurrent_kernel"] *= factor
        params["input_kernel"] *= input_factor

        def loss(offsets: jax.Array) -> jax.Array:
            def step(carry: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
                x, offset = at
                carry, _ = cell.apply({"params": params}, carry, x)
                return _add(carry, offset), None

            carry = _add(cell.initial_carry(1), offsets[0])
            carry, _ = jax.lax.scan(step, carry, (inputs, offsets[1:]))
            return (_memory(carry) * direction).sum()

        # What is added to a state has the state's gradient.
        gradients = jax.jit(jax.grad(loss))(jnp.zeros((self.steps + 1, 1, self.hidden)))
        return np.asarray(jnp.linalg.norm(gradients[:, 0], axis=-1))[::-1]

    def _trainings(self) -> study.Numbers:
        """The losses and the norms of the updates with and without clipping."""
        schedule = optax.linear_schedule(self.learning_rate, 0.0, self.updates)
        rates = np.asarray(schedule(np.arange(self.updates)))
        descent = optax.sgd(schedule)
        clipping = optax.chain(optax.clip_by_global_norm(self.clip_norm), descent)
        losses, _, unclipped_norms = self._train(descent)
        clipped_losses, gradient_norms, clipped_norms = self._train(clipping)
        return {
            "unclipped_losses": losses,
            "unclipped_update_norms": unclipped_norms,
            "clipped_losses": clipped_losses,
            "update_norms_before_clipping": rates * gradient_norms,
            "clipped_update_norms": clipped_norms,
            "clipped_over_limit": (clipped_norms / (rates * self.clip_norm)).max(),
            "unclipped_diverges": float(not losses[-1] <= losses[0]),
            "clipped_loss_ratio": clipped_losses[-1] / clipped_losses[0],
        }

    def _train(self, optimizer: optax.GradientTransformation) -> tuple[np.ndarray, ...]:
        """The losses before the updates, the norms of the gradients, those of the updates."""
        cell = _Linear(self.hidden, use_bias=False)
        keys = jax.random.split(jax.random.key(self.seed), 3)
        targets = jax.random.normal(keys[0], (_EXAMPLES, _FEATURES))
        inputs = jnp.zeros((_EXAMPLES, self.steps, _FEATURES)).at[:, 0].set(targets)
        carry = cell.initial_carry(_EXAMPLES)
        params = dict(cell.init(keys[1], carry, targets)["params"])
        params["recurrent_kernel"] *= self.growing
        readout = jax.nn.initializers.lecun_normal()(keys[2], (self.hidden, _FEATURES))

        def loss(params: Any) -> jax.Array:
            _, last = cell.apply({"params": params["cell"]}, inputs, carry, method=cell.scan)
            return jnp.square(last @ params["readout"] - targets).mean()

        def update(state: Any, _: None) -> tuple[Any, tuple[jax.Array, ...]]:
            params, of_optimizer = state
            value, gradients = jax.value_and_grad(loss)(params)
            updates, of_optimizer = optimizer.update(gradients, of_optimizer, params)
            params = optax.apply_updates(params, updates)
            return (params, of_optimizer), (
                value,
                optax.tree.norm(gradients),
                optax.tree.norm(updates),
            )

        start = {"cell": params, "readout": readout}
        run: Callable[..., Any] = jax.jit(
            lambda state: jax.lax.scan(update, state, length=self.updates)
        )
        _, curves = run((start, optimizer.init(start)))
        return tuple(np.asarray(curve) for curve in curves)


class _Linear(RNNCell):
    """h' = x W + h R: a vanilla RNN without its tanh."""

    def advance(
        self, params: Any, carry: Any, sums: jax.Array, mask: jax.Array | None = None
    ) -> tuple[Any, jax.Array]:
        state = sums + self.recur(params, carry, mask, slice(0, 1))
        return state, state


def _memory(carry: Any) -> jax.Array:
    """The state that is carried on: c of an LSTM, else h."""
    return carry[0] if isinstance(carry, tuple) else carry


def _add(carry: Any, offset: jax.Array) -> Any:
    if isinstance(carry, tuple):
        return (carry[0] + offset, *carry[1:])
    return carry + offset


study.register("recurrent_gradients", RecurrentGradients)
