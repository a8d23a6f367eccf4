"""The formulas against the shapes that the layers have, on combinations that Hypothesis draws."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dlcore.errors import UsageError
from dlcore.nn import pooling
from dlcore.nn.geometry import (
    Window,
    output_size,
    parameter_count,
    receptive_field,
    transposed_output_size,
    transposed_padding,
)

WINDOWS = st.builds(Window, st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
PADS = st.tuples(st.integers(0, 3), st.integers(0, 3))
PADDINGS = st.sampled_from(["SAME", "VALID"]) | PADS
# Of one axis: its size, and the layer's window and padding.
AXES = st.tuples(st.integers(1, 12), WINDOWS, PADS)


def shapes(layer, *shape):
    """Output shape and parameter shapes of a layer; nothing is computed or compiled."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    y, variables = jax.eval_shape(lambda x: layer.init_with_output(jax.random.key(0), x), x)
    return y.shape, [leaf.shape for leaf in jax.tree.leaves(variables)]


def total(parameters):
    return sum(math.prod(shape) for shape in parameters)


@st.composite
def convolutions(draw):
    """The axes of a layer in one, two or three dimensions, its padding, and its channels."""
    axes = draw(st.lists(AXES, min_size=1, max_size=3))
    named = draw(st.sampled_from(["SAME", "VALID", ""]))
    padding = named or [pads for _, _, pads in axes]
    groups = draw(st.integers(1, 3))
    inputs, outputs = (groups * draw(st.integers(1, 3)) for _ in range(2))
    return axes, padding, groups, inputs, outputs, draw(st.booleans())


def options(axes, padding):
    """What Flax's layers are given, and the padding of each axis by itself."""
    windows = [window for _, window, _ in axes]
    keywords = {
        "kernel_size": tuple(window.kernel_size for window in windows),
        "strides": tuple(window.stride for window in windows),
        "kernel_dilation": tuple(window.dilation for window in windows),
        "padding": padding,
    }
    by_axis = [padding] * len(axes) if isinstance(padding, str) else padding
    return keywords, by_axis


@given(convolutions())
@settings(max_examples=60)
def test_a_convolution_has_the_size_and_the_parameters_of_the_formulas(case):
    axes, padding, groups, inputs, outputs, use_bias = case
    keywords, by_axis = options(axes, padding)
    layer = nn.Conv(outputs, **keywords, feature_group_count=groups, use_bias=use_bias)
    shape, parameters = shapes(layer, 2, *(size for size, _, _ in axes), inputs)
    expected = [output_size(*axis[:2], pads) for axis, pads in zip(axes, by_axis, strict=True)]
    assert shape == (2, *expected, outputs)
    counted = parameter_count(keywords["kernel_size"], inputs, outputs, groups, use_bias=use_bias)
    assert counted == total(parameters)


@given(convolutions())
@settings(max_examples=60)
def test_a_transposed_convolution_has_the_size_and_the_parameters_of_the_formulas(case):
    axes, padding, _, inputs, outputs, use_bias = case
    keywords, by_axis = options(axes, padding)
    layer = nn.ConvTranspose(outputs, **keywords, use_bias=use_bias)
    expected = [
        transposed_output_size(*axis[:2], pads) for axis, pads in zip(axes, by_axis, strict=True)
    ]
    shape, parameters = shapes(layer, 2, *(size for size, _, _ in axes), inputs)
    assert shape == (2, *expected, outputs)
    counted = parameter_count(keywords["kernel_size"], inputs, outputs, use_bias=use_bias)
    assert counted == total(parameters)


@given(convolutions())
@settings(max_examples=40)
def test_a_locally_connected_layer_has_the_parameters_of_a_convolution_at_every_place(case):
    axes, padding, _, inputs, outputs, use_bias = case
    keywords, by_axis = options(axes, padding)
    positions = [output_size(*axis[:2], pads) for axis, pads in zip(axes, by_axis, strict=True)]
    layer = nn.ConvLocal(outputs, **keywords, use_bias=use_bias)
    shape, parameters = shapes(layer, 2, *(size for size, _, _ in axes), inputs)
    assert shape == (2, *positions, outputs)
    counted = parameter_count(
        keywords["kernel_size"], inputs, outputs, positions=math.prod(positions), use_bias=use_bias
    )
    assert counted == total(parameters)


@given(st.integers(1, 12), WINDOWS, PADDINGS)
def test_a_pooling_has_the_size_of_the_formula(size, window, padding):
    window = window._replace(dilation=1)
    expected = output_size(size, window, padding)
    pads = padding if isinstance(padding, str) else [padding]
    x = jax.ShapeDtypeStruct((1, size, 1), jnp.float32)

    def pooled(pool):
        geometry = ((window.kernel_size,), (window.stride,), pads)
        return jax.eval_shape(lambda x: pool(x, *geometry), x).shape

    assert pooled(nn.avg_pool) == (1, expected, 1)
    if expected and (isinstance(padding, str) or max(padding) < window.kernel_size):
        assert pooled(pooling.max_pool) == (1, expected, 1)
        assert pooled(pooling.sum_pool) == (1, expected, 1)


@given(st.integers(1, 20), WINDOWS, PADS)
def test_the_transposed_padding_undoes_a_convolution_s_size(size, window, padding):
    small = output_size(size, window, padding)
    assume(small > 0)
    remainder = (size + sum(padding) - window.extent()) % window.stride
    pads = transposed_padding(window, padding, remainder)
    assert transposed_output_size(small, window, pads) == size


@given(st.lists(WINDOWS, max_size=4))
@settings(max_examples=30)
def test_a_receptive_field_is_what_one_unit_needs_and_its_stride_what_one_more_needs(layers):
    field = receptive_field(layers)

    def units(size):
        stack = nn.Sequential(
            [
                nn.Conv(1, layer[:1], layer[1:2], "VALID", kernel_dilation=layer[2:])
                for layer in layers
            ]
            or [lambda x: x]
        )
        x = jax.ShapeDtypeStruct((1, size, 1), jnp.float32)
        return jax.eval_shape(lambda x: stack.init_with_output(jax.random.key(0), x)[0], x).shape[1]

    assert units(field.kernel_size) == 1
    assert units(field.kernel_size - 1) == 0
    assert units(field.kernel_size + field.stride - 1) == 1
    assert units(field.kernel_size + field.stride) == 2


def test_three_stacked_3x3_convolutions_see_as_far_as_one_7x7_and_two_do_not():
    assert receptive_field([Window(3)] * 3).kernel_size == 7
    assert receptive_field([Window(3)] * 2).kernel_size == 5
    channels = 64
    stacked = 3 * parameter_count((3, 3), channels, channels, use_bias=False)
    single = parameter_count((7, 7), channels, channels, use_bias=False)
    assert stacked / single == 27 / 49


def test_the_first_layer_of_alexnet_has_its_published_numbers():
    # Krizhevsky, Sutskever and Hinton (2012): 96 kernels of 11x11x3 with stride 4, 55x55 positions.
    assert output_size(227, Window(11, 4), "VALID") == 55
    assert parameter_count((11, 11), 3, 96) == 34_944


def test_weights_that_are_local_and_shared_are_as_few_as_the_lectures_say():
    # Deck P, after Ranzato (2013): a million pixels to a million units, dense or seeing 10x10.
    assert parameter_count((1000, 1000), 1, 10**6, use_bias=False) == 10**12
    assert parameter_count((10, 10), 1, 1, positions=10**6, use_bias=False) == 10**8
    assert parameter_count((10, 10), 1, 100, use_bias=False) == 10**4


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: output_size(5, Window(3, 0), "SAME"), "stride is at least 1, not 0"),
        (lambda: receptive_field([Window(0)]), "kernel_size is at least 1, not 0"),
        (lambda: output_size(5, Window(3), "FULL"), "SAME, VALID or two numbers"),
        (lambda: parameter_count((3,), 4, 6, groups=4), "do not divide into 4 groups"),
    ],
)
def test_bad_geometry_is_refused_by_name(call, complaint):
    with pytest.raises(UsageError, match=complaint):
        call()
