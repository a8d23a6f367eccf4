"""Several answers at once: the segments that show a digit, alone and beside the digit's class."""

from dlcore.expectation import Expectation
from experiments.recipes.base import Recipe, register

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
    Recipe(
        name="multitask_digits",
        description="class and seven-segment code of 8x8 digits over one trunk; no download",
        expected=Expectation("accuracy", 0.96, "max", "dlcore"),
        task="multitask",
        task_options={"tag_weight": 0.3},
        model="multitask_mlp",
        data="digits",
        optimizer="adam",
        learning_rate=3e-3,
        schedule="cosine",
        batch_size=64,
        num_epochs=30,
    ),
)
