"""What every simulated exchange's way of writing is made of: a request, a reply, an error, and how numbers are written.

A route is a pattern and a function of a Request that returns a body or raises Refused. What the numbers are comes from
a book: anything with `markets(exchange)`, `window(exchange, at_ms)` and `candles(market, first, last, at_ms, flat)`,
simulated or replayed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cryptomon_lib.simulated_market import DAY_MINUTES, MINUTE_MS, Candle, Part, Window, day_of
from cryptomon_lib.simulated_universe import Market


class Refused(Exception):
    """The exchange answers with one of its own errors; `kind` is a key of its Format's errors."""

    def __init__(self, kind: str):
        self.kind = kind
        super().__init__(kind)


class Down(Exception):
    """A replayed exchange has nothing for this moment."""


@dataclass(frozen=True)
class Reply:
    """What goes back over the socket."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One call: the words that the route's pattern caught, the query, and the moment that counts as now."""

    book: Any
    exchange: str
    caught: tuple[str, ...]
    query: dict[str, str]
    at_ms: int

    @property
    def now(self) -> int:
        """The running minute, since 1970."""
        return self.at_ms // MINUTE_MS

    def window(self) -> Window:
        """The exchange's tickers now."""
        return self.book.window(self.exchange, self.at_ms)

    def listed(self) -> list[Market]:
        """The markets that are traded today."""
        return [market for market in self.book.markets(self.exchange) if market.listed(day_of(self.now))]

    def candles(self, market: Market, first: int, last: int, flat: bool = False) -> list[Candle]:
        """One market's minutes first to last, both included."""
        return self.book.candles(market, first, last, self.at_ms, flat)


@dataclass(frozen=True)
class Format:
    """An exchange's routes (pattern of a path, what answers it), errors, and usual headers."""

    routes: dict[str, Callable[[Request], bytes]]
    errors: dict[str, tuple[int, bytes]]
    headers: dict[str, str] = field(default_factory=dict)

    def error(self, kind: str, status: int | None = None) -> Reply:
        """One of its errors, with the status that it has there, or another."""
        usual, body = self.errors.get(kind, self.errors["unavailable"])
        return Reply(status or usual, body, headers=self.headers)


def written(value: Any) -> bytes:
    """JSON without spaces, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def whole(text: str | None, otherwise: int) -> int:
    """A query's integer, or what stands for an absent one. Raises Refused("invalid")."""
    if text is None or text == "":
        return otherwise
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise Refused("invalid") from None


def plain(value: float, decimals: int) -> str:
    """A decimal without trailing zeros and without an exponent."""
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def columns_of(stretch: Part) -> Iterator[tuple[float, float, float, float, float, int]]:
    """Open, high, low, last, quote volume and trades, by market."""
    arrays = (stretch.open, stretch.high, stretch.low, stretch.last, stretch.quote_volume, stretch.trades)
    return zip(*(array.tolist() for array in arrays), strict=True)


def candles_from(
    request: Request, market: Market, first: int, last: int, limit: int, flat: bool = True
) -> list[Candle]:
    """The first `limit` candles from a minute on, across days on which the market was not listed."""
    found: list[Candle] = []
    for day in range(day_of(max(first, 0)), day_of(max(last, 0)) + 1):
        if market.listed(day):
            edges = max(first, day * DAY_MINUTES), min(last, (day + 1) * DAY_MINUTES - 1)
            found += request.candles(market, *edges, flat=flat)
        if len(found) >= limit:
            break
    return found[:limit]


def _generic_error(says: str) -> bytes:
    return written({"error": says})


UNKNOWN = Format(
    routes={},
    errors={
        "not_found": (404, _generic_error("not found")),
        "rate_limit": (429, _generic_error("too many requests")),
        "banned": (418, _generic_error("banned")),
        "restricted": (451, _generic_error("not available from your location")),
        "internal": (500, _generic_error("internal error")),
        "unavailable": (503, _generic_error("unavailable")),
    },
)
