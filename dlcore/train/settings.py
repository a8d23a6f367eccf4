"""How a recipe is run on a machine: what decides no result."""

import dataclasses
from typing import Annotated

from dlcore import paths, ranges
from dlcore.errors import UsageError
from dlcore.ranges import Natural, Positive, Range

# What `kernels` may be.
KERNELS = ("auto", "xla", "mosaic_gpu", "mosaic_tpu")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a recipe is run on this machine.

    Attributes:
      data_dir: directory of prepared TFDS datasets; the environment's DLCORE_DATA_DIR by default.
      parallelism: how the batch is laid out: jit (one device), pmap, data, fsdp.
      kernels: implementation of the kernels that a model calls: auto, xla, mosaic_gpu, mosaic_tpu.
      checkpoint_every: steps between checkpoints, beside the one after each evaluation; 0 for none.
      keep: how many of the newest checkpoints stay, beside the best.
      on_nonfinite: what a non-finite loss or gradient does: stop, or skip that update.
      step_timeout: seconds without progress that end the run, at least 1; 0 picks 600, or 20 for
        several processes.
      profile: write a trace of steps 10 to 15 into the run directory.

    Raises:
      UsageError: a value is out of its range.
    """

    data_dir: str = ""
    parallelism: str = "jit"
    kernels: str = "auto"
    checkpoint_every: Natural = 0
    keep: Positive = 2
    on_nonfinite: str = "stop"
    step_timeout: Annotated[float, Range(least=1, or_zero=True)] = 0.0
    profile: bool = False

    def __post_init__(self) -> None:
        ranges.check(self)
        if self.data_dir:
            paths.directory(self.data_dir, "data_dir")
        if self.kernels not in KERNELS:
            raise UsageError(
                f"kernels={self.kernels}: it is {', '.join(KERNELS[:-1])} or {KERNELS[-1]}"
            )
        if self.kernels.startswith("mosaic") and self.parallelism == "fsdp":
            raise UsageError(
                f"kernels={self.kernels}: under parallelism=fsdp the compiler splits every "
                "operation, and it cannot split a Pallas kernel: use xla, or parallelism=data"
            )
        if self.on_nonfinite not in ("stop", "skip"):
            raise UsageError(f"on_nonfinite={self.on_nonfinite}: it is stop or skip")
