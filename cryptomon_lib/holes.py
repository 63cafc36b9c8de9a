"""What is missing and what became of it: the table `holes`, kept from the view `gaps`.

Owns the arithmetic of minutes, until where each market and source was looked at, which rows are joined so
that the table stays small, and how long closed ones are kept. A minute is named by its end and is a whole
number here: minutes since 1970. Whoever changes the table looks at its newest version and chooses again when
another came first.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby

import msgspec
import pyarrow as pa

from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CommitConflict
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.sql import CLOCK
from cryptomon_lib.tables import TABLES, schema

log = logging.getLogger(__name__)

HOLES = "holes"
OPEN, FILLED, UNFILLABLE = "open", "filled", "unfillable"
TICKS, PRICE, VOLUME = "ticks", "price", "volume_1m"
MEASURES = (PRICE, VOLUME)
DAY = 1440
# the last minutes are left to the next polls, as the view gaps leaves them
RECENT = 5
NOT_ASKED = "not asked for yet"
CAME = "its minutes came after all"
NO_REPEAT = "a poll cannot be asked for again; price and volume_1m of followed markets come from candles"
# of one subject and measure so many closed rows a day and state; more are joined, their minutes added up
_ROWS_A_DAY = 24
_JUDGED = "holes/judged.json"
_TRIES = 20
_BOUNDS = (
    f"{{time}} > {CLOCK} - interval '24' hour and {{time}} <= {CLOCK} "
    f"and day >= cast(date({CLOCK} - interval '24' hour) as varchar)"
)
# the first minute of each source and followed market that is there: what is before it is judged by earlier looks
_FIRST = (
    f"select source as subject, source, min(collected_at) as first_at from ticks "
    f"where {_BOUNDS.format(time='collected_at')} group by source union all "
    f"select market_id as subject, max(source) as source, min(opened_at) + interval '60' second as first_at "
    f"from candles where interval_s = 60 and coalesce(origin, 'live') <> 'backfill' "
    f"and {_BOUNDS.format(time='opened_at')} group by market_id"
)

Span = tuple[int, int]
Key = tuple[str, str]


@dataclass(frozen=True)
class Hole:
    """One row of the table: first and last missing minute, how many of those between are missing."""

    subject: str
    measure: str
    first: int
    last: int
    minutes: int
    state: str
    reason: str
    found: int
    closed: int | None = None

    @property
    def key(self) -> Key:
        return self.subject, self.measure

    @property
    def span(self) -> Span:
        return self.first, self.last


@dataclass
class Noted:
    """What a look at the data found: rows by state, and minutes by state."""

    rows: dict[str, int] = field(default_factory=dict)
    minutes: dict[str, int] = field(default_factory=dict)


def note_holes(monitor: Monitor, now: datetime | None = None) -> Noted:
    """Bring the table up to what the view `gaps` says now; a second time at the same moment changes nothing.

    Raises QueryError: the view cannot be computed. CommitConflict: others changed the table at every try.
    """
    engine = Engine(monitor, now)
    minute = minute_of(engine.now)
    first = {row["subject"]: row for row in engine.query(_FIRST).to_pylist()}
    runs: dict[Key, list[Span]] = defaultdict(list)
    for row in engine.query("select subject, measure, from_at, to_at from gaps").to_pylist():
        runs[row["subject"], row["measure"]].append((minute_of(row["from_at"]), minute_of(row["to_at"])))
    judged = load_judged(monitor)
    spaces = max(1, monitor.settings.cadence_s // 60)

    def change(holes: list[Hole]) -> list[Hole]:
        return _noted(holes, runs, first, judged, minute, spaces)

    holes = update_holes(monitor, change, minute)
    for subject, row in first.items():
        have = judged.get(subject)
        begins = minute_of(row["first_at"])
        judged[subject] = (min(have[0], begins) if have else begins, minute - RECENT)
    save_judged(monitor, judged)
    return Noted(
        {state: sum(one.state == state for one in holes) for state in (OPEN, FILLED, UNFILLABLE)},
        {
            state: sum(one.minutes for one in holes if one.state == state)
            for state in (OPEN, FILLED, UNFILLABLE)
        },
    )


def load_holes(monitor: Monitor) -> list[Hole]:
    """All rows of the table."""
    table = monitor.lake.open(HOLES)
    return [] if table is None else _from_rows(monitor.lake.read(HOLES, monitor.lake.actions(table)))


def update_holes(monitor: Monitor, change: Callable[[list[Hole]], list[Hole]], minute: int) -> list[Hole]:
    """Change the table as a whole: what `change` makes of its rows, joined, without what was closed long ago.

    Raises CommitConflict: others changed it at every try.
    """
    lake, oldest = monitor.lake, minute - monitor.settings.backfill.holes_days * DAY
    for attempt in range(1, _TRIES + 1):
        table = lake.begin(HOLES)
        files = lake.actions(table)
        before = _from_rows(lake.read(HOLES, files))
        after = [one for one in joined(change(before)) if one.closed is None or one.closed >= oldest]
        if sorted(after, key=_order) == sorted(before, key=_order):
            return before
        try:
            added = [lake.write(HOLES, {}, [_to_rows(after)])] if after else []
            lake.swap(HOLES, table, added, files["path"].to_pylist() if files.num_rows else [])
            return after
        except CommitConflict:
            if attempt == _TRIES:
                raise
            log.info("%s: another run came first, looking again", HOLES)
    return []


def load_judged(monitor: Monitor) -> dict[str, Span]:
    """Of each market and source, the first and the last minute that was looked at."""
    if not monitor.storage.exists(_JUDGED):
        return {}
    return msgspec.json.decode(monitor.storage.get(_JUDGED), type=dict[str, tuple[int, int]])


def save_judged(monitor: Monitor, judged: Mapping[str, Span]) -> None:
    """Keep it; of two runs at once each minute is judged the same."""
    monitor.storage.put(_JUDGED, msgspec.json.encode(dict(sorted(judged.items()))))


def first_polls(monitor: Monitor) -> dict[str, int]:
    """The first minute of each source's ticks, as the log of the table knows it."""
    table = monitor.lake.open("ticks")
    actions = None if table is None else monitor.lake.actions(table)
    found: dict[str, int] = {}
    if actions is None or "min.collected_at" not in actions.column_names:
        return found
    for row in actions.select(["partition.source", "min.collected_at"]).to_pylist():
        if row["min.collected_at"] is not None:
            source, minute = row["partition.source"], minute_of(row["min.collected_at"])
            found[source] = min(found.get(source, minute), minute)
    return found


def settle(
    holes: list[Hole], key: Key, spans: Iterable[Span], state: str, reason: str, minute: int
) -> list[Hole]:
    """The rows after these minutes of a subject's measure came to a state; what is not open stays as it is."""
    spans = union(spans)
    kept, closed = [], None if state == OPEN else minute
    for one in holes:
        hit = common([one.span], spans) if one.key == key and one.state == OPEN else []
        if not hit:
            kept.append(one)
            continue
        left = without([one.span], spans)
        kept += [replace(one, first=a, last=b, minutes=b - a + 1) for a, b in left]
        kept += [
            replace(one, first=a, last=b, minutes=b - a + 1, state=state, reason=reason, closed=closed)
            for a, b in hit
        ]
    return kept


def opened(holes: list[Hole], key: Key, spans: Iterable[Span], reason: str, minute: int) -> list[Hole]:
    """The rows with these minutes missing too, those left out that have a row already."""
    known = [one.span for one in holes if one.key == key]
    return holes + [
        Hole(*key, a, b, b - a + 1, OPEN, reason, found=minute) for a, b in without(union(spans), known)
    ]


def joined(holes: Iterable[Hole]) -> list[Hole]:
    """Rows that touch and say the same as one, and of closed ones no more than `_ROWS_A_DAY` of a state in a day."""
    after: list[Hole] = []
    for _, group in groupby(sorted(holes, key=_order), key=lambda one: one.key):
        rows = _touching(list(group))
        crowds: dict[tuple[str, int], int] = defaultdict(int)
        for one in rows:
            # an open row is a list of what to ask for: it says exactly what is missing
            crowds[one.state, one.first // DAY] += one.state != OPEN
        if max(crowds.values()) > _ROWS_A_DAY:
            rows = _crowded(rows, {crowd for crowd, size in crowds.items() if size > _ROWS_A_DAY})
        after += rows
    return after


# ---- minutes


def minute_of(moment: datetime) -> int:
    """The minute that a moment (UTC, or naive UTC) lies in."""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) // 60


def moment_of(minute: int) -> datetime:
    """The moment at which a minute, named by its end, is over."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)


def union(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, those that overlap or touch as one."""
    found: list[Span] = []
    for first, last in sorted(span for span in spans if span[0] <= span[1]):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def without(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """The minutes of the first that are not in the second."""
    found, others, index = [], union(others), 0
    for first, last in union(spans):
        while index and others[index - 1][1] >= first:
            index -= 1
        while index < len(others) and others[index][1] < first:
            index += 1
        at = index
        while at < len(others) and others[at][0] <= last and first <= last:
            if others[at][0] > first:
                found.append((first, others[at][0] - 1))
            first = others[at][1] + 1
            at += 1
        if first <= last:
            found.append((first, last))
    return found


def common(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """The minutes that are in both."""
    spans = union(spans)
    return without(spans, without(spans, others))


def size(spans: Iterable[Span]) -> int:
    """How many minutes there are in spans that do not overlap."""
    return sum(last - first + 1 for first, last in spans)


def spans_of(minutes: Iterable[int]) -> list[Span]:
    """Minutes as spans."""
    return union((minute, minute) for minute in minutes)


# ---- inside


def _noted(
    holes: list[Hole],
    runs: Mapping[Key, list[Span]],
    first: Mapping[str, dict],
    judged: Mapping[str, Span],
    minute: int,
    spaces: int,
) -> list[Hole]:
    """The rows after a look at the last 24 h. Sources come first: what they lack decides about prices."""
    for subject, row in sorted(first.items(), key=lambda item: item[0] != item[1]["source"]):
        begins = minute_of(row["first_at"])
        looked = [(begins, minute - RECENT)]
        # between the last look and the first minute of these 24 h nothing came
        edge = [(judged[subject][1] + 1, begins - 1)] if subject in judged else []
        for measure in (TICKS,) if subject == row["source"] else MEASURES:
            key = (subject, measure)
            missing = [*runs.get(key, ()), *edge]
            if measure == TICKS:
                # with a slower cadence there are minutes without a poll
                missing = [(a, b) for a, b in missing if b - a + 1 >= spaces]
            if measure == PRICE and edge:
                polled = without(edge, [one.span for one in holes if one.key == (row["source"], TICKS)])
                missing = without(missing, polled)
            was_open = [one.span for one in holes if one.key == key and one.state == OPEN]
            came = common(without(was_open, missing), looked)
            holes = settle(holes, key, came, FILLED, CAME, minute)
            holes = opened(holes, key, missing, NOT_ASKED, minute)
            if measure == TICKS:
                holes = settle(holes, key, missing, UNFILLABLE, NO_REPEAT, minute)
    return holes


def _touching(rows: list[Hole]) -> list[Hole]:
    found: list[Hole] = []
    for one in rows:
        last = found[-1] if found else None
        if last and (last.state, last.reason) == (one.state, one.reason) and one.first <= last.last + 1:
            found[-1] = _both(last, one)
        else:
            found.append(one)
    return found


def _crowded(rows: list[Hole], crowds: set[tuple[str, int]]) -> list[Hole]:
    """Neighbours of one state and day as one row; a row of another state between them keeps them apart."""
    found: list[Hole] = []
    for one in rows:
        last = found[-1] if found else None
        day = one.first // DAY
        if last and last.state == one.state and last.first // DAY == day and (one.state, day) in crowds:
            found[-1] = _both(last, one)
        else:
            found.append(one)
    return found


def _both(one: Hole, other: Hole) -> Hole:
    reasons = dict.fromkeys([*one.reason.split("; "), *other.reason.split("; ")])
    closed = [at for at in (one.closed, other.closed) if at is not None]
    return replace(
        one,
        last=max(one.last, other.last),
        minutes=one.minutes + other.minutes,
        reason="; ".join(list(reasons)[:3]),
        found=min(one.found, other.found),
        closed=max(closed) if closed else None,
    )


def _order(one: Hole) -> tuple[str, str, int, int]:
    return one.subject, one.measure, one.first, one.last


def _from_rows(rows: pa.Table) -> list[Hole]:
    return [
        Hole(
            row["subject"],
            row["measure"],
            minute_of(row["from_at"]),
            minute_of(row["to_at"]),
            row["minutes"],
            row["state"],
            row["reason"],
            minute_of(row["found_at"]),
            minute_of(row["closed_at"]) if row["closed_at"] else None,
        )
        for row in rows.to_pylist()
    ]


def _to_rows(holes: list[Hole]) -> pa.Table:
    rows = [
        {
            "subject": one.subject,
            "measure": one.measure,
            "from_at": moment_of(one.first),
            "to_at": moment_of(one.last),
            "minutes": one.minutes,
            "state": one.state,
            "reason": one.reason,
            "found_at": moment_of(one.found),
            "closed_at": moment_of(one.closed) if one.closed is not None else None,
        }
        for one in sorted(holes, key=_order)
    ]
    assert set(TABLES[HOLES].column_names) == set(rows[0])
    return pa.Table.from_pylist(rows, schema=schema(HOLES))
