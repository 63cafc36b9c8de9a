"""KuCoin spot. Source: www.kucoin.com/docs-new, Spot Trading, Market Data.

Success is `code` "200000". `changeRate` is a fraction; `vol` is the base and `volValue` the quote volume. The snapshot
has one time for all rows (recordings of 2019 have none). Markets that never traded have null in place of numbers.
`symbol` stays when a currency is renamed, `symbolName` follows. Candles are newest first, close before high and low.
"""

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from cryptomon_lib.fields import Listed, ascending, pairs, pick, row_type, split_at
from cryptomon_lib.payloads import Request
from cryptomon_lib.shape import Columns, Instrument, Number, Rows

HOST = "api.kucoin.com"
TICKERS = "/api/v1/market/allTickers"
CANDLES = "/api/v1/market/candles"
INSTRUMENTS = "/api/v2/symbols"
CANDLES_MAX = 1500
CANDLES_KEPT = None
CALLS_PER_MIN = 200
FIELDS = {
    "symbol": "symbol",
    "price": "last",
    "bid": "buy",
    "ask": "sell",
    "open_24h": "last - changePrice",
    "high_24h": "high",
    "low_24h": "low",
    "change_24h": "changePrice",
    "change_24h_pct": "changeRate * 100",
    "volume_24h": "vol",
    "quote_volume_24h": "volValue",
}
# beside the rows, for all of them
OF_THE_PAYLOAD = {"exchange_at": "data.time"}
CANDLE_FIELDS = {
    "opened_at_ms": "[0] * 1000",
    "open": "[1]",
    "high": "[3]",
    "low": "[4]",
    "close": "[2]",
    "volume": "[5]",
    "quote_volume": "[6]",
}
DIFFERS = {
    "market": "ccxt has names of its own for codes that several coins share or that were renamed; here the exchange's stand",
}

T = TypeVar("T")


class _Snapshot(msgspec.Struct, Generic[T]):
    ticker: list[T]
    time: Number = None


class _Envelope(msgspec.Struct, Generic[T]):
    data: T


class _Symbol(msgspec.Struct, gc=False):
    symbol: str
    baseCurrency: str
    quoteCurrency: str
    enableTrading: bool = True


class _Refusal(msgspec.Struct):
    code: str | int = "200000"
    msg: str = ""


_ROW = row_type(FIELDS)
_TICKERS = Rows(_ROW, lambda row: _Envelope[_Snapshot[row]], lambda body: body.data.ticker)
_TIME = msgspec.json.Decoder(_Envelope[_Snapshot[msgspec.Raw]])
_CANDLES = Rows(Listed, lambda row: _Envelope[list[row]], lambda body: body.data)
_SYMBOLS = Rows(_Symbol, lambda row: _Envelope[list[row]], lambda body: body.data)
_REFUSAL = msgspec.json.Decoder(_Refusal)
split = split_at("-")


def refused(body: bytes) -> str | None:
    """KuCoin says what is wrong in `code` and `msg`."""
    says = _REFUSAL.decode(body)
    return f"{says.code} {says.msg}" if str(says.code) not in ("200000", "200") else None


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all symbols, one entry per symbol."""
    _, rows, rejected = _TICKERS.decode(body)
    columns = pick(rows, FIELDS)
    at = _TIME.decode(body).data.time
    return columns | pairs(columns["symbol"], split) | {"exchange_at": [at] * len(rows)}, rejected


def list_symbols(body: bytes) -> list[str]:
    """The names of all symbols of a tickers payload."""
    return [row.symbol for row in _TICKERS.decode(body)[1]]


def read_instruments(body: bytes) -> list[Instrument]:
    """All symbols, those that cannot be traded now too."""
    _, rows, _ = _SYMBOLS.decode(body)
    return [
        Instrument(row.symbol, *split(row.symbol), trading=row.enableTrading)
        for row in rows
        if split(row.symbol)[0]
    ]


def candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """One symbol's candles that opened from a moment to another."""
    # to the last second of the minute: it is in, whether or not the end counts as included
    return Request(
        "kucoin",
        "candles",
        HOST,
        CANDLES,
        query=(("type", "1min"), ("symbol", instrument.symbol)),
        window=(("startAt", str(int(since.timestamp()))), ("endAt", str(int(until.timestamp()) + 59))),
        symbol=instrument.symbol,
    )


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one symbol's candles, in the order that they opened."""
    _, rows, rejected = _CANDLES.decode(body)
    return pick(ascending(rows, "[0]"), CANDLE_FIELDS), rejected
