"""Parameters to and from Flax and PyTorch, whose layers then give what ours gives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kernels.lstm import Params, State, cases, convert, lstm
from tests.fixtures import cases as stored
from tests.fixtures import layer_cases


def params(features=4, hidden=6):
    return cases.draw(cases.Case(2, 3, features, hidden, "float32")).params


def assert_same(result, expected):
    jax.tree.map(np.testing.assert_array_equal, result, expected)


def test_flax_and_back_is_where_one_began():
    assert_same(convert.from_flax(convert.to_flax(params())), params())


def test_pytorch_and_back_is_where_one_began():
    assert_same(convert.from_torch(convert.to_torch(params(), "l1"), "l1"), params())


def test_a_flax_cell_of_our_parameters_gives_what_ours_gives():
    case = cases.Case(3, 5, 4, 6, "float32", state=True, ragged=True)
    arguments = cases.draw(case)
    first = arguments.first
    layer = nn.RNN(nn.OptimizedLSTMCell(case.hidden), return_carry=True)
    variables = {"params": {"cell": convert.to_flax(arguments.params)}}
    (cell, _), outputs = layer.apply(
        variables,
        arguments.inputs,
        initial_carry=(first.cell, first.output),
        seq_lengths=arguments.lengths,
    )
    ours, last = lstm(arguments.inputs, arguments.params, first, arguments.lengths)
    # Flax goes on past a row's end, and has no state for a row that is empty.
    takes_part = np.arange(case.time) < np.asarray(arguments.lengths)[:, None]
    np.testing.assert_allclose(ours[takes_part], outputs[takes_part], rtol=1e-5, atol=1e-6)
    begun = np.asarray(arguments.lengths) > 0
    np.testing.assert_allclose(last.cell[begun], cell[begun], rtol=1e-5, atol=1e-6)


def test_the_parameters_of_a_flax_cell_are_ours():
    cell = nn.OptimizedLSTMCell(6)
    x = jnp.ones((2, 4))
    carry = cell.initialize_carry(jax.random.key(0), x.shape)
    variables = cell.init(jax.random.key(1), carry, x)
    converted = convert.from_flax(variables["params"])
    (c, h), _ = cell.apply(variables, carry, x)
    _, last = lstm(x[:, None], converted, State(*carry))
    np.testing.assert_allclose(last.cell, c, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(last.output, h, rtol=1e-6, atol=1e-7)
    assert_same(convert.to_flax(converted), dict(variables["params"]))


def stacked(layers, x, states, lengths):
    """Two layers of two directions each, composed of `lstm`; layers by PyTorch's suffixes."""
    lasts = []
    for layer in range(2):
        sides = []
        for direction, suffix in enumerate((f"l{layer}", f"l{layer}_reverse")):
            first = State(*(array[2 * layer + direction] for array in states))
            outputs, last = lstm(
                x, layers[suffix], first, lengths, reverse=bool(direction), implementation="xla"
            )
            sides.append(outputs)
            lasts.append(last)
        x = jnp.concatenate(sides, axis=-1)
    return x, State(*map(jnp.stack, zip(*lasts, strict=True)))


def test_stacked_and_bidirectional_layers_give_what_pytorch_gives_with_every_gradient():
    case, answers = layer_cases.lstm(), stored.load("lstm")
    suffixes = ("l0", "l0_reverse", "l1", "l1_reverse")
    layers = {suffix: convert.from_torch(case, suffix) for suffix in suffixes}
    states = State(case["c"], case["h"])

    def forward(layers, x, states):
        return stacked(layers, x, states, jnp.asarray(case["lengths"]))

    (outputs, last), pull_back = jax.vjp(forward, layers, jnp.asarray(case["x"]), states)
    for name, value in {"outputs": outputs, "h": last.output, "c": last.cell}.items():
        np.testing.assert_allclose(value, answers[name], rtol=1e-5, atol=1e-6, err_msg=name)
    cotangents = (case["outputs_cotangent"], State(case["c_cotangent"], case["h_cotangent"]))
    gradients, x, states = pull_back(cotangents)
    found = {"x": x, "h": states.output, "c": states.cell}
    for suffix, gradient in gradients.items():
        found |= convert.to_torch(Params(*gradient), suffix)
        # Both of PyTorch's biases have the gradient of their sum.
        found[f"bias_hh_{suffix}"] = found[f"bias_ih_{suffix}"]
    assert {f"gradient_{name}" for name in found} == {n for n in answers if n.startswith("grad")}
    for name, value in found.items():
        expected = answers[f"gradient_{name}"]
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5, err_msg=name)
