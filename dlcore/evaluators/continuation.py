"""A text as a language model goes on with it."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dlcore.evaluators.evaluator import Evaluator, Findings, Trained
from dlcore.evaluators.registry import register
from dlcore.ranges import Length, NotNegative
from dlcore.tasks import Continues


@dataclasses.dataclass(frozen=True)
class Continuation(Evaluator):
    """What the model writes after a line break; after its first character where it knows none.

    Attributes:
      length: characters to write.
      temperature: of the draws; 0 takes the likeliest character every time.
    """

    length: Length = 1000
    temperature: NotNegative = 1.0

    ability: ClassVar[type] = Continues

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        """The text "sample"."""
        del split
        known: Any = trained.dataset
        prompt = "\n" if "\n" in known.vocabulary else known.vocabulary[0]
        text = continue_text(trained, key, prompt, self.length, self.temperature)
        return Findings(texts={"sample": text})


def continue_text(
    trained: Trained, key: jax.Array, prompt: str, length: int, temperature: float
) -> str:
    """A prompt and what a language model makes of it.

    Raises:
      UsageError: the prompt is empty or has characters that the model does not know.
    """
    text: Any = trained.dataset
    learner: Any = trained.learner
    tokens = jnp.asarray(text.encode(prompt))[None]
    drawn = learner.continuation(trained.variables, key, tokens, length, temperature)
    return prompt + text.decode(np.asarray(drawn)[0])


register("continuation", Continuation)
