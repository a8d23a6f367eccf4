"""Densely connected networks against PyTorch, and their statistics against gathering them anew."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models
from dlcore.analysis import counts
from dlcore.errors import UsageError
from dlcore.models.densenet import DenseNet
from dlcore.nn import backbone, conv_norm
from dlcore.nn.regularization import Dropout
from tests import networks
from tests.fixtures import equality, normalized_cases


def small(**options):
    """A network of the size of the cases."""
    sizes = {
        "blocks": normalized_cases.DENSE_BLOCKS,
        "growth_rate": normalized_cases.DENSE_GROWTH,
        "num_classes": 10,
    }
    return DenseNet(**sizes | {"reduces_first": False} | options)


IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)


def drawn(model, images=IMAGES):
    """Variables, drawn by NumPy."""
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)

    def draw(path, leaf):
        numbers = jnp.asarray(random.normal(size=leaf.shape), jnp.float32)
        return abs(numbers) if path[-1].key == "var" else numbers

    return jax.tree.map_with_path(draw, shapes)


@pytest.mark.parametrize(
    ("name", "mode", "rematerialize"),
    [
        *(
            (name, mode, False)
            for name in normalized_cases.DENSE
            for mode in ("evaluated", "trained")
        ),
        ("basic", "trained", True),
    ],
)
def test_logits_gradients_and_averages_are_pytorch_s(name, mode, rematerialize):
    bottleneck, reduces_first, stem_bias = normalized_cases.DENSE[name]
    model = small(
        bottleneck=bottleneck,
        compression=0.5 if bottleneck else 1.0,
        reduces_first=reduces_first,
        stem_bias=stem_bias,
        rematerialize=rematerialize,
    )
    network, stored = (
        normalized_cases.dense(*normalized_cases.DENSE[name]),
        equality.one_of("densenet", name),
    )
    # What reads the first convolution takes its mean away.
    rounding = ("conv0/bias",) if mode == "trained" else ()
    equality.assert_answers(model, network, stored, mode, rounding)


@pytest.mark.parametrize(("dropout_rate", "expected"), [(0.0, 1), (0.5, 1 + 1 + 2 * 3)])
def test_only_what_no_convolution_has_written_is_measured_by_itself(
    monkeypatch, dropout_rate, expected
):
    gathered = []

    def gather(values):
        gathered.append(values.shape)
        return jnp.zeros(values.shape[-1]), jnp.ones(values.shape[-1])

    model = small(dropout_rate=dropout_rate)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    monkeypatch.setattr(conv_norm, "batch_statistics", gather)
    train = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    jax.eval_shape(train, variables, IMAGES, rngs={"dropout": jax.random.key(0)})
    # After the transition's pooling, and after each dropout.
    assert len(gathered) == expected


def kept(layers, rematerialize):
    """How many numbers of maps a block's training keeps for its gradient."""
    model = small(blocks=(layers,), rematerialize=rematerialize)
    variables = drawn(model)

    def run(params):
        collections = {**variables, "params": params}
        logits, _ = model.apply(collections, IMAGES, True, mutable=["batch_stats"])
        return logits.sum()

    _, pull_back = jax.eval_shape(lambda params: jax.vjp(run, params), variables["params"])
    return sum(leaf.size for leaf in jax.tree.leaves(pull_back) if leaf.shape[:3] == (4, 8, 8))


def test_layers_that_are_computed_again_need_memory_that_grows_with_the_depth_alone():
    few, many = kept(4, rematerialize=True), kept(8, rematerialize=True)
    assert many < 2.2 * few
    assert kept(8, rematerialize=False) > 5 * many


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("densenet121", 2.834),
        *(
            pytest.param(*published, marks=pytest.mark.slow)
            for published in (
                ("densenet161", 7.728),
                ("densenet169", 3.36),
                ("densenet201", 4.291),
            )
        ),
    ],
)
def test_an_image_takes_as_many_multiply_adds_as_torchvision_says(name, billions):
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    assert round(counts.of_model(models.create(name), image).multiply_adds / 1e9, 3) == billions


@pytest.mark.parametrize(
    ("name", "size", "blocks", "shapes"),
    [
        (
            "densenet121",
            224,
            (2, 1, 0, 1),
            {
                "stem": (112, 112, 64),
                "stage1": (56, 56, 64 + 2 * 32),
                "stage2": (28, 28, 64 + 32),
                "stage3": (14, 14, 48),
                "stage4": (7, 7, 24 + 32),
                "pooled": (56,),
            },
        ),
        (
            "densenet40_12_cifar",
            32,
            (2, 1, 1),
            {
                "stem": (32, 32, 16),
                "stage1": (32, 32, 16 + 2 * 12),
                "stage2": (16, 16, 40 + 12),
                "stage3": (8, 8, 52 + 12),
                "pooled": (64,),
            },
        ),
    ],
)
def test_stages_are_the_dense_blocks_in_which_channels_grow(name, size, blocks, shapes):
    model = models.create(name, blocks=blocks)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
    assert {stage: x.shape[1:] for stage, x in stages.items()} == shapes


def test_layers_add_to_what_they_read_and_the_last_stage_is_normalized_and_rectified():
    model = small()
    variables = drawn(model)
    logits, stages = jax.jit(functools.partial(backbone.collect, model))(variables, IMAGES)
    np.testing.assert_array_equal(stages["stage1"][..., :8], stages["stem"])
    assert stages["stage1"].min() < 0
    assert stages["stage2"].min() == 0
    np.testing.assert_allclose(stages["pooled"], stages["stage2"].mean((1, 2)), rtol=1e-5)
    last = variables["params"]["logits"]
    expected = stages["pooled"] @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_compression_leaves_the_whole_part_of_its_share_of_the_channels():
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    for compression, expected in ((1.0, 25), (0.5, 12), (0.3, 7)):
        model = small(blocks=(3, 1), growth_rate=5, compression=compression)
        params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
        assert params["transition1"]["conv"]["kernel"].shape == (1, 1, 10 + 3 * 5, expected)


def test_training_drops_behind_every_convolution_but_the_first():
    model = small(dropout_rate=0.5)
    variables = drawn(model)
    found = networks.handed_on(model, variables, IMAGES, Dropout)
    layers = ("stage1_layer0", "stage2_layer0", "stage2_layer1")
    parts = {f"{layer}/dropout{part}" for layer in layers for part in (1, 2)}
    assert found.keys() - {""} == parts | {"transition1/dropout"}
    for path in parts:
        assert 0.3 < (found[path] == 0).mean() < 0.7
    programs = {
        str(jax.make_jaxpr(functools.partial(own.apply, train=False))(variables, IMAGES))
        for own in (model, small())
    }
    assert len(programs) == 1


@pytest.mark.parametrize("reduces_first", [False, True])
def test_kernels_begin_with_he_s_variance_by_fan_in(reduces_first):
    model = DenseNet(10, (2, 1), 64, reduces_first=reduces_first)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
    assert len(kernels) == 1 + 2 * 3 + 1
    for kernel in kernels:
        fan_in = np.prod(kernel.shape[:3])
        np.testing.assert_allclose(kernel.var() * fan_in, 2, rtol=0.06)


def test_a_network_computes_in_the_precision_that_is_asked_for():
    for options in ({"reduces_first": True}, {"stem_bias": True}, {"dropout_rate": 0.2}):
        model = small(dtype="bfloat16", **options)
        images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        rngs = {"dropout": jax.random.key(0)}
        train = functools.partial(model.apply, train=True, mutable=["batch_stats"], rngs=rngs)
        with jax.numpy_dtype_promotion("strict"):
            logits, moved = jax.eval_shape(train, variables, images)
            program = jax.jit(train).lower(variables, images).as_text()
        convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*(\w+)>", program)
        assert set(convolutions) == {"bf16"}
        assert {leaf.dtype for leaf in jax.tree.leaves((logits, moved))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({"dropout_rate": 1.0}, 8, "a dropout rate is at least 0 and below 1, not 1.0"),
        ({"dtype": "float16"}, 8, "in float32 or bfloat16, not 'float16'"),
        ({"blocks": (1, 1, 1)}, 3, "takes images of 4x4 or more, not 3x3"),
        (
            {"blocks": (1, 1, 1, 1), "reduces_first": True},
            28,
            "takes images of 29x29 or more, not 28x28",
        ),
    ],
)
def test_what_a_network_cannot_take_is_refused(options, size, message):
    model, images = small(**options), jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), images)


@pytest.mark.parametrize("compression", [0.0, 1.5])
def test_a_share_of_the_channels_is_left_between_two_blocks(compression):
    told = f"compression={compression}: it must be above 0 and at most 1"
    with pytest.raises(UsageError, match=told):
        models.create("densenet_bc100_12_cifar", compression=compression)


@pytest.mark.parametrize(("reduces_first", "size"), [(True, 29), (False, 8)])
def test_of_the_smallest_images_one_position_is_left(reduces_first, size):
    model = small(blocks=(1, 1, 1, 1), reduces_first=reduces_first)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
    assert stages["stage4"].shape[1:3] == (1, 1)
