"""The twins of the residual networks of `dlcore.models.resnet`."""

import functools

import torch
from torch import nn
from torch.nn import functional

from experiments.peers.peer import Batch, Classifier, register


class ConvNorm(nn.Module):
    """A convolution and batch normalization."""

    def __init__(
        self, inputs: int, features: int, kernel_size: int, stride: int = 1, bias: bool = False
    ):
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(inputs, features, kernel_size, stride, padding, bias=bias)
        self.norm = nn.BatchNorm2d(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Without an activation."""
        return self.norm(self.conv(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut has no parameters."""

    expansion = 1

    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        self.new, self.stride = features - inputs, stride
        self.conv1 = ConvNorm(inputs, features, 3, stride)
        self.conv2 = ConvNorm(features, features, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        y = self.conv2(self.conv1(x).relu_())
        if self.new:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        return (y + x).relu_()


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; a shortcut that changes its channels is a projection."""

    expansion = 4

    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        self.conv1 = ConvNorm(inputs, features, 1)
        self.conv2 = ConvNorm(features, features, 3, stride)
        self.conv3 = ConvNorm(features, 4 * features, 1)
        same = inputs == 4 * features
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, 4 * features, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        y = self.conv3(self.conv2(self.conv1(x).relu_()).relu_())
        return (y + self.shortcut(x)).relu_()


class ResNet(Classifier):
    """A residual network: for CIFAR-10 of basic blocks, for ImageNet of bottlenecks."""

    def __init__(
        self,
        batch: Batch,
        num_classes: int,
        blocks: tuple[int, ...],
        dtype: str = "float32",
        *,
        block: type[BasicBlock] | type[BottleneckBlock],
        first: tuple[int, int, int],
    ):
        super().__init__()
        self.dtype, (features, kernel_size, stride) = dtype, first
        self.conv1 = ConvNorm(batch["image"].shape[-1], features, kernel_size, stride)
        self.pool = nn.MaxPool2d(3, 2, 1) if stride > 1 else nn.Identity()
        inputs = features
        for stage, count in enumerate(blocks):
            for number in range(count):
                built = block(inputs, features * 2**stage, 2 if stage and not number else 1)
                self.add_module(f"stage{stage + 1}_block{number}", built)
                inputs = features * 2**stage * block.expansion
        self.logits = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            x = self.pool(self.conv1(x.permute(0, 3, 1, 2)).relu_())
            for name, block in self.named_children():
                if name.startswith("stage"):
                    x = block(x)
        return self.logits(x.float().mean((2, 3)))


register(
    "resnet20_cifar",
    functools.partial(ResNet, num_classes=10, blocks=(3, 3, 3), block=BasicBlock, first=(16, 3, 1)),
)
register(
    "resnet50",
    functools.partial(
        ResNet, num_classes=1000, blocks=(3, 4, 6, 3), block=BottleneckBlock, first=(64, 7, 2)
    ),
)
