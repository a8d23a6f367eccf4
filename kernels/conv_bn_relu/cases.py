"""Calls of the block with random arguments, and what is right: for the tests and the benchmark.

What is right is the reference in float64, on the CPU: its values and its vector-Jacobian products.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels.conv_bn_relu import reference
from kernels.conv_bn_relu.operation import conv_bn_relu
from kernels.conv_bn_relu.primitives import conv_stats, normalize
from kernels.conv_bn_relu.types import Geometry, Normalization, Statistics


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of call.

    Attributes:
      batch: number of images.
      height: of an image.
      width: of an image.
      inputs: channels of the input.
      outputs: channels of the output.
      kernel_size: rows and columns of the kernel.
      stride: down and across.
      dtype: of x: "float32" or "bfloat16".
      residual: one is added.
      activation: "relu" or "none".
      pending: the input is still to be normalized, and goes through a ReLU.
      mean: of x, in deviations.
      constant: the first channel of the output has variance 0.
      statistics: the returned statistics get a cotangent, too.
    """

    batch: int
    height: int
    width: int
    inputs: int
    outputs: int
    kernel_size: int = 1
    stride: int = 1
    dtype: str = "bfloat16"
    residual: bool = False
    activation: str = "relu"
    pending: bool = False
    mean: float = 0.0
    constant: bool = False
    statistics: bool = False

    def __str__(self) -> str:
        image = f"{self.batch}x{self.height}x{self.width}x{self.inputs}"
        conv = f"{self.outputs}-{self.kernel_size}x{self.kernel_size}"
        words = [image, conv, f"stride{self.stride}", self.dtype, self.activation]
        flags = ("residual", "pending", "mean", "constant", "statistics")
        return "-".join([*words, *(name for name in flags if getattr(self, name))])

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Half a kernel on every side, as residual networks have it, even with a stride."""
        half = self.kernel_size // 2
        return (half, half), (half, half)

    @property
    def geometry(self) -> Geometry:
        """The convolution's sizes."""
        image = (self.batch, self.height, self.width)
        both = (self.kernel_size, self.kernel_size), (self.stride, self.stride)
        return Geometry(*image, self.inputs, self.outputs, *both, self.padding)


def resnet50(batch: int, dtype: str = "bfloat16") -> tuple[Case, ...]:
    """The distinct calls of ResNet-50 (He et al., 2016, table 1), as a training makes them.

    The stride is the 3x3 convolution's, as implementations after the paper have it. Within a block
    the normalization of one convolution is pending on the next; the last one adds the residual.
    """
    cases = [Case(batch, 224, 224, 3, 64, 7, 2, dtype)]
    inputs, side = 64, 56
    for stage, width in enumerate((64, 128, 256, 512)):
        stride, outputs = (1 if stage == 0 else 2), 4 * width
        small = side // stride
        first = (batch, side, side)
        after = (batch, small, small)
        cases += [
            Case(*first, inputs, width, 1, 1, dtype),
            Case(*first, width, width, 3, stride, dtype, pending=True),
            Case(*after, width, outputs, 1, 1, dtype, pending=True, residual=True),
            Case(*first, inputs, outputs, 1, stride, dtype, activation="none"),
            Case(*after, outputs, width, 1, 1, dtype),
            Case(*after, width, width, 3, 1, dtype, pending=True),
        ]
        inputs, side = outputs, small
    return tuple(dict.fromkeys(cases))


def resnet20(batch: int, dtype: str = "float32") -> tuple[Case, ...]:
    """The distinct calls of the CIFAR ResNet-20 (He et al., 2016, section 4.2)."""
    cases = [Case(batch, 32, 32, 3, 16, 3, 1, dtype)]
    inputs, side = 16, 32
    for width in (16, 32, 64):
        stride = width // inputs
        small = side // stride
        cases += [
            Case(batch, side, side, inputs, width, 3, stride, dtype),
            Case(batch, small, small, width, width, 3, 1, dtype, pending=True, residual=True),
            Case(batch, small, small, width, width, 3, 1, dtype),
        ]
        inputs, side = width, small
    return tuple(dict.fromkeys(cases))


class Operands(NamedTuple):
    """The arrays that a gradient is taken for.

    Attributes:
      x: of the case's dtype.
      kernel: float32, scaled by its fan-in.
      scale: gamma.
      bias: beta.
      residual: or None.
      pending: gamma and beta of the normalization before the convolution, or None.
    """

    x: Any
    kernel: Any
    scale: Any
    bias: Any
    residual: Any
    pending: tuple[Any, Any] | None


class Arguments(NamedTuple):
    """What a call takes: its operands, and the cotangents of y and of the statistics."""

    operands: Operands
    cotangents: tuple[Any, Statistics]


def draw(case: Case, seed: int = 0) -> Arguments:
    """Random arguments for a case."""
    random = np.random.default_rng(seed)

    def normal(*shape: int, dtype: Any, mean: float = 0.0, deviation: float = 1.0) -> jax.Array:
        return jnp.asarray(mean + deviation * random.standard_normal(shape, np.float32), dtype)

    arguments = _arguments(case, normal)
    # As the operation rounds it, so that float64 sees the same numbers.
    kernel = arguments.operands.kernel.astype(case.dtype).astype(jnp.float32)
    if case.constant:
        kernel = kernel.at[..., 0].set(0)
    return arguments._replace(operands=arguments.operands._replace(kernel=kernel))


def _arguments(case: Case, normal: Callable[..., Any]) -> Arguments:
    image = (case.batch, case.height, case.width, case.inputs)
    after = (case.batch, *case.geometry.space, case.outputs)
    kernel = (case.kernel_size, case.kernel_size, case.inputs, case.outputs)
    like_x = functools.partial(normal, dtype=jnp.dtype(case.dtype))
    vector = functools.partial(normal, dtype=jnp.float32, deviation=0.5)
    return Arguments(
        Operands(
            like_x(*image, mean=case.mean),
            normal(*kernel, dtype=jnp.float32, deviation=math.prod(kernel[:3]) ** -0.5),
            vector(case.outputs, mean=1.0),
            vector(case.outputs),
            like_x(*after) if case.residual else None,
            (vector(case.inputs, mean=1.0), vector(case.inputs)) if case.pending else None,
        ),
        (like_x(*after), Statistics(vector(case.outputs), vector(case.outputs))),
    )


def call(case: Case, arguments: Arguments, implementation: str) -> dict[str, Any]:
    """Values and gradients by an implementation, compiled.

    Returns:
      "y", "statistics" and "gradients": those of the operands.
    """
    return jax.jit(functools.partial(_called, case, implementation))(arguments)


def lower(case: Case, implementation: str, sharding: jax.sharding.Sharding) -> Any:
    """What `call` compiles, lowered for the devices of a sharding: no array is on them."""

    def shape(*sizes: int, dtype: Any, **_: float) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

    arguments = _arguments(case, shape)
    return jax.jit(functools.partial(_called, case, implementation)).lower(arguments)


def _called(case: Case, implementation: str, arguments: Arguments) -> dict[str, Any]:
    def forward(operands: Operands) -> Any:
        if implementation == "reference":
            return _by_reference(case, operands)
        x, kernel, scale, bias, residual, before = operands
        options: dict[str, Any] = {
            "strides": case.stride,
            "padding": case.padding,
            "implementation": implementation,
        }
        if before is None:
            options |= {"residual": residual, "activation": case.activation}
            return conv_bn_relu(x, kernel, scale, bias, **options)
        pending = Normalization(*jax.lax.stop_gradient(_statistics(x)), *before)
        raw, statistics = conv_stats(x, kernel, pending, **options)
        normalization = Normalization(*statistics, scale, bias, case.activation)
        return normalize(raw, normalization, residual, implementation=implementation), statistics

    return _pulled_back(forward, arguments, case)


def _statistics(x: Any) -> Statistics:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean((0, 1, 2))
    return Statistics(mean, jnp.square(wide - mean).mean((0, 1, 2)))


def right(case: Case, arguments: Arguments) -> dict[str, Any]:
    """What `call` should give, in float64."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        exact = jax.tree.map(lambda array: jnp.asarray(np.asarray(array, np.float64)), arguments)
        return jax.tree.map(np.asarray, call(case, exact, "reference"))


def _by_reference(case: Case, operands: Operands) -> Any:
    x, kernel, scale, bias, residual, before = operands
    if before is not None:
        mean, variance = _statistics(x)
        normalized = (x - mean) / jnp.sqrt(variance + 1e-5) * before[0] + before[1]
        x = jax.nn.relu(normalized).astype(x.dtype)
    return reference.conv_bn_relu(
        x,
        kernel,
        scale,
        bias,
        residual,
        case.geometry,
        activation=case.activation,
        epsilon=1e-5,
        axis_name=None,
    )


def _pulled_back(forward: Any, arguments: Arguments, case: Case) -> dict[str, Any]:
    along_y, along_statistics = arguments.cotangents
    if case.statistics:
        (y, statistics), pull_back = jax.vjp(forward, arguments.operands)
        (gradients,) = pull_back((along_y, along_statistics))
    else:
        # As in a training: nobody asks for the statistics' gradient.
        y, pull_back, statistics = jax.vjp(forward, arguments.operands, has_aux=True)
        (gradients,) = pull_back(along_y)
    return {"y": y, "statistics": statistics, "gradients": gradients._asdict()}
