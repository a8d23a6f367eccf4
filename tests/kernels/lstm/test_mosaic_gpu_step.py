"""The kernels of one step a launch, interpreted: NaN in fresh memory and races are errors."""

import jax.numpy as jnp
import numpy as np
import pytest

from kernels import aot, assembly
from kernels.lstm import mosaic_gpu_block, mosaic_gpu_cluster, mosaic_gpu_grid, mosaic_gpu_share
from kernels.lstm.cases import Case

# 16 units are a block's, 64 a chunk of a product; tiles have up to 64 rows, in sixteens.
CASES = [
    (Case(3, 2, 2, 20, state=True, ragged=True, reverse=True), False),
    (Case(1, 1, 1, 1), True),
    (Case(2, 1, 1, 64, state=True), True),
    (Case(17, 3, 4, 70, state=True, recompute=True), True),
    (Case(80, 3, 5, 65, ragged=True), True),
    (Case(1, 4, 2, 130, reverse=True, recompute=True), True),
    (Case(2, 2, 3, 450, state=True, ragged=True), True),
    (Case(1, 2, 3, 513, state=True, ragged=True, reverse=True), True),
]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if slow else ()) for case, slow in CASES],
    ids=str,
)
def test_values_and_gradients_are_as_right_as_those_of_xla(prove, monkeypatch, case):
    # As if R fitted nowhere.
    monkeypatch.setattr(mosaic_gpu_block, "MAXIMUM_HIDDEN", 0)
    monkeypatch.setattr(mosaic_gpu_cluster, "MAXIMUM_HIDDEN", 0)
    monkeypatch.setattr(mosaic_gpu_grid, "_MULTIPROCESSORS", 0)
    prove("mosaic_gpu", case)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "hidden"),
    [(1, 1729)]
    + [pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((64, 2048), (256, 1024))],
)
def test_both_kernels_are_in_the_program_and_assemble_without_a_spill(lower, batch, hidden):
    if reason := assembly.missing():
        pytest.skip(reason)
    names = ["lstm_forward_step", "lstm_backward_step"]
    case = Case(batch, 35, 100, hidden, state=True, ragged=True)
    machine, lowered = lower("gpu:h200", "mosaic_gpu", case)
    assert sorted(aot.compile_for(machine, lowered).kernels) == sorted(names)
    kernels = assembly.assemble(lowered)
    assert [kernel.name for kernel in kernels] == names
    for kernel in kernels:
        assert kernel.spilled_bytes == 0
        assert kernel.tensor_instructions > 0


@pytest.mark.parametrize(
    ("batch", "tiles", "columns"),
    [(0, 1, 16), (1, 1, 16), (16, 1, 16), (17, 1, 32), (64, 1, 64), (65, 2, 48), (256, 4, 64)],
)
def test_tiles_share_the_rows_of_the_batch_evenly(batch, tiles, columns):
    layout = mosaic_gpu_share.Layout(1, batch, 1)
    assert (layout.tiles, layout.columns, layout.batch) == (tiles, columns, tiles * columns)


def test_arrays_come_back_from_the_layout_as_they_went():
    array = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5, 4 * 7)))
    layout = mosaic_gpu_share.Layout(3, 5, 7)
    entered = layout.enter(array, 4)
    assert entered.shape == (3, 16, 4 * 64)
    np.testing.assert_array_equal(layout.leave(entered, 4), array)
    assert jnp.count_nonzero(entered) == array.size
