"""DuckDB on the files that the log names: nothing listed, nothing locked.

Owns how a query over views becomes one statement over files. Each place that reads a table reads exactly the
files that can hold rows which the query needs there (`bounds` finds what it needs, `files` which those are).
Times are naive UTC, partition columns are text.

One database in memory serves all engines of a process on one root: what it has learnt of files stays.
"""

import os
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from cryptomon_lib import bounds, sql
from cryptomon_lib.engines import Answer, plain_types
from cryptomon_lib.engines.files import Files, Snapshot, is_needed
from cryptomon_lib.engines.remote import ImmutableFiles
from cryptomon_lib.errors import QueryError
from cryptomon_lib.lake import version_mark
from cryptomon_lib.monitor import Monitor, open_monitor
from cryptomon_lib.payloads import as_moment
from cryptomon_lib.tables import TABLES, Column

# what DuckDB calls the types of the data dictionary
_TYPES = {"text": "varchar", "number": "double", "count": "bigint", "time": "timestamp", "texts": "varchar[]"}
# a file may be vacuumed between the look at the log and the reading; looked at again so often
_TRIES = 5
_PLANS = 500
# the database keeps what it learnt of a file, some 40 KB, also when the file is gone: after so many it begins anew
_GONE_MAX = 1_000
_WITH = re.compile(r"(?i)with\s+(recursive\s+)?")


def _may_be_gone(error: Exception) -> bool:
    # what a file system in Python raises comes as text
    kinds = duckdb.IOException | duckdb.HTTPException | OSError
    return isinstance(error, kinds) or FileNotFoundError.__name__ in str(error)


@dataclass(frozen=True)
class _Prepared:
    """A query's plan, with the statements that its conditions' constants come from."""

    plan: bounds.Plan
    pieces: tuple[str, ...]
    constants: tuple[str, ...]
    queries: Mapping[str, "_Prepared"]
    known: Mapping[str, sql.View]

    @cached_property
    def tables(self) -> frozenset[str]:
        """All tables that the query and its constants read."""
        return self.plan.tables.union(*(one.tables for one in self.queries.values()))


class Backend:
    """Queries by DuckDB. Each looks at the newest commit of every table that it reads, and at no later one."""

    def __init__(self, monitor: Monitor):
        self.monitor = monitor

    def run(self, text: str, values: dict[str, Any], now: datetime | None) -> Answer:
        """The rows of one checked Trino query.

        Raises QueryError: DuckDB refuses it.
        """
        shared, now = _shared(self.monitor), now or datetime.now(UTC)
        for _ in range(_TRIES):
            prepared = _prepare(text, sql.views())
            seen = {name: shared.files.newest(name) for name in prepared.tables}
            if kept := _kept_now(prepared, seen, shared.files, now):
                prepared, seen = _prepare(text, sql.with_kept(prepared.known)), seen | {kept.name: kept}
            try:
                with shared.cursor() as cursor:
                    statement = self._statement(cursor, prepared, values, now, seen)
                    rows = cursor.sql(statement, params=_asked(text, values)).to_arrow_table()
                return Answer(plain_types(rows))
            except (duckdb.Error, OSError, ValueError) as error:
                refused = QueryError(f"DuckDB refuses the query: {str(error).strip()}")
                refused.__cause__ = error
                # what was read may be gone because another version took its place; else nothing helps
                if not _may_be_gone(error) or all(
                    shared.files.newest(name) is one for name, one in seen.items()
                ):
                    raise refused from error
        raise refused

    def close(self) -> None:
        """Give back the database that this process keeps for the root."""
        _close(self.monitor)

    def reads(
        self, text: str, values: Mapping[str, Any] | None = None, now: datetime | None = None
    ) -> list[tuple[str, list[str]]]:
        """For each place where a query reads a table: the table, and the files that are read there."""
        seen, known, places = self._places(text, values, now)
        return [
            (place.table, list(seen[place.table].paths[seen[place.table].needed(place.demand, known)]))
            for place in places
        ]

    def scans(
        self, text: str, values: Mapping[str, Any] | None = None, now: datetime | None = None
    ) -> list[tuple[str, str]]:
        """For each place where a query reads a table: the table, and the rows that are read there, as DuckDB's select."""
        seen, known, places = self._places(text, values, now)
        return [(place.table, _rows(seen[place.table], place.demand, known)) for place in places]

    def _places(self, text: str, values: Mapping[str, Any] | None, now: datetime | None):
        prepared, shared = _prepare(text, sql.views()), _shared(self.monitor)
        seen = {name: shared.files.newest(name) for name in prepared.tables}
        with shared.cursor() as cursor:
            known = self._constants(cursor, prepared, dict(values or {}), now or datetime.now(UTC), seen)
        return seen, known, [node for node in prepared.plan.nodes if isinstance(node, bounds.Read)]

    # ---- from a text to a statement

    def _statement(
        self, cursor, prepared: _Prepared, values: Mapping, now: datetime, seen: Mapping[str, Snapshot]
    ) -> str:
        """The query as one statement of DuckDB over the files of the snapshots seen."""
        known = self._constants(cursor, prepared, values, now, seen)
        nodes = prepared.plan.nodes
        used = Counter(
            number for node in nodes if isinstance(node, bounds.Step) for number in set(node.reads)
        )
        texts: dict[int, str] = {}
        shared: list[str] = []
        # what has no row: of a table no file is needed there
        rowless: set[int] = set()
        for number, node in enumerate(nodes):
            if isinstance(node, bounds.Read):
                needed = seen[node.table].needed(node.demand, known)
                texts[number] = f"({_read(seen[node.table], needed, node.demand, known)})"
                if not any(needed):
                    rowless.add(number)
                continue
            if node.view and (told := _told(prepared.known[node.view], known)):
                texts[number] = told
                continue
            if node.view is None:
                pieces = prepared.pieces
            else:
                view = prepared.known[node.view]
                idle, none = _without_rows(
                    view, frozenset(place for place, read in enumerate(node.reads) if read in rowless)
                )
                if none:
                    rowless.add(number)
                idle |= {select for select, demand in node.branches if not is_needed(demand, known)}
                pieces = _pieces(view, idle)
            body = _filled(pieces, [texts[read] for read in node.reads])
            if used[number] > 1:
                shared.append(f'"step {number}" as ({body})')
                texts[number] = f'"step {number}"'
            else:
                texts[number] = f"({body})" if node.view else body
        return sql.at_moment(_with(shared, texts[len(nodes) - 1]), now)

    def _constants(
        self, cursor, prepared: _Prepared, values: Mapping, now: datetime, seen: Mapping[str, Snapshot]
    ) -> dict[str, Any]:
        """What the constants are that the conditions compare with; those that cannot be told are left out."""
        known: dict[str, Any] = {}
        if prepared.constants:
            known.update(_evaluated(cursor, prepared.constants, values, now))
        for text, query in prepared.queries.items():
            statement = self._statement(cursor, query, values, now, seen)
            found = cursor.execute(statement, _asked(f"select {text}", values)).fetchall()
            known[text] = found[0][0] if len(found) == 1 else None
        return known


def connect(
    environment: str | Monitor | None = None, as_of: str | datetime | None = None, path: str = ":memory:"
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection in which all tables and views can be asked for, for whoever wants to use DuckDB itself.

    environment: a name in params/, or a monitor. as_of: the moment that the views take for now; None is this one.
    path: a database file to write the views to. **The files that they read, and their clock, are those of the call**:
    rows that come later are not seen, and an hour after compaction the files may be gone; connect again.

    On S3 the connection reads through this process; a database file is for clients that can read the bucket.
    `main` has them under their own names; `parts` holds what they read of the files.
    """
    monitor = environment if isinstance(environment, Monitor) else open_monitor(environment)
    now = as_moment(as_of) or datetime.now(UTC)
    shared, known = _shared(monitor), sql.views()
    names = [*(sql.base_name(table, known) for table in TABLES), *known]
    plan, numbers = bounds.plan_all(names, known)
    prepared = _constants_of(plan, (), known)
    seen = {name: shared.files.newest(name) for name in prepared.tables}
    backend = Backend(monitor)
    with shared.cursor() as cursor:
        values = backend._constants(cursor, prepared, {}, now, seen)
    connection = duckdb.connect(path)
    connection.execute("set TimeZone = 'UTC'; create schema parts")
    if monitor.storage.is_s3:
        connection.register_filesystem(ImmutableFiles(monitor.storage.fs))
    called: list[str] = []
    for number, node in enumerate(plan.nodes):
        if isinstance(node, bounds.Read):
            called.append(f'parts."{node.table} {number}"')
            text = _rows(seen[node.table], node.demand, values)
        else:
            called.append(f'main."{node.view}"')
            text = _filled(_pieces(known[node.view], frozenset()), [called[read] for read in node.reads])
        connection.execute(f"create view {called[-1]} as {sql.at_moment(text, now)}")
    for name in names[: len(TABLES)]:
        connection.execute(f'create view main."{name}" as select * from {called[numbers[name]]}')
    return connection


def write_database(monitor: Monitor, path: Path, as_of: str | datetime | None = None) -> None:
    """A database file that any DuckDB client opens to see all tables and views, as `connect` gives them.

    Raises QueryError: the file cannot be written, or is open elsewhere.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.unlink(missing_ok=True)
        connect(monitor, as_of, str(unfinished)).close()
        unfinished.replace(path)
    except (duckdb.Error, OSError) as error:
        raise QueryError(f"Cannot write {path}: {str(error).strip()}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _prepare(text: str, known: Mapping[str, sql.View]) -> _Prepared:
    place = text, f"stored_{sql.NOW_1H}" in known[sql.NOW_1H].reads
    if place not in _plans or _plans[place][0] is not known:
        if len(_plans) > _PLANS:
            _plans.clear()
        tree = sql.parsed(text)
        plan = bounds.plan(tree, known)
        _plans[place] = known, _constants_of(plan, sql.pieces_for_duckdb(tree), known)
    return _plans[place][1]


# a process asks the same again and again, of engines that come and go; by text, and whether a kept view is read
_plans: dict[tuple[str, bool], tuple[Mapping[str, sql.View], _Prepared]] = {}


def _kept_now(
    prepared: _Prepared, seen: Mapping[str, Snapshot], files: Files, now: datetime
) -> Snapshot | None:
    """The table that a tick kept the view `now_1h` as, where a query reads the view and would be told the same by it.

    That is: no table that it comes from was written to since, and none has a row between its moment and now.
    """
    if not any(isinstance(node, bounds.Step) and node.view == sql.NOW_1H for node in prepared.plan.nodes):
        return None
    kept, now = files.newest(sql.NOW_1H), now.astimezone(UTC).replace(tzinfo=None) if now.tzinfo else now
    moment = kept.marks.get("as_of")
    if moment is None:
        return None
    as_of = datetime(1970, 1, 1) + timedelta(milliseconds=moment)  # noqa: DTZ001 - times are naive UTC here
    sources = [seen.get(name) or files.newest(name) for name in ("ticks", "candles")]
    same = all(kept.marks.get(version_mark(one.name)) == one.version for one in sources)
    # a candle's value is of the minute after it opened
    since = as_of - timedelta(minutes=1)
    if (
        not same
        or as_of > now
        or sources[0].may_have_between(as_of, now)
        or sources[1].may_have_between(since, now)
    ):
        return None
    return kept


def _constants_of(plan: bounds.Plan, pieces: tuple[str, ...], known: Mapping[str, sql.View]) -> _Prepared:
    asking = {one: f"select {one} as it" for one in plan.constants if "select" in one.lower()}
    return _Prepared(
        plan,
        pieces,
        tuple(sorted(plan.constants - asking.keys())),
        {one: _prepare(query, known) for one, query in asking.items()},
        known,
    )


@lru_cache(_PLANS)
def _names(text: str) -> frozenset[str]:
    return sql.placeholders(sql.parsed(text))


def _asked(text: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Those of the values that a text asks for; DuckDB refuses others."""
    return {name: values[name] for name in _names(text)} or None


_constant = lru_cache(_PLANS)(sql.for_duckdb)


def _pieces(view: sql.View, idle: frozenset[int]) -> tuple[str, ...]:
    if (view.text, idle) not in _spelled:
        _spelled[view.text, idle] = sql.pieces_for_duckdb(view.tree, idle)
    return _spelled[view.text, idle]


_spelled: dict[tuple[str, frozenset[int]], tuple[str, ...]] = {}


def _without_rows(view: sql.View, places: frozenset[int]) -> tuple[frozenset[int], bool]:
    if not places:
        return frozenset(), False
    if (view.text, places) not in _rowless:
        _rowless[view.text, places] = sql.without_rows(view.tree, places)
    return _rowless[view.text, places]


_rowless: dict[tuple[str, frozenset[int]], tuple[frozenset[int], bool]] = {}


def _filled(pieces: tuple[str, ...], places: list[str]) -> str:
    return "".join(piece if number % 2 == 0 else places[int(piece)] for number, piece in enumerate(pieces))


def _with(shared: list[str], body: str) -> str:
    """A statement with steps before its own."""
    if not shared:
        return body
    own = _WITH.match(body)
    if not own:
        return f"with {', '.join(shared)} {body}"
    return f"{own[0]}{', '.join(shared)}, {body[own.end() :]}"


def _evaluated(cursor, constants: tuple[str, ...], values: Mapping, now: datetime) -> dict[str, Any]:
    columns = ", ".join(f"{one} as c{number}" for number, one in enumerate(constants))
    text = f"select {columns}"
    try:
        found = cursor.execute(sql.at_moment(_constant(text), now), _asked(text, values)).fetchall()
    except duckdb.Error:
        # the query itself will say what is wrong with it; the other constants may still be told
        if len(constants) == 1:
            return {}
        return {k: v for one in constants for k, v in _evaluated(cursor, (one,), values, now).items()}
    return dict(zip(constants, found[0], strict=True))


def _told(view: sql.View, known: Mapping[str, Any]) -> str | None:
    """A view of one row and one time, that was asked for to know which files are needed: it need not be asked again."""
    if len(names := view.tree.named_selects) != 1:
        return None
    value = known.get(f"(SELECT {names[0]} FROM {view.name})")
    return f"(select timestamp '{value}' as {names[0]})" if isinstance(value, datetime) else None


def _rows(seen: Snapshot, demand: bounds.Demand, known: Mapping[str, Any]) -> str:
    """A table's rows out of the files that can hold needed ones."""
    return _read(seen, seen.needed(demand, known), demand, known)


def _read(seen: Snapshot, needed: np.ndarray, demand: bounds.Demand, known: Mapping[str, Any]) -> str:
    """A table's rows out of those of its files."""
    columns = TABLES[seen.name].columns
    paths = seen.paths[needed]
    if not len(paths):
        return _nothing(columns, _TYPES)
    listed = _listed(paths)
    how = "hive_partitioning = true, hive_types_autocast = false, union_by_name = false"
    rows = f"read_parquet([{listed}], {how})"
    if seen.lacking[needed].any():
        # files of the same columns together: DuckDB's own union by name looks at all of them at once, in threads of
        # its own that wait for this one where files come through Python; a column that none has is null
        groups = [
            f"select * from read_parquet([{_listed(alike)}], {how})" for alike in seen.alike(needed).values()
        ]
        groups.append(_nothing(columns, _TYPES | {"time": "timestamptz"}))
        rows = f"({' union all by name '.join(groups)})"
    named = ", ".join(_column(one.name, one.type) for one in columns)
    return f"select {named} from {rows}{_within(seen, demand, known)}"


def _listed(paths: Iterable[str]) -> str:
    return ", ".join("'" + path.replace("'", "''") + "'" for path in paths)


def _nothing(columns: Sequence[Column], types: Mapping[str, str]) -> str:
    """These columns, and no row."""
    nulls = ", ".join(f'cast(null as {types[one.type]}) as "{one.name}"' for one in columns)
    return f"select {nulls} where false"


def _within(seen: Snapshot, demand: bounds.Demand, known: Mapping[str, Any]) -> str:
    """The time, the markets and the measures as a filter on what is stored, by which a scan skips; what is converted,
    or read twice, a filter above does not reach."""
    described, (since, until) = TABLES[seen.name], seen.span(demand, known)
    when = described.day_of
    ends = [f"\"{when}\" {how} timestamptz '{end} UTC'" for how, end in ((">=", since), ("<=", until)) if end]
    for column in described.led_by:
        if wanted := seen.only(column, demand, known):
            listed = ", ".join("'" + value.replace("'", "''") + "'" for value in wanted)
            ends.append(f'"{column}" in ({listed})')
    return f" where {' and '.join(ends)}" if ends else ""


def _column(name: str, kind: str) -> str:
    if kind == "time":
        # a cast asks a calendar row by row, five times as slow; these are microseconds of UTC on both sides
        return f'make_timestamp(epoch_us("{name}")) as "{name}"'
    return f'"{name}"'


# ---- what a process keeps


class _Shared:
    """A database and the tables' logs, for all engines of this process on one root."""

    def __init__(self, monitor: Monitor):
        limits = monitor.settings.duckdb
        folder = Path(tempfile.gettempdir()) / f"cryptomon-duckdb-{os.getpid()}"
        config = {
            "memory_limit": f"{limits.memory_mb}MiB",
            # what does not fit goes to a folder for temporary files, not beside whoever calls
            "temp_directory": str(folder),
        }
        if limits.threads:
            config["threads"] = limits.threads
        self._config, self._storage = config, monitor.storage
        self._renewing = threading.Lock()
        self.database = self._opened()
        self.files = Files(monitor.lake)

    def _opened(self) -> duckdb.DuckDBPyConnection:
        database = duckdb.connect(":memory:", config=self._config)
        database.execute("set global TimeZone = 'UTC'; set global parquet_metadata_cache = true")
        if self._storage.is_s3:
            database.register_filesystem(ImmutableFiles(self._storage.fs))
        return database

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own to the database, for one query."""
        with self._renewing:
            if self.files.gone > _GONE_MAX:
                # not closed: cursors that are out go on, the last of them lets the old one go
                self.database = self._opened()
                self.files.forget()
            cursor = self.database.cursor()
        try:
            yield cursor
        finally:
            cursor.close()


_kept: dict[tuple, _Shared] = {}
_keeping = threading.Lock()


def _key(monitor: Monitor) -> tuple:
    return monitor.storage.root, monitor.storage.endpoint_url, monitor.settings.duckdb


def _shared(monitor: Monitor) -> _Shared:
    with _keeping:
        if _key(monitor) not in _kept:
            _kept[_key(monitor)] = _Shared(monitor)
        return _kept[_key(monitor)]


def _close(monitor: Monitor) -> None:
    with _keeping:
        shared = _kept.pop(_key(monitor), None)
    if shared:
        shared.database.close()
