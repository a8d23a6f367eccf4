"""A training step of ResNet-50 in PyTorch, for `experiments.benchmark` to compare with.

The network is that of `dlcore.models.resnet`; the step is momentum descent on the cross-entropy, in
channels-last order, in bfloat16 where autocast has it so.
"""

from kernels import timing

NETWORK = """
from torch import nn

class ConvNorm(nn.Sequential):
    def __init__(self, inputs, maps, size, stride=1, relu=True):
        conv = nn.Conv2d(inputs, maps, size, stride, size // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(maps), *([nn.ReLU(inplace=True)] if relu else []))

class Bottleneck(nn.Module):
    def __init__(self, inputs, maps, stride):
        super().__init__()
        self.body = nn.Sequential(
            ConvNorm(inputs, maps, 1),
            ConvNorm(maps, maps, 3, stride),
            ConvNorm(maps, 4 * maps, 1, relu=False),
        )
        same = inputs == 4 * maps
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, 4 * maps, 1, stride, relu=False)

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))

def resnet50(channels, classes):
    layers = [ConvNorm(channels, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        maps = 64 * 2**stage
        for block in range(blocks):
            layers.append(Bottleneck(inputs, maps, 2 if stage and not block else 1))
            inputs = 4 * maps
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
"""

_STEP = """
batch, height, width, channels, classes, dtype, names = words
torch.backends.cudnn.benchmark = True

def measured(name):
    network = resnet50(channels, classes).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    if name == "torch_compiled":
        network = torch.compile(network)

    def step(drawn):
        images, labels = drawn
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()

    return [seconds(step, drawn)]

drawn = [
    (
        torch.randn(batch, channels, height, width, device=device).to(
            memory_format=torch.channels_last
        ),
        torch.randint(classes, (batch,), device=device),
    )
    for _ in range(4)
]
print(json.dumps({name: measured(name) for name in names}))
"""


def resnet50_seconds(
    python: str,
    images: tuple[int, int, int, int],
    classes: int,
    dtype: str,
    effort: timing.Effort,
    names: tuple[str, ...] = ("torch", "torch_compiled"),
) -> dict[str, float]:
    """Seconds of a step, as it is and compiled.

    Args:
      python: one that has PyTorch.
      images: batch, height, width, channels.
      classes: number of classes.
      dtype: "float32", or "bfloat16" for mixed precision.
      effort: steps between two looks at the clock, and how often; the median counts.
      names: what is measured.
    """
    script = timing.Script(NETWORK + _STEP, (*images, classes, dtype, names))
    measured = timing.torch_seconds(python, script, effort)
    return {name: one for name, (one,) in measured.items()}
