"""Every notebook runs from its first cell to its last on a run that the library has just made."""

import os
import pathlib

import nbformat
import pytest

from dlcore.train import Recipe, Session

NOTEBOOKS = pathlib.Path(__file__).parents[2] / "notebooks"


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory) -> pathlib.Path:
    """What `make train` leaves, after two epochs on smaller images without augmentation."""
    directory = tmp_path_factory.mktemp("runs") / "lenet5_digits"
    recipe = Recipe(
        name="lenet5_digits",
        model="lenet5_modern",
        data="digits",
        data_options={"resize": 12},
        optimizer="adam",
        learning_rate=1e-3,
        batch_size=64,
        num_epochs=2,
    )
    Session(recipe).run(directory)
    return directory


def execute(path: pathlib.Path, run_directory: pathlib.Path) -> nbformat.NotebookNode:
    # Jupyter is imported where a notebook is run: every worker imports this file.
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}})
    return client.execute(env={**os.environ, "DLCORE_RUN": str(run_directory)})


def outputs(notebook: nbformat.NotebookNode) -> dict[str, list[nbformat.NotebookNode]]:
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


@pytest.mark.slow
def test_the_first_run_is_drawn(run_directory):
    shown = outputs(execute(NOTEBOOKS / "01_first_run.ipynb", run_directory))
    (scores,) = shown["open"]
    assert "lenet5_digits" in scores.data["text/plain"]
    assert "accuracy" in scores.data["text/plain"]
    for cell in ("draw-curves", "draw-confusion", "draw-filters", "draw-errors"):
        (figure,) = shown[cell]
        assert "image/png" in figure.data


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(outputs(notebook).values())
