"""Downloading a dataset and preparing it with TFDS, the one thing that needs TensorFlow."""

import difflib
import importlib.util
import pathlib

from dlcore import paths
from dlcore.data import registration
from dlcore.data.prepared import locate
from dlcore.errors import UsageError


def prepare(name: str, data_dir: pathlib.Path) -> pathlib.Path:
    """Makes a dataset of TFDS readable by `load`; one that is already prepared is left alone.

    Args:
      name: TFDS's, such as `mnist` or `glue/cola`.
      data_dir: gets a folder of that name.

    Returns:
      The folder with the prepared files (ArrayRecord).

    Raises:
      UsageError: TensorFlow is missing, TFDS knows no such dataset, or it cannot be downloaded or
        written.
    """
    if name in registration.names():
        raise UsageError(f"dataset {name!r} is bundled: it needs no preparation")
    if prepared := locate(data_dir / name):
        return prepared
    paths.to_write(data_dir, "data_dir")
    # Looked for, not imported: an import takes seconds and may crash.
    if importlib.util.find_spec("tensorflow") is None:
        raise UsageError(
            f"preparing {name!r} needs TensorFlow, reading it will not:"
            " pip install 'dlcore[prepare]'"
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name, known, n=3)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else "tensorflow.org/datasets lists them"
        )
        raise UsageError(f"TFDS has no dataset {name!r}: {hint}") from error
    try:
        builder.download_and_prepare()
    except OSError as error:
        raise UsageError(f"cannot prepare {name!r} in {data_dir}: {error}") from error
    return pathlib.Path(builder.data_dir)
