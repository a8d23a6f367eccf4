"""Devices to mesh, shardings and pmap: how one train step is laid out.

One train step serves every parallelism. It is written against an axis called `AXIS`: sums over
the batch go through `psum`, and randomness that belongs to an example is keyed by `example_keys`.
Where the axis is bound (`pmap`, `data`), the program sees one device's share of the batch; where it
is not (`jit`, `fsdp`, a model applied by hand), it sees the whole batch, and the helpers do the
right thing.

A state has two forms. The *canonical* form has global shapes and is what checkpoints hold; it is
the same for every parallelism, so a run may be resumed under another one. The *placed* form is what
the compiled step takes; only `pmap`, with its leading device axis, needs another shape for it.
"""

import abc
import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, override

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from dlcore.errors import UsageError

AXIS = "data"
NAMES = ("jit", "pmap", "data", "fsdp")

# What a collection of a model's state belongs to. An array of the examples has the global batch as
# its first axis and is split as the batch is. A replicated one is the same on every device. A
# device's own has, in the canonical form, one entry a device on a new first axis.
Kind = Literal["examples", "replicated", "device"]

# Below this many elements an array stays whole on every device under `fsdp`: gathering it would
# cost more than it saves.
FSDP_MINIMUM_SIZE = 1024


def _bound() -> bool:
    try:
        jax.lax.axis_index(AXIS)
    except NameError:
        return False
    return True


def axis_name() -> str | None:
    """`AXIS` where it is bound, for a function that sums over the axis of that name; else None."""
    return AXIS if _bound() else None


def psum(tree: Any) -> Any:
    """The sum of a pytree's arrays over all devices of the batch axis; the tree itself on one."""
    return jax.lax.psum(tree, AXIS) if _bound() else tree


def all_gather(tree: Any) -> Any:
    """The arrays of all devices' shares, joined on their first axis: the whole batch, in order."""
    return jax.lax.all_gather(tree, AXIS, tiled=True) if _bound() else tree


def axis_size() -> int:
    """Over how many devices the batch in hand is split."""
    return jax.lax.axis_size(AXIS) if _bound() else 1


# Which of a device's examples are in hand: see `part`.
_part: contextvars.ContextVar[tuple[Any, int]] = contextvars.ContextVar("part", default=(0, 1))


@contextlib.contextmanager
def part(index: Any, parts: int) -> Iterator[None]:
    """Inside, the examples in hand are every `parts`-th of a device's share, from `index` on."""
    token = _part.set((index, parts))
    try:
        yield
    finally:
        _part.reset(token)


def example_positions(count: int) -> jax.Array:
    """Positions in the global batch of the `count` examples in hand, int32 `[count]`."""
    index, parts = _part.get()
    device = jax.lax.axis_index(AXIS) if _bound() else 0
    places = device * count + jnp.arange(count, dtype=jnp.int32)
    return places * parts + index


def example_keys(key: jax.Array, count: int) -> jax.Array:
    """One random key for each of the `count` examples in hand, whatever the device layout."""
    return jax.vmap(lambda position: jax.random.fold_in(key, position))(example_positions(count))


def split_batch(batch: Any, parts: int) -> Any:
    """A batch in equal parts, on a new first axis: part j takes every `parts`-th example from j on.

    So a part is the same set of examples, in the same order, on any number of devices.
    """
    return jax.tree.map(
        lambda array: array.reshape(-1, parts, *array.shape[1:]).swapaxes(0, 1), batch
    )


def join_batch(parts: Any) -> Any:
    """The batch whose parts `split_batch` made."""
    return jax.tree.map(lambda array: array.swapaxes(0, 1).reshape(-1, *array.shape[2:]), parts)


Devices = Sequence[jax.Device]
# Kinds of the collections of a model's state by name; those that are not named are replicated.
Kinds = Mapping[str, Kind]


def of_kind(collections: Mapping[str, Any], kinds: Kinds, kind: Kind) -> dict[str, Any]:
    """Those collections that are of a kind."""
    return {name: own for name, own in collections.items() if kinds.get(name, "replicated") == kind}


# The field of a training's state that holds these collections.
_COLLECTIONS = "model_state"


class Parallelism(abc.ABC):
    """How a step is laid out over devices: `make(name)` gives one.

    Attributes:
      name: the word that `parallelism` takes.
      device_count: over how many devices, of all processes, a batch is split.
      kinds: what the collections of the model's state belong to.
    """

    name: str
    device_count: int

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds

    def kind(self, path: Sequence[Any]) -> Kind:
        """What an array of a state belongs to, by its path in the state."""
        names = [getattr(key, "name", getattr(key, "key", None)) for key in path[:2]]
        if len(names) == 2 and names[0] == _COLLECTIONS:
            return self.kinds.get(str(names[1]), "replicated")
        return "replicated"

    def stack(self, state: Any) -> Any:
        """A first state in the canonical form: each device's own collections are repeated."""

        def repeat(path: Sequence[Any], array: Any) -> Any:
            if self.kind(path) != "device":
                return array
            return jnp.broadcast_to(array, (self.device_count, *array.shape))

        return jax.tree_util.tree_map_with_path(repeat, state)

    def _on_own(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, given a device's own state without its axis, and giving it back so."""
        if "device" not in self.kinds.values():
            return function

        def change(state: Any, index: Any) -> Any:
            return jax.tree_util.tree_map_with_path(
                lambda path, array: array[index] if self.kind(path) == "device" else array, state
            )

        def on_own(state: Any, *inputs: Any) -> Any:
            result = function(change(state, 0), *inputs)
            if not isinstance(result, tuple):
                return result
            return change(result[0], None), *result[1:]

        return on_own

    def check_batch_size(self, batch_size: int, accumulate: int = 1) -> None:
        """Raises UsageError where the global batch does not split into equal shares."""
        share = self.device_count * accumulate
        if batch_size % share:
            below, above = batch_size // share * share, -(-batch_size // share) * share
            near = f"{below} or {above}" if below else f"{above}"
            parts = f"{self.device_count} device{'s' if self.device_count > 1 else ''}"
            parts += f" x {accumulate} accumulated batches" if accumulate > 1 else ""
            raise UsageError(
                f"batch_size={batch_size} does not divide over {parts}: "
                f"it must be a multiple of {share}, such as {near}"
            )

    @abc.abstractmethod
    def state_shardings(self, state: Any) -> Any:
        """The sharding of each array of a canonical state, given arrays or their shapes."""

    @abc.abstractmethod
    def place_batch(self, batch: Any) -> Any:
        """This process's share of a global batch, from the host to its devices."""

    @abc.abstractmethod
    def compile_step(self, step: Callable[..., Any], state: Any) -> Callable[..., Any]:
        """Compiles `(state, batch) -> (state, sums)`; the state is donated, the sums replicated.

        `state` is an example of the canonical state, or its shapes.
        """

    @abc.abstractmethod
    def compile_evaluation(self, evaluate: Callable[..., Any], state: Any) -> Callable[..., Any]:
        """Compiles `(state, batch, number) -> results`, the number and the results replicated.

        In the number's place there may be any tree of arrays.
        """

    def place_state(self, state: Any) -> Any:
        """A canonical state in the form that the compiled step takes."""
        return state

    def canonical_state(self, state: Any) -> Any:
        """A placed state in the form that every parallelism shares."""
        return state

    def to_host(self, sums: Any) -> Any:
        """Replicated results as NumPy arrays; waits for them."""
        return jax.device_get(sums)


class SingleDevice(Parallelism):
    """`jit`: the first local device, the whole batch."""

    name = "jit"
    device_count = 1

    def __init__(self, kinds: Kinds, devices: Devices | None = None) -> None:
        super().__init__(kinds)
        if jax.process_count() > 1:
            raise UsageError(
                "parallelism=jit uses one device of one process: with several use data or fsdp"
            )
        self._sharding = SingleDeviceSharding((devices or jax.local_devices())[0])

    @override
    def state_shardings(self, state: Any) -> Any:
        return jax.tree.map(lambda _: self._sharding, state)

    @override
    def place_batch(self, batch: Any) -> Any:
        return jax.device_put(batch, self._sharding)

    @override
    def compile_step(self, step: Callable[..., Any], state: Any) -> Callable[..., Any]:
        return jax.jit(self._on_own(step), donate_argnums=0)

    @override
    def compile_evaluation(self, evaluate: Callable[..., Any], state: Any) -> Callable[..., Any]:
        return jax.jit(self._on_own(evaluate))


class _OverMesh(Parallelism):
    """What `data` and `fsdp` share: a mesh of every process's devices, the batch split over it."""

    def __init__(self, kinds: Kinds, devices: Devices | None = None) -> None:
        super().__init__(kinds)
        # A process's share of the batch is contiguous, so its devices must be too: neither
        # `make_mesh` nor the numbering of a TPU pod's devices sees to that.
        by_process = sorted(
            devices or jax.devices(), key=lambda device: (device.process_index, device.id)
        )
        self._mesh = Mesh(np.asarray(by_process), (AXIS,))
        self.device_count = self._mesh.size
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._split = NamedSharding(self._mesh, PartitionSpec(AXIS))

    @override
    def place_batch(self, batch: Any) -> Any:
        if jax.process_count() == 1:
            return jax.device_put(batch, self._split)
        return jax.tree.map(
            lambda share: jax.make_array_from_process_local_data(self._split, share), batch
        )


class DataParallel(_OverMesh):
    """`data`: `jax.shard_map` over a mesh, every array of the state whole on every device."""

    name = "data"

    @override
    def state_shardings(self, state: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: self._replicated if self.kind(path) == "replicated" else self._split,
            state,
        )

    def _shard_map(self, function: Callable[..., Any], state: Any, *specs: Any) -> Any:
        *in_specs, out_specs = specs
        return jax.shard_map(
            self._on_own(function),
            mesh=self._mesh,
            in_specs=(self._specs(state), PartitionSpec(AXIS), *in_specs),
            out_specs=out_specs,
            # Gradients are summed by hand (`psum`), as under pmap, and not by the transposition
            # rules that the checked mode brings.
            check_vma=False,
        )

    def _specs(self, state: Any) -> Any:
        return jax.tree.map(lambda sharding: sharding.spec, self.state_shardings(state))

    @override
    def compile_step(self, step: Callable[..., Any], state: Any) -> Callable[..., Any]:
        out_specs = (self._specs(state), PartitionSpec())
        return jax.jit(self._shard_map(step, state, out_specs), donate_argnums=0)

    @override
    def compile_evaluation(self, evaluate: Callable[..., Any], state: Any) -> Callable[..., Any]:
        return jax.jit(self._shard_map(evaluate, state, PartitionSpec(), PartitionSpec()))


class FullySharded(_OverMesh):
    """`fsdp`: parameters and optimizer state split over the devices, gathered by the compiler.

    The layout is ZeRO-3's (Rajbhandari et al. 2020), written as shardings only. The program is one,
    of the whole batch: there is no state of a single device.
    """

    name = "fsdp"

    def __init__(self, kinds: Kinds, devices: Devices | None = None) -> None:
        super().__init__(kinds, devices)
        if own := [name for name, kind in kinds.items() if kind == "device"]:
            raise UsageError(
                f"parallelism=fsdp cannot train a task whose state {own[0]!r} belongs to a device: "
                "use jit, pmap or data"
            )

    @override
    def state_shardings(self, state: Any) -> Any:
        def sharding(path: Sequence[Any], array: Any) -> Sharding:
            if self.kind(path) == "examples":
                return self._split
            # The largest axis that divides evenly is split; ties go to the last one, which is the
            # output features of a kernel.
            axes = [a for a, size in enumerate(array.shape) if size % self.device_count == 0]
            if not axes or array.size < FSDP_MINIMUM_SIZE:
                return self._replicated
            axis = max(axes, key=lambda a: (array.shape[a], a))
            return NamedSharding(self._mesh, PartitionSpec(*[None] * axis, AXIS))

        return jax.tree_util.tree_map_with_path(sharding, state)

    @override
    def compile_step(self, step: Callable[..., Any], state: Any) -> Callable[..., Any]:
        shardings = self.state_shardings(state)
        return jax.jit(
            step,
            in_shardings=(shardings, self._split),
            out_shardings=(shardings, self._replicated),
            donate_argnums=0,
        )

    @override
    def compile_evaluation(self, evaluate: Callable[..., Any], state: Any) -> Callable[..., Any]:
        return jax.jit(
            evaluate,
            in_shardings=(self.state_shardings(state), self._split, self._replicated),
            out_shardings=self._replicated,
        )


class Pmap(Parallelism):
    """`pmap`: this process's devices, each with a copy of the state under a leading device axis."""

    name = "pmap"

    def __init__(self, kinds: Kinds, devices: Devices | None = None) -> None:
        super().__init__(kinds)
        if jax.process_count() > 1:
            raise UsageError(
                "parallelism=pmap uses one process's devices: with several processes use data or "
                "fsdp"
            )
        self._devices = list(devices or jax.local_devices())
        self.device_count = len(self._devices)
        self._stacked = NamedSharding(Mesh(np.asarray(self._devices), (AXIS,)), PartitionSpec(AXIS))

    @override
    def state_shardings(self, state: Any) -> Any:
        return jax.tree.map(lambda _: SingleDeviceSharding(self._devices[0]), state)

    def _split(self, array: Any) -> Any:
        return array.reshape(self.device_count, -1, *array.shape[1:])

    def _repeat(self, array: Any) -> Any:
        return np.broadcast_to(array, (self.device_count, *np.shape(array)))

    @override
    def place_batch(self, batch: Any) -> Any:
        return jax.device_put(jax.tree.map(self._split, batch), self._stacked)

    @override
    def place_state(self, state: Any) -> Any:
        def place(path: Sequence[Any], array: Any) -> Any:
            array, kind = np.asarray(array), self.kind(path)
            if kind == "examples":
                return self._split(array)
            # Alone on a device, its own state keeps its axis: see `_on_own`.
            return array[:, None] if kind == "device" else self._repeat(array)

        return jax.device_put(jax.tree_util.tree_map_with_path(place, state), self._stacked)

    @override
    def canonical_state(self, state: Any) -> Any:
        def canonical(path: Sequence[Any], array: jax.Array) -> Any:
            if self.kind(path) != "replicated":
                return np.asarray(array).reshape(-1, *array.shape[2:])
            return np.asarray(array.addressable_shards[0].data)[0]

        host = jax.tree_util.tree_map_with_path(canonical, state)
        return jax.device_put(host, self._devices[0])

    @override
    def compile_step(self, step: Callable[..., Any], state: Any) -> Callable[..., Any]:
        step = self._on_own(step)
        return jax.pmap(step, axis_name=AXIS, devices=self._devices, donate_argnums=0)

    @override
    def compile_evaluation(self, evaluate: Callable[..., Any], state: Any) -> Callable[..., Any]:
        evaluate = self._on_own(evaluate)
        return jax.pmap(evaluate, axis_name=AXIS, devices=self._devices, in_axes=(0, 0, None))

    @override
    def to_host(self, sums: Any) -> Any:
        return jax.tree.map(lambda array: np.asarray(array.addressable_shards[0].data)[0], sums)


_PARALLELISMS = {kind.name: kind for kind in (SingleDevice, Pmap, DataParallel, FullySharded)}


def make(
    name: str,
    supported: Sequence[str] = NAMES,
    devices: Devices | None = None,
    kinds: Kinds | None = None,
) -> Parallelism:
    """The parallelism of that name.

    Args:
      name: one of `NAMES`.
      supported: those that the task supports.
      devices: to lay out over, all of this process; those present by default.
      kinds: what the collections of the model's state belong to.

    Raises:
      UsageError: no such parallelism, or not one of those that the task supports.
    """
    if name not in _PARALLELISMS:
        raise UsageError(f"unknown parallelism={name}: it is one of {', '.join(NAMES)}")
    if name not in supported:
        raise UsageError(f"parallelism={name} cannot train this task: use {' or '.join(supported)}")
    return _PARALLELISMS[name](kinds or {}, devices)
