"""When a message goes to whom, and of what: grouping, quiet hours, caps and digests, as pure functions.

The notifier and the back-test ask the same `step`: what it is given is all that it knows, and it writes
nothing. A *transition* is one row of the table `alerts` that people are told of; a *notice* is one message to
one user; a *stream* is what is remembered of one user's receiver in between.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from cryptomon_lib.receivers import User

BEGINS, ENDS = ("firing", "no_data"), ("resolved", "data")
HOUR = timedelta(hours=1)
# what is told later than this after its minute is history, and told as a digest
LATE = timedelta(minutes=15)
# more than so many held are only counted
_HELD_MAX = 5000


@dataclass(frozen=True, order=True)
class Transition:
    """A row of `alerts` that people are told of; the fields are its columns. Times are UTC."""

    at: datetime
    alert_id: str
    state: str
    rule: str
    market_id: str
    severity: str
    started_at: datetime
    exchange: str | None = None
    symbol: str | None = None
    market: str | None = None
    measure: str | None = None
    value: float | None = None
    compared: str | None = None
    reached: float | None = None
    threshold: float | None = None
    says: str | None = None

    @property
    def key(self) -> str:
        """What no other transition has."""
        return f"{self.alert_id}/{self.state}/{self.at:%Y%m%dT%H%M%S}"

    @property
    def is_over(self) -> bool:
        """Whether it tells of an end."""
        return self.state in ENDS

    @property
    def place(self) -> tuple[str, str]:
        """Exchange and market as people name them; the symbol where the market is not known."""
        exchange, _, symbol = self.market_id.partition(":")[2].partition(":")
        return self.exchange or exchange, self.market or self.symbol or symbol

    @property
    def market_names(self) -> tuple[str, ...]:
        """The names that patterns may mean: market_id, exchange:market, market, symbol."""
        exchange, market = self.place
        return (self.market_id, f"{exchange}:{market}", market, self.symbol or market)


@dataclass(frozen=True)
class Notice:
    """One message: `alert` tells what is new, `digest` tells what was held back or is late."""

    at: datetime
    kind: str
    transitions: tuple[Transition, ...]
    # held beyond what a stream keeps: only their number is known
    more: int = 0


@dataclass(frozen=True)
class Stream:
    """What is remembered between two steps: when messages went out within the hour, and what is held."""

    sent: tuple[datetime, ...] = ()
    held: tuple[Transition, ...] = ()
    more: int = 0


def step(
    user: User,
    stream: Stream,
    new: Iterable[Transition],
    now: datetime,
    late: timedelta = LATE,
    blocked: bool = False,
) -> tuple[Stream, Notice | None]:
    """The stream after a run at `now`, and the one message that goes out then, if any.

    new: transitions since the last step; those that the user did not subscribe to are left out here.
    blocked: an earlier message is still on its way to a receiver that does not answer; all is held, so that
        it gets one digest when it is back instead of a message for each minute that it was away.

    All that is new makes one message. Quiet hours, the cap and a blocked receiver hold it; what was held
    goes out together with what is new as soon as none of them holds it any more.
    """
    stream = replace(stream, sent=tuple(moment for moment in stream.sent if now - moment < HOUR))
    wanted = _wanted(user, stream, new)
    if blocked:
        return _hold(stream, wanted), None
    if is_quiet(user, now) or not _has_room(user, stream):
        urgent = [one for one in wanted if one.severity in user.always]
        stream = _hold(stream, [one for one in wanted if one.severity not in user.always])
        return _sent(stream, _notice(urgent, 0, now, late, held=False), now)
    told = [*stream.held, *wanted]
    notice = _notice(told, stream.more, now, late, held=bool(stream.held))
    return _sent(replace(stream, held=(), more=0), notice, now)


def due_at(user: User, stream: Stream, now: datetime) -> datetime | None:
    """When what is held goes out, if nothing else comes; None where nothing is held."""
    if not stream.held and not stream.more:
        return None
    moment = now
    while True:
        if is_quiet(user, moment):
            moment = quiet_until(user, moment)
            continue
        inside = [sent for sent in stream.sent if moment - sent < HOUR]
        if user.notices_per_hour is None or len(inside) < user.notices_per_hour:
            return moment
        moment = sorted(inside)[-user.notices_per_hour] + HOUR


def notices_of(user: User, transitions: Iterable[Transition], until: datetime | None = None) -> list[Notice]:
    """The messages that a user would have got of a history, each run coming in the minute of the transition.

    until: what is held at the end goes out by then, or does not count.
    """
    minutes: dict[datetime, list[Transition]] = {}
    for one in sorted(transitions):
        minutes.setdefault(one.at, []).append(one)
    stream, notices = Stream(), []

    def run(new: Sequence[Transition], now: datetime) -> None:
        nonlocal stream
        stream, notice = step(user, stream, new, now)
        if notice is not None:
            notices.append(notice)

    def release(before: datetime | None, now: datetime) -> None:
        while (due := due_at(user, stream, now)) is not None and (before is None or due < before):
            run((), due)

    last = None
    for minute, new in minutes.items():
        if last is not None:
            release(minute, last)
        run(new, minute)
        last = minute
    if last is not None:
        release(until, last)
    return notices


def is_quiet(user: User, now: datetime) -> bool:
    """Whether it is quiet hours on the user's clock; their last minute is the one before their end."""
    if user.quiet is None:
        return False
    begins, ends = user.quiet
    clock = now.astimezone(user.zone).time()
    return begins <= clock < ends if begins < ends else clock >= begins or clock < ends


def quiet_until(user: User, now: datetime) -> datetime:
    """When the quiet hours end that hold now (UTC), over changes of the clock too."""
    local = now.astimezone(user.zone)
    ends = local.replace(hour=user.quiet[1].hour, minute=user.quiet[1].minute, second=0, microsecond=0)
    if ends <= local:
        ends += timedelta(days=1)
    found = ends.astimezone(UTC)
    # when the clock is set forward that time of day may not exist, when it is set back it comes twice
    while found > now and not is_quiet(user, found - timedelta(minutes=1)):
        found -= timedelta(minutes=1)
    while is_quiet(user, found):
        found += timedelta(minutes=1)
    return found


def notice_id(user: str, receiver: str, notice: Notice) -> str:
    """The idempotency id of a message: of whom it is for, where, and of which alerts' changes it tells.

    An alert's own id is made of rule, market and start, so the same changes give the same id at every attempt.
    """
    told = "\n".join([user, receiver, *sorted(one.key for one in notice.transitions)])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def told_of(rows: pa.Table) -> pa.Table:
    """Of rows of `alerts` those that people are told of: not what is marked quiet."""
    states = pa.array([*BEGINS, *ENDS], pa.string())
    return rows.filter(pc.and_(pc.is_in(rows["state"], value_set=states), pc.is_null(rows["quiet"])))


def keys_of(rows: pa.Table) -> pa.ChunkedArray:
    """`Transition.key` of each row of `alerts`: many are looked at each minute, and few of them are new."""
    times = pc.strftime(rows["at"].cast(pa.timestamp("s"), safe=False), format="%Y%m%dT%H%M%S")
    return pc.binary_join_element_wise(rows["alert_id"], rows["state"], times, "/")


def transitions_of(rows: pa.Table) -> list[Transition]:
    """The transitions that people are told of, of rows of `alerts`, by time; those marked quiet are not."""
    names = list(Transition.__dataclass_fields__)
    return sorted(
        Transition(**{name: _utc(row[name]) for name in names})
        for row in told_of(rows).select(names).to_pylist()
    )


def _utc(value):
    # times come aware from the table and naive from a query
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def _wanted(user: User, stream: Stream, new: Iterable[Transition]) -> list[Transition]:
    subscribed = [one for one in new if user.wants(one.rule, one.severity, one.market_names)]
    if user.resolved:
        return subscribed
    # an end that comes before its beginning was told belongs to it
    begun = {one.alert_id for one in (*stream.held, *subscribed) if not one.is_over}
    return [one for one in subscribed if not one.is_over or one.alert_id in begun]


def _has_room(user: User, stream: Stream) -> bool:
    return user.notices_per_hour is None or len(stream.sent) < user.notices_per_hour


def _hold(stream: Stream, wanted: Sequence[Transition]) -> Stream:
    held = (*stream.held, *wanted)
    dropped = max(0, len(held) - _HELD_MAX)
    return replace(stream, held=held[dropped:], more=stream.more + dropped)


def _notice(
    told: Sequence[Transition], more: int, now: datetime, late: timedelta, held: bool
) -> Notice | None:
    if not told and not more:
        return None
    is_digest = held or more or any(now - one.at > late for one in told)
    return Notice(now, "digest" if is_digest else "alert", tuple(told), more)


def _sent(stream: Stream, notice: Notice | None, now: datetime) -> tuple[Stream, Notice | None]:
    return (replace(stream, sent=(*stream.sent, now)), notice) if notice else (stream, None)
