"""The kernels over a grid of thread blocks, interpreted with threads in the blocks' place.

The interpreter runs blocks one after the other. So here every block of a tile is a thread of one
block and has a part of its shared memory, which the interpreter has no pipelines for: a product
takes chunk after chunk. The count at which blocks meet is a barrier of the threads. The kernels are
the same, and their exchange through global memory is checked: NaN in fresh memory and races between
threads are errors.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels import aot, assembly, dispatch
from kernels.lstm import cases, mosaic_gpu_block, mosaic_gpu_cluster, mosaic_gpu_grid
from kernels.lstm import dispatch as lstm_dispatch
from kernels.lstm.cases import Case
from kernels.lstm.mosaic_gpu_share import CHUNK, ROWS, Block


class Thread(mosaic_gpu_grid.Resident):
    """A thread that does what a block does."""

    def __init__(self, layout, kernel, memory):
        Block.__init__(self, layout, kernel, memory)
        self.told = memory.pop("told")
        self.memory = {name: place.at[self.part] for name, place in memory.items()}
        self.load_kernel()

    def product(self, source):
        columns, size = source.shape
        factor = self.memory["factor"].at[pl.ds(0, columns)]

        def run(total):
            for number in range(size // CHUNK):
                chunk = source.at[:, pl.ds(number * CHUNK, CHUNK)]
                plgpu.copy_gmem_to_smem(chunk, factor, self.memory["arrived"])
                plgpu.barrier_wait(self.memory["arrived"])
                plgpu.wgmma(total, self.chunk(number, ()), factor.T)
                plgpu.wgmma_wait(0)
            return total[...]

        return pl.run_scoped(run, plgpu.WGMMAAccumulatorRef((ROWS, columns), jnp.float32))

    def meet(self, step):
        @pl.when(step > 0)
        def _():
            plgpu.barrier_wait(self.told)

    def tell(self, step):
        @pl.when(step + 1 < self.layout.time)
        def _():
            plgpu.barrier_arrive(self.told)


class Hasty(Thread):
    """A thread that waits for nobody."""

    def meet(self, step):
        pass


def launch_threads(thread):
    def launch(layout, block, kernel, reverse, results, name):
        def body(*references, **memory):
            own = thread(layout, references[kernel.KERNEL], memory)
            kernel(layout, reverse, references, own).run()

        parts, dtype = layout.parts, results[0].dtype
        scratch = {
            "sums": plgpu.SMEM((parts, ROWS, layout.columns), jnp.float32),
            "kernel": plgpu.SMEM((parts, layout.hidden, CHUNK), dtype),
            "factor": plgpu.SMEM((parts, 4 * layout.columns, CHUNK), dtype),
            "loaded": plgpu.Barrier(num_barriers=parts),
            "arrived": plgpu.Barrier(num_barriers=parts),
            "told": plgpu.Barrier(num_arrivals=parts),
        }
        return plgpu.kernel(
            body,
            out_type=results,
            scratch_types=scratch,
            grid=(layout.tiles,),
            grid_names=("tile",),
            num_threads=parts,
            thread_name="part",
        )

    return launch


@pytest.fixture
def with_threads(monkeypatch):
    """`with_threads(thread)`: calls are the grid's, with threads as blocks."""

    def use(thread):
        monkeypatch.setattr(mosaic_gpu_block, "MAXIMUM_HIDDEN", 0)
        monkeypatch.setattr(mosaic_gpu_cluster, "MAXIMUM_HIDDEN", 0)
        monkeypatch.setattr(mosaic_gpu_grid, "launch", launch_threads(thread))

    return use


# Four blocks and eight, a tile of the batch and two, and the fewest steps: of a first and a last
# step, and of one that is both.
CASES = [
    (Case(3, 2, 2, 20, state=True, ragged=True, reverse=True), False),
    (Case(20, 4, 2, 33, state=True, ragged=True, recompute=True), True),
    (Case(2, 5, 3, 128, state=True, ragged=True), True),
    (Case(1, 2, 1, 64, reverse=True), True),
    (Case(2, 1, 3, 64, state=True), True),
]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if slow else ()) for case, slow in CASES],
    ids=str,
)
def test_values_and_gradients_are_as_right_as_those_of_xla(prove, with_threads, case):
    with_threads(Thread)
    prove("mosaic_gpu", case)


@pytest.mark.slow
def test_blocks_that_do_not_wait_for_each_other_race(prove, with_threads):
    with_threads(Hasty)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RACE DETECTED"):
        prove("mosaic_gpu", CASES[0][0])


# Of 16 rows a tile and of 64, of one tile and several, and the largest.
SIZES = [(16, 449), (256, 512), (128, 1024), (16, 1500), (16, 1600)]


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "hidden"), SIZES)
def test_both_kernels_are_in_the_program_and_assemble_without_a_spill(lower, batch, hidden):
    if reason := assembly.missing():
        pytest.skip(reason)
    names = ["lstm_forward_grid", "lstm_backward_grid"]
    case = Case(batch, 35, 100, hidden, state=True, ragged=True)
    machine, lowered = lower("gpu:h200", "mosaic_gpu", case)
    assert sorted(aot.compile_for(machine, lowered).kernels) == sorted(names)
    kernels = assembly.assemble(lowered)
    assert [kernel.name for kernel in kernels] == names
    for kernel in kernels:
        assert kernel.spilled_bytes == 0
        assert kernel.tensor_instructions > 0


@pytest.mark.parametrize("sent", [1, 4])
@pytest.mark.parametrize("hidden", [449, 512, 1024, 1500, 1600, 1728, 4096])
@pytest.mark.parametrize("multiprocessors", [114, 132])
def test_all_blocks_of_a_launch_run_at_once(monkeypatch, multiprocessors, hidden, sent):
    monkeypatch.setattr(mosaic_gpu_grid, "_MULTIPROCESSORS", multiprocessors)
    for batch in (1, 16, 17, 64, 65, 256):
        layout = mosaic_gpu_grid.layout(35, batch, hidden, sent)
        if layout is not None:
            assert layout.parts * layout.tiles <= multiprocessors
            assert layout.batch >= batch
            assert layout.columns % 16 == 0
            # Two chunks of what the others left are on their way at a time.
            chunk = 2 * CHUNK * sent * layout.columns
            assert mosaic_gpu_grid.Resident.room(layout) >= 2 * chunk
    served = mosaic_gpu_grid.layout(35, 16, hidden, sent) is not None
    assert served == (hidden <= (1600 if sent == 4 else 1728))


def faster_at(hidden):
    """What was measured: at one size the GPU's kernels were faster than XLA."""
    row = {
        "shape": {"batch": 64, "time": 35, "hidden": hidden},
        "dtype": "bfloat16",
        "seconds": {"xla": 2.0, "mosaic_gpu": 1.0},
    }
    return lambda *_: [row]


@pytest.mark.parametrize("measured", [128, 1024, 2048])
def test_auto_takes_no_grid_whatever_was_measured(monkeypatch, measured):
    monkeypatch.setattr(dispatch, "measurements", faster_at(measured))
    with dispatch.target("NVIDIA H200"):
        for hidden in (449, 1024, 1536):
            assert (
                lstm_dispatch.choose("auto", 64, 35, hidden, jnp.bfloat16).implementation == "xla"
            )
            assert lstm_dispatch.choose("mosaic_gpu", 64, 35, hidden, jnp.bfloat16)


@pytest.mark.parametrize(
    ("measured", "hidden", "chosen"),
    [
        (2048, 4096, "mosaic_gpu"),
        (64, 128, "mosaic_gpu"),
        (1024, 2048, "xla"),
        (128, 2048, "xla"),
        (2048, 128, "xla"),
    ],
)
def test_auto_takes_no_measurement_of_other_kernels(monkeypatch, measured, hidden, chosen):
    monkeypatch.setattr(dispatch, "measurements", faster_at(measured))
    with dispatch.target("NVIDIA H200"):
        choice = lstm_dispatch.choose("auto", 64, 35, hidden, jnp.bfloat16)
    assert choice.implementation == chosen
    why = "; not mosaic_gpu, which is faster: others of its kernels were measured there"
    assert choice.reason.endswith(why) == (chosen == "xla")


def loss(arguments):
    """A loss of the kernels' outputs."""
    outputs, last = cases.lstm(
        arguments.inputs, arguments.params, arguments.first, implementation="mosaic_gpu"
    )
    return sum((array.astype(jnp.float32) ** 2).sum() for array in (outputs, *last))


def gradients(arguments):
    return jax.grad(lambda params: loss(arguments._replace(params=params)))(arguments.params)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [512, 2048])
@pytest.mark.parametrize("transformation", ["vmap", "remat", "shard_map"])
def test_the_kernels_compile_within_a_transformation(transformation, hidden):
    machine = aot.target("gpu:h200:1x4")
    if reason := aot.missing(machine.chip.platform):
        pytest.skip(reason)
    mesh = Mesh(np.array(machine.devices[: 4 if transformation == "shard_map" else 1]), ("rows",))
    whole = PartitionSpec()
    transformed = {
        "vmap": jax.vmap(gradients),
        "remat": lambda arguments: jax.grad(
            jax.checkpoint(lambda params: loss(arguments._replace(params=params)))
        )(arguments.params),
        "shard_map": jax.shard_map(
            gradients, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False
        ),
    }[transformation]
    leading = (3,) if transformation == "vmap" else ()
    shaped = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(
            (*leading, *array.shape), array.dtype, sharding=NamedSharding(mesh, whole)
        ),
        cases.draw(Case(4, 3, 2, hidden, state=True))._replace(cotangents=None),
    )
    with dispatch.target(machine.chip.device_kind):
        lowered = jax.jit(transformed).lower(shaped)
    kind = "grid" if hidden == 512 else "step"
    expected = {f"lstm_forward_{kind}", f"lstm_backward_{kind}"}
    # The grid's are called one after the other under vmap; of the others it makes one, of its name.
    if (transformation, kind) == ("vmap", "step"):
        expected = {"batched_body"}
    assert set(aot.compile_for(machine, lowered).kernels) == expected
