"""The small members of the image classifiers' families, each on the bundled digits.

A newcomer trains any of them in a minute or two; the bounds are dlcore's own.
"""

from typing import Any

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.registry import register

# Of networks that normalize by the batch.
_NORMALIZED = {"learning_rate": 0.1, "weight_decay": 1e-4, "num_epochs": 20}
# Of the others, where one rate would have to suit every depth.
_PLAIN = {"optimizer": "adam", "learning_rate": 1e-3, "num_epochs": 30}
# Of those whose class maps are rectified: from zero, some would be silent at the start or after the
# first steps, and remain so. So short a training needs less dropout, too.
_RECTIFIED = {
    "model_options": {"logits_bias": 1.0, "dropout_rate": 0.2},
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "warmup_steps": 40,
    "clip_norm": 1.0,
    "batch_size": 32,
    "num_epochs": 20,
}


def _digits(model: str, description: str, size: int, options: dict[str, Any]) -> Recipe:
    name = model.removesuffix("_cifar")
    return Recipe(
        name=f"{name}_digits",
        description=f"{description} on scikit-learn's 8x8 digits, no download",
        expected=Expectation("accuracy", 0.96, "max", "dlcore: no published score"),
        model=model,
        data="digits",
        data_options={"resize": size, "augment": "shift:1"},
        schedule="cosine",
        **options,
    )


register(
    _digits("densenet_bc100_12_cifar", "DenseNet-BC of 100 layers", 8, _NORMALIZED),
    _digits("fractal_mlp", "fully connected FractalNet", 28, _PLAIN),
    _digits("lenet1", "LeNet-1", 28, {**_PLAIN, "learning_rate": 0.01}),
    _digits("lenet4", "LeNet-4", 32, _PLAIN),
    _digits("maxout", "maxout network", 28, _PLAIN),
    _digits("mlp_dropout", "MLP with dropout", 28, _PLAIN),
    # A kernel that is larger than its map is slow on a CPU: 5x5 on the second layer's, here of 6x6.
    _digits("nin_cifar", "Network in Network", 12, _RECTIFIED),
    _digits("plain20_cifar", "ResNet-20 without its shortcuts", 8, _NORMALIZED),
    _digits("preresnet20_cifar", "pre-activation ResNet-20", 8, _NORMALIZED),
    _digits("residual_mlp", "fully connected residual network", 28, _PLAIN),
    # At the size where the last maps are 3x3.
    _digits("squeezenet1_1", "SqueezeNet 1.1", 64, _RECTIFIED),
    _digits("uva_densenet_cifar", "the UvA tutorial's DenseNet", 8, _NORMALIZED),
    _digits("uva_googlenet_cifar", "the UvA tutorial's GoogLeNet", 8, _NORMALIZED),
    _digits("uva_preresnet_cifar", "the UvA tutorial's pre-activation ResNet", 8, _NORMALIZED),
    _digits("uva_resnet_cifar", "the UvA tutorial's ResNet", 8, _NORMALIZED),
    _digits("vgg_cifar", "a small VGG", 8, _PLAIN),
)
