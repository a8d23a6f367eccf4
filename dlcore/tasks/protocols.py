"""What a trained model can do: one protocol each, with one signature.

A learner has an ability by having its method; what needs an ability asks with `isinstance`. All
are pure functions of the variables; a key is drawn from where the answer is random.
"""

from typing import Any, Protocol, runtime_checkable

import jax

from dlcore.tasks.learner import Batch, Variables


@runtime_checkable
class Predicts(Protocol):
    """Answers for each example."""

    def predict(self, variables: Variables, batch: Batch) -> Any:
        """The answers, `[batch, ...]`: probabilities of classes or tags, or numbers."""


@runtime_checkable
class Samples(Protocol):
    """Makes new examples."""

    def sample(self, variables: Variables, key: jax.Array, count: int) -> Any:
        """`count` new examples, `[count, ...]`, in the range of the training examples."""


@runtime_checkable
class Continues(Protocol):
    """Goes on from the beginning of a sequence."""

    def continuation(
        self, variables: Variables, key: jax.Array, prompt: Any, length: int, temperature: float
    ) -> Any:
        """`length` more tokens for each row of `prompt` `[batch, time]`, `[batch, length]`."""


@runtime_checkable
class Encodes(Protocol):
    """Gives each example a code."""

    def encode(self, variables: Variables, batch: Batch) -> Any:
        """The codes, `[batch, ...]`; of a distribution its mean."""


@runtime_checkable
class Decodes(Protocol):
    """Makes examples of codes."""

    def decode(self, variables: Variables, codes: Any) -> Any:
        """The examples, `[batch, ...]`, in the range of the training examples."""


@runtime_checkable
class Reconstructs(Protocol):
    """Gives back each example as far as the model has kept it."""

    def reconstruct(self, variables: Variables, batch: Batch, key: jax.Array) -> Any:
        """The examples again, `[batch, ...]`, in the range of the training examples."""
