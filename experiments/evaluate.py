"""Evaluates a run: `python -m experiments.evaluate --workdir=runs/digits --split=test`.

Prints every metric of the best checkpoint, or of the one that `--checkpoint` names. Nothing is
written.
"""

from collections.abc import Sequence

from dlcore.errors import UsageError
from experiments import flags, report, session, tables, workdir


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program."""
    flags.define_run(values)
    flags.define_one(values, "split", "test", "Split to evaluate on: train, validation or test.")
    flags.define_one(
        values, "parallelism", "jit", "How the batch is laid out: jit, pmap, data, fsdp."
    )


def main(values: flags.FlagValues) -> None:
    """Restores, evaluates, prints."""
    directory = flags.run_directory(values)
    session.use_compilation_cache()
    settings = session.Settings(
        data_dir=values.data_dir, parallelism=values.parallelism, kernels=values.kernels
    )
    prepared = session.prepare(workdir.read_recipe(directory), settings)
    if values.split not in prepared.dataset.splits:
        there = ", ".join(prepared.dataset.splits)
        raise UsageError(f"--split={values.split}: {prepared.recipe.data} has {there}")
    restored = report.restore(prepared, directory, values.checkpoint)
    results = tables.scalars(report.evaluate(prepared, restored.state, values.split))
    print(tables.aligned({"step": restored.step, "split": values.split, **results}))


if __name__ == "__main__":
    flags.run(main, define)
