"""Two heads over one trunk: the class of a digit and its segments."""

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.registry import register

register(
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
