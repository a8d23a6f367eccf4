"""What others have published of the models on ImageNet."""

import pytest

from dlcore import models
from experiments import models as table
from experiments import published

# Billions of operations, from the same table of torchvision's documentation.
TORCHVISION_OPERATIONS = {
    "alexnet_one_tower": 0.714,
    "densenet121": 2.834,
    "densenet161": 7.728,
    "densenet169": 3.360,
    "densenet201": 4.291,
    "googlenet_bn": 1.498,
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "resnet152": 11.514,
    "squeezenet1_0": 0.819,
    "squeezenet1_1": 0.349,
    "vgg11": 7.609,
    "vgg11_bn": 7.609,
    "vgg13": 11.308,
    "vgg13_bn": 11.308,
    "vgg16": 15.470,
    "vgg16_bn": 15.470,
    "vgg19": 19.632,
    "vgg19_bn": 19.632,
    "wrn50_2": 11.398,
}


def test_every_score_is_a_share_of_images_with_a_source():
    for name, score in published.SCORES.items():
        assert name in models.listed()
        assert score.source
        assert 50 < (score.top_1 or score.top_5 - 1) < score.top_5 < 95


@pytest.mark.parametrize(
    ("name", "top_1_error", "top_5_error"),
    [
        # As the papers print them, in percent.
        ("alexnet", 40.7, 18.2),
        ("plain34", 28.54, 10.02),
        # An older page of torchvision's documentation, which prints errors.
        ("resnet18", 30.24, 10.92),
        ("squeezenet1_1", 41.81, 19.38),
        ("vgg19", 27.62, 9.12),
    ],
)
def test_errors_are_those_of_the_sources(name, top_1_error, top_5_error):
    score = published.SCORES[name]
    assert 100 - score.top_1 == pytest.approx(top_1_error, abs=0.02)
    assert 100 - score.top_5 == pytest.approx(top_5_error, abs=0.02)


def test_all_that_torchvision_publishes_is_there():
    of_torchvision = {
        name for name, score in published.SCORES.items() if score.source == published.TORCHVISION
    }
    assert of_torchvision == TORCHVISION_OPERATIONS.keys()


def check_operations(name):
    billions = table.on_imagenet(name).multiply_adds / 1e9
    assert billions == pytest.approx(TORCHVISION_OPERATIONS[name], abs=6e-4)


@pytest.mark.parametrize("name", ["alexnet_one_tower", "squeezenet1_1", "vgg11"])
def test_multiply_adds_at_full_size_are_torchvision_s_operations(name):
    check_operations(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION_OPERATIONS)
def test_multiply_adds_of_all_at_full_size_are_torchvision_s_operations(name):
    check_operations(name)


@pytest.mark.slow
def test_heads_that_only_training_has_are_not_counted():
    assert table.on_imagenet("googlenet_bn").parameters == 6_624_904
