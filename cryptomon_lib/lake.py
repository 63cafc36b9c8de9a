"""Tables under the root as Delta tables: Parquet files and a log, on disk or on S3.

Owns that rows are written once: every batch carries an id that is recorded with the commit that writes it,
and every commit of a table also moves one counter, so that of two writers who looked at the same state only
one gets through; the other looks again. No lock is held anywhere.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Schema,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from cryptomon_lib.errors import CommitConflict, StorageError
from cryptomon_lib.parquet import ParquetFile, write_parquet
from cryptomon_lib.storage import Storage
from cryptomon_lib.tables import TABLES, empty, schema

log = logging.getLogger(__name__)

# each payload leaves an id, and whether one is there is a look through all of them, 3 ms among 13,000, for each payload of
# each tick. What comes again after this is found by its rows' keys, as all rows are
IDS_KEPT = timedelta(hours=3)
_TURN = "cryptomon-turn"
_MARK = "cryptomon-mark-"
# in a commit's own words: that it changed how rows are stored, and none of them
_SAYS, _SAME_ROWS = "cryptomon", "same rows"
# or that it let go of rows whose time was up: what was computed of them stays
_EXPIRED = "expired"
# until when, by the clock of whoever added columns, files may lack some: milliseconds, a property of the table
_ADDED_AT = "cryptomon.columnsAddedAt"
_CLOCKS_MS = 3_600_000
_TRIES = 20
# as the storage bears with an S3 that refuses or does not answer: what is asked ends within 120 s, answered or told. A
# request has 30 s in all, and a data file is written in pieces of some MB
S3_PATIENCE = {
    "connect_timeout": "5s",
    "timeout": "30s",
    "retry_timeout": "90s",
    "max_retries": "40",
    "backoff_config.max_backoff": "8s",
}
_DRAWN = re.compile(r"\x1b\[\d+m|↳")
# tables that a process keeps open; a root has a dozen
_TABLES_KEPT = 64
_ORIGIN, _FILLED_IN = "origin", "backfill"
_CHECKPOINT = "delta.checkpointInterval"
# a removed file is remembered for some runs of vacuum, which then finds it without listing all files
_CONFIGURATION = {
    "delta.setTransactionRetentionDuration": "interval 30 days",
    "delta.logRetentionDuration": "interval 2 days",
    # whoever opens a table on S3, or looks for an id in it, asks for each entry since: on average half of these
    _CHECKPOINT: "10",
    "delta.deletedFileRetentionDuration": "interval 6 hours",
}
_OF_PAYLOADS = {"delta.setTransactionRetentionDuration": f"interval {IDS_KEPT // timedelta(hours=1)} hours"}
# nobody asks what these were: their log is only as long as a reader may be slow
_REPLACED = {"delta.logRetentionDuration": "interval 2 hours"}


@dataclass(frozen=True)
class Batch:
    """Rows that are written together or not at all, under an id that no other rows have."""

    id: str
    rows: pa.Table


@dataclass(frozen=True)
class Appended:
    """Ids of the batches that an append wrote, and how many rows."""

    ids: frozenset[str]
    rows: int


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a table: its full path, its partition, its size and row count."""

    path: str
    partition: dict[str, str]
    size: int
    rows: int


@dataclass(frozen=True)
class Change:
    """That a commit added or removed rows of these times (UTC), both ends included."""

    low: datetime
    high: datetime


class Lake:
    """The Delta tables under a storage's root, by the names of the data dictionary.

    Raises StorageError from every method when a table cannot be read or written, CommitConflict when other
    writers committed first at every try.
    """

    def __init__(self, storage: Storage):
        self.storage = storage
        self._options = _storage_options(storage)

    def uri(self, name: str) -> str:
        """Where the table is."""
        return f"{self.storage.root}/{self.key(name)}"

    def key(self, name: str) -> str:
        """The table's folder below the root."""
        return f"tables/{name}"

    def open(self, name: str) -> DeltaTable | None:
        """The table as it is now; None where nothing was written yet."""
        try:
            return DeltaTable(self.uri(name), storage_options=self._options)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise _storage_error("open", self.uri(name), error) from error

    def version(self, name: str) -> int:
        """Which commit the table is at; -1 where nothing was written yet."""
        with self._kept(name) as kept:
            return kept.table.version() if kept.table else -1

    def columns(self, name: str) -> list[str]:
        """The columns that the table has; made without rows where it is not there yet, for who cannot read what is not."""
        return [field.name for field in self._open_or_create(name).schema().fields]

    def written(self, name: str, ids: Iterable[str]) -> set[str]:
        """Those of the ids that the table has."""
        with self._kept(name) as kept:
            return kept.has(ids) if kept.table else set()

    def append(
        self,
        name: str,
        batches: Sequence[Batch],
        fresh: Callable[[DeltaTable, pa.Table], pa.Table] | None = None,
    ) -> Appended:
        """Append batches in one commit; those whose id is in already are left out.

        fresh: given the table and the rows about to be written, gives those that it does not have yet;
            asked again after another writer came first.

        Returns what this call wrote.
        """
        for _ in range(_TRIES):
            try:
                with self._kept(name) as kept:
                    kept.table = kept.table or self._open_or_create(name)
                    known = kept.has(batch.id for batch in batches)
                    new = [batch for batch in batches if batch.id not in known]
                    if not new:
                        return Appended(frozenset(), 0)
                    appended = self._commit(name, kept.table, new, fresh)
                    kept.wrote(appended.ids)
                    return appended
            except CommitFailedError as error:
                log.info("%s: another writer came first, looking again (%s)", name, error)
            except (DeltaError, OSError) as error:
                raise _storage_error("append to", self.uri(name), error) from error
        raise CommitConflict(
            f"{self.uri(name)}: other writers came first {_TRIES} times; run it again when fewer write at once."
        )

    def replace(self, name: str, rows: pa.Table, predicate: str | None = None) -> None:
        """Overwrite the table, or only what the predicate (`source = 'kraken' and day = '2026-01-01'`) selects.

        Readers that began before go on with the files they have.
        """
        table = self._open_or_create(name)
        try:
            write_deltalake(
                table,
                rows.cast(schema(name)),
                mode="overwrite",
                # what is replaced whole may have had other columns
                schema_mode=None if predicate else "overwrite",
                predicate=predicate,
                writer_properties=_properties(name),
            )
        except CommitFailedError as error:
            raise CommitConflict(
                f"{self.uri(name)}: another writer changed what was to be replaced."
            ) from error
        except (DeltaError, OSError) as error:
            raise _storage_error("replace", self.uri(name), error) from error

    def begin(self, name: str) -> DeltaTable:
        """The table as it is now, created where there was none: what `swap` is decided on."""
        return self._open_or_create(name)

    def write(
        self, name: str, partition: Mapping[str, str], groups: Iterable[pa.Table], label: str = "part"
    ) -> ParquetFile:
        """A new file of a partition, one row group for each group of rows; `swap` makes it part of the table."""
        with _delta_errors("write a file of", self.uri(name)):
            return write_parquet(self.storage, self.key(name), name, partition, groups, label)

    def swap(
        self,
        name: str,
        table: DeltaTable,
        add: Sequence[ParquetFile],
        remove: Sequence[str] = (),
        *,
        marks: Mapping[str, int] | None = None,
        same_rows: bool = False,
        says: str | None = None,
    ) -> None:
        """In one commit, name new files and no longer name others (paths as the log has them).

        table: as it was when the choice was made. marks: whole numbers that the table keeps by name, for
        `mark` to find. same_rows: what was added holds the rows of what was removed, so nothing changed.

        Raises CommitConflict: another commit came first; open the table again and choose again.
        """
        now = int(time.time() * 1000)
        sizes = {row["path"]: row for row in self.actions(table).to_pylist()} if remove else {}
        gone = [path for path in remove if path not in sizes]
        if gone:
            raise CommitConflict(f"{self.uri(name)}: {gone[0]} is no part of the table any more.")
        columns = TABLES[name].partition_by
        adds = [AddAction(one.path, one.size, one.partition, now, not same_rows, one.stats) for one in add]
        removes = [
            RemoveAction(
                path,
                not same_rows,
                now,
                sizes[path]["size_bytes"],
                {column: sizes[path][f"partition.{column}"] for column in columns},
            )
            for path in remove
        ]
        try:
            table.create_write_transaction(
                [*adds, *removes],
                "append",
                schema(name),
                list(columns),
                commit_properties=CommitProperties(
                    custom_metadata={_SAYS: _SAME_ROWS if same_rows else says} if same_rows or says else None,
                    max_commit_retries=0,
                    app_transactions=[
                        Transaction(_MARK + mark, value) for mark, value in (marks or {}).items()
                    ],
                ),
            )
        except CommitFailedError as error:
            raise CommitConflict(f"{self.uri(name)}: another commit came first.") from error
        except (DeltaError, OSError) as error:
            raise _storage_error("commit to", self.uri(name), error) from error

    def is_as_declared(self, name: str, table: DeltaTable) -> bool:
        """Whether the table has the columns that the data dictionary has now."""
        return [field.name for field in table.schema().fields] == schema(name).names

    def expire(self, name: str, before_day: str) -> int:
        """No longer name the files of days before that one (YYYY-MM-DD); how many those were.

        Raises CommitConflict: another commit came first.
        """
        table = self.open(name)
        if table is None or (actions := self.actions(table)).num_rows == 0:
            return 0
        old = actions.filter(pc.less(actions["partition.day"], before_day))["path"].to_pylist()
        if old:
            self.swap(name, table, [], old, says=_EXPIRED)
        return len(old)

    def mark(self, table: DeltaTable, mark: str) -> int | None:
        """The number that the last commit with that mark left; None where there was none."""
        return table.transaction_version(_MARK + mark)

    def actions(self, table: DeltaTable) -> pa.Table:
        """One row per file of the table as its log describes it: path, size_bytes, num_records, min.…, max.…."""
        return pa.table(table.get_add_actions(flatten=True))

    def read(self, name: str, actions: pa.Table) -> pa.Table:
        """The rows of those files (rows of `actions`), in the dictionary's columns and types."""
        partitions = TABLES[name].partition_by
        pieces = [empty(name)]
        for action in actions.select(["path", *(f"partition.{column}" for column in partitions)]).to_pylist():
            with self._file(name, action["path"]) as file:
                rows = pq.ParquetFile(file).read()
            for field in schema(name):
                # a column that was added later
                if field.name not in rows.column_names and field.name not in partitions:
                    rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
            for column in partitions:
                rows = rows.append_column(
                    column, pa.repeat(pa.scalar(action[f"partition.{column}"], pa.string()), rows.num_rows)
                )
            pieces.append(rows.select(schema(name).names).cast(schema(name)))
        return pa.concat_tables(pieces)

    def changes(self, name: str, since: int, until: int) -> list[Change] | None:
        """What the commits after version `since`, up to `until`, changed; None where the log does not say any more.

        Commits that changed only how rows are stored are none.
        """
        if until <= since:
            return [] if until == since else None
        log_key = f"{self.key(name)}/_delta_log"
        # what is expired goes from the oldest on: where the first is there, all are
        if not self.storage.exists(f"{log_key}/{since + 1:020d}.json"):
            return None
        entries = (f"{log_key}/{version:020d}.json" for version in range(since + 1, until + 1))
        with ThreadPoolExecutor(8) as pool:
            return [
                change for entry in pool.map(self.storage.get, entries) for change in _changes(name, entry)
            ]

    def compact(self, name: str, predicate: Sequence[tuple[str, str, str]] | None = None) -> dict:
        """Join the small files of each partition, readers and writers going on; what delta-rs reports of it."""
        table = self.open(name)
        if table is None:
            return {}
        with _delta_errors("compact", self.uri(name)):
            return table.optimize.compact(partition_filters=predicate, writer_properties=_properties(name))

    def vacuum(self, name: str, grace: timedelta = timedelta(hours=1), full: bool = False) -> list[str]:
        """Delete files that no version within the grace period uses; their paths.

        full: also those that no version ever named, left by a writer that was killed; lists all files.
        """
        table = self.open(name)
        if table is None:
            return []
        with _delta_errors("vacuum", self.uri(name)):
            hours = max(0, int(grace.total_seconds() // 3600))
            given = {"retention_hours": hours, "enforce_retention_duration": False, "full": full}
            # it commits twice even when there is nothing to do
            if not table.vacuum(dry_run=True, **given):
                return []
            return table.vacuum(dry_run=False, **given)

    def configure(self, name: str) -> None:
        """Have the table keep its log, ids and deleted files as long as this version of the code says."""
        table = self.open(name)
        if table is None:
            return
        wanted = _configuration(name)
        if wanted.items() <= table.metadata().configuration.items():
            return
        with suppress(CommitFailedError), _delta_errors("configure", self.uri(name)):
            table.alter.set_table_properties(wanted)

    def files(
        self,
        name: str,
        since_day: str | None = None,
        until_day: str | None = None,
        table: DeltaTable | None = None,
    ) -> list[DataFile]:
        """The files that hold a range of days (inclusive, YYYY-MM-DD), exactly as the log names them."""
        table = table or self.open(name)
        if table is None:
            return []
        actions = pa.table(table.get_add_actions(flatten=True))
        if since_day and "partition.day" in actions.column_names:
            actions = actions.filter(pc.greater_equal(actions["partition.day"], since_day))
        if until_day and "partition.day" in actions.column_names:
            actions = actions.filter(pc.less_equal(actions["partition.day"], until_day))
        partitions = TABLES[name].partition_by
        root = self.uri(name)
        return [
            DataFile(
                path=f"{root}/{row['path']}",
                partition={column: row[f"partition.{column}"] for column in partitions},
                size=row["size_bytes"],
                rows=row["num_records"],
            )
            for row in actions.to_pylist()
        ]

    def newest(self, name: str) -> datetime | None:
        """The time of the table's newest row (UTC), as the log knows it; None where there is none."""
        table = self.open(name)
        if table is None:
            return None
        actions = pa.table(table.get_add_actions(flatten=True))
        column = f"max.{TABLES[name].day_of}"
        return pc.max(actions[column]).as_py() if column in actions.column_names else None

    def missing(self, name: str, table: DeltaTable, rows: pa.Table) -> pa.Table:
        """Those rows whose key the table does not have, each key once: for overlapping polls, and for ids
        that were kept too short a time. Of a table whose rows have an origin, also those that come live
        where the table has a row that was filled in: they take its place.

        Only files that the log says may hold such keys are read, and of them only the key; for ticks newer
        than all others that is none.
        """
        if rows.num_rows == 0:
            return rows
        key = list(TABLES[name].key)
        rows = _first_of_each(_live_first(rows), key)
        known = self._keys(name, table, rows)
        if known is None:
            return rows
        if _ORIGIN not in rows.column_names:
            return _without(rows, known)
        live = _live(rows)
        known_live = known.filter(_live(known)).select(key)
        return pa.concat_tables(
            [
                _without(rows.filter(live), known_live),
                _without(rows.filter(pc.invert(live)), known.select(key)),
            ]
        )

    def _filled_in(self, name: str, table: DeltaTable, rows: pa.Table) -> bool:
        """Whether the table has, filled in, a row that comes live now."""
        if _ORIGIN not in rows.column_names:
            return False
        live = rows.filter(_live(rows))
        known = self._keys(name, table, live, filled_in=True) if live.num_rows else None
        if known is None:
            return False
        known = known.filter(pc.invert(_live(known))).select(list(TABLES[name].key))
        return _without(live, known).num_rows < live.num_rows

    def _keys(self, name: str, table: DeltaTable, rows: pa.Table, filled_in: bool = False) -> pa.Table | None:
        """Keys, and origin where there is one, of the files that may hold those of rows; filled_in: that hold others than
        live ones."""
        described, when = TABLES[name], TABLES[name].day_of
        actions = pa.table(table.get_add_actions(flatten=True))
        if actions.num_rows == 0:
            return None
        if filled_in and f"min.{_ORIGIN}" in actions.column_names:
            actions = actions.filter(pc.fill_null(pc.equal(actions[f"min.{_ORIGIN}"], _FILLED_IN), True))
        low, high = pc.min(rows[when]), pc.max(rows[when])
        keep = pc.and_(
            pc.less_equal(actions[f"min.{when}"], high), pc.greater_equal(actions[f"max.{when}"], low)
        )
        for column in described.partition_by:
            keep = pc.and_(keep, pc.is_in(actions[f"partition.{column}"], value_set=pc.unique(rows[column])))
        paths = actions.filter(pc.fill_null(keep, True))["path"].to_pylist()
        columns = described.key + ((_ORIGIN,) if _ORIGIN in described.column_names else ())
        pieces = [self._read_key(name, path, columns) for path in paths]
        return pa.concat_tables(pieces) if pieces else None

    def _file(self, name: str, path: str):
        return self.storage.fs.open(f"{self.uri(name).removeprefix('s3://')}/{path}", "rb")

    def _read_key(self, name: str, path: str, key: tuple[str, ...]) -> pa.Table:
        with self._file(name, path) as file:
            found = pq.ParquetFile(file).read(columns=list(key))
        return found.cast(pa.schema([schema(name).field(column) for column in key]))

    def _commit(self, name: str, table: DeltaTable, new: Sequence[Batch], fresh) -> Appended:
        self._widen(name, table)
        rows = pa.concat_tables([batch.rows.cast(schema(name)) for batch in new])
        if fresh is not None:
            rows = fresh(table, rows)
        turn = (table.transaction_version(_TURN) or 0) + 1
        # an id without a time is kept for ever, and every opening of the table reads it
        now = int(time.time() * 1000)
        ids = [Transaction(batch.id, 1, now) for batch in new]
        # no retry inside: it would keep rows that were chosen against an older state
        commit = CommitProperties(max_commit_retries=0, app_transactions=[*ids, Transaction(_TURN, turn)])
        properties = _properties(name)
        if fresh is not None and self._filled_in(name, table, rows):
            # rare: a live answer that waited in the queue while its minutes were filled in
            same = " and ".join(
                f"old.{column} = new.{column}" for column in (*TABLES[name].partition_by, *TABLES[name].key)
            )
            merger = table.merge(
                rows, same, "new", "old", writer_properties=properties, commit_properties=commit
            )
            merger.when_matched_update_all().when_not_matched_insert_all().execute()
        else:
            write_deltalake(
                table, rows, mode="append", writer_properties=properties, commit_properties=commit
            )
        return Appended(frozenset(batch.id for batch in new), rows.num_rows)

    @contextmanager
    def _kept(self, name: str) -> Iterator["_Kept"]:
        """The table as it is now, kept open since this process last wrote to it where nobody else has since.

        An opening reads the log since its last checkpoint: an object for each commit, and on S3 a request for each.
        """
        uri = self.uri(name)
        with _keeping:
            kept = _tables.setdefault((uri, self.storage.endpoint_url), _Kept(threading.Lock()))
            if len(_tables) > _TABLES_KEPT:
                _tables.pop(next(iter(_tables)))
        if not kept.lock.acquire(blocking=False):
            # who comes meanwhile looks for himself: the log says who was first
            kept = _Kept(threading.Lock())
            kept.lock.acquire()
        try:
            if kept.table is None or not self._is_newest(name, kept):
                kept.begin(self.open(name))
            yield kept
            self._keep(name, kept)
        except BaseException:
            kept.begin(None)
            raise
        finally:
            kept.lock.release()

    def _is_newest(self, name: str, kept: "_Kept") -> bool:
        """Whether nobody has written since; a table that was removed and made anew may have come to the same number."""
        version = kept.table.version()
        return self.commit_mark(name, version) == kept.mark and self.commit_mark(name, version + 1) is None

    def _keep(self, name: str, kept: "_Kept") -> None:
        if kept.table is None or kept.table.version() == kept.version:
            return
        kept.version = kept.table.version()
        kept.mark = self.commit_mark(name, kept.version)
        # one that stays open never reads a checkpoint again, and goes through all commits since the one it began with
        if kept.mark is None or kept.version % int(_configuration(name)[_CHECKPOINT]) == 0:
            kept.begin(None)

    def commit_mark(self, name: str, version: int) -> tuple | None:
        """What tells one commit's file from another of the same name; None where there is none."""
        return self.storage.identity(f"{self.key(name)}/_delta_log/{version:020}.json")

    def _widen(self, name: str, table: DeltaTable) -> None:
        """Give the table the columns that a later version of the data dictionary has; what was written reads null there.

        Raises CommitFailedError: another writer came first.
        """
        have = {field.name for field in table.schema().fields}
        added = [field for field in schema(name) if field.name not in have]
        if not added:
            return
        log.info("%s: columns are added: %s", name, ", ".join(field.name for field in added))
        # noted first: killed between the two, it is done again
        now = str(int(time.time() * 1000))
        table.alter.set_table_properties({_ADDED_AT: now}, raise_if_not_exists=False)
        table.alter.add_columns(list(Schema.from_arrow(pa.schema(added)).fields))

    def _open_or_create(self, name: str) -> DeltaTable:
        table = self.open(name)
        if table is not None:
            with suppress(CommitFailedError):
                # whoever came first added them
                self._widen(name, table)
            return table
        with suppress(CommitFailedError), _delta_errors("create", self.uri(name)):
            DeltaTable.create(
                self.uri(name),
                schema=schema(name),
                mode="ignore",
                partition_by=list(TABLES[name].partition_by) or None,
                configuration=_configuration(name),
                storage_options=self._options,
            )
        return self.open(name)


class _Kept:
    """A table that stays open between two appends, for one thread at a time: its version, what identifies that
    commit's file, and ids that it was asked for and does not have."""

    def __init__(self, lock: threading.Lock):
        self.lock = lock
        self.begin(None)

    def begin(self, table: DeltaTable | None) -> None:
        """Go on with another handle, or none."""
        self.table, self.version, self.mark = table, None, None
        self._absent: set[str] = set()

    def has(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that the table has; each costs a look through the log, so none is looked for twice."""
        asked = [id for id in ids if id not in self._absent]
        found = {id for id in asked if self.table.transaction_version(id) is not None}
        self._absent.update(id for id in asked if id not in found)
        return found

    def wrote(self, ids: Iterable[str]) -> None:
        """It has these now."""
        self._absent.difference_update(ids)


# by address and endpoint
_tables: dict[tuple[str, str | None], _Kept] = {}
_keeping = threading.Lock()


def lacks_columns(name: str, table: DeltaTable, actions: pa.Table) -> np.ndarray:
    """Of each file of the table (rows of actions) whether it may lack a column that was added after it was written."""
    if set(schema(name).names) - {field.name for field in table.schema().fields}:
        return np.ones(actions.num_rows, dtype=bool)
    added_ms = int(table.metadata().configuration.get(_ADDED_AT, 0))
    if not added_ms or not actions.num_rows:
        return np.zeros(actions.num_rows, dtype=bool)
    written = pc.cast(actions["modification_time"], pa.int64()).to_numpy()
    return written <= added_ms + _CLOCKS_MS


def _changes(name: str, entry: bytes) -> Iterator[Change]:
    """The changes that one log entry tells of."""
    actions = [json.loads(line) for line in entry.splitlines() if line.strip()]
    if any(action.get("commitInfo", {}).get(_SAYS) in (_SAME_ROWS, _EXPIRED) for action in actions):
        return
    column = TABLES[name].day_of
    for action in actions:
        changed = action.get("add") or action.get("remove")
        if not changed or not changed.get("dataChange", True):
            continue
        stats = json.loads(changed.get("stats") or "{}")
        low, high = (stats.get(bound, {}).get(column) for bound in ("minValues", "maxValues"))
        if low and high:
            yield Change(datetime.fromisoformat(low), datetime.fromisoformat(high))
        else:
            # a removed file does not say what was in it: its whole day
            day = datetime.fromisoformat(changed["partitionValues"]["day"]).replace(tzinfo=UTC)
            yield Change(day, day + timedelta(days=1, milliseconds=-1))


def _live_first(rows: pa.Table) -> pa.Table:
    """Rows in their order, but what came live before what was filled in."""
    if _ORIGIN not in rows.column_names:
        return rows
    live = _live(rows)
    return pa.concat_tables([rows.filter(live), rows.filter(pc.invert(live))])


def _live(rows: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(pc.not_equal(rows[_ORIGIN], _FILLED_IN), True)


def _without(rows: pa.Table, known: pa.Table) -> pa.Table:
    """Those rows whose key is not among the known ones."""
    return rows.join(known, keys=known.column_names, join_type="left anti").select(rows.column_names)


def _first_of_each(rows: pa.Table, key: list[str]) -> pa.Table:
    numbered = rows.select(key).append_column("row", pa.array(range(rows.num_rows), pa.int64()))
    first = numbered.group_by(key).aggregate([("row", "min")])["row_min"]
    return rows if len(first) == rows.num_rows else rows.take(first.sort())


def _configuration(name: str) -> dict[str, str]:
    partitions = TABLES[name].partition_by
    own = _REPLACED if not partitions else _OF_PAYLOADS if "source" in partitions else {}
    return _CONFIGURATION | own


def version_mark(name: str) -> str:
    """The mark that says of which version of a table the rows of another were computed."""
    return f"version of {name}"


class _delta_errors:
    """Turns what delta-rs raises, commit conflicts aside, into a StorageError."""

    def __init__(self, verb: str, uri: str):
        self.verb, self.uri = verb, uri

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, DeltaError | OSError) and not isinstance(error, CommitFailedError):
            raise _storage_error(self.verb, self.uri, error) from error


def _storage_error(verb: str, uri: str, error: Exception) -> StorageError:
    # delta-rs draws a tree of causes, in colour
    says = " ".join(_DRAWN.sub(" ", str(error)).split()).rstrip(".")
    return StorageError(
        f"Cannot {verb} {uri}: {type(error).__name__}: {says}. Check the root and its credentials."
    )


def _properties(name: str) -> WriterProperties:
    # a dictionary pays for repeated text and costs time and space on prices, which hardly repeat
    texts = {
        column.name: ColumnProperties(dictionary_enabled=True)
        for column in TABLES[name].columns
        if column.type == "text"
    }
    return WriterProperties(
        compression="ZSTD",
        compression_level=1,
        default_column_properties=ColumnProperties(dictionary_enabled=False),
        column_properties=texts,
    )


def _storage_options(storage: Storage) -> dict[str, str] | None:
    if not storage.is_s3:
        return None
    # S3 itself refuses the second writer of a log entry (If-None-Match), so no lock table is needed
    options = {"conditional_put": "etag"} | S3_PATIENCE
    if storage.endpoint_url:
        options |= {
            "endpoint": storage.endpoint_url,
            "allow_http": "true" if storage.endpoint_url.startswith("http://") else "false",
        }
    return options
