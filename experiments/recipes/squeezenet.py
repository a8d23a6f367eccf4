"""SqueezeNet on ImageNet."""

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.image_data import imagenet
from experiments.recipes.registry import register

# The authors' solver.prototxt and train_val.prototxt: batches of 512, 170,000 steps in which the
# rate falls from 0.04 to zero in a straight line, momentum 0.9, decay 2e-4, squares of 227 pixels
# anywhere, not mirrored.
register(
    *(
        Recipe(
            name=f"{model}_imagenet",
            description=f"SqueezeNet {model[-3]}.{model[-1]} on ImageNet",
            expected=Expectation("accuracy", score, "max", source),
            model=model,
            data="imagenet2012",
            data_options=imagenet(augment="", crop_size=227),
            learning_rate=0.04,
            schedule="linear",
            weight_decay=2e-4,
            batch_size=512,
            num_epochs=69,
        )
        for model, score, source in (
            ("squeezenet1_0", 0.575, "Iandola et al. 2016, table 2: 57.5 %"),
            ("squeezenet1_1", 0.575, "the authors' program: as 1.0, 57.5 %"),
        )
    )
)
