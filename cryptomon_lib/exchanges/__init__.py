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
    candles_request(instrument, since, until) -> Request    one market's 1-minute candles that opened from since to
                                until, both included, so that until - since < CANDLES_MAX minutes; an answer may
                                hold more (the running minute, minutes before since)
    CANDLES                     that call's route, to know its payloads by; `{symbol}` stands for a part of a path
    CANDLES_MAX                 rows (minutes) that one call brings at most
    CANDLES_KEPT                how many of the newest minutes the API has; None: as far back as the market goes
    older_candles_request       as candles_request, where what is older has another route; else not there
    flatten_candles(body)       -> (columns for shape.candles without symbol, rejected entries)
Everything in them is pure. Whoever wants more minutes than one call brings takes `candles_pages`.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from types import ModuleType
from urllib.parse import parse_qsl

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


def candles_pages(
    name: str, instrument: Instrument, since: datetime, until: datetime, now: datetime
) -> Iterator[Request]:
    """The calls that bring a market's 1-minute candles from since to until, both included, newest first.

    What the exchange does not keep any more at `now` is not asked for. Each call's `page` is the second at which
    its oldest minute opened: a call of another stretch is another payload, even within one slot.
    """
    module = get(name)
    most, kept = module.CANDLES_MAX, module.CANDLES_KEPT
    ask = getattr(module, "older_candles_request", module.candles_request)
    since, until, now = _minute(since), _minute(until), _minute(now)
    until = min(until, now)
    if kept is not None:
        since = max(since, now - timedelta(minutes=kept - 1))
        # an API that keeps no more than one call brings has no way to ask for less than all until now
        until = now if kept <= most and since <= until else until
    while since <= until:
        first = max(since, until - timedelta(minutes=most - 1))
        yield replace(ask(instrument, first, until), page=int(first.timestamp()))
        until = first - timedelta(minutes=1)


def _minute(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(second=0, microsecond=0)


def flatten(
    payload: Payload, instruments: Mapping[str, Instrument] | None = None, source: str | None = None
) -> Flattened | None:
    """The rows of a payload; None where its call is one that nothing flattens yet.

    What params name by route is of that kind, also where the route is that of candles: nothing says which market
    and which interval such candles are of.

    Raises PayloadError: the payload is not of the exchange's form.
    """
    source = source or by_host(payload.host)
    module = get(source)
    context = {"source": source, "collected_at": payload.collected_at, "instruments": instruments}
    if _is_tickers(module, payload):
        columns, rejected = module.flatten_tickers(payload.body)
        return ticks(columns, rejected=rejected, **context)
    if payload.symbol is not None and _is_of(getattr(module, "CANDLES", None), payload.route):
        columns, rejected = module.flatten_candles(payload.body)
        size = len(columns["opened_at_ms"])
        return candles(
            columns | _one_market(module, payload.symbol, size, instruments),
            rejected=rejected,
            origin=payload.origin,
            **context,
        )
    return None


def _is_tickers(module: ModuleType, payload: Payload) -> bool:
    """Whether a payload is of the call that brings all markets; another query may mean other fields."""
    route, _, query = module.TICKERS.partition("?")
    own = dict(parse_qsl(query))
    given = {name: value for name, value in payload.query.items() if name != "page"}
    return _is_of(route, payload.route) and given in ({}, own)


def _is_of(pattern: str | None, route: str) -> bool:
    """Whether a route is that of a pattern, whose `{symbol}` stands for any part of a path."""
    return pattern is not None and bool(_compiled(pattern).fullmatch(route))


@cache
def _compiled(pattern: str) -> re.Pattern:
    parts = re.split(r"\{\w+\}", pattern.rstrip("/"))
    return re.compile("[^/]+".join(map(re.escape, parts)) + "/?")


def _one_market(
    module: ModuleType, symbol: str, size: int, instruments: Mapping[str, Instrument] | None
) -> dict:
    columns = {"symbol": [symbol] * size}
    split = getattr(module, "split", None)
    if split:
        base, quote = split(symbol)
        columns |= {"base": [base] * size, "quote": [quote] * size}
    return columns
