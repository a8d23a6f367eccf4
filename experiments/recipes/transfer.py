"""Transfer, in the lectures' ways: a network of MNIST's digits learns scikit-learn's from a few.

Reuse, fine-tune, adapt, extract (Pérez): here the same task in another domain, with ten examples of
each class. Every one of these recipes first trains its source. Another one may be named instead:

    python -m experiments.train --recipe=few_digits_features --needs.source=lenet5_modern_mnist
"""

from typing import Any

from dlcore.expectation import Expectation
from dlcore.train import Need, Phase, Recipe
from experiments.recipes.registry import register

# LeNet-5's layers below the last one, from the image on.
_LAYERS = ("C1", "C3", "C5", "F6")
_NEW_LAST_LAYER = "logits/.*<- <-logits/.*"

_SOURCE = Recipe(
    name="few_digits_source",
    description="modern LeNet-5 on MNIST for two epochs, for the other few_digits to start from",
    expected=Expectation("accuracy", 0.98, "max", "dlcore: no published score"),
    model="lenet5_modern",
    data="mnist",
    optimizer="adam",
    learning_rate=2e-3,
    schedule="cosine",
    num_epochs=2,
)


def _few(name: str, description: str, bound: float, **fields: Any) -> Recipe:
    """A training on ten digits of each class, tested on half of all."""
    return Recipe(
        name=f"few_digits_{name}",
        description=f"LeNet-5 on ten 8x8 digits of each class, {description}",
        expected=Expectation("accuracy", bound, "max", "dlcore: no published score"),
        model="lenet5_modern",
        data="digits",
        data_options={
            "examples_per_class": 10,
            "resize": 28,
            "test_fraction": 0.5,
            "validation_fraction": 0.0,
        },
        optimizer="adam",
        schedule="cosine",
        batch_size=50,
        **{"learning_rate": 1e-3, "num_epochs": 60, **fields},
    )


def _from_source(name: str, description: str, bound: float, **fields: Any) -> Recipe:
    needs = {"source": Need(_SOURCE)}
    return _few(name, description, bound, needs=needs, start_from="source", **fields)


def _frozen(layers: tuple[str, ...]) -> str:
    return " ".join(f"{layer}/.*:frozen" for layer in layers)


def _unfreezing() -> tuple[Phase, ...]:
    """The last layer alone learns, then one more below it in each phase, at last all of them."""
    return tuple(
        Phase(f"down_to_{first}", {"groups": _frozen(_LAYERS[:below]), "num_epochs": 12})
        for below, first in reversed(list(enumerate((*_LAYERS, "logits"))))
    )


register(
    _SOURCE,
    _few("scratch", "from scratch", 0.8),
    _from_source("fine_tuned", "fine-tuned from MNIST", 0.9),
    _from_source(
        "frozen",
        "MNIST's convolutions kept, the rest trained anew",
        0.9,
        start_mapping="(C5|F6|logits)/.*<- <-(C5|F6|logits)/.*",
        groups=_frozen(("C1", "C3")),
    ),
    _from_source(
        "features",
        "a linear classifier of MNIST's features",
        0.85,
        start_mapping=_NEW_LAST_LAYER,
        groups=_frozen(_LAYERS),
        learning_rate=0.01,
    ),
    # Howard and Ruder (2018), section 3.2: the rate of a layer is that of the next one over 2.6.
    _from_source(
        "layer_rates",
        "fine-tuned from MNIST, the lower a layer the more slowly",
        0.9,
        start_mapping=_NEW_LAST_LAYER,
        learning_rate=0.01,
        groups=" ".join(
            f"{layer}/.*:rate={2.6 ** (below - len(_LAYERS)):.3g}"
            for below, layer in enumerate(_LAYERS)
        ),
    ),
    # Section 3.3 there.
    _from_source(
        "unfreezing",
        "fine-tuned from MNIST, one more layer at a time",
        0.9,
        start_mapping=_NEW_LAST_LAYER,
        phases=_unfreezing(),
    ),
)
