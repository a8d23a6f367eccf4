"""Datasets by name: what is bundled, what TFDS has prepared, and folders of one's own."""

import difflib
import functools
import os
import pathlib
from collections.abc import Mapping

from dlcore.data import cache, folder, image, sources, text
from dlcore.data.bundled import BUNDLED
from dlcore.data.dataset import Dataset
from dlcore.data.options import Options
from dlcore.data.prepared import Prepared, PreparedExamples, locate
from dlcore.errors import UsageError


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    options: Options | None = None,
) -> Dataset:
    """Opens a dataset.

    Args:
      name: a bundled dataset (`digits`, `diabetes`, ...), one that TFDS has prepared in `data_dir`
        (`mnist`, `mnist/3.0.1`), or the path of one's own: images as `root/CLASS/*.png` or
        `root/train/CLASS/*.png`, texts as `root/*.txt` or one file.
      data_dir: TFDS's data directory; the environment variable DLCORE_DATA_DIR by default.
      options: splits, preparation and augmentation; the defaults of `Options` by default.

    Raises:
      UsageError: there is no such dataset, it is damaged, or an option does not fit it.
    """
    options = options or Options()
    if name in BUNDLED:
        return BUNDLED[name](name, options)
    data_dir = data_dir or os.environ.get("DLCORE_DATA_DIR")
    own = pathlib.Path(name).expanduser()
    for directory in (*([pathlib.Path(data_dir).expanduser() / name] if data_dir else []), own):
        if version := locate(directory):
            return _prepared(Prepared(name, version), options)
    if own.is_file() or any(own.glob("*.txt")):
        return text.load_text(name, own, options)
    if own.is_dir():
        return _images(name, own, *folder.open_images(own, options.resize), options)
    raise _unknown(name, data_dir)


def _unknown(name: str, data_dir: str | os.PathLike[str] | None) -> UsageError:
    if name.startswith((".", "/", "~")):
        return UsageError(f"there is no file or folder {name}: name one that exists")
    prepare = f"python -m experiments.prepare --dataset={name}"
    if not data_dir:
        return UsageError(
            f"dataset {name!r} needs --data_dir or DLCORE_DATA_DIR; {prepare} --data_dir=DIR"
            f" prepares it there (bundled, without download: {', '.join(BUNDLED)})"
        )
    directory = pathlib.Path(data_dir).expanduser()
    if not directory.is_dir():
        return UsageError(
            f"data directory {directory} does not exist, dataset {name!r} was to be read from it:"
            f" {prepare} --data_dir={directory} makes it"
        )
    if (directory / name).is_dir():
        return UsageError(
            f"{directory / name} holds no dataset_info.json, so it is no prepared dataset:"
            f" delete it, and {prepare} --data_dir={directory} makes it anew"
        )
    there = sorted(path.name for path in directory.iterdir() if locate(path))
    near = difflib.get_close_matches(name, [*BUNDLED, *there], n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UsageError(
        f"unknown dataset {name!r}: {hint}there are {', '.join([*BUNDLED, *there])};"
        f" {prepare} --data_dir={directory} prepares one of TFDS, and the path of a folder opens"
        " one of one's own"
    )


def _prepared(prepared: Prepared, options: Options) -> Dataset:
    if set(prepared.features) == {"text"}:
        return text.load_text(prepared.name, prepared.texts(), options)
    if "train" not in prepared.splits:
        raise UsageError(
            f"dataset {prepared.name!r} has no split 'train' to learn from:"
            f" it has {', '.join(prepared.splits)}"
        )
    examples = {
        split: PreparedExamples(prepared, split, options.resize)
        for split in ("train", "validation", "test")
        if split in prepared.splits
    }
    class_names = tuple(prepared.features["label"].names)
    return _images(prepared.name, prepared.directory, examples, class_names, options)


def _images(
    name: str,
    directory: pathlib.Path,
    opened: Mapping[str, sources.Source],
    class_names: tuple[str, ...],
    options: Options,
) -> Dataset:
    if sum(map(sources.num_bytes, opened.values())) <= sources.IN_MEMORY_BYTES:
        files = cache.fingerprint(directory)
        opened = {
            split: cache.cached(
                directory, split, options.resize, files, functools.partial(sources.hold, source)
            )
            for split, source in opened.items()
        }
    return image.build(name, opened, class_names, options)
