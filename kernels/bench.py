"""Times the implementations of an operation on this device: `python -m kernels.bench`.

For each shape and dtype the implementations that serve are first proved right on the device, by the
measure of the tests; one that is wrong ends the run. Then they are timed (`kernels.timing`), and
their peers: what XLA makes of the plain operation, libraries, and PyTorch's where `--torch` names a
Python that has it.

The tables are printed, and written row by row to `kernels/measured/OPERATION_DEVICE.json`, by which
"auto" chooses; rows of other shapes stay as they were. Seconds are those of one call.
"""

import argparse
import json
import pathlib
import tempfile
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import jax

from kernels import testing, timing
from kernels.conv_bn_relu import bench as conv_bn_relu
from kernels.lstm import bench as lstm

DIRECTORY = pathlib.Path(__file__).parent / "measured"


@runtime_checkable
class Family(Protocol):
    """What a module provides that knows how to measure an operation.

    Attributes:
      SHAPES: what is measured by default, words between commas.
      DTYPES: likewise.
      CALLS: in a compiled program by default; the shorter a call, the more.
      CASES: the operation's module, with `draw` and `call`.
    """

    SHAPES: str
    DTYPES: tuple[str, ...]
    CALLS: int
    CASES: ModuleType

    def parse(self, word: str, dtype: str) -> Sequence[Any]:
        """The cases that a word stands for; raises ValueError where there are none."""

    def proofs(self, case: Any) -> Sequence[Any]:
        """Smaller cases of the same kind, on which the implementations are proved right."""

    def right(self, case: Any, arguments: Any) -> dict[str, Any]:
        """What `CASES.call` should give, in a precision much higher than the case's."""

    def serving(self, case: Any) -> list[str]:
        """Names of the implementations that serve it on this device."""

    def subjects(self, case: Any) -> list[timing.Subject]:
        """What is measured of it."""


FAMILIES: dict[str, Family] = {"lstm": lstm, "conv_bn_relu": conv_bn_relu}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--operation", default="lstm", choices=FAMILIES)
    parser.add_argument("--shapes", default="", help="as 16x35x128,64x35x128 or resnet50:128")
    parser.add_argument("--dtypes", nargs="+", choices=("bfloat16", "float32"))
    parser.add_argument("--torch", default="", help="a Python that has PyTorch")
    parser.add_argument("--directory", type=_local, default=DIRECTORY)
    parser.add_argument("--calls", type=timing.positive_integer, help="in a compiled program")
    parser.add_argument(
        "--runs",
        type=timing.positive_integer,
        default=11,
        help="of a program; the median counts",
    )
    options = parser.parse_args(argv)
    family = FAMILIES[options.operation]
    words = (options.shapes or family.SHAPES).split(",")
    try:
        cases = [
            case
            for word in words
            for dtype in options.dtypes or family.DTYPES
            for case in family.parse(word, dtype)
        ]
    except ValueError as error:
        parser.error(str(error))
    if options.torch and (reason := timing.torch_refusal(options.torch)):
        parser.error(f"--torch: {reason}")
    effort = timing.Effort(options.calls or family.CALLS, options.runs)
    proved, measured = set(), set()
    for case in cases:
        for proof in family.proofs(case):
            if proof not in proved:
                prove(family, proof, family.serving(case))
            proved.add(proof)
        for subject in family.subjects(case):
            if str(subject) not in measured:
                _measure(subject, effort, options.torch, options.directory)
            measured.add(str(subject))


def _local(name: str) -> pathlib.Path:
    """A directory of this machine, that files can be made in."""
    if not name or "://" in name:
        raise argparse.ArgumentTypeError(f"{name!r} is no path on this machine")
    try:
        path = pathlib.Path(name).expanduser()
        there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except (OSError, RuntimeError) as error:  # The latter where `~` stands for no directory.
        raise argparse.ArgumentTypeError(f"{name} cannot be written: {error}") from error
    return path


def prove(family: Family, case: Any, names: Sequence[str]) -> None:
    """Asserts that the implementations of these names are right on this device, beside XLA's."""
    others = [name for name in names if name != "xla"]
    if not others:
        return
    arguments = family.CASES.draw(case)
    right = family.right(case, arguments)
    xla = family.CASES.call(case, arguments, "xla")
    for name in others:
        result = family.CASES.call(case, arguments, name)
        testing.assert_as_right_as_xla(result, xla, right, case.dtype)


def _measure(
    subject: timing.Subject, effort: timing.Effort, torch: str, directory: pathlib.Path
) -> None:
    try:
        row = timing.measure(subject, effort, torch)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"{subject}: does not fit in the device's memory", flush=True)
        return
    kind = jax.devices()[0].device_kind
    name = f"{subject.operation}_{kind.lower().replace(' ', '_')}.json"
    write(directory / name, kind, row)
    print(f"{subject}  {line(row)}", flush=True)


def write(path: pathlib.Path, kind: str, row: dict[str, Any]) -> None:
    """Puts a row into a device's table, in the place of what was measured for it before."""
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    key = (row["shape"], row["dtype"])
    rows = [old for old in table["rows"] if (old["shape"], old["dtype"]) != key]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"device": kind, "jax": jax.__version__, "rows": [*rows, row]}
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def line(row: dict[str, Any]) -> str:
    """A row as it is printed: microseconds forward, and forward and backward, and the shares."""
    words = [
        f"{name} {row['forward_seconds'][name] * 1e6:.1f} {taken * 1e6:.1f}"
        for name, taken in row["seconds"].items()
    ]
    for share, word in (("share_of_roofline", "of the roofline"), ("share_of_copy", "of a copy")):
        directions = (row["forward"].get(share), row["forward_and_backward"].get(share))
        if None not in directions:
            words.append(f"{' '.join(f'{part:.1%}' for part in directions)} {word}")
    return "  ".join(words)


if __name__ == "__main__":
    main()
