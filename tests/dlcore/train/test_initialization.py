"""First states by a rule: which parameters it reaches, and LSUV against the paper's algorithm."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dlcore import models, tasks
from dlcore.errors import UsageError
from dlcore.nn import initializers
from dlcore.nn.convolution import PartiallyConnectedConv
from dlcore.nn.pooling import TrainableSubsampling
from dlcore.train import initialization
from kernels import dispatch
from tests import registered, small


def images(count=16, shape=(6, 6, 1), seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(1, 2, (count, *shape)).astype(np.float32),
        "label": rng.integers(3, size=count).astype(np.int32),
        "mask": np.ones(count, np.float32),
    }


def letters(count=16):
    text = np.random.default_rng(0).integers(5, size=(count, 4)).astype(np.int32)
    mask, start = np.ones((count, 4), np.float32), np.ones(count, bool)
    return {"tokens": text, "targets": text, "mask": mask, "start": start}


class SmallLeNet(nn.Module):
    """The layers of 1998: partial connections, trainable subsampling."""

    @nn.compact
    def __call__(self, x, train=False):
        x = jnp.concatenate([x, jnp.square(x)], axis=-1)
        c1 = PartiallyConnectedConv(((0,), (1,), (0, 1)), (3, 3), name="C1")(x)
        s2 = jnp.tanh(TrainableSubsampling(name="S2")(c1))
        return nn.Dense(3, name="F6")(jnp.tanh(s2).reshape(len(x), -1))


RULES = {
    "mlp": ("xavier", "small_uniform:0.05", "orthogonal", "lsuv", "lsuv:unit"),
    "convnet_bn": ("xavier", "orthogonal", "lsuv", "lsuv:unit"),
    "small_lenet": ("xavier", "orthogonal", "lsuv"),
    "char_lstm": ("orthogonal", "lsuv"),
    "gan": ("lsuv",),
}


def make_task(name):
    if name == "char_lstm":
        model = models.create(name, vocabulary_size=5, hidden=4, layers=1)
        return tasks.create("language_model", model)
    if name == "gan":
        sizes = {"latent_size": 3, "generator_hidden": (5,), "discriminator_hidden": (4,)}
        return tasks.create("gan", models.create("gan", image_size=6, **sizes))
    if name == "small_lenet":
        return tasks.create("classification", SmallLeNet())
    options = {"mlp": {"hidden": (8, 7)}, "convnet_bn": {"features": (4,)}}[name]
    return tasks.create("classification", models.create(name, num_classes=3, **options))


class Subject:
    """A small task with a batch, and what every rule makes of its variables."""

    def __init__(self, name):
        self.name, self.task = name, make_task(name)
        batch = letters() if name == "char_lstm" else images()
        self.batch = jax.tree.map(jnp.asarray, batch)
        shapes = jax.eval_shape(self.task.init, jax.random.key(0), self.batch)
        rng = np.random.default_rng(0)
        # No bias happens to be zero, and no variance is negative.
        self.variables = jax.tree.map(
            lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype), shapes
        )

        # One compilation for all rules, with every module's answers after each.
        self._run = jax.jit(self._after_all)
        self._found = {}

    def _after_all(self, variables, batch, key):
        def after(rule):
            changed = initialization.make(rule)(self.task, variables, batch, key)
            collections = {name: own for name, own in changed.items() if name != "carry"}
            inputs = self.task.describe_inputs(batch)
            _, state = self.task.model.apply(
                collections, *inputs, capture_intermediates=True, mutable=["intermediates"]
            )
            return changed, state["intermediates"]

        return {rule: after(rule) for rule in RULES[self.name]}

    def after(self, rule, seed=7):
        """Parameters by path, and what the modules answer by theirs."""
        if seed not in self._found:
            found = self._run(self.variables, self.batch, jax.random.key(seed))
            self._found[seed] = jax.device_get(found)
        changed, answers = self._found[seed][rule]
        assert jax.tree.map(np.shape, changed) == jax.tree.map(np.shape, self.variables)
        flat = flatten_dict(answers, sep="/")
        outputs = {path.removesuffix("/__call__"): answer[0] for path, answer in flat.items()}
        return flatten_dict(changed["params"], sep="/"), outputs

    def params(self, rule, **options):
        return self.after(rule, **options)[0]


subject = functools.cache(Subject)


# Which parameters a rule reaches.


@pytest.mark.parametrize("name", registered.EVERY)
def test_every_model_can_start_by_a_rule_that_draws_each_kernel_once_and_by_lsuv(name):
    model, inputs = models.create(name), models.entry(name).example_inputs
    shapes = jax.eval_shape(lambda *inputs: model.init(jax.random.key(0), *inputs), *inputs)
    drawn = []

    def rule(key, shape, dtype):
        drawn.append(shape)
        return jnp.zeros(shape, dtype)

    key = jax.random.key(0)
    redraw = functools.partial(initialization.redraw, rule=rule, key=key)
    assert jax.eval_shape(redraw, shapes["params"]) == shapes["params"]
    flat = flatten_dict(shapes["params"])
    kernels = [leaf.shape for path, leaf in flat.items() if leaf.ndim > 1 and path[-1] != "bias"]
    assert sorted(drawn) == sorted(kernels)

    task = types.SimpleNamespace(model=model, state_kinds={}, describe_inputs=lambda batch: batch)
    lsuv = functools.partial(initialization.lsuv, task, key=key)
    assert jax.eval_shape(lsuv, shapes, inputs) == shapes


@pytest.mark.parametrize(
    ("name", "untouched"),
    [
        ("mlp", set()),
        ("convnet_bn", {"conv1_norm/bias", "conv1_norm/scale"}),
        ("small_lenet", {"S2/coefficient", "S2/bias"}),
    ],
)
def test_only_kernels_and_the_biases_beside_them_change(name, untouched):
    own = flatten_dict(subject(name).variables["params"], sep="/")
    for path, array in subject(name).params("xavier").items():
        if path in untouched:
            np.testing.assert_array_equal(array, own[path])
        elif path.endswith("bias"):
            assert not array.any(), path
        else:
            assert (array != own[path]).all(), path
            deviation = np.prod(array.shape[:-1]) ** -0.5
            assert np.std(array) == pytest.approx(deviation, rel=0.5), path


def test_the_small_intervals_of_old_are_for_biases_too():
    for path, array in subject("mlp").params("small_uniform:0.05").items():
        assert 0 < np.abs(array).max() <= 0.05, path
        assert len(np.unique(array)) == array.size, path


def test_no_two_arrays_are_drawn_with_the_same_key():
    params = subject("mlp").params("small_uniform:0.05")
    drawn = np.concatenate([np.ravel(array) for array in params.values()])
    assert len(np.unique(drawn)) > 0.99 * drawn.size


def test_without_a_rule_the_model_starts_its_own_way():
    mlp = subject("mlp")
    unchanged = initialization.make("")(mlp.task, mlp.variables, mlp.batch, jax.random.key(0))
    assert unchanged is mlp.variables


def test_a_rule_is_a_function_of_the_key():
    one, other = (subject("mlp").params("xavier", seed=seed) for seed in (7, 8))
    for path in ("hidden0/kernel", "hidden1/kernel", "logits/kernel"):
        assert (one[path] != other[path]).all()


# LSUV.


@pytest.mark.parametrize("rule", ["lsuv", "lsuv:unit"])
def test_lsuv_is_the_algorithm_of_the_paper(rule):
    # Mishkin and Matas (2016), algorithm 1, in float64: layer by layer, until it is near enough.
    ours, start = (subject("mlp").params(name) for name in (rule, "orthogonal"))
    names = [f"{layer}/kernel" for layer in LAYERS["mlp"]]
    kernels = [np.float64(start[name]) for name in names]
    pixels = np.float64(subject("mlp").batch["image"]).reshape(16, -1)
    axis = 0 if rule == "lsuv:unit" else None

    def output_of(layer):
        x = pixels
        for kernel in kernels[:layer]:
            x = np.tanh(x @ kernel)
        return x @ kernels[layer]

    for layer in range(3):
        for _ in range(10):
            kernels[layer] /= np.sqrt(output_of(layer).var(axis))
            if np.abs(output_of(layer).var(axis) - 1).max() < 1e-6:
                break
    for name, kernel in zip(names, kernels, strict=True):
        np.testing.assert_allclose(ours[name], kernel, rtol=1e-3, atol=1e-5)


LAYERS = {
    "mlp": ["hidden0", "hidden1", "logits"],
    "convnet_bn": ["conv1", "logits"],
    "small_lenet": ["C1", "F6"],
    "char_lstm": ["logits"],
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_hands_on_unit_variance(name):
    _, answers = subject(name).after("lsuv")
    for layer in LAYERS[name]:
        assert np.var(np.float64(answers[layer])) == pytest.approx(1, abs=1e-4), layer


@pytest.mark.parametrize("name", ["mlp", "convnet_bn"])
def test_by_unit_every_unit_hands_on_unit_variance(name):
    _, answers = subject(name).after("lsuv:unit")
    for layer in LAYERS[name]:
        answer = np.float64(answers[layer])
        variances = answer.reshape(-1, answer.shape[-1]).var(0)
        np.testing.assert_allclose(variances, np.ones_like(variances), atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_lsuv_scales_the_orthogonal_kernels_of_its_layers_and_nothing_else(name):
    before, after = (subject(name).params(rule) for rule in ("orthogonal", "lsuv"))
    for path, array in after.items():
        # Proportional: there is no angle between them.
        product = np.linalg.norm(before[path]) * np.linalg.norm(array)
        assert np.vdot(before[path], array) == pytest.approx(product, rel=1e-5), path
    scaled = {path for path, array in after.items() if (array != before[path]).any()}
    assert scaled == {f"{layer}/kernel" for layer in LAYERS[name]}


def test_a_layer_that_sees_a_constant_keeps_its_orthogonal_kernel():
    # The generator of a batch of images sees no latent vectors but zeros.
    for path, array in subject("gan").params("lsuv").items():
        if path.endswith("kernel"):
            lengths = np.linalg.svd(np.float64(array), compute_uv=False)
            orthonormal = np.allclose(lengths, 1, atol=1e-4)
            assert orthonormal == path.startswith("generator"), path


class Twice(nn.Module):
    """One layer used twice, under rematerialization."""

    @nn.compact
    def __call__(self, x, train=False):
        shared = nn.remat(nn.Dense)(36, name="shared")
        return nn.Dense(3, name="top")(jnp.tanh(shared(jnp.tanh(shared(x.reshape(len(x), -1))))))


def test_a_layer_used_twice_is_scaled_by_its_first_use_also_under_rematerialization():
    task, batch = tasks.create("classification", Twice()), subject("mlp").batch
    lsuv = jax.jit(lambda own, key: initialization.lsuv(task, own, batch, key))
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch)
    own = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    params = lsuv(own, jax.random.key(1))["params"]
    pixels = np.float64(batch["image"]).reshape(16, -1)
    shared, top = (np.float64(params[name]["kernel"]) for name in ("shared", "top"))
    once = pixels @ shared
    assert once.var() == pytest.approx(1, abs=1e-4)
    assert (np.tanh(np.tanh(once) @ shared) @ top).var() == pytest.approx(1, abs=1e-4)


def test_by_unit_is_refused_where_a_layer_mixes_its_units():
    lenet, change = subject("small_lenet"), initialization.make("lsuv:unit")
    inputs = (lenet.variables, lenet.batch, jax.random.key(0))
    with pytest.raises(UsageError, match="'lsuv:unit': C1 does not keep a unit's .* lsuv:layer"):
        jax.eval_shape(functools.partial(change, lenet.task), *inputs)


# In a program.


@functools.cache
def built(layout, rule):
    task = tasks.create("classification", models.create("mlp", num_classes=3, hidden=(64,)))
    return small.build(task, images(), layout, seed=7, log_every=1, initializer=rule)


def test_first_states_are_made_without_pallas_kernels_which_cannot_be_split_over_devices():
    with dispatch.target("TPU v5 lite"):
        made = small.build(
            make_task("char_lstm"), letters(), kernels="mosaic_tpu", initializer="lsuv"
        )
        first = made.make_state.func.trace(*made.make_state.args).jaxpr
        step = made.step.trace(made.abstract_state, letters()).jaxpr
    assert "pallas_call[" in str(step)
    assert "pallas_call[" not in str(first)


def test_the_first_state_is_the_same_under_every_parallelism():
    expected = jax.device_get(built("jit", "lsuv").initialize().params)
    for layout in ("pmap", "data", "fsdp"):
        params = jax.device_get(built(layout, "lsuv").initialize().params)
        # Where the compiler splits a variance over devices, it adds in another order.
        tolerance = 1e-6 if layout == "fsdp" else 0
        for path, array in flatten_dict(params).items():
            np.testing.assert_allclose(
                array, flatten_dict(expected)[path], rtol=tolerance, atol=tolerance
            )


def test_a_program_starts_from_the_rule_on_its_batch_and_learns_from_there():
    made = built("jit", "lsuv")
    state = made.initialize()
    pixels = images()["image"].reshape(16, -1)
    assert float(jnp.var(pixels @ state.params["hidden0"]["kernel"])) == pytest.approx(1, abs=1e-4)
    losses = []
    for _ in range(3):
        state, report = made.step(state, images())
        losses.append(float(report.loss))
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("lsvu", "unknown initializer 'lsvu': it is one of small_uniform, .* orthogonal, lsuv$"),
        ("lsuv:row", "initializer 'lsuv:row': lsuv takes layer or unit$"),
        ("he:cauchy", "initializer 'he:cauchy': he takes normal or uniform$"),
        ("kumar:relu", "kumar needs an activation with a derivative at 0"),
    ],
)
def test_a_bad_name_is_refused_before_anything_is_built(rule, complaint):
    with pytest.raises(UsageError, match=complaint):
        built("jit", rule)


def test_every_initializer_has_a_name_for_the_recipe():
    assert set(initialization.NAMES) == {*initializers.NAMES, "lsuv"}


class Unshared(nn.Module):
    """Weights of their own at each of 18 positions, then a table of connections."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.ConvLocal(50, (4, 3), (1, 1), "VALID", use_bias=False, name="local")(x)
        table = (tuple(range(50)), tuple(range(25))) * 20
        x = PartiallyConnectedConv(table, (2, 3), name="table")(x)
        return x.reshape(len(x), -1)[:, :3]


@pytest.mark.parametrize(
    ("rule", "variance"),
    [
        ("xavier", lambda fan_in, fan_out: 1 / fan_in),
        ("he", lambda fan_in, fan_out: 2 / fan_in),
        ("he:uniform", lambda fan_in, fan_out: 2 / fan_in),
        ("kumar:tanh", lambda fan_in, fan_out: 1 / fan_in),
        ("glorot", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
        # Columns of norm 1.
        ("orthogonal", lambda fan_in, fan_out: 1 / fan_in),
    ],
)
def test_the_fan_in_of_special_layers_is_what_one_unit_sees(rule, variance):
    task = tasks.create("classification", Unshared())
    batch = jax.tree.map(jnp.asarray, images(1, (6, 8, 5)))
    variables = task.init(jax.random.key(0), batch)
    changed = initialization.make(rule)(task, variables, batch, jax.random.key(1))["params"]
    local, table = (np.float64(changed[name]["kernel"]) for name in ("local", "table"))
    assert local.shape == (3, 6, 60, 50)
    # A window of 4x3 over five channels; an input would feed 4x3 windows of 50 outputs.
    expected = variance(60, 600)
    assert local.var() == pytest.approx(expected, rel=0.05)
    # Connections lie by output channel, of 50 and of 25 inputs in turn; an input has 30 on average.
    parts = table.reshape(2, 3, 20, 75)
    for own, inputs in ((parts[..., :50], 50), (parts[..., 50:], 25)):
        assert own.var() == pytest.approx(variance(6 * inputs, 6 * 30), rel=0.1)


@pytest.mark.parametrize("rule", ["he", "xavier", "orthogonal"])
def test_a_masked_layer_s_fan_in_is_what_a_unit_sees_and_its_missing_weights_are_0(rule):
    model = models.create("mlp", num_classes=3, hidden=(400,), window=(3, 2))
    task = tasks.create("classification", model)
    batch = jax.tree.map(jnp.asarray, images(2, (9, 8, 1)))
    mask = models.mlp.window_mask((9, 8, 1), (3, 2), 400)
    own = task.init(jax.random.key(0), batch)
    assert not np.asarray(own["params"]["hidden0"]["kernel"])[~mask].any()
    changed = initialization.make(rule)(task, own, batch, jax.random.key(1))["params"]
    kernel = np.float64(changed["hidden0"]["kernel"])
    assert not kernel[~mask].any()
    # Of 6 inputs; columns of a matrix that is wider than high have a mean square of 1 over units.
    units = 400 * 6 / 72
    expected = {"he": 2 / 6, "xavier": 1 / 6, "orthogonal": 1 / units}[rule]
    assert kernel[mask].var() == pytest.approx(expected, rel=0.1)
