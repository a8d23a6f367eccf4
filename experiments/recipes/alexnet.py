"""AlexNet on ImageNet."""

from typing import Any

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.image_data import imagenet, published_error
from experiments.recipes.registry import register

# Krizhevsky et al. (2012), sections 4 and 5: batches of 128, momentum 0.9, decay 5e-4, about 90
# epochs. The rate of 0.01 is divided by ten, three times, when the validation error stalls; one
# looked at it, where a number of epochs decides here. Section 4.1: squares anywhere in 256x256,
# their mirror images, the colors' principal components; a test averages over ten squares.
_COMMON: dict[str, Any] = {
    "learning_rate": 0.01,
    "weight_decay": 5e-4,
    "batch_size": 128,
    "num_epochs": 90,
}

register(
    Recipe(
        name="alexnet_imagenet",
        description="AlexNet of two towers on ImageNet",
        expected=published_error(40.7, "Krizhevsky et al. 2012, table 2"),
        model="alexnet",
        data="imagenet2012",
        data_options=imagenet(augment="flip,pca_color", crop_size=227, test_crops=10),
        schedule="plateau",
        plateau_patience=5,
        **_COMMON,
    ),
    # Krizhevsky (2014), section 5: the same, but that the rate is multiplied by 250 to the power of
    # -1/3 after each quarter of the training.
    Recipe(
        name="alexnet_one_tower_imagenet",
        description="AlexNet of a single tower on ImageNet",
        expected=Expectation("accuracy", 0.565, "max", "torchvision: 56.52 %"),
        model="alexnet_one_tower",
        data="imagenet2012",
        data_options=imagenet(augment="flip,pca_color"),
        schedule="milestones",
        milestones=(0.25, 0.5, 0.75),
        decay_factor=250 ** (-1 / 3),
        **_COMMON,
    ),
)
