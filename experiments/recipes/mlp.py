"""Multi-layer perceptrons on MNIST."""

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.registry import register

register(
    Recipe(
        name="mlp_mnist",
        description="MLP of 500 tanh units on MNIST",
        expected=Expectation(
            "accuracy", 0.982, "max", "lisa-lab's DeepLearningTutorials, mlp: 1.65 % error"
        ),
        model="mlp",
        data="mnist",
        learning_rate=0.1,
        schedule="cosine",
        weight_decay=5e-4,
        num_epochs=30,
    ),
)
