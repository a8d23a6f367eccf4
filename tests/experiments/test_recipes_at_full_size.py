"""Recipes for data that are not at hand, built on pictures of the same size that are drawn."""

import dataclasses

import pytest

from dlcore import data, models
from dlcore.train.preparation import prepare
from dlcore.train.report import count_parameters
from experiments import recipes

# Sides that the papers' networks see; of ImageNet some print 224 and mean 227.
SIDES = {"imagenet2012": {224, 227}, "cifar10": {32}}
# What the pictures of a dataset are like, where they are none of ImageNet's.
_CIFAR = {"image_size": 32, "num_classes": 10}
PICTURES = {
    "imagenet2012": {},
    "cifar10": _CIFAR,
    "cifar10_jpeg": _CIFAR,
    "mnist": {"image_size": 28, "channels": 1, "num_classes": 10},
}
# Those of which other tests have a small dataset.
OTHERS = {
    "ag_news_7600",
    "lfw_face_or_not",
    "names_18_languages",
    "rt_polarity",
    "sms_spam",
    "tiny_shakespeare",
}
# What is traced in a second; the deep ones take up to ten.
SMALL = {
    "alexnet_imagenet",
    "maxout_mnist",
    "nin_cifar10",
    "resnet18_imagenet",
    "squeezenet1_1_imagenet",
    "vgg16_imagenet",
    "wrn16_8_cifar10",
}
NAMES = [name for name in recipes.names() if recipes.get(name).data in PICTURES]


def test_there_are_pictures_for_every_dataset_that_is_not_bundled():
    named = {recipes.get(name).data for name in recipes.names()}
    assert named - set(data.names()) == PICTURES.keys() | OTHERS


@pytest.mark.parametrize(
    "name",
    [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_a_program_is_built_for_pictures_of_the_published_size(name):
    recipe = recipes.get(name)
    drawn = {**recipe.data_options, **PICTURES[recipe.data], "num_examples": 4000}
    recipe = dataclasses.replace(
        recipe,
        data="synthetic",
        data_options={**drawn, "normalize": "symmetric", "augment": "flip"},
        batch_size=8,
    )
    prepared = prepare(recipe)
    side = prepared.dataset.facts["image_size"]
    assert side in SIDES.get(recipes.get(name).data, {side})
    if not recipe.model_options:
        assert count_parameters(prepared) == models.entry(recipe.model).parameter_count
