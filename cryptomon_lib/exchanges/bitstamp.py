"""Bitstamp spot. Source: www.bitstamp.net/api, Tickers and Market info.

`open` is since 00:00 UTC and `open_24` of 24 h ago; `percent_change_24` is in percent and may be null; `volume` is the
base volume, and times `vwap` the quote volume. Rows of another `market_type` than SPOT are left out: their volumes
count contracts. Each row has its own time, in seconds.
"""

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from cryptomon_lib.fields import ascending, pairs, pick, row_type, split_at
from cryptomon_lib.payloads import Request
from cryptomon_lib.shape import Columns, Instrument, Number, Rows

HOST = "www.bitstamp.net"
TICKERS = "/api/v2/ticker/"
CANDLES = "/api/v2/ohlc/{symbol}/"
INSTRUMENTS = "/api/v2/trading-pairs-info/"
CANDLES_MAX = 1000
CANDLES_KEPT = None
CALLS_PER_MIN = 600
FIELDS = {
    "symbol": "pair",
    "price": "last",
    "bid": "bid",
    "ask": "ask",
    "open_24h": "open_24",
    "high_24h": "high",
    "low_24h": "low",
    "change_24h_pct": "percent_change_24",
    "volume_24h": "volume",
    "quote_volume_24h": "volume * vwap",
    "exchange_at": "timestamp * 1000",
}
CANDLE_FIELDS = {
    "opened_at_ms": "timestamp * 1000",
    "open": "open",
    "high": "high",
    "low": "low",
    "close": "close",
    "volume": "volume",
}

T = TypeVar("T")


class _Candle(msgspec.Struct, gc=False):
    timestamp: Number
    open: Number = None
    high: Number = None
    low: Number = None
    close: Number = None
    volume: Number = None


class _Ohlc(msgspec.Struct, Generic[T]):
    ohlc: list[T]


class _Envelope(msgspec.Struct, Generic[T]):
    data: _Ohlc[T]


class _Pair(msgspec.Struct, gc=False):
    name: str
    trading: str = "Enabled"


class _Refusal(msgspec.Struct):
    status: str | None = None
    reason: object = None
    error: object = None
    code: str | int | None = None


_TICKERS = Rows(row_type(FIELDS, market_type=str | None), lambda row: list[row])
_CANDLES = Rows(_Candle, lambda row: _Envelope[row], lambda body: body.data.ohlc)
_PAIRS = Rows(_Pair, lambda row: list[row])
_REFUSAL = msgspec.json.Decoder(_Refusal)
split = split_at("/")


def refused(body: bytes) -> str | None:
    """Bitstamp says what is wrong in `reason`, or in `error`, which may hold lists of reasons."""
    if body.lstrip()[:1] != b"{":
        return None
    says = _REFUSAL.decode(body)
    why = says.reason or says.error
    return f"{says.code} {why}" if why and says.code else why and str(why)


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all spot pairs, one entry per pair."""
    rows, rejected = _spot(body)
    columns = pick(rows, FIELDS)
    return columns | pairs(columns["symbol"], split), rejected


def list_symbols(body: bytes) -> list[str]:
    """The names of all spot pairs of a tickers payload."""
    return [row.pair for row in _spot(body)[0]]


def read_instruments(body: bytes) -> list[Instrument]:
    """All pairs, those that cannot be traded now too."""
    _, rows, _ = _PAIRS.decode(body)
    return [
        Instrument(row.name, *split(row.name), trading=row.trading == "Enabled")
        for row in rows
        if split(row.name)[0]
    ]


def in_routes(instrument: Instrument) -> str:
    """The pair as routes of one market name it."""
    return instrument.symbol.replace("/", "").lower()


def candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """One pair's candles that opened from a moment to another."""
    return Request(
        "bitstamp",
        "candles",
        HOST,
        CANDLES.format(symbol=in_routes(instrument)),
        query=(("step", "60"), ("limit", str(CANDLES_MAX))),
        window=(("start", str(int(since.timestamp()))), ("end", str(int(until.timestamp())))),
        symbol=instrument.symbol,
    )


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one pair's candles, in the order that they opened."""
    _, rows, rejected = _CANDLES.decode(body)
    return pick(ascending(rows, "timestamp"), CANDLE_FIELDS), rejected


def _spot(body: bytes) -> tuple[list, list]:
    _, rows, rejected = _TICKERS.decode(body)
    return [row for row in rows if row.market_type in (None, "SPOT")], rejected
