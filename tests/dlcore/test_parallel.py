"""Every layout of the devices trains the same model.

How two layouts are compared: tensor by tensor, the norm of the difference over the norm of the
tensor, in float64. One measure over all parameters would let a large kernel hide a wrong bias.
Float32 rounds at 6e-8; twenty steps of momentum were seen to make 9e-7 of it, and the bound of 1e-5
is what a wrong sum, a wrong key or a missing example exceeds by orders of magnitude. That holds for
smooth networks: where a rectifier's input is zero but for rounding, the layouts would part ways.
"""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from dlcore import metrics, models, parallel, tasks
from dlcore.errors import UsageError
from dlcore.train import evaluation, program
from tests import small

TOLERANCE = 1e-5
STEPS = 12
BATCH_SIZE = 24
RATES = {("images", "momentum"): 0.1, ("images", "adam"): 0.02, ("text", "momentum"): 1.0}


def relative_differences(first: Any, second: Any) -> dict[str, float]:
    """By tensor: the norm of the difference over the norm of the first."""
    paths = jax.tree.leaves_with_path(first)
    differences = {}
    for (path, one), two in zip(paths, jax.tree.leaves(second), strict=True):
        one, two = np.float64(one), np.float64(two)
        norm = np.linalg.norm(one)
        differences[jax.tree_util.keystr(path)] = np.linalg.norm(one - two) / (norm or 1.0)
    return differences


def assert_close(first: Any, second: Any) -> None:
    differences = relative_differences(first, second)
    worst = max(differences, key=lambda name: differences[name])
    assert differences[worst] < TOLERANCE, f"{worst} differs by {differences[worst]:.1e}"


@functools.cache
def build(
    regime: str, layout: str, rule: str, devices: int, accumulate: int = 1
) -> tuple[program.Program, Any]:
    """A training of a network with batch normalization, dropout and augmentation, or of text."""
    if regime == "images":
        dataset = small.images(160, augment="flip", validation_fraction=0.25)
        model = models.create("convnet_bn", num_classes=3, features=(8,), dropout_rate=0.25)
        task = tasks.create("classification", model)
    else:
        dataset = small.letters(2000)
        model = models.create("char_lstm", vocabulary_size=5, hidden=8, layers=1, dropout_rate=0.2)
        task = tasks.create("language_model", model)
    with pytest.MonkeyPatch.context() as patch:
        # So that every kernel of these small networks is split.
        patch.setattr(parallel, "FSDP_MINIMUM_SIZE", 32)
        made = small.build(
            task,
            dataset.example_batch(BATCH_SIZE),
            layout,
            rule=rule,
            schedule=RATES[regime, rule],
            devices=devices,
            transform=dataset.transform,
            seed=1,
            log_every=STEPS,
            accumulate=accumulate,
            ema_decay=0.9,
        )
    assert made.parallelism.device_count == (1 if layout == "jit" else devices)
    return made, dataset


@functools.cache
def train(
    regime: str, layout: str, rule: str = "momentum", devices: int = 8, accumulate: int = 1
) -> Any:
    """The canonical state after all steps on the host, and the loss of each of them."""
    made, dataset = build(regime, layout, rule, devices, accumulate)
    layout_of = made.parallelism
    state = layout_of.place_state(made.initialize())
    batches = dataset.train_batches(BATCH_SIZE, seed=1).start(0)
    losses = []
    for _ in range(STEPS):
        state, report = made.step(state, layout_of.place_batch(next(batches)))
        losses.append(float(layout_of.to_host(report).loss))
    return jax.device_get(layout_of.canonical_state(state)), losses


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("regime", "layout", "devices"),
    [
        ("images", "pmap", 8),
        ("images", "data", 8),
        ("images", "fsdp", 8),
        ("text", "data", 8),
        slow("text", "pmap", 8),
        slow("text", "fsdp", 8),
        *(
            slow(regime, layout, devices)
            for regime in ("images", "text")
            for layout in ("pmap", "data", "fsdp")
            for devices in (1, 3)
        ),
    ],
)
def test_every_layout_reaches_the_state_of_one_device(regime, layout, devices):
    expected, _ = train(regime, "jit")
    # Parameters, momentum, running statistics, carried state, moving average and metrics.
    assert_close(expected, train(regime, layout, devices=devices)[0])


@pytest.mark.parametrize(
    ("regime", "layout"),
    [("images", "data"), slow("images", "fsdp"), slow("images", "pmap"), slow("text", "data")],
)
def test_accumulated_parts_have_the_same_examples_and_noise_in_every_layout(regime, layout):
    expected, _ = train(regime, "jit", accumulate=2)
    assert_close(expected, train(regime, layout, devices=4, accumulate=2)[0])


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_the_parts_of_a_batch_do_not_depend_on_the_devices(devices, parts, size):
    batch = np.arange(devices * parts * size * 2).reshape(-1, 2)
    whole = parallel.split_batch(batch, parts)
    shares = [parallel.split_batch(share, parts) for share in np.split(batch, devices)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)
    np.testing.assert_array_equal(parallel.join_batch(whole), batch)


@pytest.mark.parametrize("regime", ["images", "text"])
def test_those_steps_take_the_parameters_far_from_where_they_began(regime):
    expected, losses = train(regime, "jit")
    began = jax.device_get(build(regime, "jit", "momentum", 8)[0].initialize())
    moved = relative_differences(began.params, expected.params)
    assert min(moved.values()) > 1000 * TOLERANCE, moved
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


# Adam divides a gradient by its own size: one that is only rounding becomes a step of full size.
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["data", "fsdp", "pmap"])
def test_under_adam_every_layout_has_the_losses_of_one_device(layout):
    _, expected = train("images", "jit", "adam")
    _, losses = train("images", layout, "adam")
    np.testing.assert_allclose(losses, expected, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("regime", "layout"),
    [
        *(("images", layout) for layout in parallel.NAMES),
        ("text", "data"),
        slow("text", "fsdp"),
        slow("text", "pmap"),
    ],
)
def test_every_layout_evaluates_every_example_once(regime, layout):
    made, dataset = build(regime, layout, "momentum", 8)
    trained = jax.tree.map(jnp.asarray, train(regime, "jit")[0])
    batches = list(dataset.evaluation_batches("validation", BATCH_SIZE))
    # So much of the last batch is padding that some devices have no real example at all.
    assert not batches[-1]["mask"][-BATCH_SIZE // 8 :].any()
    shardings = jax.tree.map(lambda array: array.sharding, made.abstract_state)
    state = made.parallelism.place_state(jax.device_put(trained, shardings))
    values = evaluation.evaluate(made, state, batches)

    (whole,) = dataset.evaluation_batches("validation", BATCH_SIZE * len(batches))
    real = whole["mask"].reshape(len(whole["mask"]), -1).any(1)
    whole = {name: jnp.asarray(array[real]) for name, array in whole.items()}
    expected = metrics.compute(
        made.learner.evaluate(
            trained.variables(), dataset.transform(whole, None, False), jax.random.key(0)
        )
    )
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-5, err_msg=name)


# The layouts themselves.


def test_fsdp_keeps_less_of_the_state_on_a_device_than_data_does():
    held = {}
    for layout in ("data", "fsdp"):
        state = build("images", layout, "momentum", 8)[0].initialize()
        arrays = jax.tree.leaves((state.params, state.opt_state, state.average))
        held[layout] = sum(array.addressable_shards[0].data.nbytes for array in arrays)
        parts = 8 if layout == "fsdp" else 1
        kernels = [array for array in arrays if array.ndim == 4]
        assert kernels
        for kernel in kernels:
            assert kernel.addressable_shards[0].data.size == kernel.size // parts
    assert held["fsdp"] < held["data"] / 2


def carried(tree: Any) -> tuple[Any, dict[str, parallel.Kind]]:
    """A state whose only collection belongs to examples, and the kinds that say so."""
    return {"model_state": {"carry": tree}}, {"carry": "examples"}


@given(
    shape=st.lists(st.integers(1, 96), min_size=1, max_size=4),
    of_examples=st.booleans(),
)
def test_fsdp_splits_an_array_evenly_or_not_at_all(shape, of_examples):
    shape = (8, *shape) if of_examples else tuple(shape)
    array = jax.ShapeDtypeStruct(shape, jnp.float32)
    tree, kinds = carried(array) if of_examples else ({"params": array}, {})
    (sharding,) = jax.tree.leaves(parallel.make("fsdp", kinds=kinds).state_shardings(tree))
    part = sharding.shard_shape(shape)
    if of_examples:
        assert part == (1, *shape[1:])
    elif np.prod(shape) < parallel.FSDP_MINIMUM_SIZE or all(size % 8 for size in shape):
        assert part == shape
    else:
        # One axis, and none that could be split is larger.
        (axis,) = (
            a for a, (size, whole) in enumerate(zip(part, shape, strict=True)) if size < whole
        )
        assert part[axis] * 8 == shape[axis] == max(size for size in shape if size % 8 == 0)


@pytest.mark.parametrize("layout", parallel.NAMES)
def test_a_state_that_is_placed_and_taken_back_is_the_same(layout):
    count = 1 if layout == "jit" else 8
    kinds = {"carry": "examples"} | ({} if layout == "fsdp" else {"pool": "device"})
    state = {
        "params": {"kernel": np.arange(2048.0, dtype=np.float32).reshape(32, 64)},
        "model_state": {
            "carry": {"rows": np.arange(16, dtype=np.int32).reshape(8, 2)},
            "pool": np.arange(3.0 * count, dtype=np.float32).reshape(count, 3),
            "statistics": {"mean": np.arange(3.0, dtype=np.float32)},
        },
        "step": np.int32(3),
    }
    chosen = parallel.make(layout, kinds=kinds)
    placed = chosen.place_state(jax.device_put(state, chosen.state_shardings(state)))
    back = chosen.canonical_state(placed)
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(back), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


def test_only_a_collection_of_the_model_belongs_to_examples_whatever_else_has_its_name():
    chosen = parallel.make("data", kinds={"carry": "examples"})
    array = jax.ShapeDtypeStruct((8, 2), jnp.float32)
    tree = {"params": {"carry": array}, "model_state": {"carry": array, "lstm": {"carry": array}}}
    shardings = chosen.state_shardings(tree)
    assert shardings["model_state"]["carry"].shard_shape((8, 2)) == (1, 2)
    for whole in (shardings["params"]["carry"], shardings["model_state"]["lstm"]["carry"]):
        assert whole.shard_shape((8, 2)) == (8, 2)


@pytest.mark.parametrize("layout", ["data", "fsdp"])
def test_each_process_has_neighboring_places_in_the_batch_however_jax_numbers_devices(
    layout, monkeypatch
):
    devices = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: devices[::-1])
    tree, kinds = carried(np.zeros((8, 1)))
    (sharding,) = jax.tree.leaves(parallel.make(layout, kinds=kinds).state_shardings(tree))
    places = [(device.process_index, device.id) for device in sharding.mesh.devices]
    assert places == sorted(places)


# What a step sees of them.


def over_devices(function: Any) -> Any:
    """A function of a batch and more, over eight devices; what it gives is joined."""
    mesh = Mesh(np.asarray(jax.devices()), (parallel.AXIS,))
    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()

    def on_devices(batch: Any, *others: Any) -> Any:
        in_specs = (split, *[whole for _ in others])
        mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=split)
        return mapped(batch, *others)

    return jax.jit(on_devices)


@pytest.mark.parametrize("count", [1, 3])
def test_examples_have_the_same_positions_and_keys_on_one_device_and_on_eight(count):
    def draw(image: jax.Array, seed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        keys = parallel.example_keys(jax.random.key(seed), len(image))
        positions = parallel.example_positions(len(image))
        return positions, jax.vmap(jax.random.bits)(keys), jnp.full(1, parallel.axis_size())

    batch, on_eight, on_one = np.zeros((8 * count, 1)), over_devices(draw), jax.jit(draw)
    for seed in (0, 1, 2**32 - 1):
        positions, bits, size = on_one(batch, np.uint32(seed))
        np.testing.assert_array_equal(positions, np.arange(8 * count))
        assert len(set(bits.tolist())) == 8 * count
        assert size.tolist() == [1]
        eight = on_eight(batch, np.uint32(seed))
        np.testing.assert_array_equal(eight[0], positions)
        np.testing.assert_array_equal(eight[1], bits)
        np.testing.assert_array_equal(eight[2], np.full(8, 8))


@pytest.mark.parametrize(("count", "parts"), [(1, 1), (1, 3), (2, 2)])
def test_a_part_of_a_batch_knows_where_its_examples_stand(count, parts):
    def positions(places: jax.Array) -> jax.Array:
        taken = []
        for index in range(parts):
            with parallel.part(index, parts):
                taken.append(parallel.example_positions(len(places[index::parts])))
        return jnp.stack(taken, 1).reshape(-1)

    batch = np.arange(8 * count * parts)
    np.testing.assert_array_equal(positions(batch), batch)
    np.testing.assert_array_equal(over_devices(positions)(batch), batch)
    np.testing.assert_array_equal(parallel.example_positions(3), [0, 1, 2])


def test_the_shares_of_all_devices_join_to_the_batch_in_its_order():
    batch = {"a": np.arange(16.0), "b": np.arange(32).reshape(16, 2)}
    assert parallel.all_gather(batch) is batch
    gathered = jax.pmap(parallel.all_gather, axis_name=parallel.AXIS)(
        jax.tree.map(lambda array: array.reshape(8, 2, *array.shape[1:]), batch)
    )
    for name, array in batch.items():
        np.testing.assert_array_equal(gathered[name], np.broadcast_to(array, (8, *array.shape)))


def test_sums_are_over_all_devices_or_over_the_one_there_is():
    values = {"a": np.arange(8.0), "b": np.ones((8, 2))}
    assert parallel.psum(values) is values
    sums = jax.pmap(parallel.psum, axis_name=parallel.AXIS)(values)
    np.testing.assert_array_equal(sums["a"], np.full(8, 28.0))
    np.testing.assert_array_equal(sums["b"], np.full((8, 2), 8.0))


def test_the_axis_has_a_name_where_it_is_bound():
    def sums(values):
        return jax.lax.psum(values, parallel.axis_name()) if parallel.axis_name() else values

    values = np.arange(8.0)
    assert parallel.axis_name() is None
    bound = jax.pmap(sums, axis_name=parallel.AXIS)(values)
    np.testing.assert_array_equal(bound, np.full(8, 28.0))
    np.testing.assert_array_equal(jax.vmap(sums, axis_name="another")(values), values)


# What is refused.


@given(
    batch_size=st.integers(1, 200),
    accumulate=st.integers(1, 5),
    layout=st.sampled_from(parallel.NAMES),
)
def test_a_batch_that_does_not_divide_is_refused_with_batches_that_do(
    batch_size, accumulate, layout
):
    chosen = parallel.make(layout)
    share = chosen.device_count * accumulate
    if batch_size % share == 0:
        chosen.check_batch_size(batch_size, accumulate)
        return
    with pytest.raises(UsageError, match=rf"^batch_size={batch_size} does not divide") as error:
        chosen.check_batch_size(batch_size, accumulate)
    message = str(error.value)
    assert "\n" not in message
    suggested = [int(word) for word in re.findall(r"\d+", message.partition("such as ")[2])]
    assert suggested
    for number in suggested:
        chosen.check_batch_size(number, accumulate)
        assert abs(number - batch_size) < share


def test_a_parallelism_that_there_is_not_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match=r"^unknown parallelism=tpu: .* jit, pmap, data, fsdp$"):
        parallel.make("tpu")


def test_a_parallelism_that_a_task_does_not_support_is_refused_by_name():
    supported = tasks.kind("perceptron").parallelisms
    assert parallel.make("jit", supported).name == "jit"
    for name in ("pmap", "data", "fsdp"):
        with pytest.raises(UsageError, match=f"^parallelism={name} cannot .* use jit$"):
            parallel.make(name, supported)


@pytest.mark.parametrize("layout", ["jit", "pmap"])
def test_the_layouts_of_one_process_are_refused_to_several(layout, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UsageError, match=f"^parallelism={layout} .* use data or fsdp$"):
        parallel.make(layout)


def test_a_state_of_a_device_is_refused_where_the_program_is_one():
    with pytest.raises(UsageError, match="^parallelism=fsdp .* state 'pool' belongs to a device"):
        parallel.make("fsdp", kinds={"carry": "examples", "pool": "device"})
