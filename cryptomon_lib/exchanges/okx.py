"""OKX spot. Source: www.okx.com/docs-v5, Public Data and Market Data.

Success is `code` "0", whatever the HTTP status. For spot `vol24h` is the base and `volCcy24h` the quote volume; for
contracts they mean other things, so only `instType=SPOT` is flattened. There is no percent: it follows from `open24h`.
Candles are newest first; `confirm` "1" says that one is closed. The newest 1,440 minutes are under `candles`, older
ones under `history-candles`.
"""

from dataclasses import replace
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from cryptomon_lib.fields import Listed, ascending, pairs, pick, row_type, split_at
from cryptomon_lib.payloads import Request
from cryptomon_lib.shape import Columns, Instrument, Rows

HOST = "www.okx.com"
TICKERS = "/api/v5/market/tickers?instType=SPOT"
CANDLES = "/api/v5/market/candles"
OLDER_CANDLES = "/api/v5/market/history-candles"
INSTRUMENTS = "/api/v5/public/instruments?instType=SPOT"
CANDLES_MAX = 100
CANDLES_KEPT = None
CALLS_PER_MIN = 600
ELSEWHERE = "https://us.okx.com"
FIELDS = {
    "symbol": "instId",
    "price": "last",
    "bid": "bidPx",
    "ask": "askPx",
    "open_24h": "open24h",
    "high_24h": "high24h",
    "low_24h": "low24h",
    "volume_24h": "vol24h",
    "quote_volume_24h": "volCcy24h",
    "exchange_at": "ts",
}
CANDLE_FIELDS = {
    "opened_at_ms": "[0]",
    "open": "[1]",
    "high": "[2]",
    "low": "[3]",
    "close": "[4]",
    "volume": "[5]",
    "quote_volume": "[7]",
    "is_closed": "[8]",
}
DIFFERS = {
    "market": "ccxt has names of its own for codes that several coins share; here the exchange's stand",
}

T = TypeVar("T")


class _Envelope(msgspec.Struct, Generic[T]):
    data: list[T]


class _Instrument(msgspec.Struct, gc=False):
    instId: str
    baseCcy: str
    quoteCcy: str
    state: str = "live"


class _Refusal(msgspec.Struct):
    code: str | int = "0"
    msg: str = ""


_TICKERS = Rows(row_type(FIELDS), lambda row: _Envelope[row], lambda body: body.data)
_CANDLES = Rows(Listed, lambda row: _Envelope[row], lambda body: body.data)
_INSTRUMENTS = Rows(_Instrument, lambda row: _Envelope[row], lambda body: body.data)
_REFUSAL = msgspec.json.Decoder(_Refusal)
split = split_at("-")


def refused(body: bytes) -> str | None:
    """OKX says what is wrong in `code` and `msg`."""
    says = _REFUSAL.decode(body)
    return f"{says.code} {says.msg}" if str(says.code) != "0" else None


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all instruments, one entry per instrument."""
    _, rows, rejected = _TICKERS.decode(body)
    columns = pick(rows, FIELDS)
    return columns | pairs(columns["symbol"], split), rejected


def list_symbols(body: bytes) -> list[str]:
    """The names of all instruments of a tickers payload."""
    return [row.instId for row in _TICKERS.decode(body)[1]]


def read_instruments(body: bytes) -> list[Instrument]:
    """All instruments, those that are suspended too."""
    _, rows, _ = _INSTRUMENTS.decode(body)
    return [
        Instrument(row.instId, row.baseCcy.upper(), row.quoteCcy.upper(), trading=row.state == "live")
        for row in rows
    ]


def candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """One instrument's candles that opened from a moment to another, of the newest 1,440 minutes."""
    # `before` and `after` name candles that are left out
    before, after = int(since.timestamp()) * 1000 - 1, int(until.timestamp()) * 1000 + 1
    return Request(
        "okx",
        "candles",
        HOST,
        CANDLES,
        query=(("instId", instrument.symbol), ("bar", "1m"), ("limit", str(CANDLES_MAX))),
        window=(("before", str(before)), ("after", str(after))),
        symbol=instrument.symbol,
    )


def older_candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """The same of any minutes."""
    newer = candles_request(instrument, since, until)
    return replace(newer, route=OLDER_CANDLES)


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one instrument's candles, in the order that they opened."""
    _, rows, rejected = _CANDLES.decode(body)
    return pick(ascending(rows, "[0]"), CANDLE_FIELDS), rejected
