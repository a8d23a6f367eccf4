"""What the papers' recipes share: how ImageNet and CIFAR-10 are prepared, and published errors.

Both are TFDS's: `python -m experiments.prepare` prepares `cifar10`; `imagenet2012` needs its
archives, which its owners hand out. Without either, `--data=synthetic` draws pictures of ImageNet's
size, and with `--data.image_size=32 --data.num_classes=10` such as CIFAR-10 has.
"""

from typing import Any

from dlcore.expectation import Expectation


def imagenet(**options: Any) -> dict[str, Any]:
    """ImageNet's images, their shorter side brought to 256 pixels, and squares of 224 of them.

    Scores are published on the official validation images: they are the test here. What says when
    to lower a rate, or which checkpoint is best, is a hundredth of the training images.
    """
    whole = {"splits": "test:validation", "validation_fraction": 0.01}
    size = {"resize": 256, "cut_square": True, "crop_size": 224}
    return {**whole, **size, "augment": "flip", **options}


def cifar10(**options: Any) -> dict[str, Any]:
    """CIFAR-10, cut out of images padded by four pixels, and mirrored or not.

    He et al. (2016), section 4.2, where a tenth of the training images is for validation.
    """
    return {"augment": "crop:4,flip", **options}


def published_error(percent: float, source: str) -> Expectation:
    """The accuracy that a published error leaves."""
    accuracy = round(1 - percent / 100, 4)
    return Expectation("accuracy", accuracy, "max", f"{source}: {percent} % error")


# As most papers after that have it: the last parameters are those that are tested.
ALL_TRAINING_IMAGES = {"validation_fraction": 0.0}
