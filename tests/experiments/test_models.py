"""The table of models: made from the registry, results and published scores, and nothing else."""

import numpy as np
import pytest

from experiments import models, published, reproduce


@pytest.fixture
def few(monkeypatch) -> dict[str, published.Published]:
    """Two of the published accuracies, and a model whose paper has none."""
    names = ("alexnet_one_tower", "googlenet", "squeezenet1_1")
    scores = {name: published.SCORES[name] for name in names}
    monkeypatch.setattr(published, "SCORES", scores)
    return scores


def test_the_plot_has_a_disc_for_every_published_accuracy(few):
    (axes,) = models.plot().axes
    *discs, _, _, _ = axes.collections
    assert {name.get_text() for name in axes.texts} == {"alexnet_one_tower", "squeezenet1_1"}
    # As torchvision prints them, the larger disc first.
    np.testing.assert_allclose(
        [disc.get_offsets()[0] for disc in discs], [[0.714, 56.522], [0.349, 58.178]], atol=6e-4
    )
    large, small = (disc.get_sizes()[0] for disc in discs)
    assert large / small == pytest.approx(61_100_840 / 1_235_496)


def test_the_plot_is_written_where_it_is_asked_for(call, few, tmp_path):
    code, output, errors = call(models, f"--plot={tmp_path / 'models.png'}")
    assert (code, output) == (0, f"{tmp_path / 'models.png'}\n"), errors
    assert (tmp_path / "models.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("file", "message"),
    [("plot.txt", "its suffix must be .png, .svg or .pdf"), ("no/plot.png", "there is no folder")],
)
def test_a_place_for_the_plot_that_cannot_be_is_refused(call, tmp_path, file, message):
    code, _, errors = call(models, f"--plot={tmp_path / file}")
    assert code == 2
    assert f"error: --plot={tmp_path / file}: {message}" in errors


def test_what_is_published_of_a_model_stands_in_its_line():
    line = models.row("squeezenet1_1", [])
    assert line[-2] == (
        "top-1 58.2 %, top-5 80.6 % (torchvision, IMAGENET1K_V1; 1 crop), "
        "0.35 billion multiply-adds"
    )
    assert models.row("lenet1", [])[-2] == ""


@pytest.mark.slow
def test_the_committed_table_is_what_the_program_makes(tmp_path):
    readme = reproduce.ROOT / "README.md"
    copy = tmp_path / "README.md"
    copy.write_text(readme.read_text())
    models.write_table(copy)
    assert copy.read_text() == readme.read_text()


def test_of_several_results_on_the_same_data_the_best_is_shown():
    def result(recipe, metric, score, mode="max"):
        expected = {"metric": metric, "value": 0.0, "mode": mode, "source": ""}
        return {"recipe": recipe, "metric": metric, "score": score, "expected": expected}

    results = [
        result("lenet5_modern_mnist", "accuracy", 0.991),
        result("lenet5_regularized_mnist", "accuracy", 0.993),
        result("lenet5_digits", "accuracy", 0.98),
        result("lenet5_mnist", "accuracy", 0.999),
    ]
    assert models.best_results("lenet5_modern", results) == [
        "accuracy 0.9930 on mnist (`lenet5_regularized_mnist`)",
        "accuracy 0.9800 on digits (`lenet5_digits`)",
    ]
    smaller_is_better = [
        result("gan_mnist", "frechet_ratio", 0.2, "min"),
        result("gan_mnist", "frechet_ratio", 0.1, "min"),
    ]
    assert models.best_results("gan", smaller_is_better) == [
        "frechet_ratio 0.1000 on mnist (`gan_mnist`)"
    ]
