"""Figures say what their arrays say; how they look was judged by eye."""

import threading

import numpy as np
import pytest
from matplotlib import pyplot

from dlcore import plots
from dlcore.errors import UsageError


def record(split, epoch, **values):
    return {"step": 10 * epoch, "epoch": float(epoch), "split": split, **values}


HISTORY = [
    record("train", 1, loss=2.0, learning_rate=0.1),
    record("validation", 1, loss=1.5, accuracy=0.5),
    record("train", 2, loss=None, learning_rate=0.1),
    record("validation", 2, loss=0.1, accuracy=0.75),
    record("test", 2, accuracy=0.7),
]


def curves(axes):
    return {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axes.lines}


def test_learning_curves_have_a_panel_a_metric_and_a_line_a_split():
    panels = plots.learning_curves(HISTORY).axes
    titles = [axes.get_title("left") for axes in panels]
    assert titles == ["loss", "accuracy", "learning rate"]
    _, accuracy, learning_rate = panels
    assert curves(accuracy) == {"validation": [[1, 0.5], [2, 0.75]], "test": [[2, 0.7]]}
    assert curves(learning_rate) == {"train": [[1, 0.1], [2, 0.1]]}


def test_a_value_that_was_not_finite_is_a_gap():
    loss = plots.learning_curves(HISTORY).axes[0]
    (first, second) = curves(loss)["train"]
    assert first == [1, 2.0]
    assert np.isnan(second[1])


def test_the_legend_names_each_split_once():
    (legend,) = plots.learning_curves(HISTORY).legends
    assert sorted(text.get_text() for text in legend.get_texts()) == ["test", "train", "validation"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [([2.0, 0.02], "log"), ([2.0, 1.0], "linear"), ([2.0, 0.0], "linear"), ([-1, 50], "linear")],
)
def test_a_loss_is_logarithmic_where_it_falls_by_more_than_ten(values, scale):
    records = [record("train", epoch, loss=value) for epoch, value in enumerate(values)]
    assert plots.learning_curves(records).axes[0].get_yscale() == scale


def test_no_records_are_refused():
    with pytest.raises(UsageError, match="no record"):
        plots.learning_curves([])


def test_a_confusion_matrix_writes_every_count_that_is_not_zero_in_its_cell():
    counts = np.asarray([[7, 0, 1], [0, 0, 0], [2, 0, 5]])
    (axes,) = plots.confusion_matrix(counts, ["ant", "bee", "cat"]).axes
    written = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert written == {(0, 0): "7", (0, 2): "1", (2, 0): "2", (2, 2): "5"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ant", "bee", "cat"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    assert axes.get_title("left") == "12 of 15 right (80.00%)"


def test_right_and_wrong_answers_have_different_colours():
    (axes,) = plots.confusion_matrix(np.asarray([[9, 1], [0, 10]]), ["a", "b"]).axes
    right, wrong = (image.get_array() for image in axes.images)
    np.testing.assert_allclose(right.filled(-1), [[0.9, -1], [-1, 1.0]])
    np.testing.assert_allclose(wrong.filled(-1), [[-1, 0.1], [-1, -1]])
    assert axes.images[0].get_cmap() != axes.images[1].get_cmap()


def test_grey_filters_share_one_scale_around_zero():
    kernel = np.zeros((3, 2, 1, 4), np.float32)
    kernel[2, 0, 0, 3] = -0.5
    axes, bar = plots.filters(kernel).axes
    assert len(axes.images) == 4
    assert {image.get_clim() for image in axes.images} == {(-0.5, 0.5)}
    np.testing.assert_array_equal(axes.images[3].get_array(), kernel[:, :, 0, 3])
    assert bar.get_title("left") == "weight"


def test_colour_filters_are_stretched_to_the_range_of_all():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 5)).astype(np.float32)
    (axes,) = plots.filters(kernel).axes
    drawn = np.stack([image.get_array() for image in axes.images])
    assert (drawn.min(), drawn.max()) == (0.0, 1.0)
    expected = (kernel - kernel.min()) / np.ptp(kernel)
    np.testing.assert_allclose(np.moveaxis(drawn, 0, -1), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 3, 2, 4), (3, 3, 1), (4, 5)])
def test_a_kernel_that_is_no_image_filter_is_refused(shape):
    with pytest.raises(UsageError, match="shape .* cannot be drawn"):
        plots.filters(np.zeros(shape))


def test_an_image_grid_shows_each_image_over_its_caption():
    images = np.linspace(-1, 1, 5 * 4).reshape(5, 2, 2)
    captions = list("abcde")
    (axes,) = plots.image_grid(images, captions, columns=3, value_range=(-1, 1)).axes
    for image, picture, caption in zip(axes.images, images, axes.texts, strict=True):
        np.testing.assert_allclose(image.get_array(), (picture + 1) / 2, atol=1e-6)
        left, right, bottom, _ = image.get_extent()
        x, y = caption.get_position()
        assert left < x < right
        assert y < bottom
    assert [text.get_text() for text in axes.texts] == captions
    rows = {image.get_extent()[3] for image in axes.images}
    assert len(rows) == 2


def test_images_may_have_colours():
    images = np.random.default_rng(0).uniform(size=(2, 4, 4, 3))
    (axes,) = plots.image_grid(images).axes
    np.testing.assert_allclose(axes.images[1].get_array(), images[1], atol=1e-6)


def test_integers_are_drawn_from_0_to_255():
    images = np.asarray([[[0, 51], [204, 255]]], np.uint8)
    (axes,) = plots.image_grid(images).axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[0, 0.2], [0.8, 1]], atol=1e-6)


def test_no_image_is_refused():
    with pytest.raises(UsageError, match="no image"):
        plots.image_grid(np.zeros((0, 8, 8)))


def test_a_figure_is_saved_in_the_format_of_its_suffix(tmp_path):
    figure = plots.learning_curves(HISTORY)
    plots.save(figure, tmp_path / "curves.png")
    plots.save(figure, tmp_path / "curves.pdf")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "curves.pdf"}


def test_a_figure_that_cannot_be_saved_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    figure = plots.learning_curves(HISTORY)
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
        plots.save(plots.image_grid(np.zeros((4, 8, 8))), tmp_path / name)

    names = [f"{index}.png" for index in range(4)]
    threads = [threading.Thread(target=draw, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pictures = {(tmp_path / name).read_bytes() for name in names}
    assert len(pictures) == 1


def test_pyplot_knows_of_no_figure():
    plots.learning_curves(HISTORY)
    assert pyplot.get_fignums() == []
