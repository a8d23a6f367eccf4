"""Three ways to get resolution back, against what is known of them."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


@pytest.fixture(scope="module")
def numbers():
    return studies.create("upsampling", size=32, kernel_size=3).run()


def test_the_photograph_is_pooled_and_each_maximum_put_back_at_its_position(numbers):
    blocks = numbers["photograph"].reshape(16, 2, 16, 2)
    largest = blocks.max((1, 3))
    np.testing.assert_array_equal(numbers["pooled"], largest)
    unpooled = np.where(blocks == largest[:, None, :, None], blocks, 0).reshape(32, 32)
    # Where a maximum occurs twice, it is put at the first.
    assert (numbers["unpooled"] != unpooled).mean() < 0.02
    np.testing.assert_array_equal(numbers["unpooled"].reshape(16, 2, 16, 2).max((1, 3)), largest)


def test_no_other_kernel_restores_the_photograph_better(numbers):
    # Of nearest upsampling and a centered kernel of one tap: a kernel that least squares also had.
    nearest = numbers["pooled"].repeat(2, 0).repeat(2, 1)
    error = np.square(nearest - numbers["photograph"]).mean()
    best = np.square(numbers["from_upsampled"] - numbers["photograph"]).mean()
    assert best < error
    assert numbers["from_upsampled_psnr"] == pytest.approx(-10 * np.log10(best))
    # A least-squares residual is orthogonal to every output of the layer, so to the best one.
    for name in ("from_unpooled", "from_upsampled", "from_transposed"):
        residual = numbers["photograph"] - numbers[name]
        assert abs((residual * numbers[name]).sum()) < 1e-4


def test_a_kernel_that_the_stride_does_not_divide_leaves_a_checkerboard(numbers):
    # A 3x3 kernel writes 1, 2, 2 or 4 times to a position: mean 9/4, variance 19/16.
    assert numbers["transposed_checkerboard"] == pytest.approx(np.sqrt(19) / 9)
    assert numbers["upsampled_checkerboard"] == 0
    even = studies.create("upsampling", size=32, kernel_size=4).run()
    assert even["transposed_checkerboard"] == 0


def test_options_out_of_range_are_refused():
    with pytest.raises(UsageError, match="kernel_size=0"):
        studies.create("upsampling", kernel_size=0)
    for size in (15, 18):
        with pytest.raises(UsageError, match=f"size={size}: it must be even"):
            studies.create("upsampling", size=size)
