"""Texts by what they are about, or how they are meant: many words, one answer."""

import dataclasses
from typing import Any

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

_TOPICS = dataclasses.replace(
    _POLARITY,
    name="topics_ag_news",
    description="Bag of words on the topics of news: four classes, from the official test split",
    expected=Expectation("accuracy", 0.84, "max", "dlcore"),
    # The official test split is all that is there: its texts are divided by the split seed.
    data="ag_news_7600",
    # One text of two hundred is longer.
    data_options={"splits": "train:test", "stratified": True, "min_count": 2, "length": 100},
)
_LSTM: dict[str, Any] = {
    "model": "lstm_classifier",
    "learning_rate": 1e-3,
    "clip_norm": 1.0,
}

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
        **_LSTM,
        name="lstm_polarity",
        description="Bidirectional LSTM on sentences of movie reviews",
        model_options={"bidirectional": True, "pooling": "max", "dropout_rate": 0.5},
        num_epochs=8,
    ),
    _TOPICS,
    dataclasses.replace(
        _TOPICS,
        name="topics_ag_news_kim_cnn",
        description="Kim's CNN on the topics of news: four classes, from the official test split",
        model="kim_cnn",
        learning_rate=5e-4,
        num_epochs=10,
    ),
    dataclasses.replace(
        _POLARITY,
        name="spam_sms",
        description="Bag of words on short messages: spam or not",
        expected=Expectation("accuracy", 0.97, "max", "dlcore"),
        data="sms_spam",
        data_options={"stratified": True, "min_count": 2},
    ),
    dataclasses.replace(
        _POLARITY,
        **_LSTM,
        name="names_languages",
        description="LSTM on surnames, character by character: 18 languages",
        expected=Expectation("accuracy", 0.75, "max", "dlcore (always saying Russian: 0.47)"),
        data="names_18_languages",
        data_options={"stratified": True, "tokenization": "character", "lowercase": False},
        model_options={"embedding_size": 32, "dropout_rate": 0.2},
        num_epochs=15,
    ),
)
