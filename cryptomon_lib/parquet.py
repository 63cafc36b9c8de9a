"""One Parquet file of a table, written row group by row group, and what the table's log says of it.

Owns the encoding of files that are written once and read often, and the statistics by which readers leave
files and row groups out.
"""

import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cryptomon_lib.storage import Storage
from cryptomon_lib.tables import TABLES, schema

# pages of text and counts are dictionaries. Of prices and amounts they are not: what a market said before it says again a
# few bytes later, which zstd finds by itself, and a third less is left than of a dictionary and its places
_LEVEL = 3


@dataclass(frozen=True)
class ParquetFile:
    """A file that no commit names yet: its path below the table, partition, size, row count, statistics as JSON."""

    path: str
    partition: dict[str, str]
    size: int
    rows: int
    stats: str


def write_parquet(
    storage: Storage,
    table_key: str,
    name: str,
    partition: Mapping[str, str],
    groups: Iterable[pa.Table],
    label: str,
) -> ParquetFile:
    """Write groups of rows as the row groups of one new file of a table; no reader sees it before a commit names it.

    table_key: the table's folder below the root. label: what the file's name begins with.

    Raises StorageError: it cannot be written. A file that was begun and not finished is no part of the table,
    and vacuum takes it away.
    """
    folder = "/".join(f"{column}={partition[column]}" for column in TABLES[name].partition_by)
    path = "/".join(part for part in (folder, f"{label}-{uuid.uuid4()}.zstd.parquet") if part)
    written: list[pq.FileMetaData] = []
    with _place(storage, f"{table_key}/{path}") as place:
        kept = file_schema(name)
        with pq.ParquetWriter(place, kept, metadata_collector=written, **_properties(name)) as writer:
            for rows in groups:
                writer.write_table(rows.select(kept.names).cast(kept), row_group_size=max(1, rows.num_rows))
        size = Path(place).stat().st_size
    (described,) = written
    return ParquetFile(path, dict(partition), size, described.num_rows, _statistics(described, kept))


def file_schema(name: str) -> pa.Schema:
    """The columns that a table's files hold: all but those of the partition, which their folder names."""
    return pa.schema([field for field in schema(name) if field.name not in TABLES[name].partition_by])


@contextmanager
def _place(storage: Storage, key: str):
    """A local file to write to, which afterwards is the object: at its place, or sent to S3 in one go."""
    if not storage.is_s3:
        target = Path(storage.path(key))
        target.parent.mkdir(parents=True, exist_ok=True)
        yield str(target)
        with target.open("rb+") as file:
            os.fsync(file.fileno())
        return
    handle, local = tempfile.mkstemp(suffix=".parquet")
    os.close(handle)
    try:
        yield local
        storage.send(key, Path(local))
    finally:
        Path(local).unlink(missing_ok=True)


def _properties(name: str) -> dict[str, Any]:
    times = [column.name for column in TABLES[name].columns if column.type == "time"]
    coded = [column.name for column in TABLES[name].columns if column.type in ("text", "count")]
    return {
        "compression": "zstd",
        "compression_level": _LEVEL,
        "use_dictionary": coded,
        # of rows in the order of time the differences are what little there is to say
        "column_encoding": dict.fromkeys(times, "DELTA_BINARY_PACKED"),
        "coerce_timestamps": "us",
        "write_page_index": True,
        # nobody looks for rows by an amount: bounds of those would only make the footer longer, which every query reads
        "write_statistics": [
            column.name for column in TABLES[name].columns if column.type in ("text", "time")
        ],
    }


def _statistics(described: pq.FileMetaData, kept: pa.Schema) -> str:
    lowest: dict[str, Any] = {}
    highest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    flat = {index: name for index, name in enumerate(described.schema.names) if name in kept.names}
    for index, name in flat.items():
        found = [
            described.row_group(group).column(index).statistics for group in range(described.num_row_groups)
        ]
        found = [one for one in found if one is not None]
        if len(found) < described.num_row_groups:
            continue
        nulls[name] = sum(one.null_count for one in found)
        bounds = [one for one in found if one.has_min_max]
        # a row group of nulls alone has no bounds, one with values has to have them
        if bounds and all(one.has_min_max or not one.num_values for one in found):
            lowest[name], highest[name] = min(one.min for one in bounds), max(one.max for one in bounds)
    return json.dumps(
        {
            "numRecords": described.num_rows,
            "minValues": {name: _said(value, up=False) for name, value in lowest.items() if _sayable(value)},
            "maxValues": {name: _said(value, up=True) for name, value in highest.items() if _sayable(value)},
            "nullCount": nulls,
        }
    )


def _sayable(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _said(value: Any, up: bool) -> Any:
    """A bound as the log has it: times in whole milliseconds, never narrower than the rows."""
    if not isinstance(value, datetime):
        return value
    moment = value.astimezone(UTC)
    milliseconds = -(-moment.microsecond // 1000) if up else moment.microsecond // 1000
    moment = moment.replace(microsecond=0) + timedelta(milliseconds=milliseconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
