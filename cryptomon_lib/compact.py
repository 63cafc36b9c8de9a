"""Compaction: the minute files of a closed hour become one, and all of a closed day become one, sorted by key.

Owns which files are joined and that nobody notices: what is written holds exactly the rows of what it takes
the place of, both changes are one commit, and the files that are no longer named stay until every query that
may still read them has ended. Only files are chosen, never rows, so appends go on beside it, and rows that
come late are files that a later run joins.
"""

import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import groupby

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cryptomon_lib.config import nearest
from cryptomon_lib.errors import AccountingError, CommitConflict, ConfigError, StorageError
from cryptomon_lib.lake import Lake
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.parquet import file_schema
from cryptomon_lib.tables import TABLES

log = logging.getLogger(__name__)

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# the last answers of an hour arrive and are flattened after it has ended
GRACE = timedelta(minutes=4)
# what is asked each minute, of all markets, is of the last 70 minutes: hours answer it sooner than a day does,
# which is sorted by market, so a day's hours stay until they are out of that
DAY_GRACE = timedelta(hours=2)
# no query takes longer than this, so files that left the table so long ago are read by none
VACUUM_AFTER = HOUR
# rows that are sorted in memory at once
_BUCKET = 480_000
# rows of a row group: who asks for one market reads the file's footer, which grows with their number, and one group
_GROUP = {"hour": 50_000, "day": 200_000}
# a day is parted into at most so many stretches of time, each sorted by market: what is asked of all markets as of 24 h
# ago then reads an eighth of it, and one market's day is still as many row groups
_STRETCHES = (8, 6, 4, 3, 2, 1)
_BY_TIME = ("ticks", "candles")
_MEMORY = "400MB"
# so many files a day are joined as they are; more become hours first, whose sorted files are cheap to merge
_FILES = 48
_TRIES = 20
_TYPES = {
    "text": "varchar",
    "number": "double",
    "count": "bigint",
    "time": "timestamptz",
    "texts": "varchar[]",
}
_LABELS = {"hour": HOUR, "day": DAY}


@dataclass(frozen=True)
class Join:
    """Files of one partition that become one. span: hour or day."""

    table: str
    span: str
    partition: tuple[tuple[str, str], ...]
    paths: tuple[str, ...]
    rows: int
    size: int


@dataclass
class Compacted:
    """What a compaction did. overtaken: joins that another run had made meanwhile; left: joins that there was no time
    for; expired: files of days whose time, by `retention.tables_days`, was up."""

    hours: int = 0
    days: int = 0
    files_before: int = 0
    files_after: int = 0
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    overtaken: int = 0
    left: int = 0
    expired: int = 0
    vacuumed: int = 0

    @property
    def table(self) -> pd.DataFrame:
        """One row per quantity."""
        return pd.DataFrame({"count": {field.name: getattr(self, field.name) for field in fields(self)}})


def compact_tables(
    monitor: Monitor,
    now: datetime | None = None,
    *,
    vacuum_after: timedelta = VACUUM_AFTER,
    seconds: float = math.inf,
    progress: Callable[[Join], None] = lambda join: None,
) -> Compacted:
    """Join the files of all closed hours and days of every table, then delete what no query reads any more.

    vacuum_after: how long files stay that are no longer named; no query may take longer. seconds: after so many no
    further join is begun; what is left is the next run's.
    progress: called with each join before it begins.

    Raises ConfigError: params keep days of a table that there is not. StorageError: the root cannot be read or
    written. AccountingError: a file that was written does not
    hold the rows that it should; it is no part of the table.
    """
    now, done = now or datetime.now(UTC), Compacted()
    kept, ends = _kept_days(monitor), time.monotonic() + seconds
    for name, described in TABLES.items():
        if monitor.lake.open(name) is None:
            continue
        if described.day_of and "day" in described.partition_by:
            for span in _LABELS:
                for join in joins(name, monitor.lake.actions(monitor.lake.open(name)), now, span):
                    if time.monotonic() >= ends:
                        done.left += 1
                        continue
                    progress(join)
                    _join(monitor, join, done)
        if name in kept:
            done.expired += monitor.lake.expire(name, f"{now - kept[name] * DAY:%Y-%m-%d}")
        monitor.lake.configure(name)
        # what a killed run left behind is no part of any version: only a look at all files finds it
        done.vacuumed += len(monitor.lake.vacuum(name, vacuum_after, full=done.days > 0))
    log.info("compacted %s", {name: value for name, value in vars(done).items() if value})
    return done


def _kept_days(monitor: Monitor) -> Mapping[str, int]:
    kept = monitor.settings.retention.tables_days
    dated = [name for name, described in TABLES.items() if "day" in described.partition_by]
    for name in kept:
        if name not in dated:
            raise ConfigError(
                f"params: retention.tables_days names {name!r}, which is no table with days.{nearest(name, dated)}"
            )
    return kept


def describe_tables(monitor: Monitor) -> pd.DataFrame:
    """One row per table that there is: files, rows, megabytes, commits so far, time of the newest row (UTC)."""
    told = {}
    for name, described in TABLES.items():
        table = monitor.lake.open(name)
        if table is None:
            continue
        actions = monitor.lake.actions(table)
        newest = f"max.{described.day_of}"
        told[name] = {
            "files": actions.num_rows,
            "rows": pc.sum(actions["num_records"]).as_py() or 0,
            "mb": (pc.sum(actions["size_bytes"]).as_py() or 0) / 2**20,
            "commits": table.version(),
            "newest": pc.max(actions[newest]).as_py() if newest in actions.column_names else None,
        }
    columns = ["files", "rows", "mb", "commits", "newest"]
    return pd.DataFrame.from_dict(told, orient="index", columns=columns).rename_axis("table")


def joins(name: str, actions: pa.Table, now: datetime, span: str) -> list[Join]:
    """The joins of a span that are due, oldest first: files that lie in an hour or a day that is closed."""
    if actions.num_rows == 0:
        return []
    columns = [f"partition.{column}" for column in TABLES[name].partition_by]
    bounds = [f"{bound}.{TABLES[name].day_of}" for bound in ("min", "max")]
    files = actions.select(["path", "size_bytes", "num_records", *columns, *bounds]).to_pylist()
    files.sort(key=lambda file: [file[column] for column in columns])
    found = []
    for partition, group in groupby(files, key=lambda file: tuple(file[column] for column in columns)):
        mine = list(group)
        begins = datetime.fromisoformat(mine[0]["partition.day"]).replace(tzinfo=UTC)
        closed = begins + DAY + DAY_GRACE <= now
        if span == "hour" and (not closed or len(mine) > _FILES):
            sets = _by_hour(mine, bounds, now)
        elif span == "day" and closed:
            sets = [mine] if len(mine) > 1 or not _is("day", mine[0]) else []
        else:
            sets = []
        named = tuple(zip(TABLES[name].partition_by, partition, strict=True))
        found += [
            Join(
                name,
                span,
                named,
                tuple(sorted(file["path"] for file in one)),
                sum(file["num_records"] for file in one),
                sum(file["size_bytes"] for file in one),
            )
            for one in sets
        ]
    return sorted(found, key=lambda join: dict(join.partition)["day"])


def _by_hour(files: list[dict], bounds: list[str], now: datetime) -> list[list[dict]]:
    """Sets of files whose newest rows are of the same closed hour; what covers many hours is left to the day."""
    low, high = bounds
    hours: dict[datetime, list[dict]] = {}
    for file in files:
        if file[low] is None or file[high] is None or _is("day", file):
            continue
        hour = file[high].replace(minute=0, second=0, microsecond=0)
        if hour + HOUR + GRACE <= now and file[low] >= hour - HOUR:
            hours.setdefault(hour, []).append(file)
    return [hours[hour] for hour in sorted(hours) if len(hours[hour]) > 1]


def _is(span: str, file: dict) -> bool:
    return file["path"].rsplit("/", 1)[-1].startswith(f"{span}-")


def _join(monitor: Monitor, join: Join, done: Compacted) -> None:
    """Write the file and commit it in place of the others, unless another run was quicker."""
    lake, partition = monitor.lake, dict(join.partition)
    try:
        with _Sorted(monitor, join) as rows:
            file = lake.write(join.table, partition, rows.groups(), join.span)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise StorageError(
            f"Cannot join {len(join.paths)} files of {join.table} {partition}: {str(error).strip()}"
        ) from error
    key = f"{lake.key(join.table)}/{file.path}"
    if file.rows != join.rows:
        monitor.storage.delete(key)
        raise AccountingError(
            f"{join.table} {partition}: {len(join.paths)} files of {join.rows} rows, but {file.rows} were written. "
            "Nothing was committed; this is a bug in compact.py."
        )
    if not _swap(lake, join, file):
        done.overtaken += 1
        monitor.storage.delete(key)
        return
    done.hours += join.span == "hour"
    done.days += join.span == "day"
    done.files_before += len(join.paths)
    done.files_after += 1
    done.rows += join.rows
    done.bytes_before += join.size
    done.bytes_after += file.size


def _swap(lake: Lake, join: Join, file) -> bool:
    """Commit, again after each append that came first; False where files of the join are gone."""
    for _ in range(_TRIES):
        table = lake.open(join.table)
        if not set(join.paths) <= set(lake.actions(table)["path"].to_pylist()):
            log.info("%s: another run has joined files of %s", join.table, dict(join.partition))
            return False
        try:
            lake.swap(join.table, table, [file], join.paths, same_rows=True)
            return True
        except CommitConflict as error:
            log.info("%s: another writer came first, looking again (%s)", join.table, error)
    raise CommitConflict(
        f"{lake.uri(join.table)}: other writers came first {_TRIES} times; the next compaction tries again."
    )


class _Sorted:
    """The rows of a join's files in the order that the table's files are in, a part at a time."""

    def __init__(self, monitor: Monitor, join: Join):
        self._storage = monitor.storage
        self._table, self._group = join.table, _GROUP[join.span]
        self._stretches = _stretches(join)
        self._files = [f"{monitor.lake.uri(join.table)}/{path}".removeprefix("s3://") for path in join.paths]

    def __enter__(self) -> "_Sorted":
        self._folder = tempfile.TemporaryDirectory(prefix="cryptomon-compact-")
        if self._storage.is_s3:
            self._files = self._fetched()
        self._connection = duckdb.connect(
            config={"memory_limit": _MEMORY, "temp_directory": f"{self._folder.name}/spill"}
        )
        self._connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false")
        return self

    def _fetched(self) -> list[str]:
        """The files, brought here side by side: what reads them in parts would ask S3 for each part."""
        here = [f"{self._folder.name}/{number}.parquet" for number in range(len(self._files))]
        try:
            self._storage.fs.get(self._files, here)
        except OSError as error:
            self._folder.cleanup()
            raise StorageError(f"Cannot read files of {self._table} to join them: {error}") from error
        return here

    def __exit__(self, *_) -> None:
        self._connection.close()
        self._folder.cleanup()

    def groups(self) -> Iterator[pa.Table]:
        """Row groups, by stretches of time: the rows that one has of a value of the first column are in one group, or
        fill several.

        Raises OSError: names the file that cannot be read, before any row is asked for.
        """
        self._absent = self._columns_absent()
        return self._groups()

    def _columns_absent(self) -> dict[str, str]:
        """Columns that none of the files has, with their types."""
        have = set()
        for path in self._files:
            try:
                have.update(pq.read_schema(path).names)
            except (pa.ArrowException, OSError) as error:
                raise OSError(f"{path}: {error}") from error
        declared = {column.name: _TYPES[column.type] for column in TABLES[self._table].columns}
        return {name: declared[name] for name in file_schema(self._table).names if name not in have}

    def _groups(self) -> Iterator[pa.Table]:
        lead = TABLES[self._table].order[0]
        for when in self._stretches:
            for values in _batched(self._counts(lead, when), _BUCKET):
                # a value that is null sorts last, and is in the last part
                rows = self._rows(lead, values[0][0], values[-1][0], when)
                begin = 0
                for group in _batched(values, self._group):
                    length = sum(count for _, count in group)
                    for start in range(begin, begin + length, self._group):
                        yield rows.slice(start, min(self._group, begin + length - start))
                    begin += length

    def _counts(self, lead: str, when: str) -> list[tuple[str, int]]:
        counted = (
            f'select "{lead}", count(*) from {self._source()} where {when} group by 1 order by 1 nulls last'
        )
        return self._run(counted).fetchall()

    def _rows(self, lead: str, low, last, when: str) -> pa.Table:
        columns = ", ".join(f'"{column}"' for column in file_schema(self._table).names)
        order = ", ".join(f'"{column}" nulls last' for column in TABLES[self._table].order)
        bound = {
            (False, False): f'"{lead}" between ? and ?',
            (False, True): f'("{lead}" >= ? or "{lead}" is null)',
            (True, True): f'"{lead}" is null',
        }[(low is None, last is None)]
        given = [value for value in (low, last) if value is not None]
        text = f"select {columns} from {self._source()} where {bound} and {when} order by {order}"
        return self._run(text, given).to_arrow_table()

    def _source(self) -> str:
        listed = ", ".join("'" + path.replace("'", "''") + "'" for path in self._files)
        read = f"read_parquet([{listed}], hive_partitioning = false, union_by_name = true)"
        if not self._absent:
            return read
        # columns that were added after all of these files
        nulls = ", ".join(f'cast(null as {kind}) as "{name}"' for name, kind in self._absent.items())
        return f"(select *, {nulls} from {read})"

    def _run(self, text: str, given: Sequence = ()) -> duckdb.DuckDBPyRelation:
        return self._connection.sql(text, params=list(given) or None)


def _stretches(join: Join) -> list[str]:
    """Conditions that part the rows of a join by time, in order; every row meets one. So many as may fill row groups."""
    if join.span != "day" or join.table not in _BY_TIME:
        return ["true"]
    number = next((one for one in _STRETCHES if one * _GROUP["day"] <= join.rows), 1)
    column, begins = TABLES[join.table].day_of, datetime.fromisoformat(dict(join.partition)["day"])
    ends = [f"timestamptz '{begins + DAY / number * one} UTC'" for one in range(1, number)]
    afters = [f'"{column}" >= {end}' for end in ends]
    befores = [f'("{column}" >= {end}) is not true' for end in ends]
    return [
        f"{after} and {before}" for after, before in zip(["true", *afters], [*befores, "true"], strict=True)
    ]


def _batched(counts: Sequence[tuple[str, int]], most: int) -> Iterator[list[tuple[str, int]]]:
    """Runs of values that have at most so many rows together, at least one value each."""
    batch, rows = [], 0
    for value, count in counts:
        if batch and rows + count > most:
            yield batch
            batch, rows = [], 0
        batch.append((value, count))
        rows += count
    if batch:
        yield batch
