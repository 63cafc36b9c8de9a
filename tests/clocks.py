"""A clock that only moves when something sleeps or works, for whoever is to be tested without waiting."""

from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)


class FakeClock:
    """Both clocks go with every sleep; `steps` sets the wall clock at a moment of the other one."""

    def __init__(self, now=NOON, steps=()):
        self._now, self._passed, self._steps, self.slept = now, 0.0, sorted(steps), []

    def now(self):
        return self._now

    def monotonic(self):
        return self._passed

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.work(seconds)

    def work(self, seconds):
        """Time that a poll or a job takes."""
        self._passed += seconds
        self._now += timedelta(seconds=seconds)
        while self._steps and self._steps[0][0] <= self._passed:
            self._now += self._steps.pop(0)[1]
