"""Binance spot, from the market-data host that answers where api.binance.com does not.

Source: developers.binance.com, Spot, Market Data endpoints. Symbols are joined without a separator, so base
and quote come from exchangeInfo. Dead markets stay listed with zeros and a stale closeTime.
"""

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from cryptomon_lib.fields import Listed, ascending, pick, row_type
from cryptomon_lib.payloads import Request
from cryptomon_lib.shape import Columns, Instrument, Rows

HOST = "data-api.binance.vision"
CALLS_PER_MIN = 600
ELSEWHERE = "https://data-api.binance.vision"
TICKERS = "/api/v3/ticker/24hr"
CANDLES = "/api/v3/klines"
INSTRUMENTS = "/api/v3/exchangeInfo"
SPLIT_BY_INSTRUMENTS = True
CANDLES_MAX = 1000
CANDLES_KEPT = None
FIELDS = {
    "symbol": "symbol",
    "price": "lastPrice",
    "bid": "bidPrice",
    "ask": "askPrice",
    "open_24h": "openPrice",
    "high_24h": "highPrice",
    "low_24h": "lowPrice",
    "change_24h": "priceChange",
    "change_24h_pct": "priceChangePercent",
    "volume_24h": "volume",
    "quote_volume_24h": "quoteVolume",
    "exchange_at": "closeTime",
}
CANDLE_FIELDS = {
    "opened_at_ms": "[0]",
    "open": "[1]",
    "high": "[2]",
    "low": "[3]",
    "close": "[4]",
    "volume": "[5]",
    "quote_volume": "[7]",
    "trades": "[8]",
}

T = TypeVar("T")


class _Symbol(msgspec.Struct, gc=False):
    symbol: str
    baseAsset: str
    quoteAsset: str
    status: str = "TRADING"


class _Info(msgspec.Struct, Generic[T]):
    symbols: list[T]


class _Refusal(msgspec.Struct):
    code: int | None = None
    msg: str | None = None


_TICKERS = Rows(row_type(FIELDS), lambda row: list[row])
_SYMBOLS = Rows(_Symbol, lambda row: _Info[row], lambda body: body.symbols)
_CANDLES = Rows(Listed, lambda row: list[row])
_REFUSAL = msgspec.json.Decoder(_Refusal)


def refused(body: bytes) -> str | None:
    """Binance says what is wrong in `code` and `msg`."""
    if body.lstrip()[:1] != b"{":
        return None
    says = _REFUSAL.decode(body)
    return f"{says.code} {says.msg}" if says.msg is not None and says.code is not None else says.msg


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all symbols, one entry per symbol."""
    _, rows, rejected = _TICKERS.decode(body)
    return pick(rows, FIELDS), rejected


def list_symbols(body: bytes) -> list[str]:
    """The names of all symbols of a tickers payload, without looking at the rows."""
    return [row.symbol for row in _TICKERS.decode(body)[1]]


def read_instruments(body: bytes) -> list[Instrument]:
    """All symbols, those that trade no more too: history names them."""
    _, rows, _ = _SYMBOLS.decode(body)
    return [
        Instrument(row.symbol, row.baseAsset, row.quoteAsset, trading=row.status == "TRADING") for row in rows
    ]


def candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """One symbol's candles that opened since a moment, at most 1,000."""
    minutes = int((until - since).total_seconds() // 60) + 1
    return Request(
        "binance",
        "candles",
        HOST,
        CANDLES,
        query=(("symbol", instrument.symbol), ("interval", "1m")),
        window=(("startTime", str(int(since.timestamp() * 1000))), ("limit", str(min(minutes, CANDLES_MAX)))),
        symbol=instrument.symbol,
    )


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one symbol's candles, in the order that they opened."""
    _, rows, rejected = _CANDLES.decode(body)
    return pick(ascending(rows, "[0]"), CANDLE_FIELDS), rejected
