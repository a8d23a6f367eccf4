"""Compiling for an accelerator that is not there.

The compilers of TPUs (`libtpu`) and of NVIDIA GPUs (JAX's CUDA plugin and `ptxas`) run on any
machine; `make compilers` puts them into the folder `.compilers`. What is compiled cannot be run,
but it says whether it compiles, what memory it takes, and which kernels and collectives it holds.

A TPU's Pallas kernels are compiled to machine code on the way. A GPU's are only carried along by
XLA, which leaves them to the start of the program: `kernels.assembly` takes them to machine code.

Call `prepare` before anything touches a device.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies

COMPILERS = pathlib.Path(__file__).parent.parent / ".compilers"
# More than any TPU pod has; describing far larger machines, XLA does not come to an end.
MAX_DEVICES = 16384


class DoesNotFitError(RuntimeError):
    """A program, or a kernel in it, needs more memory than a device has; the message is XLA's."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of accelerator.

    Attributes:
      platform: "tpu" or "cuda", as the compilers say.
      device_kind: as JAX names a device of that kind.
      memory: bytes of a device.
      description: what the GPU compiler asks for, in the text form of XLA's GpuTargetConfigProto.
    """

    platform: str
    device_kind: str
    memory: int
    description: str = ""


def _gpu(name: str, capability: str, memory: int, bandwidth: int, **numbers: Any) -> Chip:
    # Per multiprocessor, per block, and of the whole chip: the vendor's data sheets.
    facts = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2147483647,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "device_memory_size": memory,
        "memory_bandwidth": bandwidth,
        **numbers,
    }
    listed = " ".join(f"{fact}: {number}" for fact, number in facts.items())
    description = (
        f"gpu_device_info {{ {listed} cuda_compute_capability {{ {capability} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 28 } '
        "runtime_version { major: 12 minor: 9 patch: 0 } "
        f'device_description_str: "{name}"'
    )
    return Chip("cuda", name, memory, description)


_HOPPER: dict[str, Any] = {
    "shared_memory_per_core": 233472,
    "shared_memory_per_block_optin": 232448,
    "core_count": 132,
    "fpus_per_core": 128,
    "l2_cache_size": 52428800,
    "clock_rate_ghz": 1.98,
}
_AMPERE: dict[str, Any] = {
    "shared_memory_per_core": 167936,
    "shared_memory_per_block_optin": 166912,
    "core_count": 108,
    "fpus_per_core": 64,
    "l2_cache_size": 41943040,
    "clock_rate_ghz": 1.41,
}
_GIB = 2**30
CHIPS = {
    "v5e": Chip("tpu", "TPU v5 lite", 16 * _GIB),
    "v5p": Chip("tpu", "TPU v5", 95 * _GIB),
    "v6e": Chip("tpu", "TPU v6 lite", 32 * _GIB),
    "a100": _gpu("NVIDIA A100-SXM4-80GB", "major: 8", 80 * 10**9, 2_039 * 10**9, **_AMPERE),
    "h100": _gpu("NVIDIA H100 80GB HBM3", "major: 9", 80 * 10**9, 3_350 * 10**9, **_HOPPER),
    "h200": _gpu("NVIDIA H200", "major: 9", 141 * 10**9, 4_800 * 10**9, **_HOPPER),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine: chips of one kind, connected.

    Attributes:
      name: as it was written: "tpu:v5e:8x8", "gpu:h200:1x8".
      chip: the kind.
      topology: "8x8": for TPUs the axes of the torus, for GPUs hosts and GPUs of each.
    """

    name: str
    chip: Chip
    topology: str

    @functools.cached_property
    def devices(self) -> list[Any]:
        """The devices, on which nothing can run.

        Raises:
          ValueError: there is no such topology of that chip.
        """
        platform, options = self.chip.platform, {}
        name = f"{self.name.split(':')[1]}:{self.topology}"
        if platform == "cuda":
            # XLA counts partitions, hosts, and GPUs of a host.
            options = {
                "target_config": self.chip.description,
                "topology": f"1x{self.topology}",
            }
        try:
            topology = topologies.get_topology_desc(name, platform=platform, **options)
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(f"target {self.name!r} is not available: {error}") from error
        return list(topology.devices)


def target(name: str) -> Target:
    """The machine that a name stands for: "tpu:v5e:8x8", "gpu:h200:1x8"; a small one by default.

    Raises:
      ValueError: the name is malformed, or there is no such chip, or no machine of that size.
    """
    match = re.fullmatch(r"(tpu|gpu):(\w+)(?::([0-9]+(?:x[0-9]+)*))?", name)
    kinds = ", ".join(CHIPS)
    if not match or match[2] not in CHIPS:
        raise ValueError(
            f"target {name!r}: it is tpu:CHIP:AxB or gpu:CHIP:AxB, CHIP one of {kinds}"
        )
    chip = CHIPS[match[2]]
    if (match[1] == "tpu") != (chip.platform == "tpu"):
        raise ValueError(f"target {name!r}: {match[2]} is not a {match[1].upper()}")
    small = "1x1" if chip.platform == "cuda" else ("2x2x1" if match[2] == "v5p" else "2x2")
    topology = match[3] or small
    axes = topology.split("x")
    if not all(re.fullmatch("[1-9][0-9]{0,3}", axis) for axis in axes):
        raise ValueError(f"target {name!r}: each number of {topology} must be from 1 to 9999")
    if chip.platform == "cuda" and len(axes) != 2:
        raise ValueError(f"target {name!r}: {topology} must be HOSTSxGPUS, the GPUs of each host")
    if math.prod(map(int, axes)) > MAX_DEVICES:
        raise ValueError(f"target {name!r}: {topology} are more than {MAX_DEVICES} chips")
    return Target(name, chip, topology)


def prepare() -> None:
    """Makes the compilers known to this process; JAX must not have looked for devices yet."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # JAX read the environment when it was imported; it would try the compilers' devices.
    if not jax.config.jax_platforms:
        jax.config.update("jax_platforms", "cpu")
    # They would look for the chips, or for the libraries that only running needs.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    # Only one process may hold a chip, but any number may compile.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    if COMPILERS.is_dir() and str(COMPILERS) not in sys.path:
        sys.path.append(str(COMPILERS))
    # What prepares a kernel's launch; where Pallas was imported before, it has not been found.
    runtime = COMPILERS / "jax_cuda12_plugin" / "libmosaic_gpu_runtime.so"
    if runtime.exists():
        os.environ.setdefault("MOSAIC_GPU_RUNTIME_LIB_PATH", str(runtime))


def missing(platform: str) -> str | None:
    """What is missing for compiling for "tpu" or "cuda", or None."""
    module = {"tpu": "libtpu", "cuda": "jax_plugins.xla_cuda12"}[platform]
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    return None if found else f"the compiler for {platform} is not installed: make compilers"


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      kernels: names of the Pallas kernels in it, one for each call.
      collectives: how often each kind of collective occurs.
      flops: floating-point operations of a device, as XLA counts them: a loop's body once, and
        kernels left out.
      bytes_accessed: bytes that a device moves, likewise. For a GPU XLA counts neither.
      kernel_bytes: of the kernels' arguments and results: what they move if they read and write
        each of these once; of a loop's body once, too.
      argument_bytes: of a device's memory, for the arguments.
      output_bytes: for the results.
      temporary_bytes: for what lies between.
      alias_bytes: results that take the arguments' place.
    """

    kernels: tuple[str, ...]
    collectives: dict[str, int]
    flops: float
    bytes_accessed: float
    kernel_bytes: int
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    alias_bytes: int

    @property
    def peak_bytes(self) -> int:
        """What a device has to hold at once, at most."""
        held = self.argument_bytes + self.output_bytes + self.temporary_bytes
        return held - self.alias_bytes


_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)


def compile_for(machine: Target, lowered: Any) -> Program:
    """Compiles what was lowered for a target's devices, and looks at the result.

    Args:
      machine: where it would run.
      lowered: of `jax.jit(f).lower(...)` over shapes whose shardings are over `machine.devices`,
        traced within `dispatch.target(machine.chip.device_kind)`.

    Raises:
      DoesNotFitError: the program needs too much memory. A TPU's compiler knows, a GPU's does not.
    """
    try:
        with _nothing_kept():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        code, _, reason = str(error).partition(": ")
        if code != "RESOURCE_EXHAUSTED":
            raise
        raise DoesNotFitError(reason.splitlines()[0]) from error
    text = compiled.as_text()
    memory = compiled.memory_analysis()
    cost = compiled.cost_analysis() or {}
    calls = _kernel_calls(text)
    return Program(
        kernels=tuple(name for name, _ in calls),
        collectives={
            kind: count
            for kind in _COLLECTIVES
            if (count := len(re.findall(rf" {kind}(?:-start)?\(", text)))
        },
        flops=cost.get("flops", 0.0),
        bytes_accessed=cost.get("bytes accessed", 0.0),
        kernel_bytes=sum(moved for _, moved in calls),
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
    )


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """JAX's cache would keep programs of absent devices, which it then cannot read."""
    name = "jax_persistent_cache_min_compile_time_secs"
    least = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        yield
    finally:
        jax.config.update(name, least)


def _kernel_calls(text: str) -> list[tuple[str, int]]:
    """The name and the `kernel_bytes` of each call of a Pallas kernel in a compiled program."""
    calls = re.findall(
        r"^ *(?:ROOT )?%\S+ = (.*?) custom-call\(.*?"
        r'custom_call_target="(?:tpu_custom_call|mosaic_gpu_v2)", '
        r'operand_layout_constraints=\{(.*?)\}, (?:api|front).*?op_name="([^"]*)"',
        text,
        re.MULTILINE,
    )
    found = []
    for results, operands, scope in calls:
        # Of "jit(f)/transpose(jvp(name))/pallas_call" the name.
        scope = re.sub(r"/(?:pallas_call|mpmd_map).*", "", scope)
        found.append((re.sub(r".*?(\w+)\)*$", r"\1", scope), _bytes(results) + _bytes(operands)))
    return found


def _bytes(shapes: str) -> int:
    """The bytes of all arrays in a text such as "(bf16[36,64]{1,0}, f32[])"."""
    return sum(
        # A type's name ends with its bits; a "pred" takes a byte.
        math.prod(map(int, filter(None, sizes.split(",")))) * int(bits or 8) // 8
        for bits, sizes in re.findall(r"[a-z]+(\d*)\[([\d,]*)\]", shapes)
    )
