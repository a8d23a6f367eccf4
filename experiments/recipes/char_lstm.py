"""Character language models with a state that is carried along the text."""

from dlcore.expectation import Expectation
from dlcore.train import Recipe
from experiments.recipes.registry import register

register(
    Recipe(
        name="char_lstm_shakespeare",
        description="LSTM of 2 x 128 units on Tiny Shakespeare, character by character",
        expected=Expectation(
            "loss", 1.6, "min", "dlcore, nats a character (nanoGPT's 10.7 M transformer: 1.47)"
        ),
        task="language_model",
        model="char_lstm",
        model_options={"dropout_rate": 0.1},
        data="tiny_shakespeare",
        optimizer="adam",
        learning_rate=4e-3,
        schedule="cosine",
        clip_norm=1.0,
        batch_size=16,
        num_epochs=20,
    ),
)
