"""From texts to numbered symbols: words, characters or pieces of words.

The division, the counting and the numbering are those of Hugging Face's `tokenizers`, which writes
a tokenizer as one JSON text: whatever reads that format can read it back from a run. It is imported
where texts are read, and not before.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from dlcore.data.features import Feature, Tokens
from dlcore.data.options import ExampleOptions
from dlcore.data.sources import Columns, Held, Names, Source
from dlcore.data.values import Parts
from dlcore.errors import UsageError

# What stands for every symbol that the training texts lack. It is also what pads.
UNKNOWN = "<unknown>"
_ENCODED = 1024


def learn(texts: Callable[[], Iterable[str]], options: ExampleOptions, where: str) -> Tokens:
    """Tokens in the vocabulary of some texts: `UNKNOWN`, then their symbols.

    Words and characters come in the order of their frequency; of pieces, characters come first and
    then what is joined of them, in that order.

    Control characters are left out (a byte-order mark among them), white space of any kind is one
    space, and characters of a compatible meaning are one (NFKC).

    Args:
      texts: gives all of them, as often as it is called.
      options: how they are divided, what is counted, and the `length`; without one, that of the
        longest of these texts.
      where: dataset and feature, as an error names them.

    Raises:
      UsageError: the texts hold no symbol that counts, or a vocabulary of pieces has no size.
    """
    if options.tokenization == "subword" and not options.vocabulary_size:
        raise UsageError(
            "tokenization is subword, and vocabulary_size is 0: it says to how many pieces words"
            " are joined, as in vocabulary_size=8000"
        )
    tokenizer, trainer = _untrained(options)
    tokenizer.train_from_iterator(texts(), trainer)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    if vocabulary in ([], [UNKNOWN]):
        raise UsageError(
            f"{where}: the training texts hold no {options.tokenization} that occurs"
            f" {options.min_count} times or more (min_count): there is nothing to be learned"
        )
    longest = max(map(len, _encoded(tokenizer, texts())))
    length = options.length or longest
    return Tokens(tuple(vocabulary), length, tokenizer=tokenizer.to_str(), padded=True)


def encode(feature: Tokens, texts: Iterable[str]) -> Parts:
    """Tokens int32 `[n, length]`, zero behind each text's end, and how many are real, int32 `[n]`.

    A text is cut behind `feature.length` symbols; one without any has length 0.
    """
    rows = [row[: feature.length] for row in _encoded(_read(feature.tokenizer), texts)]
    tokens = np.zeros((len(rows), feature.length or 0), np.int32)
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = [one for row in rows for one in row]
    return {"": tokens, "_length": lengths}


def tokenized(source: Source, tokens: dict[str, Tokens]) -> Source:
    """A source whose texts are tokens, which are held in memory where the texts are.

    Args:
      source: of the texts.
      tokens: what each text becomes, by the source's name of it.
    """
    made = _Tokenized(source, tokens)
    return made if source.streams else Held(made, lambda names, make: make(names))


class _Tokenized:
    """See `tokenized`."""

    def __init__(self, source: Source, tokens: dict[str, Tokens]):
        self._source, self._tokens = source, tokens
        self.features: dict[str, Feature] = {**source.features, **tokens}
        self.streams = source.streams

    @property
    def fingerprint(self) -> str:
        """See `Source`: of the texts."""
        return self._source.fingerprint

    def __len__(self) -> int:
        return len(self._source)

    def prepare(self, names: Names) -> None:
        """See `Source`."""
        self._source.prepare(names)

    def fetch(self, indices: np.ndarray, names: Names) -> Columns:
        """See `Source`."""
        found = self._source.fetch(indices, names)
        for name in self._tokens.keys() & set(names):
            found[name] = encode(self._tokens[name], found[name][""])
        return found


def _untrained(options: ExampleOptions) -> tuple[Any, Any]:
    """A tokenizer, and what trains it."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    subword = options.tokenization == "subword"
    tokenizer: Any = Tokenizer((models.BPE if subword else models.WordLevel)(unk_token=UNKNOWN))
    clean = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=False,
        strip_accents=False,
        lowercase=options.lowercase,
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), clean])
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Split(Regex("."), "isolated")
        if options.tokenization == "character"
        # Runs of letters and digits, and of other signs.
        else pre_tokenizers.Whitespace()
    )
    trainer = trainers.BpeTrainer if subword else trainers.WordLevelTrainer
    return tokenizer, trainer(
        vocab_size=options.vocabulary_size or 2**31,
        min_frequency=options.min_count,
        special_tokens=[UNKNOWN],
        show_progress=False,
    )


@functools.lru_cache(maxsize=4)
def _read(tokenizer: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer)


def _encoded(tokenizer: Any, texts: Iterable[str]) -> Iterable[Sequence[int]]:
    for some in itertools.batched(texts, _ENCODED):
        yield from (row.ids for row in tokenizer.encode_batch_fast(some))
