"""Faults on demand: what can go wrong between a client and an exchange, and which request it hits.

Owns the list of faults with their counts, and how each kind spoils a reply. A fault is
`{"kind": "429", "exchange": "kraken", "route": "Ticker", "times": 2, "every": 3, "share": 0.03, "from": ..., "to": ...}`:
all but the kind may be left out, times are as-of times, and options of single kinds come beside them (`retry_after`,
`seconds`, `status`, `bytes`, `location`, `content_length: "lies"`, `drift: renamed | scalar | not_available`).
"""

from __future__ import annotations

import difflib
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zlib import crc32

from cryptomon_lib.errors import SimulatorError
from cryptomon_lib.simulated_market import DAY_MS, MINUTE_MS, iso
from cryptomon_lib.simulated_replies import Format, Reply, written

LAST_MS = 4_102_444_800_000  # 2100-01-01


def moment_ms(text: str) -> int:
    """Milliseconds of an ISO time, UTC where it names no zone. Raises SimulatorError."""
    try:
        found = datetime.fromisoformat(text)
        aware = found if found.tzinfo else found.replace(tzinfo=UTC)
        at_ms = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    except (ValueError, OverflowError) as error:
        raise SimulatorError(f"{text!r} is not a time; write it as 2021-09-28T12:00:00Z") from error
    if not DAY_MS <= at_ms < LAST_MS:
        raise SimulatorError(f"{text!r} is out of range: from {iso(DAY_MS)} until {iso(LAST_MS)}")
    return at_ms


@dataclass
class _Fault:
    """One fault with what it has seen: requests that it is meant for, and those that it hit."""

    asked: dict[str, Any]
    from_ms: int
    to_ms: int
    seen: int = 0
    hits: int = 0


_SELECTS = {"kind", "exchange", "route", "times", "every", "share", "from", "to"}
_OPTIONS = {"retry_after", "seconds", "content_length", "bytes", "location", "drift", "status"}


class Faults:
    """The list of faults and their counts; the first that applies to a request is the one that it meets."""

    def __init__(self, seed: int):
        self._seed = seed
        self._lock = threading.Lock()
        self._list: list[_Fault] = []

    def replace(self, faults: Iterable[dict[str, Any]]) -> None:
        """Forget the old ones. Raises SimulatorError where a new one is not understood; then the old ones stay."""
        found = [_fault(fault) for fault in faults]
        with self._lock:
            self._list = found

    def shown(self) -> list[dict[str, Any]]:
        """Each fault with its hits."""
        with self._lock:
            return [{**fault.asked, "hits": fault.hits} for fault in self._list]

    def met(self, exchange: str, route: str, at_ms: int) -> dict[str, Any] | None:
        """The fault that hits a request; the route is its path and query."""
        with self._lock:
            for fault in self._list:
                if self._meant(fault, exchange, route, at_ms):
                    fault.seen += 1
                    if _due(fault):
                        fault.hits += 1
                        return fault.asked
        return None

    def _meant(self, fault: _Fault, exchange: str, route: str, at_ms: int) -> bool:
        asked = fault.asked
        if asked.get("exchange") not in (None, exchange) or (asked.get("route") or "") not in route:
            return False
        if not fault.from_ms <= at_ms < fault.to_ms:
            return False
        if asked.get("share") is None:
            return True
        path = route.partition("?")[0]
        luck = crc32(f"{self._seed} {exchange} {path} {at_ms // MINUTE_MS}".encode()) / 2**32
        return luck < asked["share"]


def _due(fault: _Fault) -> bool:
    times, every = fault.asked.get("times"), fault.asked.get("every")
    return (times is None or fault.seen <= times) and (every is None or fault.seen % every == 0)


def _fault(asked: Any) -> _Fault:
    """A fault whose keys and values are understood. Raises SimulatorError that names the nearest known word."""
    if not isinstance(asked, dict):
        raise SimulatorError(f'a fault is an object such as {{"kind": "500"}}, not {asked!r}')
    for key in asked:
        if key not in _SELECTS | _OPTIONS:
            raise SimulatorError(f"a fault has no key {key!r}{_nearest(key, _SELECTS | _OPTIONS)}")
    kind = str(asked.get("kind"))
    if kind not in _KINDS:
        raise SimulatorError(f"no fault of kind {kind!r}{_nearest(kind, _KINDS)}")
    _check_numbers(asked)
    if asked.get("drift") not in (None, *_DRIFTS):
        raise SimulatorError(f"no drift {asked['drift']!r}{_nearest(str(asked['drift']), _DRIFTS)}")
    edges = [moment_ms(str(asked[edge])) if asked.get(edge) else None for edge in ("from", "to")]
    return _Fault({**asked, "kind": kind}, edges[0] or 0, edges[1] or LAST_MS)


def spoiled(fault: dict[str, Any], form: Format, reply: Callable[[], Reply]) -> Sent:
    """What is sent instead of a reply when a fault hits; `reply` makes the good one, where it is needed."""
    return _KINDS[fault["kind"]](fault, form, reply)


def _check_numbers(fault: dict[str, Any]) -> None:
    for key, least in {
        "times": 0,
        "every": 1,
        "share": 0,
        "seconds": 0,
        "bytes": 0,
        "retry_after": 0,
    }.items():
        value = fault.get(key)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or value < least
        ):
            raise SimulatorError(f"{key} of a fault is a number of at least {least}, not {value!r}")


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, sorted(known), 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"


@dataclass(frozen=True)
class Sent:
    """How a reply is put on the wire: after a wait, in part, or not at all."""

    reply: Reply | None  # None: the connection is closed without a word
    wait_s: float = 0.0
    cut_at: int | None = None  # bytes after which the connection is closed
    compress: bool = True


_Maker = Callable[[dict[str, Any], Format, Callable[[], Reply]], Sent]


def _error(
    kind: str, status: int | None, fault: dict[str, Any], form: Format, _: Callable[[], Reply]
) -> Sent:
    reply = form.error(kind, fault.get("status", status))
    if "retry_after" in fault or reply.status == 429:
        reply = replace(reply, headers={**reply.headers, "Retry-After": str(fault.get("retry_after", 1))})
    return Sent(reply)


def _timeout(fault: dict[str, Any], form: Format, reply: Callable[[], Reply]) -> Sent:
    return Sent(None, wait_s=fault.get("seconds", 60))


def _slow(fault: dict[str, Any], form: Format, reply: Callable[[], Reply]) -> Sent:
    return Sent(reply(), wait_s=fault.get("seconds", 2))


def _drop(fault: dict[str, Any], form: Format, reply: Callable[[], Reply]) -> Sent:
    return Sent(None)


def _truncated(fault: dict[str, Any], form: Format, reply: Callable[[], Reply]) -> Sent:
    found = reply()
    half = len(found.body) // 2
    if fault.get("content_length") == "lies":
        return Sent(found, cut_at=half, compress=False)
    return Sent(replace(found, body=found.body[:half]))


def _html(fault: dict[str, Any], form: Format, reply: Callable[[], Reply]) -> Sent:
    page = (
        b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking you.</body></html>"
    )
    return Sent(Reply(fault.get("status", 200), page, "text/html; charset=utf-8"))


def _null(fault: dict[str, Any], form: Format, reply: Callable[[], Reply]) -> Sent:
    return Sent(replace(reply(), body=b"null"))


def _empty(fault: dict[str, Any], form: Format, reply: Callable[[], Reply]) -> Sent:
    found = reply()
    return Sent(replace(found, body=b"[]" if found.body.lstrip().startswith(b"[") else b"{}"))


def _large(fault: dict[str, Any], form: Format, reply: Callable[[], Reply]) -> Sent:
    found = reply()
    # spaces after the value: it stays valid JSON, so that only its size is wrong
    body = found.body + b" " * max(0, int(fault.get("bytes", 100_000_000)) + 1 - len(found.body))
    return Sent(replace(found, body=body), compress=False)


def _redirect(fault: dict[str, Any], form: Format, reply: Callable[[], Reply]) -> Sent:
    return Sent(Reply(302, b"", headers={"Location": str(fault.get("location", "/"))}))


def _drift(fault: dict[str, Any], form: Format, reply: Callable[[], Reply]) -> Sent:
    found = reply()
    change = _DRIFTS[fault.get("drift") or "renamed"]
    return Sent(replace(found, body=written(change(json.loads(found.body)))))


def _renamed(payload: Any) -> Any:
    """Every field of the innermost objects under a new name."""
    if isinstance(payload, list):
        return [_renamed(item) for item in payload]
    if not isinstance(payload, dict):
        return payload
    inner = not any(isinstance(value, dict) for value in payload.values()) and "result" not in payload
    return {f"{key}_v2" if inner else key: _renamed(value) for key, value in payload.items()}


def _with_scalar(payload: Any) -> Any:
    """A date among the rows, as one exchange really sent it."""
    if isinstance(payload, list):
        return [*payload, "1566801953000"]
    if isinstance(payload.get("result"), dict | list):
        return {**payload, "result": _with_scalar(payload["result"])}
    return {**payload, "date": "1566801953000"}


def _not_available(payload: Any) -> Any:
    """Every number, bare or as text, turned to "N/A"."""
    if isinstance(payload, list):
        return [_not_available(item) for item in payload]
    if isinstance(payload, dict):
        return {key: _not_available(value) for key, value in payload.items()}
    numeric = isinstance(payload, str) and payload.replace(".", "").removeprefix("-").isdecimal()
    return (
        "N/A" if numeric or (isinstance(payload, int | float) and not isinstance(payload, bool)) else payload
    )


_DRIFTS = {"renamed": _renamed, "scalar": _with_scalar, "not_available": _not_available}
_KINDS: dict[str, _Maker] = {
    "429": partial(_error, "rate_limit", 429),
    "500": partial(_error, "internal", 500),
    "503": partial(_error, "unavailable", 503),
    "451": partial(_error, "restricted", 451),
    "418": partial(_error, "banned", 418),
    "missing": partial(_error, "unavailable", 503),
    "error_body": partial(_error, "rate_limit", None),
    "timeout": _timeout,
    "slow": _slow,
    "drop": _drop,
    "truncated": _truncated,
    "html": _html,
    "null": _null,
    "empty": _empty,
    "large": _large,
    "redirect": _redirect,
    "drift": _drift,
}
