"""Prepares a dataset of TFDS: `python -m experiments.prepare --dataset=mnist --data_dir=DIR`.

Downloads it and writes it where `--data_dir` of the other programs finds it. This needs TensorFlow,
from the extra `prepare` (`pip install 'dlcore[prepare]'`); reading the result does not.
"""

from collections.abc import Sequence

from dlcore import data
from dlcore.data import preparation
from dlcore.errors import UsageError
from experiments import flags


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program."""
    flags.define_one(values, "dataset", None, "Name of a dataset of TFDS, such as mnist.", str)
    flags.define_one(
        values,
        "data_dir",
        "",
        "Directory of prepared datasets; the environment's DLCORE_DATA_DIR by default.",
    )


def main(values: flags.FlagValues) -> None:
    """Downloads, writes, and says where."""
    data_dir = data.data_directory(values.data_dir)
    if not values.dataset:
        raise UsageError("--dataset is missing: name a dataset of TFDS, such as mnist")
    if not data_dir:
        raise UsageError(
            "--data_dir is missing: name the directory that the dataset is to be kept in"
        )
    directory = preparation.prepare(values.dataset, data_dir)
    print(f"{values.dataset} is in {directory}")


if __name__ == "__main__":
    flags.run(main, define)
