"""Residual networks and their plain twins, on digits, CIFAR-10 and ImageNet."""

from typing import Any

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.image_data import (
    ALL_TRAINING_IMAGES,
    cifar10,
    imagenet,
    published_error,
)
from experiments.recipes.registry import register

_HE = "He et al. 2016"
_WIDE = "Zagoruyko and Komodakis 2016"


def _recipe(
    name: str, description: str, error: float, source: str, model: str, **fields: Any
) -> Recipe:
    """A recipe whose publication reports that error in percent."""
    return Recipe(
        name=name,
        description=description,
        expected=published_error(error, source),
        model=model,
        **fields,
    )


# He et al. (2016), section 3.4: batches of 256, momentum 0.9, decay 1e-4, 600,000 steps; the rate
# of 0.1 is divided by ten when the error stalls. Shorter sides of 256 to 480 pixels, mirror images,
# AlexNet's change of colors; a test averages over ten squares.
_IMAGENET: dict[str, Any] = {
    "data": "imagenet2012",
    "data_options": imagenet(augment="flip,pca_color", crop_scales=(256, 480), test_crops=10),
    "learning_rate": 0.1,
    "schedule": "plateau",
    "plateau_patience": 5,
    "weight_decay": 1e-4,
    "batch_size": 256,
    "num_epochs": 120,
}
# Section 4.2: batches of 128, momentum 0.9, decay 1e-4, 64,000 steps; the rate of 0.1 is divided by
# ten at a half and three quarters of them. The paper subtracts a mean image.
_CIFAR: dict[str, Any] = {
    "data": "cifar10",
    "data_options": cifar10(),
    "learning_rate": 0.1,
    "schedule": "milestones",
    "weight_decay": 1e-4,
    "num_epochs": 182,
}
# Huang et al. (2016), section 4: the same with Nesterov's momentum, 500 epochs.
_STOCHASTIC = _CIFAR | {"optimizer": "nesterov", "num_epochs": 500}
# Zagoruyko and Komodakis (2016), section 3: Nesterov's momentum, decay 5e-4, 200 epochs; the rate
# of 0.1 is multiplied by 0.2 at epochs 60, 120 and 160. They pad with mirror images of the border.
_WIDE_CIFAR = _CIFAR | {
    "data_options": cifar10(**ALL_TRAINING_IMAGES),
    "optimizer": "nesterov",
    "milestones": (0.3, 0.6, 0.8),
    "decay_factor": 0.2,
    "weight_decay": 5e-4,
    "num_epochs": 200,
}
# Their ImageNet training is fb.resnet.torch's: see densenet.py.
_WIDE_IMAGENET = _IMAGENET | {
    "data_options": imagenet(augment="flip,pca_color", crop_area=0.08),
    "optimizer": "nesterov",
    "schedule": "milestones",
    "milestones": (1 / 3, 2 / 3),
    "num_epochs": 90,
}

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
    # The paper's training on images that JPEG has changed.
    Recipe(
        name="resnet20_cifar10",
        description="CIFAR ResNet-20 on cifar10_jpeg, which is CIFAR-10 with losses by JPEG",
        expected=Expectation(
            "accuracy", 0.9125, "max", "He et al. 2016, table 6: 8.75 % error, without JPEG"
        ),
        model="resnet20_cifar",
        **_CIFAR | {"data": "cifar10_jpeg"},
    ),
    *(
        _recipe(
            f"{model}_imagenet", f"{kind} on ImageNet", error, f"{_HE}, {table}", model, **_IMAGENET
        )
        for model, kind, error, table in (
            ("plain34", "ResNet-34 without its shortcuts", 28.54, "table 2"),
            ("resnet18", "ResNet-18", 27.88, "table 2"),
            ("resnet34", "ResNet-34", 24.52, "table 3"),
            ("resnet50", "ResNet-50", 22.85, "table 3"),
            ("resnet101", "ResNet-101", 21.75, "table 3"),
            ("resnet152", "ResNet-152", 21.43, "table 3"),
        )
    ),
    # The plain networks' errors are not printed but drawn.
    *(
        _recipe(
            f"{model}_cifar10",
            f"{kind} on CIFAR-10",
            error,
            f"{_HE}, {where}",
            f"{model}_cifar",
            # Section 4.2: without a warm-up 110 layers do not begin to learn.
            **_CIFAR | ({"warmup_steps": 400} if model == "resnet110" else {}),
        )
        for model, kind, error, where in (
            ("plain20", "ResNet-20 without its shortcuts", 10.0, "about, drawn in figure 6"),
            ("plain56", "ResNet-56 without its shortcuts", 14.0, "about, drawn in figure 6"),
            ("resnet32", "CIFAR ResNet-32", 7.51, "table 6"),
            ("resnet44", "CIFAR ResNet-44", 7.17, "table 6"),
            ("resnet56", "CIFAR ResNet-56", 6.97, "table 6"),
            ("resnet110", "CIFAR ResNet-110", 6.61, "table 6, mean of five"),
        )
    ),
    _recipe(
        "preresnet110_cifar10",
        "pre-activation ResNet-110 on CIFAR-10",
        6.37,
        "He et al. 2016b, table 2",
        "preresnet20_cifar",
        model_options={"blocks": (18, 18, 18)},
        warmup_steps=400,
        **_CIFAR,
    ),
    _recipe(
        "stochastic_depth110_cifar10",
        "ResNet-110 of stochastic depth on CIFAR-10",
        5.23,
        "Huang et al. 2016, table 1",
        "stochastic_depth110_cifar",
        **_STOCHASTIC,
    ),
    *(
        _recipe(
            f"wrn{layers}_{width}_cifar10",
            f"Wide ResNet of {layers} layers, {width} times as wide, on CIFAR-10",
            error,
            f"{_WIDE}, table 5",
            f"wrn{layers}_{width}",
            **_WIDE_CIFAR,
        )
        for layers, width, error in ((16, 8, 4.27), (28, 10, 4.0), (40, 4, 4.53))
    ),
    _recipe(
        "wrn50_2_imagenet",
        "ResNet-50 with bottlenecks twice as wide on ImageNet",
        21.9,
        f"{_WIDE}, table 8",
        "wrn50_2",
        **_WIDE_IMAGENET,
    ),
)
