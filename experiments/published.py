"""Scores on ImageNet that others have published for the registry's models.

They are shares of the 50,000 validation images of ILSVRC 2012 that were answered rightly, by one
network without an ensemble. Most are torchvision's, which tests all networks in one way, on the
central 224x224 pixels; where it has no such network, the paper's own.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

# Its documentation's table of weights; these are the first ones of each network.
TORCHVISION = "torchvision, IMAGENET1K_V1"


@dataclasses.dataclass(frozen=True)
class Published:
    """What a source says of a model.

    Attributes:
      top_1: accuracy in percent; None where the source gives none.
      top_5: share in percent of images whose class is among the five likeliest.
      source: who says so, and where.
      crops: of an image, over which the answer was averaged.
      image_size: height and width of what the network sees.
      options: of the model, as it is tested.
    """

    top_1: float | None
    top_5: float
    source: str = TORCHVISION
    crops: int = 1
    image_size: int = 224
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# The heads that only training has are left out, as in what is tested.
_WITHOUT_HEADS = {"auxiliary": False}

SCORES: Mapping[str, Published] = {
    "alexnet": Published(59.3, 81.8, "Krizhevsky et al. (2012), table 2", 10, 227),
    "alexnet_one_tower": Published(56.522, 79.066),
    "densenet121": Published(74.434, 91.972),
    "densenet161": Published(77.138, 93.560),
    "densenet169": Published(75.600, 92.806),
    "densenet201": Published(76.896, 93.370),
    "googlenet": Published(None, 89.93, "Szegedy et al. (2015), table 3", options=_WITHOUT_HEADS),
    "googlenet_bn": Published(69.778, 89.530, options=_WITHOUT_HEADS),
    "plain34": Published(71.46, 89.98, "He et al. (2016), table 3", 10),
    "resnet18": Published(69.758, 89.078),
    "resnet34": Published(73.314, 91.420),
    "resnet50": Published(76.130, 92.862),
    "resnet101": Published(77.374, 93.546),
    "resnet152": Published(78.312, 94.046),
    "squeezenet1_0": Published(58.092, 80.420),
    "squeezenet1_1": Published(58.178, 80.624),
    "vgg11": Published(69.020, 88.628),
    "vgg11_bn": Published(70.370, 89.810),
    "vgg13": Published(69.928, 89.246),
    "vgg13_bn": Published(71.586, 90.374),
    "vgg16": Published(71.592, 90.382),
    "vgg16_bn": Published(73.360, 91.516),
    "vgg19": Published(72.376, 90.876),
    "vgg19_bn": Published(74.218, 91.842),
    "wrn50_2": Published(78.468, 94.086),
}
