"""The markets that are simulated: which exchange lists what, how finely, how much, and since when.

Owns the tables of assets and listings, and Market, the value that the model, the formats and replays share. The list
is the same in every simulation: it comes from names, never from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from zlib import crc32

import numpy as np

BORN_DAY = 17_167  # 2017-01-01: the simulated markets have no bars before it
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
    # shorter lists than the real ones have, so that polling all of them stays quick
    "okx": (0.35, "USDT 24 1, USDC 6 .1, BTC 4 .03"),
    "gate": (0.25, "USDT 30 1, BTC 3 .02"),
    "kucoin": (0.18, "USDT 26 1, BTC 6 .04, ETH 2 .02"),
    "bitstamp": (0.05, "USD 16 1, EUR 8 .6, GBP 2 .05"),
    "bitfinex": (0.06, "USD 16 1, USDT 6 .4, EUR 2 .1, BTC 4 .05"),
    "htx": (0.12, "USDT 22 1, BTC 4 .03"),
    "mexc": (0.22, "USDT 32 1, USDC 4 .1"),
    "bitget": (0.24, "USDT 24 1, USDC 4 .1, EUR 2 .03"),
    "bybit": (0.4, "USDT 26 1, USDC 6 .1, BTC 3 .03"),
    "coingecko": (3.0, "USD 60 1"),
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
    born: int = 0  # the first day with bars

    def listed(self, day: int) -> bool:
        """Whether it can be traded on this day (days since 1970-01-01)."""
        if self.dead or day < self.born:
            return False
        return self.season is None or (day + self.season) % 60 < 45


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


def _assets() -> dict[str, tuple[float, float, float, float]]:
    words = _ASSETS.split()
    return {words[i]: tuple(float(word) for word in words[i + 1 : i + 5]) for i in range(0, len(words), 5)}


ASSETS = _assets()


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
        born=BORN_DAY,
    )


def _quoted(exchange: str) -> list[Market]:
    """The assets with the largest trade, against each currency that the exchange quotes in."""
    share, quotes = _VENUES[exchange]
    absent = set(_ABSENT.get(exchange, "币安人生").split()) | {"USD", "USDT", "USDC", "EUR", "GBP"}
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
    for name in _EXTRA.get(exchange, "").split():
        pair, _, venue = name.partition(":")
        base, quote = pair.split("/")
        dollars = max(ASSETS[base][3], 0.05) * 1e6 * _VENUES[exchange][0] * 0.08
        found.append(_spot(exchange, base, quote, dollars, f":{venue}" if venue else ""))
    return found


def _dead(exchange: str) -> list[Market]:
    found = []
    for entry in _DEAD.get(exchange, "LUNC/USDT .0001").split(", "):
        name, price = entry.split()
        base, quote = name.replace("-", "/").split("/")
        found.append(Market(exchange, base, quote, price=float(price), dead=True))
    return found


def _contract(venue: str, base: str, kind: str) -> Market:
    price = ASSETS[base][0]
    dollars = ASSETS[base][3] * 4e5
    return Market(venue, base, "USD", price, _decimals(price, 8), 4, dollars, suffix=kind, born=BORN_DAY)


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
