"""From the outbox to the receivers: side by side, each within its own time, so that none waits for another.

An attempt is claimed before and told after; what fails is tried again with growing waits, and parked when no
repetition helps or `notify.give_up_h` have passed.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from cryptomon_lib import channels
from cryptomon_lib.channels import Message
from cryptomon_lib.errors import CryptomonError, NotifyError
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.outbox import FAILED, PARKED_STATE, SENT, Delivery, Outbox, Result
from cryptomon_lib.receivers import FILE, Receiver, User

log = logging.getLogger(__name__)

# after so many failures in a row a receiver's turn is over: it is away, not the message bad
_IN_A_ROW = 2
# receivers that are served side by side; those that failed last come last, so none waits for them
_AT_ONCE = 256


def deliver(monitor: Monitor, box: Outbox, users: Mapping[str, User], now: datetime) -> list[Delivery]:
    """Try what is due, receivers side by side, each within its own time; the messages that were tried.

    Raises StorageError: the outbox cannot be read or written.
    """
    due = [one for one in box.pending() if _is_due(monitor, one, now)]
    streams: dict[str, list[Delivery]] = {}
    for delivery in sorted(due, key=lambda one: one.failures):
        streams.setdefault(delivery.stream, []).append(delivery)
    turns = [_Turn(monitor, box, _receiver(users, its[0]), its, now) for its in streams.values()]
    _side_by_side(
        [(turn, turn.serve, _limit(monitor, turn.receiver)) for turn in turns],
        lambda turn, limit: turn.stop(limit),
    )
    for turn in turns:
        if turn.fault is not None:
            raise turn.fault
    return [delivery for turn in turns for delivery in turn.tried]


def try_receivers(monitor: Monitor, user: User) -> pd.DataFrame:
    """Send a test message to each receiver of a user now; one row per receiver: result, seconds, reason."""
    now = datetime.now(UTC)
    rows: dict[str, dict] = {}
    simulated = " This monitor runs on simulated data." if monitor.settings.simulated else ""

    def attempt(name: str, receiver: Receiver) -> None:
        message = Message(
            id=hashlib.sha256(f"{user.name}\n{name}\ntest\n{now.isoformat()}".encode()).hexdigest()[:32],
            user=user.name,
            receiver=name,
            kind="test",
            at=now,
            title=f"cryptomon: a test for {user.name}",
            text=f"This is a test; alerts for {user.name} come this way ({name}).{simulated}",
            environment=monitor.settings.environment,
            simulated=monitor.settings.simulated,
        )
        result = _sent(monitor, receiver, message, (), now)
        rows.setdefault(name, {"result": result.state, "reason": result.reason})
        rows[name]["seconds"] = round((datetime.now(UTC) - now).total_seconds(), 1)

    work = [
        (name, lambda n=name, r=one: attempt(n, r), _limit(monitor, one))
        for name, one in user.receivers.items()
    ]
    _side_by_side(
        work,
        lambda name, limit: rows.setdefault(
            name, {"result": FAILED, "reason": _late(limit), "seconds": limit}
        ),
    )
    return pd.DataFrame.from_dict(rows, orient="index").reindex(list(user.receivers)).rename_axis("receiver")


class _Turn:
    """A receiver's turn in a run: its messages one after the other, until it is away or time is up."""

    def __init__(
        self, monitor: Monitor, box: Outbox, receiver: Receiver | None, due: list[Delivery], now: datetime
    ):
        self._monitor, self._box, self.receiver, self._due, self._now = monitor, box, receiver, due, now
        self._stopped, self._at_it = threading.Event(), None
        self.tried: list[Delivery] = []
        self.fault: CryptomonError | None = None

    def serve(self) -> None:
        """Try each message."""
        try:
            in_a_row = 0
            for delivery in self._due:
                number = None if self._stopped.is_set() else delivery.next_attempt
                if number is None or not self._box.claim(delivery, number):
                    continue
                self._at_it = (delivery, number)
                result = self._attempt(delivery)
                if self._stopped.is_set():
                    return
                self._end(delivery, number, result)
                in_a_row = in_a_row + 1 if result.state == FAILED else 0
                if in_a_row == _IN_A_ROW:
                    return
        except CryptomonError as error:
            # the thread that waits raises it
            self.fault = error

    def stop(self, limit: float) -> None:
        """Time is up: what is being tried counts as failed, and what comes of it later as nothing."""
        self._stopped.set()
        if self._at_it is not None:
            delivery, number = self._at_it
            self._end(delivery, number, self._given_up(delivery, Result(FAILED, self._now, _late(limit))))

    def _end(self, delivery: Delivery, number: int, result: Result) -> None:
        self._at_it = None
        if self._box.end(delivery, number, result):
            self.tried.append(delivery)
        if result.state != SENT:
            shown = f"{result.state} {delivery.stream}, notice {delivery.message.id}, attempt {number}: {result.reason}"
            log.log(logging.ERROR if result.state == PARKED_STATE else logging.WARNING, shown)

    def _attempt(self, delivery: Delivery) -> Result:
        if self.receiver is None:
            return Result(
                PARKED_STATE, self._now, f"params/{FILE} has no receiver {delivery.stream} any more"
            )
        result = _sent(self._monitor, self.receiver, delivery.message, delivery.delivered, self._now)
        return self._given_up(delivery, result)

    def _given_up(self, delivery: Delivery, result: Result) -> Result:
        hours = self._monitor.settings.notify.give_up_h
        if result.state != FAILED or self._now - delivery.message.at < timedelta(hours=hours):
            return result
        return Result(PARKED_STATE, result.at, f"after {hours:g} h: {result.reason}", result.delivered)


def _sent(
    monitor: Monitor, receiver: Receiver, message: Message, delivered: Sequence[str], now: datetime
) -> Result:
    """One attempt; how it ended."""
    try:
        channels.send(monitor.storage, receiver, message, delivered)
    except NotifyError as error:
        return Result(PARKED_STATE if error.permanent else FAILED, now, str(error), error.delivered)
    except CryptomonError as error:
        return Result(FAILED, now, str(error))
    except Exception as error:  # noqa: BLE001
        # a hundred services behind one library: whatever one of them raises is that message's failure and no
        # other's; only its kind is told, its words may hold an address
        return Result(FAILED, now, f"{type(error).__module__}.{type(error).__name__}")
    return Result(SENT, now)


def _receiver(users: Mapping[str, User], delivery: Delivery) -> Receiver | None:
    user = users.get(delivery.message.user)
    return user.receivers.get(delivery.message.receiver) if user else None


def _limit(monitor: Monitor, receiver: Receiver | None) -> float:
    own = receiver.timeout_s if receiver is not None else None
    return own or monitor.settings.notify.timeout_s


def _late(limit: float) -> str:
    return f"took longer than {limit:g} s"


def _side_by_side(work: Sequence[tuple[Any, Callable, float]], stop: Callable[[Any, float], Any]) -> None:
    """Do work in threads, each piece (what, function, seconds) within its time; `stop(what, seconds)` where not.

    A thread cannot be ended from outside: one that hangs is left behind and ends with the process.
    """
    for start in range(0, len(work), _AT_ONCE):
        began, running = time.monotonic(), []
        for what, function, limit in work[start : start + _AT_ONCE]:
            thread = threading.Thread(target=function, daemon=True)
            thread.start()
            running.append((thread, what, limit))
        for thread, what, limit in sorted(running, key=lambda one: one[2]):
            thread.join(max(0.0, began + limit - time.monotonic()))
            if thread.is_alive():
                stop(what, limit)


def _is_due(monitor: Monitor, delivery: Delivery, now: datetime) -> bool:
    limits = monitor.settings.notify
    if delivery.last is None or delivery.last.state != FAILED:
        return True
    # 2 ** 20 minutes are longer than any limit
    wait_s = min(limits.retry_s * 2 ** min(delivery.failures - 1, 20), limits.retry_max_s)
    return now >= delivery.last.at + timedelta(seconds=wait_s)
