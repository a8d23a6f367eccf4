"""VGG on ImageNet."""

from dlcore.train import Recipe
from experiments.recipes.image_data import imagenet, published_error
from experiments.recipes.registry import register

# Simonyan and Zisserman (2015), table 3: the size of training images, the size of the test's, and
# the error. They test densely, over whole images, where ten squares are averaged here.
_FIXED = imagenet(augment="flip,pca_color", test_crops=10)
_JITTERED = {**_FIXED, "resize": 384, "crop_scales": (256, 512)}
_TABLE = (
    ("vgg11", _FIXED, 29.6),
    ("vgg13", _FIXED, 28.7),
    ("vgg16", _JITTERED, 25.6),
    ("vgg19", _JITTERED, 25.5),
)

# Section 3.1: batches of 256, momentum 0.9, decay 5e-4, 74 epochs; the rate is divided by ten,
# three times, when the validation accuracy stalls.
register(
    *(
        Recipe(
            name=f"{model}_imagenet",
            description=f"VGG-{model[3:]} on ImageNet",
            expected=published_error(error, "Simonyan and Zisserman 2015, table 3"),
            model=model,
            data="imagenet2012",
            data_options=data_options,
            learning_rate=0.01,
            schedule="plateau",
            plateau_patience=5,
            weight_decay=5e-4,
            batch_size=256,
            num_epochs=74,
        )
        for model, data_options, error in _TABLE
    )
)
