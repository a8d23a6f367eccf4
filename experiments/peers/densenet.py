"""The twins of the densely connected networks for CIFAR-10 of `dlcore.models.densenet`."""

import functools

import torch
from torch import nn
from torch.nn import functional

from experiments.peers.peer import Batch, Classifier, register


class NormConv(nn.Module):
    """Batch normalization, ReLU and a convolution without bias, once or twice."""

    def __init__(self, *sizes: tuple[int, int, int]):
        super().__init__()
        self.numbers = [""] if len(sizes) == 1 else ["1", "2"]
        for number, (inputs, features, kernel_size) in zip(self.numbers, sizes, strict=True):
            self.add_module(f"norm{number}", nn.BatchNorm2d(inputs))
            convolve = nn.Conv2d(
                inputs, features, kernel_size, padding=kernel_size // 2, bias=False
            )
            self.add_module(f"conv{number}", convolve)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the last convolution gives."""
        for number in self.numbers:
            x = self.get_submodule(f"norm{number}")(x).relu_()
            x = self.get_submodule(f"conv{number}")(x)
        return x


class DenseNet(Classifier):
    """A DenseNet with bottlenecks and compression by two."""

    def __init__(
        self,
        batch: Batch,
        num_classes: int,
        blocks: tuple[int, ...],
        growth_rate: int,
        bottleneck: int,
        stem_bias: bool,
    ):
        super().__init__()
        self.blocks, inputs, inner = blocks, 2 * growth_rate, bottleneck * growth_rate
        channels = batch["image"].shape[-1]
        self.conv0 = nn.Conv2d(channels, inputs, 3, padding=1, bias=stem_bias)
        for stage, count in enumerate(blocks, start=1):
            for number in range(count):
                layer = NormConv((inputs, inner, 1), (inner, growth_rate, 3))
                self.add_module(f"stage{stage}_layer{number}", layer)
                inputs += growth_rate
            if stage < len(blocks):
                self.add_module(f"transition{stage}", NormConv((inputs, inputs // 2, 1)))
                inputs //= 2
        self.norm = nn.BatchNorm2d(inputs)
        self.logits = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images."""
        x = self.conv0(x.permute(0, 3, 1, 2))
        for stage, count in enumerate(self.blocks, start=1):
            for number in range(count):
                x = torch.cat((x, self.get_submodule(f"stage{stage}_layer{number}")(x)), 1)
            if stage < len(self.blocks):
                x = functional.avg_pool2d(self.get_submodule(f"transition{stage}")(x), 2)
        return self.logits(self.norm(x).relu_().mean((2, 3)))


register(
    "densenet_bc100_12_cifar",
    functools.partial(
        DenseNet,
        num_classes=10,
        blocks=(16, 16, 16),
        growth_rate=12,
        bottleneck=4,
        stem_bias=False,
    ),
)
register(
    "uva_densenet_cifar",
    functools.partial(
        DenseNet,
        num_classes=10,
        blocks=(6, 6, 6, 6),
        growth_rate=16,
        bottleneck=2,
        stem_bias=True,
    ),
)
