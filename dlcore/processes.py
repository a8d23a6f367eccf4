"""The processes of one run: how they meet, and how one leaves when something fails."""

import contextlib
import faulthandler
import os
import re
import sys
import threading
import traceback
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlcore.errors import UsageError

# A process that is dead or stopped is noticed by its missing heartbeats, whatever the others are
# doing then. JAX aborts them when this time is over or, as heartbeats are rare, up to half of it
# sooner.
HEARTBEAT_TIMEOUT_SECONDS = 50
# So that a step that waits for such a process ends with our own line, before JAX aborts it.
STEP_TIMEOUT_SECONDS = 20
# How long processes wait for each other: at the start, and where one of them fails.
START_TIMEOUT_SECONDS = 300
LEAVE_TIMEOUT_SECONDS = 2


def start(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins this process to the others of a run; call before anything touches a device.

    Slurm, Open MPI and TPU pods are detected by JAX; elsewhere all three arguments are needed.
    Where the others do not come, the process ends with a message and exit code 1.

    Raises:
      UsageError: the arguments are wrong, or incomplete where no cluster is detected.
    """
    if coordinator_address and not re.fullmatch(r".+:\d{1,5}", coordinator_address):
        raise UsageError(f"coordinator_address={coordinator_address}: it is HOST:PORT")
    # Where a process is lost, JAX says so and aborts the others. absl's handler of that signal
    # would bury the message under the stacks of all threads.
    faulthandler.disable()
    # JAX would end the process without a word about the flags.
    alarm = threading.Timer(START_TIMEOUT_SECONDS, _give_up)
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            initialization_timeout=2 * START_TIMEOUT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"the processes could not start ({str(error).splitlines()[0].rstrip('.')}): where no "
            "cluster is detected, give coordinator_address=HOST:PORT, num_processes and "
            "process_id"
        ) from error
    finally:
        alarm.cancel()
    _connect()


def _connect() -> None:
    """Makes the connections between all devices, and between the processes.

    The first collective of a group does so, and on CPUs it waits for 30 s only, which is less than
    reading data or compiling may part the processes. Now they are together.
    """
    mesh = Mesh(np.asarray(jax.devices()), ("device",))
    split, whole = (
        NamedSharding(mesh, PartitionSpec("device")),
        NamedSharding(mesh, PartitionSpec()),
    )
    ones = jax.jit(lambda: jnp.ones(mesh.size), out_shardings=split)()
    jax.jit(jnp.sum, out_shardings=whole)(ones).block_until_ready()
    first_says(True)


def _give_up() -> None:
    print(
        f"error: the processes of this run did not meet within {START_TIMEOUT_SECONDS:g} s: start "
        "each with the same coordinator_address and num_processes and its own process_id",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def first_says(answer: bool) -> bool:
    """The answer of process 0, on every process."""
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(answer)))


def leave(code: int) -> NoReturn:
    """Ends this process after a failure, whatever the others of its run are doing.

    A usual exit waits for all of them, and they may be waiting for this one. Those that fail in the
    same way come here too: they get a moment, so that each ends with its own message and code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    farewell = threading.Thread(target=_say_farewell, daemon=True)
    farewell.start()
    farewell.join(LEAVE_TIMEOUT_SECONDS)
    os._exit(code)


def abandon(error: BaseException, where: str = "") -> NoReturn:
    """Leaves because of an error: in one line where another process or the system is its cause.

    Args:
      error: what ended the work of this process.
      where: what it was doing, for that line.
    """
    reason = str(error).partition("\n")[0]
    of_peers = re.search("gloo|nccl|peer|remote|connection|unavailable", reason, re.IGNORECASE)
    lost = isinstance(error, jax.errors.JaxRuntimeError) and of_peers
    if lost:
        reason = f"another process of this run died or left: start all of them again ({reason})"
    if lost or isinstance(error, OSError):
        # A progress bar may have left the cursor inside a line.
        print(f"\nerror: {where}{reason}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
    if lost and jax.process_index() > 0:
        # Where it is process 0 that is gone, JAX is about to abort this one.
        os._exit(1)
    leave(1)


def _say_farewell() -> None:
    with contextlib.suppress(RuntimeError):
        jax.distributed.shutdown()
