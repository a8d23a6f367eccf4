"""Texts by what they are about, or how they are meant: many words, one answer."""

import dataclasses

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.registry import register

# A tenth of the sentences is for the test, as in the published cross-validations of ten folds.
_POLARITY = Recipe(
    name="bag_of_words_polarity",
    description="Bag of words, linear, on sentences of movie reviews",
    expected=Expectation("accuracy", 0.75, "max", "dlcore (such models reach about 0.77)"),
    task="sequence_classification",
    model="bag_of_words",
    data="rt_polarity",
    data_options={"test_fraction": 0.1, "min_count": 2},
    optimizer="adam",
    learning_rate=3e-3,
    batch_size=64,
    num_epochs=10,
)

register(
    _POLARITY,
    dataclasses.replace(
        _POLARITY,
        name="kim_cnn_polarity",
        description="Kim's CNN with random vectors on sentences of movie reviews",
        expected=Expectation("accuracy", 0.75, "max", "dlcore (Kim 2014, CNN-rand: 0.761)"),
        model="kim_cnn",
        learning_rate=5e-4,
        num_epochs=6,
    ),
    dataclasses.replace(
        _POLARITY,
        name="lstm_polarity",
        description="LSTM on sentences of movie reviews",
        expected=Expectation("accuracy", 0.75, "max", "dlcore (such models reach about 0.77)"),
        model="lstm_classifier",
        model_options={"bidirectional": True, "pooling": "max", "dropout_rate": 0.5},
        learning_rate=1e-3,
        clip_norm=1.0,
        num_epochs=8,
    ),
)
