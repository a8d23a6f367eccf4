"""`--dry_run`: the whole training is built and compiled, and its size is printed."""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from dlcore import optim
from dlcore.train import Session
from dlcore.train.preparation import Prepared
from dlcore.train.report import count_parameters
from experiments import tables


def show(session: Session) -> None:
    """Compiles the step of each phase and prints the parameter table, memory and operations.

    Args:
      session: nothing is written.
    """
    session.check()
    names = [phase.name for phase in session.recipe.phases] or [""]
    for name, prepared in zip(names, session.phases, strict=True):
        _show(prepared, f"phase {name}\n" if name else "")


def _show(prepared: Prepared, title: str) -> None:
    program, learner, recipe = prepared.program, prepared.learner, prepared.recipe
    batches = prepared.dataset.train_batches(
        recipe.batch_size, recipe.seed, jax.process_index(), jax.process_count()
    )
    batch = next(batches.start(0))
    shown = prepared.dataset.transform(jax.tree.map(jnp.asarray, batch), None, False)
    inputs = learner.describe_inputs(shown)
    state = program.parallelism.place_state(program.initialize())
    step: Any = program.step
    compiled = step.lower(state, program.parallelism.place_batch(batch)).compile()
    if jax.process_index() != 0:
        return
    console = {"width": 110, "force_terminal": sys.stdout.isatty()}
    print(title + learner.model.tabulate(jax.random.key(0), *inputs, console_kwargs=console))
    rows = costs(compiled) | {"parameters": f"{count_parameters(prepared):,}"}
    if recipe.groups:
        members = optim.groups.describe(recipe.groups, program.abstract_state.params)
        rows |= {f"parameters of {name}": ", ".join(paths) for name, paths in members.items()}
    print(tables.aligned(rows))


def costs(compiled: Any) -> dict[str, str]:
    """What XLA says of a compiled step on one device; it counts the body of a loop once."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return {
        "floating-point operations a step": f"{cost['flops']:,.0f}",
        "bytes moved a step": f"{cost['bytes accessed']:,.0f}",
        "bytes of state and batch": f"{memory.argument_size_in_bytes:,}",
        "bytes of temporaries": f"{memory.temp_size_in_bytes:,}",
    }
