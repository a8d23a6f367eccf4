"""An inception module's table against its sums, and against sums by hand."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


@pytest.fixture(scope="module")
def numbers():
    return studies.create("inception_module").run()


def test_what_the_layers_have_adds_up_to_the_module(numbers):
    for kind in ("with", "without"):
        for quantity in ("parameters", "multiply_adds", "outputs"):
            assert numbers[f"layer_{quantity}_{kind}"].sum() == numbers[f"{quantity}_{kind}"]


def test_the_rows_are_those_of_the_paper_s_table_by_hand(numbers):
    weights_with = [192 * 64, 192 * 96, 9 * 96 * 128, 192 * 16, 25 * 16 * 32, 192 * 32]
    weights_without = [192 * 64, 0, 9 * 192 * 128, 0, 25 * 192 * 32, 0]
    biases = np.array([64, 96, 128, 16, 32, 32])
    for kind, weights, own in (("with", weights_with, 1), ("without", weights_without, 0)):
        found = numbers[f"layer_multiply_adds_{kind}"]
        np.testing.assert_array_equal(found, 28 * 28 * np.array(weights))
        expected = np.where(np.array(weights) > 0, weights + biases, 0)
        np.testing.assert_array_equal(numbers[f"layer_parameters_{kind}"], expected)
        channels = [64, 0, 128, 0, 32, 32 if own else 192]
        np.testing.assert_array_equal(numbers[f"layer_outputs_{kind}"], channels)


@pytest.mark.parametrize(
    ("module", "inputs", "size", "outputs"), [("4a", 480, 14, 512), ("5b", 832, 7, 1024)]
)
def test_every_module_reads_what_the_one_before_it_has_written(module, inputs, size, outputs):
    numbers = studies.create("inception_module", module=module).run()
    assert (numbers["inputs"], numbers["size"], numbers["outputs_with"]) == (inputs, size, outputs)


def test_an_unknown_module_is_refused():
    with pytest.raises(UsageError, match="module='6a': it is one of 3a, 3b, 4a"):
        studies.create("inception_module", module="6a")
