"""How the exchanges that joined later write theirs, from OKX to CoinGecko.

One entry of VENUES each, from three functions: tickers, candles, the list of markets. Their documents are named in
`cryptomon_lib/exchanges/`, which reads what is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptomon_lib.simulated_market import MINUTE_MS, Candle, day_of
from cryptomon_lib.simulated_replies import (
    Format,
    Refused,
    Request,
    candles_from,
    columns_of,
    plain,
    whole,
    written,
)
from cryptomon_lib.simulated_universe import ASSETS, Market

_PAGE_MAX = 250


@dataclass(frozen=True)
class _Row:
    """One market of a ticker."""

    market: Market
    alive: bool
    open: float
    high: float
    low: float
    last: float
    quote: float
    trades: int
    volume: float
    bid: float
    ask: float
    closed_ms: int

    @property
    def change(self) -> float:
        return self.last - self.open

    @property
    def fraction(self) -> float:
        return self.change / self.open if self.open else 0.0

    def price(self, value: float) -> str:
        return plain(value, max(self.market.decimals, 1))

    def amount(self, value: float) -> str:
        return plain(value, 8)


def _rows(request: Request, dead: bool) -> Iterator[_Row]:
    """The markets that had a trade, and with `dead` those without one, whose numbers are zeros."""
    window, day = request.window(), day_of(request.now)
    numbers = zip(
        columns_of(window.day),
        window.volume.tolist(),
        window.bid.tolist(),
        window.ask.tolist(),
        window.closed_ms.tolist(),
        strict=True,
    )
    for market, alive, (row, volume, bid, ask, closed_ms) in zip(
        window.markets, window.alive.tolist(), numbers, strict=True
    ):
        if alive:
            yield _Row(market, True, *row, volume, bid, ask, closed_ms)
        elif dead and (market.dead or market.listed(day)):
            yield _Row(market, False, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, request.at_ms)


def _found(request: Request, name: str | None, named: Callable[[Market], str]) -> Market:
    """The market of a name. Raises Refused("unknown_pair")."""
    for market in request.book.markets(request.exchange):
        if named(market) == name:
            return market
    raise Refused("unknown_pair")


def _between(
    request: Request, market: Market, since_s: int | None, until_s: int | None, most: int, flat: bool = True
) -> list[Candle]:
    """Candles that opened from a moment to another, the running one last; without a since the newest."""
    last = min(request.now if until_s is None else until_s // 60, request.now)
    first = last - most + 1 if since_s is None else -(-since_s // 60)
    return candles_from(request, market, first, last, most, flat)


def _seconds(request: Request, name: str, per: int = 1, plus: int = 0) -> int | None:
    text = request.query.get(name)
    return (whole(text, 0) + plus) // per if text else None


def _listed(request: Request, one: Callable[[Market, bool], Any]) -> list[Any]:
    """An entry for each market that is listed or was, and whether it can be traded now."""
    day = day_of(request.now)
    return [one(market, market.listed(day)) for market in request.book.markets(request.exchange)]


def _only(request: Request, **wanted: str) -> None:
    """Nothing, where the query says what it has to. Raises Refused("invalid")."""
    if any(request.query.get(name) != value for name, value in wanted.items()):
        raise Refused("invalid")


def _prices(candle: Candle, market: Market) -> list[str]:
    """Open, high, low and close as text."""
    return [plain(price, market.decimals) for price in candle[1:5]]


def _dashed(market: Market) -> str:
    return f"{market.base}-{market.quote}"


def _joined(market: Market) -> str:
    return f"{market.base}{market.quote}"


# ---- OKX


def _okx(rows: Any) -> bytes:
    return written({"code": "0", "msg": "", "data": rows})


def _okx_tickers(request: Request) -> bytes:
    """What is delisted or was not traded is absent."""
    _only(request, instType="SPOT")
    return _okx([_okx_row(row) for row in _rows(request, dead=False)])


def _okx_row(row: _Row) -> dict[str, str]:
    return {
        "instType": "SPOT",
        "instId": _dashed(row.market),
        "last": row.price(row.last),
        "lastSz": row.amount(row.volume / max(row.trades, 1)),
        "askPx": row.price(row.ask),
        "askSz": "1",
        "bidPx": row.price(row.bid),
        "bidSz": "1",
        "open24h": row.price(row.open),
        "high24h": row.price(row.high),
        "low24h": row.price(row.low),
        "volCcy24h": row.amount(row.quote),
        "vol24h": row.amount(row.volume),
        "ts": str(row.closed_ms),
        "sodUtc0": row.price(row.open),
        "sodUtc8": row.price(row.open),
    }


def _okx_candles(request: Request) -> bytes:
    """Newest first; `before` and `after` name candles that are left out; the running one has confirm 0."""
    _only(request, bar="1m")
    market = _found(request, request.query.get("instId"), _dashed)
    most = min(whole(request.query.get("limit"), 100), 300)
    since = _seconds(request, "before", 1000, 1000)
    until = _seconds(request, "after", 1000, -1)
    if request.caught[0] == "candles":
        # the newest 1,440 minutes only; the rest is under history-candles
        since = max(since or 0, (request.now - 1439) * 60)
    candles = _between(request, market, since, until, 10_000)[-most:]
    return _okx(
        [
            [
                str(one.minute * MINUTE_MS),
                *_prices(one, market),
                plain(one.volume, 8),
                plain(one.quote_volume, 8),
                plain(one.quote_volume, 8),
                "0" if one.minute == request.now else "1",
            ]
            for one in reversed(candles)
        ]
    )


def _okx_instruments(request: Request) -> bytes:
    _only(request, instType="SPOT")
    return _okx(
        _listed(
            request,
            lambda market, trading: {
                "instType": "SPOT",
                "instId": _dashed(market),
                "baseCcy": market.base,
                "quoteCcy": market.quote,
                "state": "live" if trading else "suspend",
                "tickSz": plain(10.0**-market.decimals, market.decimals),
            },
        )
    )


# ---- Gate


def _gate_tickers(request: Request) -> bytes:
    """What was not traded stays, as zeros and empty texts."""
    return written(
        [
            {
                "currency_pair": f"{row.market.base}_{row.market.quote}",
                "last": row.price(row.last),
                "lowest_ask": row.price(row.ask) if row.ask else "",
                "highest_bid": row.price(row.bid) if row.bid else "",
                "change_percentage": f"{100 * row.fraction:.2f}",
                "change_utc0": "0",
                "change_utc8": "0",
                "base_volume": row.amount(row.volume),
                "quote_volume": row.amount(row.quote),
                "high_24h": row.price(row.high),
                "low_24h": row.price(row.low),
            }
            for row in _rows(request, dead=True)
        ]
    )


def _gate_name(market: Market) -> str:
    return f"{market.base}_{market.quote}"


def _gate_candles(request: Request) -> bytes:
    """[open time s, quote volume, close, high, low, open, base volume, closed], ascending, of the newest 10,000."""
    _only(request, interval="1m")
    market = _found(request, request.query.get("currency_pair"), _gate_name)
    since, until = _seconds(request, "from"), _seconds(request, "to")
    if since is not None and (request.now - since // 60 > 10_000):
        raise Refused("too_long_ago")
    if since is not None and ((until or request.now * 60) - since) // 60 >= 1000:
        raise Refused("invalid")
    rows = []
    for one in _between(request, market, since, until, 1000):
        opened, high, low, close = _prices(one, market)
        closed = "false" if one.minute == request.now else "true"
        quote = plain(one.quote_volume, 8)
        rows.append([str(one.minute * 60), quote, close, high, low, opened, plain(one.volume, 8), closed])
    return written(rows)


def _gate_pairs(request: Request) -> bytes:
    return written(
        _listed(
            request,
            lambda market, trading: {
                "id": _gate_name(market),
                "base": market.base,
                "quote": market.quote,
                "fee": "0.2",
                "precision": market.decimals,
                "trade_status": "tradable" if trading else "untradable",
            },
        )
    )


# ---- KuCoin


def _kucoin(data: Any) -> bytes:
    return written({"code": "200000", "data": data})


def _kucoin_tickers(request: Request) -> bytes:
    """What never traded has null in place of numbers."""
    rows = [_kucoin_row(row) for row in _rows(request, dead=True)]
    return _kucoin({"time": request.at_ms, "ticker": rows})


def _kucoin_row(row: _Row) -> dict[str, str | None]:
    name = _dashed(row.market)
    prices = {
        "buy": row.price(row.bid),
        "sell": row.price(row.ask),
        "changeRate": f"{row.fraction:.4f}",
        "changePrice": row.price(row.change),
        "high": row.price(row.high),
        "low": row.price(row.low),
        "last": row.price(row.last),
        "averagePrice": row.price((row.high + row.low) / 2),
    }
    return {
        "symbol": name,
        "symbolName": name,
        **(prices if row.alive else dict.fromkeys(prices)),
        "vol": row.amount(row.volume),
        "volValue": row.amount(row.quote),
        "takerFeeRate": "0.001",
        "makerFeeRate": "0.001",
    }


def _kucoin_candles(request: Request) -> bytes:
    """[open time s, open, close, high, low, base volume, quote volume], newest first; quiet minutes are absent."""
    _only(request, type="1min")
    market = _found(request, request.query.get("symbol"), _dashed)
    candles = _between(
        request, market, _seconds(request, "startAt"), _seconds(request, "endAt"), 1500, flat=False
    )
    rows = []
    for one in reversed(candles):
        opened, high, low, close = _prices(one, market)
        volumes = plain(one.volume, 8), plain(one.quote_volume, 8)
        rows.append([str(one.minute * 60), opened, close, high, low, *volumes])
    return _kucoin(rows)


def _kucoin_symbols(request: Request) -> bytes:
    return _kucoin(
        _listed(
            request,
            lambda market, trading: {
                "symbol": _dashed(market),
                "name": _dashed(market),
                "baseCurrency": market.base,
                "quoteCurrency": market.quote,
                "enableTrading": trading,
            },
        )
    )


# ---- Bitstamp


def _bitstamp_tickers(request: Request) -> bytes:
    return written(
        [
            {
                "timestamp": str(row.closed_ms // 1000),
                "open": row.price(row.open),
                "high": row.price(row.high),
                "low": row.price(row.low),
                "last": row.price(row.last),
                "volume": row.amount(row.volume),
                "vwap": row.price(row.quote / row.volume if row.volume else 0.0),
                "bid": row.price(row.bid),
                "ask": row.price(row.ask),
                "side": "0",
                "open_24": row.price(row.open),
                "percent_change_24": f"{100 * row.fraction:.2f}" if row.alive else None,
                "market_type": "SPOT",
                "pair": f"{row.market.base}/{row.market.quote}",
                "market": f"{row.market.base}/{row.market.quote}",
            }
            for row in _rows(request, dead=True)
        ]
    )


def _bitstamp_candles(request: Request) -> bytes:
    """Objects, ascending; quiet minutes are there."""
    _only(request, step="60")
    market = _found(request, request.caught[0], lambda market: _joined(market).lower())
    most = min(whole(request.query.get("limit"), 1000), 1000)
    rows = []
    for one in _between(request, market, _seconds(request, "start"), _seconds(request, "end"), most):
        opened, high, low, close = _prices(one, market)
        rows.append(
            {
                "timestamp": str(one.minute * 60),
                "open": opened,
                "high": high,
                "low": low,
                "close": close,
                "volume": plain(one.volume, 8),
            }
        )
    return written({"data": {"pair": f"{market.base}/{market.quote}", "ohlc": rows}})


def _bitstamp_pairs(request: Request) -> bytes:
    return written(
        _listed(
            request,
            lambda market, trading: {
                "trading": "Enabled" if trading else "Disabled",
                "base_decimals": market.lot_decimals,
                "url_symbol": _joined(market).lower(),
                "name": f"{market.base}/{market.quote}",
                "counter_decimals": market.decimals,
            },
        )
    )


# ---- Bitfinex

_BITFINEX_CODES = {"USDT": "UST", "DASH": "DSH", "ALGO": "ALG", "MANA": "MNA"}


def _bitfinex_name(market: Market) -> str:
    base, quote = (_BITFINEX_CODES.get(code, code) for code in (market.base, market.quote))
    return f"t{base}{quote}" if len(base) == len(quote) == 3 else f"t{base}:{quote}"


def _bitfinex_tickers(request: Request) -> bytes:
    """Lists, with the rows of funding currencies among them."""
    _only(request, symbols="ALL")
    rows: list[list] = [
        [
            _bitfinex_name(row.market),
            row.bid,
            29.31366,
            row.ask,
            37.93,
            row.change,
            round(row.fraction, 4),
            row.last,
            row.volume,
            row.high,
            row.low,
        ]
        for row in _rows(request, dead=True)
    ]
    funding = [
        ["fUSD", 0.0003, 0.0002, 30, 1e6, 0.0004, 2, 5e5, 0, 0, 0.0003, 9e6, 0.0005, 0.0001, None, None, 1]
    ]
    return written(rows + funding)


def _bitfinex_candles(request: Request) -> bytes:
    """[open time ms, open, close, high, low, base volume]; newest first unless sort=1; quiet minutes are absent."""
    market = _found(request, request.caught[0], _bitfinex_name)
    most = min(whole(request.query.get("limit"), 100), 10_000)
    since, until = _seconds(request, "start", 1000), _seconds(request, "end", 1000)
    candles = _between(request, market, since, until, most, flat=False)
    rows = [[c.minute * MINUTE_MS, c.open, c.close, c.high, c.low, c.volume] for c in candles]
    return written(rows if request.query.get("sort") == "1" else rows[::-1])


def _bitfinex_conf(request: Request) -> bytes:
    """As many lists as were asked for, parted by commas."""
    day = day_of(request.now)
    names = [_bitfinex_name(m)[1:] for m in request.book.markets(request.exchange) if m.listed(day)]
    lists = {
        "pub:list:pair:exchange": names,
        "pub:list:pair:futures": [],
        "pub:map:currency:sym": [[own, plain_code] for plain_code, own in _BITFINEX_CODES.items()],
    }
    try:
        return written([lists[name] for name in request.caught[0].split(",")])
    except KeyError:
        raise Refused("invalid") from None


# ---- HTX


def _htx(request: Request, data: Any) -> bytes:
    return written({"status": "ok", "ts": request.at_ms, "data": data})


def _htx_name(market: Market) -> str:
    return _joined(market).lower()


def _htx_tickers(request: Request) -> bytes:
    """Bare numbers; `vol` is the quote volume."""
    return _htx(
        request,
        [
            {
                "symbol": _htx_name(row.market),
                "open": row.open,
                "high": row.high,
                "low": row.low,
                "close": row.last,
                "amount": row.volume,
                "vol": row.quote,
                "count": row.trades,
                "bid": row.bid,
                "bidSize": 1.5,
                "ask": row.ask,
                "askSize": 2.5,
            }
            for row in _rows(request, dead=True)
        ],
    )


def _htx_candles(request: Request) -> bytes:
    """The newest `size`, newest first."""
    _only(request, period="1min")
    market = _found(request, request.query.get("symbol"), _htx_name)
    most = min(max(whole(request.query.get("size"), 150), 1), 2000)
    return _htx(
        request,
        [
            {
                "id": one.minute * 60,
                "open": one.open,
                "close": one.close,
                "low": one.low,
                "high": one.high,
                "amount": one.volume,
                "vol": one.quote_volume,
                "count": one.trades,
            }
            for one in reversed(_between(request, market, None, None, most))
        ],
    )


def _htx_symbols(request: Request) -> bytes:
    return _htx(
        request,
        _listed(
            request,
            lambda market, trading: {
                "base-currency": market.base.lower(),
                "quote-currency": market.quote.lower(),
                "price-precision": market.decimals,
                "symbol": _htx_name(market),
                "state": "online" if trading else "offline",
            },
        ),
    )


# ---- MEXC


def _mexc_tickers(request: Request) -> bytes:
    """As Binance's, but the percent is a fraction and the count null."""
    return written(
        [
            {
                "symbol": _joined(row.market),
                "priceChange": row.price(row.change),
                "priceChangePercent": plain(row.fraction, 8),
                "prevClosePrice": row.price(row.open),
                "lastPrice": row.price(row.last),
                "bidPrice": row.price(row.bid),
                "bidQty": "1",
                "askPrice": row.price(row.ask),
                "askQty": "1",
                "openPrice": row.price(row.open),
                "highPrice": row.price(row.high),
                "lowPrice": row.price(row.low),
                "volume": row.amount(row.volume),
                "quoteVolume": row.amount(row.quote) if row.alive else None,
                "openTime": row.closed_ms - 86_400_000,
                "closeTime": row.closed_ms,
                "count": None,
            }
            for row in _rows(request, dead=True)
        ]
    )


def _mexc_candles(request: Request) -> bytes:
    """Ascending, at most 500; the one that opens at `endTime` is left out."""
    _only(request, interval="1m")
    market = _found(request, request.query.get("symbol"), _joined)
    since = _seconds(request, "startTime", 1000)
    until = _seconds(request, "endTime", 1000, -1)
    most = min(whole(request.query.get("limit"), 500), 500)
    rows = []
    for one in _between(request, market, since, until, most):
        opened = one.minute * MINUTE_MS
        volumes = plain(one.volume, 8), opened + MINUTE_MS, plain(one.quote_volume, 8)
        rows.append([opened, *_prices(one, market), *volumes])
    return written(rows)


def _mexc_info(request: Request) -> bytes:
    symbols = _listed(
        request,
        lambda market, trading: {
            "symbol": _joined(market),
            "status": "1" if trading else "3",
            "baseAsset": market.base,
            "quoteAsset": market.quote,
            "isSpotTradingAllowed": trading,
        },
    )
    return written({"timezone": "CST", "serverTime": request.at_ms, "rateLimits": [], "symbols": symbols})


# ---- Bitget


def _bitget(request: Request, data: Any) -> bytes:
    return written({"code": "00000", "msg": "success", "requestTime": request.at_ms, "data": data})


def _bitget_tickers(request: Request) -> bytes:
    return _bitget(
        request,
        [
            {
                "open": row.price(row.open),
                "symbol": _joined(row.market),
                "high24h": row.price(row.high),
                "low24h": row.price(row.low),
                "lastPr": row.price(row.last),
                "quoteVolume": row.amount(row.quote),
                "baseVolume": row.amount(row.volume),
                "usdtVolume": row.amount(row.quote),
                "ts": str(row.closed_ms),
                "bidPr": row.price(row.bid),
                "askPr": row.price(row.ask),
                "bidSz": "1",
                "askSz": "1",
                "openUtc": row.price(row.open),
                "changeUtc24h": "0",
                "change24h": f"{row.fraction:.5f}",
            }
            for row in _rows(request, dead=True)
        ],
    )


def _bitget_candles(request: Request) -> bytes:
    """Ascending; the end is left out. Of the history there is no start: the newest `limit` before the end."""
    _only(request, granularity="1min")
    market = _found(request, request.query.get("symbol"), _joined)
    history = request.caught[0] == "history-candles"
    most = min(whole(request.query.get("limit"), 100), 200 if history else 1000)
    since, until = _seconds(request, "startTime", 1000), _seconds(request, "endTime", 1000, -1)
    if history:
        last = min(request.now if until is None else until // 60, request.now)
        since = (last - most + 1) * 60
    return _bitget(
        request,
        [
            [
                str(one.minute * MINUTE_MS),
                *_prices(one, market),
                plain(one.volume, 8),
                plain(one.quote_volume * ASSETS.get(market.quote, (1.0,))[0], 8),
                plain(one.quote_volume, 8),
            ]
            for one in _between(request, market, since, until, most)
        ],
    )


def _bitget_symbols(request: Request) -> bytes:
    return _bitget(
        request,
        _listed(
            request,
            lambda market, trading: {
                "symbol": _joined(market),
                "baseCoin": market.base,
                "quoteCoin": market.quote,
                "status": "online" if trading else "offline",
            },
        ),
    )


# ---- Bybit


def _bybit(request: Request, **result: Any) -> bytes:
    whole_answer = {"retCode": 0, "retMsg": "OK", "result": {"category": "spot", **result}, "retExtInfo": {}}
    return written({**whole_answer, "time": request.at_ms})


def _bybit_tickers(request: Request) -> bytes:
    """What was not traded is absent; some fields are usually empty."""
    _only(request, category="spot")
    rows = [
        {
            "symbol": _joined(row.market),
            "bid1Price": row.price(row.bid),
            "bid1Size": "1",
            "ask1Price": row.price(row.ask),
            "ask1Size": "1",
            "lastPrice": row.price(row.last),
            "prevPrice24h": row.price(row.open),
            "price24hPcnt": f"{row.fraction:.4f}",
            "highPrice24h": row.price(row.high),
            "lowPrice24h": row.price(row.low),
            "turnover24h": row.amount(row.quote),
            "volume24h": row.amount(row.volume),
            "usdIndexPrice": "",
        }
        for row in _rows(request, dead=False)
    ]
    return _bybit(request, list=rows)


def _bybit_candles(request: Request) -> bytes:
    """Newest first."""
    _only(request, category="spot", interval="1")
    market = _found(request, request.query.get("symbol"), _joined)
    most = min(whole(request.query.get("limit"), 200), 1000)
    since, until = _seconds(request, "start", 1000), _seconds(request, "end", 1000)
    rows = [
        [
            str(one.minute * MINUTE_MS),
            *_prices(one, market),
            plain(one.volume, 8),
            plain(one.quote_volume, 8),
        ]
        for one in reversed(_between(request, market, since, until, most))
    ]
    return _bybit(request, symbol=_joined(market), list=rows)


def _bybit_instruments(request: Request) -> bytes:
    _only(request, category="spot")
    rows = _listed(
        request,
        lambda market, trading: {
            "symbol": _joined(market),
            "baseCoin": market.base,
            "quoteCoin": market.quote,
            "status": "Trading" if trading else "Closed",
        },
    )
    return _bybit(request, list=rows)


# ---- CoinGecko


def _coingecko_markets(request: Request) -> bytes:
    """Coins by their trade, page by page; dead ones are at the end, with nulls."""
    _only(request, vs_currency="usd")
    size = min(max(whole(request.query.get("per_page"), 100), 1), _PAGE_MAX)
    page = max(whole(request.query.get("page"), 1), 1)
    rows = sorted(_rows(request, dead=True), key=lambda row: -row.quote)
    cut = enumerate(rows[(page - 1) * size : page * size], (page - 1) * size + 1)
    return written([_coingecko_coin(row, rank) for rank, row in cut])


def _coingecko_coin(row: _Row, rank: int) -> dict[str, Any]:
    at = datetime.fromtimestamp(row.closed_ms / 1000, UTC).isoformat(timespec="milliseconds")

    def known(value: float) -> float | None:
        return value if row.alive else None

    return {
        "id": row.market.base.lower(),
        "symbol": row.market.base.lower(),
        "name": row.market.base,
        "current_price": known(row.last),
        "market_cap": known(row.last * 1e7),
        "market_cap_rank": rank,
        "total_volume": known(row.quote),
        "high_24h": known(row.high),
        "low_24h": known(row.low),
        "price_change_24h": known(row.change),
        "price_change_percentage_24h": known(100 * row.fraction),
        "max_supply": None,
        "roi": None,
        "last_updated": at.replace("+00:00", "Z") if row.alive else None,
    }


# ---- the entries


def _errors(
    body: Callable[[Any, str], bytes],
    codes: dict[str, Any],
    statuses: dict[str, int],
    **more: tuple[int, bytes],
) -> dict[str, tuple[int, bytes]]:
    """An exchange's errors: its body of a code and words, its own codes, and the statuses it gives them."""
    usual = {
        "not_found": (404, "Not found"),
        "unknown_pair": (400, "Invalid symbol"),
        "invalid": (400, "Invalid parameter"),
        "rate_limit": (429, "Too many requests"),
        "banned": (418, "Banned"),
        "restricted": (451, "Not available in your region"),
        "internal": (500, "Internal server error"),
        "unavailable": (503, "Service unavailable"),
    }
    return {
        kind: (statuses.get(kind, status), body(codes.get(kind, codes["other"]), says))
        for kind, (status, says) in usual.items()
    } | more


def _code_msg(code: Any, says: str) -> bytes:
    return written({"code": code, "msg": says})


def _gate_error(label: str, says: str) -> bytes:
    return written({"label": label, "message": says})


VENUES: dict[str, Format] = {
    "okx": Format(
        routes={
            "/api/v5/market/tickers": _okx_tickers,
            "/api/v5/market/(candles|history-candles)": _okx_candles,
            "/api/v5/public/instruments": _okx_instruments,
        },
        errors=_errors(
            lambda code, says: written({"code": code, "msg": says, "data": []}),
            {"rate_limit": "50011", "unknown_pair": "51001", "unavailable": "50001", "other": "51000"},
            {"unknown_pair": 200, "invalid": 200},
        ),
    ),
    "gate": Format(
        routes={
            "/api/v4/spot/tickers": _gate_tickers,
            "/api/v4/spot/candlesticks": _gate_candles,
            "/api/v4/spot/currency_pairs": _gate_pairs,
        },
        errors=_errors(
            _gate_error,
            {
                "rate_limit": "TOO_MANY_REQUESTS",
                "unknown_pair": "INVALID_CURRENCY_PAIR",
                "internal": "SERVER_ERROR",
                "other": "INVALID_PARAM_VALUE",
            },
            {},
            too_long_ago=(
                400,
                _gate_error(
                    "INVALID_PARAM_VALUE",
                    "Candlestick too long ago. Maximum 10000 points recently are allowed",
                ),
            ),
        ),
    ),
    "kucoin": Format(
        routes={
            "/api/v1/market/allTickers": _kucoin_tickers,
            "/api/v1/market/candles": _kucoin_candles,
            "/api/v2/symbols": _kucoin_symbols,
        },
        errors=_errors(_code_msg, {"rate_limit": "429000", "other": "400100"}, {"unknown_pair": 200}),
    ),
    "bitstamp": Format(
        routes={
            "/api/v2/ticker/?": _bitstamp_tickers,
            "/api/v2/ohlc/([^/]+)/?": _bitstamp_candles,
            "/api/v2/trading-pairs-info/?": _bitstamp_pairs,
        },
        errors=_errors(
            lambda code, says: written({"status": "error", "reason": says, "code": code}),
            {"other": "API0000"},
            {"unknown_pair": 404},
        ),
    ),
    "bitfinex": Format(
        routes={
            "/v2/tickers": _bitfinex_tickers,
            "/v2/candles/trade:1m:([^/]+)/hist": _bitfinex_candles,
            "/v2/conf/(.+)": _bitfinex_conf,
        },
        errors=_errors(
            lambda code, says: written(["error", code, says]),
            {"rate_limit": 11010, "unavailable": 20060, "other": 10020},
            {"unknown_pair": 500, "invalid": 500},
        ),
    ),
    "htx": Format(
        routes={
            "/market/tickers": _htx_tickers,
            "/market/history/kline": _htx_candles,
            "/v1/common/symbols": _htx_symbols,
        },
        errors=_errors(
            lambda code, says: written({"status": "error", "err-code": code, "err-msg": says, "ts": 0}),
            {"rate_limit": "too-many-requests", "other": "invalid-parameter"},
            {"unknown_pair": 200, "invalid": 200},
        ),
    ),
    "mexc": Format(
        routes={
            "/api/v3/ticker/24hr": _mexc_tickers,
            "/api/v3/klines": _mexc_candles,
            "/api/v3/exchangeInfo": _mexc_info,
        },
        errors=_errors(_code_msg, {"rate_limit": 429, "unknown_pair": -1121, "other": 700003}, {}),
    ),
    "bitget": Format(
        routes={
            "/api/v2/spot/market/tickers": _bitget_tickers,
            "/api/v2/spot/market/(candles|history-candles)": _bitget_candles,
            "/api/v2/spot/public/symbols": _bitget_symbols,
        },
        errors=_errors(_code_msg, {"rate_limit": "429", "unknown_pair": "40034", "other": "40404"}, {}),
    ),
    "bybit": Format(
        routes={
            "/v5/market/tickers": _bybit_tickers,
            "/v5/market/kline": _bybit_candles,
            "/v5/market/instruments-info": _bybit_instruments,
        },
        errors=_errors(
            lambda code, says: written({"retCode": code, "retMsg": says, "result": {}, "time": 0}),
            {"rate_limit": 10006, "other": 10001},
            {"rate_limit": 200, "unknown_pair": 200, "invalid": 200},
        ),
    ),
    "coingecko": Format(
        routes={"/api/v3/coins/markets": _coingecko_markets},
        errors=_errors(
            lambda code, says: written({"status": {"error_code": code, "error_message": says}}),
            {"rate_limit": 429, "other": 400},
            {},
        ),
    ),
}
