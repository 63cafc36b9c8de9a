"""Kraken spot. Source: docs.kraken.com/api, Spot REST, Market Data.

With `assetVersion=1` tickers are named BASE/QUOTE in plain codes, some with a venue suffix
(`AAVE/USD:BTNL`). Index 0 of a field is since 00:00 UTC, index 1 the last 24 h; `o` is the open since
midnight, so there is no 24 h change. Volume of the last 24 h times its average price is the quote volume.
"""

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from cryptomon_lib.payloads import Request
from cryptomon_lib.shape import Columns, Instrument, Number, Rows, numbers

HOST = "api.kraken.com"
CALLS_PER_MIN = 60
TICKERS = "/0/public/Ticker?assetVersion=1"
CANDLES = "/0/public/OHLC"
INSTRUMENTS = "/0/public/AssetPairs"
CANDLES_MAX = 720
CANDLES_KEPT = 720

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
_CANDLES = msgspec.json.Decoder(
    _Envelope[list[tuple[float, Number, Number, Number, Number, Number, Number, Number]] | float]
)
_REFUSAL = msgspec.json.Decoder(_Refusal)


def refused(body: bytes) -> str | None:
    """Kraken answers HTTP 200 with a list of errors, such as EGeneral:Too many requests."""
    return "; ".join(_REFUSAL.decode(body).error) or None


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all pairs, one entry per pair."""
    names, rows, rejected = _TICKERS.decode(body)
    pairs = [split(name) for name in names]
    volume, average = numbers([_at(row.v, 1) for row in rows]), numbers([_at(row.p, 1) for row in rows])
    return {
        "symbol": names,
        "base": [base for base, _ in pairs],
        "quote": [quote for _, quote in pairs],
        "price": [_at(row.c, 0) for row in rows],
        "bid": [_at(row.b, 0) for row in rows],
        "ask": [_at(row.a, 0) for row in rows],
        "high_24h": [_at(row.h, 1) for row in rows],
        "low_24h": [_at(row.l, 1) for row in rows],
        "volume_24h": volume,
        "quote_volume_24h": volume * average,
        "volume_today": [_at(row.v, 0) for row in rows],
    }, rejected


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


def candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """One pair's candles since a moment; Kraken keeps the last 720 only."""
    pair = "".join(_OLD.get(code, code) for code in (instrument.base, instrument.quote))
    return Request(
        "kraken",
        "candles",
        HOST,
        CANDLES,
        query=(("pair", pair), ("interval", "1")),
        # `since` leaves out the candle that opened then
        window=(("since", str(int(since.timestamp()) - 1)),),
        symbol=instrument.symbol,
    )


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one pair's candles, in the order that they opened."""
    result = _CANDLES.decode(body).result
    rows = next((rows for rows in result.values() if isinstance(rows, list)), [])
    opened, opening, high, low, close, average, volume, trades = (
        zip(*rows, strict=True) if rows else ((),) * 8
    )
    return {
        "opened_at_ms": [seconds * 1000 for seconds in opened],
        "open": opening,
        "high": high,
        "low": low,
        "close": close,
        "volume": volume,
        "quote_volume": numbers(volume) * numbers(average),
        "trades": trades,
    }, []


def _at(values: list, index: int) -> Number:
    return values[index] if len(values) > index else None
