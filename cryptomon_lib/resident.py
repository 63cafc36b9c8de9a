"""The resident runner: follows the schedule in one process, until it is ended.

Owns what happens when times pass: jobs that come often run here, in a warm kernel, and wait for no other job;
all others take turns in one process beside it. A time is run at most once; what is missed, left out or run late
is told. docs/schedule.md has the definitions in a table.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from rich.markup import escape
from rich.text import Text

from cryptomon_lib import logs
from cryptomon_lib.clock import SLICE_S, Clock
from cryptomon_lib.config import Settings, home, root_id
from cryptomon_lib.errors import AlreadyRunning, CryptomonError, RunStopped
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.run import Kernels, Stopped, run_job
from cryptomon_lib.runs import together
from cryptomon_lib.schedule import Job, is_frequent, last_due, next_due, schedule_changed_at, scheduled_jobs
from cryptomon_lib.storage import write_whole

log = logging.getLogger(__name__)

Told = Callable[[str], None]

# wall clock and monotonic clock drift apart by less than this where nobody sets the clock
_STEP_S = 1.0
_ITS_MINUTE = timedelta(minutes=1)
# a clock set back by less waits until it has passed what was run; set back farther, the new clock is believed
_PATIENCE, _PATIENCE_OFTEN = timedelta(hours=3), timedelta(minutes=5)
# files of the library are looked at so often; changed, and the same at two looks, they are a version to begin anew with
_LOOK_S = 30.0
# more that passed are not counted one by one
_PASSED_MAX = 50_000
# a job's own time limit ends it; this is for one that hangs so that it cannot
_GRACE_S, _END_S = 60, 20
_NICE = 10


@dataclass(frozen=True)
class Due:
    """A job whose time came. at: the newest time that passed; passed: how many did since it was looked at last.

    late: the job is not to be run any more, all of them are missed.
    """

    name: str
    at: datetime
    passed: int
    late: bool = False


class Timetable:
    """When which job is due, with no clock of its own.

    done: the newest time of a job that was run, from an earlier life; jobs that catch up begin there.
    """

    def __init__(self, jobs: Mapping[str, Job], now: datetime, done: Mapping[str, datetime] | None = None):
        self.jobs: dict[str, Job] = {}
        self._done = dict(done or {})
        self._next: dict[str, datetime] = {}
        self._often: dict[str, bool] = {}
        self.update(jobs, now)

    def update(self, jobs: Mapping[str, Job], now: datetime) -> None:
        """Follow other jobs from now on; one whose times did not change keeps its place."""
        for name, job in jobs.items():
            if name in self.jobs and self.jobs[name].cron == job.cron:
                continue
            self._often[name] = is_frequent(job)
            self._next[name] = self._first(name, job, now)
        self.jobs = dict(jobs)
        self._next = {name: self._next[name] for name in jobs}

    def is_often(self, name: str) -> bool:
        """Whether a job comes every five minutes or more often."""
        return self._often[name]

    def next_at(self) -> datetime | None:
        """When the next job is due; None where there is none."""
        return min(self._next.values(), default=None)

    def due(self, now: datetime) -> list[Due]:
        """Jobs whose time has come, those that come often first."""
        names = [name for name, at in self._next.items() if at <= now]
        found = [self._take(name, now) for name in sorted(names, key=lambda name: not self._often[name])]
        return [one for one in found if one is not None]

    def stepped_back(self, now: datetime) -> None:
        """Plan anew after the clock was set back."""
        for name, job in self.jobs.items():
            patience = _PATIENCE_OFTEN if self._often[name] else _PATIENCE
            if name in self._done and self._done[name] - now > patience:
                del self._done[name]
            self._next[name] = next_due(job, now)

    def _first(self, name: str, job: Job, now: datetime) -> datetime:
        if self._often[name]:
            # nobody waits a minute for the first word
            return last_due(job, now)
        done = self._done.get(name)
        if done is None or job.catch_up == "none" or done - now > _PATIENCE:
            self._done.pop(name, None)
            return next_due(job, now)
        return next_due(job, done)

    def _take(self, name: str, now: datetime) -> Due | None:
        job, since = self.jobs[name], self._next[name]
        at = last_due(job, now)
        self._next[name] = next_due(job, now)
        if name in self._done and at <= self._done[name]:
            return None
        self._done[name] = at
        passed = 1
        while since < at and passed < _PASSED_MAX:
            passed, since = passed + 1, next_due(job, since)
        return Due(name, at, passed, late=not self._often[name] and is_late(job, at, now))


def is_late(job: Job, at: datetime, now: datetime) -> bool:
    """Whether a time is not to be run any more."""
    return job.catch_up == "none" and now - at > _ITS_MINUTE


class Process(Protocol):
    """A job in a process of its own."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def says(self) -> str:
        """How it went, in words."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""


@dataclass
class _Turn:
    """A job that waits for its turn, or has it since `began` (monotonic seconds)."""

    name: str
    job: Job
    at: datetime
    began: float = 0.0
    process: Process | None = None
    asked_at: float | None = None


class Lane:
    """One process at a time, so that a small host holds one long job; the others wait, each once.

    ended: is told the job and its time when a job has had its turn.
    """

    def __init__(
        self,
        start: Callable[[str], Process],
        clock: Clock,
        told: Told,
        ended: Callable[[str, datetime], None] = lambda name, at: None,
    ):
        self._start, self._clock, self._told, self._ended = start, clock, told, ended
        self._running: _Turn | None = None
        self._waiting: list[_Turn] = []
        self.left_out: Counter[str] = Counter()

    @property
    def is_busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._running is not None or bool(self._waiting)

    def put(self, name: str, job: Job, at: datetime) -> None:
        """Give a job its turn as soon as there is one; left out, and told, where it still has or awaits an earlier."""
        for turn in [self._running, *self._waiting]:
            if turn is not None and turn.name == name:
                does = "still runs" if turn is self._running else "still waits"
                self.left_out[name] += 1
                self._told(f"{name}: the one of {turn.at:%H:%M} {does}, that of {at:%H:%M} is left out")
                return
        self._waiting.append(_Turn(name, job, at))
        self.look()

    def look(self) -> None:
        """See whether the one that runs has ended, or has to; then begin the next."""
        if self._running is not None:
            self._look_after(self._running)
        while self._running is None and self._waiting:
            turn = self._waiting.pop(0)
            if is_late(turn.job, turn.at, self._clock.now()):
                self.left_out[turn.name] += 1
                self._told(f"{turn.name}: that of {turn.at:%H:%M} is left out, another job ran too long")
                continue
            try:
                turn.process = self._start(turn.name)
            except OSError as error:
                self._told(f"{turn.name}: cannot be started: {error}")
                continue
            turn.began, self._running = self._clock.monotonic(), turn

    def close(self) -> None:
        """End what runs; what waits never begins."""
        self._waiting.clear()
        turn, self._running = self._running, None
        if turn is None or turn.process.poll() is not None:
            return
        turn.process.terminate()
        until = self._clock.monotonic() + _END_S
        while turn.process.poll() is None:
            if self._clock.monotonic() >= until:
                turn.process.kill()
                break
            self._clock.sleep(0.05)

    def _look_after(self, turn: _Turn) -> None:
        if turn.process.poll() is not None:
            self._running = None
            self._told(f"{turn.name}: {turn.process.says()}")
            self._ended(turn.name, turn.at)
            return
        now = self._clock.monotonic()
        if turn.asked_at is None and now - turn.began > turn.job.timeout_s + _GRACE_S:
            log.error("%s: runs longer than its timeout_s and did not end itself; it is ended", turn.name)
            turn.asked_at = now
            turn.process.terminate()
        elif turn.asked_at is not None and now - turn.asked_at > _END_S:
            turn.process.kill()


class Runner:
    """Follows a timetable.

    here: runs a job in this process and says how it went. lane: for jobs that do not come often. reread: the jobs
    where they changed since it was asked last, else None. outdated: whether it is to end, once no job runs beside
    it. missed: times that were not run, by job.
    """

    def __init__(
        self,
        timetable: Timetable,
        here: Callable[[str], str],
        lane: Lane,
        clock: Clock,
        told: Told,
        reread: Callable[[], Mapping[str, Job] | None] = lambda: None,
        outdated: Callable[[], bool] = lambda: False,
    ):
        self._timetable, self._here, self._lane = timetable, here, lane
        self._clock, self._told, self._reread, self._outdated = clock, told, reread, outdated
        self._apart = self._measured()
        self.missed: Counter[str] = Counter()

    def follow(self, seconds: float | None = None) -> None:
        """Run jobs when they are due; for so long, where that is said."""
        ends = None if seconds is None else self._clock.monotonic() + seconds
        while True:
            self._look_at_clock()
            self._look_at_schedule()
            for due in self._timetable.due(self._clock.now()):
                self._take(due)
            self._lane.look()
            if not self._lane.is_busy and self._outdated():
                self._told("the library changed: this runner ends, a new one is to begin")
                return
            next_s = self._next_s()
            if ends is not None:
                left_s = ends - self._clock.monotonic()
                if left_s <= 0 or (not self._lane.is_busy and (next_s is None or next_s >= left_s)):
                    return
            self._clock.sleep(SLICE_S if next_s is None else min(SLICE_S, max(next_s, 0.001)))

    def _take(self, due: Due) -> None:
        job = self._timetable.jobs[due.name]
        often = self._timetable.is_often(due.name)
        missed = due.passed if due.late else due.passed - 1
        if not often and not due.late:
            if missed:
                self._told(f"{due.name}: {due.passed} of its times passed, it runs once for all")
            elif self._clock.now() - due.at > _ITS_MINUTE:
                self._told(f"{due.name}: that of {due.at:%Y-%m-%d %H:%M} passed, it runs late")
        elif missed:
            self.missed[due.name] += missed
            log.warning("%s: %d times passed and are not run", due.name, missed)
            self._told(f"{due.name}: {missed} of its times passed and are not run")
        if due.late:
            return
        if often:
            self._told(f"{due.name}: {self._here(due.name)}")
        else:
            self._lane.put(due.name, job, due.at)

    def _next_s(self) -> float | None:
        at = self._timetable.next_at()
        return None if at is None else (at - self._clock.now()).total_seconds()

    def _measured(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()

    def _look_at_clock(self) -> None:
        """Wall clock and monotonic clock go apart when somebody sets the first, and when the machine sleeps."""
        apart = self._measured()
        step_s, self._apart = apart - self._apart, apart
        if abs(step_s) < _STEP_S:
            return
        how = "forward, or the machine slept," if step_s > 0 else "back"
        self._told(f"the clock was set {how} by {timedelta(seconds=round(abs(step_s)))}")
        log.warning("the clock was set %s by %.0f s", how, abs(step_s))
        if step_s < 0:
            self._timetable.stepped_back(self._clock.now())

    def _look_at_schedule(self) -> None:
        try:
            jobs = self._reread()
        except CryptomonError as error:
            self._told(f"the schedule stays as it was: {escape(str(error))}")
            return
        if jobs is not None:
            self._timetable.update(jobs, self._clock.now())


def follow(
    environment: str,
    kernels: Kernels,
    *,
    minutes: int | None = None,
    told: Told = lambda says: None,
    ends_outdated: bool = False,
) -> None:
    """Follow the schedule until a signal comes, or for so many minutes; a failed run is told and the next one comes.

    ends_outdated: end when the library was upgraded, for whoever is started anew then: old code and new params do
        not go together.

    Params are read anew for each run, the schedule when it changed. Lines that are told begin with the time (UTC); where
    log lines are JSON they are such lines, and nothing is told.

    Raises ConfigError: the schedule cannot be used. Stopped: a signal asked for the end.
    """

    def tell(says: str) -> None:
        if logs.is_json():
            logs.said.log(logging.ERROR if "[red]" in says else logging.INFO, Text.from_markup(says).plain)
        else:
            told(f"{datetime.now(UTC):%H:%M:%S} UTC  {says}")

    settings = open_monitor(environment).settings
    kept, clock, reread = _Kept(settings), Clock(), _Reread()
    lane = Lane(lambda name: _Child(name, environment), clock, tell, ended=kept.put)
    outdated = Upgraded(Path(__file__).parent, clock) if ends_outdated else lambda: False
    timetable = Timetable(reread() or {}, clock.now(), kept.read())
    runner = Runner(
        timetable, lambda name: _run(environment, name, kernels), lane, clock, tell, reread, outdated
    )
    try:
        runner.follow(None if minutes is None else minutes * 60)
    except Stopped as stop:
        # while the job beside it is being ended no signal is to come again
        stop.answered.set()
        raise
    finally:
        lane.close()


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Holds the place of the one resident runner of an environment's root, and tells `end_other` which process it is.

    Raises AlreadyRunning: there is one.
    """
    path = _place(settings, "lock")
    try:
        with FileLock(path).acquire(timeout=0):
            pid = _place(settings, "pid")
            pid.write_text(str(os.getpid()))
            try:
                yield
            finally:
                pid.unlink(missing_ok=True)
    except Timeout as error:
        raise AlreadyRunning(
            f"A runner follows the schedule on {settings.root} already ({path}); end that one first."
        ) from error


def end_other(settings: Settings, seconds: float = 60) -> bool:
    """Ask the resident runner of an environment's root to end, and wait for it; False where none runs."""
    lock = FileLock(_place(settings, "lock"))
    pid = _place(settings, "pid")
    until, asked = time.monotonic() + seconds, False
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if time.monotonic() > until:
                raise AlreadyRunning(
                    f"The runner on {settings.root} did not end within {seconds:.0f} s; end its process by hand."
                ) from None
            # before it wrote its number there is none to ask
            with suppress(FileNotFoundError, ValueError, ProcessLookupError):
                if not asked:
                    os.kill(int(pid.read_text()), signal.SIGTERM)
                    asked = True
            time.sleep(0.1)
        else:
            lock.release()
            return asked


def forget(settings: Settings) -> None:
    """Remove what a resident runner keeps on this machine beside the data."""
    for ending in ("json", "pid", "lock"):
        _place(settings, ending).unlink(missing_ok=True)


class _Kept:
    """The newest time of each job that had its turn, kept over restarts: what `catch_up: once` goes by."""

    def __init__(self, settings: Settings):
        self._path = _place(settings, "json")

    def read(self) -> dict[str, datetime]:
        try:
            told = json.loads(self._path.read_text())
            return {str(name): datetime.fromisoformat(at).astimezone(UTC) for name, at in told.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            log.warning("%s cannot be read, so nothing is caught up with: %s", self._path, error)
            return {}

    def put(self, name: str, at: datetime) -> None:
        told = self.read() | {name: at}
        try:
            body = json.dumps({name: at.isoformat() for name, at in told.items()})
            write_whole(self._path, body.encode())
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)


class _Reread:
    """The jobs of the schedule where its file changed since the last call."""

    def __init__(self):
        self._changed_at: float | None = None

    def __call__(self) -> Mapping[str, Job] | None:
        changed_at = schedule_changed_at()
        if changed_at == self._changed_at:
            return None
        self._changed_at = changed_at
        return scheduled_jobs()


class Upgraded:
    """Whether the files of a folder changed since this was made, and stayed the same between the last two looks."""

    def __init__(self, folder: Path, clock: Clock):
        self._folder, self._clock, self._looked_at = folder, clock, clock.monotonic()
        self._first = self._last = self._look()

    def __call__(self) -> bool:
        if self._clock.monotonic() - self._looked_at < _LOOK_S:
            return False
        before, self._last, self._looked_at = self._last, self._look(), self._clock.monotonic()
        return before == self._last != self._first

    def _look(self) -> dict[Path, int]:
        found = {}
        for path in self._folder.rglob("*.py"):
            # it may go away at this moment: an upgrade under way
            with suppress(FileNotFoundError):
                found[path] = path.stat().st_mtime_ns
        return found


class _Child:
    """`cryptomon run JOB` in a process of its own, with less right to the processors than ticks have."""

    def __init__(self, name: str, environment: str):
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cryptomon_lib.cli", "run", name, "--json", "-e", environment],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            # Ctrl-C in a terminal goes to all; this one is ended by us
            start_new_session=True,
        )
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)
        self.poll, self.terminate, self.kill = self._process.poll, self._process.terminate, self._process.kill

    def says(self) -> str:
        self._output.seek(0)
        lines = [line for line in self._output.read().splitlines() if line.startswith("{")]
        self._output.close()
        if self._process.returncode == 0:
            return in_words([json.loads(line) for line in lines])
        return f"[red]failed[/], exit code {self._process.returncode}"


def _run(environment: str, name: str, kernels: Kernels) -> str:
    try:
        return in_words(run_job(open_monitor(environment), name, kernels=kernels))
    except RunStopped as error:
        raise Stopped(error.exit_code - 128) from error
    except CryptomonError as error:
        return f"[red]{type(error).__name__}[/] {escape(str(error))}"
    except Exception as error:
        # a full disk, or a bug: the next minute is asked for all the same
        log.exception("%s failed unforeseen", name)
        return f"[red]{type(error).__name__}[/] {escape(str(error))}"


def in_words(records: Iterable[Mapping[str, Any]]) -> str:
    """How long runs took, and what they did, as one line; what is wrong in red."""
    seconds, facts = together(records)
    told = [f"{facts[name]} {words}" for name, words in _TOLD.items() if name in facts]
    told += [f"{facts[name]} {words}" for name, words in _SEEN.items() if facts.get(name)]
    wrong = [f"[red]{facts[name]} {words}[/]" for name, words in _WRONG.items() if facts.get(name)]
    return ", ".join([f"{seconds:.1f} s", *told, *wrong])


# what a line about a run says: facts that notebooks show, always or only where they are not 0
_TOLD = {"stored": "payloads", "rows": "rows", "spikes": "spikes"}
_SEEN = {"told": "notices told", "filled": "minutes filled", "warnings": "warnings"}
_WRONG = {
    "failed": "calls failed",
    "critical": "critical findings",
    "quarantined": "payloads in quarantine",
    "waiting": "notices wait for their receiver",
    "parked": "notices given up",
}


def _place(settings: Settings, ending: str) -> Path:
    folder = home() / ".cryptomon" / "schedule"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{settings.environment}-{root_id(settings.root)}.{ending}"
