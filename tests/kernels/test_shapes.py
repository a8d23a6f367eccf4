import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from kernels import shapes


@given(st.integers(0, 10**6), st.integers(1, 1000))
def test_a_size_is_rounded_up_to_the_next_multiple(size, multiple):
    rounded = shapes.round_up(size, multiple)
    assert rounded % multiple == 0
    assert size <= rounded < size + multiple


def test_an_array_is_filled_with_zeros_behind_it():
    padded = shapes.pad_to(jnp.ones((2, 1)), (3, 2))
    np.testing.assert_array_equal(padded, [[1, 0], [1, 0], [0, 0]])


def test_a_result_varies_over_the_mesh_as_its_arguments_do():
    seen = []

    def body(split, whole):
        seen.append(shapes.like((3,), jnp.float32, split, whole).manual_axis_type.varying)
        seen.append(shapes.like((3,), jnp.float32, whole).manual_axis_type.varying)
        return split

    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    split, whole = PartitionSpec("x"), PartitionSpec()
    jax.shard_map(body, mesh=mesh, in_specs=(split, whole), out_specs=split)(np.ones(2), np.ones(2))
    assert seen == [{"x"}, set()]


def test_in_32_bits_a_function_has_no_more_where_64_are_the_default():
    with jax.enable_x64(True):
        numbers = shapes.in_32_bits(jnp.arange)(3)
        assert (numbers.dtype, jnp.arange(3).dtype) == (jnp.int32, jnp.int64)
