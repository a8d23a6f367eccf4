import json

import pytest

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments import recipes, reproduce


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """The results and the README of another place than the repository's."""
    results = tmp_path / "experiments" / "results"
    results.parent.mkdir()
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{reproduce.BEGIN}\nstale\n{reproduce.END}\nafter\n")
    monkeypatch.setattr(reproduce, "RESULTS", results)
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    return results, readme


@pytest.fixture
def quick(monkeypatch):
    """A recipe that is trained in a moment, with a bound that the test sets."""

    def register(bound):
        recipe = Recipe(
            name="quick",
            description="softmax regression on digits",
            expected=Expectation("accuracy", bound, "max", "this test"),
            model="softmax_regression",
            data="digits",
            learning_rate=0.1,
            num_epochs=1,
        )
        known = recipes.get
        monkeypatch.setattr(recipes, "get", lambda name: recipe if name == "quick" else known(name))

    return register


def test_a_score_that_is_met_is_written_and_tabulated(call, paths, quick, tmp_path):
    results, readme = paths
    quick(0.3)
    words = ("--recipes=quick", "--seeds=0,1", f"--workdir={tmp_path / 'runs'}")
    code, output, _ = call(reproduce, *words)
    result = json.loads((results / "quick.json").read_text())
    assert code == 0
    assert "met" in output
    assert result["met"] is True
    assert result["score"] == pytest.approx(sum(result["scores"]) / 2)
    assert result["measured"].keys() == {"accuracy", "loss"}
    assert result["measured"]["accuracy"] == result["score"]
    assert result["seeds"] == [0, 1]
    assert result["scores"][0] != result["scores"][1]
    assert result["expected"]["source"] == "this test"
    assert {"jax", "flax", "optax"} <= result["versions"].keys()
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    assert f"accuracy {result['score']:.4f}" in text


def test_a_missed_score_is_written_too_and_ends_with_1(call, paths, quick, tmp_path):
    results, _ = paths
    quick(1.1)
    code, output, _ = call(reproduce, "--recipes=quick", f"--workdir={tmp_path / 'runs'}")
    assert code == 1
    assert "MISSED" in output
    assert json.loads((results / "quick.json").read_text())["met"] is False


@pytest.mark.parametrize(
    ("words", "named"), [((), "--recipes is missing"), (("--recipes=nope",), "unknown recipe")]
)
def test_what_cannot_be_reproduced_is_named(call, paths, words, named):
    code, _, errors = call(reproduce, *words)
    assert code == 2
    assert named in errors


def test_the_committed_readme_is_made_from_the_committed_results(tmp_path):
    readme = reproduce.ROOT / "README.md"
    copy = tmp_path / "README.md"
    copy.write_text(readme.read_text())
    reproduce.write_table(copy)
    assert copy.read_text() == readme.read_text()
