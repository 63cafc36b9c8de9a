"""A job at each of so many moments of the clock, in one process with a warm kernel.

What a host does that starts nothing each minute, such as SageMaker: its hourly jobs run a minute's job inside. Two
of them at the same time do no harm, for what is stored for a slot is stored once.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from cryptomon_lib.clock import Clock, floor_to, slot_in_s, wait_for_slot
from cryptomon_lib.errors import AlreadyRunning, CryptomonError, RunStopped
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.run import Kernels, run_job
from cryptomon_lib.runs import together

log = logging.getLogger(__name__)


@dataclass
class Sampled:
    """What became of the moments. busy: another process of this machine was at the job; missed: a run took longer."""

    succeeded: int = 0
    failed: int = 0
    busy: int = 0
    missed: int = 0
    error: CryptomonError | None = None

    def check(self) -> None:
        """Nothing, where any run succeeded.

        Raises the newest error: none did.
        """
        if self.error is not None and not self.succeeded:
            raise self.error


def sample(
    environment: str,
    job: str,
    samples: int,
    every_s: int,
    told: Callable[[str], None] = lambda line: None,
    clock: Clock | None = None,
) -> Sampled:
    """Run a job at each of `samples` moments of a grid of every_s seconds; the first is at once.

    The grid is that of the clock (00:00 UTC, 1970-01-01). A run that fails is told, and the next one comes. What
    passes while a run takes longer than every_s is missed, as is what a clock that is set forward leaves out: holes,
    which the job backfill looks after. It takes samples times every_s seconds, however the clock is set meanwhile.

    Raises RunStopped: the process was asked to end.
    """
    clock = clock or Clock()
    done, kernels = Sampled(), Kernels(keep=True)
    now = clock.now()
    slot, step = floor_to(now, every_s), timedelta(seconds=every_s)
    ends = clock.monotonic() + (slot + step * samples - now).total_seconds()
    try:
        while True:
            told(f"{slot:%Y-%m-%d %H:%M:%S} UTC  {_run(environment, job, every_s, kernels, done)}")
            # half a step, for the two clocks do not go exactly alike
            if clock.monotonic() + slot_in_s(slot, every_s, clock) > ends - every_s / 2:
                return done
            after = wait_for_slot(slot, every_s, clock)
            done.missed += max(0, (after - slot) // step - 1)
            slot = after
    finally:
        kernels.close()


def _run(environment: str, job: str, every_s: int, kernels: Kernels, done: Sampled) -> str:
    try:
        records = run_job(open_monitor(environment), job, {"every_s": every_s}, kernels)
    except RunStopped:
        raise
    except AlreadyRunning as error:
        done.busy += 1
        return str(error)
    except CryptomonError as error:
        log.warning("%s: %s", job, error)
        done.failed, done.error = done.failed + 1, error
        return f"{type(error).__name__}: {error}"
    done.succeeded += 1
    seconds, facts = together(records)
    told = ", ".join(
        f"{facts[name]} {name}" for name in ("stored", "already", "failed", "rows") if name in facts
    )
    return f"{seconds:.1f} s, {told}"
