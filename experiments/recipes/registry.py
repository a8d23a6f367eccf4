"""The catalog of recipes: one file a family, one recipe a line of the results table."""

import importlib

from dlcore import data
from dlcore.errors import UsageError
from dlcore.registry import Registry
from dlcore.train import Recipe

_recipes: Registry[Recipe] = Registry(
    "recipe",
    "experiments.recipes",
    {
        "alexnet": ["alexnet_imagenet", "alexnet_one_tower_imagenet"],
        "binary": ["face_or_not"],
        "char_lstm": ["char_lstm_shakespeare"],
        "classifiers": [
            "densenet_bc100_12_digits",
            "fractal_mlp_digits",
            "lenet1_digits",
            "lenet4_digits",
            "maxout_digits",
            "mlp_dropout_digits",
            "nin_digits",
            "plain20_digits",
            "preresnet20_digits",
            "residual_mlp_digits",
            "squeezenet1_1_digits",
            "uva_densenet_digits",
            "uva_googlenet_digits",
            "uva_preresnet_digits",
            "uva_resnet_digits",
            "vgg_digits",
        ],
        "densenet": [
            "densenet100_12_cifar10",
            "densenet121_imagenet",
            "densenet161_imagenet",
            "densenet169_imagenet",
            "densenet201_imagenet",
            "densenet40_12_cifar10",
            "densenet_bc100_12_cifar10",
        ],
        "evolution": ["evolution_digits"],
        "fractalnet": ["fractalnet20_cifar10"],
        "gan": ["gan_digits", "gan_mnist"],
        "googlenet": ["googlenet_bn_imagenet", "googlenet_imagenet"],
        "lenet": [
            "lenet5_digits",
            "lenet5_mnist",
            "lenet5_modern_mnist",
            "lenet5_regularized_mnist",
        ],
        "linear": [
            "delta_rule_linear_wine",
            "delta_rule_nonlinear_wine",
            "lasso_diabetes",
            "least_squares_diabetes",
            "logistic_regression_breast_cancer",
            "ridge_diabetes",
            "softmax_regression_iris",
            "softmax_regression_mnist",
        ],
        "mlp": ["maxout_mnist", "mlp_mnist"],
        "multi_label": ["segments_digits"],
        "multitask": ["multitask_digits"],
        "neocognitron": [
            "cognitron_digits",
            "neocognitron_digits",
            "neocognitron_mnist",
            "neocognitron_shifted_mnist",
        ],
        "nin": ["nin_cifar10"],
        "perceptron": ["perceptron_digits"],
        "resnet": [
            "plain20_cifar10",
            "plain34_imagenet",
            "plain56_cifar10",
            "preresnet110_cifar10",
            "resnet101_imagenet",
            "resnet110_cifar10",
            "resnet152_imagenet",
            "resnet18_imagenet",
            "resnet20_cifar10",
            "resnet20_digits",
            "resnet32_cifar10",
            "resnet34_imagenet",
            "resnet44_cifar10",
            "resnet50_imagenet",
            "resnet56_cifar10",
            "stochastic_depth110_cifar10",
            "wrn16_8_cifar10",
            "wrn28_10_cifar10",
            "wrn40_4_cifar10",
            "wrn50_2_imagenet",
        ],
        "squeezenet": ["squeezenet1_0_imagenet", "squeezenet1_1_imagenet"],
        "texts": [
            "bag_of_words_polarity",
            "kim_cnn_polarity",
            "lstm_polarity",
            "names_languages",
            "spam_sms",
            "topics_ag_news",
            "topics_ag_news_kim_cnn",
        ],
        "transfer": [
            "few_digits_features",
            "few_digits_fine_tuned",
            "few_digits_frozen",
            "few_digits_layer_rates",
            "few_digits_scratch",
            "few_digits_source",
            "few_digits_unfreezing",
        ],
        "two_cores": [
            "plain20_cifar10_16x16",
            "plain56_cifar10_16x16",
            "resnet20_cifar10_16x16",
            "resnet20_cifar10_short",
            "resnet56_cifar10_16x16",
            "uva_densenet_cifar10_16x16",
            "vgg_cifar10_short",
        ],
        "vgg": ["vgg11_imagenet", "vgg13_imagenet", "vgg16_imagenet", "vgg19_imagenet"],
    },
)
names = _recipes.names


def register(*recipes: Recipe) -> None:
    """Adds recipes; a taken name is a ValueError, at import."""
    for recipe in recipes:
        _recipes.add(recipe.name, recipe)


def get(name: str) -> Recipe:
    """The recipe of a name: of the catalog, or `package.module:attribute` of one's own.

    The module of one's own may also register models, tasks, evaluators and datasets: the recipe
    then says that it has to be imported first.

    Raises:
      UsageError: there is no such recipe.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return _recipes.get(name)
    try:
        recipe = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"recipe={name}: {error}") from error
    if not isinstance(recipe, Recipe):
        raise UsageError(f"recipe={name} is no dlcore.train.Recipe but a {type(recipe).__name__}")
    return recipe.importing(module)


def at_hand(recipe: Recipe, data_dir: str | None) -> bool:
    """Whether a recipe's data come with the project, or are in the directory of prepared ones."""
    directory = data.data_directory(data_dir)
    return recipe.data in data.names() or bool(directory and (directory / recipe.data).is_dir())


def listing() -> str:
    """Every recipe with what it is and the score it should reach, a line each."""
    width = max(map(len, names()))
    return "\n".join(
        f"{recipe.name:<{width}}  {recipe.description}"
        + (f" [{recipe.expected}: {recipe.expected.source}]" if recipe.expected else "")
        for recipe in map(get, names())
    )
