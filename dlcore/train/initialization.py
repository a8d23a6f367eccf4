"""Another first state than a model's own: every kernel drawn anew, by one rule for all layers.

A rule reads a kernel's fan-in off its shape: all axes but the last, which counts the units. Layers
whose kernel is not such an array, locally connected ones and those that lack connections, get it
from what they are. The biases beside the kernels start at zero (D), or are drawn as the kernels are
where the rule is one of the small intervals of old (K).

LSUV (Mishkin and Matas, 2016, "All you need is a good init", algorithm 1) draws orthogonal kernels
and divides each by the standard deviation of its layer's output over a batch of data, from the
bottom up, so that every layer hands on unit variance. A layer without bias is proportional to its
kernel: one division does what the paper, which measures on a new batch each time, repeats until it
is near enough.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dlcore.errors import UsageError
from dlcore.nn import initializers
from dlcore.nn.convolution import PartiallyConnectedConv
from dlcore.nn.regularization import MaskedDense
from dlcore.tasks import Batch, Learner

Variables = Mapping[str, Any]
Initialization = Callable[[Learner, Variables, Batch, jax.Array], Variables]
# Makes a rule for ordinary kernels one for the kernels of another layer.
Adaptation = Callable[[initializers.Initializer], initializers.Initializer]

NAMES = (*initializers.NAMES, "lsuv")

# The collection in which a layer's scale travels out of the model.
_SCALES = "lsuv_scales"


def make(name: str) -> Initialization:
    """How `(task, variables, batch, key) -> variables` changes the variables of `task.init`.

    Args:
      name: empty for the model's own start; a name that `dlcore.nn.initializers.initializer`
        takes; or lsuv, which is lsuv:layer (one variance a layer, as in the paper) or lsuv:unit
        (one a unit, as in D).

    Raises:
      UsageError: no such initializer, or it takes no such argument.
    """
    if not name:
        return lambda task, variables, batch, key: variables
    kind, _, argument = name.partition(":")
    if kind not in NAMES:
        raise UsageError(f"unknown initializer {name!r}: it is one of {', '.join(NAMES)}")
    if kind == "lsuv":
        if argument not in ("", "layer", "unit"):
            raise UsageError(f"initializer {name!r}: lsuv takes layer or unit")
        return lambda task, variables, batch, key: lsuv(
            task, variables, batch, key, by_unit=argument == "unit"
        )
    rule, biases_too = initializers.initializer(name), kind.startswith("small")
    return lambda task, variables, batch, key: {
        **variables,
        "params": redraw(
            variables["params"],
            rule,
            key,
            biases_too=biases_too,
            special=_special_kernels(task, variables, batch),
        ),
    }


def redraw(
    params: Any,
    rule: initializers.Initializer,
    key: jax.Array,
    *,
    biases_too: bool = False,
    special: Mapping[tuple[str, ...], Adaptation] | None = None,
) -> Any:
    """Parameters with every kernel drawn by a rule, and every bias beside one zero or drawn too.

    Args:
      params: the parameters that are replaced.
      rule: for kernels of ordinary layers.
      key: of all that is drawn.
      biases_too: whether biases are drawn, too.
      special: by the path of a layer whose kernel is not ordinary, what makes a rule fit it.
    """
    flat = flatten_dict(params)
    owners = {path[:-1] for path, array in flat.items() if _is_kernel(path, array)}
    for path, own_key in zip(sorted(flat), jax.random.split(key, len(flat)), strict=True):
        array, is_bias = flat[path], path[-1] == "bias" and path[:-1] in owners
        if _is_kernel(path, array) or (is_bias and biases_too):
            adapt = (special or {}).get(path[:-1], lambda rule: rule)
            own_rule = rule if is_bias else adapt(rule)
            flat[path] = own_rule(own_key, array.shape, array.dtype)
        elif is_bias:
            flat[path] = jnp.zeros_like(array)
    return unflatten_dict(flat)


def _special_kernels(
    task: Learner, variables: Variables, batch: Batch
) -> dict[tuple[str, ...], Adaptation]:
    """What makes a rule fit the layers of a task's model whose kernels are not ordinary."""
    found: dict[tuple[str, ...], Adaptation] = {}

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        match context.module:
            case nn.ConvLocal(path=path, kernel_size=size):
                size = (size,) if isinstance(size, int) else tuple(size)
                found[path] = functools.partial(initializers.unshared, kernel_size=size)
            case PartiallyConnectedConv(path=path, table=table):
                found[path] = functools.partial(initializers.partly_connected, table=table)
            case MaskedDense(path=path):
                mask = np.asarray(args[1] if len(args) > 1 else kwargs["mask"])
                found[path] = functools.partial(initializers.masked, mask=mask)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(
            lambda variables, batch: task.model.apply(variables, *task.describe_inputs(batch)),
            _of_model(task, variables),
            batch,
        )
    return found


def _of_model(task: Learner, variables: Variables) -> Variables:
    """The model's own collections: what belongs to examples is an input."""
    kinds = task.state_kinds
    return {name: own for name, own in variables.items() if kinds.get(name) != "examples"}


def _is_kernel(path: tuple[str, ...], array: jax.Array) -> bool:
    # The biases of a layer with unshared weights have several axes too.
    return array.ndim > 1 and path[-1] != "bias"


def lsuv(
    task: Learner, variables: Variables, batch: Batch, key: jax.Array, *, by_unit: bool = False
) -> Variables:
    """Layer-sequential unit-variance initialization of a task's model.

    A layer is a module with one kernel and no parts. Recurrent layers, which have two, and layers
    that see nothing but a constant keep their orthogonal kernels.

    Args:
      task: says what the model's inputs are in a batch.
      variables: from `task.init`.
      batch: what the variances are measured on, in evaluation mode.
      key: of the orthogonal kernels.
      by_unit: a variance for every unit instead of one for the layer.

    Raises:
      UsageError: `by_unit` for a layer whose kernel has no last axis of units.
    """
    special = _special_kernels(task, variables, batch)
    params = redraw(variables["params"], initializers.orthogonal(), key, special=special)
    flat = flatten_dict(params)
    layers = _layers(flat)

    def measure(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        outputs, module = call(*args, **kwargs), context.module
        if context.method_name != "__call__" or module.path not in layers:
            return outputs
        # A layer may hand on its values in a wrapping.
        (values,), structure = jax.tree.flatten(outputs)
        if not module.has_variable(_SCALES, "scale"):
            kernel = flat[layers[module.path]]
            if by_unit and kernel.shape[-1] != values.shape[-1]:
                raise UsageError(
                    f"initializer 'lsuv:unit': {'/'.join(module.path)} does not keep a unit's "
                    "weights apart: use lsuv:layer"
                )
            axes = tuple(range(values.ndim - 1)) if by_unit else None
            variance = jnp.var(values, axis=axes)
            scale = jnp.where(variance > 0, jax.lax.rsqrt(variance), 1)
            module.put_variable(_SCALES, "scale", scale)
        # What the layers above will see.
        scaled = values * module.get_variable(_SCALES, "scale")
        return jax.tree.unflatten(structure, [scaled])

    with nn.intercept_methods(measure):
        _, measured = task.model.apply(
            {**_of_model(task, variables), "params": params},
            *task.describe_inputs(batch),
            mutable=[_SCALES],
        )
    for path, scale in flatten_dict(measured[_SCALES]).items():
        name = layers[path[:-1]]
        flat[name] = flat[name] * scale
    return {**variables, "params": unflatten_dict(flat)}


def _layers(params: Mapping[tuple[str, ...], jax.Array]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The one kernel of every module that has one and no parts, by the module's path."""
    kernels: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for path, array in params.items():
        if _is_kernel(path, array):
            kernels.setdefault(path[:-1], []).append(path)
    parents = {path[:depth] for path in params for depth in range(len(path) - 1)}
    return {
        module: own[0] for module, own in kernels.items() if len(own) == 1 and module not in parents
    }
