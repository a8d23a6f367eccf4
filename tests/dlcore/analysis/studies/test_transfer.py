"""Few examples, learned from scratch and from a trained network."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError
from dlcore.train import Session

TINY = {"source": "digits", "target": "digits", "size": 8, "features": (4, 4, 4)}


@pytest.fixture
def study():
    return studies.create("transfer", **TINY, examples=(2, 5), draws=2, source_epochs=1, steps=7)


def test_trainings_differ_in_nothing_but_the_start_and_what_is_frozen(study, tmp_path):
    recipes = {
        way: study._recipe_of_target(way, 5, 1, tmp_path)
        for way in ("from_scratch", "features", "fine_tuned")
    }
    plain = recipes["from_scratch"].to_json()
    assert not plain["start_from"]
    for way, recipe in recipes.items():
        differing = {name for name, own in recipe.to_json().items() if own != plain[name]}
        assert (
            differing - {"name"}
            == {
                "from_scratch": set(),
                "features": {"start_from", "start_mapping", "groups", "learning_rate"},
                "fine_tuned": {"start_from", "start_mapping"},
            }[way]
        )


@pytest.mark.parametrize(("count", "epochs", "steps"), [(2, 7, 7), (5, 3, 6)])
def test_every_number_of_examples_has_as_many_steps(study, tmp_path, count, epochs, steps):
    recipe = study._recipe_of_target("from_scratch", count, 0, tmp_path)
    prepared = Session(recipe).prepared
    assert prepared.dataset.num_examples("train") == 10 * count
    assert (recipe.batch_size, recipe.num_epochs) == (20, epochs)
    assert prepared.plan.num_steps == steps


def test_the_figure_has_the_means_and_every_draw(study):
    accuracies = {
        way: np.array([[0.1, 0.3], [0.6, 0.8]])
        for way in ("from_scratch", "features", "fine_tuned")
    }
    (axes,) = study.draw({"examples": np.array([2, 5]), **accuracies}).axes
    means = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "-"]
    np.testing.assert_allclose(means, [[0.2, 0.7]] * 3)
    assert len(axes.lines) == 9


@pytest.mark.slow
def test_accuracies_are_measured_for_each_number_of_examples_and_each_draw():
    options = {"examples": (3,), "draws": 1, "source_epochs": 1, "steps": 2}
    study = studies.create("transfer", **TINY, **options)
    numbers = study.run()
    for way in ("from_scratch", "features", "fine_tuned"):
        assert numbers[way].shape == (1, 1)
        assert 0 < numbers[way] < 1
        assert numbers[f"{way}_3"] == numbers[way]
    gain = numbers["fine_tuned_3"] - numbers["from_scratch_3"]
    assert numbers["fewest_gain"] == numbers["most_gain"] == gain


def test_what_is_not_bundled_is_said_before_any_work(monkeypatch):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    study = studies.create("transfer")
    assert study.datasets == ("cifar10_jpeg", "mnist")
    with pytest.raises(UsageError, match="'mnist' needs data_dir"):
        study.run()


@pytest.mark.parametrize(
    "option", [{"examples": (5, 5)}, {"examples": (0, 5)}, {"draws": 0}, {"size": 4}, {"steps": 0}]
)
def test_an_option_out_of_range_is_refused(option):
    with pytest.raises(UsageError, match=f"{next(iter(option))}(=| is)"):
        studies.create("transfer", **option)
