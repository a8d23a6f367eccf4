"""What a training starts from: another run, an earlier phase, or a file of weights."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcore import parallel, paths, tasks, torch_file, torchvision, weights
from dlcore.errors import UsageError, about
from dlcore.tasks import Learner
from dlcore.train import checkpoint, workdir
from dlcore.train.checkpoint import Checkpoints
from dlcore.train.preparation import Prepared

# Of files of weights.
_READERS = {".safetensors": weights.read, ".pt": torch_file.read, ".pth": torch_file.read}


def read(name: str) -> dict[str, Any]:
    """The weights of a file of safetensors or PyTorch, or of a run directory's best checkpoint.

    Of the run only its recipe and its checkpoints have to be there, not its data.

    Raises:
      UsageError: there is no such file or run.
    """
    path = paths.local(name, "start_from")
    if not path.is_dir() and path.suffix not in _READERS:
        raise UsageError(
            f"start_from={name}: there is no such directory: name that of a run, a file "
            f"({', '.join(_READERS)}), a needed run or an earlier phase"
        )
    if path.exists() and not (path.is_dir() or path.is_file()):
        raise UsageError(f"start_from={name}: it is neither a file nor a directory")
    with about(f"start_from={name}"):
        if not path.is_dir():
            return _READERS[path.suffix](path)
        last = workdir.read_recipe(path).by_phase()[-1]
        last.import_modules()
        return saved(tasks.kind(last.task), path / checkpoint.FOLDER)


def saved(learner: Learner | type[Learner], folder: pathlib.Path) -> dict[str, Any]:
    """The weights of the best checkpoint by path, those of examples and devices left out.

    Args:
      learner: of the training, or its class.
      folder: of its checkpoints.

    Raises:
      UsageError: there is none, or it is damaged.
    """
    variables = checkpoint.read(folder, learner.watched_mode, "best", Checkpoints.restore_variables)
    replicated = parallel.of_kind(variables, learner.state_kinds, "replicated")
    return {path: np.asarray(array) for path, array in weights.flatten(replicated).items()}


def abstract(prepared: Prepared) -> dict[str, Any]:
    """The shapes of what `saved` will give of a training that is yet to be."""
    variables = prepared.program.abstract_state.variables()
    kinds = prepared.learner.state_kinds
    return weights.flatten(parallel.of_kind(variables, kinds, "replicated"))


def mapped(prepared: Prepared, found: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Weights by the names of a model of ours, and what the recipe's mapping says of these.

    Raises:
      UsageError: they are torchvision's, and the mapping does not say so.
    """
    recipe = prepared.recipe
    first, *others = recipe.start_mapping.split() or [""]
    own = weights.flatten(prepared.program.startable)
    if first == torchvision.WORD:
        return torchvision.from_torchvision(recipe.model, found, own), " ".join(others)
    if torchvision.is_from_torchvision(recipe.model, found, own):
        raise UsageError(
            f"start_from={recipe.start_from}: the names are torchvision's: the first word of "
            f"start_mapping has to be {torchvision.WORD}"
        )
    return found, recipe.start_mapping
