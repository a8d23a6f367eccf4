"""PyTorch's RNN, GRU and LSTM on converted weights: values, and every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.nn import recurrent
from tests.fixtures import cases, layer_cases

CASES = {
    "rnn": (layer_cases.recurrent("rnn"), recurrent.RNNCell(3)),
    "gru": (layer_cases.recurrent("gru"), recurrent.GRUCell(3)),
    "lstm": (layer_cases.lstm(), recurrent.LSTMCell(6)),
}


def in_carry(states):
    """PyTorch's states, `[layers * directions, batch, hidden]` each, as a stack's carry."""
    # PyTorch has h before c.
    by_cell = [tuple(own) if len(own) > 1 else own[0] for own in zip(*states[::-1], strict=True)]
    return (tuple(by_cell[:2]), tuple(by_cell[2:]))


@pytest.mark.parametrize("kind", CASES)
def test_two_layers_of_both_directions_give_what_pytorch_gives_with_every_gradient(kind):
    case, cell = CASES[kind]
    answers, lengths = cases.load(kind), jnp.asarray(case["lengths"])
    states = [name for name in ("h", "c") if name in case]
    stack = recurrent.Stack(cell, layers=2, bidirectional=True)
    weights = {name: array for name, array in case.items() if name.startswith(("weight", "bias"))}

    def forward(weights, x, first):
        variables = {"params": recurrent.from_torch(weights)}
        outputs, last = stack.apply(variables, x, in_carry(first), lengths)
        return outputs, last

    @jax.jit
    def computed(weights, x, first, cotangents):
        results, pull_back = jax.vjp(forward, weights, x, first)
        return results, pull_back(cotangents)

    cotangents = in_carry([case[f"{name}_cotangent"] for name in states])
    (outputs, last), (of_weights, of_x, of_first) = computed(
        weights,
        case["x"],
        [case[name] for name in states],
        (case["outputs_cotangent"], cotangents),
    )
    found = {"outputs": outputs}
    expected_last = in_carry([answers[name] for name in states])
    gradients = {"x": of_x, **dict(zip(states, of_first, strict=True)), **of_weights}
    found |= {f"gradient_{name}": array for name, array in gradients.items()}
    assert found.keys() | set(states) == answers.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, answers[name], rtol=1e-4, atol=1e-5, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), last, expected_last
    )


def test_layers_without_biases_are_converted_to_cells_without():
    case, cell = CASES["gru"]
    weights = {name: array for name, array in case.items() if name.startswith("weight")}
    stack = recurrent.Stack(cell.clone(use_bias=False), layers=2, bidirectional=True)
    shapes = jax.eval_shape(stack.init, jax.random.key(0), case["x"])["params"]
    converted = jax.eval_shape(recurrent.from_torch, weights)
    assert jax.tree.map(jnp.shape, converted) == jax.tree.map(jnp.shape, shapes)
