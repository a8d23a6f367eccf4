"""What image networks share, on a small one: two stages of two layers with batch normalization."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.errors import UsageError
from dlcore.nn import backbone
from dlcore.nn.conv_norm import ConvNorm


class Block(nn.Module):
    """Two layers; what it sows itself is not the network's."""

    features: int
    strides: int

    @nn.compact
    def __call__(self, x, train):
        y = nn.tanh(ConvNorm(self.features, 3, self.strides, name="conv1")(x, train))
        self.sow("intermediates", "stage1", y)
        return nn.tanh(ConvNorm(self.features, 3, 1, "none", name="conv2")(y, train))


class Network(nn.Module):
    """Names its stages; `named` says whether it does."""

    rematerialize: bool = False
    named: bool = True

    @nn.compact
    def __call__(self, x, train=False):
        stage = functools.partial(backbone.stage, self) if self.named else lambda name, x: x
        block = backbone.block(Block, self.rematerialize)
        x = stage("stage1", block(4, 1, name="block1")(x, train))
        x = stage("stage2", block(6, 2, name="block2")(x, train))
        return nn.Dense(3, name="logits")(stage("pooled", x.mean((1, 2))))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(4, 7, 6, 3)), jnp.float32)


@pytest.fixture(scope="module")
def variables(images):
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(Network().init, jax.random.key(0), images)

    def draw(path, leaf):
        numbers = random.normal(size=leaf.shape)
        return jnp.asarray(abs(numbers) if path[-1].key == "var" else numbers, jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("rematerialize", [False, True])
def test_stages_are_collected_by_name_in_either_mode(images, variables, train, rematerialize):
    model = Network(rematerialize)
    outputs, stages = backbone.collect(model, variables, images, train=train)
    assert {name: x.shape for name, x in stages.items()} == {
        "stage1": (4, 7, 6, 4),
        "stage2": (4, 4, 3, 6),
        "pooled": (4, 6),
    }
    params, statistics = variables["params"], variables["batch_stats"]
    x = images
    for stage, block in (("stage1", Block(4, 1)), ("stage2", Block(6, 2))):
        own = stage.replace("stage", "block")
        collections = {"params": params[own], "batch_stats": statistics[own]}
        x, _ = block.apply(collections, x, train, mutable=["batch_stats"])
        np.testing.assert_allclose(stages[stage], x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stages["pooled"], x.mean((1, 2)), rtol=1e-5, atol=1e-6)
    logits = stages["pooled"] @ params["logits"]["kernel"] + params["logits"]["bias"]
    np.testing.assert_allclose(outputs, logits, rtol=1e-5, atol=1e-6)


def test_naming_stages_leaves_no_trace_where_they_are_not_asked_for(images, variables):
    named, unnamed = Network(), Network(named=False)
    assert jax.eval_shape(named.init, jax.random.key(0), images).keys() == variables.keys()
    run = functools.partial(Network.apply, train=True, mutable=["batch_stats"])
    given = run(named, variables, images)
    jax.tree.map(np.testing.assert_array_equal, given, run(unnamed, variables, images))
    programs = {
        str(jax.make_jaxpr(functools.partial(model.apply, train=False))(variables, images))
        for model in (named, unnamed)
    }
    assert len(programs) == 1


def test_a_network_that_names_nothing_has_no_stages(images, variables):
    _, stages = backbone.collect(Network(named=False), variables, images)
    assert stages == {}


def test_gradients_flow_into_a_collected_stage(images, variables):
    def total(params):
        _, stages = backbone.collect(Network(), {**variables, "params": params}, images)
        return stages["stage1"].sum()

    gradients = jax.grad(total)(variables["params"])
    reached = {name: any(map(np.any, jax.tree.leaves(own))) for name, own in gradients.items()}
    assert reached == {"block1": True, "block2": False, "logits": False}


def kept(model, variables, images):
    """How many numbers a training's forward pass keeps for its gradient, beside what it is given.

    Also the gradients, the outputs and the collections that have moved.
    """

    def run(params):
        outputs, moved = model.apply(
            {**variables, "params": params}, images, True, mutable=["batch_stats"]
        )
        return jnp.square(outputs).sum(), (outputs, moved)

    _, pull_back = jax.eval_shape(lambda params: jax.vjp(run, params), variables["params"])
    count = sum(leaf.size for leaf in jax.tree.leaves(pull_back) if leaf.ndim == 4)
    return count, jax.jit(jax.grad(run, has_aux=True))(variables["params"])


def test_blocks_that_are_computed_again_have_the_same_gradients_from_less_memory(images, variables):
    (all_kept, expected), (few_kept, found) = (
        kept(Network(rematerialize), variables, images) for rematerialize in (False, True)
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected
    )
    assert few_kept < all_kept / 2


def test_images_are_given_the_precision_that_a_network_computes_in(images):
    for dtype in backbone.DTYPES:
        given = backbone.computing_in(dtype, images)
        assert given.dtype == jnp.dtype(dtype)
        np.testing.assert_allclose(given.astype(jnp.float32), images, rtol=2**-8)
    with pytest.raises(UsageError, match="in float32 or bfloat16, not 'float64'"):
        backbone.computing_in("float64", images)


def test_an_image_of_which_nothing_would_be_left_is_refused(images):
    backbone.require_size(images, 6, "a network")
    with pytest.raises(UsageError, match="a network takes images of 7x7 or more, not 7x6"):
        backbone.require_size(images, 7, "a network")
