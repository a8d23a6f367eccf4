"""Each penalty lowers what it penalizes."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


@pytest.fixture(scope="module")
def study():
    return studies.create("penalties", units=16, steps=300, weight_decay=0.2, l1=0.1)


@pytest.fixture(scope="module")
def numbers(study):
    return study.run()


@pytest.mark.slow
def test_a_penalty_costs_accuracy_of_the_reconstruction(numbers):
    for name in ("L2", "L1", "elastic", "sparsity", "contractive"):
        assert numbers[f"{name} error"] > numbers["none error"]


def test_l2_shrinks_the_weights_and_l1_drives_most_to_zero(numbers):
    def norm(name):
        return np.linalg.norm(numbers[f"{name} weights"])

    assert norm("L2") < norm("none")
    assert norm("elastic") < norm("L1")
    assert numbers["L1 small_weights"] > numbers["none small_weights"] + 0.3


def test_sparsity_silences_units_and_contraction_flattens_the_code(numbers):
    assert numbers["sparsity silent_units"] > numbers["none silent_units"] + 0.2
    assert numbers["contractive slope"] < numbers["none slope"] / 2


def test_the_summaries_are_of_the_arrays(numbers):
    for name in ("none", "sparsity"):
        slope = np.square(numbers[f"{name} slopes"]).mean()
        assert numbers[f"{name} slope"] == pytest.approx(slope, rel=1e-4)
        silent = (numbers[f"{name} code"] < 0.01).mean()
        assert numbers[f"{name} silent_units"] == pytest.approx(silent, rel=1e-4)


def test_the_figure_has_three_columns_and_a_row_for_each_penalty(study, numbers):
    assert len(study.draw(numbers).axes) == 18


@pytest.mark.parametrize("option", [{"l1": -1.0}, {"weight_decay": float("nan")}, {"units": 0}])
def test_an_option_out_of_range_is_refused(option):
    with pytest.raises(UsageError, match=f"{next(iter(option))}(=| is)"):
        studies.create("penalties", **option)
