"""Markets that never were: every minute's prices and volumes as a pure function of (seed, time).

Owns the one-minute bars of the simulated markets, and the rolling windows that tickers show. A day of an
exchange is one block of arrays, drawn from generators seeded by (seed, exchange, day), so that any minute can be asked
for at any time, in any order and in any process. Prices of a day run from that midnight's anchor to the next one's:
a bridge, hence no step over midnight, and the anchors themselves revert to a usual price.

Tickers are made of closed minutes only; candles also show the running minute, as far as it has come.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from threading import RLock
from typing import NamedTuple
from zlib import crc32

import numpy as np

from cryptomon_lib.simulated_universe import ASSETS, BORN_DAY, MARKETS, Market

MINUTE_MS = 60_000
DAY_MINUTES = 1440
DAY_MS = DAY_MINUTES * MINUTE_MS
TRADES_A_DAY_MAX = 10_000_000  # trade ids of a day begin at a multiple of it, so that they only grow
_MEMORY_DAYS = 512  # how far back a day's anchor remembers; what is older weighs 0.0004
_REVERSION = 0.985
_SHOCK_BLOCK = 256


class Candle(NamedTuple):
    """One minute of one market; `minute` counts from 1970, volumes are base and quote."""

    minute: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    trades: int


@dataclass(frozen=True)
class Bars:
    """A day of one exchange: arrays by minute of the day and market. Where `traded` is false, high is 0 and low inf."""

    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    lots: np.ndarray  # whole numbers of 10^-lot_decimals: sums are exact
    quote_volume: np.ndarray
    trades: np.ndarray
    traded: np.ndarray
    scale: np.ndarray  # lots in one unit of the base, by market
    carry: np.ndarray  # the price that stood before the day's first trade

    @cached_property
    def newest(self) -> np.ndarray:
        """The last traded minute up to each minute, -1 before the first."""
        minutes = np.arange(len(self.traded), dtype=np.int16)[:, None]
        return np.maximum.accumulate(np.where(self.traded, minutes, np.int16(-1)))


@dataclass(frozen=True)
class Part:
    """What a stretch of a day adds up to, by market; open and last are nan where nothing was traded."""

    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    last: np.ndarray
    lots: np.ndarray
    quote_volume: np.ndarray
    trades: np.ndarray
    last_minute: np.ndarray  # of the day, -1 where nothing was traded
    last_lots: np.ndarray  # about the size of the newest trade


@dataclass(frozen=True)
class Window:
    """The 24 hours of closed minutes before a moment, and those since midnight, by market.

    `alive`: something was traded; where not, prices are 0. Ratios of lots to `scale` are volumes.
    """

    markets: tuple[Market, ...]
    at_ms: int
    alive: np.ndarray
    day: Part  # the rolling 24 h
    today: Part  # since 00:00 UTC
    scale: np.ndarray
    bid: np.ndarray
    ask: np.ndarray
    closed_ms: np.ndarray  # to when the ticker of each market reaches
    trade_id: np.ndarray  # of the newest trade

    @property
    def volume(self) -> np.ndarray:
        """Base volume of the rolling 24 h."""
        return self.day.lots / self.scale


def day_of(minute: int) -> int:
    """Days since 1970 of a minute since 1970."""
    return minute // DAY_MINUTES


def part(bars: Bars, first: int, last: int) -> Part:
    """Minutes first to last - 1 of a day, added up."""
    if first >= last:
        return _nothing(len(bars.scale))
    cut = slice(first, last)
    newest = bars.newest[last - 1].astype(np.int64)
    traded = newest >= first
    columns = np.arange(len(bars.scale))
    opening = bars.traded[cut].argmax(axis=0) + first
    return Part(
        open=np.where(traded, bars.open[opening, columns], np.nan),
        high=bars.high[cut].max(axis=0),
        low=bars.low[cut].min(axis=0),
        last=np.where(traded, bars.close[newest, columns], np.nan),
        lots=bars.lots[cut].sum(axis=0),
        quote_volume=bars.quote_volume[cut].sum(axis=0),
        trades=bars.trades[cut].sum(axis=0, dtype=np.int64),
        last_minute=np.where(traded, newest, -1),
        last_lots=bars.lots[newest, columns] // np.maximum(bars.trades[newest, columns], 1),
    )


def _nothing(markets: int) -> Part:
    none, zero = np.full(markets, np.nan), np.zeros(markets, dtype=np.int64)
    empty = np.full(markets, np.inf)
    return Part(none, np.zeros(markets), empty, none, zero, np.zeros(markets), zero, zero - 1, zero)


def joined(earlier: Part, later: Part) -> Part:
    """Two stretches as one."""
    renewed = later.last_minute >= 0
    return Part(
        open=np.where(np.isnan(earlier.open), later.open, earlier.open),
        high=np.maximum(earlier.high, later.high),
        low=np.minimum(earlier.low, later.low),
        last=np.where(renewed, later.last, earlier.last),
        lots=earlier.lots + later.lots,
        quote_volume=earlier.quote_volume + later.quote_volume,
        trades=earlier.trades + later.trades,
        last_minute=np.where(renewed, later.last_minute, earlier.last_minute),
        last_lots=np.where(renewed, later.last_lots, earlier.last_lots),
    )


def filled(stretch: Part) -> Part:
    """The same with 0 for every price that does not exist."""
    alive = ~np.isnan(stretch.last)
    prices = {name: np.where(alive, getattr(stretch, name), 0.0) for name in ("open", "high", "low", "last")}
    return replace(stretch, **prices)


def rows(bars: Bars, market: int, day: int, first: int, last: int, flat: bool) -> list[Candle]:
    """Candles of minutes first to last - 1 of one day. `flat`: minutes without a trade too, at the price that stood."""
    cut = slice(first, last)
    traded = bars.traded[cut, market]
    newest = bars.newest[cut, market]
    standing = np.where(newest < 0, bars.carry[market], bars.close[newest, market])
    whole = (bars.open, bars.high, bars.low, bars.close)
    prices = [np.where(traded, prices[cut, market], standing) for prices in whole]
    columns = [
        np.arange(first, last) + day * DAY_MINUTES,
        *prices,
        bars.lots[cut, market] / bars.scale[market],
        bars.quote_volume[cut, market],
        bars.trades[cut, market],
    ]
    wanted = slice(None) if flat else traded
    return [Candle(*row) for row in zip(*(column[wanted].tolist() for column in columns), strict=True)]


def partial(candle: Candle, market: Market, share: float) -> Candle:
    """A minute of which only this share (0 to 1) has passed: the price walks over one extreme, then the other."""
    rises = candle.close >= candle.open
    turns = (candle.low, candle.high) if rises else (candle.high, candle.low)
    path = [candle.open, *turns, candle.close]
    at = share * (len(path) - 1)
    walked = path[: int(at) + 1]
    now = round(float(np.interp(at, range(len(path)), path)), market.decimals)
    return candle._replace(
        high=max(*walked, now, candle.open),
        low=min(*walked, now, candle.open),
        close=now,
        volume=round(candle.volume * share, market.lot_decimals),
        quote_volume=round(candle.quote_volume * share, 8),
        trades=int(candle.trades * share),
    )


def iso(at_ms: int) -> str:
    """`2021-09-28T12:00:00.000Z`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


class SimulatedMarket:
    """All simulated exchanges under one seed; holds nothing but caches of what it has drawn."""

    def __init__(self, seed: int = 7):
        self.seed = seed
        # without it, requests that arrive together would each draw the same day
        self._drawing = RLock()
        # caches of an instance, so that a closed simulator gives its memory back
        self._shocks = lru_cache(maxsize=16)(self._draw_shocks)
        self._levels = lru_cache(maxsize=4)(self._draw_levels)
        self._raw = lru_cache(maxsize=16)(self._draw_bars)
        self._bars = lru_cache(maxsize=12)(self._carried_bars)
        self._window = lru_cache(maxsize=32)(self._roll)

    def markets(self, exchange: str) -> tuple[Market, ...]:
        """Every market that the exchange ever lists, dead ones included."""
        return MARKETS[exchange]

    def window(self, exchange: str, at_ms: int) -> Window:
        """The tickers of an exchange at a moment, of its closed minutes."""
        with self._drawing:
            return replace(self._window(exchange, at_ms // MINUTE_MS), at_ms=at_ms)

    def candles(self, market: Market, first: int, last: int, at_ms: int, flat: bool = False) -> list[Candle]:
        """Minutes first to last (since 1970, both included), the one that is running at `at_ms` as far as it is."""
        now = at_ms // MINUTE_MS
        days = _days(first, min(last, now - 1))
        with self._drawing:
            found = [candle for day, cut in days for candle in self._rows(market, day, cut, flat)]
            if first <= now <= last:
                found += self._running(market, at_ms, flat)
        return found

    def _rows(self, market: Market, day: int, cut: tuple[int, int], flat: bool) -> list[Candle]:
        if not market.listed(day):
            return []
        return rows(self._bars(_exchange(market), day), _COLUMNS[market], day, *cut, flat)

    def _running(self, market: Market, at_ms: int, flat: bool) -> list[Candle]:
        now = at_ms // MINUTE_MS
        whole = self._rows(market, day_of(now), (now % DAY_MINUTES, now % DAY_MINUTES + 1), False)
        begun = [partial(candle, market, at_ms % MINUTE_MS / MINUTE_MS) for candle in whole]
        if begun and begun[0].trades:
            return begun
        if not flat or not market.listed(day_of(now)):
            return []
        minute = now % DAY_MINUTES
        standing = self._standing(market, day_of(now), minute)
        return [Candle(now, standing, standing, standing, standing, 0.0, 0.0, 0)]

    def _standing(self, market: Market, day: int, minute: int) -> float:
        """The price of the newest trade before a minute of a day."""
        bars, column = self._bars(_exchange(market), day), _COLUMNS[market]
        newest = int(bars.newest[minute - 1, column]) if minute else -1
        return float(bars.carry[column] if newest < 0 else bars.close[newest, column])

    def _roll(self, exchange: str, minute: int) -> Window:
        day, now = divmod(minute, DAY_MINUTES)
        bars = self._bars(exchange, day)
        today = part(bars, 0, now)
        rolling = joined(part(self._bars(exchange, day - 1), now, DAY_MINUTES), today)
        listed = np.array([market.listed(day) for market in MARKETS[exchange]])
        alive = ~np.isnan(rolling.last) & listed
        bid, ask = _book(MARKETS[exchange], np.where(alive, rolling.last, np.nan), minute)
        ids = (day - BORN_DAY) * TRADES_A_DAY_MAX + today.trades
        at_ms = np.full(len(listed), minute * MINUTE_MS)
        return Window(
            MARKETS[exchange], 0, alive, filled(rolling), filled(today), bars.scale, bid, ask, at_ms, ids
        )

    def _carried_bars(self, exchange: str, day: int) -> Bars:
        bars, before = self._raw(exchange, day), self._raw(exchange, day - 1)
        newest = before.newest[-1].astype(np.int64)
        stood = before.close[newest, np.arange(len(newest))]
        return replace(bars, carry=np.where(newest < 0, bars.carry, stood))

    def _random(self, *what: int | str) -> np.random.Generator:
        numbers = (crc32(word.encode()) if isinstance(word, str) else word for word in what)
        return np.random.default_rng([self.seed, *numbers])

    def _draw_shocks(self, block: int) -> np.ndarray:
        return self._random("anchors", block).standard_normal((_SHOCK_BLOCK, len(ASSETS) + 1))

    def _anchors(self, day: int) -> np.ndarray:
        """How far each asset stands from its usual price at 00:00 of a day, in logarithms."""
        first = day - _MEMORY_DAYS + 1 + 4 * _SHOCK_BLOCK  # blocks are numbered from well before 1970
        blocks = range(first // _SHOCK_BLOCK, (first + _MEMORY_DAYS - 1) // _SHOCK_BLOCK + 1)
        shocks = np.concatenate([self._shocks(block) for block in blocks])
        start = first % _SHOCK_BLOCK
        weights = _REVERSION ** np.arange(_MEMORY_DAYS)[::-1]
        total = weights @ shocks[start : start + _MEMORY_DAYS]
        return _BETA * _MARKET_VOLATILITY * total[0] + _OWN * total[1:]

    def _draw_levels(self, day: int) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of USD prices at the day's 1,441 minute edges by asset, and how much livelier pumps make them."""
        random = self._random("levels", day)
        steps = random.standard_t(4, (DAY_MINUTES, len(ASSETS) + 1)).clip(-8, 8) / np.sqrt(2 * DAY_MINUTES)
        moves = _BETA * _MARKET_VOLATILITY * steps[:, :1] + _OWN * steps[:, 1:]
        path = np.concatenate([np.zeros((1, len(ASSETS))), moves.cumsum(axis=0)])
        start, end = self._anchors(day), self._anchors(day + 1)
        path += start + _RAMP[:, None] * (end - start - path[-1])
        lively = np.ones((DAY_MINUTES, len(ASSETS)))
        for _ in range(random.integers(2, 6)):
            _pump(random, path, lively)
        return path + _LOG_PRICES, lively

    def _draw_bars(self, exchange: str, day: int) -> Bars:
        """The day's bars, each market's first price as what stood before."""
        found = MARKETS[exchange]
        random = self._random(exchange, day)
        levels, lively = self._levels(day)
        # a dead market has assets of its own, which no model prices
        base = np.array([_INDEX.get(market.base, 0) for market in found])
        quote = np.array([_INDEX.get(market.quote, 0) for market in found])
        edges = np.exp(levels[:, base] - levels[:, quote] + _deviation(random, self._basis(exchange), found))
        listed = np.array([market.listed(day) for market in found])
        trades, dollars = _activity(random, found, lively[:, base] * listed)
        return _bars(random, found, edges, trades, dollars / np.exp(levels[1:, base]))

    def _basis(self, exchange: str) -> np.ndarray:
        """What each market is persistently dearer than fair, as a fraction: up to some basis points."""
        return self._random("basis", exchange).normal(0, 4e-4, len(MARKETS[exchange]))


_INDEX = {code: number for number, code in enumerate(ASSETS)}
_COLUMNS = {market: column for found in MARKETS.values() for column, market in enumerate(found)}
_MARKET_VOLATILITY = 0.018  # of the whole market, a day
_LOG_PRICES = np.log([asset[0] for asset in ASSETS.values()])
_OWN = np.array([asset[1] for asset in ASSETS.values()]) / 100
_BETA = np.array([asset[2] for asset in ASSETS.values()])
_RAMP = np.linspace(0, 1, DAY_MINUTES + 1)
_HOURS = np.arange(DAY_MINUTES) / 60
# busiest when Europe and America are both awake, quietest at 04:00 UTC
_SHAPE = 1 + 0.42 * np.cos((_HOURS - 15.5) / 24 * 2 * np.pi) + 0.12 * np.cos((_HOURS - 1) / 12 * 2 * np.pi)
# 0 at both midnights: what deviates from the anchors has returned to them there
_TAPER = np.minimum(1, np.minimum(np.arange(DAY_MINUTES + 1), np.arange(DAY_MINUTES + 1)[::-1]) / 30)


def _exchange(market: Market) -> str:
    return market.exchange if market.exchange in MARKETS else "futures"


def _days(first: int, last: int) -> list[tuple[int, tuple[int, int]]]:
    """The days between two minutes (both included), each with the part of it that is meant."""
    first = max(first, BORN_DAY * DAY_MINUTES)
    days = range(day_of(first), day_of(last) + 1) if first <= last else ()
    edges = [(day, day * DAY_MINUTES) for day in days]
    return [(day, (max(first - zero, 0), min(last - zero + 1, DAY_MINUTES))) for day, zero in edges]


def _pump(random: np.random.Generator, path: np.ndarray, lively: np.ndarray) -> None:
    """One coin rises or falls within minutes and comes back within hours, with far more trade meanwhile."""
    asset = int(random.integers(5, path.shape[1]))
    start, rise, fall = random.integers((5, 4, 40), (1180, 15, 230)).tolist()
    size = random.choice([1, 1, -1]) * random.uniform(2, 7) * (_OWN[asset] + 0.002)
    shape = np.concatenate([np.linspace(0, 1, rise, endpoint=False), np.linspace(1, 0, fall) ** 2])
    path[start : start + len(shape), asset] += size * shape
    lively[start : start + len(shape), asset] += 12 * shape


def _deviation(random: np.random.Generator, basis: np.ndarray, found: tuple[Market, ...]) -> np.ndarray:
    """How far this exchange's prices are from fair: a lasting basis, noise, and now and then a gap worth noting."""
    thin = np.array([1e-4 + 6e-4 / (1 + market.usd_a_day / 1e6) for market in found])
    noise = (
        random.standard_normal((DAY_MINUTES + 1, len(found)))
        * thin
        * np.minimum(1, _volatility(found) / 0.02)
    )
    for _ in range(random.poisson(4)):
        column, start, length = random.integers((0, 40, 8), (len(found), 1340, 45)).tolist()
        swell = np.sin(np.linspace(0, np.pi, length)) ** 2
        noise[start : start + length, column] += random.choice([1, -1]) * random.uniform(0.004, 0.025) * swell
    return basis + noise * _TAPER[:, None]


def _volatility(found: tuple[Market, ...]) -> np.ndarray:
    """Of each market's price, a day, as a fraction."""
    base = np.array([_INDEX.get(market.base, 0) for market in found])
    quote = np.array([_INDEX.get(market.quote, 0) for market in found])
    return np.hypot(np.hypot(_OWN[base], _OWN[quote]), (_BETA[base] - _BETA[quote]) * _MARKET_VOLATILITY)


def _activity(
    random: np.random.Generator, found: tuple[Market, ...], lively: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Trades and dollars of each minute: a daily shape, heavy tails, and bursts of 10 to 50 times."""
    dollars = np.array([market.usd_a_day for market in found]) / DAY_MINUTES
    size = np.clip(dollars / 20, 60, 1500)
    burst = lively.copy()
    for _ in range(1 + random.poisson(5)):
        column, start, length = random.integers((0, 0, 2), (len(found), 1434, 7)).tolist()
        burst[start : start + length, column] *= random.uniform(10, 50)
    tail = random.standard_normal(burst.shape)
    expected = dollars / size * _SHAPE[:, None] * np.exp(0.7 * tail - 0.245)
    trades = random.poisson(np.minimum(expected * np.sqrt(burst), 6000)).astype(np.int32)
    spread = np.exp(0.55 * random.standard_normal(burst.shape) - 0.15)
    return trades, trades * size * spread * np.sqrt(burst)


def _bars(
    random: np.random.Generator,
    found: tuple[Market, ...],
    edges: np.ndarray,
    trades: np.ndarray,
    volume: np.ndarray,
) -> Bars:
    """Prices on the tick, volumes on the lot, wicks around what lies between two edges."""
    tick = 10.0 ** np.array([market.decimals for market in found])
    scale = 10.0 ** np.array([market.lot_decimals for market in found])
    wick = np.abs(random.standard_normal((2, *trades.shape))) * _volatility(found) * 0.018
    steps = np.maximum(np.rint(edges * tick), 1)
    first, last = steps[:-1], steps[1:]
    top = np.rint(np.maximum(first, last) * (1 + wick[0]))
    bottom = np.maximum(np.rint(np.minimum(first, last) * (1 - wick[1])), 1)
    traded = trades > 0
    lots = np.where(traded, np.maximum(np.rint(volume * scale), 1), 0)
    prices = [steps_of / tick for steps_of in (first, top, bottom, last)]
    quote = np.round(sum(prices) / 4 * lots / scale, 8)
    return Bars(
        open=prices[0],
        high=np.where(traded, prices[1], 0.0),
        low=np.where(traded, prices[2], np.inf),
        close=prices[3],
        lots=lots.astype(np.int64),
        quote_volume=quote,
        trades=trades,
        traded=traded,
        scale=scale,
        carry=prices[0][0],
    )


def _book(found: tuple[Market, ...], last: np.ndarray, minute: int) -> tuple[np.ndarray, np.ndarray]:
    """Best bid and ask around the last price: on the tick, wider where less is traded."""
    tick = 10.0 ** np.array([market.decimals for market in found])
    usual = np.array([market.price for market in found])
    wide = np.array([1e-5 + 1.2e-3 / (1 + market.usd_a_day / 3e5) for market in found])
    steps = np.rint(np.where(np.isnan(last), usual, last) * tick)
    spread = np.maximum(np.rint(steps * wide), 1)
    # the newest trade was a sale into the bid or a purchase from the ask
    bid = np.maximum(np.where((steps + minute) % 2 == 0, steps, steps - spread), 1)
    return bid / tick, (bid + spread) / tick
