"""The photograph of the studies."""

import numpy as np
import pytest

from dlcore.analysis.photograph import photograph
from dlcore.errors import UsageError


def test_a_smaller_photograph_is_the_larger_one_averaged():
    # Averages over 2x2 and 4x4 pixels of the same 400x400: the same view at half the resolution.
    large, small = photograph(200), photograph(100)
    assert large.dtype == np.float32
    assert 0 <= large.min() < 0.2 < 0.8 < large.max() <= 1
    averaged = large.reshape(100, 2, 100, 2).mean((1, 3))
    np.testing.assert_allclose(small, averaged, atol=1e-6)


@pytest.mark.parametrize("size", [0, 428])
def test_a_size_beyond_the_photograph_is_refused(size):
    with pytest.raises(
        UsageError, match=f"of {size} pixels: it must have from 1 to 427 on each side"
    ):
        photograph(size)
