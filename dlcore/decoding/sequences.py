"""What all ways of decoding share: how a model is asked, what is given, and what comes back."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlcore import ranges
from dlcore.errors import UsageError

# From the carry and the last token of each row, int32 `[rows]`, to the log-probabilities of the
# next one, `[rows, vocabulary]`, and the carry after it. The carry is any pytree of arrays whose
# first axis is the rows.
Step = Callable[[Any, jax.Array], tuple[jax.Array, Any]]


class Decoded(NamedTuple):
    """What was found; of a beam search, with an axis of hypotheses after the rows, best first.

    Attributes:
      tokens: int32 `[rows, max_length]`. Behind its end a row is filled with the end token, with 0
        where there is none.
      lengths: int32 `[rows]`, a row's tokens, its prefix and its end token among them.
      scores: float32 `[rows]`, the sum of the model's log-probabilities of a row's tokens. Those of
        the prefix cost nothing: they are given.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array


class Prefix(NamedTuple):
    """The tokens that each row begins with. An end token among them ends the row.

    They are read one by one. What is equally long in all rows a model reads faster by itself; the
    last token of it is then the start.

    Attributes:
      tokens: int32 `[rows, time]`.
      lengths: int32 `[rows]`, how many of a row's tokens are given; the others are ignored.
    """

    tokens: jax.Array
    lengths: jax.Array

    def at(self, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The token of each row at a position, and whether it is given."""
        return self.tokens[:, position], position < self.lengths


def prepare(carry: Any, start: jax.Array, max_length: int, prefix: Prefix | None) -> Prefix:
    """The prefix, which may be empty, of arguments that fit each other.

    Raises:
      UsageError: they do not, or nothing may be written.
    """
    require(ranges.Positive, max_length=max_length)
    rows = start.shape[0]
    for path, array in jax.tree.leaves_with_path(carry):
        if jnp.shape(array)[:1] != (rows,):
            raise UsageError(
                f"carry{jax.tree_util.keystr(path)} has the shape {jnp.shape(array)}: the first "
                f"axis must be that of the {rows} start tokens"
            )
    if prefix is None:
        return Prefix(jnp.zeros((rows, 1), jnp.int32), jnp.zeros(rows, jnp.int32))
    shape, time = prefix.tokens.shape, prefix.tokens.shape[-1]
    if shape != (rows, time) or prefix.lengths.shape != (rows,):
        raise UsageError(
            f"the prefix has tokens of the shape {shape} and lengths of {prefix.lengths.shape}: "
            f"the first axis of both must be that of the {rows} start tokens"
        )
    if not 1 <= time <= max_length:
        raise UsageError(f"the prefix has {time} tokens: it must be 1 to max_length={max_length}")
    return Prefix(prefix.tokens.astype(jnp.int32), jnp.clip(prefix.lengths, 0, time))


def require(kind: Any, **values: Any) -> None:
    """Raises UsageError where a number is not in the range of a type; one that is traced passes."""
    for name, value in values.items():
        if wanted := ranges.problem(kind, value):
            raise UsageError(f"{name}={value}: it must be {wanted}")


def require_token(vocabulary: int, **tokens: int | None) -> None:
    """Raises UsageError where a token is none of the vocabulary; None is for no token."""
    require(Annotated[int, ranges.Range(least=0, most=vocabulary - 1)], **tokens)


def ask(step: Step, carry: Any, tokens: jax.Array, end: int | None) -> tuple[jax.Array, Any]:
    """A step, its log-probabilities as float32.

    Raises:
      UsageError: the end token is none of the vocabulary.
    """
    log_probabilities, carry = step(carry, tokens)
    require_token(log_probabilities.shape[-1], end=end)
    return log_probabilities.astype(jnp.float32), carry


def ends(tokens: jax.Array, end: int | None) -> jax.Array:
    """Whether each token is the end of its row."""
    return jnp.zeros_like(tokens, bool) if end is None else tokens == end


def padding(end: int | None) -> int:
    """The token behind the end."""
    return 0 if end is None else end
