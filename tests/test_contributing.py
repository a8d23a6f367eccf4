"""What CONTRIBUTING.md shows is in the files that it names, and its example runs."""

import json
import pathlib
import re

import pytest

from tests.children import running

ROOT = pathlib.Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
EXCERPTS = [re.fullmatch(r"# (\S+)\n(.*)", block, re.DOTALL) for block in BLOCKS]


@pytest.mark.parametrize(("path", "excerpt"), [found.groups() for found in EXCERPTS if found])
def test_an_excerpt_is_in_the_file_that_it_names(path, excerpt):
    assert excerpt in (ROOT / path).read_text()


@pytest.mark.slow
def test_the_system_of_ones_own_trains_from_python_and_opens_again(tmp_path, monkeypatch):
    example, training = (b for b, found in zip(BLOCKS, EXCERPTS, strict=True) if found is None)
    (tmp_path / "moons.py").write_text(example)
    directory = tmp_path / "moons"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with running(tmp_path, ("-c", training.replace("runs/moons", str(directory)))) as (child,):
        assert child.exit_code() == 0, child.output
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["parameters"] == 82
    assert summary["test"]["accuracy"] > 0.9
    assert 0 <= summary["test"]["unsure"] <= 1
    assert (directory / "plots" / "regions.png").stat().st_size > 0
    command = ("-m", "experiments.evaluate", f"--workdir={directory}", "--split=test")
    with running(tmp_path, command) as (child,):
        assert child.exit_code() == 0, child.output
    assert f"accuracy  {summary['test']['accuracy']:.4f}" in child.output
