"""Running text, character by character.

Training reads it in order, so that a recurrent state may be carried from batch to batch. Evaluation
scores every character once.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Self, override

import jax
import numpy as np

from dlcore.data import fingerprints, listing, pipeline
from dlcore.data.dataset import Dataset, HostBatch, Needs
from dlcore.data.facts import Facts
from dlcore.data.features import Feature, Tokens
from dlcore.data.needs import match
from dlcore.data.options import TextOptions, chosen_splits
from dlcore.errors import UsageError

# An evaluation row scores this many characters, after reading the context that goes before them. A
# trained LSTM of 2 x 128 scores the same, to rounding, as when it reads a whole split in one row.
_SCORED = 512
_CONTEXT = 128


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """The training batches of one process: see `Dataset.train_batches`.

    The text is cut into as many segments of equal length as the global batch has rows. Each row
    reads its own from the beginning to the end, `sequence_length` characters a step.
    """

    text: np.ndarray
    batch_size: int
    sequence_length: int
    share: slice

    @property
    def _segment_length(self) -> int:
        return (len(self.text) - 1) // self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the segments; the remainder of each is dropped."""
        return self._segment_length // self.sequence_length

    def batch(self, step: int) -> HostBatch:
        """This process's share of the batch at a step counted from the training's start."""
        position = step % self.steps_per_epoch
        rows = np.arange(self.batch_size)[self.share]
        first = rows * self._segment_length + position * self.sequence_length
        window = self.text[first[:, None] + np.arange(self.sequence_length + 1)]
        return {
            "tokens": window[:, :-1],
            "targets": window[:, 1:],
            "mask": np.ones((len(rows), self.sequence_length), np.float32),
            "start": np.full(len(rows), position == 0),
        }

    def start(self, step: int) -> Iterator[HostBatch]:
        """The batches from `step` on."""
        return map(self.batch, itertools.count(step))


@dataclasses.dataclass(frozen=True, eq=False)
class TextDataset(Dataset):
    """A text, character by character.

    A host batch is `tokens` and `targets`, int32 `[rows, time]`, where the target is the next
    character; `mask`, float32 of that shape; and `start`, bool `[rows]`, set where a row begins a
    segment of the text. An example is `sequence_length` characters.

    Attributes:
      splits: the characters' places in the vocabulary, int32 `[characters]`.
      vocabulary: the distinct characters of the training text and what was cut off it, sorted.
      options: the length of a row, and how the text was cut.
    """

    name: str
    splits: Mapping[str, np.ndarray]
    vocabulary: str
    options: TextOptions = TextOptions()  # noqa: RUF009, it is frozen

    @functools.cached_property
    @override
    def features(self) -> Mapping[str, Feature]:  # type: ignore[override]
        return dict.fromkeys(("tokens", "targets"), Tokens(self.vocabulary))

    @functools.cached_property
    @override
    def facts(self) -> Facts:
        counted = {"frequencies": functools.partial(_frequencies, self)}
        return Facts(
            {
                "vocabulary_size": len(self.vocabulary),
                "sequence_length": self.options.sequence_length,
            },
            counted,
        )

    @property
    @override
    def statistics(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        return {}

    @override
    def provide(self, needs: Needs) -> Self:
        """See `Dataset.provide`; the keys of running text are always its own."""
        for key, found in match(needs, self.features, self.name).items():
            if key != found:
                raise UsageError(
                    f"the task needs {key!r}: dataset {self.name!r} is running text, in which"
                    f" {' and '.join(self.features)} have these names"
                )
        return self

    @override
    def num_examples(self, split: str) -> int:
        return (len(self._split(split)) - 1) // self.options.sequence_length

    @override
    def fingerprint(self, split: str) -> str:
        return fingerprints.of_arrays({self.vocabulary: self._split(split)})

    def encode(self, text: str) -> np.ndarray:
        """The places of characters in the vocabulary, int32 `[characters]`.

        Raises:
          UsageError: characters that the vocabulary lacks.
        """
        return _encode(text, self.vocabulary, "the text")

    def decode(self, tokens: np.ndarray) -> str:
        """The characters at those places `[characters]`."""
        return "".join(self.vocabulary[token] for token in tokens)

    @override
    def transform(self, batch: Mapping[str, Any], key: jax.Array | None, train: bool) -> Any:
        return batch

    @override
    def train_batches(
        self, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
    ) -> Windows:
        """See `Dataset.train_batches`; the order is the text's own, whatever the seed."""
        share = pipeline.share(batch_size, process_index, process_count)
        windows = Windows(self._split("train"), batch_size, self.options.sequence_length, share)
        if not windows.steps_per_epoch:
            raise UsageError(
                f"the training text has {len(windows.text)} characters: {batch_size} rows"
                f" (batch_size) of {self.options.sequence_length} (sequence_length) need"
                f" {batch_size * self.options.sequence_length + 1}"
            )
        return windows

    @override
    def evaluation_batches(
        self, split: str, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[HostBatch]:
        """See `Dataset.evaluation_batches`; the mask is 1 once for every character but the first.

        A row begins with characters that are only read, so that what it scores is predicted from
        nearly the state that reading the whole split would have led to.
        """
        share = pipeline.share(batch_size, process_index, process_count)
        text = self._split(split)
        num_rows = -(-(len(text) - 1) // _SCORED)
        return (
            _evaluation_batch(text, np.arange(first, first + batch_size)[share])
            for first in range(0, num_rows, batch_size)
        )

    @override
    def example_batch(self, batch_size: int) -> HostBatch:
        return self.train_batches(batch_size, seed=0).batch(0)

    @override
    def limited(self, count: int) -> Self:
        available = self.num_examples("train")
        if not 1 <= count <= available:
            raise UsageError(
                f"cannot take {count} of the {available} training examples (of"
                f" {self.options.sequence_length} characters each) of {self.name!r}:"
                f" it must be 1 to {available}"
            )
        few = self._split("train")[: count * self.options.sequence_length + 1]
        return dataclasses.replace(self, splits={**self.splits, "train": few, "validation": few})

    def _split(self, name: str) -> np.ndarray:
        if name not in self.splits:
            raise UsageError(
                f"dataset {self.name!r} has no split {name!r}: it has {', '.join(self.splits)}"
            )
        return self.splits[name]


def _evaluation_batch(text: np.ndarray, rows: np.ndarray) -> HostBatch:
    """Those rows of an evaluation; one past the end of the text has mask 0 throughout."""
    first_scored = rows[:, None] * _SCORED
    place = np.maximum(first_scored - _CONTEXT, 0) + np.arange(_CONTEXT + _SCORED)
    end = np.minimum(first_scored + _SCORED, len(text) - 1)
    return {
        "tokens": text[np.minimum(place, len(text) - 1)],
        "targets": text[np.minimum(place + 1, len(text) - 1)],
        "mask": ((place >= first_scored) & (place < end)).astype(np.float32),
        "start": np.ones(len(rows), bool),
    }


def _frequencies(dataset: TextDataset) -> np.ndarray:
    """How often each character occurs in the training text, int64 `[vocabulary]`."""
    return np.bincount(dataset.splits["train"], minlength=len(dataset.vocabulary)).astype(np.int64)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _encode(text: str, vocabulary: str, what: str) -> np.ndarray:
    known, wanted = _code_points(vocabulary), _code_points(text)
    tokens = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    strange = np.unique(wanted[known[tokens] != wanted])
    if strange.size:
        raise UsageError(
            f"{what} has {', '.join(repr(chr(code)) for code in strange[:10])}:"
            f" it may only have the {len(vocabulary)} characters of the training text"
        )
    return tokens.astype(np.int32)


def load_text(
    name: str, source: pathlib.Path | Mapping[str, str], options: TextOptions | None = None
) -> TextDataset:
    """A text as a dataset.

    Args:
      name: what to call it.
      source: the text of each split; or one's own, a file or every visible `*.txt` of a folder, in
        the order of their names.
      options: the length of a row, and the fractions that are cut off the end of the training text,
        first for the test and then for validation, where the source lacks these splits.

    Raises:
      UsageError: a file cannot be read or is not UTF-8, a split is missing or too short, or one has
        characters that the training text lacks.
    """
    options = options or TextOptions()
    own = {"train": _read(source)} if isinstance(source, pathlib.Path) else source
    texts = {split: own[old] for split, old in chosen_splits(options, own, name).items()}
    # Before anything is cut off, so that a rare character at the end of one's own text is no error.
    vocabulary = "".join(sorted(set(texts["train"])))
    for split, fraction in (
        ("test", options.test_fraction),
        ("validation", options.validation_fraction),
    ):
        if split not in texts and fraction:
            cut = len(texts["train"]) - round(len(texts["train"]) * fraction)
            texts["train"], texts[split] = texts["train"][:cut], texts["train"][cut:]
    for split, text in texts.items():
        if len(text) < 2:
            raise UsageError(
                f"the {split} split of {name!r} has {len(text)} characters, and it needs 2:"
                " give a longer text, or another validation_fraction or test_fraction"
            )
    splits = {
        split: _encode(text, vocabulary, f"the {split} split of {name!r}")
        for split, text in texts.items()
    }
    return TextDataset(name, splits, vocabulary, options)


def _read(path: pathlib.Path) -> str:
    if not path.is_dir():
        return read_file(path)
    found = files(path)
    if not found:
        raise UsageError(f"{path} has no text: put UTF-8 files named *.txt there")
    listing.report_rest(path, [path], found)
    return "\n".join(read_file(file) for file in found)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The texts in a folder, in the order of their names."""
    return listing.files(folder, (".txt",))


def read_file(file: pathlib.Path) -> str:
    """The text of a file, without the byte-order mark that it may begin with.

    Raises:
      UsageError: it cannot be read or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file} is no UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error
