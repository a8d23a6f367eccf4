"""Compiles a recipe's training step for accelerators that need not be there.

`python -m experiments.compile --recipe=lenet5_digits --target=tpu:v5e:8x8` compiles the whole step
for 64 chips of a TPU v5e, and `--target=gpu:h200:1x8` for the eight H200 of one host, under each
parallelism that the task supports. It prints what a device has to hold and to do, the collectives,
the Pallas kernels, and whether it fits. Every field of the recipe is a flag. The compilers are
installed by `make compilers`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from dlcore import models, parallel, tasks
from dlcore.errors import UsageError
from dlcore.train import Recipe, Settings
from dlcore.train.preparation import prepare
from experiments import flags, recipes, tables
from kernels import aot, dispatch

# How XLA counts what a program does: not knowing how often a loop runs.
_ONCE = "a loop's body once"


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program and of the recipe that is named."""
    flags.define_one(values, "recipe", None, "Name of the recipe.", str)
    where = "tpu:CHIP:AxB or gpu:CHIP:HOSTSxGPUS; CHIP is one of "
    flags.define_one(values, "target", None, f"Machine: {where}{', '.join(aot.CHIPS)}.", str)
    flags.define_one(values, "parallelism", "", "Only this one; all that the task supports else.")
    flags.define_one(values, "data_dir", "", "Directory of prepared TFDS datasets.")
    flags.define_kernels(values)
    recipe = flags.peek(argv, "recipe")
    if recipe:
        flags.define_recipe(values, recipes.get(recipe), argv)


def main(values: flags.FlagValues) -> None:
    """Compiles under each parallelism and prints a table of each.

    Raises:
      UsageError: the recipe is wrong, or every parallelism refuses it.
    """
    settings = Settings(data_dir=values.data_dir, kernels=values.kernels)
    aot.prepare()
    machine = _machine(values)
    recipe = flags.read_recipe(values, recipes.get(values.recipe))
    supported = tasks.kind(recipe.task).parallelisms
    if values.parallelism and values.parallelism not in supported:
        raise UsageError(
            f"--parallelism={values.parallelism}: task {recipe.task} supports "
            f"{', '.join(supported)}"
        )
    models.create(recipe.model, **recipe.model_options)  # What it refuses, no parallelism takes.
    print(tables.aligned(whole(recipe, values.data_dir, machine)))
    names = (values.parallelism,) if values.parallelism else supported
    refusals = []
    for name in names:
        try:
            settings = dataclasses.replace(settings, parallelism=name)
            rows = described(compiled(recipe, settings, machine), machine)
        except UsageError as error:
            # A batch or a kernel that does not fit one parallelism may fit another.
            refusals.append(error)
            rows = {"refused": str(error)}
        except aot.DoesNotFitError as error:
            rows = {"fits": f"no: {error}"}
        print(f"\n--parallelism={name}\n{tables.aligned(rows)}", flush=True)
    if len(refusals) == len(names):
        raise refusals[0]


def _machine(values: flags.FlagValues) -> aot.Target:
    for name in ("recipe", "target"):
        if not values[name].value:
            raise UsageError(f"--{name} is missing")
    try:
        machine = aot.target(values.target)
        reason = aot.missing(machine.chip.platform)
        # Only the compiler knows which topologies there are.
        present = not reason and machine.devices
    except ValueError as error:
        raise UsageError(f"--target: {error}") from error
    if not present:
        raise UsageError(f"--target={values.target}: {reason}")
    return machine


def whole(recipe: Recipe, data_dir: str, machine: aot.Target) -> dict[str, str]:
    """What is printed of the machine, and of a step whatever its layout."""
    chip = machine.chip
    program = prepare(recipe, Settings(data_dir=data_dir)).program
    step: Any = program.step
    cost = step.lower(program.abstract_state, program.batch).cost_analysis()
    return {
        "machine": f"{len(machine.devices)} x {chip.device_kind}, {chip.memory:,} bytes each",
        "batch size": str(program.batch_size),
        # XLA's count, before its optimization, of the step without kernels.
        f"floating-point operations a step, of all devices ({_ONCE})": f"{cost['flops']:,.0f}",
    }


def compiled(recipe: Recipe, settings: Settings, machine: aot.Target) -> aot.Program:
    """The training step of a recipe, compiled for a machine.

    Raises:
      UsageError: the recipe or the data is wrong, or the batch does not divide.
      aot.DoesNotFitError: it needs more memory than a device has.
    """
    with dispatch.target(machine.chip.device_kind):
        program = prepare(recipe, settings, machine.devices).program
        state = program.abstract_state
        sharding = _batch_sharding(jax.tree.leaves(state)[0].sharding)
        batch = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
            for name, array in program.batch.items()
        }
        if program.parallelism.name == "pmap":
            state, batch = _stacked(program.parallelism, state, batch)
        step: Any = program.step
        return aot.compile_for(machine, step.lower(state, batch))


def _batch_sharding(state: Sharding) -> Sharding:
    if isinstance(state, NamedSharding):
        return NamedSharding(state.mesh, PartitionSpec(parallel.AXIS))
    return state


def _stacked(layout: parallel.Parallelism, state: Any, batch: Any) -> tuple[Any, Any]:
    """The shapes of `pmap`: a device axis in front, over which examples are split."""
    count = layout.device_count

    def split(array: Any) -> Any:
        shape = (count, array.shape[0] // count, *array.shape[1:])
        return jax.ShapeDtypeStruct(shape, array.dtype)

    def stack(path: Sequence[Any], array: Any) -> Any:
        if layout.kind(path) != "replicated":
            return split(array)
        return jax.ShapeDtypeStruct((count, *array.shape), array.dtype)

    return jax.tree_util.tree_map_with_path(stack, state), jax.tree.map(split, batch)


def described(program: aot.Program, machine: aot.Target) -> dict[str, str]:
    """What is printed of a program."""
    fits = program.peak_bytes <= machine.chip.memory
    collectives = [f"{count} {kind}" for kind, count in program.collectives.items()]
    kernels = {name: program.kernels.count(name) for name in program.kernels}
    # XLA counts nothing of a program for a GPU that is not there.
    counts = {
        f"floating-point operations a device ({_ONCE}, no kernels)": program.flops,
        f"bytes moved a device ({_ONCE}, no kernels)": program.bytes_accessed,
        f"bytes moved by its kernels ({_ONCE})": program.kernel_bytes,
    }
    return {
        "bytes a device": f"{program.peak_bytes:,}",
        "of state and batch": f"{program.argument_bytes:,}",
        "of temporaries": f"{program.temporary_bytes:,}",
        **{name: f"{count:,.0f}" for name, count in counts.items() if count},
        "collectives": ", ".join(collectives) or "none",
        "Pallas kernels": ", ".join(f"{n} {name}" for name, n in kernels.items()) or "none",
        "fits": "yes" if fits else f"no: a device has {machine.chip.memory:,} bytes",
    }


if __name__ == "__main__":
    flags.run(main, define)
