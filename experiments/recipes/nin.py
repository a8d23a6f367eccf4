"""Network in Network on CIFAR-10."""

from dlcore.train import Recipe
from experiments.recipes.image_data import ALL_TRAINING_IMAGES, cifar10, published_error
from experiments.recipes.registry import register

# Lin et al. (2014), section 4: batches of 128; the rate is divided by ten twice, when the training
# accuracy stalls. The rate, the decay, the 120,000 steps and the first drop after 100,000 of them
# are those of the model that its first author gave to Caffe's zoo, the second drop's moment is
# dlcore's. The paper whitens the images (ZCA), where each channel is normalized here.
register(
    Recipe(
        name="nin_cifar10",
        description="Network in Network on CIFAR-10",
        expected=published_error(8.81, "Lin et al. 2014, table 1"),
        model="nin_cifar",
        data="cifar10",
        data_options=cifar10(**ALL_TRAINING_IMAGES),
        learning_rate=0.1,
        schedule="milestones",
        milestones=(5 / 6, 11 / 12),
        weight_decay=1e-4,
        batch_size=128,
        num_epochs=307,
    )
)
