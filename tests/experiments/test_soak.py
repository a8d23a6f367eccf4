"""The soak: what grows is told from what is only large."""

import os
import pathlib

import numpy as np
import pytest

from dlcore.errors import TrainingError
from experiments import soak


def test_growth_is_the_slope_of_the_second_half():
    # In the first half all is loaded; then 6 MB an hour are lost, and ten threads.
    late = [soak.Sample(1 + h / 10, 300 + 0.6 * h, 7, 20 + h, 5.0) for h in range(11)]
    early = [soak.Sample(h / 10, 30 * h, h, h, 0.0) for h in range(10)]
    growth = soak.growth([*early, *late])
    slopes = [float(one[one.index("(") + 1 : -1]) for one in growth]
    assert [one.partition(" ")[0] for one in growth] == ["306", "7", "30", "5"]
    np.testing.assert_allclose(slopes, [6, 0, 10, 0], atol=1e-9)


def test_a_sample_is_of_that_process(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(bytes(3_000_000))
    before = soak.sample(os.getpid(), tmp_path, 0.5)
    with pathlib.Path(tmp_path / "other").open("wb"):
        now = soak.sample(os.getpid(), tmp_path, 0.5)
    assert now.descriptors == before.descriptors + 1
    assert now.hours == 0.5
    assert now.disk_MB == pytest.approx(3, abs=0.1)
    assert 50 < now.memory_MB < 100_000
    assert now.threads >= 1


@pytest.mark.slow
def test_a_training_is_watched_and_ended(tmp_path):
    count, *columns = soak.watched("softmax_regression_iris", tmp_path / "run", 0.4, 5)
    assert int(count.replace(",", "")) > 5
    assert len(columns) == 4


@pytest.mark.slow
def test_a_training_that_ends_by_itself_is_no_soak(tmp_path):
    with pytest.raises(TrainingError, match="no_such_recipe ended by itself, with code 2"):
        soak.watched("no_such_recipe", tmp_path / "run", 1, 5)
