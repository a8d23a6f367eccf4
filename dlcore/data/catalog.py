"""Datasets by name: what is bundled or registered, what TFDS has prepared, folders of one's own."""

import difflib
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from dlcore.data import cache, examples, folder, pairs, prepared, registration, sources, text
from dlcore.data.dataset import Dataset
from dlcore.data.features import Feature
from dlcore.data.options import ExampleOptions, Options, TextOptions, chosen_splits
from dlcore.data.registration import complete_options
from dlcore.errors import UsageError

Directory = str | os.PathLike[str]


class _Found(NamedTuple):
    """Where a dataset lies that is not registered, and what it is."""

    path: pathlib.Path
    is_prepared: bool
    is_text: bool


def load(
    name: str,
    data_dir: Directory | None = None,
    options: Mapping[str, Any] | Options | None = None,
    features: Mapping[str, Feature] | None = None,
) -> Dataset:
    """Opens a dataset.

    Args:
      name: one that is bundled (`digits`, `diabetes`, ...) or registered; one that TFDS has
        prepared in `data_dir` (`mnist`, `mnist/3.0.1`); or the path of one's own: images as
        `root/CLASS/*.png`, `root/train/CLASS/*.png` or without classes, texts as `root/*.txt` or
        one file. `zip:A,B` reads two datasets in step, `unpaired:A,B` each in its own order: see
        `dlcore.data.pairs`.
      data_dir: TFDS's data directory; the environment variable DLCORE_DATA_DIR by default.
      options: by name, or as the class that `options_kind` gives.
      features: of a prepared dataset those that are better known than TFDS describes them, by its
        own names: the classes of an integer, or of a segmentation with what it ignores.

    Raises:
      UsageError: there is no such dataset, it is damaged, or an option does not fit it.
    """
    given: Any = complete_options(options_kind(name, data_dir), options, name)
    if pair := pairs.parse(name):
        for part in pair.names:
            if issubclass(options_kind(part, data_dir), TextOptions):
                raise UsageError(f"dataset {name!r}: {part!r} is running text, which has no pairs")
        first, second = (load(part, data_dir, given) for part in pair.names)
        return pairs.build(name, pair.kind, first, second)
    if name in registration.names():
        return registration.entry(name).make(name, given)
    path, is_prepared, is_text = _find(name, data_dir)
    if is_text:
        texts = prepared.Prepared(name, path).texts() if is_prepared else path
        return text.load_text(name, texts, given)
    if is_prepared:
        return _prepared(prepared.Prepared(name, path), given, features or {})
    opened = folder.open_images(path, given, given.resize, given.cut_square)
    return examples.build(name, _held(path, opened, given), given)


def options_kind(name: str, data_dir: Directory | None = None) -> type[Options]:
    """Which options a dataset takes; no example is read.

    Args:
      name: see `load`.
      data_dir: see `load`.

    Raises:
      UsageError: there is no such dataset.
    """
    if pairs.parse(name):
        return ExampleOptions
    if name in registration.names():
        return registration.entry(name).options_kind
    return TextOptions if _find(name, data_dir).is_text else ExampleOptions


def _find(name: str, data_dir: Directory | None) -> _Found:
    data_dir = data_dir or os.environ.get("DLCORE_DATA_DIR")
    own = pathlib.Path(name).expanduser()
    for directory in (*([pathlib.Path(data_dir).expanduser() / name] if data_dir else []), own):
        if version := prepared.locate(directory):
            return _Found(version, True, prepared.holds_running_text(version))
    if own.is_file() or any(own.glob("*.txt")):
        return _Found(own, False, True)
    if own.is_dir():
        return _Found(own, False, False)
    raise _unknown(name, data_dir)


def _unknown(name: str, data_dir: Directory | None) -> UsageError:
    if name.startswith((".", "/", "~")):
        return UsageError(f"there is no file or folder {name}: name one that exists")
    prepare = f"python -m experiments.prepare --dataset={name}"
    known = registration.names()
    if not data_dir:
        return UsageError(
            f"dataset {name!r} needs data_dir, or DLCORE_DATA_DIR in the environment; {prepare}"
            f" --data_dir=DIR prepares it there (there are without download: {', '.join(known)})"
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
    there = sorted(path.name for path in directory.iterdir() if prepared.locate(path))
    near = difflib.get_close_matches(name, [*known, *there], n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UsageError(
        f"unknown dataset {name!r}: {hint}there are {', '.join([*known, *there])};"
        f" {prepare} --data_dir={directory} prepares one of TFDS, and the path of a folder opens"
        " one of one's own"
    )


def _prepared(
    opened: prepared.Prepared, options: ExampleOptions, known: Mapping[str, Feature]
) -> Dataset:
    splits = {
        split: prepared.PreparedExamples(opened, own, options, known)
        for split, own in chosen_splits(options, opened.splits, opened.name).items()
    }
    return examples.build(opened.name, _held(opened.directory, splits, options), options)


def _held(
    directory: pathlib.Path,
    splits: Mapping[str, folder.FolderExamples] | Mapping[str, prepared.PreparedExamples],
    options: ExampleOptions,
) -> Mapping[str, sources.Source]:
    """Sources that are read into memory, and from the cache, where all of them have room."""
    if sum(source.num_bytes for source in splits.values()) > sources.IN_MEMORY_BYTES:
        return splits
    files = cache.fingerprint(directory)
    held = {}
    for split, source in splits.items():
        settings = (options.splits, options.resize, options.cut_square, repr(source.features))
        remember = functools.partial(cache.cached, directory, split, settings, files)
        held[split] = sources.Held(source, remember)
    return held
