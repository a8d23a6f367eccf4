"""Image classification: from softmax regression to LeNet-5, on the bundled digits and on MNIST."""

from experiments.recipes.base import Expectation, Recipe, register

register(
    Recipe(
        name="lenet5_digits",
        description="modern LeNet-5 on scikit-learn's 8x8 digits, enlarged to 28x28; no download",
        expected=Expectation("accuracy", 0.97, "max", "dlcore: the bound of `make train`"),
        model="lenet5_modern",
        data="digits",
        data_options={"resize": 28},
        optimizer="adam",
        learning_rate=1e-3,
        schedule="cosine",
        batch_size=64,
        num_epochs=20,
    ),
)
