"""One layer of units on the inputs: softmax and logistic regression, linear and nonlinear units."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.errors import UsageError
from dlcore.models import registry
from dlcore.nn.activations import activation
from dlcore.ranges import Positive


class SoftmaxRegression(nn.Module):
    """One affine map from the flattened image to the classes' logits.

    The weights start at zero: the loss is convex, and its first value is exactly log(num_classes).

    Attributes:
      num_classes: number of classes.
    """

    num_classes: Positive = 10

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images of any shape."""
        del train
        pixels = x.reshape(x.shape[0], -1)
        zeros = nn.initializers.zeros
        return nn.Dense(self.num_classes, kernel_init=zeros, name="logits")(pixels)


class LogisticRegression(nn.Module):
    """Affine log-odds of every class but the first against the first, whose score is held at 0.

    With two classes this is one unit: softmax cross-entropy of (0, a) is the binary cross-entropy
    of the log-odds a. No score is redundant, as one is in `SoftmaxRegression`. The weights start at
    zero.

    Attributes:
      num_classes: number of classes.
    """

    num_classes: Positive = 2

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Scores of a batch of inputs of any shape.

        Raises:
          UsageError: there is one class only.
        """
        del train
        if self.num_classes < 2:
            raise UsageError(
                f"logistic_regression takes two classes or more, not {self.num_classes}: "
                "for numbers take linear_units"
            )
        inputs = x.reshape(x.shape[0], -1)
        zeros = nn.initializers.zeros
        log_odds = nn.Dense(self.num_classes - 1, kernel_init=zeros, name="logits")(inputs)
        return jnp.pad(log_odds, ((0, 0), (1, 0)))


class Units(nn.Module):
    """A layer of units f(w x + b), one a class or a number to predict.

    Trained on half the square loss they learn by the delta rule, w += rate (target - f) f' x: of
    linear units it is that of ADALINE (Widrow and Hoff 1960). The weights start at zero.

    Attributes:
      num_classes: number of classes, or of numbers to predict.
      activation: name of the units' activation function f: linear, sigmoid, tanh, ...
    """

    num_classes: Positive = 10
    activation: str = "linear"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """The units' outputs for a batch of inputs of any shape."""
        del train
        inputs = x.reshape(x.shape[0], -1)
        zeros = nn.initializers.zeros
        excitation = nn.Dense(self.num_classes, kernel_init=zeros, name="units")(inputs)
        outputs = activation(self.activation)(excitation)
        if outputs.shape != excitation.shape:
            raise UsageError(f"activation {self.activation!r} merges units: each is an output here")
        return outputs


_IMAGES = (jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),)

registry.register(
    "softmax_regression",
    SoftmaxRegression,
    example_inputs=_IMAGES,
    output_shapes=(2, 10),
    parameter_count=7_850,
    source="lisa-lab, DeepLearningTutorials, logistic_sgd.py",
)
registry.register(
    "logistic_regression",
    LogisticRegression,
    example_inputs=_IMAGES,
    output_shapes=(2, 2),
    parameter_count=785,
    source="Cox (1958)",
)
registry.register(
    "linear_units",
    Units,
    example_inputs=_IMAGES,
    output_shapes=(2, 10),
    parameter_count=7_850,
    source="Widrow and Hoff (1960)",
)
registry.register(
    "nonlinear_units",
    functools.partial(Units, activation="sigmoid"),
    example_inputs=_IMAGES,
    output_shapes=(2, 10),
    parameter_count=7_850,
    source="Rumelhart, Hinton and Williams (1986), eqs. 1 and 2",
)
