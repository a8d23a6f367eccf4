"""Learning regimes, one file each: made by `create(name, model, **options)`."""

from dlcore.tasks.descent import Aux, Descent, Loss, descend, init_players
from dlcore.tasks.learner import Applied, Batch, Learner, Variables
from dlcore.tasks.protocols import (
    Continues,
    Decodes,
    Encodes,
    Predicts,
    Reconstructs,
    Samples,
)
from dlcore.tasks.registry import create, defaults, kind, listed, names, register
from dlcore.tasks.state import TrainState
from dlcore.tasks.supervised import Supervised

__all__ = [
    "Applied",
    "Aux",
    "Batch",
    "Continues",
    "Decodes",
    "Descent",
    "Encodes",
    "Learner",
    "Loss",
    "Predicts",
    "Reconstructs",
    "Samples",
    "Supervised",
    "TrainState",
    "Variables",
    "create",
    "defaults",
    "descend",
    "init_players",
    "kind",
    "listed",
    "names",
    "register",
]
