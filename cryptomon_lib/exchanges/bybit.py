"""Bybit spot. Source: bybit-exchange.github.io/docs/v5/market.

Success is `retCode` 0, with HTTP 200 either way; from some countries an HTML page of HTTP 403 comes instead.
`price24hPcnt` is a fraction, `turnover24h` the quote volume; empty texts are usual. One time for all rows. Symbols are
joined, so base and quote come from the list. Candles are newest first.
"""

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from cryptomon_lib.fields import Listed, ascending, pick, row_type
from cryptomon_lib.payloads import Request
from cryptomon_lib.shape import Columns, Instrument, Number, Rows

HOST = "api.bybit.com"
TICKERS = "/v5/market/tickers?category=spot"
CANDLES = "/v5/market/kline"
INSTRUMENTS = "/v5/market/instruments-info?category=spot"
SPLIT_BY_INSTRUMENTS = True
CANDLES_MAX = 1000
CANDLES_KEPT = None
CALLS_PER_MIN = 600
ELSEWHERE = "https://api.bytick.com"
FIELDS = {
    "symbol": "symbol",
    "price": "lastPrice",
    "bid": "bid1Price",
    "ask": "ask1Price",
    "open_24h": "prevPrice24h",
    "high_24h": "highPrice24h",
    "low_24h": "lowPrice24h",
    "change_24h_pct": "price24hPcnt * 100",
    "volume_24h": "volume24h",
    "quote_volume_24h": "turnover24h",
}
# beside the rows, for all of them
OF_THE_PAYLOAD = {"exchange_at": "time"}
CANDLE_FIELDS = {
    "opened_at_ms": "[0]",
    "open": "[1]",
    "high": "[2]",
    "low": "[3]",
    "close": "[4]",
    "volume": "[5]",
    "quote_volume": "[6]",
}

T = TypeVar("T")


class _Result(msgspec.Struct, Generic[T], rename={"rows": "list"}):
    rows: list[T]


class _Envelope(msgspec.Struct, Generic[T]):
    result: _Result[T]
    time: Number = None


class _Symbol(msgspec.Struct, gc=False):
    symbol: str
    baseCoin: str
    quoteCoin: str
    status: str = "Trading"


class _Refusal(msgspec.Struct):
    retCode: int = 0
    retMsg: str = ""


_TICKERS = Rows(row_type(FIELDS), lambda row: _Envelope[row], lambda body: body.result.rows)
_TIME = msgspec.json.Decoder(_Envelope[msgspec.Raw])
_CANDLES = Rows(Listed, lambda row: _Envelope[row], lambda body: body.result.rows)
_SYMBOLS = Rows(_Symbol, lambda row: _Envelope[row], lambda body: body.result.rows)
_REFUSAL = msgspec.json.Decoder(_Refusal)


def refused(body: bytes) -> str | None:
    """Bybit says what is wrong in `retCode` and `retMsg`."""
    says = _REFUSAL.decode(body)
    return f"{says.retCode} {says.retMsg}" if says.retCode else None


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all symbols, one entry per symbol."""
    _, rows, rejected = _TICKERS.decode(body)
    return pick(rows, FIELDS) | {"exchange_at": [_TIME.decode(body).time] * len(rows)}, rejected


def list_symbols(body: bytes) -> list[str]:
    """The names of all symbols of a tickers payload."""
    return [row.symbol for row in _TICKERS.decode(body)[1]]


def read_instruments(body: bytes) -> list[Instrument]:
    """All symbols of the spot market."""
    _, rows, _ = _SYMBOLS.decode(body)
    return [
        Instrument(row.symbol, row.baseCoin.upper(), row.quoteCoin.upper(), trading=row.status == "Trading")
        for row in rows
    ]


def candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """One symbol's candles that opened from a moment to another."""
    return Request(
        "bybit",
        "candles",
        HOST,
        CANDLES,
        query=(
            ("category", "spot"),
            ("symbol", instrument.symbol),
            ("interval", "1"),
            ("limit", str(CANDLES_MAX)),
        ),
        window=(("start", str(int(since.timestamp()) * 1000)), ("end", str(int(until.timestamp()) * 1000))),
        symbol=instrument.symbol,
    )


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one symbol's candles, in the order that they opened."""
    _, rows, rejected = _CANDLES.decode(body)
    return pick(ascending(rows, "[0]"), CANDLE_FIELDS), rejected
