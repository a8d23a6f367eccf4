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
    # pylearn2's papers/maxout/mnist_pi.yaml: batches of 100, the rate divided by 1.000004 after
    # each, until 100 epochs have brought nothing better. There the momentum rises from 0.5 to the
    # 0.7 that it has here from the start, and the norms of the units' weights have a bound.
    Recipe(
        name="maxout_mnist",
        description="maxout network on MNIST, whose images it sees as rows of pixels",
        expected=Expectation(
            "accuracy", 0.9906, "max", "Goodfellow et al. 2013, table 1: 0.94 % error"
        ),
        model="maxout",
        data="mnist",
        data_options={"validation_fraction": 1 / 6, "normalize": "none"},
        initializer="small_uniform:0.005",
        optimizer="heavy_ball",
        momentum=0.7,
        learning_rate=0.1,
        schedule="exponential",
        decay_steps=500,
        decay_factor=1.000004**-500,
        batch_size=100,
        num_epochs=1000,
        patience=100,
    ),
)
