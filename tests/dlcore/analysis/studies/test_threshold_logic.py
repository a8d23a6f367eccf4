"""The study of threshold logic against truth tables and the known counts."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


# Muroga (1971): the number of linearly separable functions; OEIS A000609.
@pytest.mark.parametrize(("inputs", "count"), [(1, 4), (2, 14), (3, 104), (4, 1882)])
def test_one_unit_computes_as_many_functions_as_are_linearly_separable(inputs, count):
    numbers = studies.create("threshold_logic", inputs=inputs).run()
    assert numbers["functions_of_one_unit"] == count
    assert numbers["functions"] == 2 ** (2**inputs)


def test_the_gates_have_their_truth_tables_and_a_panel_each():
    study = studies.create("threshold_logic")
    numbers = study.run()
    tables = {gate: numbers[gate].astype(int).tolist() for gate in ("and", "or", "nor", "xor")}
    assert tables == {
        "and": [0, 0, 0, 1],
        "or": [0, 1, 1, 1],
        "nor": [1, 0, 0, 0],
        "xor": [0, 1, 1, 0],
    }
    # XOR fires in a strip between two lines.
    x, y = np.meshgrid(numbers["axis"], numbers["axis"])
    strip = (x + y > 0.5) & (x + y < 1.5)
    clear = np.minimum(abs(x + y - 0.5), abs(x + y - 1.5)) > 1e-3
    np.testing.assert_array_equal(numbers["xor plane"][clear], strip[clear])
    assert len(study.draw(numbers).axes) == 4


@pytest.mark.parametrize("inputs", [0, 5])
def test_bad_options_are_refused(inputs):
    with pytest.raises(UsageError, match=f"inputs={inputs}: it must be at least 1 and at most 4"):
        studies.create("threshold_logic", inputs=inputs)
