"""Evaluates a run: `python -m experiments.evaluate --workdir=runs/digits --split=test`.

Prints every metric of the best checkpoint, or of the one that `--checkpoint` names. Nothing is
written.
"""

from collections.abc import Sequence

from experiments import cache, flags, tables


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
    cache.use()
    run = flags.open_run(values, directory, parallelism=values.parallelism)
    found = run.evaluate(values.split, values.checkpoint)
    rows = {"step": found.pop("step"), "split": values.split, **tables.scalars(found)}
    print(tables.aligned(rows))


if __name__ == "__main__":
    flags.run(main, define)
