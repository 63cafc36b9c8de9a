"""HTX (Huobi) spot. Source: www.htx.com/en-us/opend/newApiPages, Spot, Market Data.

Success is `status` "ok". Numbers are bare, some in exponents. `amount` is the base and `vol` the QUOTE volume. The
windows of a row's fields are not aligned: `vol` / `amount` lies outside low and high in 5 to 15 % of the rows. Symbols
are joined in lower case, so base and quote come from the list. Candles are the newest ones only, newest first.
"""

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from cryptomon_lib.fields import ascending, pick, row_type
from cryptomon_lib.payloads import Request
from cryptomon_lib.shape import Columns, Instrument, Number, Rows

HOST = "api.huobi.pro"
TICKERS = "/market/tickers"
CANDLES = "/market/history/kline"
INSTRUMENTS = "/v1/common/symbols"
SPLIT_BY_INSTRUMENTS = True
CANDLES_MAX = 2000
CANDLES_KEPT = 2000
CALLS_PER_MIN = 600
FIELDS = {
    "symbol": "symbol",
    "price": "close",
    "bid": "bid",
    "ask": "ask",
    "open_24h": "open",
    "high_24h": "high",
    "low_24h": "low",
    "volume_24h": "amount",
    "quote_volume_24h": "vol",
}
# beside the rows, for all of them
OF_THE_PAYLOAD = {"exchange_at": "ts"}
CANDLE_FIELDS = {
    "opened_at_ms": "id * 1000",
    "open": "open",
    "high": "high",
    "low": "low",
    "close": "close",
    "volume": "amount",
    "quote_volume": "vol",
    "trades": "count",
}

T = TypeVar("T")


class _Envelope(msgspec.Struct, Generic[T]):
    data: list[T]
    ts: Number = None


class _Candle(msgspec.Struct, gc=False):
    id: Number
    open: Number = None
    high: Number = None
    low: Number = None
    close: Number = None
    amount: Number = None
    vol: Number = None
    count: Number = None


class _Symbol(msgspec.Struct, gc=False, rename={"base": "base-currency", "quote": "quote-currency"}):
    symbol: str
    base: str
    quote: str
    state: str = "online"


class _Refusal(msgspec.Struct, rename={"code": "err-code", "message": "err-msg"}):
    status: str = "ok"
    code: str | int | None = None
    message: str | None = None


_TICKERS = Rows(row_type(FIELDS), lambda row: _Envelope[row], lambda body: body.data)
_TIME = msgspec.json.Decoder(_Envelope[msgspec.Raw])
_CANDLES = Rows(_Candle, lambda row: _Envelope[row], lambda body: body.data)
_SYMBOLS = Rows(_Symbol, lambda row: _Envelope[row], lambda body: body.data)
_REFUSAL = msgspec.json.Decoder(_Refusal)


def refused(body: bytes) -> str | None:
    """HTX says what is wrong in `err-code` and `err-msg`."""
    says = _REFUSAL.decode(body)
    return f"{says.code} {says.message}" if says.status == "error" else None


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all symbols, one entry per symbol."""
    _, rows, rejected = _TICKERS.decode(body)
    return pick(rows, FIELDS) | {"exchange_at": [_TIME.decode(body).ts] * len(rows)}, rejected


def list_symbols(body: bytes) -> list[str]:
    """The names of all symbols of a tickers payload."""
    return [row.symbol for row in _TICKERS.decode(body)[1]]


def read_instruments(body: bytes) -> list[Instrument]:
    """All symbols, those that are offline too: history names them."""
    _, rows, _ = _SYMBOLS.decode(body)
    return [
        Instrument(row.symbol, row.base.upper(), row.quote.upper(), trading=row.state == "online")
        for row in rows
    ]


def candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """One symbol's newest candles, as many as there are minutes from a moment until now, which is the other."""
    minutes = int((until - since).total_seconds() // 60) + 1
    return Request(
        "htx",
        "candles",
        HOST,
        CANDLES,
        query=(("symbol", instrument.symbol), ("period", "1min")),
        # one more: a poll that comes late finds the next minute begun
        window=(("size", str(min(minutes + 1, CANDLES_MAX))),),
        symbol=instrument.symbol,
    )


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one symbol's candles, in the order that they opened."""
    _, rows, rejected = _CANDLES.decode(body)
    return pick(ascending(rows, "id"), CANDLE_FIELDS), rejected
