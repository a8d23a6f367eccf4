"""Parameters and multiply-adds of a model, counted without running it.

Multiply-adds are those of convolutions and matrix products, as papers count them: for each position
of the output one per weight, whether the weight meets padding, or is masked, or not; for a
transposed convolution the same of its input. Normalization, activation and pooling are left out.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.extend.core import Jaxpr, JaxprEqn

from kernels import dispatch

# Primitives that run the programs they hold once, by their names in any version of JAX.
_CALLS = {
    "checkpoint",
    "closed_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "jit",
    "pjit",
    "remat2",
}


class Counts(NamedTuple):
    """The size of a model.

    Attributes:
      parameters: trainable numbers.
      multiply_adds: for one example, in evaluation mode.
    """

    parameters: int
    multiply_adds: int


def of_model(model: nn.Module, *inputs: Any) -> Counts:
    """Counts a model.

    Args:
      model: whose `__call__` takes the inputs and `train`.
      inputs: arrays, or shapes and dtypes, the batch axis first; a batch of any size stands for one
        example.

    Raises:
      ValueError: see `multiply_adds`.
    """
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), inputs)

    init = functools.partial(model.init, train=False)
    apply = functools.partial(model.apply, train=False)
    # Where nothing was measured XLA serves every kernel: its program shows every product.
    with dispatch.target("cpu"):
        variables = jax.eval_shape(init, jax.random.key(0), *one)
        products = multiply_adds(apply, variables, *one)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    return Counts(parameters, products)


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
    """The multiply-adds of a function's convolutions and matrix products.

    A scan counts as often as it runs, of the branches of a condition the one that has most.

    Args:
      function: that JAX can trace.
      arguments: arrays, or shapes and dtypes.

    Raises:
      ValueError: products stand in a loop whose length is not known, or in a Pallas kernel.
    """
    return _in_program(jax.make_jaxpr(function)(*arguments).jaxpr)


def _in_program(program: Jaxpr) -> int:
    return sum(_in_equation(equation) for equation in program.eqns)


def _in_equation(equation: JaxprEqn) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _matrix_product(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [_in_program(program) for program in _programs(equation)]
    if name == "scan":
        return equation.params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name not in _CALLS and any(inner):
        raise ValueError(f"the multiply-adds in {name} cannot be counted: how often is not known")
    return sum(inner)


def _programs(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs that an equation holds."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            program = getattr(part, "jaxpr", part)
            if isinstance(program, Jaxpr):
                yield program


def _matrix_product(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, output = _shape(equation.invars[0]), _shape(equation.outvars[0])
    return math.prod(output) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: JaxprEqn) -> int:
    left_axes, kernel_axes, output_axes = equation.params["dimension_numbers"]
    inputs, kernel = map(_shape, equation.invars)
    output = _shape(equation.outvars[0])
    # The input of a transposed convolution is dilated: each of its positions meets all weights.
    dilated = any(step > 1 for step in equation.params["lhs_dilation"])
    shape, axes = (inputs, left_axes) if dilated else (output, output_axes)
    batch, features, *_ = output_axes
    _, weights_of_group, *window = kernel_axes
    products = [output[batch], output[features], kernel[weights_of_group]]
    products += [shape[axis] for axis in axes[2:]] + [kernel[axis] for axis in window]
    return math.prod(products)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape
