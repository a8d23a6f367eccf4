"""XLA's implementation against the reference in float64, values and every gradient."""

import pytest

from kernels.conv_bn_relu.cases import Case

CASES = [
    Case(2, 3, 5, 3, 5, 3, 1, "float32", residual=True, statistics=True),
    Case(7, 7, 7, 5, 17, 3, 2, "float32", pending=True),
    Case(1, 1, 1, 1, 1, 1, 1, "float32"),
    Case(2, 7, 7, 17, 3, 1, 2, "bfloat16", residual=True, pending=True),
    Case(2, 31, 33, 3, 4, 7, 2, "bfloat16", activation="none"),
    Case(2, 7, 7, 5, 3, 1, 1, "float32", mean=1000.0),
    Case(2, 7, 7, 5, 3, 1, 1, "float32", constant=True, activation="none", residual=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_as_right_as_those_of_the_reference(prove, case):
    prove("xla", case)
