"""GoogLeNet on ImageNet."""

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.image_data import imagenet
from experiments.recipes.registry import register

_BATCH = 32
# TFDS's training images without the hundredth that is for validation.
_STEPS_AN_EPOCH = round(1_281_167 * 0.99) // _BATCH

# Szegedy et al. (2015), section 6: momentum 0.9, the rate lowered by 4 % every eight epochs, an
# average of the parameters, squares made of 8 % of the area and more. What the paper does not say
# (the first rate, the batch, the decay, 250 epochs) is as in Caffe's models/bvlc_googlenet, how
# far the average reaches back is dlcore's.
register(
    *(
        Recipe(
            name=f"{model}_imagenet",
            description=f"{description} on ImageNet",
            expected=expected,
            model=model,
            data="imagenet2012",
            data_options=imagenet(crop_area=0.08),
            learning_rate=0.01,
            schedule="step",
            decay_steps=8 * _STEPS_AN_EPOCH,
            decay_factor=0.96,
            weight_decay=2e-4,
            ema_decay=0.9999,
            batch_size=_BATCH,
            num_epochs=250,
        )
        for model, description, expected in (
            (
                "googlenet",
                "GoogLeNet",
                # Of one model and one crop.
                Expectation("top_5_accuracy", 0.8993, "max", "Szegedy et al. 2015, table 3"),
            ),
            (
                "googlenet_bn",
                "GoogLeNet with batch normalization",
                Expectation("accuracy", 0.698, "max", "torchvision: 69.78 %"),
            ),
        )
    )
)
