"""Tables: what a program prints, and what stands between marks in the README."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.errors import UsageError
from experiments import tables


def test_scalars_are_python_s_own_numbers_and_arrays_are_left_out():
    values = {"loss": jnp.float32(0.5), "count": np.int64(3), "curve": np.zeros(2), "rate": 0.1}
    scalars = tables.scalars(values)
    assert scalars == {"loss": 0.5, "count": 3, "rate": 0.1}
    assert [type(value) for value in scalars.values()] == [float, int, float]


def test_two_columns_are_aligned():
    rows = {"a": 0.123456, "longer": "text", "count": 3}
    assert tables.aligned(rows) == "  a       0.1235\n  longer  text\n  count   3"


def test_a_table_replaces_what_stands_between_its_marks(tmp_path):
    readme = tmp_path / "README.md"
    begin, end = tables.marks("fruit")
    readme.write_text(f"before\n{begin}\nstale\nlines\n{end}\nafter\n")
    for _ in range(2):
        tables.replace(readme, "fruit", tables.markdown(["name", "size"], [["`pear`", "3"]]))
    table = "| name | size |\n|---|---|\n| `pear` | 3 |"
    assert readme.read_text() == f"before\n{begin}\n{table}\n{end}\nafter\n"


def test_a_readme_without_the_marks_is_refused_and_stays_as_it_was(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- fruit: end -->")
    with pytest.raises(UsageError, match="has no <!-- fruit: begin --> and <!-- fruit: end -->"):
        tables.replace(readme, "fruit", "")
    assert readme.read_text() == "<!-- fruit: end -->"


def test_printing_rows_imports_no_orbax():
    look = "import sys; from experiments import tables; print('orbax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60)
    assert found.stdout == "False\n", found.stderr
