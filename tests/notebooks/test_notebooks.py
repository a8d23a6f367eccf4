"""Every notebook runs from its first cell to its last on runs that the library has just made."""

import os
import pathlib

import nbformat
import pytest

from dlcore.train import Recipe, Session

NOTEBOOKS = pathlib.Path(__file__).parents[2] / "notebooks"


def train(directory: pathlib.Path, model: str, size: int, epochs: int) -> pathlib.Path:
    """A run of a few epochs on small digits without augmentation."""
    recipe = Recipe(
        name=directory.name,
        model=model,
        data="digits",
        data_options={"resize": size},
        optimizer="adam",
        learning_rate=1e-3,
        batch_size=64,
        num_epochs=epochs,
    )
    Session(recipe).run(directory)
    return directory


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory) -> pathlib.Path:
    """What `make train` leaves, only smaller."""
    return train(tmp_path_factory.mktemp("runs") / "lenet5_digits", "lenet5_modern", 12, 2)


def execute(path: pathlib.Path, **environment: str) -> nbformat.NotebookNode:
    # Jupyter is imported where a notebook is run: every worker imports this file.
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}})
    return client.execute(env={**os.environ, **environment})


def outputs(notebook: nbformat.NotebookNode) -> dict[str, list[nbformat.NotebookNode]]:
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


@pytest.mark.slow
def test_the_first_run_is_drawn(run_directory):
    notebook = execute(NOTEBOOKS / "01_first_run.ipynb", DLCORE_RUN=str(run_directory))
    shown = outputs(notebook)
    (scores,) = shown["open"]
    assert "lenet5_digits" in scores.data["text/plain"]
    assert "accuracy" in scores.data["text/plain"]
    for cell in ("draw-curves", "draw-confusion", "draw-filters", "draw-errors"):
        (figure,) = shown[cell]
        assert "image/png" in figure.data


@pytest.mark.slow
def test_classifiers_are_compared(run_directory, tmp_path):
    others = [
        # The second has learned nothing yet, and the third has no convolution.
        train(tmp_path / "vgg_digits", "vgg_cifar", 8, 1),
        train(tmp_path / "mlp_digits", "mlp", 8, 2),
    ]
    runs = os.pathsep.join(map(str, [run_directory, *others]))
    shown = outputs(execute(NOTEBOOKS / "02_classifiers.ipynb", DLCORE_RUNS=runs))
    names = ("lenet5_digits", "vgg_digits", "mlp_digits")
    for cell in ("open", "calibration-error"):
        (table,) = shown[cell]
        assert all(name in table.data["text/plain"] for name in names)
    figures = {
        "draw-curves": 1,
        "draw-filters": 2,
        "draw-errors": 3,
        "draw-confusion": 3,
        "draw-calibration": 1,
    }
    for cell, count in figures.items():
        assert ["image/png" in figure.data for figure in shown[cell]] == [True] * count


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(outputs(notebook).values())
