"""Fukushima's networks: layers that learn without labels, then a linear layer that reads them."""

import dataclasses
from typing import Any

from dlcore.expectation import Expectation
from dlcore.train import Need, Phase, Recipe
from experiments.recipes.registry import get, register

# Fukushima (1980): q of the first layer is 1, that of the others 16.
_RATES = (1.0, 16.0)


def _phases(epochs: int, **readout: Any) -> tuple[Phase, ...]:
    """A phase for each layer, in which it alone learns at the rate q; then one for the readout.

    Args:
      epochs: of each layer.
      readout: fields of the recipe in the last phase.
    """
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
        for layer, rate in enumerate(_RATES, start=1)
    ]
    return (*layers, Phase("readout", {"groups": "layer.*:frozen", **readout}))


_OF_ALL: dict[str, Any] = {
    # Cells neither give nor take what is negative: 0 is the background.
    "data_options": {"normalize": "none"},
    "optimizer": "adam",
    "schedule": "cosine",
}
register(
    Recipe(
        name="cognitron_digits",
        description="Cognitron (Fukushima 1975), read linearly, on 8x8 digits; no download",
        expected=Expectation("accuracy", 0.9, "max", "dlcore: no published score"),
        model="cognitron",
        data="digits",
        learning_rate=0.1,
        batch_size=64,
        num_epochs=40,
        phases=_phases(epochs=2),
        **_OF_ALL,
    ),
    Recipe(
        name="neocognitron_digits",
        description="Neocognitron (Fukushima 1980), read linearly, on 8x8 digits; no download",
        expected=Expectation("accuracy", 0.9, "max", "dlcore: no published score"),
        model="neocognitron",
        # Images of 8x8 leave nothing to thin out.
        model_options={
            "planes": (16, 64),
            "windows": (3, 3),
            "stride": 1,
            "size": 3,
            "column": 3,
        },
        data="digits",
        learning_rate=0.3,
        batch_size=64,
        num_epochs=40,
        phases=_phases(epochs=2),
        **_OF_ALL,
    ),
    Recipe(
        name="neocognitron_mnist",
        description="Neocognitron (Fukushima 1980), read linearly, on MNIST",
        expected=Expectation("accuracy", 0.9, "max", "dlcore: no published score"),
        model="neocognitron",
        data="mnist",
        learning_rate=0.01,
        batch_size=100,
        num_epochs=3,
        phases=_phases(epochs=1),
        **_OF_ALL,
    ),
)
register(
    dataclasses.replace(
        get("neocognitron_mnist"),
        name="neocognitron_shifted_mnist",
        description="Neocognitron on MNIST, tested beside an MLP on images shifted by 4 pixels",
        expected=Expectation("shift_loss_ratio", 0.5, "min", "dlcore: half of what an MLP loses"),
        needs={"baseline": Need(get("mlp_mnist"), same_data=True)},
        # Only what the last phase trains tells classes apart.
        phases=_phases(epochs=1, evaluators="shift_tolerance"),
    )
)
