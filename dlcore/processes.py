"""The processes of one run: how they meet and compare, and how one leaves when something fails."""

import contextlib
import errno
import faulthandler
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed  # Its key-value store has no public name.
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import dlcore
from dlcore import aborts, liveness
from dlcore.errors import TrainingError, UsageError

# A process that is dead or stopped is noticed by its missing heartbeats, whatever the others are
# doing then: when this time is over or, as heartbeats are rare, up to half of it sooner.
HEARTBEAT_TIMEOUT_SECONDS = 50
# So that a step that waits for such a process ends sooner, with a line that says which step.
STEP_TIMEOUT_SECONDS = 20
# How long processes wait for each other: at the start, to be compared there, and where one of them
# fails. What they do before another comparison may take any time, and they are watched meanwhile.
START_TIMEOUT_SECONDS = 300
COMPARISON_TIMEOUT_SECONDS = 25
LEAVE_TIMEOUT_SECONDS = 2

# A longer value is compared by its hash, and seen by its beginning: names of classes may be many,
# and each process reads those of all.
_LONGEST_VALUE = 200

# Of the comparisons, which all processes make in the same order.
_numbers = itertools.count()
_doing = "the start"
_met = threading.Event()
# Held by the thread that says why this process ends.
_last_words = threading.RLock()


def start(
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    same: Mapping[str, Any] | None = None,
    still_seconds: float = 0.0,
) -> None:
    """Joins this process to the others of a run; call before anything touches a device.

    Slurm, Open MPI and TPU pods are detected by JAX; elsewhere all three arguments are needed.
    Where the others do not come, the process ends with a message and exit code 1. From here on it
    ends in one line, too, where another one is lost, or where all of them are at rest.

    Args:
      coordinator_address: "HOST:PORT" of process 0.
      num_processes: of the run.
      process_id: of this one.
      same: what has to be the same on all processes, by name.
      still_seconds: for so long all may be at rest once their devices are connected;
        `liveness.STILL_SECONDS` at least.

    Raises:
      UsageError: the arguments are wrong, or incomplete where no cluster is detected; process 0
        cannot listen there; or the processes, their devices or versions differ.
    """
    bind_address = None
    if coordinator_address:
        host, port = _parsed(coordinator_address)
        _check_alone(coordinator_address, process_id)
        if process_id == 0:
            bind_address = _bindable(coordinator_address, host, port)
    # Where a process is lost, JAX says so and aborts the others. absl's handler of that signal
    # would bury the message under the stacks of all threads.
    faulthandler.disable()
    aborts.translate(_end_of_loss)
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
            coordinator_bind_address=bind_address,
        )
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"the processes could not start ({str(error).splitlines()[0].rstrip('.')}): where no "
            "cluster is detected, give coordinator_address=HOST:PORT, num_processes and "
            "process_id"
        ) from error
    finally:
        alarm.cancel()
    _met.set()
    state: Any = distributed.global_state
    watched = liveness.Liveness(state.client, state.process_id, state.num_processes, doing)
    still_seconds, joined = max(still_seconds, liveness.STILL_SECONDS), threading.Event()

    def limit() -> float:
        # The devices of a pod may take their time to find each other, and no host's.
        return still_seconds if joined.is_set() else max(still_seconds, START_TIMEOUT_SECONDS)

    liveness.watch(watched, limit, _end_of_rest)
    # Before anything that hangs where they differ, as the search for all devices does.
    compare({**(same or {}), "num_processes": state.num_processes, **_versions()}, at_start=True)
    # Collectives need equally many on each process.
    compare(
        {
            "the number of its devices": jax.local_device_count(),
            "the kind of its devices": jax.local_devices()[0].device_kind,
        },
        at_start=True,
    )
    _connect()
    joined.set()


def _parsed(address: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\S+):(\d+)", address)
    if not match:
        raise UsageError(f"coordinator_address={address}: it is HOST:PORT")
    if not 1 <= int(match[2]) <= 65535:
        raise UsageError(f"coordinator_address={address}: its port is to be from 1 to 65535")
    return match[1].removeprefix("[").removesuffix("]"), int(match[2])


def _bindable(address: str, host: str, port: int) -> str | None:
    """Where process 0 listens: at its address, and not, as JAX would, at all that it has.

    None where JAX is to decide: it has a variable for it, or the host's own name is, as in Debian,
    that of an address that no other host reaches.
    """
    if os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
        return None
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, *_, place in places:
            with socket.socket(family) as probe:
                # A port whose last connection is just closed is free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with _unless_absent(several=len(places) > 1):
                    probe.bind(place)
    except OSError as error:
        raise UsageError(
            f"coordinator_address={address}: process 0 cannot listen there ({error.strerror}): "
            "give an address of the machine that it runs on, and a free port, or set "
            "JAX_COORDINATOR_BIND_ADDRESS to where it is to listen"
        ) from error
    found = {place[0] for *_, place in places}
    by_name = host not in {"localhost", *found}
    return None if by_name and found & {"127.0.0.1", "127.0.1.1", "::1"} else address


@contextlib.contextmanager
def _unless_absent(several: bool) -> Iterator[None]:
    """Passes over an address that this machine lacks, as localhost's of IPv6, if it has others."""
    try:
        yield
    except OSError as error:
        if not (several and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)):
            raise


def _check_alone(address: str, process_id: int | None) -> None:
    """Raises UsageError where another process of this machine has the same number in this run.

    Both end, if the other one is still waiting: they would wait for the process whose number this
    was to be. On other machines JAX notices it, when process 0 has come.
    """
    if sys.platform != "linux" or process_id is None:
        return
    message = (
        f"process_id={process_id}: another process on this machine has this number in the run of "
        f"{address}: each has its own, from 0"
    )
    # No file: the name is free again when the process ends, however it does. It has to be short.
    place = hashlib.sha256(address.encode()).hexdigest()
    name = f"\0dlcore {place} {process_id}"
    own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        own.bind(name)
    except OSError as error:
        with own, contextlib.suppress(OSError):
            own.sendto(b"another", name)
        if error.errno != errno.EADDRINUSE:  # A container may have no such sockets.
            return
        raise UsageError(message) from error

    def wait() -> None:
        own.recv(1)
        if not _met.is_set():
            _end(message, code=2)

    threading.Thread(target=wait, daemon=True).start()


def _versions() -> dict[str, str]:
    return {
        "the version of dlcore": dlcore.__version__,
        "the version of JAX": jax.__version__,
        "the version of jaxlib": importlib.metadata.version("jaxlib"),
        "the version of Python": platform.python_version(),
        "jax_enable_x64": str(jax.config.jax_enable_x64),
        "jax_default_matmul_precision": str(jax.config.jax_default_matmul_precision),
    }


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
    _end(
        f"the processes of this run did not meet within {START_TIMEOUT_SECONDS:g} s: start each "
        "with the same coordinator_address and num_processes and its own process_id"
    )


def compare(description: Mapping[str, Any], *, at_start: bool = False) -> None:
    """Compares what has to be the same on all processes, of which each calls this.

    No device takes part: where programs differ, a collective would wait for good.

    Args:
      description: plain data by name. A name is a field, or a thing as in "the version of JAX".
      at_start: they are all there, and none has to be waited for.

    Raises:
      UsageError: on every process, where one of them has another description.
      TrainingError: at the start one does not answer.
    """
    state = distributed.global_state
    if state.client is None:
        return
    place = f"dlcore/compared/{next(_numbers)}"
    own = {name: _shortened(value) for name, value in description.items()}
    state.client.key_value_set(f"{place}/{state.process_id}", json.dumps(own, default=str))
    deadline = time.monotonic() + (COMPARISON_TIMEOUT_SECONDS if at_start else float("inf"))
    pause = 0.1
    told: dict[int, Mapping[str, Any]] = {}
    while len(told) < state.num_processes:
        found = state.client.key_value_dir_get(place)
        told = {int(key.rpartition("/")[2]): json.loads(value) for key, value in found}
        if difference := _difference(told):
            raise UsageError(f"{difference}: start all processes alike, on the same data")
        if time.monotonic() > deadline:
            raise TrainingError(
                f"only {len(told)} of the {state.num_processes} processes of this run answered "
                f"within {COMPARISON_TIMEOUT_SECONDS:g} s: start all of them again"
            )
        time.sleep(pause)
        # Reading may take one of many processes hours.
        pause = min(1.5 * pause, 1.0)


def _shortened(value: Any) -> Any:
    text = json.dumps(value, default=str)
    if len(text) <= _LONGEST_VALUE:
        return value
    return f"{text[:_LONGEST_VALUE]}... ({hashlib.sha256(text.encode()).hexdigest()[:16]})"


def _difference(told: Mapping[int, Mapping[str, Any]]) -> str | None:
    """The first difference from process 0, if that has told anything yet."""
    if 0 not in told:
        return None
    first = told[0]
    for number, other in sorted(told.items()):
        for name in (*first, *other):
            one, another = first.get(name, "absent"), other.get(name, "absent")
            if one != another:
                return f"{name} is {one} on process 0 and {another} on process {number}"
    return None


def at(stage: str) -> None:
    """Says what this process does from now on, for the line that it may end with: "the report"."""
    global _doing
    _doing = stage


def doing() -> str:
    """What was last said to `at`."""
    return _doing


def first_says(answer: bool) -> bool:
    """The answer of process 0, on every process."""
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(answer)))


def claim_last_words() -> None:
    """Returns for one thread, which is about to say why this process ends, and to end it.

    Where a process is lost, several notice it in one moment: the others wait in here for the end.
    """
    _last_words.acquire()


def leave(code: int) -> NoReturn:
    """Ends this process after a failure, whatever the others of its run are doing.

    A usual exit waits for all of them, and they may be waiting for this one. Those that fail in the
    same way come here too: they get a moment, so that each ends with its own message and code.
    """
    claim_last_words()
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
    claim_last_words()
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


def _end(line: str, *, code: int = 1, moment: float = 0.0) -> NoReturn:
    """Ends this process with a line.

    Args:
      line: why.
      code: of the exit.
      moment: seconds until then.
    """
    claim_last_words()
    where = f"at {_doing}: " if _met.is_set() else ""
    with contextlib.suppress(OSError):  # Nobody may be there to read it.
        sys.stdout.flush()
        # A progress bar may have left the cursor inside a line.
        print(f"\nerror: {where}{line}", file=sys.stderr, flush=True)
    time.sleep(moment)
    os._exit(code)


def _end_of_loss() -> NoReturn:
    """In the place of JAX, which would abort this process."""
    same = "" if _met.is_set() else ", or has the process_id of this one"
    _end(f"another process of this run died, left or was stopped{same}: start all of them again")


def _end_of_rest(stand: str) -> NoReturn:
    """Where all processes are at rest, which they find within a moment of each other."""
    _end(
        f"no process of this run does anything any more, one of them is stuck ({stand}): start all "
        "of them again",
        # Where process 0 is gone, JAX ends the others before they have said so.
        moment=LEAVE_TIMEOUT_SECONDS,
    )


def _say_farewell() -> None:
    with contextlib.suppress(RuntimeError):
        jax.distributed.shutdown()
