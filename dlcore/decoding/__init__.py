"""Sequences of tokens from a model that scores the next one, and from one that scores frames.

A model is asked through a step: from a carry and the last token of each row to the log-probability
of every token that may come next, and the carry after it.

    def step(carry, tokens):
        logits, carry = model.apply(variables, tokens, carry)
        return jax.nn.log_softmax(logits), carry

    tokens, lengths, scores = decoding.beam_search(
        step, carry, start, beam_width=4, max_length=50, end=0, length_penalty=0.6
    )

All are pure functions, meant to be called within `jax.jit`: what the step closes over is then an
argument of the compiled program. `dlcore.decoding.ctc` is for models that score every frame at
once.
"""

from dlcore.decoding import ctc
from dlcore.decoding.beam import beam_search
from dlcore.decoding.sampling import greedy, sample
from dlcore.decoding.sequences import Decoded, Prefix, Step

__all__ = [
    "Decoded",
    "Prefix",
    "Step",
    "beam_search",
    "ctc",
    "greedy",
    "sample",
]
