"""Parquet files on S3 as DuckDB reads them: each is immutable, so what was read once is not asked for again.

DuckDB asks for a file's size, time, existence, footer and column chunks one after the other, at each query. Files up to
a few megabytes, those of minutes and hours, are read whole by one request and kept in memory; of larger ones the end,
where the footer is, is kept, and of the rest exactly the ranges that are asked for are read.
"""

import io
import threading
from collections import OrderedDict
from typing import Any

import fsspec

_WHOLE_MAX = 8_000_000
_END = 256_000
# of all files of a process
_KEPT_MAX = 256_000_000


class ImmutableFiles(fsspec.AbstractFileSystem):
    """A read-only view of an fsspec file system whose files never change.

    Raises FileNotFoundError: a file that was not read yet is gone.
    """

    protocol = ("s3", "s3a")
    cachable = False

    def __init__(self, beneath: fsspec.AbstractFileSystem, kept_max: int = _KEPT_MAX):
        super().__init__()
        self._beneath, self._kept_max = beneath, kept_max
        self._lock = threading.Lock()
        self._about: dict[str, dict[str, Any]] = {}
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """What the file system says of a file; asked once."""
        path = self._strip_protocol(path)
        if path not in self._about:
            self._about[path] = self._beneath.info(path)
        return self._about[path]

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether it is there; a query names only files that the log names."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def glob(self, path: str, **kwargs: Any) -> list[str]:
        """The file itself: files are named, never searched for."""
        return [self._strip_protocol(path)]

    def size(self, path: str) -> int:
        """In bytes."""
        return self.info(path)["size"]

    def modified(self, path: str) -> Any:
        """When it was written."""
        return self.info(path)["LastModified"]

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BufferedIOBase | io.RawIOBase:
        """The file for reading."""
        path = self._strip_protocol(path)
        size = self.size(path)
        if size <= _WHOLE_MAX:
            return io.BytesIO(self._part(path, 0, size))
        return _Ranges(self, path, size)

    def read(self, path: str, start: int, end: int, size: int) -> bytes:
        """A range of a large file."""
        ends_at = size - _END
        if start >= ends_at:
            return self._part(path, ends_at, size)[start - ends_at : end - ends_at]
        return self._beneath.cat_file(path, start=start, end=end)

    def _part(self, path: str, start: int, end: int) -> bytes:
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        found = self._beneath.cat_file(path, start=start, end=end)
        with self._lock:
            if path not in self._kept:
                self._kept[path] = found
                self._bytes += len(found)
            while self._bytes > self._kept_max:
                gone, body = self._kept.popitem(last=False)
                self._bytes -= len(body)
                self._about.pop(gone, None)
        return found


class _Ranges(io.RawIOBase):
    """A large file, of which only what is asked for is read."""

    def __init__(self, files: ImmutableFiles, path: str, size: int):
        self._files, self._path, self._size, self._at = files, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        found = self._files.read(self._path, self._at, end, self._size) if end > self._at else b""
        self._at += len(found)
        return found
