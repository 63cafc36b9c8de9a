"""What an answer of the API is made of: rows in the form that was asked for, a tag of their data, problems in words.

Owns that the same question about the same data is computed, encoded and packed once, however many ask it.
"""

import asyncio
import gzip
import hashlib
import io
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from cryptomon_lib.errors import ApiError

PROBLEM_TYPE = "application/problem+json"
# by the name that `format=` takes, in the order in which they are preferred where a client takes any
FORMATS = {
    "json": "application/json",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}
# smaller bodies do not get smaller
_PACKED_FROM = 1024


@dataclass(frozen=True)
class Rows:
    """What a question brought.

    about: what stands beside the rows in JSON. more: whether there are rows after these.
    """

    table: pa.Table
    about: Mapping[str, Any] = field(default_factory=dict)
    more: bool = False
    status: HTTPStatus = HTTPStatus.OK


@dataclass(frozen=True)
class Answer:
    """Rows as bytes of one form, packed once for all who take gzip."""

    type: str
    body: bytes
    rows: int
    more: bool = False
    status: HTTPStatus = HTTPStatus.OK

    @cached_property
    def packed(self) -> bytes | None:
        """The body in gzip; None where that is no gain."""
        if len(self.body) < _PACKED_FROM or self.type in (FORMATS["parquet"], FORMATS["arrow"]):
            return None
        return gzip.compress(self.body, compresslevel=5, mtime=0)


def chosen_format(accept: str, named: str | None = None) -> str:
    """The form of an answer: `format=` where it is given, else the best that the Accept header takes.

    Raises ApiError: no form that there is (406).
    """
    if named:
        if named not in FORMATS:
            raise ApiError(406, f"format is {named!r}; there are {', '.join(FORMATS)}.")
        return named
    if not accept.strip():
        return "json"
    ranked = sorted(map(_media_range, accept.split(",")), key=lambda one: -one[1])
    for media, quality in ranked:
        for name, type_ in FORMATS.items():
            if quality > 0 and media in (type_, "*/*", f"{type_.partition('/')[0]}/*"):
                return name
    raise ApiError(406, f"Accept is {accept[:100]!r}; there are {', '.join(FORMATS.values())}.")


def encoded(rows: Rows, form: str) -> Answer:
    """Rows as bytes; times in UTC, numbers that are none as null."""
    table = _in_utc(rows.table)
    if form == "json":
        body = msgspec.json.encode(dict(rows.about) | {"rows": table.to_pylist()})
    elif form == "csv":
        body = _written(lambda file: csv.write_csv(table, file))
    elif form == "parquet":
        body = _written(lambda file: pq.write_table(table, file, compression="zstd"))
    else:
        body = _written(lambda file: _write_stream(table, file))
    return Answer(FORMATS[form], body, table.num_rows, rows.more, rows.status)


def problem(status: int, detail: str, instance: str, errors: Sequence[Mapping[str, str]] = ()) -> bytes:
    """A problem as RFC 9457 says it, in JSON.

    errors: what is wrong with which parameter, each {parameter, says}.
    """
    about = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
        "instance": instance,
    }
    return msgspec.json.encode(about | ({"errors": list(errors)} if errors else {}))


def tag_of(*parts: Any) -> str:
    """An ETag of what an answer depends on: weak, since packed and plain bodies share it."""
    return f'W/"{hashlib.sha256(repr(parts).encode()).hexdigest()[:20]}"'


class Watched:
    """What `look` sees, looked at anew when it is older than `every_s`, once for all who ask; look runs in a thread."""

    def __init__(self, look: Callable[[], Any], every_s: float = 1.0):
        self._look, self._every_s = look, every_s
        self._seen: Any = None
        self._looked_at, self._looking = float("-inf"), asyncio.Lock()

    async def now(self) -> Any:
        """What is to be seen; what look raises is raised."""
        if time.monotonic() - self._looked_at > self._every_s:
            async with self._looking:
                if time.monotonic() - self._looked_at > self._every_s:
                    self._seen = await asyncio.to_thread(self._look)
                    self._looked_at = time.monotonic()
        return self._seen


class Shared:
    """Answers by key, each made once: who asks while it is being made waits for the same one.

    bytes_max: beyond it, those go first that nobody asked for the longest.
    """

    def __init__(self, bytes_max: int, side_by_side: int = 2):
        self._bytes_max, self._held = bytes_max, 0
        self._kept: OrderedDict[Any, Answer] = OrderedDict()
        self._making: dict[Any, asyncio.Task] = {}
        self._side_by_side, self._limiter = side_by_side, None

    async def get(self, key: Any, make: Callable[[], Answer]) -> Answer:
        """The answer of that key; `make` runs in a thread. What it raises is raised, and not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._making:
            self._making[key] = asyncio.create_task(self._make(key, make))
        # a client that goes away takes nothing from those who wait for the same
        return await asyncio.shield(self._making[key])

    async def _make(self, key: Any, make: Callable[[], Answer]) -> Answer:
        # queries use all cores by themselves: many at once only take memory
        self._limiter = self._limiter or anyio.CapacityLimiter(self._side_by_side)
        try:
            answer = await anyio.to_thread.run_sync(make, limiter=self._limiter)
            self._keep(key, answer)
            return answer
        finally:
            del self._making[key]

    def _keep(self, key: Any, answer: Answer) -> None:
        # the packed body comes later, and is about a fifth
        self._kept[key], self._held = answer, self._held + len(answer.body)
        while self._held > self._bytes_max and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._held -= len(gone.body)


def _media_range(text: str) -> tuple[str, float]:
    media, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return media, float(value)
            except ValueError:
                return media, 0.0
    return media, 1.0


def _in_utc(table: pa.Table) -> pa.Table:
    fields = [
        each.with_type(pa.timestamp(each.type.unit, tz="UTC"))
        if pa.types.is_timestamp(each.type) and each.type.tz is None
        else each
        for each in table.schema
    ]
    return table.cast(pa.schema(fields))


def _written(write: Callable[[io.BytesIO], None]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _write_stream(table: pa.Table, file: io.BytesIO) -> None:
    with pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
