"""Which files of a table a read needs: the table's log as it is now, and what it says of each file.

A log is read once and then followed: before each query it is looked whether a commit came after the one that is
known, and whether that one is still the same file; only then is anything read. What is handed out is never
changed, so a query that looked goes on with what it saw.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from cryptomon_lib import sql
from cryptomon_lib.bounds import Atom, Demand
from cryptomon_lib.lake import Lake, lacks_columns, version_mark
from cryptomon_lib.tables import TABLES

log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - times are naive UTC here
# of tables that keep what a view said: the moment (ms since 1970), and the versions of what the view reads
MARKS = {sql.NOW_1H: ("as_of", version_mark("ticks"), version_mark("candles"))}
# statistics may be cut: times to milliseconds, texts to so many letters
_GRAIN_US = 1000
_LETTERS = 32


class Snapshot:
    """One version of a table: its files, and of each what the log says of the values in it."""

    def __init__(
        self,
        name: str,
        uri: str,
        actions: pa.Table | None,
        version: int = -1,
        lacking: np.ndarray | None = None,
        stored: Callable[[str], tuple[str, ...]] = lambda path: (),
        marks: Mapping[str, int | None] | None = None,
    ):
        self.name, self.version = name, version
        # numbers that whoever wrote it left: of what it was computed
        self.marks = marks or {}
        self._types = {column.name: column.type for column in TABLES[name].columns}
        self._actions = pa.table({}) if actions is None else actions
        self._columns: dict[str, np.ndarray] = {}
        found = [] if actions is None else actions["path"].to_pylist()
        self.paths = np.array([f"{uri}/{path}" for path in found], dtype=object)
        # of each file whether it may lack columns that were added after it
        self.lacking = np.zeros(len(found), dtype=bool) if lacking is None else lacking
        self._stored = stored

    @cached_property
    def sizes(self) -> np.ndarray:
        """Bytes of each file."""
        return self._actions["size_bytes"].to_numpy() if len(self.paths) else np.zeros(0, np.int64)

    def alike(self, needed: np.ndarray) -> dict[tuple[str, ...], list[str]]:
        """Those files by the columns that are in them; of files that lack none it is not looked for."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for path, lacking in zip(self.paths[needed], self.lacking[needed], strict=True):
            groups.setdefault(self._stored(path) if lacking else (), []).append(path)
        return groups

    def needed(self, demand: Demand, values: Mapping[str, Any]) -> np.ndarray:
        """Of each file whether it can hold a row that meets one of the demand's alternatives.

        values: of the constants that are known; a condition with another is taken to hold.
        """
        keep = np.zeros(len(self.paths), dtype=bool)
        for part in demand:
            may = np.ones(len(self.paths), dtype=bool)
            for atom in part:
                may &= self._may(atom, values)
            keep |= may
        return keep

    def span(self, demand: Demand, values: Mapping[str, Any]) -> tuple[datetime | None, datetime | None]:
        """The times (naive UTC) between which all rows lie that the demand asks for; None where it is open."""
        when = TABLES[self.name].day_of
        since, until = [], []
        for part in demand:
            if not all(_literally(atom, values) for atom in part if atom.literal):
                continue
            bounds = {"ge": [], "le": []}
            for atom in part:
                if atom.of == when and not atom.literal:
                    times = [_time(values.get(constant), atom.back) for constant in atom.constants]
                    if None not in times:
                        bounds["ge"] += [min(times)] if atom.how in ("ge", "in") else []
                        bounds["le"] += [max(times)] if atom.how in ("le", "in") else []
            since.append(max(bounds["ge"], default=None))
            until.append(min(bounds["le"], default=None))
        return (
            min(since) if since and None not in since else None,
            max(until) if until and None not in until else None,
        )

    def only(self, column: str, demand: Demand, values: Mapping[str, Any]) -> list[str] | None:
        """The values of a column that the demand asks for; None where it takes any, or the column is no text."""
        wanted = set()
        if self._types[column] != "text":
            return None
        for part in demand:
            asked = [
                {values.get(constant) for constant in atom.constants}
                for atom in part
                if atom.of == column and atom.how == "in" and not atom.literal
            ]
            texts = [one for one in asked if all(isinstance(value, str) for value in one)]
            if is_needed(frozenset({part}), values):
                if not texts:
                    return None
                wanted |= min(texts, key=len)
        return sorted(wanted)

    def may_have_between(self, after: datetime, until: datetime) -> bool:
        """Whether a file may hold a row of a time (naive UTC) after the one moment and not after the other."""
        if not len(self.paths):
            return False
        when = TABLES[self.name].day_of
        low, high = self._times(f"min.{when}"), self._times(f"max.{when}")
        if low is None or high is None:
            return True
        begin, end = ((moment - _EPOCH) // timedelta(microseconds=1) for moment in (after, until))
        return bool(((high > begin) & (low <= end)).any())

    def _may(self, atom: Atom, values: Mapping[str, Any]) -> np.ndarray | bool:
        if atom.literal:
            return _literally(atom, values)
        wanted = [values.get(constant) for constant in atom.constants]
        if self._types.get(atom.of) == "time":
            return self._time_may(atom, [_time(value, atom.back) for value in wanted])
        if self._types.get(atom.of) == "text" and all(isinstance(value, str) for value in wanted):
            return self._text_may(atom, wanted)
        return True

    def _time_may(self, atom: Atom, wanted: Sequence[datetime | None]) -> np.ndarray | bool:
        if None in wanted:
            return True
        low, high = self._times(f"min.{atom.of}"), self._times(f"max.{atom.of}")
        if low is None or high is None:
            return True
        moments = [(moment - _EPOCH) // timedelta(microseconds=1) for moment in wanted]
        if atom.how == "ge":
            return high >= moments[0] - _GRAIN_US
        if atom.how == "le":
            return low <= moments[0] + _GRAIN_US
        return _any((low <= moment + _GRAIN_US) & (high >= moment - _GRAIN_US) for moment in moments)

    def _text_may(self, atom: Atom, wanted: Sequence[str]) -> np.ndarray | bool:
        low, high = self._texts(f"min.{atom.of}", ""), self._texts(f"max.{atom.of}", chr(0x10FFFF))
        if low is None or high is None:
            return True
        cut = [value[:_LETTERS] for value in wanted]
        if atom.how == "ge":
            return high >= cut[0]
        if atom.how == "le":
            return low <= cut[0]
        return _any((low <= value) & (high >= value) for value in cut)

    def _times(self, column: str) -> np.ndarray | None:
        """Microseconds; where the log says nothing, what no comparison excludes."""
        if column not in self._columns:
            if column not in self._actions.column_names:
                return None
            stored = self._actions[column].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
            unknown = np.iinfo(np.int64).min if column.startswith("min.") else np.iinfo(np.int64).max
            self._columns[column] = stored.fill_null(int(unknown)).to_numpy()
        return self._columns[column]

    def _texts(self, column: str, unknown: str) -> np.ndarray | None:
        if column not in self._columns:
            partition = f"partition.{column[4:]}"
            stored = partition if partition in self._actions.column_names else column
            if stored not in self._actions.column_names:
                return None
            found = [unknown if one is None else one[:_LETTERS] for one in self._actions[stored].to_pylist()]
            self._columns[column] = np.array(found, dtype=object)
        return self._columns[column]


def is_needed(demand: Demand, values: Mapping[str, Any]) -> bool:
    """Whether what the demand says of literals leaves one of its alternatives."""
    return any(all(_literally(atom, values) for atom in part if atom.literal) for part in demand)


def _literally(atom: Atom, values: Mapping[str, Any]) -> bool:
    wanted = [values.get(constant) for constant in atom.constants]
    return atom.of in wanted or not all(isinstance(value, str) for value in wanted)


def _time(value: Any, back: timedelta) -> datetime | None:
    if isinstance(value, datetime):
        value = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    elif isinstance(value, date):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001
    else:
        return None
    try:
        return value - back
    except OverflowError:
        return None


def _any(masks) -> np.ndarray:
    return np.logical_or.reduce(list(masks))


@dataclass
class _Followed:
    """A table that is followed: its handle, its newest commit's file and what identifies that, what it says."""

    table: DeltaTable
    mark: tuple
    snapshot: Snapshot


class Files:
    """The tables of one lake, followed; for all threads."""

    def __init__(self, lake: Lake):
        self._lake = lake
        self._followed: dict[str, _Followed] = {}
        self._columns: dict[str, tuple[str, ...]] = {}
        self._locks = {name: threading.Lock() for name in TABLES}
        # by table: files that it had at any time since, and has now
        self._met: dict[str, int] = dict.fromkeys(TABLES, 0)
        self._there: dict[str, frozenset[str]] = dict.fromkeys(TABLES, frozenset())

    def newest(self, name: str) -> Snapshot:
        """The table as it is now; the same object as before where nothing was committed."""
        with self._locks[name]:
            known = self._followed.get(name)
            if known and self._is_newest(name, known):
                return known.snapshot
            table = self._moved_on(name, known) if known else None
            table = table or self._lake.open(name)
            if table is None:
                self._followed.pop(name, None)
                return Snapshot(name, self._lake.uri(name), None)
            # marked before it is looked at: who commits meanwhile is seen the next time
            mark = self._lake.commit_mark(name, table.version())
            actions = pa.table(table.get_add_actions(flatten=True))
            lacking = lacks_columns(name, table, actions)
            marks = {mark: self._lake.mark(table, mark) for mark in MARKS.get(name, ())}
            snapshot = Snapshot(
                name, self._lake.uri(name), actions, table.version(), lacking, self._stored, marks
            )
            self._followed[name] = _Followed(table, mark, snapshot)
            there = frozenset(snapshot.paths)
            self._met[name] += len(there - self._there[name])
            self._there[name] = there
            return snapshot

    @property
    def gone(self) -> int:
        """How many files were met that are no part of their tables any more; `forget` counts anew."""
        return sum(self._met.values()) - sum(map(len, self._there.values()))

    def forget(self) -> None:
        """Count the files that are gone from here on."""
        self._met = {name: len(there) for name, there in self._there.items()}

    def versions(self, names: Iterable[str]) -> tuple[int, ...]:
        """Which commit each table is at; -1 where nothing was written yet."""
        return tuple(self.newest(name).version for name in names)

    def _stored(self, path: str) -> tuple[str, ...]:
        """The columns that are in a file, which never change."""
        if path not in self._columns:
            with self._lake.storage.fs.open(path.removeprefix("s3://"), "rb") as file:
                self._columns[path] = tuple(sorted(pq.read_schema(file).names))
        return self._columns[path]

    def _is_newest(self, name: str, known: _Followed) -> bool:
        version = known.table.version()
        # a table that was removed and made anew may have come to the same number
        same = known.mark is not None and self._lake.commit_mark(name, version) == known.mark
        return same and self._lake.commit_mark(name, version + 1) is None

    def _moved_on(self, name: str, known: _Followed) -> DeltaTable | None:
        if known.mark is None or self._lake.commit_mark(name, known.table.version()) != known.mark:
            return None
        try:
            known.table.update_incremental()
        except (DeltaError, OSError) as error:
            log.info("%s: its log cannot be followed, it is opened anew (%s)", name, error)
            return None
        return known.table
