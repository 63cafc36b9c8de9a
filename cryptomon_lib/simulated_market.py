"""Markets that never were: every minute's prices and volumes as a pure function of (seed, time).

Owns the list of simulated markets, their one-minute bars, and the rolling windows that tickers show. A day of an
exchange is one block of arrays, drawn from generators seeded by (seed, exchange, day), so that any minute can be asked
for at any time, in any order and in any process. Prices of a day run from that midnight's anchor to the next one's:
a bridge, hence no step over midnight, and the anchors themselves revert to a usual price.

Tickers are made of closed minutes only; candles also show the running minute, as far as it has come.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, lru_cache
from typing import NamedTuple
from zlib import crc32

import numpy as np

MINUTE_MS = 60_000
DAY_MINUTES = 1440
DAY_MS = DAY_MINUTES * MINUTE_MS
BORN_DAY = 17_167  # 2017-01-01: the simulated markets have no bars before it
TRADES_A_DAY_MAX = 10_000_000  # trade ids of a day begin at a multiple of it, so that they only grow
_MEMORY_DAYS = 512  # how far back a day's anchor remembers; what is older weighs 0.0004
_REVERSION = 0.985
_SHOCK_BLOCK = 256

# code, usual price in USD, own volatility (% a day), share in the whole market's moves, million USD traded a day
_ASSETS = """
USD 1 0 0 0            USDT 1 .03 0 0         USDC 1 .02 0 300       EUR 1.14 .4 0 60       GBP 1.31 .4 0 20
BTC 76000 1.3 .9 1500  ETH 2600 2.0 1.1 900   SOL 145 3.0 1.3 420    XRP 1.9 3.2 1.0 380    BNB 640 2.0 .9 160
DOGE .17 3.6 1.3 210   ADA .55 3.3 1.2 90     TRX .27 2.2 .6 60      LINK 14.5 3.2 1.2 70   AVAX 21 3.5 1.3 60
SUI 2.9 4.2 1.3 95     LTC 88 2.6 1.0 65      BCH 390 2.9 .9 40      DOT 4.6 3.2 1.2 35     SHIB .0000128 3.7 1.2 45
HBAR .18 3.9 1.2 40    UNI 6.8 3.8 1.2 38     PEPE .0000091 5.2 1.4 80  NEAR 2.6 3.9 1.3 42  AAVE 210 3.7 1.2 44
ICP 5.2 3.8 1.1 14     ETC 17.5 3.0 1.1 16    XLM .27 3.4 1.0 30     APT 4.9 3.8 1.2 22     ATOM 4.5 3.2 1.2 14
ARB .37 4.0 1.3 26     FIL 2.6 3.5 1.2 16     OP .71 4.1 1.3 18      INJ 12.5 4.2 1.3 14    ALGO .21 3.5 1.2 12
XMR 310 2.6 .6 12      MKR 1650 3.3 1.0 8     GRT .1 3.7 1.2 7       ENA .34 5.4 1.4 24     LDO .85 4.1 1.3 9
CRV .62 4.6 1.2 15     TIA 2.2 4.7 1.3 13     SEI .2 4.5 1.3 11      WIF .82 5.9 1.5 18     BONK .0000165 5.6 1.5 15
FET .7 4.7 1.3 11      RUNE 1.4 4.5 1.3 6     SAND .27 3.9 1.2 6     MANA .29 3.8 1.2 4     AXS 2.4 4.0 1.2 3
COMP 43 3.6 1.1 3      SNX .66 4.0 1.2 2      ZEC 49 3.5 .8 4        DASH 22 3.3 .8 2       KSM 16 3.6 1.1 1.2
ENJ .075 4.0 1.1 .9    BAT .13 3.6 1.0 .8     YFI 5200 3.6 1.1 1.4   1INCH .19 3.9 1.2 .9   ZRX .23 3.8 1.1 .5
STORJ .26 4.4 1.1 .4   KNC .34 4.1 1.0 .25    BNT .63 3.6 1.0 .15    ANKR .016 4.0 1.1 .3   OXT .061 4.6 1.0 .06
REQ .13 4.8 .9 .04     CTSI .065 4.7 1.0 .03  RLC 1.05 4.2 1.0 .08   币安人生 .11 7.0 1.2 3
"""
# exchange, its share of an asset's trade, and how many assets it quotes in what (with that quote's share)
_VENUES = {
    "kraken": (0.10, "USD 40 1, EUR 26 .45, USDT 8 .15, BTC 10 .06, GBP 4 .05, ETH 2 .02"),
    "coinbase": (0.28, "USD 38 1, EUR 8 .10, BTC 7 .04, GBP 4 .04, USDT 3 .06"),
    "binance": (1.00, "USDT 58 1, USDC 16 .22, BTC 18 .05, EUR 5 .04, ETH 3 .015"),
}
_ABSENT = {"kraken": "币安人生 BNB", "coinbase": "币安人生 BNB TRX XMR", "binance": "XMR"}
_EXTRA = {
    "kraken": "AAVE/USD:BTNL ETH/USD:BTNL USDC/USD USDT/USD EUR/USD BNT/USD OXT/EUR REQ/USD CTSI/EUR STORJ/BTC",
    "coinbase": "USDT/USD OXT/USD REQ/USD BNT/BTC RLC/GBP CTSI/EUR",
    "binance": "币安人生/USDT EUR/USDT BNT/BTC REQ/BTC OXT/ETH CTSI/BTC RLC/ETH STORJ/BTC",
}
# still listed, long without a trade: as zeros, or (Coinbase) only in the list of products
_DEAD = {
    "kraken": "AI16Z/USD .011, REPV2/ETH .0004, LUNA2/EUR .3, MATIC/GBP .2",
    "coinbase": "REP-USD 9, MATIC-GBP .2, OMG-GBP .4",
    "binance": "BCC/BTC .079081, HSR/BTC .000414, OAX/ETH .0001778, BUSD/USDT 1, LUNC/BUSD .0001",
}
_CONTRACTS = (
    "ftx BTC ETH SOL XRP DOGE LINK AVAX DOT LTC UNI AAVE ADA:perpetual-futures",
    "kraken-futures BTC ETH XRP LTC:perpetual-future-inverse",
    "kraken-futures BTC ETH:quarterly-future-inverse",
    "bitmex BTC ETH:perpetual-future-inverse",
    "okex BTC ETH SOL XRP ADA:perpetual-futures",
    "ftx BTC ETH:quarterly-futures",
)


@dataclass(frozen=True)
class Market:
    """One market of one exchange: what it trades, how finely, and how much."""

    exchange: str
    base: str
    quote: str
    price: float = 0.0  # usual, in the quote currency
    decimals: int = 8  # of a price
    lot_decimals: int = 8  # of a volume
    usd_a_day: float = 0.0  # traded
    dead: bool = False
    suffix: str = ""  # Kraken's second books (":BTNL"); a contract's kind ("perpetual-futures")
    season: int | None = None  # listed for 45 of every 60 days, counted from here; None: always

    def listed(self, day: int) -> bool:
        """Whether it can be traded on this day (days since 1970-01-01)."""
        if self.dead or day < BORN_DAY:
            return False
        return self.season is None or (day + self.season) % 60 < 45


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


def expiry(day: int) -> date:
    """The last Friday of the quarter that is running on this day, or of the next one after it has passed."""
    today = date(1970, 1, 1) + timedelta(days=day)
    for months in (0, 3):
        quarter = (today.month - 1) // 3 * 3 + 3 + months
        year, month = today.year + quarter // 12, quarter % 12 + 1
        last = date(year, month, 1) - timedelta(days=1)
        friday = last - timedelta(days=(last.weekday() - 4) % 7)
        if friday > today:
            return friday
    raise AssertionError("a quarter ends within six months")


def iso(at_ms: int) -> str:
    """`2021-09-28T12:00:00.000Z`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def _assets() -> dict[str, tuple[float, float, float, float]]:
    words = _ASSETS.split()
    return {words[i]: tuple(float(word) for word in words[i + 1 : i + 5]) for i in range(0, len(words), 5)}


ASSETS = _assets()
_INDEX = {code: number for number, code in enumerate(ASSETS)}


def _price(base: str, quote: str) -> float:
    return ASSETS[base][0] / ASSETS[quote][0]


def _decimals(price: float, most: int) -> int:
    """Enough for five figures, more for dear markets, as exchanges choose their ticks."""
    magnitude = int(np.floor(np.log10(price)))
    return int(np.clip(4 + max(0, magnitude - 2) - magnitude, 1 if magnitude > 3 else 2, most))


def _lot_decimals(exchange: str, price: float) -> int:
    if exchange == "binance":
        return int(np.clip(np.floor(np.log10(price)) + 1, 0, 5))
    return 8 if price > 0.01 else 5


def _spot(exchange: str, base: str, quote: str, usd_a_day: float, suffix: str = "") -> Market:
    price = _price(base, quote)
    # from the name, not the seed: the list of markets is the same in every simulation
    luck = crc32(f"{exchange} {base} {quote} {suffix}".encode())
    dollars = ASSETS[base][0]
    return Market(
        exchange,
        base,
        quote,
        price=price,
        decimals=_decimals(price, 8 if exchange != "kraken" else 10),
        lot_decimals=_lot_decimals(exchange, dollars),
        usd_a_day=usd_a_day * (0.5 + luck % 1000 / 1000),
        suffix=suffix,
        season=luck % 60 if luck % 11 == 0 and usd_a_day < 2e6 else None,
    )


def _quoted(exchange: str) -> list[Market]:
    """The assets with the largest trade, against each currency that the exchange quotes in."""
    share, quotes = _VENUES[exchange]
    absent = set(_ABSENT[exchange].split()) | {"USD", "USDT", "USDC", "EUR", "GBP"}
    coins = [code for code in ASSETS if code not in absent]
    found = []
    for entry in quotes.split(", "):
        quote, count, part_of = entry.split()
        # BTC is quoted in money only, ETH in money and BTC: nothing is quoted in what comes after it
        bases = coins[coins.index(quote) + 1 :] if quote in coins else coins
        dollars = share * float(part_of) * 1e6
        found += [_spot(exchange, base, quote, ASSETS[base][3] * dollars) for base in bases[: int(count)]]
    return found


def _extra(exchange: str) -> list[Market]:
    found = []
    for name in _EXTRA[exchange].split():
        pair, _, venue = name.partition(":")
        base, quote = pair.split("/")
        dollars = max(ASSETS[base][3], 0.05) * 1e6 * _VENUES[exchange][0] * 0.08
        found.append(_spot(exchange, base, quote, dollars, f":{venue}" if venue else ""))
    return found


def _dead(exchange: str) -> list[Market]:
    found = []
    for entry in _DEAD[exchange].split(", "):
        name, price = entry.split()
        base, quote = name.replace("-", "/").split("/")
        found.append(Market(exchange, base, quote, price=float(price), dead=True))
    return found


def _contract(venue: str, base: str, kind: str) -> Market:
    price = ASSETS[base][0]
    return Market(venue, base, "USD", price, _decimals(price, 8), 4, ASSETS[base][3] * 4e5, suffix=kind)


def _contracts() -> list[Market]:
    found = []
    for line in _CONTRACTS:
        names, kind = line.split(":")
        venue, *bases = names.split()
        found += [_contract(venue, base, kind) for base in bases]
    return found


def _universe() -> dict[str, tuple[Market, ...]]:
    spot = {name: tuple(_quoted(name) + _extra(name) + _dead(name)) for name in _VENUES}
    return {**spot, "futures": tuple(_contracts())}


MARKETS = _universe()


class SimulatedMarket:
    """All simulated exchanges under one seed; holds nothing but caches of what it has drawn."""

    def __init__(self, seed: int = 7):
        self.seed = seed
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
        return replace(self._window(exchange, at_ms // MINUTE_MS), at_ms=at_ms)

    def candles(self, market: Market, first: int, last: int, at_ms: int, flat: bool = False) -> list[Candle]:
        """Minutes first to last (since 1970, both included), the one that is running at `at_ms` as far as it is."""
        now = at_ms // MINUTE_MS
        days = _days(first, min(last, now - 1))
        found = [candle for day, cut in days for candle in self._rows(market, day, cut, flat)]
        if first <= now <= last:
            found += self._running(market, at_ms, flat)
        return found

    def _rows(self, market: Market, day: int, cut: tuple[int, int], flat: bool) -> list[Candle]:
        if not market.listed(day):
            return []
        column = MARKETS[_exchange(market)].index(market)
        return rows(self._bars(_exchange(market), day), column, day, *cut, flat)

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
        exchange = _exchange(market)
        bars, column = self._bars(exchange, day), MARKETS[exchange].index(market)
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
    return market.exchange if market.exchange in _VENUES else "futures"


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
