"""Generative adversarial networks, judged by the classifier that LeNet gives."""

from experiments.recipes.base import Expectation, Recipe, register

register(
    Recipe(
        name="gan_digits",
        description="GAN of Goodfellow et al. on digits enlarged to 28x28; no download",
        expected=Expectation("frechet_ratio", 0.5, "min", "dlcore"),
        task="gan",
        model="gan",
        data="digits",
        data_options={"resize": 28, "normalize": "symmetric"},
        optimizer="adam",
        learning_rate=2e-4,
        beta1=0.5,
        batch_size=64,
        num_epochs=200,
        judge="lenet5_digits",
    ),
)
