"""Fukushima's networks: layers that learn without labels, then a linear layer that reads them."""

import dataclasses
from typing import Any

from dlcore.expectation import Expectation
from dlcore.train import Need, Phase, Recipe
from experiments.recipes.registry import get, register


def _phases(rates: tuple[float, ...], epochs: int) -> tuple[Phase, ...]:
    """One phase a layer, in which it alone learns, with the papers' q as the learning rate."""
    layers = [
        Phase(
            f"layer{layer}",
            {
                "task": "self_organization",
                "task_options": {"layer": layer},
                "optimizer": "sgd",
                "learning_rate": rate,
                "schedule": "constant",
                "num_epochs": epochs,
            },
        )
        for layer, rate in enumerate(rates, start=1)
    ]
    return (*layers, Phase("readout", {"groups": "layer.*:frozen"}))


_OF_ALL: dict[str, Any] = {
    # Cells neither give nor take what is negative: 0 is the background.
    "data_options": {"normalize": "none"},
    "optimizer": "adam",
    "schedule": "cosine",
}
# The rates of Fukushima (1980): q of the first layer is 1, that of the others 16.
_RATES = (1.0, 16.0)

register(
    Recipe(
        name="cognitron_digits",
        description="Cognitron (Fukushima 1975), read linearly, on 8x8 digits; no download",
        expected=Expectation("accuracy", 0.9, "max", "dlcore: no published score"),
        model="cognitron",
        data="digits",
        learning_rate=0.01,
        batch_size=64,
        num_epochs=20,
        phases=_phases(_RATES, epochs=2),
        **_OF_ALL,
    ),
    Recipe(
        name="neocognitron_digits",
        description="Neocognitron (Fukushima 1980), read linearly, on 8x8 digits; no download",
        expected=Expectation("accuracy", 0.9, "max", "dlcore: no published score"),
        model="neocognitron",
        model_options={"size": 3, "column": 3, "windows": (3, 3), "planes": (16, 64)},
        data="digits",
        learning_rate=0.01,
        batch_size=64,
        num_epochs=20,
        phases=_phases(_RATES, epochs=2),
        **_OF_ALL,
    ),
    Recipe(
        name="neocognitron_mnist",
        description="Neocognitron (Fukushima 1980), read linearly, on MNIST",
        expected=Expectation("accuracy", 0.9, "max", "dlcore: no published score"),
        model="neocognitron",
        data="mnist",
        learning_rate=0.003,
        batch_size=100,
        num_epochs=3,
        phases=_phases(_RATES, epochs=1),
        **_OF_ALL,
    ),
)
register(
    dataclasses.replace(
        get("neocognitron_mnist"),
        name="neocognitron_shifted_mnist",
        description="the same, beside an MLP, on test images that are shifted by 4 pixels",
        expected=Expectation("shift_loss_ratio", 0.5, "min", "dlcore: half of what an MLP loses"),
        needs={"baseline": Need(get("mlp_mnist"), same_data=True)},
        evaluators="shift_tolerance",
    )
)
