"""Cryptowatch, by replay: the service closed in September 2023, its format and its recordings live on.

An aggregator: keys are `exchange:pair`, pairs are joined in lower case, derivatives carry a dashed suffix.
`change.percentage` is a fraction. There is no bid, no ask and no time. Candles carry the time at which they close.
"""

import re
from typing import Generic, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from cryptomon_lib.fields import Listed, ascending, pick
from cryptomon_lib.shape import Columns, Instrument, Number, Rows

HOST = "api.cryptowat.ch"
TICKERS = "/markets/summaries"
CANDLES = "/markets/{exchange}/{pair}/ohlc"
INSTRUMENTS = "/pairs"
SPLIT_BY_INSTRUMENTS = True
CANDLES_MAX = 1000
CANDLES_KEPT = None
FIELDS = {
    "price": "price.last",
    "high_24h": "price.high",
    "low_24h": "price.low",
    "change_24h": "price.change.absolute",
    "change_24h_pct": "price.change.percentage * 100",
    "volume_24h": "volume",
    "quote_volume_24h": "volumeQuote",
}
CANDLE_FIELDS = {
    "opened_at_ms": "[0] * 1000 - 60000",
    "open": "[1]",
    "high": "[2]",
    "low": "[3]",
    "close": "[4]",
    "volume": "[5]",
    "quote_volume": "[6]",
}

T = TypeVar("T")


class _Envelope(msgspec.Struct, Generic[T]):
    result: dict[str, T]


class _Listed(msgspec.Struct, Generic[T]):
    result: list[T]


class _Change(msgspec.Struct, gc=False):
    absolute: Number = None
    percentage: Number = None


class _Price(msgspec.Struct, gc=False):
    last: Number = None
    high: Number = None
    low: Number = None
    change: _Change = msgspec.field(default_factory=_Change)


class _Summary(msgspec.Struct, gc=False):
    price: _Price
    volume: Number = None
    volumeQuote: Number = None


class _Currency(msgspec.Struct, gc=False):
    symbol: str


class _Pair(msgspec.Struct, gc=False):
    symbol: str
    base: _Currency
    quote: _Currency


class _Allowance(msgspec.Struct):
    allowance: dict[str, object] | None = None


class _Refusal(msgspec.Struct, gc=False):
    error: str | None = None


_SUMMARIES = Rows(_Summary, lambda row: _Envelope[row], lambda body: body.result)
# one list of candles per period, in seconds
_CANDLES = Rows(Listed, lambda row: _Envelope[list[row]], lambda body: body.result.get("60", []))
_PAIRS = Rows(_Pair, lambda row: _Listed[row], lambda body: body.result)
_ALLOWANCE = msgspec.json.Decoder(_Allowance)
_REFUSAL = msgspec.json.Decoder(_Refusal)


def refused(body: bytes) -> str | None:
    """Cryptowatch says what is wrong in `error`."""
    return _REFUSAL.decode(body).error


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all markets of all exchanges, one entry per key."""
    names, rows, rejected = _SUMMARIES.decode(body)
    exchanges, _, symbols = zip(*(name.partition(":") for name in names), strict=True) if names else ((),) * 3
    symbols = pa.array(symbols, pa.string())
    return {
        "exchange": exchanges,
        "symbol": symbols,
        "pair": pc.list_element(pc.split_pattern(symbols, "-", max_splits=1), 0),
        "kind": pc.if_else(
            pc.match_substring(symbols, "-perpetual"),
            "perpetual",
            pc.if_else(pc.match_substring(symbols, "-"), "future", "spot"),
        ),
    } | pick(rows, FIELDS), rejected


def allowance(body: bytes) -> str | None:
    """What the answer says of credits left."""
    left = _ALLOWANCE.decode(body).allowance
    return f"cost {left.get('cost')}, remaining {left.get('remaining')}" if left else None


def list_symbols(body: bytes) -> list[str]:
    """The names of all markets, `exchange:pair` of a tickers payload, without looking at the rows."""
    return _SUMMARIES.names(body)


def read_instruments(body: bytes) -> list[Instrument]:
    """All pairs; one pair trades on many exchanges."""
    _, rows, _ = _PAIRS.decode(body)
    return [Instrument(row.symbol, row.base.symbol.upper(), row.quote.symbol.upper()) for row in rows]


def candles_of(route: str) -> str | None:
    """The market whose candles a route brings: it stands in the route."""
    found = re.fullmatch("/markets/([^/]+)/([^/]+)/ohlc", route)
    return f"{found[1]}:{found[2]}" if found else None


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one market's candles, in the order that they opened; only of the period of a minute."""
    _, rows, rejected = _CANDLES.decode(body)
    return pick(ascending(rows, "[0]"), CANDLE_FIELDS), rejected
