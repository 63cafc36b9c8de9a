"""The table `latest`: the view of that name as it was at the newest tick, for whoever asks for all markets at once.

Owns that it is replaced whole, in one commit, and never by an older moment. As a table it is one file; the files
and the log of the minutes before are kept for an hour or two and then go, so it stays as small as it is.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from cryptomon_lib import sql
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CommitConflict
from cryptomon_lib.payloads import truncated
from cryptomon_lib.tables import TABLES, schema

log = logging.getLogger(__name__)

LATEST = "latest"
_AS_OF = "as_of"
_TRIES = 5


@dataclass(frozen=True)
class Kept:
    """What was written: as of when, and how many markets; 0 where the table is newer, or no market has ticked."""

    as_of: datetime
    rows: int


def keep_latest(engine: Engine) -> Kept:
    """Write what the view `latest` says now in place of what the table says.

    Raises QueryError: the view cannot be computed. CommitConflict: others wrote first at every try.
    """
    lake, now = engine.monitor.lake, truncated(engine.now)
    moment = int(now.timestamp() * 1000)
    rows = _as_stored(engine.query(f"select {', '.join(shared_columns())} from {LATEST}"), now)
    if rows.num_rows == 0:
        # the newest that is known, with its age, says more than an empty table
        return Kept(now, 0)
    for _ in range(_TRIES):
        table = lake.begin(LATEST)
        newer = lake.mark(table, _AS_OF)
        if newer is not None and newer >= moment:
            log.info("%s is of a later moment already", lake.uri(LATEST))
            return Kept(now, 0)
        if not lake.is_as_declared(LATEST, table):
            # of an older version of the data dictionary
            lake.replace(LATEST, rows.slice(0, 0))
            table = lake.begin(LATEST)
        before = lake.actions(table)["path"].to_pylist()
        try:
            lake.swap(LATEST, table, [lake.write(LATEST, {}, [rows])], before, marks={_AS_OF: moment})
            return Kept(now, rows.num_rows)
        except CommitConflict as error:
            log.info("%s: another writer came first, looking again (%s)", LATEST, error)
    raise CommitConflict(f"{lake.uri(LATEST)}: other writers came first {_TRIES} times.")


def shared_columns() -> list[str]:
    """The columns that the view gives and the table has, in the table's order."""
    given = set(sql.views()[LATEST].tree.named_selects)
    return [column for column in TABLES[LATEST].column_names if column in given - {_AS_OF}]


def latest_source(engine: Engine) -> str:
    """What to read `latest` from: the table, which is `stored_latest`, while it is at most two ticks old; else the view."""
    as_of = engine.query(f"select max({_AS_OF}) as {_AS_OF} from stored_{LATEST}")[_AS_OF][0].as_py()
    if as_of is None:
        return LATEST
    age = engine.now.replace(tzinfo=None) - as_of
    is_of_now = timedelta(0) <= age <= 2 * timedelta(seconds=engine.monitor.settings.cadence_s)
    return f"stored_{LATEST}" if is_of_now else LATEST


def _as_stored(rows: pa.Table, now: datetime) -> pa.Table:
    declared = schema(LATEST)
    columns = {name: rows[name] for name in rows.column_names}
    if _AS_OF in declared.names:
        columns[_AS_OF] = pa.repeat(pa.scalar(now, declared.field(_AS_OF).type), rows.num_rows)
    made = []
    for field in declared:
        column = columns.get(field.name)
        if column is None:
            column = pa.nulls(rows.num_rows, field.type)
        elif pa.types.is_timestamp(field.type) and column.type.tz is None:
            column = column.cast(pa.timestamp("us")).cast(field.type)
        made.append(column.cast(field.type))
    return pa.table(made, schema=declared)
