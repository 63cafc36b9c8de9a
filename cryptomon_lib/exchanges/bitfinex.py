"""Bitfinex. Source: docs.bitfinex.com/reference, rest-public-tickers, rest-public-candles, rest-public-conf.

A row is a list. Rows of funding currencies (`fUSD`) are no markets and are left out. `[6]` is a fraction; there is no
quote volume. A symbol is `t` and two codes of three letters, or codes of any length parted by `:`; `F0` at their ends
marks a perpetual. Some codes are Bitfinex's own (UST is USDT): its list of instruments has the map, and the commonest
are known here. Candles have the close before high and low; a minute without a trade is absent.
"""

from datetime import datetime

import msgspec

from cryptomon_lib.errors import PayloadError
from cryptomon_lib.fields import Listed, ascending, pairs, pick
from cryptomon_lib.payloads import Request
from cryptomon_lib.shape import Columns, Instrument, Rows

HOST = "api-pub.bitfinex.com"
TICKERS = "/v2/tickers?symbols=ALL"
CANDLES = "/v2/candles/trade:1m:{symbol}/hist"
INSTRUMENTS = "/v2/conf/pub:list:pair:exchange,pub:list:pair:futures,pub:map:currency:sym"
SPLIT_BY_INSTRUMENTS = True
CANDLES_MAX = 10_000
CANDLES_KEPT = None
CALLS_PER_MIN = 30
FIELDS = {
    "symbol": "[0]",
    "price": "[7]",
    "bid": "[1]",
    "ask": "[3]",
    "open_24h": "[7] - [5]",
    "high_24h": "[9]",
    "low_24h": "[10]",
    "change_24h": "[5]",
    "change_24h_pct": "[6] * 100",
    "volume_24h": "[8]",
}
CANDLE_FIELDS = {
    "opened_at_ms": "[0]",
    "open": "[1]",
    "high": "[3]",
    "low": "[4]",
    "close": "[2]",
    "volume": "[5]",
}
DIFFERS = {
    "market": "ccxt renames codes by its own list; here by Bitfinex's, the commonest where it is not there",
    "exchange_at": "the payload has no time; ccxt puts the moment at which it asked",
}
# codes that differ from the rest of the field's, for payloads that no list of instruments came with
_PLAIN = {
    "UST": "USDT",
    "UDC": "USDC",
    "DSH": "DASH",
    "IOT": "IOTA",
    "QTM": "QTUM",
    "MNA": "MANA",
    "ALG": "ALGO",
}
_PERPETUAL = "F0"

_TICKERS = Rows(Listed, lambda row: list[row])
_CONF = msgspec.json.Decoder(list[list[str | tuple[str, str]]])
_REFUSAL = msgspec.json.Decoder(tuple[str, int | None, str])


def refused(body: bytes) -> str | None:
    """Bitfinex answers a list: "error", a code that may be null, and what is wrong."""
    if not body.lstrip().startswith(b'["error"'):
        return None
    _, code, says = _REFUSAL.decode(body)
    return f"{code} {says}" if code is not None else says


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all pairs, one entry per pair."""
    rows, rejected = _pairs_of(body)
    columns = pick(rows, FIELDS)
    kinds = ["perpetual" if symbol.endswith(_PERPETUAL) else "spot" for symbol in columns["symbol"]]
    return columns | pairs(columns["symbol"], split) | {"kind": kinds}, rejected


def split(symbol: str) -> tuple[str | None, str | None]:
    """Base and quote of `tBTCUSD` or `tDUSK:USD`; None, None where it is not of that form."""
    return _split(symbol, _PLAIN)


def list_symbols(body: bytes) -> list[str]:
    """The names of all pairs of a tickers payload."""
    return [row[0] for row in _pairs_of(body)[0]]


def read_instruments(body: bytes) -> list[Instrument]:
    """All pairs that can be traded, spot and perpetual, in plain codes."""
    *lists, renamed = _CONF.decode(body)
    plain = _PLAIN | {one[0]: one[1].upper() for one in renamed if isinstance(one, tuple)}
    found = []
    for symbol in (f"t{pair}" for listed in lists for pair in listed if isinstance(pair, str)):
        base, quote = _split(symbol, plain)
        if base and quote:
            kind = "perpetual" if symbol.endswith(_PERPETUAL) else "spot"
            found.append(Instrument(symbol, base, quote, kind))
    return found


def candles_request(instrument: Instrument, since: datetime, until: datetime) -> Request:
    """One pair's candles that opened from a moment to another."""
    return Request(
        "bitfinex",
        "candles",
        HOST,
        CANDLES.format(symbol=instrument.symbol),
        query=(("limit", str(CANDLES_MAX)), ("sort", "1")),
        window=(("start", str(int(since.timestamp()) * 1000)), ("end", str(int(until.timestamp()) * 1000))),
        symbol=instrument.symbol,
    )


def flatten_candles(body: bytes) -> tuple[Columns, list]:
    """Columns of one pair's candles, in the order that they opened."""
    _, rows, rejected = _TICKERS.decode(body)
    return pick(ascending(rows, "[0]"), CANDLE_FIELDS), rejected


def _split(symbol: str, plain: dict[str, str]) -> tuple[str | None, str | None]:
    pair = symbol.removeprefix("t")
    base, colon, quote = pair.partition(":") if ":" in pair else (pair[:3], len(pair) == 6, pair[3:])
    if not (base and colon and quote):
        return None, None
    base, quote = (
        code.removesuffix(_PERPETUAL) if pair.endswith(_PERPETUAL) else code for code in (base, quote)
    )
    return plain.get(base, base).upper(), plain.get(quote, quote).upper()


def _pairs_of(body: bytes) -> tuple[list, list]:
    """Rows of pairs, without those of funding; (name, reason) of what is neither."""
    _, rows, rejected = _TICKERS.decode(body)
    good = []
    for row in rows:
        name = row[0] if row and isinstance(row[0], str) else None
        if name is None or name[:1] not in ("t", "f"):
            rejected.append(
                (str(row)[:40], "not of a row's form: a row begins with the symbol of a pair or funding")
            )
        elif name.startswith("t"):
            good.append(row)
    if not good and rejected:
        raise PayloadError(f"No row of the payload has the documented form; the first: {rejected[0]}.")
    return good, rejected
