"""The exchanges: every module of this folder is one, and nothing else lists them.

A module gives
    HOST                        the API's host
    refused(body)               the exchange's own words where a body is its error, else None
    TICKERS                     route and query of the call that brings all markets
    FIELDS                      where a row has what the columns of ticks need: see cryptomon_lib.fields
    flatten_tickers(body)       -> (columns for shape.ticks, rejected entries)
    list_symbols(body)          the symbols in such a payload, at little cost: is it complete?
and where the exchange has them
    INSTRUMENTS, read_instruments(body) -> [Instrument]     the list that tells base and quote apart
    SPLIT_BY_INSTRUMENTS = True                             its tickers need that list
    TICKERS_PAGES               how many pages its tickers come in; the page goes into the query as `page`
    in_routes(instrument)       the market as routes of one market name it, where tickers call it otherwise
    OF_THE_PAYLOAD              as FIELDS, of what stands once beside the rows
    DIFFERS                     {column: why} where it is not what ccxt makes of the same row
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
    OLDER_CANDLES, older_candles_request    the same where what is older has another route
    CANDLE_FIELDS               where a row has what the columns of candles need
    flatten_candles(body)       -> (columns for shape.candles without symbol, rejected entries)
    fetch(ask, base) -> body    makes the calls of its tickers itself, each by `ask`; else one GET brings them
    check()                     raises ConfigError where the exchange cannot be asked at all
Everything in them is pure. Whoever wants more minutes than one call brings takes `candles_pages`. What begins with an
underscore is no exchange: `_ccxt` stands for all that ccxt knows.
"""

import importlib
import pkgutil
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from types import ModuleType
from urllib.parse import parse_qsl

import msgspec

from cryptomon_lib.config import nearest
from cryptomon_lib.errors import ConfigError, PayloadError
from cryptomon_lib.exchanges import _ccxt
from cryptomon_lib.fields import pairs
from cryptomon_lib.payloads import Payload, Request
from cryptomon_lib.shape import Flattened, Instrument, candles, ticks


@cache
def names() -> tuple[str, ...]:
    """The names of all exchanges."""
    return tuple(
        sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    )


def named(name: str) -> str:
    """The name that tables know an exchange by: `ccxt:bitvavo` is `ccxt-bitvavo` there."""
    return name.replace("ccxt:", _ccxt.PREFIX, 1) if name.startswith("ccxt:") else name


@cache
def get(name: str) -> ModuleType | _ccxt.Ccxt:
    """The module of an exchange, or what stands for one that ccxt knows (`ccxt:<id>`).

    Raises ConfigError: there is none of that name.
    """
    if named(name).startswith(_ccxt.PREFIX):
        return _ccxt.open_exchange(named(name).removeprefix(_ccxt.PREFIX))
    if name not in names():
        raise ConfigError(f"No exchange is called {name!r}.{nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")


@cache
def by_host(host: str) -> str:
    """The name of the exchange whose API has that host.

    Raises PayloadError: none has.
    """
    if host.endswith(_ccxt.HOST_SUFFIX):
        return f"{_ccxt.PREFIX}{host.removesuffix(_ccxt.HOST_SUFFIX)}"
    for name in names():
        if host == get(name).HOST:
            return name
    raise PayloadError(f"No exchange has the host {host}; was its module removed from exchanges/?")


def requests(
    name: str,
    endpoint: str,
    instruments: Mapping[str, Instrument] | None = None,
    markets: Collection[str] = (),
) -> list[Request]:
    """The calls that bring an endpoint for one slot: the pages of a list, one call per market of a template.

    endpoint: as `request`. A route with `{symbol}`, `{base}` or `{quote}` in it is asked for each spot market that
        trades and is named in markets (BASE-QUOTE).

    Raises ConfigError: the exchange has no such endpoint, or the template another word.
    """
    if endpoint.startswith("/") and "{" in endpoint:
        return [request(name, target) for target in _filled(name, endpoint, instruments or {}, markets)]
    one = request(name, endpoint)
    pages = getattr(get(name), "TICKERS_PAGES", 1) if endpoint == "tickers" else 1
    if pages == 1:
        return [one]
    numbers = range(1, pages + 1)
    return [replace(one, page=number, window=(("page", str(number)),)) for number in numbers]


def followed(instruments: Mapping[str, Instrument], markets: Collection[str]) -> list[Instrument]:
    """The spot markets that trade and are named in markets, as BASE-QUOTE."""
    return [
        one
        for one in instruments.values()
        if one.trading and one.kind == "spot" and f"{one.base}-{one.quote}" in markets
    ]


def _filled(
    name: str, template: str, instruments: Mapping[str, Instrument], markets: Collection[str]
) -> Iterator[str]:
    in_routes = getattr(get(name), "in_routes", lambda one: one.symbol)
    for one in followed(instruments, markets):
        try:
            yield template.format(symbol=in_routes(one), base=one.base, quote=one.quote)
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError(
                f"{name}: {template} has a word in braces that is not known; known are {{symbol}}, {{base}}, {{quote}}."
            ) from error


def request(name: str, endpoint: str) -> Request:
    """The call that brings an endpoint: tickers, instruments, or any `/route?query` of the exchange.

    Raises ConfigError: the exchange has no such endpoint.
    """
    module = get(name)
    target = endpoint if endpoint.startswith("/") else getattr(module, endpoint.upper(), None)
    if hasattr(module, "fetch") and endpoint != "tickers":
        raise ConfigError(f"{name} is asked by ccxt, which brings its tickers only, not {endpoint!r}.")
    if target is None or endpoint == "candles":
        raise ConfigError(
            f"{name} has no endpoint {endpoint!r}: tickers, instruments, or a /route of its API."
        )
    route, _, query = target.partition("?")
    pairs = tuple(tuple(pair.split("=", 1)) for pair in query.split("&") if "=" in pair)
    return Request(named(name), endpoint, module.HOST, route, pairs)


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
    listed = instruments if getattr(module, "SPLIT_BY_INSTRUMENTS", False) else None
    context = {"source": source, "collected_at": payload.collected_at, "instruments": listed}
    if _is_tickers(module, payload):
        columns, rejected = module.flatten_tickers(payload.body)
        if not len(columns["symbol"]) and payload.query.get("page", "1") == "1":
            raise PayloadError(f"The payload holds no market.{_own_words(module, payload.body)}")
        return ticks(columns, rejected=rejected, **context)
    symbol = _candles_of(module, payload)
    if symbol is not None:
        columns, rejected = module.flatten_candles(payload.body)
        size = len(columns["opened_at_ms"])
        columns |= _one_market(module, source, symbol, size)
        return candles(columns, rejected=rejected, origin=payload.origin, **context)
    return None


def source_of(host: str) -> str:
    """The exchange that a payload's host belongs to; the host itself where none does."""
    try:
        return by_host(host)
    except PayloadError:
        return host


def table_of(payload: Payload) -> str | None:
    """The table that a payload's rows go to; None where nothing flattens it."""
    try:
        module = get(by_host(payload.host))
    except PayloadError:
        return None
    if _is_tickers(module, payload):
        return "ticks"
    return "candles" if _candles_of(module, payload) is not None else None


def _own_words(module: ModuleType, body: bytes) -> str:
    try:
        says = module.refused(body)
    except msgspec.DecodeError:
        return ""
    return f" It is an error of the exchange: {says}" if says else ""


def _candles_of(module: ModuleType, payload: Payload) -> str | None:
    """The market whose 1-minute candles a payload holds; None where it holds something else."""
    routes = [getattr(module, name, None) for name in ("CANDLES", "OLDER_CANDLES")]
    if not any(_is_of(route, payload.route) for route in routes):
        return None
    return payload.symbol or getattr(module, "candles_of", lambda route: None)(payload.route)


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


def _one_market(module: ModuleType, source: str, symbol: str, size: int) -> dict:
    """The columns that name the market of a payload of candles; an aggregator's symbol names the exchange too."""
    exchange, colon, own = symbol.partition(":") if hasattr(module, "candles_of") else (source, "", symbol)
    columns = {"symbol": [own if colon else symbol] * size, "exchange": [exchange] * size}
    if hasattr(module, "split"):
        columns |= pairs([symbol] * size, module.split)
    return columns
