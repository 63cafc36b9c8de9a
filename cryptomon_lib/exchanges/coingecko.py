"""CoinGecko: coins, not markets. Source: docs.coingecko.com, coins/markets.

A row is a coin's price in US dollars over all exchanges, so `total_volume` is a quote volume and there is no base
volume, bid or ask. `symbol` is not unique (several coins call themselves WETH): a market is known by the coin's `id`.
The list comes in pages, the largest coins first. It answers without a key, about 5 to 15 calls a minute; a demo key
in the header gives 30 a minute and 10,000 a month. Data is a minute old or more. There are no one-minute candles.
"""

from datetime import datetime
from typing import TypeVar

import msgspec

from cryptomon_lib.fields import pick, row_type
from cryptomon_lib.shape import Columns, Rows

HOST = "api.coingecko.com"
TICKERS = "/api/v3/coins/markets?vs_currency=usd&per_page=250"
# calls of one slot: the thousand largest coins
TICKERS_PAGES = 4
KEY_HEADER = "x-cg-demo-api-key"
CALLS_PER_MIN = 5
FIELDS = {
    "symbol": "id",
    "base": "symbol",
    "price": "current_price",
    "high_24h": "high_24h",
    "low_24h": "low_24h",
    "change_24h": "price_change_24h",
    "change_24h_pct": "price_change_percentage_24h",
    "quote_volume_24h": "total_volume",
    "exchange_at": "last_updated",
}

T = TypeVar("T")


class _Status(msgspec.Struct):
    error_code: int | None = None
    error_message: str | None = None


class _Refusal(msgspec.Struct):
    status: _Status | None = None
    error: object = None


_TICKERS = Rows(row_type(FIELDS, symbol=str | None, last_updated=str | None), lambda row: list[row])
_REFUSAL = msgspec.json.Decoder(_Refusal)


def refused(body: bytes) -> str | None:
    """CoinGecko says what is wrong in `status`, or in `error`."""
    if body.lstrip()[:1] != b"{":
        return None
    says = _REFUSAL.decode(body)
    if says.status and (says.status.error_code or says.status.error_message):
        return f"{says.status.error_code} {says.status.error_message}"
    return str(says.error) if says.error else None


def flatten_tickers(body: bytes) -> tuple[Columns, list]:
    """Columns of all coins of a page, one entry per coin."""
    _, rows, rejected = _TICKERS.decode(body)
    columns = pick(rows, FIELDS)
    return columns | {
        "base": [code.upper() if code else None for code in columns["base"]],
        "quote": ["USD"] * len(rows),
        "exchange_at": [_ms(text) for text in columns["exchange_at"]],
    }, rejected


def list_symbols(body: bytes) -> list[str]:
    """The ids of all coins of a page."""
    return [row.id for row in _TICKERS.decode(body)[1]]


def _ms(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() * 1000
    except (TypeError, ValueError):
        return None
