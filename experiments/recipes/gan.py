"""Generative adversarial networks, judged by the classifier that LeNet gives."""

from dlcore.expectation import Expectation
from dlcore.train import Need, Recipe
from experiments.recipes.registry import get, register

register(
    Recipe(
        name="gan_digits",
        description="GAN (Goodfellow et al. 2014) on scikit-learn's 8x8 digits; no download",
        # Of a Gaussian with the mean and covariance of the test images' pixels.
        expected=Expectation(
            "frechet_ratio", 0.5, "min", "dlcore: half of a fitted Gaussian's distance"
        ),
        task="gan",
        model="gan",
        model_options={
            "image_size": 8,
            "generator_hidden": (256, 256),
            "discriminator_hidden": (128, 128),
        },
        data="digits",
        data_options={"normalize": "symmetric"},
        optimizer="adam",
        learning_rate=1e-3,
        beta1=0.5,
        ema_decay=0.999,
        batch_size=64,
        num_epochs=750,
        evaluate_every=50,
        evaluators="judged_samples",
        needs={"judge": Need(get("lenet5_digits"), same_data=True)},
    ),
    Recipe(
        name="gan_mnist",
        description="GAN (Goodfellow et al. 2014) on MNIST",
        expected=Expectation(
            "frechet_ratio", 0.25, "min", "dlcore: a quarter of a fitted Gaussian's distance"
        ),
        task="gan",
        model="gan",
        model_options={
            "generator_hidden": (256, 512),
            "discriminator_hidden": (128, 64),
            "input_dropout_rate": 0.0,
            "hidden_dropout_rate": 0.3,
        },
        data="mnist",
        data_options={"normalize": "symmetric"},
        optimizer="adam",
        learning_rate=1e-3,
        beta1=0.5,
        ema_decay=0.999,
        num_epochs=22,
        evaluators="judged_samples",
        needs={"judge": Need(get("lenet5_modern_mnist"), same_data=True)},
    ),
)
