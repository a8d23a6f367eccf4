"""Dual numbers: values that carry their derivatives along (automatic differentiation, forward).

A dual number is `a + b e` with `e^2 = 0` (Clifford 1873), so that the Taylor expansion ends after
its second term: `f(a + b e) = f(a) + b f'(a) e` (Krawiec's slides on automatic differentiation).
With several infinitesimals `e_1 ... e_n`, whose products all vanish, it carries n partial
derivatives at once and is called a jet.

NumPy's functions and operators take dual numbers, so that a function need not know of them:

    x, y = variables([2.0, 3.0])
    np.exp(x) * y
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import ArrayLike

from dlcore.errors import UsageError

# A derivative by one argument, given all arguments.
Derivative = Callable[..., Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Dual(NDArrayOperatorsMixin):
    """An array of dual numbers.

    Arithmetic, comparisons (of the values) and the functions of `DERIVATIVES` go element by element
    and broadcast, with other dual numbers and with plain ones.

    Attributes:
      value: float64 `[...]`.
      partials: the partial derivatives of each element, float64 `[..., n]`.

    Raises:
      UsageError: the shapes do not fit, or dual numbers with different n meet.
    """

    value: np.ndarray
    partials: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", np.asarray(self.value, np.float64))
        object.__setattr__(self, "partials", np.asarray(self.partials, np.float64))
        if self.partials.shape[:-1] != self.value.shape or not self.partials.ndim:
            raise UsageError(
                f"partial derivatives of shape {self.partials.shape} do not fit values of shape "
                f"{self.value.shape}: they have one axis more, the last"
            )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        """What NumPy calls for every operator and function that meets a dual number."""
        if method != "__call__" or keywords:
            return NotImplemented
        values = [entry.value if isinstance(entry, Dual) else entry for entry in inputs]
        if ufunc in _COMPARISONS:
            return ufunc(*values)
        if ufunc not in DERIVATIVES:
            return NotImplemented
        value = np.asarray(ufunc(*values))
        partials = np.zeros((*value.shape, self.partials.shape[-1]))
        for entry, derivative in zip(inputs, DERIVATIVES[ufunc], strict=True):
            if isinstance(entry, Dual):
                self._check_fits(entry)
                factor = np.broadcast_to(derivative(*values), value.shape)
                partials += factor[..., None] * entry.partials
        return Dual(value, partials)

    def _check_fits(self, other: "Dual") -> None:
        own, its = self.partials.shape[-1], other.partials.shape[-1]
        if own != its:
            raise UsageError(f"dual numbers with {own} and with {its} partial derivatives meet")

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: int | slice) -> "Dual":
        return Dual(self.value[index], self.partials[index])

    def reshape(self, *shape: int) -> "Dual":
        """The same numbers in another shape; one length may be -1."""
        value = self.value.reshape(*shape)
        return Dual(value, self.partials.reshape(*value.shape, -1))

    def sum(self, axis: int | None = None) -> "Dual":
        """The sum over an axis, or over all."""
        axes = tuple(range(self.value.ndim)) if axis is None else axis % self.value.ndim
        return Dual(self.value.sum(axes), self.partials.sum(axes))


def variables(point: ArrayLike) -> Dual:
    """The coordinates of a point as independent variables: each one's derivative by itself is 1.

    Args:
      point: float64, of any shape, of n numbers.

    Returns:
      The point's values with n partial derivatives each.
    """
    value = np.asarray(point, np.float64)
    return Dual(value, np.eye(value.size).reshape(*value.shape, value.size))


def gradient(function: Callable[[Any], Any], point: ArrayLike) -> np.ndarray:
    """The gradient of a scalar function of an array, in one evaluation.

    Args:
      function: of an array like `point`, to a scalar; made of what `Dual` can do.
      point: float64, of any shape.

    Returns:
      float64, of the point's shape.
    """
    result = function(variables(point))
    if not isinstance(result, Dual):  # A constant: the point was not used.
        return np.zeros(np.shape(point))
    return result.partials.reshape(np.shape(point))


def _power_by_base(base: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    # x^0 is 1 everywhere, 0 included, where the rule would divide by zero.
    constant = np.equal(exponent, 0)
    return np.where(constant, 0.0, exponent * np.power(base, np.where(constant, 1, exponent) - 1.0))


def _power_by_exponent(base: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    # 0^y is 0 for every y > 0.
    return np.power(base, exponent) * np.log(np.where(np.equal(base, 0), 1.0, base))


# For each function its derivatives by its arguments. At a kink it is the mean of both sides: 0 for
# |x| at 0, where JAX has 1; a half each where two numbers are the largest, as in JAX.
DERIVATIVES: Mapping[np.ufunc, tuple[Derivative, ...]] = {
    np.positive: (lambda x: 1.0,),
    np.negative: (lambda x: -1.0,),
    np.absolute: (np.sign,),
    np.reciprocal: (lambda x: -1 / x**2,),
    np.square: (lambda x: 2 * x,),
    np.sqrt: (lambda x: 0.5 / np.sqrt(x),),
    np.exp: (np.exp,),
    np.expm1: (np.exp,),
    np.log: (lambda x: 1 / x,),
    np.log1p: (lambda x: 1 / (1 + x),),
    np.sin: (np.cos,),
    np.cos: (lambda x: -np.sin(x),),
    np.tan: (lambda x: 1 / np.cos(x) ** 2,),
    np.arcsin: (lambda x: 1 / np.sqrt(1 - x**2),),
    np.arccos: (lambda x: -1 / np.sqrt(1 - x**2),),
    np.arctan: (lambda x: 1 / (1 + x**2),),
    np.sinh: (np.cosh,),
    np.cosh: (np.sinh,),
    np.tanh: (lambda x: 1 - np.tanh(x) ** 2,),
    np.arcsinh: (lambda x: 1 / np.sqrt(x**2 + 1),),
    np.arccosh: (lambda x: 1 / np.sqrt(x**2 - 1),),
    np.arctanh: (lambda x: 1 / (1 - x**2),),
    np.add: (lambda x, y: 1.0, lambda x, y: 1.0),
    np.subtract: (lambda x, y: 1.0, lambda x, y: -1.0),
    np.multiply: (lambda x, y: y, lambda x, y: x),
    np.divide: (lambda x, y: 1 / np.asarray(y), lambda x, y: -x / np.square(y)),
    np.power: (_power_by_base, _power_by_exponent),
    np.maximum: (
        lambda x, y: np.heaviside(np.subtract(x, y), 0.5),
        lambda x, y: np.heaviside(np.subtract(y, x), 0.5),
    ),
    np.minimum: (
        lambda x, y: np.heaviside(np.subtract(y, x), 0.5),
        lambda x, y: np.heaviside(np.subtract(x, y), 0.5),
    ),
    np.logaddexp: (
        lambda x, y: np.exp(x - np.logaddexp(x, y)),
        lambda x, y: np.exp(y - np.logaddexp(x, y)),
    ),
}
_COMPARISONS = (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal)
