"""Classifiers of real color images, as far as two CPU cores get in some forty minutes.

The images are cifar10_jpeg's: CIFAR-10 with losses by JPEG, of which nobody has published scores.
The rate goes through one cycle (Smith and Topin, 2019): up for a sixth of the training, then down.
"""

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.registry import register

# Of 45,000 images in batches of 128.
_STEPS_PER_EPOCH = 351


def _short(name: str, description: str, bound: float, epochs: int, rate: float) -> Recipe:
    return Recipe(
        name=f"{name}_cifar10_short",
        description=f"{description} on cifar10_jpeg, {epochs} epochs",
        expected=Expectation("accuracy", bound, "max", "dlcore: no published score"),
        model=f"{name}_cifar",
        data="cifar10_jpeg",
        data_options={"augment": "crop:4,flip"},
        optimizer="nesterov",
        learning_rate=rate,
        schedule="cosine",
        warmup_steps=epochs * _STEPS_PER_EPOCH // 6,
        weight_decay=5e-4,
        num_epochs=epochs,
    )


def _small(name: str, description: str, bound: float, mode: str = "max", epochs: int = 5) -> Recipe:
    return Recipe(
        name=f"{name}_cifar10_16x16",
        description=f"{description} on cifar10_jpeg at 16x16 pixels, {epochs} epochs",
        expected=Expectation("accuracy", bound, mode, "dlcore: no published score"),
        model=f"{name}_cifar",
        data="cifar10_jpeg",
        data_options={"augment": "flip", "resize": 16},
        learning_rate=0.1,
        schedule="cosine",
        weight_decay=1e-4,
        num_epochs=epochs,
    )


register(
    _short("resnet20", "CIFAR ResNet-20", 0.88, 18, 0.2),
    _short("vgg", "a small VGG", 0.85, 18, 0.05),
    _small("uva_densenet", "the UvA tutorial's DenseNet", 0.7, epochs=10),
    # The comparison of He et al. (2016), section 4.2 and figure 6.
    _small("plain20", "ResNet-20 without its shortcuts", 0.6),
    _small("plain56", "ResNet-56 without its shortcuts, worse than of 20 layers", 0.6, "min"),
    _small("resnet20", "CIFAR ResNet-20", 0.65),
    _small("resnet56", "CIFAR ResNet-56", 0.65),
)
