"""A payload's identity and its stored form: what was asked, for which slot, and the body as received.

The key of a payload is its identity: `ingest/<api host>/<route>[~query][~page]/<day>/<slot>.json.gz`. The
object is gzip of exactly the body; the header carries when the answer arrived (whole seconds as the file
time, milliseconds and the market asked for in the comment), so that flattening it next month gives the same
rows.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote, urlencode

from cryptomon_lib.errors import PayloadError

INGEST, ARCHIVE, QUARANTINE = "ingest", "archive", "quarantine"
_SLOT = "%Y%m%dT%H%M%SZ"
_MAGIC = b"\x1f\x8b\x08"
_EXTRA, _NAME, _COMMENT, _HEADER_CRC = 4, 8, 16, 2
# payloads are packed each minute and read a few times: speed counts more than the last tenth of size
_LEVEL = 3


@dataclass(frozen=True)
class Request:
    """One call to make: where, and what about it is identity.

    window: time bounds of the call; they follow from the slot and so are not part of the identity.
    symbol: the market asked for, as tickers name it, where the call is about one.
    origin: backfill where it asks for what was missed; its window is then identity, and its rows say so.
    """

    source: str
    endpoint: str
    host: str
    route: str
    query: tuple[tuple[str, str], ...] = ()
    window: tuple[tuple[str, str], ...] = ()
    page: int | None = None
    symbol: str | None = None
    origin: str = "live"

    def url(self, base: str | None = None) -> str:
        """The address; base stands in for the exchange's own (a mirror, the simulated exchange)."""
        query = urlencode([*self.query, *self.window], safe="/:,")
        return f"{(base or f'https://{self.host}').rstrip('/')}{self.route}{'?' + query if query else ''}"

    def key(self, slot: datetime) -> str:
        """Where the payload of a slot is kept before it is flattened."""
        identity = self.query + (self.window if self.origin != "live" else ())
        parts = [f"{_quoted(name)}={_quoted(str(value))}" for name, value in identity]
        if self.page is not None:
            parts.append(f"page={self.page}")
        path = "~".join([_quoted(self.route.strip("/"), safe="/"), *parts])
        slot = slot.astimezone(UTC)
        return f"{INGEST}/{self.host}/{path}/{slot:%Y-%m-%d}/{slot.strftime(_SLOT)}.json.gz"


@dataclass(frozen=True)
class Payload:
    """A stored payload, read back.

    id: the key without its first folder; the same in ingest, archive and quarantine.
    """

    id: str
    host: str
    route: str
    query: Mapping[str, str]
    slot: datetime
    collected_at: datetime
    symbol: str | None
    body: bytes
    origin: str = "live"


def pack(body: bytes, collected_at: datetime, symbol: str | None = None, origin: str = "live") -> bytes:
    """Gzip of exactly the body, with the time of arrival, the market and the origin in the header."""
    collected_at = truncated(collected_at)
    says = {"collected_at": collected_at.isoformat(timespec="milliseconds")}
    says |= {"symbol": symbol} if symbol else {}
    says |= {"origin": origin} if origin != "live" else {}
    header = _MAGIC + struct.pack("<BIBB", _COMMENT, int(collected_at.timestamp()), 0, 255)
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(body) + packer.flush()
    comment = json.dumps(says).encode("ascii") + b"\0"
    return header + comment + packed + struct.pack("<II", zlib.crc32(body), len(body) & 0xFFFFFFFF)


def unpack(key: str, packed: bytes, body_bytes_max: int = 1 << 30) -> Payload:
    """The payload of a stored object.

    Raises PayloadError: the key is no identity, or the bytes are no gzip, damaged, or unpack to too much.
    """
    host, route, query, slot = parse_key(key)
    seconds, comment = _header(key, packed)
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        body = unpacker.decompress(packed, body_bytes_max)
    except zlib.error as error:
        raise PayloadError(f"{key} is damaged: {error}.") from error
    if not unpacker.eof:
        why = (
            f"it unpacks to more than {body_bytes_max:,} bytes"
            if unpacker.unconsumed_tail
            else "it ends too early"
        )
        raise PayloadError(f"{key} is damaged: {why}.")
    says = _comment(comment)
    collected_at = _moment(says.get("collected_at")) or datetime.fromtimestamp(
        seconds or slot.timestamp(), UTC
    )
    return Payload(
        key.split("/", 1)[1],
        host,
        route,
        query,
        slot,
        collected_at,
        says.get("symbol"),
        body,
        says.get("origin", "live"),
    )


def parse_key(key: str) -> tuple[str, str, dict[str, str], datetime]:
    """Host, route, query and slot of a payload's key.

    Raises PayloadError: the key has another form.
    """
    try:
        _, host, *route, day, name = key.split("/")
        slot = datetime.strptime(name, f"{_SLOT}.json.gz").replace(tzinfo=UTC)
        path, *pairs = "/".join(route).split("~")
        query = {unquote(pair.partition("=")[0]): unquote(pair.partition("=")[2]) for pair in pairs}
    except ValueError as error:
        raise PayloadError(
            f"{key} is not named <host>/<route>[~query]/<day>/<slot>.json.gz; collect did not write it."
        ) from error
    if day != f"{slot:%Y-%m-%d}" or not path:
        raise PayloadError(f"{key} is under another day than its slot, or under no route.")
    return host, "/" + unquote(path), query, slot


def _quoted(text: str, safe: str = "") -> str:
    # ~ parts the query off, and no quoting of addresses touches it
    return quote(text, safe=safe).replace("~", "%7E")


def truncated(moment: datetime) -> datetime:
    """The moment in UTC, cut to whole milliseconds: rounding would move 23:59:59.9996 to the next day."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def parse_moment(text: str) -> datetime:
    """A moment given in ISO 8601; UTC where it names no zone.

    Raises PayloadError: it is none.
    """
    moment = _moment(text)
    if moment is None:
        raise PayloadError(f"{text!r} is no time; write it as 2026-01-31T12:00:00Z.")
    return moment


def as_moment(given: str | datetime | None) -> datetime | None:
    """A moment in UTC, in whole milliseconds; one that names no zone is of UTC.

    Raises PayloadError: it is text, and no time.
    """
    if not given:
        return None
    moment = parse_moment(given) if isinstance(given, str) else given
    return truncated(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _header(key: str, packed: bytes) -> tuple[int, bytes]:
    """File time and comment of a gzip header."""
    if len(packed) < 18 or packed[:3] != _MAGIC:
        raise PayloadError(f"{key} is not gzip; it begins with {packed[:16]!r}.")
    flags, seconds = struct.unpack_from("<BI", packed, 3)
    at = 10
    if flags & _EXTRA:
        at += 2 + struct.unpack_from("<H", packed, at)[0]
    if flags & _NAME:
        at = packed.find(b"\0", at) + 1
    if not flags & _COMMENT:
        return seconds, b""
    return seconds, packed[at : packed.find(b"\0", at)]


def _comment(comment: bytes) -> dict[str, str]:
    try:
        says = json.loads(comment or b"{}")
    except ValueError:
        return {}
    return (
        {name: value for name, value in says.items() if isinstance(value, str)}
        if isinstance(says, dict)
        else {}
    )


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return truncated(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
