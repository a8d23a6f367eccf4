"""Several yes-or-no answers at once: the code of a seven-segment display."""

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.registry import register

register(
    Recipe(
        name="segments_digits",
        description="seven-segment code of 8x8 digits, seven tags at once, by an MLP; no download",
        expected=Expectation("exact_match", 0.93, "max", "dlcore"),
        task="multi_label",
        model="mlp",
        model_options={"hidden": (100,), "activation": "relu"},
        data="digits_segments",
        optimizer="adam",
        learning_rate=3e-3,
        schedule="cosine",
        batch_size=64,
        num_epochs=30,
    ),
)
