"""The manifest of a checkpoint: which files it has, the digest of each, and whose step they are."""

import hashlib
import json
import os
import pathlib

import msgspec

NAME = "manifest.json"
# Orbax writes this after the manifest, or may still be writing it. No state is in it.
DESCRIPTION = "_CHECKPOINT_METADATA"
_UNSEALED = {NAME, DESCRIPTION, "commit_success.txt"}


class _Manifest(msgspec.Struct):
    """What a checkpoint is of: without the step, a renamed folder would be believed."""

    step: int
    files: dict[str, str]


def write(directory: pathlib.Path) -> None:
    """Writes the manifest of a checkpoint's folder, whose name begins with its step.

    What it lists is safe from a loss of power from then on.
    """
    manifest = _Manifest(
        step=int(directory.name.partition(".")[0]),
        files={name: _sealed(directory / name) for name in sorted(_files(directory))},
    )
    with (directory / NAME).open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        file.flush()
        os.fsync(file.fileno())


def damage(directory: pathlib.Path) -> str | None:
    """What is wrong with a checkpoint's files, or None where all agree with the manifest."""
    try:
        manifest = msgspec.json.decode((directory / NAME).read_bytes(), type=_Manifest)
    except (OSError, ValueError, RecursionError):
        return f"{NAME} is missing or unreadable"
    if str(manifest.step) != directory.name:
        return f"it was written as that of step {manifest.step}"
    for name, digest in manifest.files.items():
        try:
            if _digest(directory / name) != digest:
                return f"{name} has other contents than were written"
        except (OSError, ValueError):
            return f"{name} is missing"
    if strange := sorted(_files(directory) - manifest.files.keys()):
        return f"{strange[0]} was not written with it"
    return None if _is_read(directory / DESCRIPTION) else f"{DESCRIPTION} holds something else"


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sealed(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _digest(path)


def _files(directory: pathlib.Path) -> set[str]:
    """The names of what a manifest lists."""
    # Not by `rglob`: pathlib keeps every part of a path for ever, and these have random names.
    found = ((folder, name) for folder, _, names in os.walk(directory) for name in names)
    return {
        os.path.relpath(os.path.join(folder, name), directory)  # noqa: PTH118
        for folder, name in found
    } - _UNSEALED


def _is_read(description: pathlib.Path) -> bool:
    """Whether Orbax reads its description, or does without: of other JSON it makes an error."""
    try:
        return isinstance(json.loads(description.read_bytes()), dict)
    except RecursionError:
        return False
    except (OSError, ValueError):
        return True
