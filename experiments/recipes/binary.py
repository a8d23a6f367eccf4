"""Yes-or-no classifiers: is it huggable (Laurent and Guillozet), is it a face.

For a folder of one's own, with a folder of images in it for each of the two classes:

    python -m experiments.train --recipe=face_or_not --data=FOLDER --data.resize=32
"""

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.registry import register

register(
    Recipe(
        name="face_or_not",
        description="LeNet-5 tells faces from backgrounds, 200 images of lfw_face_or_not",
        expected=Expectation("area_under_curve", 0.95, "max", "dlcore: no published score"),
        task="binary_classification",
        model="lenet5_modern",
        data="lfw_face_or_not",
        data_options={"augment": "flip,shift:2"},
        optimizer="adam",
        learning_rate=0.001,
        batch_size=32,
        num_epochs=40,
        evaluate_every=10,
    ),
)
