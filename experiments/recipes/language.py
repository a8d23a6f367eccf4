"""Character language models with a state that is carried along the text."""

from experiments.recipes.base import Expectation, Recipe, register

register(
    Recipe(
        name="char_lstm_shakespeare",
        description="LSTM of 2 x 128 units on Tiny Shakespeare, character by character",
        expected=Expectation("loss", 1.7, "min", "dlcore"),
        task="language_model",
        model="char_lstm",
        data="tiny_shakespeare",
        optimizer="adam",
        learning_rate=3e-3,
        schedule="cosine",
        clip_norm=5.0,
        batch_size=32,
        num_epochs=15,
    ),
)
