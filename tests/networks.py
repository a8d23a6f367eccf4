"""Running the networks of the fixtures: what goes into the comparison, and what layers hand on."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.fixtures import cases


def variables(network: cases.Network, **collections: Any) -> dict[str, Any]:
    """A case's parameters as a model takes them: layers within layers have paths in the case."""
    return {
        kind: unflatten_dict(jax.tree.map(jnp.asarray, layers), sep="/")
        for kind, layers in {"params": network.params, **collections}.items()
    }


def descended(
    model: nn.Module, network: cases.Network, train: bool = False, **collections: Any
) -> tuple[jax.Array, dict[str, Any], dict[str, Any]]:
    """What a model makes of a case.

    Returns:
      The logits; the gradients of the mean cross-entropy, by layer as the case's parameters; the
      other collections, moved where `train` is set.
    """
    images, labels = jnp.asarray(network.images), jnp.asarray(network.labels)
    start = variables(network, **collections)

    @jax.jit
    def descend(params: Any) -> Any:
        def loss(params: Any) -> Any:
            kept = list(collections) if train else []
            given, rngs = {**start, "params": params}, {"dropout": jax.random.key(0)}
            logits, moved = model.apply(given, images, train, mutable=kept, rngs=rngs)
            chosen = jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
            return -chosen.mean(), (logits, moved)

        return jax.grad(loss, has_aux=True)(params)

    gradients, (logits, moved) = descend(start["params"])
    by_layer: dict[str, Any] = {}
    for (*layer, name), gradient in flatten_dict(gradients).items():
        by_layer.setdefault("/".join(layer), {})[name] = gradient
    return logits, by_layer, moved


def handed_on(
    model: nn.Module, variables: Any, images: Any, kinds: Any, train: bool = True
) -> dict[str, jax.Array]:
    """The outputs of all layers of some kinds by path, and those of the model under ""."""
    outputs, after = _run(model, kinds, train, variables, jnp.asarray(images))
    calls = flatten_dict(after["intermediates"]).items()
    # A layer may call the one that it extends: its own output is the last.
    found = {"/".join(path[:-1]): value[-1] for path, value in calls if path[-1] == "__call__"}
    return {**found, "": outputs}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(model: nn.Module, kinds: Any, train: bool, variables: Any, images: jax.Array) -> Any:
    return model.apply(
        variables,
        images,
        train,
        rngs={"dropout": jax.random.key(0)},
        capture_intermediates=lambda module, _: isinstance(module, kinds),
        mutable=["intermediates", *(kind for kind in variables if kind != "params")],
    )
