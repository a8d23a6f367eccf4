"""The hand-made edge filters against SciPy's."""

import numpy as np
import pytest
import scipy.ndimage

from dlcore.analysis import studies
from dlcore.errors import UsageError


def test_the_photograph_is_filtered_by_sobel_rectified_and_pooled():
    numbers = studies.create("edge_filters", size=34, window=4).run()
    for name, axis in (("vertical", 1), ("horizontal", 0)):
        expected = scipy.ndimage.sobel(numbers["photograph"].astype(np.float64), axis)[1:-1, 1:-1]
        np.testing.assert_allclose(numbers[f"{name}_filtered"], expected, atol=1e-5)
        blocks = np.maximum(expected, 0).reshape(8, 4, 8, 4)
        np.testing.assert_allclose(numbers[f"{name}_pooled"], blocks.max((1, 3)), atol=1e-5)
        mean = np.abs(expected).mean()
        assert numbers[f"{name}_mean_response"] == pytest.approx(mean, rel=1e-4)


def test_a_pooling_window_larger_than_the_map_is_refused():
    with pytest.raises(UsageError, match="window=9: it must be from 1 to size - 2 = 8"):
        studies.create("edge_filters", size=10, window=9)
