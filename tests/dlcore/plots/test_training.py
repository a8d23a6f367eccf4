"""The figures of a training say what their arrays say; how they look was judged by eye."""

import numpy as np
import pytest
from matplotlib.text import Text

from dlcore import plots
from dlcore.errors import UsageError


def columns(epochs, **values):
    return {
        "epoch": epochs,
        "step": 10 * epochs,
        **{name: np.asarray(values[name]) for name in values},
    }


EPOCHS = np.asarray([1.0, 2.0])
METRICS = {
    "train": columns(EPOCHS, loss=[2.0, np.nan], learning_rate=[0.1, 0.1]),
    "validation": columns(EPOCHS, loss=[1.5, 0.1], accuracy=[0.5, 0.75]),
    "test": columns(EPOCHS[1:], accuracy=[0.7]),
}


def curves(axes):
    return {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axes.lines}


def test_learning_curves_have_a_panel_a_metric_and_a_line_a_split():
    panels = plots.learning_curves(METRICS).axes
    titles = [axes.get_title("left") for axes in panels]
    assert titles == ["loss", "accuracy", "learning rate"]
    _, accuracy, learning_rate = panels
    assert curves(accuracy) == {"validation": [[1, 0.5], [2, 0.75]], "test": [[2, 0.7]]}
    assert curves(learning_rate) == {"train": [[1, 0.1], [2, 0.1]]}


def test_a_value_that_was_not_finite_is_a_gap():
    loss = plots.learning_curves(METRICS).axes[0]
    (first, second) = curves(loss)["train"]
    assert first == [1, 2.0]
    assert np.isnan(second[1])


def test_a_rate_that_differs_by_rounding_only_is_drawn_as_a_constant():
    heights = []
    for other in (5.000001e-4, 6e-4):
        rates = columns(EPOCHS, learning_rate=[5e-4, other])
        (axes,) = plots.learning_curves({"train": rates}).axes
        low, high = axes.get_ylim()
        heights.append((other - 5e-4) / (high - low))
    assert heights[0] < 0.01
    assert heights[1] > 0.5


def test_the_legend_names_each_split_once():
    (legend,) = plots.learning_curves(METRICS).legends
    assert sorted(text.get_text() for text in legend.get_texts()) == ["test", "train", "validation"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [([2.0, 0.02], "log"), ([2.0, 1.0], "linear"), ([2.0, 0.0], "linear"), ([-1, 50], "linear")],
)
def test_a_loss_is_logarithmic_where_it_falls_by_more_than_ten(values, scale):
    metrics = {"train": columns(np.arange(2.0), loss=values)}
    assert plots.learning_curves(metrics).axes[0].get_yscale() == scale


def test_a_point_between_gaps_is_marked_and_a_line_of_a_training_is_not():
    values = {"loss": [np.nan, 1.0, np.nan], "learning_rate": [0.1, 0.1, 0.1]}
    loss, rate = plots.learning_curves({"train": columns(np.arange(3.0), **values)}).axes
    assert (loss.lines[0].get_marker(), rate.lines[0].get_marker()) == ("o", "")


def test_no_metrics_are_refused():
    for metrics in ({}, {"train": columns(EPOCHS)}):
        with pytest.raises(UsageError, match="no metric"):
            plots.learning_curves(metrics)


def test_a_confusion_matrix_writes_every_count_that_is_not_zero_in_its_cell():
    counts = np.asarray([[7, 0, 1], [0, 0, 0], [2, 0, 5]])
    (axes,) = plots.confusion_matrix(counts, ["ant", "bee", "cat"]).axes
    written = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert written == {(0, 0): "7", (0, 2): "1", (2, 0): "2", (2, 2): "5"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ant", "bee", "cat"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    assert axes.get_title("left") == "12 of 15 right (80.00%)"


def test_names_of_classes_are_written_as_they_are(tmp_path):
    names = ["$5_$10", r"$\frac{1$", "a$"]
    figure = plots.confusion_matrix(np.eye(3), names)
    labels = figure.axes[0].get_yticklabels()
    plain = [Text(text=name, parse_math=False, figure=figure) for name in names]
    for label, expected in zip(labels, plain, strict=True):
        expected.set_fontsize(label.get_fontsize())
        assert label.get_window_extent().width == expected.get_window_extent().width
    plots.save(figure, tmp_path / "confusion.png")


def test_right_and_wrong_answers_have_different_colors():
    (axes,) = plots.confusion_matrix(np.asarray([[9, 1], [0, 10]]), ["a", "b"]).axes
    right, wrong = (image.get_array() for image in axes.images)
    np.testing.assert_allclose(right.filled(-1), [[0.9, -1], [-1, 1.0]])
    np.testing.assert_allclose(wrong.filled(-1), [[-1, 0.1], [-1, -1]])
    assert axes.images[0].get_cmap() != axes.images[1].get_cmap()
