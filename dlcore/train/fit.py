"""Whether a training fits into memory, before any of it is there."""

import functools

import jax

from dlcore import memory
from dlcore.errors import UsageError
from dlcore.train.preparation import Prepared

_BATCH = "a prepared batch"


def check(prepared: Prepared) -> None:
    """Raises UsageError where a device cannot even hold its part of the state and of one batch.

    Nothing is compiled. Gradients and activations are not counted: what fits may still not run.
    """
    layout = prepared.program.parallelism
    # Which of them the training takes does not matter where the largest would not do.
    device = max(jax.local_devices(), key=memory.of_device)
    there = memory.of_device(device)
    needed = parts(prepared)
    # The CPUs of a process share its host's memory.
    holders = jax.process_count() if device.platform == "cpu" else layout.device_count
    split = needed.keys() if layout.name == "fsdp" else {_BATCH}
    needed |= {name: needed[name] // holders for name in split}
    total = sum(needed.values())
    if total <= there:
        return
    large = {name: count for name, count in needed.items() if count > total / 100}
    listed = ", ".join(f"{memory.shown(count)} for {name}" for name, count in large.items())
    recipe = prepared.recipe
    raise UsageError(
        f"a training of model={recipe.model} needs {memory.shown(total)} of memory at least, and "
        f"{device.platform} has {memory.shown(there)} ({listed}): lower batch_size="
        f"{recipe.batch_size}, or choose a smaller model or smaller inputs"
    )


def parts(prepared: Prepared) -> dict[str, int]:
    """The bytes of the parameters, the rest of the state, and a batch as the model sees it."""
    program = prepared.program
    state = program.abstract_state
    transform = functools.partial(program.transform, train=False)
    batch = jax.eval_shape(lambda batch: transform(batch, None), dict(program.batch))
    return {
        "the parameters": memory.of_arrays(state.params),
        "the optimizer": memory.of_arrays(state.opt_state),
        "averages and other state": memory.of_arrays((state.model_state, state.average)),
        _BATCH: memory.of_arrays(batch),
    }
