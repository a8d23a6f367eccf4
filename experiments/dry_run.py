"""`--dry_run`: the whole training is built and compiled, and its size is printed."""

from typing import Any

import jax

from experiments import report, tables
from experiments.session import Session


def show(session: Session) -> None:
    """Compiles a session's step and prints the parameter table, memory and operations.

    Args:
      session: prepared; nothing is written.
    """
    program, task = session.program, session.program.task
    batches = session.dataset.train_batches(
        session.recipe.batch_size, session.recipe.seed, jax.process_index(), jax.process_count()
    )
    batch = next(batches.start(0))
    inputs = task.describe_inputs(session.dataset.transform(batch, None, False))
    state = program.parallelism.place_state(program.initialize())
    step: Any = program.step
    compiled = step.lower(state, program.parallelism.place_batch(batch)).compile()
    if jax.process_index() != 0:
        return
    print(task.model.tabulate(jax.random.key(0), *inputs, console_kwargs={"width": 110}))
    print(tables.aligned(costs(compiled) | {"parameters": f"{report.count_parameters(session):,}"}))


def costs(compiled: Any) -> dict[str, str]:
    """What XLA says of a compiled step on one device; it counts the body of a loop once."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return {
        "floating-point operations a step": f"{cost['flops']:,.0f}",
        "bytes moved a step": f"{cost['bytes accessed']:,.0f}",
        "bytes of state and batch": f"{memory.argument_size_in_bytes:,}",
        "bytes of temporaries": f"{memory.temp_size_in_bytes:,}",
    }
