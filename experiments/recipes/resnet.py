"""Residual networks."""

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.registry import register

register(
    Recipe(
        name="resnet20_digits",
        description="CIFAR ResNet-20 on scikit-learn's 8x8 digits; no download",
        expected=Expectation("accuracy", 0.97, "max", "dlcore"),
        model="resnet20_cifar",
        data="digits",
        data_options={"augment": "shift:1"},
        learning_rate=0.1,
        schedule="cosine",
        weight_decay=1e-4,
        num_epochs=30,
    ),
    # One cycle of the rate (Smith and Topin 2019): up for three of 18 epochs, then down to zero.
    Recipe(
        name="resnet20_cifar10_short",
        description="CIFAR ResNet-20 on cifar10_jpeg in a tenth of the paper's epochs",
        expected=Expectation("accuracy", 0.88, "max", "dlcore: no published score"),
        model="resnet20_cifar",
        data="cifar10_jpeg",
        data_options={"augment": "crop:4,flip"},
        optimizer="nesterov",
        learning_rate=0.2,
        schedule="cosine",
        warmup_steps=1056,
        weight_decay=5e-4,
        num_epochs=18,
    ),
    # The paper's training (section 4.2): 45,000 images for 64,000 steps of 128, momentum 0.9, decay
    # 1e-4, crops of images padded by four, mirrored or not. Its rate of 0.1 is divided by ten after
    # 32,000 and 48,000 steps, where a cosine leads down here, and it subtracts a mean image.
    Recipe(
        name="resnet20_cifar10",
        description="CIFAR ResNet-20 on cifar10_jpeg, which is CIFAR-10 with losses by JPEG",
        expected=Expectation(
            "accuracy", 0.9125, "max", "He et al. 2016, table 6: 8.75 % error, without JPEG"
        ),
        model="resnet20_cifar",
        data="cifar10_jpeg",
        data_options={"augment": "crop:4,flip"},
        learning_rate=0.1,
        schedule="cosine",
        weight_decay=1e-4,
        num_epochs=182,
    ),
)
