"""Bitget spot. Source: www.bitget.com/api-doc/spot/market.

Success is `code` "00000". `change24h` is a fraction. Payloads of the first version of the API, which has been replaced,
are read too: they name the same things otherwise, and their bids and asks `buyOne` and `sellOne`. Symbols are joined,
so base and quote come from the list. Candles give the volume in USDT before the quote volume.
"""

from dataclasses import replace
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from cryptomon_lib.fields import Listed, ascending, pick, row_type
from cryptomon_lib.payloads import Request
from cryptomon_lib.shape import Columns, Instrument, Rows

HOST = "api.bitget.com"
TICKERS = "/api/v2/spot/market/tickers"
CANDLES = "/api/v2/spot/market/candles"
OLDER_CANDLES = "/api/v2/spot/market/history-candles"
INSTRUMENTS = "/api/v2/spot/public/symbols"
SPLIT_BY_INSTRUMENTS = True
# 1,000 of the last month; what is older comes from another route, 200 a call
CANDLES_MAX = 200
CANDLES_KEPT = None
CALLS_PER_MIN = 600
FIELDS = {
    "symbol": "symbol",
    "price": "lastPr",
    "bid": "bidPr",
    "ask": "askPr",
    "open_24h": "open",
    "high_24h": "high24h",
    "low_24h": "low24h",
    "change_24h_pct": "change24h * 100",
    "volume_24h": "baseVolume",
    "quote_volume_24h": "quoteVolume",
    "exchange_at": "ts",
}
# the API's first version
OLD_FIELDS = {
    "symbol": "symbol",
    "price": "close",
    "bid": "buyOne",
    "ask": "sellOne",
    "high_24h": "high24h",
    "low_24h": "low24h",
    "change_24h_pct": "change * 100",
    "volume_24h": "baseVol",
    "quote_volume_24h": "quoteVol",
    "exchange_at": "ts",
}
OLD_TICKERS = "/api/spot/v1/market/tickers"
CANDLE_FIELDS = {
    "opened_at_ms": "[0]",
    "open": "[1]",
    "high": "[2]",
    "low": "[3]",
    "close": "[4]",
    "volume": "[5]",
    "quote_volume": "[7]",
}
DIFFERS = {
    "change_24h_pct": "in the first version of the API ccxt left `change` out",
}

T = TypeVar("T")


class _Envelope(msgspec.Struct, Generic[T]):
    data: list[T]


class _Symbol(msgspec.Struct, gc=False):
    symbol: str
    baseCoin: str
    quoteCoin: str
    status: str = "online"


class _Refusal(msgspec.Struct):
    code: str | int = "00000"
    msg: str = ""


_TICKERS = Rows(row_type(FIELDS), lambda row: _Envelope[row], lambda body: body.data)
_OLD_TICKERS = Rows(row_type(OLD_FIELDS), lambda row: _Envelope[row], lambda body: body.data)
_CANDLES = Rows(Listed, lambda row: _Envelope[row], lambda body: body.data)
_SYMBOLS = Rows(_Symbol, lambda row: _Envelope[row], lambda body: body.data)
_REFUSAL = msgspec.json.Decoder(_Refusal)


def refused(body: bytes) -> str | None:
    """Bitget says what is wrong in `code` and `msg`."""
    says = _REFUSAL.decode(body)
    return f"{says.code} {says.msg}" if str(says.code) not in ("00000", "0") else None


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all symbols, one entry per symbol."""
    old = b'"baseVol"' in body
    _, rows, rejected = (_OLD_TICKERS if old else _TICKERS).decode(body)
    return pick(rows, OLD_FIELDS if old else FIELDS), rejected


def list_symbols(body: bytes) -> list[str]:
    """The names of all symbols of a tickers payload."""
    return [row.symbol for row in _TICKERS.decode(body)[1]]


def read_instruments(body: bytes) -> list[Instrument]:
    """All symbols, those that cannot be traded now too."""
    _, rows, _ = _SYMBOLS.decode(body)
    return [
        Instrument(row.symbol, row.baseCoin.upper(), row.quoteCoin.upper(), trading=row.status == "online")
        for row in rows
    ]


def candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """One symbol's candles that opened from a moment to another, of the last month."""
    # the end is left out
    start, end = int(since.timestamp()) * 1000, int(until.timestamp()) * 1000 + 60_000
    return Request(
        "bitget",
        "candles",
        HOST,
        CANDLES,
        query=(("symbol", instrument.symbol), ("granularity", "1min"), ("limit", str(CANDLES_MAX))),
        window=(("startTime", str(start)), ("endTime", str(end))),
        symbol=instrument.symbol,
    )


def older_candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """The same of any minutes."""
    newer = candles_request(instrument, since, until)
    # this route knows no start: it brings the newest `limit` before the end
    count = int((until - since).total_seconds() // 60) + 1
    query = (*newer.query[:2], ("limit", str(min(count, CANDLES_MAX))))
    return replace(newer, route=OLDER_CANDLES, query=query, window=newer.window[1:])


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one symbol's candles, in the order that they opened."""
    _, rows, rejected = _CANDLES.decode(body)
    return pick(ascending(rows, "[0]"), CANDLE_FIELDS), rejected
