"""Coinbase Exchange spot. Source: docs.cdp.coinbase.com/exchange, Products.

`products/stats` brings all products; a delisted one is absent. There is no quote volume and no time of the
exchange's own; the 24 h change follows from the open. Candles give the low before the high and both before the
open, newest first; a minute without a trade is absent.
"""

from datetime import datetime

import msgspec

from cryptomon_lib.fields import Listed, ascending, pairs, pick, split_at
from cryptomon_lib.payloads import Request
from cryptomon_lib.shape import Columns, Instrument, Number, Rows

HOST = "api.exchange.coinbase.com"
CALLS_PER_MIN = 300
TICKERS = "/products/stats"
INSTRUMENTS = "/products"
CANDLES = "/products/{symbol}/candles"
CANDLES_MAX = 300
CANDLES_KEPT = None
FIELDS = {
    "price": "stats_24hour.last",
    "open_24h": "stats_24hour.open",
    "high_24h": "stats_24hour.high",
    "low_24h": "stats_24hour.low",
    "volume_24h": "stats_24hour.volume",
}
CANDLE_FIELDS = {
    "opened_at_ms": "[0] * 1000",
    "open": "[3]",
    "high": "[2]",
    "low": "[1]",
    "close": "[4]",
    "volume": "[5]",
}


class _Day(msgspec.Struct, gc=False):
    open: Number = None
    high: Number = None
    low: Number = None
    last: Number = None
    volume: Number = None


class _Stats(msgspec.Struct, gc=False):
    stats_24hour: _Day | None = None

    def __post_init__(self):
        self.stats_24hour = self.stats_24hour or _Day()


class _Product(msgspec.Struct, gc=False):
    id: str
    base_currency: str
    quote_currency: str
    status: str = "online"


class _Refusal(msgspec.Struct):
    message: str | None = None


_STATS = Rows(_Stats, lambda row: dict[str, row])
_PRODUCTS = Rows(_Product, lambda row: list[row])
_CANDLES = Rows(Listed, lambda row: list[row])
_REFUSAL = msgspec.json.Decoder(_Refusal)
split = split_at("-")


def refused(body: bytes) -> str | None:
    """Coinbase says what is wrong in `message`."""
    return _REFUSAL.decode(body).message if body.lstrip()[:1] == b"{" else None


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all products, one entry per product."""
    names, rows, rejected = _STATS.decode(body)
    return {"symbol": names} | pairs(names, split) | pick(rows, FIELDS), rejected


def list_symbols(body: bytes) -> list[str]:
    """The names of all products of a tickers payload, without looking at the rows."""
    return _STATS.names(body)


def read_instruments(body: bytes) -> list[Instrument]:
    """All products."""
    _, rows, _ = _PRODUCTS.decode(body)
    return [
        Instrument(
            row.id, row.base_currency.upper(), row.quote_currency.upper(), trading=row.status == "online"
        )
        for row in rows
    ]


def candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """One product's candles that opened from a moment to another."""
    return Request(
        "coinbase",
        "candles",
        HOST,
        CANDLES.format(symbol=instrument.symbol),
        query=(("granularity", "60"),),
        window=(("start", f"{since:%Y-%m-%dT%H:%M:%SZ}"), ("end", f"{until:%Y-%m-%dT%H:%M:%SZ}")),
        symbol=instrument.symbol,
    )


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one product's candles, in the order that they opened."""
    _, rows, rejected = _CANDLES.decode(body)
    return pick(ascending(rows, "[0]"), CANDLE_FIELDS), rejected
