"""Figures are written whole or not at all, and belong to nobody."""

import threading

import numpy as np
import pytest
from matplotlib import pyplot

from dlcore import plots

IMAGES = np.zeros((4, 8, 8))


def test_a_figure_is_saved_in_the_format_of_its_suffix(tmp_path):
    figure = plots.image_grid(IMAGES)
    plots.save(figure, tmp_path / "curves.png")
    plots.save(figure, tmp_path / "curves.pdf")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "curves.pdf"}


def test_a_figure_that_cannot_be_saved_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    figure = plots.image_grid(IMAGES)
    plots.save(figure, path)
    old = path.read_bytes()

    def break_off(target, **options):
        target.write_bytes(b"half a picture")
        raise OSError("no space left on device")

    monkeypatch.setattr(figure, "savefig", break_off)
    with pytest.raises(OSError, match="no space"):
        plots.save(figure, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_figures_are_drawn_in_threads(tmp_path):
    def draw(name):
        plots.save(plots.image_grid(IMAGES), tmp_path / name)

    names = [f"{index}.png" for index in range(4)]
    threads = [threading.Thread(target=draw, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pictures = {(tmp_path / name).read_bytes() for name in names}
    assert len(pictures) == 1


def test_pyplot_knows_of_no_figure():
    plots.image_grid(IMAGES)
    assert pyplot.get_fignums() == []
