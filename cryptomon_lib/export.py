"""A plain-Parquet copy of tables for tools that read no Delta: one file a partition, by source and day.

Owns that the copy is what the table has: a partition whose files changed is written anew, whole and in one put,
so a reader sees the old file or the new one, and no row twice. What did not change is left alone.
"""

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from itertools import groupby

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cryptomon_lib.config import nearest
from cryptomon_lib.errors import ConfigError, ParameterError, StorageError
from cryptomon_lib.lake import DataFile
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.storage import Storage
from cryptomon_lib.tables import TABLES, Table, schema

log = logging.getLogger(__name__)

FOLDER = "exports"
_HIVE = {
    "text": "string",
    "number": "double",
    "count": "bigint",
    "time": "timestamp",
    "texts": "array<string>",
}


def export_tables(
    monitor: Monitor, names: Sequence[str] = ("ticks", "candles"), since_day: str | None = None
) -> pd.DataFrame:
    """Bring the copy of tables up to what they have. One row per table and partition: table, partition, rows, done.

    since_day: only days from then on, as 2026-01-31. done: written or unchanged.

    Raises ParameterError: no such table, with the nearest name. StorageError: a file cannot be read or written.
    """
    for name in names:
        if name not in TABLES:
            raise ParameterError(f"No table is called {name!r}.{nearest(name, TABLES)}")
    told = [one for name in names for one in _export(monitor, TABLES[name], since_day)]
    return pd.DataFrame(told, columns=["table", "partition", "rows", "done"])


def projection(monitor: Monitor, name: str) -> str:
    """The statement that names a table's copy for Athena; partitions follow from a rule, nothing lists or crawls them.

    Raises ConfigError: the root is not on S3. ParameterError: nothing is exported yet.
    """
    if not monitor.storage.is_s3:
        raise ConfigError(f"root is {monitor.storage.root}: Athena reads nothing but s3://bucket/prefix.")
    table, have = TABLES[name], _State(monitor.storage, name).have
    if not have:
        raise ParameterError(f"Nothing of {name} is exported yet: run cryptomon export first.")
    place = f"{monitor.storage.root}/{FOLDER}/{name}/"
    columns = ",\n".join(f"    `{one.name}` {_HIVE[one.type]}" for one in _stored(table))
    text = f"create external table if not exists `{monitor.settings.athena.database}`.`export_{name}` (\n{columns}\n)\n"
    if table.partition_by:
        text += f"partitioned by ({', '.join(f'`{one}` string' for one in table.partition_by)})\n"
    rules = "".join(f",\n    {rule}" for rule in _rules(table, have, place))
    return f"{text}stored as parquet\nlocation '{place}'\ntblproperties (\n    'classification' = 'parquet'{rules}\n)"


def _rules(table: Table, have: Mapping[str, str], place: str) -> list[str]:
    if not table.partition_by:
        return []
    found = [dict(part.split("=", 1) for part in partition.split("/")) for partition in have]
    rules = ["'projection.enabled' = 'true'"]
    for column in table.partition_by:
        values = sorted({one[column] for one in found})
        if column == "day":
            rules += [
                "'projection.day.type' = 'date'",
                "'projection.day.format' = 'yyyy-MM-dd'",
                f"'projection.day.range' = '{values[0]},NOW'",
            ]
        else:
            rules += [
                f"'projection.{column}.type' = 'enum'",
                f"'projection.{column}.values' = '{','.join(values)}'",
            ]
    template = "/".join(f"{column}=${{{column}}}" for column in table.partition_by)
    return [*rules, f"'storage.location.template' = '{place}{template}/'"]


def _export(monitor: Monitor, table: Table, since_day: str | None) -> list[tuple[str, str, int, str]]:
    state, told = _State(monitor.storage, table.name), []

    def partition(file: DataFile) -> str:
        return "/".join(f"{column}={file.partition[column]}" for column in table.partition_by)

    files = sorted(monitor.lake.files(table.name, since_day), key=lambda file: (partition(file), file.path))
    for name, group in groupby(files, key=partition):
        own = list(group)
        digest = hashlib.sha256("\n".join(file.path for file in own).encode()).hexdigest()[:16]
        rows, done = sum(file.rows for file in own), "unchanged"
        if state.have.get(name) != digest:
            key = "/".join(part for part in (FOLDER, table.name, name, "rows.parquet") if part)
            monitor.storage.put(key, _joined(monitor.storage, table, own))
            # noted after each file: what was written before an end is not written again
            state.note(name, digest)
            done = "written"
            log.info("%s %s: %d rows written", table.name, name, rows)
        told.append((table.name, name, rows, done))
    return told


def _joined(storage: Storage, table: Table, files: Sequence[DataFile]) -> bytes:
    """The rows of several files as the bytes of one; held are these bytes and one file's rows."""
    plain = pa.schema([(one.name, _plain(schema(table.name).field(one.name).type)) for one in _stored(table)])
    out = io.BytesIO()
    with pq.ParquetWriter(out, plain, compression="zstd") as writer:
        for file in files:
            rows = _read(storage, file.path)
            columns = [
                rows[field.name].cast(field.type, safe=False)
                if field.name in rows.column_names
                else pa.nulls(rows.num_rows, field.type)
                for field in plain
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=plain))
    return out.getvalue()


def _read(storage: Storage, path: str) -> pa.Table:
    try:
        with storage.fs.open(path.removeprefix("s3://"), "rb") as stream:
            return pq.ParquetFile(stream).read()
    except OSError as error:
        # a compaction may have replaced it, and its grace period be over
        raise StorageError(
            f"Cannot read {path}: {error}. Run the export again; it goes on where it was."
        ) from error


def _stored(table: Table) -> list:
    # partition columns are in the path
    return [one for one in table.columns if one.name not in table.partition_by]


def _plain(kind: pa.DataType) -> pa.DataType:
    # naive UTC in milliseconds, as the views have it
    return pa.timestamp("ms") if pa.types.is_timestamp(kind) else kind


class _State:
    """Which files each exported partition was made of."""

    def __init__(self, storage: Storage, name: str):
        # beside the copy, not in it: every object below the copy's folder is data
        self.storage, self.key = storage, f"{FOLDER}/{name}.json"
        self.have: dict[str, str] = {}
        if storage.exists(self.key):
            try:
                self.have = dict(json.loads(storage.get(self.key)))
            except (ValueError, TypeError):
                log.warning("%s cannot be read: everything is exported anew", self.key)

    def note(self, partition: str, digest: str) -> None:
        """Remember what a partition was made of."""
        self.have[partition] = digest
        self.storage.put(self.key, json.dumps(self.have, indent=1, sort_keys=True).encode())
