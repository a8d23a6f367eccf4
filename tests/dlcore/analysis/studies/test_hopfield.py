"""The Hopfield study against the theory of its capacity."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.analysis.studies.hopfield import retrieval_states
from dlcore.errors import UsageError


def test_the_theory_has_its_published_capacity_and_overlap():
    # Amit, Gutfreund and Sompolinsky (1985): 0.138, where the overlap is 0.967.
    load, overlap = retrieval_states()
    assert load[0] == load.max() == pytest.approx(0.138, abs=5e-4)
    assert overlap[0] == pytest.approx(0.967, abs=1e-3)


def test_small_networks_recall_what_they_can_hold_and_lose_what_they_cannot():
    numbers = studies.create("hopfield", sizes=(64, 256), networks=2, patterns=10).run()
    assert numbers["largest_rise_of_energy"] <= 0
    assert (numbers["energy"][:, -1] < numbers["energy"][:, 0]).all()
    # At 0.1 patterns per unit, below capacity, theory has the overlap 0.994; at 0.24 nothing stays.
    theory = np.interp(0.1, numbers["theory_load"][::-1], numbers["theory_overlap"][::-1])
    large = numbers["overlap"][1]
    assert large[0] == pytest.approx(theory, abs=0.02)
    assert large[-1] < 0.75
    # The larger, the sharper: fewer units still recall where more of them fail.
    assert numbers["overlap"][0][-1] > large[-1]


@pytest.mark.slow
def test_the_measured_capacity_is_near_0_138():
    # That of the largest of its networks is the study's own expectation.
    numbers = studies.create("hopfield", sizes=(256, 512)).run()
    np.testing.assert_allclose(numbers["capacity_by_size"], 0.138, atol=0.01)


def test_options_out_of_range_are_refused():
    for options in ({"sizes": ()}, {"sizes": (20, 64)}, {"networks": 0}, {"patterns": 0}):
        with pytest.raises(UsageError, match=f"{next(iter(options))}(=| is)"):
            studies.create("hopfield", **options)
