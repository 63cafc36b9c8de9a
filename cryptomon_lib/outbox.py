"""The outbox: what is to be sent is an object before anything is sent, and stays one until it is done.

    outbox/plans/<number>.json              what one run decided: its messages, and what it has read and holds back
    outbox/plans/<number>.told              all its messages are done, and the table notices knows of them
    outbox/attempts/<message>/<n>.claim     who makes the nth attempt
    outbox/attempts/<message>/<n>.result    how it ended: sent, failed or parked
    outbox/parked/<message>.json            a message that was given up, with the reason
    outbox/evaluated.json                   when alerts were last evaluated
    outbox/jobs/<job>.json                  a job that fails: since when, why, and who is told

Plans, claims and results are created where none is yet, never replaced: of two notifiers who decide or try at
once one gets through, on a folder and on S3, without a lock. Why objects and not the table `notices`: an
object takes 10 ms and a commit 50, and the table is for people to ask what was sent; it gets a message's
story when the story is told, in one commit a run. What is kept in it can be lost without losing a message.
"""

import logging
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
import pyarrow as pa

from cryptomon_lib.channels import Message
from cryptomon_lib.errors import StorageError
from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.notices import Stream, Transition
from cryptomon_lib.storage import Storage
from cryptomon_lib.tables import day_of, schema

log = logging.getLogger(__name__)

OUTBOX = "outbox"
PARKED = f"{OUTBOX}/parked"
_PLANS, _ATTEMPTS, _EVALUATED = f"{OUTBOX}/plans", f"{OUTBOX}/attempts", f"{OUTBOX}/evaluated.json"
_JOBS = f"{OUTBOX}/jobs"
# what is done stays so long: a notifier that listed the outbox before sees that it is done
_GRACE = timedelta(hours=1)
# a claim without a result is that of a process which died, after so long; at once where it can be seen to be dead
_LEASE = timedelta(minutes=5)
SENT, FAILED, PARKED_STATE = "sent", "failed", "parked"


class Incident(msgspec.Struct):
    """A job that fails, until it works again; tell: names of the users who are told."""

    job: str
    since: datetime
    reason: str
    tell: tuple[str, ...]


class Plan(msgspec.Struct, kw_only=True):
    """What one run decided, and all that the next one has to know.

    read_until: the newest evaluation whose transitions are planned; seen: transitions near it, by key. streams:
    by user/receiver. unevaluated: the alert that alerts are not evaluated, while it lasts. failing: jobs that
    fail and were told of, by name. open: numbers of the
    earlier plans with messages that were not all done and told of; all others are.
    """

    number: int = 0
    at: datetime
    read_until: datetime | None = None
    seen: list[str] = []
    streams: dict[str, Stream] = {}
    unevaluated: Transition | None = None
    failing: dict[str, Incident] = {}
    open: list[int] = []
    messages: list[Message] = []


class Claim(msgspec.Struct):
    """Who makes an attempt."""

    at: datetime
    host: str
    pid: int

    @property
    def is_over(self) -> bool:
        """Whether whoever claimed can no longer be at it."""
        if datetime.now(UTC) - self.at > _LEASE:
            return True
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


class Result(msgspec.Struct):
    """How an attempt ended; delivered: ids of the parts that went through."""

    state: str
    at: datetime
    reason: str = ""
    delivered: tuple[str, ...] = ()


class _Parked(msgspec.Struct):
    """A message that was given up, and why."""

    reason: str
    parked_at: datetime
    message: Message


@dataclass
class Delivery:
    """A message on its way: the attempts so far."""

    message: Message
    claims: dict[int, Claim | None] = field(default_factory=dict)
    results: dict[int, Result] = field(default_factory=dict)

    @property
    def stream(self) -> str:
        """user/receiver."""
        return f"{self.message.user}/{self.message.receiver}"

    @property
    def end(self) -> Result | None:
        """The result that ended it; None while it is on its way."""
        return next((one for one in self.results.values() if one.state != FAILED), None)

    @property
    def failures(self) -> int:
        """How many attempts failed."""
        return sum(one.state == FAILED for one in self.results.values())

    @property
    def last(self) -> Result | None:
        """The newest result."""
        return self.results[max(self.results)] if self.results else None

    @property
    def delivered(self) -> tuple[str, ...]:
        """Parts that went through at earlier attempts."""
        return tuple(id for one in self.results.values() for id in one.delivered)

    @property
    def next_attempt(self) -> int | None:
        """The number of the next attempt; None while somebody is at one."""
        number = max(self.claims, default=0)
        open_claim = self.claims.get(number) if number not in self.results else None
        return None if open_claim is not None and not open_claim.is_over else number + 1


class Outbox:
    """The outbox of a monitor as it was when it was opened.

    Raises StorageError from every method when the root cannot be read or written.
    """

    def __init__(self, monitor: Monitor):
        self._monitor, self._storage = monitor, monitor.storage
        self._written = {one.key: one.modified_at for one in self._storage.objects(OUTBOX)}
        keys = self._written.keys()
        self._plans = sorted(key for key in keys if key.startswith(f"{_PLANS}/") and key.endswith(".json"))
        self._told = {_number(key) for key in keys if key.endswith(".told")}
        self._attempts = _by_message(keys)
        self.parked = sum(key.startswith(f"{PARKED}/") for key in keys)
        self.newest = self._read(self._plans[-1], Plan) if self._plans else None
        self._open: dict[int, list[Delivery]] = {}
        for number in self.newest.open if self.newest else []:
            if number not in self._told:
                self._open[number] = self._deliveries(_plan_key(number))
        if self.newest and self.newest.messages and self.newest.number not in self._told:
            self._open[self.newest.number] = [self._delivery(one) for one in self.newest.messages]

    def pending(self) -> list[Delivery]:
        """Messages that are on their way, oldest first."""
        return [one for number in sorted(self._open) for one in self._open[number] if one.end is None]

    def incidents(self) -> dict[str, Incident]:
        """Jobs that fail, by name."""
        keys = [key for key in self._written if key.startswith(f"{_JOBS}/")]
        return {one.job: one for key in keys if (one := self._read(key, Incident)) is not None}

    def add(self, plan: Plan) -> bool:
        """Write a plan; False where another notifier wrote one since this outbox was opened."""
        plan.number = self.newest.number + 1 if self.newest else 1
        plan.open = [number for number in self._open if number not in self._told]
        if not self._storage.create(_plan_key(plan.number), msgspec.json.encode(plan)):
            return False
        self.newest = plan
        if plan.messages:
            self._open[plan.number] = [Delivery(one) for one in plan.messages]
        return True

    def claim(self, delivery: Delivery, number: int) -> bool:
        """Take the nth attempt; False where somebody has it."""
        claim = Claim(datetime.now(UTC), socket.gethostname(), os.getpid())
        taken = self._storage.create(_attempt(delivery, number, "claim"), msgspec.json.encode(claim))
        if taken:
            delivery.claims[number] = claim
        return taken

    def end(self, delivery: Delivery, number: int, result: Result) -> bool:
        """Tell how an attempt ended; False where it was told already."""
        if result.state == PARKED_STATE:
            parked = _Parked(result.reason, result.at, delivery.message)
            self._storage.put(f"{PARKED}/{delivery.message.id}.json", msgspec.json.encode(parked))
        first = self._storage.create(_attempt(delivery, number, "result"), msgspec.json.encode(result))
        if first:
            delivery.results[number] = result
        return first

    def parked_messages(self) -> list[Message]:
        """The messages that were given up."""
        keys = [one.key for one in self._storage.objects(PARKED)]
        return [one.message for key in keys if (one := self._read(key, _Parked)) is not None]

    def forget(self, message: Message) -> None:
        """Drop the attempts of a message that was given up, so that it can be tried anew."""
        for key in self._attempts.pop(message.id, ()):
            self._storage.delete(key)
        for deliveries in self._open.values():
            deliveries[:] = [one for one in deliveries if one.message.id != message.id]

    def unpark(self, message: Message) -> None:
        """Drop a message from those that were given up."""
        self._storage.delete(f"{PARKED}/{message.id}.json")

    def tell(self, tried: Sequence[Delivery]) -> None:
        """Write to the table `notices` what became of the messages tried, and of those done but not yet told.

        One commit, and none where there is nothing new; whoever was killed before it is caught up with here.
        """
        done = [
            number
            for number, deliveries in self._open.items()
            if number not in self._told and all(one.end is not None for one in deliveries)
        ]
        self._record([*tried, *(one for number in done for one in self._open[number])])
        for number in done:
            self._storage.create(_plan_key(number, "told"), b"")
            self._told.add(number)

    def clean(self) -> None:
        """Remove plans that are told, or had no message, since an hour; the newest stays."""
        hour_ago = datetime.now(UTC) - _GRACE
        for key in self._plans[:-1]:
            number, told = _number(key), _plan_key(_number(key), "told")
            if number in self._open or self._written.get(told, self._written[key]) > hour_ago:
                continue
            plan = self._read(key, Plan)
            for message in plan.messages if plan else ():
                for name in self._attempts.get(message.id, ()):
                    self._storage.delete(name)
            self._storage.delete(key)
            self._storage.delete(told)

    def _record(self, deliveries: Iterable[Delivery]) -> None:
        told = {one.message.id: one for one in deliveries if one.results}
        batches = [batch for one in told.values() for batch in _rows(one)]
        if batches:
            self._monitor.lake.append("notices", batches)

    def _deliveries(self, key: str) -> list[Delivery]:
        plan = self._read(key, Plan)
        return [self._delivery(message) for message in plan.messages] if plan else []

    def _delivery(self, message: Message) -> Delivery:
        delivery = Delivery(message)
        # results come after their claims in this order: a claim whose result is known need not be read
        for key in sorted(self._attempts.get(message.id, ()), reverse=True):
            name, _, kind = key.rsplit("/", 1)[1].partition(".")
            number = int(name)
            if kind == "result":
                delivery.results[number] = self._read(key, Result) or Result(SENT, datetime.now(UTC))
            else:
                delivery.claims[number] = None if number in delivery.results else self._read(key, Claim)
        return delivery

    def _read(self, key: str, kind: type):
        """What is in an object; None where another notifier removed it meanwhile, because it was done."""
        try:
            return msgspec.json.decode(self._storage.get(key), type=kind)
        except msgspec.MsgspecError as error:
            raise StorageError(
                f"{self._storage.root}/{key} is not what a notifier writes ({error}); move it away, it blocks all notices."
            ) from error
        except StorageError:
            if self._storage.exists(key):
                raise
            return None


def mark_evaluated(storage: Storage, at: datetime) -> None:
    """Keep when alerts were last evaluated."""
    storage.put(_EVALUATED, msgspec.json.encode({"evaluated_at": at}))


def evaluated_at(storage: Storage) -> datetime | None:
    """When alerts were last evaluated; None where they never were."""
    if not storage.exists(_EVALUATED):
        return None
    return msgspec.json.decode(storage.get(_EVALUATED), type=dict[str, datetime])["evaluated_at"]


def begin_incident(storage: Storage, incident: Incident) -> None:
    """Keep that a job fails; of one that is known to, the first word stays."""
    storage.create(f"{_JOBS}/{incident.job}.json", msgspec.json.encode(incident))


def end_incident(storage: Storage, job: str) -> bool:
    """Forget that a job fails; False where it did not."""
    key = f"{_JOBS}/{job}.json"
    if not storage.exists(key):
        return False
    storage.delete(key)
    return True


def _by_message(keys: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in keys:
        if key.startswith(f"{_ATTEMPTS}/"):
            found.setdefault(key.split("/")[2], []).append(key)
    return found


def _plan_key(number: int, ending: str = "json") -> str:
    return f"{_PLANS}/{number:012d}.{ending}"


def _number(key: str) -> int:
    return int(key.rsplit("/", 1)[1].partition(".")[0])


def _attempt(delivery: Delivery, number: int, kind: str) -> str:
    return f"{_ATTEMPTS}/{delivery.message.id}/{number:04d}.{kind}"


def _rows(delivery: Delivery) -> Sequence[Batch]:
    """What the table is to know: that it was queued, the first failure, the end."""
    message, told = delivery.message, [("queued", delivery.message.at, 0, "")]
    for number in sorted(delivery.results):
        result = delivery.results[number]
        if result.state != FAILED or number == min(delivery.results):
            told.append((result.state, result.at, number, result.reason))
    return [
        Batch(
            f"notice-{message.id}-{state}",
            pa.Table.from_pylist([_row(message, state, at, attempts, reason)], schema=schema("notices")),
        )
        for state, at, attempts, reason in told
    ]


def _row(message: Message, state: str, at: datetime, attempts: int, reason: str) -> dict:
    return {
        "notice_id": message.id,
        "state": state,
        "at": at,
        "user": message.user,
        "receiver": message.receiver,
        "alert_ids": sorted({one.alert_id for one in message.transitions}),
        "attempts": attempts,
        "reason": reason or None,
        "day": day_of(at),
    }
