"""How often each host may be asked: kept in one small file a host, for all processes of this machine.

Owns the order in which calls start, the stay-away that a host asked for, and how much slower we go after it
complained. A process that is killed leaves at most one unused place in the queue; its lock goes with it.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cryptomon_lib.storage import write_whole

log = logging.getLogger(__name__)

LIVE, BACKGROUND = "live", "background"
# of a minute's calls so many may start at once; the rest is spread
_AT_ONCE = 5
# each complaint halves the pace, down to an eighth, until there was none for so long
_SLOWEST, _SLOW_S = 8, 600.0
# the longest that an exchange is known to shut out an address; a moment beyond it is a clock that jumped
_BAN_MAX_S = 3 * 86400.0
_QUEUE_MAX_S = 900.0
_LOCK_S = 10.0


@dataclass(frozen=True)
class Ban:
    """A host is not to be asked: seconds left, and why."""

    left_s: float
    says: str


class Budgets:
    """The pace of calls to hosts, shared through a folder.

    now: seconds since 1970; the same for all processes, and it survives them.
    """

    def __init__(self, folder: str | Path, now: Callable[[], float] = time.time):
        self.folder, self._now = Path(folder), now

    def reserve(self, host: str, calls_per_min: float, lane: str = LIVE) -> float:
        """Take the next place in the queue of a host; seconds until the call may start.

        In no minute do more than calls_per_min calls of a lane start. Places are given in the order asked
        for, so nobody starves.
        """
        with self._state(host) as state:
            now, lanes = self._now(), state.setdefault("next_at", {})
            pace = calls_per_min / _slowness(state, now)
            at_once = max(1.0, pace // _AT_ONCE)
            # a hair more than even: sums of fractions must not bring one call too many into a minute
            interval = (60.0 / (pace - at_once + 1.0) if pace >= 1 else 60.0 / pace) * 1.0001 + 1e-6
            # when the queue would be empty at an even pace; a clock that was set back must not stop us
            even = lanes.get(lane, 0.0)
            even = max(now, even) if even < now + _QUEUE_MAX_S else now
            starts = max(now, even - (at_once - 1.0) * interval)
            lanes[lane] = even + interval
            return starts - now

    def ban(self, host: str, seconds: float, says: str) -> None:
        """Nobody asks the host for so long; a longer ban that stands already stays."""
        with self._state(host) as state:
            until = self._now() + min(seconds, _BAN_MAX_S)
            if until > state.get("banned_until", 0.0):
                state["banned_until"], state["says"] = until, says

    def slow_down(self, host: str) -> None:
        """Ask at half the pace for the next minutes; again at half of that when it is not enough."""
        with self._state(host) as state:
            now = self._now()
            state["slowness"] = min(_SLOWEST, 2 * _slowness(state, now))
            state["slow_until"] = now + _SLOW_S

    def banned(self, host: str) -> Ban | None:
        """The ban that stands, if there is one."""
        return _ban(self._read(self._path(host)), self._now())

    def bans(self) -> dict[str, Ban]:
        """All bans that stand, by host."""
        found = {
            path.stem.replace("~", ":"): _ban(self._read(path), self._now())
            for path in sorted(self.folder.glob("*.json"))
        }
        return {host: ban for host, ban in found.items() if ban}

    @contextmanager
    def _state(self, host: str) -> Iterator[dict]:
        """A host's state, to be changed while no other process does."""
        path = self._path(host)
        lock = FileLock(path.with_suffix(".lock"), timeout=_LOCK_S)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(poll_interval=0.002)
        except (Timeout, OSError) as error:
            # better asked too soon than not at all: a minute that is missed does not come again
            log.warning("the budget of %s cannot be kept in %s: %s", host, self.folder, error)
            yield {}
            return
        try:
            state = self._read(path)
            yield state
            _write(path, state)
        finally:
            lock.release()

    def _path(self, host: str) -> Path:
        return self.folder / (re.sub(r"[^\w.~-]", "_", host.replace(":", "~")) + ".json")

    def _read(self, path: Path) -> dict:
        try:
            state = json.loads(path.read_bytes())
            return state if isinstance(state, dict) else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read and is begun anew: %s", path, error)
            return {}


def _ban(state: dict, now: float) -> Ban | None:
    left = state.get("banned_until", 0.0) - now
    return Ban(left, state.get("says", "")) if 0 < left <= _BAN_MAX_S else None


def _slowness(state: dict, now: float) -> float:
    return state.get("slowness", 1) if now < state.get("slow_until", 0.0) <= now + _SLOW_S else 1


def _write(path: Path, state: dict) -> None:
    try:
        # at each call: a disk's sync would cost more than what a power cut can take, the pace of some minutes
        write_whole(path, json.dumps(state).encode(), sync=False)
    except OSError as error:
        log.warning("the budget cannot be kept in %s: %s", path, error)
