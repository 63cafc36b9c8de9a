"""Objects under one root, a folder or `s3://bucket/prefix`: payloads, notebooks, records.

A key is a relative path with `/`. A put is atomic: readers see the old object, the new one, or none, never
a half. `create` writes only where nothing is yet, which makes a second run of the same slot harmless.
"""

import importlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import fsspec

from cryptomon_lib.errors import StorageError

log = logging.getLogger(__name__)

_KEY = re.compile(r"(?!.*(^|/)\.{1,2}(/|$))[^/\x00-\x1f\\][^\x00-\x1f\\]*")
# what of an object's description changes when another takes its place
_IDENTITY = ("size", "mtime", "ino", "ContentLength", "ETag", "LastModified")
# what a put leaves behind when its process is killed; never listed
_UNFINISHED = ".unfinished-"
# How an S3 is borne with that refuses (503 SlowDown) or does not answer. s3fs waits 0.1 s before the second try, each time
# 1.7 times as long, up to 15 s: refusals are outlasted for 73 s, and after 229 s of silence it is given up, which is
# within the 300 s that a tick has. The client beneath would repeat each of these tries four times on its own.
S3_TRIES = 14
S3_CLIENT = {
    "connect_timeout": 5,
    "read_timeout": 10,
    "retries": {"total_max_attempts": 1, "mode": "standard"},
}


@dataclass(frozen=True, order=True)
class Object:
    """One stored object: its key, its size in bytes, when it was last written (UTC)."""

    key: str
    size: int
    modified_at: datetime


class Storage:
    """Objects under one root.

    root: an absolute folder, or s3://bucket/prefix. endpoint_url: an S3-compatible store other than AWS.
    Raises StorageError from every method when the root cannot be reached, read or written.
    """

    def __init__(self, root: str, endpoint_url: str | None = None):
        self.root = root.rstrip("/")
        self.endpoint_url = endpoint_url
        self.is_s3 = root.startswith("s3://")
        if "://" in root and not self.is_s3:
            raise StorageError(f"root is {root}: a folder or s3://bucket/prefix is known, nothing else.")
        self._base = self.root.removeprefix("s3://")

    @cached_property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The file system beneath; paths in it are `path(key)`."""
        if not self.is_s3:
            return fsspec.filesystem("file", use_listings_cache=False)
        try:
            # another process' objects must be seen at once, so no listing is kept
            files = fsspec.filesystem(
                "s3",
                endpoint_url=self.endpoint_url,
                use_listings_cache=False,
                skip_instance_cache=True,
                config_kwargs=dict(S3_CLIENT),
            )
            files.retries = S3_TRIES
            importlib.import_module("s3fs.core").set_custom_error_handler(_passes)
            return files
        except ImportError as error:
            raise StorageError(
                f"root is {self.root}, which needs s3fs: pip install 'cryptomon[aws]'."
            ) from error

    def path(self, key: str) -> str:
        """Where the object is in the file system.

        Raises StorageError: the key is absolute, climbs with `..`, or holds a control character.
        """
        if not _KEY.fullmatch(key):
            raise StorageError(f"{key!r} is no key: a relative path, without .. and control characters.")
        return f"{self._base}/{key}"

    def put(self, key: str, body: bytes) -> None:
        """Write the object, replacing what is there."""
        with _told("write", self, key):
            if self.is_s3:
                self.fs.pipe_file(self.path(key), body)
            else:
                write_whole(Path(self.path(key)), body)

    def send(self, key: str, file: Path) -> None:
        """Write the object from a local file, however large it is, replacing what is there."""
        with _told("write", self, key):
            if self.is_s3:
                self.fs.put_file(str(file), self.path(key))
            else:
                write_whole(Path(self.path(key)), file)

    def fetch(self, key: str, file: Path) -> None:
        """Bring the object into a local file, however large it is.

        Raises StorageError: there is none.
        """
        with _told("read", self, key):
            self.fs.get_file(self.path(key), str(file))

    def create(self, key: str, body: bytes) -> bool:
        """Write the object where none is yet; False, and nothing written, where there is one."""
        with _told("write", self, key):
            try:
                if self.is_s3:
                    self.fs.pipe_file(self.path(key), body, mode="create")
                else:
                    write_whole(Path(self.path(key)), body, _link_new)
            except FileExistsError:
                return False
            return True

    def get(self, key: str) -> bytes:
        """The object's bytes.

        Raises StorageError: there is none.
        """
        with _told("read", self, key):
            return self.fs.cat_file(self.path(key))

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""
        with _told("look for", self, key):
            # isfile would take whatever goes wrong, a right that is lacking too, for an object that is not there
            with suppress(FileNotFoundError, NotADirectoryError):
                return self._about(key)["type"] == "file"
            return False

    def identity(self, key: str) -> tuple[str, ...] | None:
        """What tells this object from another of the same key, at other times; None where there is none."""
        with _told("look for", self, key):
            try:
                about = self._about(key)
            except FileNotFoundError:
                return None
        return tuple(str(about.get(name)) for name in _IDENTITY)

    def _about(self, key: str) -> dict[str, Any]:
        """What the file system says of an object.

        Raises FileNotFoundError: there is none.
        """
        path = self.path(key)
        if not self.is_s3:
            return self.fs.info(path)
        # its own `info` then lists, lest it be a folder: a request that costs twelve times as much
        bucket, _, name = path.partition("/")
        return {"type": "file"} | self.fs.call_s3("head_object", Bucket=bucket, Key=name)

    def objects(self, prefix: str) -> list[Object]:
        """All objects below `prefix/`, by key."""
        with _told("list", self, prefix):
            return self._objects(self.path(prefix.rstrip("/")))

    def everything(self) -> list[Object]:
        """All objects of the root, by key."""
        with _told("list", self, ""):
            return self._objects(self._base)

    def _objects(self, place: str) -> list[Object]:
        found = self._found(self.fs.find, place)
        start = len(self._base) + 1
        return sorted(
            Object(path[start:], entry["size"], _modified(entry))
            for path, entry in (found or {}).items()
            if _UNFINISHED not in path
        )

    def named(self, prefix: str, begins: str) -> list[str]:
        """Keys below `prefix/` whose names begin so, sorted; S3 is asked for no others."""
        with _told("list", self, prefix):
            if not self.is_s3:
                with suppress(FileNotFoundError), os.scandir(self.path(prefix)) as found:
                    return sorted(f"{prefix}/{one.name}" for one in found if one.name.startswith(begins))
                return []
            found = self._found(partial(self.fs.find, prefix=begins), self.path(prefix)) or {}
        start = len(self._base) + 1
        return sorted(path[start:] for path in found)

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below `prefix/`, sorted: how a day is found without listing all of them."""
        with _told("list", self, prefix):
            found = self._found(self.fs.ls, self.path(prefix.rstrip("/"))) or []
        return sorted(
            one["name"].rstrip("/").rsplit("/", 1)[1] for one in found if one["type"] == "directory"
        )

    def _found(self, listing: Callable, place: str) -> Any:
        """What a listing gives; None where there is nothing. A bucket that is not there is no empty one."""
        with suppress(FileNotFoundError):
            if found := listing(place, detail=True):
                return found
        bucket = self._base.partition("/")[0]
        if self.is_s3 and not self.fs.exists(bucket):
            raise StorageError(f"There is no bucket {bucket}, or no right to see it: check root in params.")
        return None

    def move(self, source: str, target: str) -> None:
        """Give an object another key. A kill between copy and delete leaves both; moving again mends it."""
        with _told("move", self, source):
            if self.is_s3:
                # `copy` would look first whether either is a folder
                self.fs.cp_file(self.path(source), self.path(target))
                self.fs.rm_file(self.path(source))
            else:
                Path(self.path(target)).parent.mkdir(parents=True, exist_ok=True)
                Path(self.path(source)).replace(self.path(target))

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none."""
        with _told("delete", self, key):
            try:
                self.fs.rm_file(self.path(key))
            except FileNotFoundError:
                log.debug("%s was gone already", key)

    def remove_empty_folders(self, prefixes: Iterable[str]) -> None:
        """Remove folders that nothing was put into for an hour; on S3 there are no folders."""
        if self.is_s3:
            return
        hour_ago = time.time() - 3600
        for prefix in prefixes:
            for path, folders, files in os.walk(self.path(prefix), topdown=False):
                with suppress(OSError):
                    # one that is not empty after all refuses
                    if not files and not folders and Path(path).stat().st_mtime < hour_ago:
                        Path(path).rmdir()


class _told:
    """Turns what a file system raises into a StorageError that says what was tried, on which object."""

    def __init__(self, verb: str, storage: Storage, key: str):
        self.verb, self.where = verb, f"{storage.root}/{key}"

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, FileNotFoundError):
            raise StorageError(f"Cannot {self.verb} {self.where}: there is no such object.") from error
        if error is not None and not isinstance(error, StorageError) and _is_storage_fault(error):
            raise StorageError(
                f"Cannot {self.verb} {self.where}: {type(error).__name__}: {error}. "
                "Check the root, its permissions, its credentials and the space left."
            ) from error


def _is_storage_fault(error: BaseException) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("botocore", "aiohttp")


def _passes(error: BaseException) -> bool:
    """Whether S3 may do a little later what it refuses now; an answer without a body says it by its status alone."""
    answer = getattr(error, "response", None)
    about = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
    return about.get("HTTPStatusCode", 0) >= 500


def write_whole(
    path: Path, body: bytes | Path, place: Callable | None = None, mode: int = 0o600, sync: bool = True
) -> None:
    """Write a file of this machine so that nobody sees a part of it.

    body: what it holds, or a file that does. place: what gives it its name; by default it takes the place of another.
    sync: it is on the disk when this returns; else a power cut may take it.

    Raises OSError: it cannot be written, and nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            if isinstance(body, Path):
                with body.open("rb") as source:
                    shutil.copyfileobj(source, file)
            else:
                file.write(body)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        Path(unfinished).chmod(mode)
        (place or os.replace)(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _link_new(source: str, target: Path) -> None:
    # a hard link, unlike a rename, fails where the target exists
    os.link(source, target)


def _modified(entry: dict) -> datetime:
    when = entry.get("LastModified") or entry.get("mtime")
    return when.astimezone(UTC) if isinstance(when, datetime) else datetime.fromtimestamp(when, UTC)
