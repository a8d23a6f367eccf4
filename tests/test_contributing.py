"""What CONTRIBUTING.md shows is in the files that it names, and its example runs."""

import pathlib
import re
import sys

import pytest

from dlcore.train import Run, Session

ROOT = pathlib.Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
EXCERPTS = [re.fullmatch(r"# (\S+)\n(.*)", block, re.DOTALL) for block in BLOCKS]


@pytest.mark.parametrize(("path", "excerpt"), [found.groups() for found in EXCERPTS if found])
def test_an_excerpt_is_in_the_file_that_it_names(path, excerpt):
    assert excerpt in (ROOT / path).read_text()


def test_the_system_of_ones_own_trains_and_opens_again(tmp_path, monkeypatch):
    (example,) = (block for block, found in zip(BLOCKS, EXCERPTS, strict=True) if found is None)
    (tmp_path / "moons.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    import moons

    recipe = moons.recipe.importing("moons")
    summary = Session(recipe).run(tmp_path / "run")
    assert summary["parameters"] == 82
    assert summary["test"]["accuracy"] > 0.9
    assert 0 <= summary["test"]["unsure"] <= 1
    assert (tmp_path / "run" / "plots" / "regions.png").stat().st_size > 0
    run = Run(tmp_path / "run")
    assert run.recipe.imports == ("moons",)
    assert run.evaluate("test")["accuracy"] == summary["test"]["accuracy"]
    del sys.modules["moons"]
