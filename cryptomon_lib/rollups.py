"""Roll-ups of each hour that is closed: `rollups_1h`, partial aggregates of the view `measures`, and `ticks_1h`, each
market's last tick with how many there were.

Owns which hours are due: those that closed since, in order and without a gap, and those that late rows made
dirty. How far it came, and which versions of the tables it saw, stands in the commits that write the rows, of each
table for itself, so a run that was ended anywhere is taken up where its last commit left it.
"""

import logging
import math
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cryptomon_lib import sql
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CommitConflict
from cryptomon_lib.lake import Lake, version_mark
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.sql import CLOCK
from cryptomon_lib.tables import TABLES, day_of, schema

log = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
# the last answers of an hour arrive and are flattened after it has ended
GRACE = timedelta(minutes=4)
_TRIES = 5
# rows of a row group
_GROUP = 50_000
# clocks of machines that write and roll up may differ by so much
_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class _RollUp:
    """One table of roll-ups: what it sums up, a view or a table, and the rows of the hour before now."""

    table: str
    of: str
    rows: str


_MEASURES = _RollUp(
    "rollups_1h",
    "measures",
    f"""
select
    market_id,
    measure,
    count(value) as samples,
    avg(value) as mean,
    var_pop(value) * count(value) as m2,
    min(value) as "min",
    max(value) as "max",
    min_by(value, at) as "first",
    max_by(value, at) as "last"
from measures
where
    at >= {CLOCK} - interval '1' hour
    and at < {CLOCK}
group by market_id, measure
""",
)
_LAST = [
    name for name in TABLES["ticks_1h"].column_names if name not in ("hour_at", "first_at", "samples", "day")
]
_TICKS = _RollUp(
    "ticks_1h",
    "ticks",
    f"""
with counted as (
    select market_id, min(collected_at) as first_at, max(collected_at) as last_at, count(*) as samples
    from ticks
    where
        day = cast(date({CLOCK} - interval '1' hour) as varchar)
        and collected_at >= {CLOCK} - interval '1' hour
        and collected_at < {CLOCK}
    group by market_id
)
select {", ".join(f"ticks.{name}" for name in _LAST)}, counted.first_at, counted.samples
from counted
inner join ticks on counted.market_id = ticks.market_id and counted.last_at = ticks.collected_at
where
    ticks.day = cast(date({CLOCK} - interval '1' hour) as varchar)
    and ticks.collected_at >= {CLOCK} - interval '1' hour
    and ticks.collected_at < {CLOCK}
""",
)


@dataclass
class RolledUp:
    """What a roll-up of `rollups_1h` did, and beside it that of `ticks_1h`.

    hours: computed, of which dirty ones again; until: the end of the last closed hour.
    """

    hours: int = 0
    dirty: int = 0
    rows: int = 0
    commits: int = 0
    until: datetime | None = None
    # hours that there was no time for
    left: int = 0
    # the log did not reach back to the last roll-up: all that was written since was computed again
    log_gone: bool = False
    # the views say something else than when the older hours were computed
    stale: bool = False
    computed: list[datetime] = field(default_factory=list, repr=False)
    ticks: "RolledUp | None" = None

    @property
    def unfinished(self) -> int:
        """Hours of either table that there was no time for."""
        return self.left + (self.ticks.left if self.ticks else 0)

    @property
    def table(self) -> pd.DataFrame:
        """One row per hour that was computed."""
        return pd.DataFrame({"hour_at": self.computed})


def roll_up(
    monitor: Monitor,
    now: datetime | None = None,
    *,
    rebuild: bool = False,
    since: datetime | None = None,
    seconds: float = math.inf,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> RolledUp:
    """Compute the hours that are due, oldest first, one commit for each quarter of a day and table.

    rebuild: all hours that there are rows for, whatever was computed. since: of these only the later ones.
    seconds: after so many no further new hours are begun; what is left is the next run's.
    progress: called with hours done and hours in all, of a table.

    Raises QueryError: what is to be rolled up cannot be computed. CommitConflict: others rolled up at every try.
    """
    now, ends = now or datetime.now(UTC), time.monotonic() + seconds

    def rolled_up(kind: _RollUp) -> RolledUp:
        done = RolledUp()
        for attempt in range(1, _TRIES + 1):
            try:
                _roll_up(monitor, kind, now, rebuild, since, ends, progress, done)
                break
            except CommitConflict as error:
                if attempt == _TRIES:
                    raise
                log.info("%s: another run came first, looking again (%s)", kind.table, error)
        return done

    done = rolled_up(_MEASURES)
    done.ticks = rolled_up(_TICKS)
    return done


def _roll_up(
    monitor: Monitor, kind: _RollUp, now, rebuild: bool, since, ends: float, progress, done: RolledUp
) -> None:
    began = int(datetime.now(UTC).timestamp() * 1000)
    lake, table = monitor.lake, monitor.lake.open(kind.table)
    sources = _Sources.open(lake, kind.of)
    held, closed = sources.held, _floor(now - GRACE)
    if not held:
        return
    until = _moment(lake.mark(table, "until")) if table is not None else None
    begin = max(min(held), _floor(since)) if rebuild and since else min(held)
    changed, done.log_gone = sources.changed(table) if until else ([], False)
    again = set(_hours(begin, until)) if rebuild and until else set()
    dirty = sorted(again | {hour for hour in _hours_of(changed, sources.reach) if until and hour < until})
    views = _fingerprint(kind)
    done.stale = until is not None and not rebuild and lake.mark(table, "views") not in (None, views)
    if done.stale:
        log.warning(
            "%s: what it is computed from is another than when older hours were rolled up; to have all of them "
            "alike: cryptomon rollup --rebuild",
            kind.table,
        )
    # hours that no file holds a row of are left out: after a year's pause they would be many
    due = [*dirty, *(hour for hour in _hours(until or begin, closed) if hour in held)]
    seen = sources.marks | {"at": began}
    if until is None or (rebuild and not since):
        seen["views"] = views
    done.dirty += len(dirty)
    done.until = until
    done.left = len(due)
    for (day, _), group in groupby(due, key=lambda hour: (day_of(hour), hour.hour // 6)):
        hours = list(group)
        # late rows' hours are done in one go: how far that came is not kept, and half of them would be done for ever
        if time.monotonic() >= ends and (not dirty or hours[0] > dirty[-1]):
            return
        rows = pa.concat_tables([_computed(monitor, kind, hour) for hour in hours])
        marks = {"until": _number(max(until or begin, hours[-1] + HOUR))}
        if not dirty or hours[-1] >= dirty[-1]:
            # only now is all computed that came with those versions
            marks |= seen
        _commit(lake, kind.table, day, hours, rows, until, marks)
        done.until = until = _moment(marks["until"])
        done.hours += len(hours)
        done.left -= len(hours)
        done.rows += rows.num_rows
        done.commits += 1
        done.computed += hours
        progress(done.hours, len(due))


@dataclass(frozen=True)
class _Sources:
    """The tables that roll-ups are of, as they are now."""

    lake: Lake
    tables: dict[str, object]
    reach: timedelta

    @classmethod
    def open(cls, lake: Lake, of: str) -> "_Sources":
        names, reach = _below(of)
        if "candles" in names:
            # a candle counts for the minute that it ends in
            reach = max(reach, timedelta(minutes=1))
        opened = {name: lake.open(name) for name in sorted(names)}
        return cls(lake, {name: table for name, table in opened.items() if table is not None}, reach)

    @property
    def held(self) -> set[datetime]:
        """The hours that may have values, as the logs know what the files hold."""
        files = [_ranges(name, self.lake.actions(table)) for name, table in self.tables.items()]
        return set(_hours_of((one for ranges in files for one in ranges), self.reach))

    @property
    def marks(self) -> dict[str, int]:
        """The versions that are about to be read, or later ones."""
        return {version_mark(name): table.version() for name, table in self.tables.items()}

    def changed(self, rolled) -> tuple[list[tuple[datetime, datetime]], bool]:
        """Ranges of time that rows came to since the last roll-up, and whether the log was no help in that."""
        ranges, log_gone = [], False
        for name, table in self.tables.items():
            seen = self.lake.mark(rolled, version_mark(name))
            changes = self.lake.changes(name, -1 if seen is None else seen, table.version())
            if changes is None:
                log_gone = True
                ranges += self._written_since(name, table, rolled)
            else:
                ranges += [(change.low, change.high) for change in changes]
        return ranges, log_gone

    def _written_since(self, name: str, table, rolled) -> list[tuple[datetime, datetime]]:
        """What files written since the last roll-up hold: more than what is new, where files were joined."""
        before = (self.lake.mark(rolled, "at") or 0) - int(_SKEW.total_seconds() * 1000)
        actions = self.lake.actions(table)
        return _ranges(name, actions.filter(pc.greater_equal(actions["modification_time"], before)))


def _ranges(name: str, actions: pa.Table) -> list[tuple[datetime, datetime]]:
    """The times of the oldest and the newest row of each file that has any."""
    if actions.num_rows == 0:
        return []
    bounds = (actions[f"{bound}.{TABLES[name].day_of}"].to_pylist() for bound in ("min", "max"))
    return [(low, high) for low, high in zip(*bounds, strict=True) if low and high]


def _computed(monitor: Monitor, kind: _RollUp, hour: datetime) -> pa.Table:
    """The rows of one hour."""
    found, declared = Engine(monitor, hour + HOUR).query(kind.rows), schema(kind.table)
    columns = {name: found[name] for name in found.column_names}
    columns["hour_at"] = pa.repeat(pa.scalar(hour, pa.timestamp("us", tz="UTC")), found.num_rows)
    columns["day"] = pa.repeat(day_of(hour), found.num_rows)
    if "expected" in declared.names:
        polls = int(HOUR.total_seconds()) // monitor.settings.cadence_s
        # what is named by the minute comes once a minute, whatever the cadence
        columns["expected"] = pc.if_else(pc.ends_with(found["measure"], "_1m"), 60, polls)
    for name, values in columns.items():
        if pa.types.is_timestamp(values.type) and values.type.tz is None:
            columns[name] = values.cast(pa.timestamp("us")).cast(declared.field(name).type)
    return pa.table([columns[name] for name in declared.names], names=declared.names).cast(declared)


def _commit(
    lake: Lake,
    name: str,
    day: str,
    hours: Sequence[datetime],
    rows: pa.Table,
    until: datetime | None,
    marks: dict[str, int],
) -> None:
    """Write a day's hours in place of what there was of them, if nobody else did."""
    table = lake.begin(name)
    if _moment(lake.mark(table, "until")) != until:
        raise CommitConflict(f"{lake.uri(name)}: another run rolled up meanwhile.")
    actions = lake.actions(table)
    if actions.num_rows:
        held = pc.and_(
            pc.equal(actions["partition.day"], day),
            pc.and_(
                pc.less_equal(actions["min.hour_at"], hours[-1]),
                pc.greater_equal(actions["max.hour_at"], hours[0]),
            ),
        )
        actions = actions.filter(pc.fill_null(held, True))
    if actions.num_rows:
        before = lake.read(name, actions)
        computed = pa.array(hours, pa.timestamp("us", tz="UTC"))
        rows = pa.concat_tables([rows, before.filter(pc.invert(pc.is_in(before["hour_at"], computed)))])
    rows = rows.sort_by([(column, "ascending") for column in TABLES[name].order])
    groups = [rows.slice(begin, _GROUP) for begin in range(0, rows.num_rows, _GROUP)]
    added = [lake.write(name, {"day": day}, groups)] if groups else []
    lake.swap(name, table, added, actions["path"].to_pylist() if actions.num_rows else (), marks=marks)


def _below(name: str) -> tuple[set[str], timedelta]:
    """The tables beneath a view, and how much older than its own rows those are that it reads."""
    known = sql.views()
    if name not in known:
        return {name}, timedelta(0)
    tables, reach = set(), timedelta(0)
    for read in known[name].reads:
        below, further = _below(read) if read != name else ({name}, timedelta(0))
        tables |= below
        reach = max(reach, further)
    return tables, reach + known[name].reach


def _fingerprint(kind: _RollUp) -> int:
    """A number that another one takes the place of when a view computes something else that the roll-up comes from."""
    known = sql.views()

    def texts(name: str) -> Iterable[str]:
        if name in known:
            yield sql.for_duckdb(known[name].text)
            for read in sorted(known[name].reads - {name}):
                yield from texts(read)

    return zlib.crc32("\n".join(texts(kind.of)).encode())


def _hours_of(ranges: Iterable[tuple[datetime, datetime]], reach: timedelta) -> list[datetime]:
    """The hours whose rows may follow from rows of those times, oldest first."""
    return sorted({hour for low, high in ranges for hour in _hours(_floor(low), _floor(high + reach) + HOUR)})


def _hours(begin: datetime, end: datetime) -> Iterable[datetime]:
    hour = begin
    while hour < end:
        yield hour
        hour += HOUR


def _floor(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _number(hour: datetime) -> int:
    return int(hour.timestamp()) // 3600


def _moment(number: int | None) -> datetime | None:
    return None if number is None else datetime.fromtimestamp(number * 3600, UTC)
