"""DuckDB on the files that the log names: nothing listed, nothing locked.

Owns how a table becomes a relation: times are naive UTC, partition columns are text, and of a table only
those files are read that can hold rows within the query's lookback.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cryptomon_lib import sql
from cryptomon_lib.engines import Answer, plain_types
from cryptomon_lib.errors import QueryError
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.tables import TABLES

# what DuckDB calls the types of the data dictionary, for a table that has no file yet
_EMPTY = {"text": "varchar", "number": "double", "count": "bigint", "time": "timestamp", "texts": "varchar[]"}


class Backend:
    """Queries by DuckDB. Each looks at the newest commit of every table that it reads, and at no later one."""

    def __init__(self, monitor: Monitor):
        self.monitor = monitor

    def run(self, text: str, values: dict[str, Any], now: datetime | None) -> Answer:
        """The rows of one checked Trino query.

        Raises QueryError: DuckDB refuses it.
        """
        now = now or datetime.now(UTC)
        known = sql.views()
        views, tables = sql.needed(sql.reads(sql.parse(text)), known)
        with self._connect() as connection:
            try:
                for name, lookback in tables.items():
                    connection.execute(self._base_view(name, lookback, now, known))
                for name in views:
                    spelled = sql.at_moment(sql.for_duckdb(known[name].text), now)
                    connection.execute(f'create temp view "{name}" as {spelled}')
                spelled = sql.at_moment(sql.for_duckdb(text), now)
                rows = connection.sql(spelled, params=values or None).to_arrow_table()
            except (duckdb.Error, ValueError) as error:
                raise QueryError(f"DuckDB refuses the query: {str(error).strip()}") from error
        return Answer(plain_types(rows))

    def close(self) -> None:
        """Nothing is held between queries."""

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
        described, called = TABLES[name], sql.base_name(name, known)
        paths = self.files(name, lookback, now)
        columns = ", ".join(_column(column.name, column.type, bool(paths)) for column in described.columns)
        if not paths:
            return f'create temp view "{called}" as select {columns} where false'
        listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        return (
            f'create temp view "{called}" as select {columns} from read_parquet([{listed}], '
            "hive_partitioning = true, hive_types_autocast = false, union_by_name = false)"
        )


def _column(name: str, kind: str, stored: bool) -> str:
    if not stored:
        return f'cast(null as {_EMPTY[kind]}) as "{name}"'
    if kind == "time":
        # a cast asks a calendar row by row, five times as slow; these are microseconds of UTC on both sides
        return f'make_timestamp(epoch_us("{name}")) as "{name}"'
    return f'"{name}"'
