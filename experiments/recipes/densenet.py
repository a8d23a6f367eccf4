"""DenseNet on ImageNet and on CIFAR-10."""

from typing import Any

from dlcore.train import Recipe
from experiments.recipes.image_data import (
    ALL_TRAINING_IMAGES,
    cifar10,
    imagenet,
    published_error,
)
from experiments.recipes.registry import register

_PAPER = "Huang et al. 2017"
# Errors in percent of one square a picture, and with common augmentation.
_IMAGENET = {
    "densenet121": (25.02, f"{_PAPER}, table 3"),
    "densenet169": (23.80, f"{_PAPER}, table 3"),
    "densenet201": (22.58, f"{_PAPER}, table 3"),
    "densenet161": (22.2, f"{_PAPER}, their program"),
}
_CIFAR = {
    "densenet40_12": ("DenseNet of 40 layers", 5.24),
    "densenet100_12": ("DenseNet of 100 layers", 4.10),
    "densenet_bc100_12": ("DenseNet-BC of 100 layers", 4.51),
}
# Section 4.2: Nesterov's momentum of 0.9, decay 1e-4, the rate of 0.1 divided by ten twice.
_COMMON: dict[str, Any] = {
    "optimizer": "nesterov",
    "learning_rate": 0.1,
    "schedule": "milestones",
    "weight_decay": 1e-4,
}

register(
    # At epochs 30 and 60. The augmentation is that of fb.resnet.torch but for its jitter of
    # brightness, contrast and saturation.
    *(
        Recipe(
            name=f"{model}_imagenet",
            description=f"DenseNet-{model[8:]} on ImageNet",
            expected=published_error(error, source),
            model=model,
            data="imagenet2012",
            data_options=imagenet(augment="flip,pca_color", crop_area=0.08),
            milestones=(1 / 3, 2 / 3),
            batch_size=256,
            num_epochs=90,
            **_COMMON,
        )
        for model, (error, source) in _IMAGENET.items()
    ),
    # At a half and three quarters.
    *(
        Recipe(
            name=f"{model}_cifar10",
            description=f"{description} on CIFAR-10",
            expected=published_error(error, f"{_PAPER}, table 2"),
            model=f"{model}_cifar",
            data="cifar10",
            data_options=cifar10(**ALL_TRAINING_IMAGES),
            batch_size=64,
            num_epochs=300,
            **_COMMON,
        )
        for model, (description, error) in _CIFAR.items()
    ),
)
