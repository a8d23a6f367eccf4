"""The three descents against NumPy and the closed form."""

import functools

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.analysis.studies.descent_paths import START
from dlcore.errors import UsageError

TINY = {"examples": 12, "batch_size": 4, "epochs": 3}


@functools.cache
def measured(**options):
    study = studies.create("descent_paths", **(TINY | options))
    return study, study.run()


def test_each_path_follows_the_gradient_of_its_batches():
    study, numbers = measured()
    features, targets, orders = study.problem()
    for name, size in (("batch", 12), ("mini_batch", 4), ("stochastic", 1)):
        path = [START]
        for order in orders:
            for batch in order.reshape(-1, size):
                error = features[batch] @ path[-1] - targets[batch]
                path.append(path[-1] - 0.1 * features[batch].T @ error / size)
        np.testing.assert_allclose(numbers[f"path_{name}"], path, rtol=1e-10)
        # After E epochs the weights have been updated E N / b times.
        assert numbers[f"updates_{name}"] == 3 * 12 / size


def test_batch_descent_is_the_closed_form_of_a_quadratic():
    study, numbers = measured(epochs=20)
    features, targets, _ = study.problem()
    hessian = features.T @ features / 12
    minimum = np.linalg.solve(hessian, features.T @ targets / 12)
    np.testing.assert_allclose(numbers["minimum"], minimum, rtol=1e-10)
    for t in (1, 7, 20):
        shrunk = np.linalg.matrix_power(np.eye(2) - 0.1 * hessian, t) @ (START - minimum)
        np.testing.assert_allclose(numbers["path_batch"][t], minimum + shrunk, rtol=1e-10)
    shrunk = numbers["path_batch"][-1] - minimum
    assert numbers["excess_batch"] == pytest.approx(shrunk @ hessian @ shrunk / 2, rel=1e-8)


def test_an_epoch_visits_every_example_once_in_an_order_of_its_own():
    _, _, orders = measured()[0].problem()
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(12), (3, 1)))
    assert len({tuple(order) for order in orders}) == 3


def test_at_the_same_rate_smaller_batches_learn_more_in_an_epoch_and_settle_worse():
    _, numbers = measured(examples=100, batch_size=10, epochs=10)
    first = {name: numbers[f"loss_{name}"][1] for name in ("batch", "mini_batch", "stochastic")}
    assert first["batch"] > first["mini_batch"] > first["stochastic"]
    assert numbers["excess_stochastic"] > 10 * numbers["excess_mini_batch"]
    # Without noise the examples agree, and even single ones lead to the minimum.
    _, numbers = measured(examples=100, batch_size=10, epochs=10, noise=0.0)
    assert numbers["excess_stochastic"] < 1e-12


def test_the_figure_shows_each_descent_once():
    study, numbers = measured()
    titles = [axes.get_title(loc="left") for axes in study.draw(numbers).axes]
    kinds = {
        "batch": ("batch", 3),
        "mini_batch": ("mini-batch", 9),
        "stochastic": ("stochastic", 36),
    }
    assert titles == [
        f"{kind}, {updates} updates: excess {numbers[f'excess_{name}']:.2g}"
        for name, (kind, updates) in kinds.items()
    ]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"examples": 1}, "examples=1"),
        ({"batch_size": 5}, "batch_size=5: it must divide the 12 examples"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"noise": -1.0}, "noise=-1.0"),
    ],
)
def test_bad_options_are_refused_by_name(options, named):
    with pytest.raises(UsageError, match=named):
        studies.create("descent_paths", **(TINY | options))
