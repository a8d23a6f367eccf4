r"""Weights by name: flat dictionaries, `.safetensors` files, and the start from other weights.

A weight's name is its path with slashes: `conv1/kernel` for a parameter, and
`batch_stats/norm1/mean` in every other collection, where the collection comes first.

`start` fills a new model from weights that may be named in another way. What differs is said in a
line of words with spaces between them, the recipe's field `start_mapping`:

- `trunk/(.*)<-encoder/\1`: what the pattern before the arrow matches is read from the path behind
  it, in which `\1` is what the first parentheses matched;
- `head/.*<-`: the new model keeps its own start there;
- `<-classifier/.*`: these weights of the source are left over on purpose.

- `torchvision`, as the first word alone: the source has the names and the layouts of the network of
  torchvision that is this model (`dlcore.torchvision`), and the other words are about our names:
  with `torchvision logits/.*<- <-logits/.*` only the head begins anew. Who reads the recipe follows
  this word (`dlcore.train.session`); here all are of the first three kinds.

A pattern is a regular expression that must match a whole path; the first that matches counts. Paths
that no pattern matches keep their names. A mapping is the same inside each collection: the first
word above also reads `batch_stats/trunk/norm1/mean` from `batch_stats/encoder/norm1/mean`. A
pattern that spells the collection out (`batch_stats/.*<-`) is for that collection alone.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from dlcore import paths
from dlcore.errors import UsageError, some

PARAMS = "params"


def flatten(variables: Any) -> dict[str, Any]:
    """The arrays of a model's variables (`{"params": ..., "batch_stats": ...}`) by name.

    Raises:
      ValueError: two arrays have the same name.
    """
    leaves = jax.tree.leaves_with_path(variables)
    flat = {_name(path): leaf for path, leaf in leaves}
    if len(flat) < len(leaves):
        raise ValueError("two arrays have the same name: a layer is called as a collection is")
    return flat


def unflatten(flat: Mapping[str, Any], like: Any) -> Any:
    """The inverse of `flatten`, for variables with the structure of `like`.

    Raises:
      ValueError: the names are not those of `like`.
    """
    names = flatten(like)
    if names.keys() != flat.keys():
        differing = ", ".join(sorted(names.keys() ^ flat.keys()))
        raise ValueError(f"names that are not on both sides: {differing}")
    return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in names])


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors` file by name.

    Raises:
      UsageError: it is missing, damaged, or not such a file.
    """
    try:
        return safetensors.numpy.load_file(path)
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist: name a .safetensors file") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except safetensors.SafetensorError as error:
        raise UsageError(f"{path} is damaged, or not a .safetensors file: {error}") from error
    except AttributeError as error:  # The library looks the type up in NumPy.
        raise UsageError(f"{path} holds numbers of a type that NumPy lacks: {error}") from error


def write(
    path: str | pathlib.Path, variables: Any, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a model's variables to a `.safetensors` file, which replaces one that is there.

    Args:
      path: of the file; its directory exists.
      variables: arrays that this process holds whole.
      metadata: words about them, kept in the file's header.

    Raises:
      UsageError: the file cannot hold a type of number.
      OSError: it cannot be written, as where the disk is full.
    """
    # Of any other order than C's, the library would write the bytes as they lie.
    flat = {name: np.asarray(array, order="C") for name, array in flatten(variables).items()}
    try:
        content = safetensors.numpy.save(flat, dict(metadata) if metadata else None)
    except safetensors.SafetensorError as error:
        raise UsageError(f"{path} cannot be written: {error}") from error
    # The library's own way to write a file leaves it readable by its owner alone.
    paths.write_whole(pathlib.Path(path), content)


def start(variables: Any, source: Mapping[str, Any], mapping: str = "") -> Any:
    """A model's variables with the weights of another model.

    Only shapes and types are compared: both sides may be `jax.ShapeDtypeStruct`, so that weights
    can be checked before they are there.

    Args:
      variables: the model's own start, a pytree of collections. Collections that are not to be
        filled are not handed in.
      source: weights by name, as `flatten` and `read` give them.
      mapping: which weights go where; see the head of this file.

    Returns:
      The same tree. A floating-point weight has the model's own precision; weights that keep their
      own start are handed through.

    Raises:
      UsageError: the mapping does not parse or one of its patterns matches nothing; a weight is
        missing in the source, left over in it, of another shape, or of a type that is not
        converted.
    """
    own = flatten(variables)
    collections = [name for name in variables if name != PARAMS]
    words = [_Word.parse(word) for word in mapping.split()]
    reads, used = _resolve(own, collections, words)
    left = []
    for name in source.keys() - set(reads.values()):
        word = next((w for w in words if not w.target and w.match(name, collections)), None)
        if word:
            used.add(word)
        else:
            left.append(name)
    for word in words:
        if word not in used:
            raise UsageError(_unused(word, own if word.target else source, collections))
    _check(own, source, reads, sorted(left), collections, mapped=bool(words))
    filled = {name: _converted(source[reads[name]], own[name].dtype) for name in reads}
    return unflatten({**own, **filled}, variables)


# Each is its own: the same word twice is one word too many.
@dataclasses.dataclass(frozen=True, eq=False)
class _Word:
    """One word of a mapping.

    Attributes:
      text: as it was written.
      pattern: what it matches: paths of the new model, or of the source where there is no target.
      target: whether it has one.
      template: the path to read; empty for none.
    """

    text: str
    pattern: re.Pattern[str]
    target: bool
    template: str

    @classmethod
    def parse(cls, text: str) -> "_Word":
        target, arrow, template = text.partition("<-")
        if not arrow or "<-" in template or not (target or template):
            raise UsageError(
                f"start_mapping={text}: write TARGET<-SOURCE, TARGET<- for the model's own start, "
                "or <-SOURCE for what is left over, with spaces between"
            )
        try:
            pattern = re.compile(target or template)
        except re.error as error:
            raise UsageError(
                f"start_mapping={text}: it is not a regular expression: {error}"
            ) from error
        return cls(text, pattern, bool(target), template if target else "")

    def match(self, name: str, collections: Collection[str]) -> tuple[str, re.Match[str]] | None:
        """The match inside a name's collection with the collection, or else of the whole name."""
        collection, inner = _split(name, collections)
        for prefix, path in ((collection, inner), ("", name)):
            if found := self.pattern.fullmatch(path):
                return prefix, found
        return None


def _resolve(
    own: Mapping[str, Any], collections: Collection[str], words: Sequence[_Word]
) -> tuple[dict[str, str], set[_Word]]:
    """The name that each of the model's arrays is read from, and the words that were followed."""
    reads, used = {}, set()
    for name in own:
        reads[name] = name
        for word in words:
            if word.target and (found := word.match(name, collections)):
                used.add(word)
                prefix, match = found
                if word.template:
                    reads[name] = prefix + _expanded(match, word)
                else:
                    del reads[name]
                break
    return reads, used


def _expanded(match: re.Match[str], word: _Word) -> str:
    try:
        return match.expand(word.template)
    except (re.error, IndexError) as error:
        raise UsageError(f"start_mapping={word.text}: {error} behind the arrow") from error


def _unused(word: _Word, names: Collection[str], collections: Collection[str]) -> str:
    matched = [name for name in names if word.match(name, collections)]
    if matched and word.target:
        return (
            f"start_mapping={word.text}: an earlier word has taken all that it matches "
            f"({some(matched)}), and the first counts"
        )
    if matched:
        return (
            f"start_mapping={word.text}: nothing that it matches is left over: {some(matched)} "
            "is read, or an earlier word leaves it out"
        )
    place = "the model" if word.target else "the source"
    return (
        f"start_mapping={word.text}: it matches nothing in {place}: it has to match a whole path, "
        f"such as {some(list(names))}"
    )


def _check(
    own: Mapping[str, Any],
    source: Mapping[str, Any],
    reads: Mapping[str, str],
    left: Sequence[str],
    collections: Collection[str],
    mapped: bool,
) -> None:
    """Raises one UsageError for all that does not fit, with the words that would mend it."""

    def top(name: str) -> str:
        """A pattern of all that is beside a name in its outermost layer."""
        layer, slash, _ = _split(name, collections)[1].partition("/")
        return re.escape(layer) + ("/.*" if slash else "")

    def itself(name: str) -> str:
        return f"{re.escape(name)}<- <-{re.escape(reads[name])}"

    def differing(show: Callable[[Any], str], names: Sequence[str]) -> str:
        return some(
            [
                f"{name} is {show(own[name])} here and {show(source[reads[name]])} there"
                for name in names
            ]
        )

    def fresh(name: str) -> str:
        """A pattern of what is to keep its own start, which takes nothing from another word."""
        return re.escape(name) if mapped else top(name)

    missing = [name for name in reads if reads[name] not in source]
    there = [name for name in reads if reads[name] in source]
    shapes = [name for name in there if own[name].shape != source[reads[name]].shape]
    types = [name for name in there if not _convertible(source[reads[name]].dtype, own[name].dtype)]
    report = []
    if missing:
        shown = [name if reads[name] == name else f"{reads[name]} for {name}" for name in missing]
        report.append(
            f"{len(missing)} missing in the source ({some(shown)}): say what to read "
            f"({_renaming(missing, left)}) or keep the model's own start ({fresh(missing[0])}<-)"
        )
    if left:
        report.append(
            f"{len(left)} left over in the source ({some(left)}): leave them out (<-{top(left[0])})"
        )
    if shapes:
        report.append(
            f"{len(shapes)} of another shape ({differing(_shape, shapes)}): keep the model's own "
            f"start ({itself(shapes[0])})"
        )
    if types:
        report.append(
            f"{len(types)} of another type ({differing(lambda array: str(array.dtype), types)}), "
            "and only floating-point numbers are converted: keep the model's own start "
            f"({itself(types[0])})"
        )
    if report:
        raise UsageError(
            "start_from: the weights do not fit the model; words in start_mapping can mend it, the "
            f"first that matches counts: {'; '.join(report)}"
        )


def _renaming(missing: Sequence[str], left: Sequence[str]) -> str:
    """A word that reads something missing from something left over, where one looks right."""
    inner = {name.partition("/")[2]: name.partition("/")[0] for name in reversed(left)}
    for name in missing:
        layer, slash, path = name.partition("/")
        if slash and path in inner:
            return rf"{re.escape(layer)}/(.*)<-{inner[path]}/\1"
    return "TARGET<-SOURCE"


def _convertible(there: Any, here: Any) -> bool:
    both_floating = jnp.issubdtype(there, jnp.floating) and jnp.issubdtype(here, jnp.floating)
    return there == here or both_floating


def _converted(array: Any, dtype: Any) -> Any:
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, dtype)
    return array if array.dtype == dtype else array.astype(dtype)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/").removeprefix(f"{PARAMS}/")


def _split(name: str, collections: Collection[str]) -> tuple[str, str]:
    """A name's collection with its slash, empty for parameters, and its path in there."""
    collection, slash, path = name.partition("/")
    return (f"{collection}/", path) if slash and collection in collections else ("", name)


def _shape(array: Any) -> str:
    return "x".join(map(str, array.shape)) or "a scalar"
