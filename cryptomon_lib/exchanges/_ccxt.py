"""Any exchange that ccxt knows, by the name `ccxt:<its id there>`. Source: docs.ccxt.com, Manual, Tickers.

ccxt knows how to ask and how to read; our own Fetcher asks, with its limits, retries and budgets. The payload holds, by
ccxt's symbol, the exchange's native row (`info`) and what ccxt read in it; flattening needs no ccxt. Tables say
`ccxt-<id>`, since a colon would be spelled otherwise in the names of partitions.

The numbers are what ccxt makes of the rows. Of some exchanges (Kraken) its open is of midnight UTC, and so are the
changes that follow from it. Options are left out.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import msgspec

from cryptomon_lib.config import nearest
from cryptomon_lib.errors import ConfigError, FetchError
from cryptomon_lib.fields import pick
from cryptomon_lib.shape import Columns, Number, Rows

T = TypeVar("T")

PREFIX = "ccxt-"
HOST_SUFFIX = ".ccxt"
# of what ccxt makes of a row
FIELDS = {
    "price": "last",
    "bid": "bid",
    "ask": "ask",
    "open_24h": "open",
    "high_24h": "high",
    "low_24h": "low",
    "change_24h": "change",
    "change_24h_pct": "percentage",
    "volume_24h": "baseVolume",
    "quote_volume_24h": "quoteVolume",
    "exchange_at": "timestamp",
}
_SYMBOL = re.compile(r"(?P<base>[^/:]+)/(?P<quote>[^/:]+)(?::(?P<settle>[^-]+)(?P<rest>-.+)?)?")
# what ccxt's readers raise on a row that is not of the form they know
_UNFIT = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
# one call of ours: address, headers, what tells an error body -> the body
Ask = Callable[[str, Mapping[str, str], Callable[[bytes], str | None]], bytes]


class _Envelope(msgspec.Struct, Generic[T]):
    tickers: dict[str, T]


_ROW = msgspec.defstruct("Row", [(theirs, Number, None) for theirs in FIELDS.values()], gc=False)
_TICKERS = Rows(_ROW, lambda row: _Envelope[row], lambda body: body.tickers)


class Ccxt:
    """One exchange by ccxt: what a module of this folder gives, and `fetch`, which makes its calls."""

    TICKERS = "/tickers"
    FIELDS = FIELDS
    CALLS_PER_MIN = 60

    def __init__(self, id: str):
        self.id, self.HOST = id, f"{id}{HOST_SUFFIX}"
        # by base address: its list of markets is asked for once
        self._callers: dict[str | None, Any] = {}

    def check(self) -> None:
        """Nothing, where ccxt is there and has a call that brings all markets of the exchange. Raises ConfigError."""
        library = _library(f"ccxt:{self.id}")
        if self.id not in library.exchanges:
            raise ConfigError(
                f"ccxt {library.__version__} knows no exchange {self.id!r}.{nearest(self.id, library.exchanges)}"
            )
        if not getattr(library, self.id)().has.get("fetchTickers"):
            raise ConfigError(
                f"ccxt has no call that brings all markets of {self.id}: take it out of exchanges."
            )

    def refused(self, body: bytes) -> str | None:
        """None: each call of `fetch` tells its own error bodies."""
        return None

    def fetch(self, ask: Ask, base: str | None = None) -> bytes:
        """The payload: the native rows by ccxt's symbol, each with what ccxt read in it.

        ask: makes one call (see Fetcher.get). base: stands in for the exchange's own address.

        Raises FetchError: of a call, or because ccxt cannot read the answer.
        """
        library = _library(f"ccxt:{self.id}")
        caller = self._callers.get(base) or _caller(library, self.id, base)
        caller.fetch = self._transport(library, caller, ask)
        try:
            found = caller.fetch_tickers()
        except (library.BaseError, *_UNFIT) as error:
            raise FetchError(
                f"ccxt {library.__version__} cannot read the answer: {type(error).__name__} {error}",
                exchange=f"{PREFIX}{self.id}",
                url=str(base or caller.urls.get("www")),
            ) from error
        self._callers[base] = caller
        rows = {
            symbol: {name: one.get(name) for name in FIELDS.values()} | {"info": one.get("info")}
            for symbol, one in found.items()
        }
        body = {"exchange": self.id, "ccxt": library.__version__, "tickers": rows}
        return msgspec.json.encode(body, enc_hook=str)

    def flatten_tickers(self, body: bytes) -> tuple[Columns, list]:
        """Columns of all markets, one entry per native row."""
        names, rows, rejected = _TICKERS.decode(body)
        kept = []
        for symbol, row in zip(names, rows, strict=True):
            market = _market(symbol)
            if market is None:
                rejected.append((symbol, "an option"))
            else:
                kept.append((symbol, row, *market))
        symbols, rows, bases, quotes, kinds = zip(*kept, strict=True) if kept else ((),) * 5
        market = {"symbol": symbols, "base": bases, "quote": quotes, "kind": kinds}
        return pick(rows, FIELDS) | market | {"exchange": [self.id] * len(symbols)}, rejected

    def list_symbols(self, body: bytes) -> list[str]:
        """ccxt's names of all markets of a payload."""
        return _TICKERS.names(body)

    def _transport(self, library: ModuleType, caller: Any, ask: Ask) -> Callable:
        """What ccxt calls to make a request; ours answers."""

        def says(url: str, body: bytes) -> str | None:
            text = body.decode("utf-8", "replace")
            try:
                caller.handle_errors(200, "", url, "GET", {}, text, caller.parse_json(text), {}, None)
            except library.BaseError as error:
                return str(error)
            except _UNFIT:
                # a body of another form than its error bodies: what reads the data says what is wrong with it
                return None
            return None

        def fetch(url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
            if method != "GET":
                raise FetchError(
                    f"ccxt asks for it by {method}; only GET is supported here, take it out of exchanges",
                    exchange=f"{PREFIX}{self.id}",
                    url=url,
                )
            text = ask(url, dict(headers or {}), lambda answer: says(url, answer))
            return caller.parse_json(text.decode("utf-8", "replace"))

        return fetch


@cache
def open_exchange(id: str) -> Ccxt:
    """The exchange of that id in ccxt, the same each time; ccxt itself is not looked for yet."""
    return Ccxt(id)


def _library(name: str) -> ModuleType:
    try:
        # a hundred modules, which whoever uses none of them need not load
        import ccxt
    except ImportError as error:
        raise ConfigError(
            f"{name} needs ccxt, an extra of its own: pip install 'cryptomon[ccxt]', or take it out of exchanges."
        ) from error
    return ccxt


def _caller(library: ModuleType, id: str, base: str | None) -> Any:
    """An exchange of ccxt that is not paced by it, at its own address or at another."""
    caller = getattr(library, id)({"enableRateLimit": False})
    # currencies are not asked for: one call less, often one that needs a key
    caller.has["fetchCurrencies"] = False
    if base:
        caller.urls["api"] = _moved(caller.urls["api"], base.rstrip("/"))
        caller.hostname = urlsplit(base).netloc
    return caller


def _moved(urls: Any, base: str) -> Any:
    """The same addresses at another host."""
    if isinstance(urls, dict):
        return {name: _moved(url, base) for name, url in urls.items()}
    return base + urlsplit(urls.replace("{hostname}", "host")).path if isinstance(urls, str) else urls


def _market(symbol: str) -> tuple[str | None, str | None, str] | None:
    """Base, quote and kind of a symbol, without the first two where it is the exchange's own; None of an option."""
    parts = _SYMBOL.fullmatch(symbol)
    if parts is None:
        return None, None, "spot"
    if (parts["rest"] or "").count("-") > 1:
        return None
    kind = "future" if parts["rest"] else "perpetual" if parts["settle"] else "spot"
    return parts["base"].upper(), parts["quote"].upper(), kind
