"""LeNet-5, as published in 1998 and as it is built today, on handwritten digits."""

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.registry import register

register(
    Recipe(
        name="lenet5_digits",
        description="modern LeNet-5 on scikit-learn's 8x8 digits, enlarged to 28x28; no download",
        expected=Expectation("accuracy", 0.97, "max", "dlcore: the bound of `make train`"),
        model="lenet5_modern",
        data="digits",
        data_options={"resize": 28, "augment": "affine"},
        optimizer="adam",
        learning_rate=1e-3,
        schedule="cosine",
        batch_size=64,
        num_epochs=50,
    ),
    Recipe(
        name="lenet5_mnist",
        description="LeNet-5 as published in 1998, on MNIST padded to 32x32",
        expected=Expectation("accuracy", 0.988, "max", "LeCun et al. 1998: 0.95 % error"),
        task_options={"rubbish_penalty": 5.0},
        model="lenet5",
        data="mnist",
        data_options={"pad": 2},
        optimizer="adam",
        learning_rate=5e-3,
        schedule="cosine",
        num_epochs=12,
    ),
    Recipe(
        name="lenet5_modern_mnist",
        description="LeNet-5 with ReLU, max pooling and softmax, on MNIST",
        expected=Expectation(
            "accuracy", 0.991, "max", "commonly reached; LeCun et al. 1998: 0.95 % error"
        ),
        model="lenet5_modern",
        data="mnist",
        data_options={"augment": "affine"},
        optimizer="adam",
        learning_rate=2e-3,
        schedule="cosine",
        num_epochs=15,
    ),
    Recipe(
        name="lenet5_regularized_mnist",
        description="the same with batch normalization, dropout, Nesterov, decay and noise",
        expected=Expectation("accuracy", 0.992, "max", "dlcore: all switched on by flags"),
        model="lenet5_modern",
        model_options={"dropout_rate": 0.2, "normalization": "batch"},
        data="mnist",
        data_options={"augment": "affine"},
        optimizer="nesterov",
        learning_rate=0.05,
        schedule="cosine",
        weight_decay=1e-4,
        gradient_noise=0.01,
        num_epochs=12,
    ),
)
