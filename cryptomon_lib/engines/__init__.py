"""The engines behind `Engine.query`: DuckDB, Athena and Trino, one module each, and what they share.

A module here is named as `engine` in params names it and has a class `Backend`:

    Backend(monitor)            opens nothing until the first query
    .run(text, values, now)     -> Answer: the rows of one query, and what is known of its cost
    .close()                    gives back what it holds; a query after it opens anew

`text` is one Trino query, parsed and checked: every name in it is a step of its own, a view, a table `T`, or
`stored_T` (the table that a view of the same name presents). `values` are to be bound to `:name` in it, never
pasted; all names that it has are given, and no others. `now` is None for live, or the moment (aware, UTC,
whole milliseconds) that the query and all views below it take for now. An engine that keeps created views
gives `sql.inlined(text, known, now)` to its server where `now` is given, because created views follow the
server's clock. Rows pass through `plain_types`, so that all engines give the same types.

One that has to be told of tables and views before it can be asked (see `catalog`) also has

    .do(statement, values)      -> Answer: what one statement gives, as it stands

`run` is called from several threads. It raises QueryError for what the engine refuses, with the engine's own
words after ours; StorageError where files cannot be read.
"""

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa

from cryptomon_lib.errors import ConfigError
from cryptomon_lib.monitor import Monitor


@dataclass(frozen=True)
class Answer:
    """Rows of a query; of its cost what the engine knows: bytes scanned, and US dollars where it is billed."""

    rows: pa.Table
    bytes_scanned: int | None = None
    cost_usd: float | None = None


class Backend(Protocol):
    """What every module here offers under this name."""

    def run(self, text: str, values: dict[str, Any], now: datetime | None) -> Answer:
        """The rows of one checked Trino query."""

    def close(self) -> None:
        """Give back what is held."""


def open_backend(monitor: Monitor) -> Backend:
    """The engine that the params name, on a monitor's tables.

    Raises ConfigError: this version has no such engine, or a package that it needs is absent.
    """
    name = monitor.settings.engine
    where = f"engine is {name} in params/{monitor.settings.environment}.yaml"
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        lacks = "which this version cannot query yet" if error.name == f"{__name__}.{name}" else str(error)
        raise ConfigError(
            f"{where}: {lacks}. Set CRYPTOMON_ENGINE=duckdb to read the same tables with DuckDB."
        ) from error
    return module.Backend(monitor)


def plain_types(rows: pa.Table) -> pa.Table:
    """The types that every engine gives: times in naive UTC milliseconds, whole numbers in 64 bit, fractions
    as doubles, text as string."""
    fields = [pa.field(field.name, _plain(field.type)) for field in rows.schema]
    return rows.cast(pa.schema(fields), safe=False)


# Trino's names of types, without what is in brackets
_ARROW = {
    "boolean": pa.bool_(),
    "tinyint": pa.int64(),
    "smallint": pa.int64(),
    "integer": pa.int64(),
    "bigint": pa.int64(),
    "real": pa.float64(),
    "float": pa.float64(),
    "double": pa.float64(),
    "varchar": pa.string(),
    "string": pa.string(),
    "char": pa.string(),
    "json": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", tz="UTC"),
    "varbinary": pa.binary(),
    "unknown": pa.null(),
}


def arrow_type(name: str) -> pa.DataType | None:
    """The Arrow type of what Trino calls `name`, as varchar(3) or array(double); None where values decide."""
    if match := re.fullmatch(r"array\((.*)\)", name):
        inner = arrow_type(match[1])
        return pa.list_(inner) if inner else None
    if match := re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", name):
        return pa.decimal128(int(match[1]), int(match[2]))
    return _ARROW.get(re.sub(r"\(\d+\)", "", name))


def columns_of(
    names: Sequence[str], types: Sequence[pa.DataType | None], rows: Sequence[Sequence[Any]]
) -> pa.Table:
    """Rows as a client hands them over as an Arrow table."""
    columns = zip(*rows, strict=True) if rows else [() for _ in names]
    arrays = [pa.array(values, type=kind) for values, kind in zip(columns, types, strict=True)]
    return pa.Table.from_arrays(arrays, names=list(names))


def no_such_table(engine: str) -> str:
    """The way out, where an engine knows no table of a name that the project has."""
    return f" If it is one of the project's, the {engine} catalog lacks it: cryptomon set-up makes it."


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("ms")
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_decimal(kind):
        return pa.float64() if kind.scale else pa.int64()
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind
