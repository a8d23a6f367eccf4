"""Numerical differentiation: quotients of small differences, and the steps that suit them.

Source: Press et al. (2007), Numerical Recipes, section 5.7.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dlcore.errors import UsageError

_EPSILON = float(np.finfo(np.float64).eps)

# A quotient's error has two parts: what the Taylor expansion leaves out falls with the step, and
# the rounding of the function's values, divided by the step, grows. Both are equal about here.
FORWARD_STEP = _EPSILON ** (1 / 2)
CENTRAL_STEP = _EPSILON ** (1 / 3)

# Of an array, to a scalar.
Function = Callable[[np.ndarray], Any]


def forward_difference(
    function: Function, point: ArrayLike, step: float = FORWARD_STEP
) -> np.ndarray:
    """The gradient by `(f(x + h e) - f(x)) / h`, one evaluation for each coordinate and one more.

    The error is of the order of `h` for large steps, and of `epsilon / h` for small ones.

    Args:
      function: of an array like `point`, to a scalar.
      point: float64, of any shape.
      step: h, above 0.

    Returns:
      float64, of the point's shape.

    Raises:
      UsageError: the step is not positive.
    """
    _check_positive(step)
    origin = np.asarray(point, np.float64)
    at_origin = function(origin)
    quotients = [
        (function(ahead) - at_origin) / (ahead - origin).sum() for ahead in _shifted(origin, step)
    ]
    return np.reshape(quotients, origin.shape)


def central_difference(
    function: Function, point: ArrayLike, step: float = CENTRAL_STEP
) -> np.ndarray:
    """The gradient by `(f(x + h e) - f(x - h e)) / 2h`, two evaluations for each coordinate.

    The error is of the order of `h^2` for large steps, and of `epsilon / h` for small ones; the
    arguments and the result are those of `forward_difference`.
    """
    _check_positive(step)
    origin = np.asarray(point, np.float64)
    quotients = [
        (function(ahead) - function(behind)) / (ahead - behind).sum()
        for ahead, behind in zip(_shifted(origin, step), _shifted(origin, -step), strict=True)
    ]
    return np.reshape(quotients, origin.shape)


def _shifted(origin: np.ndarray, step: float) -> Iterator[np.ndarray]:
    """The point, moved along one coordinate after the other.

    A quotient divides by the step that was really taken: x + h is a rounded number, too.
    """
    for coordinate in range(origin.size):
        shifted = origin.copy()
        shifted.flat[coordinate] += step
        yield shifted


def _check_positive(step: float) -> None:
    if not step > 0:
        raise UsageError(f"the step of a difference is {step}: it must be above 0")
