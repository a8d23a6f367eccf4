"""The reference is what the equations say, by NumPy in float64 and by differences."""

import numpy as np
import pytest

from kernels.conv_bn_relu import cases
from kernels.conv_bn_relu.cases import Case


def by_hand(case, operands):
    """Position by position; the statistics and the rest channel by channel."""
    x, kernel, scale, bias, residual, _ = (
        None if array is None else np.asarray(array, np.float64) for array in operands
    )
    half, size, stride = case.kernel_size // 2, case.kernel_size, case.stride
    x = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    height, width = ((length - size) // stride + 1 for length in x.shape[1:3])
    raw = np.zeros((case.batch, height, width, case.outputs))
    for row, column in np.ndindex(height, width):
        window = x[:, row * stride :, column * stride :][:, :size, :size]
        raw[:, row, column] = np.einsum("bhwi,hwio->bo", window, kernel)
    mean = raw.mean((0, 1, 2))
    variance = ((raw - mean) ** 2).mean((0, 1, 2))
    y = scale * (raw - mean) / np.sqrt(variance + 1e-5) + bias
    if residual is not None:
        y += residual
    return np.maximum(y, 0) if case.activation == "relu" else y, (mean, variance)


CASES = [
    Case(3, 5, 4, 2, 3, 3, 2, "float32", residual=True, statistics=True),
    Case(2, 4, 3, 3, 2, 1, 1, "float32", activation="none", statistics=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_is_what_the_equations_say(case):
    arguments = cases.draw(case)
    found = cases.right(case, arguments)
    y, statistics = by_hand(case, arguments.operands)
    np.testing.assert_allclose(found["y"], y, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found["statistics"], statistics, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_its_gradients_are_differences_of_what_the_equations_say(case):
    arguments = cases.draw(case)
    along_y, along_statistics = (np.asarray(array, np.float64) for array in arguments.cotangents)
    operands = arguments.operands._replace(
        **{
            name: np.asarray(array, np.float64)
            for name, array in arguments.operands._asdict().items()
            if array is not None
        }
    )

    def loss(operands):
        y, statistics = by_hand(case, operands)
        return np.vdot(y, along_y) + np.vdot(statistics, along_statistics)

    gradients = cases.right(case, arguments)["gradients"]
    random = np.random.default_rng(1)
    for name, value in operands._asdict().items():
        if value is None:
            continue
        direction, step = random.standard_normal(value.shape), 1e-6
        ahead, behind = (
            loss(operands._replace(**{name: value + sign * step * direction})) for sign in (1, -1)
        )
        expected = np.vdot(gradients[name], direction)
        np.testing.assert_allclose((ahead - behind) / (2 * step), expected, rtol=1e-6, atol=1e-6)
