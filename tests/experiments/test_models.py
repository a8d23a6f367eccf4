"""The README's table of models: made from the registry and from the results, and nothing else."""

import pytest

from experiments import models, reproduce


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
