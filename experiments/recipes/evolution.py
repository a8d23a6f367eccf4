"""Generate and test on the bundled digits: what a search without gradients reaches."""

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.registry import register

register(
    Recipe(
        name="evolution_digits",
        description="MLP of 32 tanh units, evolved without gradients, on 8x8 digits; no download",
        expected=Expectation("accuracy", 0.92, "max", "dlcore"),
        task="evolution",
        model="mlp",
        model_options={"hidden": (32,)},
        data="digits",
        optimizer="sgd",
        learning_rate=1.0,
        batch_size=256,
        num_epochs=200,
        evaluate_every=20,
    ),
)
