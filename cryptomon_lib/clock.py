"""The machine's clocks, and the grid of moments that samples lie on.

Owns how a moment of the wall clock is waited for while somebody may set that clock: by the clock that nobody sets.
"""

import time
from datetime import UTC, datetime

# the wall is looked at so often; no step of that clock lets anybody sleep longer
SLICE_S = 1.0


class Clock:
    """The machine's clocks; tests bring their own."""

    def now(self) -> datetime:
        """What the clock on the wall says (UTC)."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that nobody can set."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


def floor_to(moment: datetime, every_s: int) -> datetime:
    """The newest moment of the grid; the grid starts at 00:00 UTC, 1970-01-01."""
    return datetime.fromtimestamp(int(moment.timestamp()) // every_s * every_s, UTC)


def slot_in_s(after: datetime, every_s: int, clock: Clock) -> float:
    """Seconds until the slot that comes next; 0 where it has come, every_s at most, though the clock was set back."""
    return min(max(0.0, (after - clock.now()).total_seconds() + every_s), float(every_s))


def wait_for_slot(after: datetime, every_s: int, clock: Clock) -> datetime:
    """Wait until the wall clock has passed the slot that comes next; the newest that it has passed then.

    after: a moment of the grid. What passed meanwhile is left out: a run that took long, a clock that was set forward.
    A clock that was set back is waited for no longer than every_s seconds; then its own newest slot is the one,
    though an earlier one than `after`.
    """
    ends = clock.monotonic() + every_s
    while True:
        newest = floor_to(clock.now(), every_s)
        if newest > after or (newest < after and clock.monotonic() >= ends):
            return newest
        clock.sleep(max(0.001, min(SLICE_S, slot_in_s(after, every_s, clock))))
