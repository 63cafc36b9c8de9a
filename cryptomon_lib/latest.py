"""The tables `latest` and `now_1h`: the views of those names as they were at the newest tick, for whoever asks for all
markets at once.

Owns that each is replaced whole, in one commit, and never by an older moment. As a table it is one file; the files
and the log of the minutes before are kept for an hour or two and then go, so it stays as small as it is.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from cryptomon_lib import sql
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CommitConflict
from cryptomon_lib.lake import version_mark
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
    """Write what the view `latest` says now in place of what the table says; before it `now_1h`, where DuckDB computes.

    `latest`, spikes and alert rules all ask for `now_1h`: DuckDB reads it from the table until a row comes (see
    engines/duckdb.py). Other engines have it computed by the view each time.

    Raises QueryError: the view cannot be computed. CommitConflict: others wrote first at every try.
    """
    if engine.monitor.settings.engine == "duckdb":
        # looked at before the view is computed: who writes meanwhile makes it another version
        versions = {version_mark(name): engine.monitor.lake.version(name) for name in ("ticks", "candles")}
        _keep(engine, sql.NOW_1H, versions)
    return _keep(engine, LATEST, {})


def _keep(engine: Engine, name: str, marks: Mapping[str, int]) -> Kept:
    """Write what a view says now in place of what the table of its name says, and the marks."""
    lake, now = engine.monitor.lake, truncated(engine.now)
    moment = int(now.timestamp() * 1000)
    rows = _as_stored(name, engine.query(f"select {', '.join(shared_columns(name))} from {name}"), now)
    if rows.num_rows == 0:
        # the newest that is known, with its age, says more than an empty table
        return Kept(now, 0)
    for _ in range(_TRIES):
        table = lake.begin(name)
        newer = lake.mark(table, _AS_OF)
        if newer is not None and newer >= moment:
            log.info("%s is of a later moment already", lake.uri(name))
            return Kept(now, 0)
        if not lake.is_as_declared(name, table):
            # of an older version of the data dictionary
            lake.replace(name, rows.slice(0, 0))
            table = lake.begin(name)
        before = lake.actions(table)["path"].to_pylist()
        try:
            lake.swap(name, table, [lake.write(name, {}, [rows])], before, marks={_AS_OF: moment, **marks})
            return Kept(now, rows.num_rows)
        except CommitConflict as error:
            log.info("%s: another writer came first, looking again (%s)", name, error)
    raise CommitConflict(f"{lake.uri(name)}: other writers came first {_TRIES} times.")


def shared_columns(name: str = LATEST) -> list[str]:
    """The columns that a view gives and the table of its name has, in the table's order."""
    given = set(sql.views()[name].tree.named_selects)
    return [column for column in TABLES[name].column_names if column in given - {_AS_OF}]


def latest_source(engine: Engine) -> str:
    """What to read `latest` from: the table, which is `stored_latest`, while it is at most two ticks old; else the view."""
    as_of = engine.query(f"select max({_AS_OF}) as {_AS_OF} from stored_{LATEST}")[_AS_OF][0].as_py()
    if as_of is None:
        return LATEST
    age = engine.now.replace(tzinfo=None) - as_of
    is_of_now = timedelta(0) <= age <= 2 * timedelta(seconds=engine.monitor.settings.cadence_s)
    return f"stored_{LATEST}" if is_of_now else LATEST


def _as_stored(name: str, rows: pa.Table, now: datetime) -> pa.Table:
    declared = schema(name)
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
