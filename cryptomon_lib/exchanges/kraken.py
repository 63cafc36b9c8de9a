"""Kraken spot. Source: docs.kraken.com/api, Spot REST, Market Data.

With `assetVersion=1` tickers are named BASE/QUOTE in plain codes, some with a venue suffix
(`AAVE/USD:BTNL`). Index 0 of a field is since 00:00 UTC, index 1 the last 24 h; `o` is the open since
midnight, so there is no 24 h change. Volume of the last 24 h times its average price is the quote volume.
"""

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from cryptomon_lib.fields import Listed, ascending, pairs, pick
from cryptomon_lib.payloads import Request
from cryptomon_lib.shape import Columns, Instrument, Number, Rows

HOST = "api.kraken.com"
CALLS_PER_MIN = 60
TICKERS = "/0/public/Ticker?assetVersion=1"
CANDLES = "/0/public/OHLC"
INSTRUMENTS = "/0/public/AssetPairs"
CANDLES_MAX = 720
CANDLES_KEPT = 720
FIELDS = {
    "price": "c[0]",
    "bid": "b[0]",
    "ask": "a[0]",
    "high_24h": "h[1]",
    "low_24h": "l[1]",
    "volume_24h": "v[1]",
    "quote_volume_24h": "v[1] * p[1]",
    "volume_today": "v[0]",
}
CANDLE_FIELDS = {
    "opened_at_ms": "[0] * 1000",
    "open": "[1]",
    "high": "[2]",
    "low": "[3]",
    "close": "[4]",
    "volume": "[6]",
    "quote_volume": "[6] * [5]",
    "trades": "[7]",
}
DIFFERS = {
    "open_24h": "ccxt takes `o`, the open since 00:00 UTC, for the open of 24 h; here there is none",
    "change_24h": "follows from that open",
    "change_24h_pct": "follows from that open",
    "exchange_at": "the payload has no time; ccxt puts the moment at which it asked",
}

# codes that Kraken's older names of pairs use for what the rest of the field calls otherwise
_PLAIN = {"XBT": "BTC", "XDG": "DOGE"}
_OLD = {plain: old for old, plain in _PLAIN.items()}

T = TypeVar("T")


class _Envelope(msgspec.Struct, Generic[T]):
    result: dict[str, T]
    error: list = []


class _Ticker(msgspec.Struct, gc=False):
    c: list[Number] = []
    v: list[Number] = []
    p: list[Number] = []
    h: list[Number] = []
    l: list[Number] = []  # noqa: E741
    a: list[Number] = []
    b: list[Number] = []


class _Refusal(msgspec.Struct):
    error: list[str] = []


class _Pair(msgspec.Struct, gc=False):
    wsname: str = ""
    altname: str = ""
    status: str = "online"


_TICKERS = Rows(_Ticker, lambda row: _Envelope[row], lambda body: body.result)
_PAIRS = Rows(_Pair, lambda row: _Envelope[row], lambda body: body.result)
# beside the list of candles stands `last`, a number
_CANDLES = Rows(
    Listed,
    lambda row: _Envelope[list[row] | float],
    lambda body: next((rows for rows in body.result.values() if isinstance(rows, list)), []),
)
_REFUSAL = msgspec.json.Decoder(_Refusal)


def refused(body: bytes) -> str | None:
    """Kraken answers HTTP 200 with a list of errors, such as EGeneral:Too many requests."""
    return "; ".join(_REFUSAL.decode(body).error) or None


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all pairs, one entry per pair."""
    names, rows, rejected = _TICKERS.decode(body)
    return {"symbol": names} | pairs(names, split) | pick(rows, FIELDS), rejected


def split(symbol: str) -> tuple[str | None, str | None]:
    """Base and quote of `BASE/QUOTE[:VENUE]`; None, None where it is not of that form."""
    base, slash, quote = symbol.partition("/")
    quote = quote.partition(":")[0]
    if not (base and slash and quote):
        return None, None
    return _PLAIN.get(base, base).upper(), _PLAIN.get(quote, quote).upper()


def list_symbols(body: bytes) -> list[str]:
    """The names of all pairs of a tickers payload, without looking at the rows."""
    return _TICKERS.names(body)


def read_instruments(body: bytes) -> list[Instrument]:
    """All pairs under the names that tickers have."""
    _, rows, _ = _PAIRS.decode(body)
    found = []
    for row in rows:
        base, quote = split(row.wsname)
        if base and quote:
            found.append(Instrument(f"{base}/{quote}", base, quote, trading=row.status == "online"))
    return found


def in_routes(instrument: Instrument) -> str:
    """The pair as routes of one market name it."""
    return "".join(_OLD.get(code, code) for code in (instrument.base, instrument.quote))


def candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """One pair's candles since a moment; Kraken keeps the last 720 only."""
    return Request(
        "kraken",
        "candles",
        HOST,
        CANDLES,
        query=(("pair", in_routes(instrument)), ("interval", "1")),
        # `since` leaves out the candle that opened then
        window=(("since", str(int(since.timestamp()) - 1)),),
        symbol=instrument.symbol,
    )


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one pair's candles, in the order that they opened."""
    _, rows, rejected = _CANDLES.decode(body)
    return pick(ascending(rows, "[0]"), CANDLE_FIELDS), rejected
