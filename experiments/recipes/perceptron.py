"""Rosenblatt's perceptron on the bundled digits."""

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.registry import register

register(
    Recipe(
        name="perceptron_digits",
        description="Rosenblatt's perceptron, ten units, on 8x8 digits; no download",
        expected=Expectation("accuracy", 0.9, "max", "dlcore"),
        task="perceptron",
        model="perceptron",
        data="digits",
        optimizer="sgd",
        learning_rate=1.0,
        batch_size=64,
        num_epochs=20,
    ),
)
