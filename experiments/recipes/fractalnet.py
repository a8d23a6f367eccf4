"""FractalNet on CIFAR-10."""

from dlcore.train import Recipe
from experiments.recipes.image_data import ALL_TRAINING_IMAGES, cifar10, published_error
from experiments.recipes.registry import register

# Larsson et al. (2017), section 4: batches of 100, momentum 0.9, 400 epochs; the rate of 0.02 is
# divided by ten whenever the number of epochs that are left has halved.
register(
    Recipe(
        name="fractalnet20_cifar10",
        description="FractalNet of 20 layers on CIFAR-10",
        expected=published_error(4.6, "Larsson et al. 2017, table 1"),
        model="fractalnet20_cifar",
        data="cifar10",
        data_options=cifar10(**ALL_TRAINING_IMAGES),
        learning_rate=0.02,
        schedule="milestones",
        milestones=(0.5, 0.75, 0.875, 0.9375),
        batch_size=100,
        num_epochs=400,
    )
)
