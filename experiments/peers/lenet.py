"""The twin of the modern LeNet-5 of `dlcore.models.lenet`."""

import torch
from torch import nn
from torch.nn import functional

from experiments.peers.peer import Batch, Classifier, register


class LeNet5Modern(Classifier):
    """ReLU, max pooling, full connections."""

    def __init__(self, batch: Batch, num_classes: int = 10, dropout_rate: float = 0.0):
        super().__init__()
        _, height, width, channels = batch["image"].shape
        positions = ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
        self.C1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.C3 = nn.Conv2d(6, 16, 5)
        self.C5 = nn.Linear(16 * positions, 120)
        self.F6 = nn.Linear(120, 84)
        self.dropout = nn.Dropout(dropout_rate)
        self.logits = nn.Linear(84, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images."""
        x = functional.max_pool2d(self.C1(x.permute(0, 3, 1, 2)).relu(), 2)
        x = functional.max_pool2d(self.C3(x).relu(), 2)
        # Channels last, the order of our weights.
        x = x.permute(0, 2, 3, 1).flatten(1)
        for layer in (self.C5, self.F6):
            x = self.dropout(layer(x).relu())
        return self.logits(x)


register("lenet5_modern", LeNet5Modern)
