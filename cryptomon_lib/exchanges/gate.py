"""Gate spot. Source: www.gate.com/docs/developers/apiv4, Spot.

`change_percentage` is in percent; there is no open, no absolute change and no time. A market without a trade has high
and low 0 beside its last price, and an empty text where its book has no bid or ask. Leveraged tokens (BTC3S) are
listed among the spot markets. Candles have an order of their own: quote volume first, close before high, low and
open. Only the newest 10,000 minutes can be asked for.
"""

from datetime import datetime

import msgspec

from cryptomon_lib.fields import Listed, ascending, pairs, pick, row_type, split_at
from cryptomon_lib.payloads import Request
from cryptomon_lib.shape import Columns, Instrument, Rows

HOST = "api.gateio.ws"
TICKERS = "/api/v4/spot/tickers"
CANDLES = "/api/v4/spot/candlesticks"
INSTRUMENTS = "/api/v4/spot/currency_pairs"
# 1,000 by the document; with `from` and `to`, which are both included, one less
CANDLES_MAX = 999
# a call that reaches back further is refused as a whole
CANDLES_KEPT = 9_990
CALLS_PER_MIN = 1200
FIELDS = {
    "symbol": "currency_pair",
    "price": "last",
    "bid": "highest_bid",
    "ask": "lowest_ask",
    "high_24h": "high_24h",
    "low_24h": "low_24h",
    "change_24h_pct": "change_percentage",
    "volume_24h": "base_volume",
    "quote_volume_24h": "quote_volume",
}
CANDLE_FIELDS = {
    "opened_at_ms": "[0] * 1000",
    "open": "[5]",
    "high": "[3]",
    "low": "[4]",
    "close": "[2]",
    "volume": "[6]",
    "quote_volume": "[1]",
    "is_closed": "[7]",
}
DIFFERS = {
    "market": "ccxt has names of its own for codes that several coins share; here the exchange's stand",
}


class _Pair(msgspec.Struct, gc=False):
    id: str
    base: str
    quote: str
    trade_status: str = "tradable"


class _Refusal(msgspec.Struct):
    label: str | None = None
    message: str | None = None


_TICKERS = Rows(row_type(FIELDS), lambda row: list[row])
_CANDLES = Rows(Listed, lambda row: list[row])
_PAIRS = Rows(_Pair, lambda row: list[row])
_REFUSAL = msgspec.json.Decoder(_Refusal)
split = split_at("_")


def refused(body: bytes) -> str | None:
    """Gate says what is wrong in `label` and `message`."""
    if body.lstrip()[:1] != b"{":
        return None
    says = _REFUSAL.decode(body)
    return f"{says.label} {says.message or ''}".rstrip() if says.label else says.message


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all pairs, one entry per pair."""
    _, rows, rejected = _TICKERS.decode(body)
    columns = pick(rows, FIELDS)
    return columns | pairs(columns["symbol"], split), rejected


def list_symbols(body: bytes) -> list[str]:
    """The names of all pairs of a tickers payload."""
    return [row.currency_pair for row in _TICKERS.decode(body)[1]]


def read_instruments(body: bytes) -> list[Instrument]:
    """All pairs, those that cannot be traded now too."""
    _, rows, _ = _PAIRS.decode(body)
    return [
        Instrument(row.id, row.base.upper(), row.quote.upper(), trading=row.trade_status == "tradable")
        for row in rows
    ]


def candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """One pair's candles that opened from a moment to another."""
    return Request(
        "gate",
        "candles",
        HOST,
        CANDLES,
        query=(("currency_pair", instrument.symbol), ("interval", "1m")),
        window=(("from", str(int(since.timestamp()))), ("to", str(int(until.timestamp())))),
        symbol=instrument.symbol,
    )


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one pair's candles, in the order that they opened."""
    _, rows, rejected = _CANDLES.decode(body)
    return pick(ascending(rows, "[0]"), CANDLE_FIELDS), rejected
