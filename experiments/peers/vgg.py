"""The twin of the small VGG of `dlcore.models.vgg`."""

import functools

import torch
from torch import nn
from torch.nn import functional

from experiments.peers.peer import Batch, Classifier, register
from experiments.peers.resnet import ConvNorm


class VGG(Classifier):
    """Stages of normalized 3x3 convolutions, each ended by 2x2 max pooling; hidden layers."""

    def __init__(
        self,
        batch: Batch,
        num_classes: int,
        convolutions: tuple[int, ...],
        features: tuple[int, ...],
        grid: int,
        hidden: tuple[int, ...],
        dropout_rate: float = 0.5,
    ):
        super().__init__()
        self.grid, self.stages, self.hidden = grid, [], []
        inputs = batch["image"].shape[-1]
        for stage, (count, width) in enumerate(zip(convolutions, features, strict=True), start=1):
            self.stages.append([f"conv{stage}_{number}" for number in range(1, count + 1)])
            for name in self.stages[-1]:
                self.add_module(name, ConvNorm(inputs, width, 3, bias=True))
                inputs = width
        inputs *= grid**2
        for number, units in enumerate(hidden):
            self.hidden.append(f"hidden{number}")
            self.add_module(self.hidden[-1], nn.Linear(inputs, units))
            inputs = units
        self.dropout = nn.Dropout(dropout_rate)
        self.logits = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images."""
        x = x.permute(0, 3, 1, 2)
        for stage in self.stages:
            for name in stage:
                x = self.get_submodule(name)(x).relu_()
            x = functional.max_pool2d(x, 2)
        # Channels last, the order of our weights.
        x = functional.adaptive_avg_pool2d(x, self.grid).permute(0, 2, 3, 1).flatten(1)
        for number, name in enumerate(self.hidden):
            x = self.get_submodule(name)(self.dropout(x) if number else x).relu_()
        return self.logits(self.dropout(x))


register(
    "vgg_cifar",
    functools.partial(
        VGG, num_classes=10, convolutions=(2, 2, 2), features=(32, 64, 128), grid=4, hidden=(128,)
    ),
)
