"""GoogLeNet against PyTorch, and against the rows of the paper's table.

The paper's operations are met to the printed digit but in three rows. 34 million for the first
convolution is what two steps would take (eight 7x7 kernels for each color, then 1x1), as in later
programs of its authors; a plain 7x7 convolution, which the text describes, takes 118 million. 4a
has 73.6 million, printed as 73, and 5a, whose widths are those of 4e, 51 and not 54.
"""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dlcore import models
from dlcore.analysis import counts
from dlcore.errors import UsageError
from dlcore.models import googlenet
from dlcore.nn import backbone
from dlcore.nn.regularization import Dropout
from tests import networks
from tests.fixtures import cases, equality, network_cases, normalized_cases

# Height and width, and millions of operations, of each row of table 1 with convolutions.
PRINTED = {
    "conv1": (112, 34),
    "conv2": (56, 360),
    "inception3a": (28, 128),
    "inception3b": (28, 304),
    "inception4a": (14, 73),
    "inception4b": (14, 88),
    "inception4c": (14, 100),
    "inception4d": (14, 119),
    "inception4e": (14, 170),
    "inception5a": (7, 54),
    "inception5b": (7, 71),
    "logits": (1, 1),
}


@functools.cache
def abstract(name="googlenet", size=224, **options):
    """A model, images, and its variables' shapes."""
    model = models.create(name, **options)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return model, images, jax.eval_shape(model.init, jax.random.key(0), images)


def counted(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


class Classifier(nn.Module):
    """A module of GoogLeNet, and logits of its average."""

    @nn.compact
    def __call__(self, x, train):
        module = googlenet.Inception(normalized_cases.INCEPTION_WIDTHS, epsilon=1e-5, name="module")
        return nn.Dense(10, name="logits")(module(x, train).mean((1, 2)))


@pytest.mark.parametrize("mode", ["evaluated", "trained"])
def test_a_normalized_module_is_pytorch_s(mode):
    equality.assert_answers(
        Classifier(), normalized_cases.inception(), cases.load("inception"), mode
    )


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "weight"), [("evaluated", 0.0), ("trained", 0.3)])
def test_the_published_network_and_its_heads_are_pytorch_s(mode, weight):
    network, stored = network_cases.googlenet(), cases.load("googlenet")
    model = models.create("googlenet", num_classes=7, dropout_rate=0.0, auxiliary_dropout_rate=0.0)
    images, labels = jnp.asarray(network.images), jnp.asarray(network.labels)

    @jax.jit
    def descend(params):
        def loss(params):
            outputs = model.apply({"params": params}, images, mode == "trained")
            outputs = outputs if mode == "trained" else (outputs,)
            chosen = [jax.nn.log_softmax(logits)[jnp.arange(2), labels] for logits in outputs]
            main, *heads = (-own.mean() for own in chosen)
            return main + weight * sum(heads), outputs

        return jax.grad(loss, has_aux=True)(params)

    gradients, outputs = descend(networks.variables(network)["params"])
    for logits, expected in zip(outputs, stored["logits"], strict=mode == "trained"):
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)
    equality.assert_gradients(network, gradients, stored[f"{mode}/gradients"])


def test_the_table_is_the_printed_one():
    rows = [line.split() for line in network_cases.GOOGLENET_GRID.strip().splitlines()]
    printed = {name: tuple(map(int, numbers)) for name, *numbers in rows}
    assert printed == {name: row for stage in googlenet.TABLE for name, row in stage.items()}


def test_the_rows_of_the_table_have_their_printed_operations():
    model, images, variables = abstract()
    millions = dict.fromkeys(PRINTED, 0.0)
    total = 0
    for (layer, *_, tensor), leaf in flatten_dict(variables["params"]).items():
        row = layer.removesuffix("_reduce")
        if tensor == "kernel" and row in PRINTED:
            millions[row] += leaf.size * PRINTED[row][0] ** 2 / 1e6
            total += leaf.size * PRINTED[row][0] ** 2
    assert counts.of_model(model, images) == (13_378_280, total)
    differing = {row for row, (_, printed) in PRINTED.items() if round(millions[row]) != printed}
    assert differing == {"conv1", "inception4a", "inception5a"}
    # The first row by eight kernels for each color, and their mixture.
    assert round(112**2 * (7 * 7 * 3 * 8 + 3 * 8 * 64) / 1e6) == PRINTED["conv1"][1]
    assert round(total / 1e9, 2) == 1.58


def test_in_today_s_layout_an_image_takes_as_many_operations_as_torchvision_says():
    model, images, _ = abstract("googlenet_bn")
    assert round(counts.of_model(model, images).multiply_adds / 1e9, 3) == 1.498


@pytest.mark.parametrize(
    ("name", "without_heads"), [("googlenet", 6_998_552), ("googlenet_bn", 6_624_904)]
)
def test_the_heads_are_an_option_and_in_training_alone(name, without_heads):
    model, images, variables = abstract(name)
    bare, _, other = abstract(name, auxiliary=False)
    heads = ("auxiliary1", "auxiliary2")
    assert counted(other["params"]) == without_heads
    assert {**other["params"], **{head: variables["params"][head] for head in heads}} == (
        variables["params"]
    )
    assert [variables["params"][head]["conv"]["kernel"].shape[2] for head in heads] == [512, 528]
    train = functools.partial(bare.apply, train=True, mutable=["batch_stats"])
    logits, _ = jax.eval_shape(train, other, images, rngs={"dropout": jax.random.key(0)})
    assert logits.shape == (2, 1000)
    # What a run without the heads has trained is what one with them evaluates.
    programs = {
        str(jax.make_jaxpr(functools.partial(own.apply, train=False))(other, images))
        for own in (model, bare)
    }
    assert len(programs) == 1


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        (
            "googlenet",
            224,
            {
                "stem": (112, 112, 64),
                "stage1": (56, 56, 192),
                "stage2": (28, 28, 480),
                "stage3": (14, 14, 832),
                "stage4": (7, 7, 1024),
                "pooled": (1024,),
            },
        ),
        (
            "uva_googlenet_cifar",
            32,
            {
                "stem": (32, 32, 64),
                "stage1": (32, 32, 96),
                "stage2": (16, 16, 128),
                "stage3": (8, 8, 128),
                "pooled": (128,),
            },
        ),
    ],
)
def test_stages_are_the_last_maps_of_each_resolution(name, size, shapes):
    model, images, variables = abstract(name, size)
    _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
    assert {stage: x.shape[1:] for stage, x in stages.items()} == shapes


def head_of(x, **options):
    """What a head of drawn weights makes of maps, and what it says by hand of pooled ones."""
    head = googlenet.AuxiliaryHead(5, 0.7, **options)
    shapes = jax.eval_shape(functools.partial(head.init, train=False), jax.random.key(0), x)
    random = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(random.normal(0, 0.1, leaf.shape), jnp.float32)  # noqa: E731
    params = jax.tree.map(draw, shapes["params"])

    def by_hand(pooled):
        y = np.maximum(pooled @ params["conv"]["kernel"][0, 0] + params["conv"]["bias"], 0)
        y = y.reshape(len(x), -1) @ params["hidden"]["kernel"] + params["hidden"]["bias"]
        return np.maximum(y, 0) @ params["logits"]["kernel"] + params["logits"]["bias"]

    return head.apply({"params": params}, x, False), by_hand


@pytest.mark.parametrize(
    ("size", "adaptive", "windows"),
    [
        # 5x5 with a stride of 3, the published pooling.
        (14, False, [(0, 5), (3, 8), (6, 11), (9, 14)]),
        (16, False, [(0, 5), (3, 8), (6, 11), (9, 14)]),
        # Four windows over everything.
        (14, True, [(0, 4), (3, 7), (7, 11), (10, 14)]),
        (8, False, [(0, 2), (2, 4), (4, 6), (6, 8)]),
        (17, False, [(0, 5), (4, 9), (8, 13), (12, 17)]),
        (2, False, [(0, 1), (0, 1), (1, 2), (1, 2)]),
    ],
)
def test_a_head_pools_as_published_where_that_leaves_4x4(size, adaptive, windows):
    x = np.random.default_rng(1).normal(size=(2, size, size, 6)).astype(np.float32)
    pooled = [[x[:, a:b, c:d].mean((1, 2)) for c, d in windows] for a, b in windows]
    logits, by_hand = head_of(jnp.asarray(x), adaptive=adaptive)
    expected = by_hand(np.array(pooled).transpose(2, 0, 1, 3))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "rate"), [("googlenet", 0.4), ("googlenet_bn", 0.2)])
def test_training_drops_what_the_classifiers_read(name, rate):
    model, images, variables = abstract(name, 64)
    found = {}

    def look(call, args, kwargs, context):
        if isinstance(context.module, Dropout):
            found["/".join(context.module.path)] = context.module.rate, args[0].shape[1:]
        return call(*args, **kwargs)

    train = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    with nn.intercept_methods(look):
        jax.eval_shape(train, variables, images, rngs={"dropout": jax.random.key(0)})
    assert found == {
        "dropout": (rate, (1024,)),
        "auxiliary1/dropout": (0.7, (1024,)),
        "auxiliary2/dropout": (0.7, (1024,)),
    }


def test_a_module_without_bottlenecks_is_the_naive_one():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 3)), jnp.float32)
    module = googlenet.Inception((4, 9, 5, 9, 2, 9), bottlenecks=False)
    variables = module.init(jax.random.key(0), x, False)
    assert variables["params"].keys() == {"branch1", "branch2", "branch3"}
    parts = [
        nn.relu(nn.Conv(features, (size, size)).apply({"params": variables["params"][name]}, x))
        for name, features, size in (("branch1", 4, 1), ("branch2", 5, 3), ("branch3", 2, 5))
    ]
    pooled = nn.max_pool(x, (3, 3), padding="SAME")
    expected = jnp.concatenate([*parts, pooled], axis=-1)
    np.testing.assert_allclose(module.apply(variables, x, False), expected, rtol=1e-5, atol=1e-6)


def test_today_s_layout_normalizes_with_an_epsilon_of_a_thousandth():
    model, _, variables = abstract("googlenet_bn", 64)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables)
    state["params"]["conv1"] |= {"kernel": jnp.ones((7, 7, 3, 64)), "scale": jnp.ones(64)}
    stem = jax.jit(lambda images: backbone.collect(model, state, images)[1]["stem"])
    # In the middle all 147 numbers are summed; the variance is 0.
    found = stem(jnp.ones((1, 15, 15, 3)))[0, 4, 4]
    np.testing.assert_allclose(found, np.full(64, 147 / 1e-3**0.5), rtol=1e-5)


def test_the_tutorial_s_network_with_biases_has_the_parameters_of_its_pytorch_version():
    _, _, variables = abstract("uva_googlenet_cifar", 32)
    normalized = counted(variables["batch_stats"]) // 2
    assert counted(variables["params"]) + normalized == 260_650


def test_kernels_in_front_of_a_rectifier_begin_with_he_s_variance():
    for options in ({"epsilon": 0.0}, {"epsilon": 1e-3}):
        module = googlenet.Inception((64, 64, 64, 64, 64, 64), **options)
        params = module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 64)), False)["params"]
        for layer in params.values():
            fan_in = np.prod(layer["kernel"].shape[:3])
            np.testing.assert_allclose(layer["kernel"].var() * fan_in, 2, rtol=0.1)
            np.testing.assert_array_equal(layer["bias"], np.zeros(64))


@pytest.mark.parametrize("name", ["googlenet", "googlenet_bn"])
def test_a_network_computes_in_the_precision_that_is_asked_for(name):
    model, images, variables = abstract(name, 64, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    rngs = {"dropout": jax.random.key(0)}
    train = functools.partial(model.apply, train=True, mutable=["batch_stats"], rngs=rngs)
    with jax.numpy_dtype_promotion("strict"):
        outputs = jax.eval_shape(train, variables, images)
        program = jax.jit(train).lower(variables, images).as_text()
    convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*(\w+)>", program)
    assert set(convolutions) == {"bf16"}
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "options", "size", "message"),
    [
        ("googlenet", {}, 30, "takes images of 31x31 or more, not 30x30"),
        ("googlenet_bn", {}, 14, "takes images of 15x15 or more, not 14x14"),
        ("googlenet", {"dtype": "float16"}, 64, "in float32 or bfloat16, not 'float16'"),
        (
            "googlenet",
            {"dropout_rate": 1.0},
            64,
            "dropout_rate=1.0: it must be at least 0 and below",
        ),
    ],
)
def test_what_a_network_cannot_take_is_refused(name, options, size, message):
    with pytest.raises(UsageError, match=message):
        abstract(name, size, **options)


@pytest.mark.parametrize(("name", "size"), [("googlenet", 31), ("googlenet_bn", 15)])
def test_of_the_smallest_images_one_position_is_left(name, size):
    model, images, variables = abstract(name, size)
    _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
    assert stages["stage4"].shape[1:3] == (1, 1)
