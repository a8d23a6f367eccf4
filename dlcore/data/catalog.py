"""Datasets by name: what is bundled or registered, what TFDS has prepared, folders of one's own."""

import difflib
import functools
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dlcore import paths
from dlcore.data import (
    cache,
    examples,
    folder,
    pairs,
    prepared,
    registration,
    sources,
    text,
    text_folder,
)
from dlcore.data.dataset import Dataset
from dlcore.data.features import Feature
from dlcore.data.options import ExampleOptions, Options, TextOptions, chosen_splits
from dlcore.data.registration import complete_options
from dlcore.errors import UsageError

Directory = str | os.PathLike[str]


class _Found(NamedTuple):
    """Where a dataset lies that is not registered, what it is, and whether its name is a path."""

    path: pathlib.Path
    is_prepared: bool
    is_text: bool
    is_own: bool


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
        `root/CLASS/*.png`, `root/train/CLASS/*.png` or without classes; texts in the same way, as
        `root/CLASS/*.txt`; running text as `root/*.txt` without images or one file.
        `zip:A,B` reads two datasets in step, `unpaired:A,B` each in its own order: see
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
    path, is_prepared, is_text, _ = _find(name, data_dir)
    if is_text:
        texts = prepared.Prepared(name, path).texts() if is_prepared else path
        return text.load_text(name, texts, given)
    if is_prepared:
        return _prepared(prepared.Prepared(name, path), given, features or {})
    opened: Mapping[str, folder.FolderExamples | text_folder.FolderTexts]
    if text_folder.holds_texts(path) and not folder.holds_images(path):
        opened = text_folder.open_texts(path, given)
    else:
        opened = folder.open_images(path, given, given.resize, given.cut_square)
    files = [file for split in opened.values() for file in split.paths]
    return examples.build(name, _held(path, files, opened, given), given)


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


def places(name: str, data_dir: Directory | None = None) -> list[pathlib.Path]:
    """The folders and files that a dataset is read from; none of what is registered.

    Args:
      name: see `load`.
      data_dir: see `load`.

    Raises:
      UsageError: there is no such dataset.
    """
    if pair := pairs.parse(name):
        return [place for part in pair.names for place in places(part, data_dir)]
    return [] if name in registration.names() else [_find(name, data_dir).path]


def located(name: str, data_dir: Directory | None = None) -> str:
    """The name by which `load` finds the same data from any working directory.

    Args:
      name: see `load`; one of what is not there stays as it is.
      data_dir: see `load`.

    Raises:
      UsageError: a name is ill-formed, or one of several datasets.
    """
    if pair := pairs.parse(name):
        return f"{pair.kind}:{','.join(located(part, data_dir) for part in pair.names)}"
    if name in registration.names():
        return name
    found = _look(name, data_dir)
    return str(paths.absolute(paths.local(name, "data"))) if found and found.is_own else name


def _find(name: str, data_dir: Directory | None) -> _Found:
    found = _look(name, data_dir)
    if found is None:
        raise _unknown(name, data_directory(data_dir))
    return found


def _look(name: str, data_dir: Directory | None) -> _Found | None:
    own, prepared_there = paths.local(name, "data"), data_directory(data_dir)
    for directory in (*([prepared_there / name] if prepared_there else []), own):
        if version := prepared.locate(directory):
            is_text = prepared.holds_running_text(version)
            return _Found(version, True, is_text, is_own=directory == own)
    if own.is_file():
        return _Found(own, False, is_text=True, is_own=True)
    if own.is_dir():
        # A note beside images does not make them a text.
        is_text = bool(text.files(own)) and not folder.holds_images(own)
        return _Found(own, False, is_text, is_own=True)
    return None


def data_directory(data_dir: Directory | None = None) -> pathlib.Path | None:
    """The directory of prepared datasets: this one, or else that of the environment.

    Raises:
      UsageError: it is a file, or not on this machine.
    """
    if data_dir:
        return paths.directory(data_dir, "data_dir")
    known = os.environ.get("DLCORE_DATA_DIR")
    return paths.directory(known, "DLCORE_DATA_DIR") if known else None


def _unknown(name: str, directory: pathlib.Path | None) -> UsageError:
    if name.startswith((".", "/", "~")):
        return UsageError(f"data={name}: there is no such file or folder: name one that exists")
    prepare = f"python -m experiments.prepare --dataset={name}"
    known = registration.names()
    if not directory:
        return UsageError(
            f"dataset {name!r} needs data_dir, or DLCORE_DATA_DIR in the environment; {prepare}"
            f" --data_dir=DIR prepares it there (there are without download: {', '.join(known)})"
        )
    if not directory.is_dir():
        return UsageError(
            f"data directory {directory} does not exist, dataset {name!r} was to be read from it:"
            f" {prepare} --data_dir={directory} makes it"
        )
    if (directory / name).is_dir():
        return UsageError(
            f"{directory / name} holds no dataset_info.json, so it is no prepared dataset: if it is"
            f" a folder of one's own, name it by its path, data={directory / name}; if its"
            f" preparation was interrupted, move it elsewhere, and {prepare} --data_dir={directory}"
            " makes it anew"
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
    directory = opened.directory
    files = sorted(path for path in directory.iterdir() if path.is_file())
    return examples.build(opened.name, _held(directory, files, splits, options), options)


def _held(
    directory: pathlib.Path,
    files: Iterable[pathlib.Path],
    splits: Mapping[str, Any],
    options: ExampleOptions,
) -> Mapping[str, sources.Source]:
    """Sources that are read into memory, and from the cache, where all of them have room."""
    if sum(source.num_bytes for source in splits.values()) > sources.IN_MEMORY_BYTES:
        return splits
    found = cache.fingerprint(files)
    held = {}
    for split, source in splits.items():
        settings = (options.splits, options.resize, options.cut_square, repr(source.features))
        remember = functools.partial(cache.cached, directory, split, settings, found)
        held[split] = sources.Held(source, remember)
    return held
