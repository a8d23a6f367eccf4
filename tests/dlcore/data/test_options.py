"""What options may be."""

import pytest

from dlcore.data import ExampleOptions, TextOptions
from dlcore.errors import UsageError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"validation_fraction": 1.0},
            "validation_fraction=1.0: it must be at least 0 and below",
        ),
        ({"validation_fraction": -0.1}, r"validation_fraction=-0.1"),
        ({"validation_fraction": float("nan")}, r"validation_fraction=nan"),
        ({"test_fraction": 0.0}, r"test_fraction=0.0: it must be above 0 and below 1"),
        ({"test_fraction": 1.5}, r"test_fraction=1.5"),
        ({"split_seed": -1}, "split_seed=-1: it must be at least 0"),
        ({"examples_per_class": -1}, "examples_per_class=-1: it must be at least 0"),
        ({"resize": -1}, "resize=-1"),
        ({"pad": -2}, "pad=-2"),
        ({"crop_size": -1}, "crop_size=-1"),
        ({"curriculum_epochs": -1}, "curriculum_epochs=-1"),
        ({"test_crops": 3, "crop_size": 8}, "test_crops is 3: it must be 1, 5 or 10"),
        ({"test_crops": 5}, "test_crops is 5: it needs a crop_size"),
        ({"cut_square": True}, "cut_square is True: it is for images that resize gives a size"),
        ({"crop_size": 8, "crop_scales": (9,)}, "crop_scales is 9: it is two numbers of pixels"),
        ({"crop_size": 8, "crop_scales": (12, 9)}, "crop_scales is 12,9: .* the smaller one first"),
        ({"crop_size": 8, "crop_scales": (7, 9)}, "crop_scales is 7,9: .* below the crop_size, 8"),
        ({"crop_scales": (7, 9)}, "crop_scales is 7,9"),
        ({"crop_size": 8, "crop_area": 1.1}, r"crop_area=1.1: it must be at least 0 and at most 1"),
        ({"crop_area": 0.1}, "crop_area is 0.1: it needs a crop_size, and no crop_scales"),
        (
            {"augment": "flip:2"},
            "augmentation 'flip:2': its strength must be at least 0",
        ),
        ({"length": -1}, "length=-1"),
        ({"max_boxes": 0}, "max_boxes=0: it must be at least 1"),
        ({"features": "image"}, "features is 'image': it takes words such as new:old"),
        ({"features": "image:"}, "features is 'image:': it takes words such as new:old"),
        ({"features": "image:a image:b"}, "features is 'image:a image:b': it has a name twice"),
        ({"features": "image:a label:a"}, "it has a name twice"),
        ({"splits": "train"}, "splits is 'train': it takes words such as new:old"),
        ({"splits": "small:train"}, "splits has 'small': a split is used as train, validation or"),
        ({"normalize": "whiten"}, "unknown normalize 'whiten': it is one of mean_std, symmetric"),
    ],
)
def test_a_value_out_of_range_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ExampleOptions(**options)


def test_a_row_of_text_has_at_least_one_character():
    with pytest.raises(UsageError, match="sequence_length=0: it must be at least 1"):
        TextOptions(sequence_length=0)
