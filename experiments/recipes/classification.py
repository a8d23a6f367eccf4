"""Image classification: from softmax regression to residual networks."""

from dlcore.expectation import Expectation
from experiments.recipes.base import Recipe, register

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
        name="softmax_regression_mnist",
        description="softmax regression on MNIST",
        expected=Expectation(
            "accuracy", 0.922, "max", "lisa-lab's DeepLearningTutorials, logreg: 7.5 % error"
        ),
        model="softmax_regression",
        data="mnist",
        optimizer="adam",
        learning_rate=1e-3,
        schedule="cosine",
        num_epochs=20,
    ),
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
        description="the same with batch normalisation, dropout, Nesterov, decay and noise",
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
    Recipe(
        name="resnet20_digits",
        description="CIFAR ResNet-20 on scikit-learn's 8x8 digits; no download",
        expected=Expectation("accuracy", 0.97, "max", "dlcore"),
        model="resnet20_cifar",
        data="digits",
        data_options={"augment": "shift:1"},
        learning_rate=0.1,
        schedule="cosine",
        weight_decay=1e-4,
        num_epochs=30,
    ),
    # The paper's training (section 4.2): 45,000 images for 64,000 steps of 128, momentum 0.9, decay
    # 1e-4, crops of images padded by four, mirrored or not. Its rate of 0.1 is divided by ten after
    # 32,000 and 48,000 steps, where a cosine leads down here, and it subtracts a mean image.
    Recipe(
        name="resnet20_cifar10",
        description="CIFAR ResNet-20 on cifar10_jpeg, which is CIFAR-10 with losses by JPEG",
        expected=Expectation(
            "accuracy", 0.9125, "max", "He et al. 2016, table 6: 8.75 % error, without JPEG"
        ),
        model="resnet20_cifar",
        data="cifar10_jpeg",
        data_options={"augment": "crop:4,flip"},
        learning_rate=0.1,
        schedule="cosine",
        weight_decay=1e-4,
        num_epochs=182,
    ),
)
