"""From a lowered Mosaic GPU kernel to machine code, on a machine without a GPU.

The CUDA plugin compiles a kernel when a program starts: MLIR to PTX, PTX through `ptxas`, and then
the result is given to the driver. Its entry for that is called here, in a process of its own, with
a driver that knows what it is asked on the way, the device's compute capability, and takes the
result without looking at it. Everything up to the machine code is so what a GPU machine does.
"""

import dataclasses
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from kernels.aot import COMPILERS

# Of the attributes that may be asked: the parts of the compute capability.
_DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 12090; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 0; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 9 : 0;
  return 0;
}
int cuModuleLoadData(void **module, const void *image) { *module = (void *)1; return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
  *function = (void *)1;
  return 0;
}
int cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }
int cuGetErrorString(int error, const char **text) { *text = "no driver"; return 0; }
"""

_CALL = """
import ctypes, pathlib, sys
plugin, module = sys.argv[1:]
compile_kernel = ctypes.CDLL(plugin).MosaicGpuCompile
compile_kernel.argtypes, compile_kernel.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
code = pathlib.Path(module).read_bytes()
sys.exit(0 if compile_kernel(code, len(code)) else "the kernel does not compile")
"""


@dataclasses.dataclass(frozen=True)
class Assembly:
    """What `ptxas` says of a kernel.

    Attributes:
      name: of the kernel.
      registers: of a thread.
      spilled_bytes: registers that went to memory and come back, a thread; 0 in a good kernel.
      tensor_instructions: matrix instructions in the PTX.
    """

    name: str
    registers: int
    spilled_bytes: int
    tensor_instructions: int


def missing() -> str | None:
    """What is missing for assembling, or None."""
    if not (COMPILERS / "jax_plugins" / "xla_cuda12").is_dir():
        return "the compiler for cuda is not installed: make compilers"
    return None if shutil.which("cc") else "there is no C compiler for the driver's stand-in"


def assemble(lowered: Any) -> list[Assembly]:
    """Compiles every Mosaic GPU kernel of a lowered program to machine code for sm_90a.

    Args:
      lowered: of `jax.jit(f).lower(...)` over shapes on the devices of a GPU target.

    Raises:
      RuntimeError: a kernel does not compile; the message is the compiler's.
    """
    return [_assemble(module) for module in _modules(lowered)]


def _modules(lowered: Any) -> list[bytes]:
    """The kernels' code, MLIR in its binary form."""
    found = []

    def visit(operation: Any) -> None:
        if operation.name == "stablehlo.custom_call":
            attributes = operation.attributes
            if "mosaic_gpu" in str(attributes["call_target_name"]):
                found.append(attributes["mhlo.backend_config"]["module"].value_bytes)
        for region in operation.regions:
            for block in region:
                for inner in block:
                    visit(inner.operation)

    visit(lowered.compiler_ir("stablehlo").operation)
    return found


def _assemble(module: bytes) -> Assembly:
    plugin = COMPILERS / "jax_plugins" / "xla_cuda12" / "xla_cuda_plugin.so"
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        (directory / "module").write_bytes(module)
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(_driver()),
            "MOSAIC_GPU_CUDA_ROOT": str(COMPILERS / "nvidia" / "cuda_nvcc"),
            "MOSAIC_GPU_DUMP_TO": name,
            "MOSAIC_GPU_DUMP_PTX": "1",
            "MOSAIC_GPU_DUMP_PTXAS": "1",
            "MOSAIC_GPU_RUNTIME_LIB_PATH": str(
                COMPILERS / "jax_cuda12_plugin" / "libmosaic_gpu_runtime.so"
            ),
        }
        command = [sys.executable, "-c", _CALL, str(plugin), str(directory / "module")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        (report,) = directory.glob("*.ptxas")
        (code,) = directory.glob("*.ptx")
        return _read(report.read_text(encoding="utf-8"), code.read_text(encoding="utf-8"))


def _read(report: str, code: str) -> Assembly:
    (name,) = re.findall(r"Compiling entry function '(\w+)'", report)
    (registers,) = re.findall(r"Used (\d+) registers", report)
    spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    return Assembly(
        name=name.removesuffix("_mosaic_gpu_kernel"),
        registers=int(registers),
        spilled_bytes=sum(map(int, spilled)),
        tensor_instructions=code.count("wgmma.mma_async"),
    )


@functools.cache
def _driver() -> pathlib.Path:
    """A folder with the driver's stand-in, for as long as this process lives."""
    keeper = tempfile.TemporaryDirectory()
    _keepers.append(keeper)
    source = pathlib.Path(keeper.name) / "driver.c"
    source.write_text(_DRIVER, encoding="utf-8")
    library = source.with_name("libcuda.so.1")
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", library, source], check=True)
    return library.parent


_keepers: list[tempfile.TemporaryDirectory[str]] = []
