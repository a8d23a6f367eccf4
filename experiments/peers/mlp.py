"""The twin of `dlcore.models.mlp`."""

import functools

import torch
from torch import nn

from experiments.peers.peer import Batch, Classifier, register


class MLP(Classifier):
    """Hidden layers, each with an activation function and dropout, then logits."""

    def __init__(
        self,
        batch: Batch,
        num_classes: int = 10,
        hidden: tuple[int, ...] = (500,),
        activation: str = "tanh",
        dropout_rate: float = 0.0,
    ):
        super().__init__()
        inputs = batch["image"][0].numel()
        self.activation, self.depth = getattr(torch, activation), len(hidden)
        for layer, units in enumerate(hidden):
            self.add_module(f"hidden{layer}", nn.Linear(inputs, units))
            inputs = units
        self.dropout = nn.Dropout(dropout_rate)
        self.logits = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images."""
        x = x.flatten(1)
        for layer in range(self.depth):
            x = self.dropout(self.activation(self.get_submodule(f"hidden{layer}")(x)))
        return self.logits(x)


register("mlp", MLP)
register(
    "mlp_dropout",
    functools.partial(MLP, hidden=(512, 512), activation="relu", dropout_rate=0.2),
)
