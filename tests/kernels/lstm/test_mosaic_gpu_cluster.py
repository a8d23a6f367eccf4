"""The kernels over a cluster of thread blocks, interpreted with threads in the blocks' place.

The interpreter knows no store into another block's memory. So here every block is a thread of one
block and has a part of its shared memory; what is sent is stored into the receiver's part, and
counted on the receiver's barrier. The kernels are the same, and their exchange is checked: NaN in
fresh memory and races between threads are errors.
"""

import jax.numpy as jnp
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels import aot, assembly, dispatch
from kernels.lstm import dispatch as lstm_dispatch
from kernels.lstm import mosaic_gpu_cluster
from kernels.lstm.cases import Case
from kernels.lstm.mosaic_gpu_tile import UNITS, launch, load, tiled


class Thread(mosaic_gpu_cluster.Block):
    """A thread that does what a block does."""

    def own(self, name):
        return self._memory[name].at[self.part]

    def barrier(self, name, slot=0):
        # The barrier of the cluster is one, at which every block arrives once.
        barrier = self._memory[name]
        return barrier.at[slot] if name == "read" else barrier.at[self.part, slot]

    def hold(self, number, square):
        # Nor does the interpreter know a product of what is in registers.
        held = self._memory["held"].at[self.part, number]
        held[...] = load(square)
        plgpu.commit_smem()
        return held

    def send(self, value, part, name, place, slot):
        place = place if isinstance(place, tuple) else (place,)
        self._memory[name][part, *place] = value
        plgpu.barrier_arrive(self._memory["arrived"].at[part, slot])


def for_threads(memory, parts):
    """What all threads have together, for what a block has."""
    match memory:
        case plgpu.Barrier():
            barriers = (parts, *memory.num_barriers)
            return plgpu.Barrier(num_arrivals=memory.num_arrivals, num_barriers=barriers)
        case plgpu.ClusterBarrier():
            return plgpu.Barrier(num_arrivals=parts, num_barriers=memory.num_barriers)
        case _:
            return tiled((parts, *memory.shape), memory.dtype)


def launch_threads(layout, reverse, kernel, results, scratch, name):
    def run(references, memory):
        kernel(layout, reverse, references, Thread(memory)).run()

    scratch = {name: for_threads(memory, layout.parts) for name, memory in scratch.items()}
    scratch["held"] = tiled((layout.parts, 4, UNITS, UNITS), jnp.bfloat16)
    threads = {"num_threads": layout.parts, "thread_name": "part"}
    return launch(layout, run, results, scratch, name, **threads)


# Three blocks and four, a tile of the batch and two, and the fewest steps: of a first and a last
# step, and of one that is both.
CASES = [
    (Case(3, 2, 3, 129, state=True, ragged=True), False),
    (Case(17, 4, 3, 150, state=True, ragged=True), True),
    (Case(3, 5, 3, 129, state=True, ragged=True, reverse=True, recompute=True), True),
    (Case(1, 2, 1, 192), True),
    (Case(2, 1, 3, 192, state=True), True),
    (Case(5, 3, 2, 200, state=True, ragged=True), True),
]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if slow else ()) for case, slow in CASES],
    ids=str,
)
def test_values_and_gradients_are_as_right_as_those_of_xla(prove, monkeypatch, case):
    monkeypatch.setattr(mosaic_gpu_cluster, "_launch", launch_threads)
    prove("mosaic_gpu", case)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [129, 192, 256, 320, 384, 448])
def test_both_kernels_are_in_the_program_and_assemble_without_a_spill(lower, hidden):
    if reason := assembly.missing():
        pytest.skip(reason)
    names = ["lstm_forward_cluster", "lstm_backward_cluster"]
    case = Case(64, 35, 100, hidden, state=True, ragged=True)
    machine, lowered = lower("gpu:h200", "mosaic_gpu", case)
    assert list(aot.compile_for(machine, lowered).kernels) == names
    kernels = assembly.assemble(lowered)
    assert [kernel.name for kernel in kernels] == names
    for kernel in kernels:
        assert kernel.spilled_bytes == 0
        assert kernel.tensor_instructions > 0


def test_auto_takes_no_measurement_of_one_block_for_a_cluster(monkeypatch):
    row = {
        "shape": {"batch": 64, "time": 35, "hidden": 128},
        "dtype": "bfloat16",
        "seconds": {"xla": 2.0, "mosaic_gpu": 1.0},
    }
    monkeypatch.setattr(dispatch, "measurements", lambda *_: [row])
    with dispatch.target("NVIDIA H200"):
        assert (
            lstm_dispatch.choose("auto", 64, 35, 128, jnp.bfloat16).implementation == "mosaic_gpu"
        )
        assert lstm_dispatch.choose("auto", 64, 35, 129, jnp.bfloat16).implementation == "xla"
        assert (
            lstm_dispatch.choose("mosaic_gpu", 64, 35, 129, jnp.bfloat16).implementation
            == "mosaic_gpu"
        )
