"""A copy of a root from which it can be made again, taken while the monitor goes on.

    TARGET/contents/<ab>/<sha256>      what objects hold: each content once, however many backups have it
    TARGET/backups/<moment>.json.gz    one backup: key, size and checksum of each object; written last

Owns that a backup is a state which the monitor could have been killed in. What waits in queues is copied before the
tables are pinned: a payload that was flattened meanwhile is known to the table by its id and rows. Of each table one
version is copied, its files and its log; where compaction took a file away first, all are pinned again. The state of
alerts is of the moment of the pins.
"""

import gzip
import hashlib
import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import msgspec

from cryptomon_lib.alerts import STATES
from cryptomon_lib.config import nearest
from cryptomon_lib.errors import ParameterError, StorageError
from cryptomon_lib.lake import Lake
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.outbox import OUTBOX
from cryptomon_lib.payloads import INGEST
from cryptomon_lib.storage import Object, Storage

log = logging.getLogger(__name__)

RESTORING = "restoring.json"
_BACKUPS, _CONTENTS, _TABLES = "backups", "contents", "tables"
# what is made again by itself, or is of a moment only
_LEFT_OUT = ("exports/", "doctor/", RESTORING)
_LOG = re.compile(r"(\d{20})\.(json|checkpoint(\.\d+\.\d+)?\.parquet)")
_SOURCES = ("ticks", "candles")
_PINS = 5
# contents that no backup names may be of a backup that is being taken
_GRACE = timedelta(days=1)


class Entry(msgspec.Struct, frozen=True):
    """An object of a backup: size in bytes, SHA-256 of its content, when it was last written (UTC)."""

    size: int
    sha256: str
    modified_at: datetime


class Backup(msgspec.Struct, frozen=True):
    """One backup. tables: version of each table; objects: by key below the root."""

    at: datetime
    root: str
    cryptomon: str
    tables: dict[str, int]
    objects: dict[str, Entry]

    @property
    def name(self) -> str:
        """What it is called in its target: 20260131T120000Z."""
        return f"{self.at:%Y%m%dT%H%M%SZ}"

    @property
    def bytes(self) -> int:
        """Size of all objects."""
        return sum(one.size for one in self.objects.values())


@dataclass(frozen=True)
class BackedUp:
    """What became of a backup. copied, copied_bytes: contents that the target did not have; let_go: backups deleted."""

    backup: Backup
    copied: int
    copied_bytes: int
    let_go: int


class _Gone(Exception):
    """A file of a pinned version was taken away before it was copied."""


def back_up(
    monitor: Monitor,
    target: str,
    *,
    without: Sequence[str] = (),
    keep: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> BackedUp:
    """Copy the root to a folder or s3://bucket/prefix; what an earlier backup there has is not copied again.

    without: prefixes that are left out (archive/). keep: how many backups stay, this one among them; None: all. One
    backup at a time for a target. Interrupted, it has left contents that the next one finds.

    Raises ParameterError: the target is in the root, or keep is below 1. StorageError: something cannot be read or written.
    """
    if keep is not None and keep < 1:
        raise ParameterError(f"keep is {keep}: at least this backup stays.")
    _apart(monitor.storage.root, target)
    taking = _Taking(monitor, Storage(target, monitor.settings.endpoint_url), tuple(without), progress)
    return taking.run(keep)


def backups(target: Storage) -> list[str]:
    """Names of the backups that are there, oldest first."""
    found = [key.rsplit("/", 1)[1] for key in target.named(_BACKUPS, "")]
    return sorted(name.removesuffix(".json.gz") for name in found if name.endswith(".json.gz"))


def load_backup(target: Storage, name: str | None = None) -> Backup:
    """A backup by its name; the newest where none is given.

    Raises ParameterError: there is none, with the nearest name. StorageError: it cannot be read.
    """
    have = backups(target)
    if not have:
        raise ParameterError(f"{target.root} has no backup.")
    name = name or have[-1]
    if name not in have:
        raise ParameterError(f"{target.root} has no backup {name!r}.{nearest(name, have)}")
    try:
        return msgspec.json.decode(gzip.decompress(target.get(_manifest(name))), type=Backup)
    except (msgspec.MsgspecError, OSError, EOFError) as error:
        raise StorageError(f"{target.root}/{_manifest(name)} is damaged: {error}. Take another.") from error


def verify_backup(
    target: Storage, backup: Backup, progress: Callable[[int, int], None] = lambda done, of: None
) -> dict[str, str]:
    """Read every content of a backup and hold it against its checksum; what is wrong, by key."""
    by_content: dict[str, list[str]] = {}
    for key, entry in backup.objects.items():
        by_content.setdefault(entry.sha256, []).append(key)
    wrong: dict[str, str] = {}

    def look(content: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            says = _fetched(target, content, Path(folder) / "content")
        if says:
            wrong.update(dict.fromkeys(by_content[content], says))

    _in_parallel(look, by_content, _workers(target), progress)
    return dict(sorted(wrong.items()))


def restore(
    monitor: Monitor,
    source: str,
    name: str | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Backup:
    """Make the root what a backup says. Interrupted, the same call goes on; the root is whole when it returns.

    name: of a backup there; None: the newest.

    Raises ParameterError: no such backup, or the root is not empty. StorageError: contents are missing or damaged (all
    others are restored), or something cannot be read or written.
    """
    target = Storage(source, monitor.settings.endpoint_url)
    backup, root = load_backup(target, name), monitor.storage
    have = _begun(root, backup)
    damaged: dict[str, str] = {}

    def bring(key: str) -> None:
        entry = backup.objects[key]
        if have.get(key) == entry.size:
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "content"
            if says := _fetched(target, entry.sha256, file):
                damaged[key] = says
            else:
                root.send(key, file)

    # a table is not there before its log is; so nobody reads one that lacks files
    logs = [key for key in backup.objects if "/_delta_log/" in key]
    others = [key for key in backup.objects if "/_delta_log/" not in key]
    for keys, before in ((others, 0), (logs, len(others))):
        _in_parallel(bring, keys, _workers(root, target), _from(before, len(backup.objects), progress))
    if damaged:
        told = "; ".join(f"{key}: {says}" for key, says in sorted(damaged.items())[:5])
        raise StorageError(
            f"{len(damaged)} of {len(backup.objects)} objects of {source} could not be restored, the others are: {told}. "
            "Bring them back and call again, or restore an earlier backup into an empty root."
        )
    root.delete(RESTORING)
    return backup


class _Taking:
    """One backup that is being taken."""

    def __init__(self, monitor: Monitor, target: Storage, without: tuple[str, ...], progress):
        self.storage, self.lake, self.target, self.progress = monitor.storage, monitor.lake, target, progress
        self.without = (*_LEFT_OUT, *without)
        self.contents = {one.key.rsplit("/", 1)[1]: one.size for one in target.objects(_CONTENTS)}
        names = backups(target)
        self.earlier = load_backup(target, names[-1]).objects if names else {}
        self.at = datetime.now(UTC)
        # what is of the backup so far, and the sizes of contents that the target did not have
        self.done: dict[str, Entry] = {}
        self.new: dict[str, int] = {}

    def run(self, keep: int | None) -> BackedUp:
        """Queues, then tables and the state of alerts, then all else; the manifest last."""
        for prefix in (INGEST, OUTBOX):
            self.copy(self._wanted(self.storage.objects(prefix)))
        versions = self.tables()
        first = tuple(f"{one}/" for one in (INGEST, OUTBOX, STATES, _TABLES))
        self.copy([one for one in self._wanted(self.storage.everything()) if not one.key.startswith(first)])
        backup = Backup(
            self.at,
            self.storage.root,
            version("cryptomon"),
            versions,
            dict(sorted(self.done.items())),
        )
        body = gzip.compress(msgspec.json.encode(backup))
        if not self.target.create(_manifest(backup.name), body):
            raise StorageError(
                f"{self.target.root} has a backup {backup.name} already: another was taken in this second."
            )
        let_go = _let_go(self.target, keep) if keep else 0
        return BackedUp(backup, len(self.new), sum(self.new.values()), let_go)

    def tables(self) -> dict[str, int]:
        """Pin all tables at one moment and copy what their versions name; the versions."""
        for _ in range(_PINS):
            states, versions, objects = self._pinned()
            with suppress(_Gone):
                # the state first: five newer ones, and it is gone
                self.copy(self._wanted(states), of_pin=True)
                self.copy(self._wanted(objects), of_pin=True)
                return versions
            log.info("files of the pinned versions are gone already; pinning again")
        raise StorageError(
            f"Files of the tables of {self.storage.root} went away {_PINS} times before they were copied: copying takes "
            "longer than replaced files stay. Give 50_compact a larger vacuum_after_min, or a nearer target."
        )

    def _pinned(self) -> tuple[list[Object], dict[str, int], list[Object]]:
        """The state of alerts, versions, and objects of the tables, with no evaluation between them."""
        while True:
            before = self.storage.objects(STATES)
            versions, objects = {}, []
            # what is derived of them says of which of their versions it is: never of a later one than is pinned
            for name in sorted(self.storage.folders(_TABLES), key=lambda name: (name in _SOURCES, name)):
                pin = _pin(self.storage, self.lake, name)
                if pin:
                    versions[name] = pin[0]
                    objects += pin[1]
            after = self.storage.objects(STATES)
            if [one.key for one in before] == [one.key for one in after]:
                return before, versions, objects

    def copy(self, objects: Iterable[Object], of_pin: bool = False) -> None:
        """Copy objects. One that is gone moved on by itself and is left out; of a pin it has to be there: _Gone."""
        todo = {one.key: one for one in objects if one.key not in self.done}

        def bring(key: str) -> None:
            entry = self._known(todo[key]) or self._copied(todo[key])
            if entry is not None:
                self.done[key] = entry
            elif of_pin:
                raise _Gone(key)

        have = len(self.done)
        _in_parallel(
            bring, todo, _workers(self.storage, self.target), _from(have, have + len(todo), self.progress)
        )

    def _known(self, one: Object) -> Entry | None:
        """What an earlier backup says of the object as it is."""
        entry = self.earlier.get(one.key)
        same = entry and entry.size == one.size and entry.modified_at == one.modified_at
        return entry if same and self.contents.get(entry.sha256) == entry.size else None

    def _copied(self, one: Object) -> Entry | None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "content"
            try:
                self.storage.fetch(one.key, file)
            except StorageError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    return None
                raise
            content, size = _checksum(file), file.stat().st_size
            if self.contents.get(content) != size:
                self.target.send(_place(content), file)
                self.contents[content] = self.new[content] = size
        return Entry(size, content, one.modified_at)

    def _wanted(self, objects: Iterable[Object]) -> list[Object]:
        return [one for one in objects if not one.key.startswith(self.without)]


def _pin(storage: Storage, lake: Lake, name: str) -> tuple[int, list[Object]] | None:
    """A table's newest version, and the objects that it is: files, and the log up to it; None where there is no table."""
    table = lake.open(name)
    if table is None:
        return None
    place, newest = lake.key(name), table.version()
    # the log itself says which of its summaries is the newest; the hint beside it may be of a later version
    logs = [
        one
        for one in storage.objects(f"{place}/_delta_log")
        if (found := _LOG.fullmatch(one.key.rsplit("/", 1)[1])) and int(found[1]) <= newest
    ]
    files = [
        Object(
            f"{place}/{row['path']}",
            row["size_bytes"],
            datetime.fromtimestamp(row["modification_time"] / 1000, UTC),
        )
        for row in lake.actions(table).select(["path", "size_bytes", "modification_time"]).to_pylist()
    ]
    return newest, files + logs


def _apart(root: str, target: str) -> None:
    here, there = (f"{one.rstrip('/')}/" for one in (root, target))
    if there.startswith(here) or here.startswith(there):
        raise ParameterError(
            f"{target} and the root {root} lie in each other: choose another place for backups."
        )


def _begun(root: Storage, backup: Backup) -> dict[str, int]:
    """Mark the root as one that is being restored; sizes of what an interrupted restore of the same backup has brought."""
    have = {one.key: one.size for one in root.everything()}
    if have and not (RESTORING in have and root.get(RESTORING).decode() == backup.name):
        raise ParameterError(
            f"{root.root} is not empty, and nothing is written over: move what is there away, or restore into another "
            "root (--set root=…)."
        )
    root.put(RESTORING, backup.name.encode())
    return have


def _fetched(target: Storage, content: str, file: Path) -> str:
    """Bring a content into a local file; what is wrong with it, nothing where it is as it was."""
    try:
        target.fetch(_place(content), file)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return "its content is missing"
        raise
    return "" if _checksum(file) == content else "its content is damaged"


def _let_go(target: Storage, keep: int) -> int:
    """Delete all backups but the newest, and contents that no backup names any more; how many backups those were."""
    names = backups(target)
    old = names[:-keep]
    for name in old:
        target.delete(_manifest(name))
    named = {entry.sha256 for name in names[-keep:] for entry in load_backup(target, name).objects.values()}
    until = datetime.now(UTC) - _GRACE
    for one in target.objects(_CONTENTS):
        if one.key.rsplit("/", 1)[1] not in named and one.modified_at < until:
            target.delete(one.key)
    return len(old)


def _from(before: int, of: int, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Progress of a part, told as that of the whole."""
    return lambda done, _: progress(before + done, of)


def _in_parallel(work: Callable[[str], None], keys: Iterable[str], workers: int, progress) -> None:
    """Do the work for each key; the first error ends it, when those that were begun are done."""
    with ThreadPoolExecutor(workers) as pool:
        begun = [pool.submit(work, key) for key in keys]
        try:
            for done, one in enumerate(as_completed(begun), 1):
                one.result()
                progress(done, len(begun))
        finally:
            for one in begun:
                one.cancel()


def _workers(*places: Storage) -> int:
    return 16 if any(one.is_s3 for one in places) else 2


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _place(content: str) -> str:
    return f"{_CONTENTS}/{content[:2]}/{content}"


def _manifest(name: str) -> str:
    return f"{_BACKUPS}/{name}.json.gz"
