"""Every architecture as a Linen module, made by `create(name, **overrides)`."""

# Importing a model's file registers it.
import dlcore.models.char_lstm
import dlcore.models.convnet
import dlcore.models.fractal_mlp
import dlcore.models.gan
import dlcore.models.lenet
import dlcore.models.linear
import dlcore.models.mlp
import dlcore.models.multitask
import dlcore.models.perceptron
import dlcore.models.residual_mlp
import dlcore.models.resnet  # noqa: F401
from dlcore.models.registry import (
    Entry,
    create,
    defaults,
    entry,
    names,
    register,
)

__all__ = [
    "Entry",
    "create",
    "defaults",
    "entry",
    "names",
    "register",
]
