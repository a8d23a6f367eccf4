"""The multi-layer perceptron's options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models
from dlcore.errors import UsageError
from dlcore.models.mlp import window_mask
from dlcore.nn.regularization import DropConnectDense, Dropout
from tests import networks
from tests.fixtures import cases, network_cases

IMAGES = np.random.default_rng(1).normal(size=(8, 3, 3, 1)).astype(np.float32)


def shapes(images=IMAGES, **options):
    model = models.create("mlp", **options)
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def drawn(images=IMAGES, **options):
    """Parameters whose biases are not zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes(images, **options)
    )


def outputs(params, train=False, images=IMAGES, **options):
    """The logits."""
    model = models.create("mlp", **options)

    @jax.jit
    def run(params, images, key):
        variables, rngs = {"params": params}, {"dropout": key}
        return model.apply(variables, images, train, rngs=rngs, mutable=["batch_stats"])[0]

    return run(params, images, jax.random.key(2))


def test_hidden_layers_have_the_sizes_asked_for():
    params = shapes(hidden=(7, 5), num_classes=4)
    layers = ("hidden0", "hidden1", "logits")
    assert [params[layer]["kernel"].shape for layer in layers] == [(9, 7), (7, 5), (5, 4)]


def test_without_hidden_layers_it_is_softmax_regression():
    params = shapes(hidden=())
    assert jax.tree.map(jnp.shape, dict(params)) == {"logits": {"kernel": (9, 10), "bias": (10,)}}


def test_a_normalization_before_the_activation_takes_the_place_of_the_biases():
    for position, biased in (("before", {"kernel"}), ("after", {"kernel", "bias"})):
        params = shapes(hidden=(7, 5), normalization="batch", normalize=position)
        assert [set(params[f"hidden{layer}"]) for layer in (0, 1)] == [biased] * 2
        assert params["hidden1_norm"]["scale"].shape == (5,)
    assert "bias" in shapes(hidden=(7,), normalization="layer")["hidden0"]


@pytest.mark.parametrize("position", ["before", "after"])
def test_what_is_normalized_are_the_sums_or_the_outputs_of_the_units(position):
    options = {
        "hidden": (6,),
        "activation": "relu",
        "normalization": "batch",
        "normalize": position,
    }
    params = drawn(**options)
    x = IMAGES.reshape(8, 9).astype(np.float64) @ params["hidden0"]["kernel"]
    if position == "after":
        x = np.maximum(x + params["hidden0"]["bias"], 0)
    normal = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    hidden = normal * params["hidden0_norm"]["scale"] + params["hidden0_norm"]["bias"]
    if position == "before":
        hidden = np.maximum(hidden, 0)
    expected = hidden @ params["logits"]["kernel"] + params["logits"]["bias"]
    np.testing.assert_allclose(outputs(params, True, **options), expected, rtol=1e-4, atol=1e-4)


def test_each_noise_acts_by_itself_and_in_training_alone():
    params = drawn(hidden=(6,))
    expected = outputs(params, hidden=(6,))
    for noise in ("input_noise", "input_dropout_rate", "dropout_rate", "dropconnect_rate"):
        options = {"hidden": (6,), noise: 0.5}
        np.testing.assert_allclose(outputs(params, **options), expected, rtol=1e-5, atol=1e-6)
        assert not np.isclose(outputs(params, True, **options), expected).all(1).any(), noise


def test_classic_dropout_scales_in_evaluation_what_inverted_dropout_scales_in_training():
    options = {"hidden": (6,), "input_dropout_rate": 0.2, "dropout_rate": 0.5}
    params = drawn(hidden=(6,))
    # What inverted dropout divides by is put into the weights of the classic network.
    divided = {
        layer: {**params[layer], "kernel": params[layer]["kernel"] / kept}
        for layer, kept in (("hidden0", 0.8), ("logits", 0.5))
    }
    for train in (False, True):
        expected = outputs(params, train, **options)
        got = outputs(divided, train, classic_dropout=True, **options)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_window_s_unit_sees_its_part_of_the_image_and_nothing_else():
    images = np.zeros((24, 4, 3, 2), np.float32)
    images.reshape(24, 24)[np.diag_indices(24)] = 1  # One number of the image each.
    options = {"hidden": (4,), "window": (3, 2), "num_classes": 4, "activation": "linear"}
    params = drawn(images, **options)
    params["hidden0"]["bias"][:] = 0
    params["logits"] = {"kernel": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)}
    seen = np.asarray(outputs(params, images=images, **options)).reshape(4, 3, 2, 4) != 0
    corners = [(0, 0), (0, 1), (1, 0), (1, 1)]  # All positions of 3x2 in 4x3, row by row.
    for unit, (top, left) in enumerate(corners):
        expected = np.zeros((4, 3, 2), bool)
        expected[top : top + 3, left : left + 2] = True
        np.testing.assert_array_equal(seen[..., unit], expected)


def test_windows_are_spread_over_the_whole_image():
    mask = window_mask((28, 28, 1), (7, 7), 500)
    np.testing.assert_array_equal(mask.sum(0), 49)
    assert mask.any(1).all()
    few = window_mask((28, 28, 1), (7, 7), 2).reshape(28, 28, 2)
    assert few[0, 0, 0]
    assert few[14, 3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "step"}, "unknown activation 'step'"),
        ({"normalization": "bacth"}, "unknown normalization 'bacth'"),
        ({"normalization": "local_contrast"}, "needs feature maps"),
        ({"normalize": "between"}, "before or after"),
        ({"dropout_rate": 1.0}, "^dropout_rate=1.0: it must be at least 0 and below 1"),
        (
            {"input_dropout_rate": -0.5},
            "^input_dropout_rate=-0.5: it must be at least 0 and below 1",
        ),
        ({"dropconnect_rate": 2.0}, "^dropconnect_rate=2.0: it must be at least 0 and below 1"),
        ({"input_noise": -1.0}, "^input_noise=-1.0: it must be at least 0"),
        ({"window": (2, 2), "dropconnect_rate": 0.5}, "it does not go with window"),
        ({"window": (4, 2)}, "window=4,2 does not fit inputs of 3x3x1"),
        ({"window": (2,)}, "window=2 does not fit"),
        ({"window": (2, 2), "hidden": ()}, "window=2,2 needs a hidden layer"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        shapes(**options)


def test_a_window_on_a_table_is_refused():
    with pytest.raises(UsageError, match="window=2,2 does not fit inputs of 9"):
        shapes(IMAGES.reshape(8, 9), window=(2, 2))


@pytest.mark.parametrize("train", [False, True])
def test_the_maxout_network_is_pytorch_s(train):
    network, stored = network_cases.maxout(), cases.load("maxout")
    # Evaluation drops nothing, whatever the rates.
    rates = {"input_dropout_rate": 0.0, "dropout_rate": 0.0} if train else {}
    logits, gradients, _ = networks.descended(models.create("maxout", **rates), network, train)
    np.testing.assert_allclose(logits, stored["logits"], rtol=1e-4, atol=1e-5)
    assert not cases.differing(stored, "gradient", network, gradients, 1e-4)


def test_the_maxout_network_drops_a_fifth_of_the_inputs_and_half_of_the_units():
    network, model = network_cases.maxout(), models.create("maxout")
    found = networks.handed_on(
        model, networks.variables(network), network.images, DropConnectDense | Dropout
    )
    read = network.images.reshape(4, 784)
    for number, (kept, layer) in enumerate(((0.8, None), (0.5, "hidden0"), (0.5, "hidden1"))):
        if layer:
            params = network.params[layer]
            sums = read @ params["kernel"] + params["bias"]
            np.testing.assert_allclose(found[layer], sums, rtol=1e-3, atol=1e-4)
            read = sums.reshape(4, 240, 5).max(-1)
        left = found[f"Dropout_{number}"]
        assert (left != 0).mean() == pytest.approx(kept, abs=0.1)
        read = np.where(left == 0, 0, read / kept)
        np.testing.assert_allclose(left, read, rtol=1e-3, atol=1e-4)
