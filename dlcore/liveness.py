"""Whether the processes of a run still move: where none does, one is stuck and all wait for it.

A process that is dead or stopped is noticed by JAX, whose native threads exchange heartbeats. One
that is blocked, as in a file system that does not answer, has these all the same, and the others
wait for it in a collective for good. How long reading, compiling or writing may take, nobody can
say; but who does any of it computes, reads or writes. So each process tells the others for how long
it has done nothing. One that waits for another has done nothing either, and may: only where all of
them have, the run is stuck.
"""

import dataclasses
import json
import pathlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

# Longer than a file system hesitates or a device computes while its host waits, and short enough
# that whoever looks at the run hears of it within a minute.
STILL_SECONDS = 45
_INTERVAL = 1.0
# A process at rest, that exchanges heartbeats, takes 0.5 % of a core and reads 150 bytes a second.
_CORE_SHARE = 0.03
_BYTES = 4096
# The system may bring a checkpoint to a slow disk at this rate, while the process that waits for it
# seems at rest.
_STORED_BYTES = 50 * 1024**2
# A process whose tidings are older may hold Python's lock, and work.
_FRESH_LOOKS = 5
_PLACE = "dlcore/liveness"


class Store(Protocol):
    """What is used of JAX's key-value store, which all processes of a run share."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Sets the value of a key."""

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """All keys below a key, with their values."""


@dataclasses.dataclass
class _Peer:
    """What is known of another process, or of this one.

    Attributes:
      look: its own count of looks.
      still: looks since it has done anything.
      doing: what it says to be doing.
      age: looks of ours since its count grew.
    """

    look: int = -1
    still: int = 0
    doing: str = ""
    age: int = 0


class Liveness:
    """What the processes of a run know of each other's progress.

    Args:
      store: shared by them.
      process_id: of this one.
      num_processes: of all.
      doing: what this process is doing.
      work: grows with the processor time, in seconds, the bytes that it reads and writes, and those
        of them that go to a disk.
    """

    def __init__(
        self,
        store: Store,
        process_id: int,
        num_processes: int,
        doing: Callable[[], str],
        work: Callable[[], tuple[float, int, int]] | None = None,
    ) -> None:
        self._store, self._id = store, process_id
        self._doing, self._work = doing, work or _work
        self._done, self._on_the_way = self._work(), 0.0
        self._own = _Peer(look=0)
        self._peers = {number: _Peer() for number in range(num_processes)}

    def look(self) -> None:
        """Tells the others of this process, and learns of them; once in every interval."""
        done = self._work()
        seconds, moved, stored = (now - then for now, then in zip(done, self._done, strict=True))
        self._done = done
        self._on_the_way = max(self._on_the_way + stored - _STORED_BYTES * _INTERVAL, 0.0)
        works = (
            seconds > _CORE_SHARE * _INTERVAL or moved > _BYTES * _INTERVAL or self._on_the_way > 0
        )
        # Looks are counted and not seconds: in its sleep a machine takes none.
        self._own.still = 0 if works else self._own.still + 1
        self._own.look += 1
        told = {"look": self._own.look, "still": self._own.still, "doing": self._doing()}
        self._store.key_value_set(f"{_PLACE}/{self._id}", json.dumps(told), allow_overwrite=True)
        for key, value in self._store.key_value_dir_get(_PLACE):
            self._learn(self._peers[int(key.rpartition("/")[2])], json.loads(value))

    @staticmethod
    def _learn(peer: _Peer, told: Mapping[str, Any]) -> None:
        peer.age = 0 if told["look"] != peer.look else peer.age + 1
        peer.look, peer.still, peer.doing = told["look"], told["still"], told["doing"]

    def stuck(self, limit: float) -> str | None:
        """Where each process stands, if none of them has done anything for so many seconds."""
        known = self._peers.values()
        if any(peer.still * _INTERVAL < limit or peer.age > _FRESH_LOOKS for peer in known):
            return None
        places: dict[str, list[str]] = {}
        for number, peer in self._peers.items():
            places.setdefault(peer.doing, []).append(str(number))
        return ", ".join(
            f"process{'es' * (len(numbers) > 1)} {' '.join(numbers)} at {doing}"
            for doing, numbers in places.items()
        )


def watch(liveness: Liveness, limit: Callable[[], float], end: Callable[[str], NoReturn]) -> None:
    """Looks from a thread until the process ends; `end` is told where all of them stand.

    Args:
      liveness: of this process.
      limit: for how many seconds all may be at rest, as things are.
      end: ends the process.
    """

    def keep_looking() -> None:
        while True:
            time.sleep(_INTERVAL)
            try:
                liveness.look()
            except RuntimeError:  # The processes part, or have lost each other.
                return
            if stand := liveness.stuck(limit()):
                end(stand)

    threading.Thread(target=keep_looking, name="liveness", daemon=True).start()


def _work() -> tuple[float, int, int]:
    try:
        lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    except OSError:
        # A process that reads slowly could not be told from one that is stuck: none is called so.
        return time.process_time(), time.monotonic_ns(), 0
    counts = {name: int(count) for name, count in (line.split(": ") for line in lines)}
    names = ("rchar", "wchar", "read_bytes", "write_bytes")
    moved = sum(counts[name] for name in names)
    return time.process_time(), moved, counts["write_bytes"]
