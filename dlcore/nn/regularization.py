"""Layers that add noise in training, and connections that a mask leaves out.

What a layer draws comes from the rng named "dropout" and is keyed by each example's position in the
global batch (`parallel.example_keys`): it is the same on any number of devices. A `rate` is always
the probability of dropping (Laurent and Guillozet's p; Deledalle's p is that of keeping).
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlcore import parallel
from dlcore.errors import UsageError
from dlcore.nn.initializers import Initializer


class Dropout(nn.Module):
    """Dropout: in training each number is zero with probability `rate`.

    Inverted, the default: what is left is divided by 1 - rate, and evaluation is the identity.
    Classic, the paper's: what is left stays, and evaluation multiplies by 1 - rate. In either mode
    the classic output is 1 - rate times the inverted one, so both have in training the mean that
    they give in evaluation. (Krawiec prints "multiplied by p" and "divide by p" with p the
    probability of dropping: it is that of keeping.)

    Source: Hinton, Srivastava, Krizhevsky, Sutskever and Salakhutdinov (2012); Srivastava et al.
    (2014), sections 4 and 10, for both forms; Gal and Ghahramani (2016) for steps alike.

    Attributes:
      rate: probability of dropping, at least 0 and below 1.
      classic: scale in evaluation instead of in training.
      steps_alike: the second axis is time, and an example loses the same numbers at every step.

    Raises:
      UsageError: the rate is out of range.
    """

    rate: float
    classic: bool = False
    steps_alike: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."], train: bool) -> Float[Array, "batch ..."]:
        """Drops, where `train` is set; the first axis of `x` is the batch."""
        kept = 1 - checked("a dropout rate", self.rate)
        if self.rate == 0:
            return x
        if not train:
            return x * kept if self.classic else x
        shape = (1, *x.shape[2:]) if self.steps_alike else x.shape[1:]
        keep = _draw_by_example(
            self.make_rng("dropout"),
            x.shape[0],
            lambda key: jax.random.bernoulli(key, kept, shape),
        )
        return jnp.where(keep, x if self.classic else x / kept, 0)


class DropConnectDense(nn.Module):
    """A fully connected layer that in training loses each connection with probability `rate`.

    As in the paper, every example has a mask of its own, and the biases are masked, too. What is
    left is divided by 1 - rate. Evaluation uses all connections, so the weighted sums are those of
    training on average; the paper instead draws them from a normal distribution of that mean and
    the variance that the masks cause, and averages the activations.

    A batch takes as many random numbers as examples x inputs x units: it suits layers of some
    hundred units. With a rate of 0 it is `nn.Dense`.

    Source: Wan, Zeiler, Zhang, LeCun and Fergus (2013), section 3.

    Attributes:
      features: number of units.
      rate: probability of dropping a connection, at least 0 and below 1.
      kernel_init: of the weights.
      use_bias: whether units have a bias.

    Raises:
      UsageError: the rate is out of range.
    """

    features: int
    rate: float
    kernel_init: Initializer = nn.initializers.lecun_normal()
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch inputs"], train: bool
    ) -> Float[Array, "batch {self.features}"]:
        """The units' weighted sums; connections are dropped where `train` is set."""
        kept = 1 - checked("a dropconnect rate", self.rate)
        kernel, bias = _parameters(self, x.shape[-1])
        if not train or self.rate == 0:
            return x @ kernel + bias
        # The bias is the weight of a constant input of 1.
        weights = jnp.concatenate([kernel, bias[None]])
        x = jnp.pad(x, ((0, 0), (0, 1)), constant_values=1)
        keep = _draw_by_example(
            self.make_rng("dropout"),
            x.shape[0],
            lambda key: jax.random.bernoulli(key, kept, weights.shape),
        )
        return jnp.einsum("bi,bio->bo", x, jnp.where(keep, weights / kept, 0))


class MaskedDense(nn.Module):
    """A fully connected layer in which a mask, given beforehand, leaves out some connections.

    The weight of such a connection is a parameter that begins as 0, without effect and without
    gradient: what penalizes or prunes weights passes over it.

    Attributes:
      features: number of units.
      kernel_init: of the weights.
      use_bias: whether units have a bias.
    """

    features: int
    kernel_init: Initializer = nn.initializers.lecun_normal()
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch inputs"], mask: Bool[Any, "inputs {self.features}"]
    ) -> Float[Array, "batch {self.features}"]:
        """The units' weighted sums over the inputs where `mask` is true."""
        kernel, bias = _parameters(self, x.shape[-1], mask)
        return x @ jnp.where(mask, kernel, 0) + bias


class GaussianNoise(nn.Module):
    """Adds normal noise in training; on a network's input it is training with noise.

    Source: Bishop (1995): for small noise this is Tikhonov regularization.

    Attributes:
      standard_deviation: of the noise, in units of the input; 0 for none.

    Raises:
      UsageError: the standard deviation is negative or not a number.
    """

    standard_deviation: float

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."], train: bool) -> Float[Array, "batch ..."]:
        """Adds noise, where `train` is set; the first axis of `x` is the batch."""
        if not 0 <= self.standard_deviation < math.inf:
            raise UsageError(
                f"a noise's standard deviation is a number from 0 on, not {self.standard_deviation}"
            )
        if not train or self.standard_deviation == 0:
            return x
        noise = _draw_by_example(
            self.make_rng("dropout"),
            x.shape[0],
            lambda key: jax.random.normal(key, x.shape[1:], x.dtype),
        )
        return x + self.standard_deviation * noise


class StochasticDepth(nn.Module):
    """Drops the whole branch of a residual block: the example passes through the shortcut alone.

    Inverted, the default: what is left is divided by 1 - rate, and evaluation is the identity.
    Classic, the paper's: what is left stays, and evaluation multiplies by 1 - rate. Unlike those of
    dropout the two are different networks, as the shortcut beside the branch is scaled in neither.

    The paper draws once for a whole mini-batch and does not compute what it drops. Here each
    example draws for itself in either form: with the same mean the gradient is less noisy, and it
    does not depend on the parts in which a batch is computed. A layer within the branch, such as
    batch normalization, sees all examples.

    Source: Huang, Sun, Liu, Sedra and Weinberger (2016), section 3.

    Attributes:
      rate: probability of dropping the branch, at least 0 and below 1.
      classic: scale in evaluation instead of in training.

    Raises:
      UsageError: the rate is out of range.
    """

    rate: float
    classic: bool = False

    @nn.compact
    def __call__(self, branch: Float[Array, "batch ..."], train: bool) -> Float[Array, "batch ..."]:
        """The branch, without the shortcut; dropped for some examples where `train` is set."""
        kept = 1 - checked("a stochastic depth rate", self.rate)
        if self.rate == 0:
            return branch
        if not train:
            return branch * kept if self.classic else branch
        shape = (1,) * (branch.ndim - 1)
        keep = _draw_by_example(
            self.make_rng("dropout"),
            branch.shape[0],
            lambda key: jax.random.bernoulli(key, kept, shape),
        )
        return jnp.where(keep, branch if self.classic else branch / kept, 0)


# In the place of a column: the example's joins drop their inputs locally.
LOCAL = -1


def drop_path_columns(
    key: jax.Array, batch: int, columns: int, global_share: float
) -> Int[Array, " batch"]:
    """What drop-path does with each example, for all joins of a network.

    Global sampling keeps one column, drawn uniformly, and is done for `global_share` of the
    examples on average; the others are `LOCAL`. (The paper draws once a mini-batch.)

    Source: Larsson, Maire and Shakhnarovich (2017), on drop-path.

    Raises:
      UsageError: the share is out of range.
    """
    if not 0 <= global_share <= 1:
        raise UsageError(f"the share of global drop-path is from 0 to 1, not {global_share}")

    def draw(key: jax.Array) -> jax.Array:
        kind_key, column_key = jax.random.split(key)
        column = jax.random.randint(column_key, (), 0, columns)
        return jnp.where(jax.random.bernoulli(kind_key, global_share), column, LOCAL)

    return _draw_by_example(key, batch, draw)


class DropPathJoin(nn.Module):
    """The join of a fractal network: the mean of its inputs, some of which training drops.

    Local sampling drops each input with probability `rate`, but never the last one: where all would
    go, one drawn uniformly stays. Global sampling keeps the input of one column. Evaluation is the
    mean of all inputs, which needs no scaling.

    Source: Larsson, Maire and Shakhnarovich (2017), on drop-path.

    Attributes:
      rate: probability with which local sampling drops an input, at least 0 and below 1.

    Raises:
      UsageError: the rate is out of range.
    """

    rate: float

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "inputs batch ..."],
        columns: Int[Array, " batch"] | None,
    ) -> Float[Array, "batch ..."]:
        """The mean of each example's active inputs.

        Args:
          inputs: of the columns 0, 1, ... that end here.
          columns: of `drop_path_columns` in training, None in evaluation. Where an example's column
            does not end here, all inputs are kept: its result does not depend on this join.
        """
        kept = 1 - checked("a drop-path rate", self.rate)
        count, batch = inputs.shape[:2]
        if columns is None or count == 1:
            return inputs.mean(0)

        def survivors(key: jax.Array) -> jax.Array:
            keep_key, last_key = jax.random.split(key)
            keep = jax.random.bernoulli(keep_key, kept, (count,))
            last = jnp.arange(count) == jax.random.randint(last_key, (), 0, count)
            return jnp.where(keep.any(), keep, last)

        local = _draw_by_example(self.make_rng("dropout"), batch, survivors)
        own = columns[:, None] == jnp.arange(count)
        active = jnp.where(columns[:, None] == LOCAL, local, own | (columns[:, None] >= count))
        active = active.T.reshape(count, batch, *(1,) * (inputs.ndim - 2))
        return jnp.where(active, inputs, 0).sum(0) / active.sum(0).astype(inputs.dtype)


def checked(name: str, rate: float) -> float:
    """The rate itself, where it is valid; `name` is for the message.

    Raises:
      UsageError: the rate is out of range.
    """
    if not 0 <= rate < 1:
        raise UsageError(f"{name} is at least 0 and below 1, not {rate}")
    return rate


def _draw_by_example(
    key: jax.Array, count: int, draw: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    return jax.vmap(draw)(parallel.example_keys(key, count))


def _parameters(layer: Any, inputs: int, mask: Any = True) -> tuple[Any, Any]:
    """The kernel and the bias of a fully connected layer, under the names that `nn.Dense` uses."""

    def init(*arguments: Any) -> jax.Array:
        return jnp.where(mask, layer.kernel_init(*arguments), 0)

    kernel = layer.param("kernel", init, (inputs, layer.features), jnp.float32)
    if not layer.use_bias:
        return kernel, jnp.zeros(layer.features, kernel.dtype)
    return kernel, layer.param("bias", nn.initializers.zeros, (layer.features,), jnp.float32)
