"""SQL over the tables and views: DuckDB on the files that the log names, nothing listed, nothing locked.

Owns how a table becomes a relation: times are naive UTC, partition columns are text, and of a table only
those files are read that can hold rows within the query's lookback.
"""

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cryptomon_lib import sql
from cryptomon_lib.errors import ConfigError, QueryError
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.payloads import parse_moment, truncated
from cryptomon_lib.tables import TABLES

log = logging.getLogger(__name__)

# what DuckDB calls the types of the data dictionary, for a table that has no file yet
_EMPTY = {"text": "varchar", "number": "double", "count": "bigint", "time": "timestamp", "texts": "varchar[]"}


class Engine:
    """Queries on one monitor's tables and views, now or as of a moment.

    as_of: the moment that the views take for now: a datetime, or ISO 8601 text; None follows the clock.
    Each query looks at the newest commit of every table that it reads, and at no later one.

    Raises ConfigError: the params name an engine that this class is not.
    """

    def __init__(self, monitor: Monitor, as_of: str | datetime | None = None):
        if monitor.settings.engine != "duckdb":
            raise ConfigError(
                f"engine is {monitor.settings.engine} in params/{monitor.settings.environment}.yaml, which this "
                "version cannot query yet: set CRYPTOMON_ENGINE=duckdb to read the same tables with DuckDB."
            )
        self.monitor = monitor
        self._as_of = truncated(parse_moment(as_of) if isinstance(as_of, str) else as_of) if as_of else None

    @property
    def now(self) -> datetime:
        """The moment that views take for now (UTC)."""
        return self._as_of or datetime.now(UTC)

    def query(self, text: str, **values: Any) -> pa.Table:
        """The rows of one Trino query over tables and views; `:name` in it stands for a value, always bound.

        Times come back as naive UTC timestamps in milliseconds.

        Raises QueryError: it is no query, a name is unknown, or DuckDB refuses it.
        """
        started = perf_counter()
        known = sql.views()
        views, tables = sql.needed(sql.reads(sql.parse(text)), known)
        unknown = tables.keys() - TABLES.keys()
        if unknown:
            raise QueryError(
                f"No table or view is called {', '.join(sorted(unknown))}. Known: {', '.join(sorted({*TABLES, *known}))}."
            )
        now = self.now
        with self._connect() as connection:
            try:
                for name, lookback in tables.items():
                    connection.execute(self._base_view(name, lookback, now, known))
                for name in views:
                    spelled = sql.at_moment(sql.for_duckdb(_over_base(known[name])), now)
                    connection.execute(f'create temp view "{name}" as {spelled}')
                spelled = sql.at_moment(sql.for_duckdb(text), now)
                rows = connection.sql(spelled, params=values or None).to_arrow_table()
            except (duckdb.Error, ValueError) as error:
                raise QueryError(f"DuckDB refuses the query: {str(error).strip()}") from error
        log.debug("%d rows in %.0f ms: %s", rows.num_rows, (perf_counter() - started) * 1e3, text)
        return _plain_types(rows)

    def files(self, name: str, lookback: timedelta | None, now: datetime) -> list[str]:
        """Paths of a table's files that can hold rows since `lookback` before now."""
        table = self.monitor.lake.open(name)
        if table is None:
            return []
        actions = pa.table(table.get_add_actions(flatten=True))
        when = f"max.{TABLES[name].day_of}"
        if lookback is not None and when in actions.column_names:
            since = pa.scalar(now - lookback, pa.timestamp("us", tz="UTC"))
            # statistics may be absent, then the file has to be read
            actions = actions.filter(pc.fill_null(pc.greater_equal(actions[when], since), True))
        return [f"{self.monitor.lake.uri(name)}/{path}" for path in actions["path"].to_pylist()]

    def _connect(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(":memory:")
        connection.execute("set TimeZone = 'UTC'")
        if self.monitor.storage.is_s3:
            connection.register_filesystem(self.monitor.storage.fs)
        return connection

    def _base_view(self, name: str, lookback: timedelta | None, now: datetime, known: Mapping) -> str:
        described = TABLES[name]
        paths = self.files(name, lookback, now)
        columns = ", ".join(_column(column.name, column.type, bool(paths)) for column in described.columns)
        if not paths:
            return f'create temp view "{_base_name(name, known)}" as select {columns} where false'
        listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        return (
            f'create temp view "{_base_name(name, known)}" as select {columns} from read_parquet([{listed}], '
            "hive_partitioning = true, hive_types_autocast = false, union_by_name = false)"
        )


def _column(name: str, kind: str, stored: bool) -> str:
    if not stored:
        return f'cast(null as {_EMPTY[kind]}) as "{name}"'
    if kind == "time":
        # a cast asks a calendar row by row, five times as slow; these are microseconds of UTC on both sides
        return f'make_timestamp(epoch_us("{name}")) as "{name}"'
    return f'"{name}"'


def _base_name(name: str, known: Mapping) -> str:
    # a view may carry the name of the table it presents
    return f"stored_{name}" if name in known else name


def _over_base(view: sql.View) -> str:
    if view.name not in view.reads:
        return view.text
    return re.sub(rf"(?i)\b(from|join)\s+{view.name}\b", rf"\1 stored_{view.name}", view.text)


def _plain_types(rows: pa.Table) -> pa.Table:
    """Times in milliseconds, whole numbers as 64 bit: what the other engines give."""
    fields = []
    for field in rows.schema:
        if pa.types.is_timestamp(field.type):
            field = field.with_type(pa.timestamp("ms"))
        elif pa.types.is_integer(field.type):
            field = field.with_type(pa.int64())
        elif pa.types.is_decimal(field.type):
            field = field.with_type(pa.float64() if field.type.scale else pa.int64())
        elif pa.types.is_large_string(field.type) or pa.types.is_string_view(field.type):
            field = field.with_type(pa.string())
        fields.append(field)
    return rows.cast(pa.schema(fields), safe=False)
