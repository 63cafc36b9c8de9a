"""The exchanges: every module of this folder is one, and nothing else lists them.

A module gives
    HOST                        the API's host
    refused(body)               the exchange's own words where a body is its error, else None
    TICKERS                     route and query of the call that brings all markets
    flatten_tickers(body)       -> (columns for shape.ticks, rejected entries)
    list_symbols(body)          the symbols in such a payload, at little cost: is it complete?
and where the exchange has them
    INSTRUMENTS, read_instruments(body) -> [Instrument]     the list that tells base and quote apart
    SPLIT_BY_INSTRUMENTS = True                             its tickers need that list
    CALLS_PER_MIN               the most calls a minute that it allows one address; params can say less
    KEY_HEADER or KEY_PARAMETER     where its API key goes, when params name one under `keys`
    ELSEWHERE                   the address that serves countries which HOST does not
    allowance(body)             what an answer says of calls left, to be logged
    candles_request(instrument, since, until) -> Request    one market's closed 1-minute candles
    CANDLES                                                 that call's route, to know its payloads by
    flatten_candles(body)       -> (columns for shape.candles without symbol, rejected entries)
Everything in them is pure.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import ModuleType

from cryptomon_lib.config import nearest
from cryptomon_lib.errors import ConfigError, PayloadError
from cryptomon_lib.payloads import Payload, Request
from cryptomon_lib.shape import Flattened, Instrument, candles, ticks


@cache
def names() -> tuple[str, ...]:
    """The names of all exchanges."""
    return tuple(
        sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    )


@cache
def get(name: str) -> ModuleType:
    """The module of an exchange.

    Raises ConfigError: there is none of that name.
    """
    if name not in names():
        raise ConfigError(f"No exchange is called {name!r}.{nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")


@cache
def by_host(host: str) -> str:
    """The name of the exchange whose API has that host.

    Raises PayloadError: none has.
    """
    for name in names():
        if host == get(name).HOST:
            return name
    raise PayloadError(f"No exchange has the host {host}; was its module removed from exchanges/?")


def request(name: str, endpoint: str) -> Request:
    """The call that brings an endpoint: tickers, instruments, or any `/route?query` of the exchange.

    Raises ConfigError: the exchange has no such endpoint.
    """
    module = get(name)
    target = endpoint if endpoint.startswith("/") else getattr(module, endpoint.upper(), None)
    if target is None or endpoint == "candles":
        raise ConfigError(
            f"{name} has no endpoint {endpoint!r}: tickers, instruments, or a /route of its API."
        )
    route, _, query = target.partition("?")
    pairs = tuple(tuple(pair.split("=", 1)) for pair in query.split("&") if "=" in pair)
    return Request(name, endpoint, module.HOST, route, pairs)


def flatten(
    payload: Payload, instruments: Mapping[str, Instrument] | None = None, source: str | None = None
) -> Flattened | None:
    """The rows of a payload; None where its route is one that nothing flattens yet.

    Raises PayloadError: the payload is not of the exchange's form.
    """
    source = source or by_host(payload.host)
    module = get(source)
    context = {"source": source, "collected_at": payload.collected_at, "instruments": instruments}
    if payload.route == module.TICKERS.partition("?")[0]:
        columns, rejected = module.flatten_tickers(payload.body)
        return ticks(columns, rejected=rejected, **context)
    if payload.route == getattr(module, "CANDLES", None):
        if payload.symbol is None:
            raise PayloadError(f"{payload.id} does not say which market's candles it holds.")
        columns, rejected = module.flatten_candles(payload.body)
        size = len(columns["opened_at_ms"])
        return candles(
            columns | _one_market(module, payload.symbol, size, instruments), rejected=rejected, **context
        )
    return None


def _one_market(
    module: ModuleType, symbol: str, size: int, instruments: Mapping[str, Instrument] | None
) -> dict:
    columns = {"symbol": [symbol] * size}
    split = getattr(module, "split", None)
    if split:
        base, quote = split(symbol)
        columns |= {"base": [base] * size, "quote": [quote] * size}
    return columns
