"""How each exchange writes its tickers, candles, lists of markets and errors: one entry of FORMATS an exchange.

To add an exchange, write its functions and add its entry: here, or where its like are (simulated_venues).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from cryptomon_lib.simulated_market import DAY_MS, MINUTE_MS, Candle, Window, day_of
from cryptomon_lib.simulated_replies import (
    UNKNOWN,
    Format,
    Refused,
    Reply,
    Request,
    candles_from,
    columns_of,
    plain,
    whole,
    written,
)
from cryptomon_lib.simulated_universe import Market, expiry
from cryptomon_lib.simulated_venues import VENUES


def answer(book: Any, exchange: str, path: str, query: dict[str, str], at_ms: int) -> Reply:
    """What the exchange answers to a path at a moment: data, or its own error."""
    form = FORMATS.get(exchange, UNKNOWN)
    for pattern, write in form.routes.items():
        if caught := re.fullmatch(pattern, path):
            try:
                body = write(Request(book, exchange, caught.groups(), query, at_ms))
            except Refused as refused:
                return form.error(refused.kind)
            return Reply(200, body, headers=form.headers)
    return form.error("not_found")


# ---- Kraken: https://docs.kraken.com/api/docs/rest-api/get-ticker-information

_KRAKEN_CODES = {"BTC": "XBT", "DOGE": "XDG"}
_KRAKEN_OLD = {"XBT", "XDG", "ETH", "LTC", "XRP", "XMR", "XLM", "ZEC", "ETC", "MLN", "REP"}
_KRAKEN_MONEY = {"USD", "EUR", "GBP"}


def _kraken_code(asset: str) -> str:
    code = _KRAKEN_CODES.get(asset, asset)
    return f"X{code}" if code in _KRAKEN_OLD else f"Z{code}" if code in _KRAKEN_MONEY else code


def _kraken_names(market: Market) -> tuple[str, str, str]:
    """Today's name (BTC/USD), the short one (XBTUSD) and the old key (XXBTZUSD)."""
    base, quote = _KRAKEN_CODES.get(market.base, market.base), _KRAKEN_CODES.get(market.quote, market.quote)
    short = f"{base}{quote}{market.suffix}"
    old = (
        base in _KRAKEN_OLD and quote in _KRAKEN_MONEY | {"XBT", "ETH"} and (base != "XDG" or quote == "XBT")
    )
    long = f"{_kraken_code(market.base)}{_kraken_code(market.quote)}{market.suffix}" if old else short
    return f"{market.base}/{market.quote}{market.suffix}", short, long


def _kraken_key(request: Request, market: Market) -> str:
    new, _, old = _kraken_names(market)
    return new if request.query.get("assetVersion") == "1" else old


def _kraken_find(request: Request, name: str) -> Market:
    for market in request.book.markets(request.exchange):
        new, short, old = _kraken_names(market)
        if name.upper() in (new, short, old, new.replace("/", ""), short.replace("XBT", "BTC")):
            if market.dead or market.listed(day_of(request.now)):
                return market
            break
    raise Refused("unknown_pair")


def _kraken_ticker(request: Request) -> bytes:
    wanted = None
    if request.query.get("pair"):
        wanted = {_kraken_find(request, name) for name in request.query["pair"].split(",")}
    window, day = request.window(), day_of(request.now)
    entries = [
        _kraken_entry(_kraken_key(request, market), market, *numbers)
        for market, *numbers in _kraken_rows(window)
        if (market.dead or market.listed(day)) and (wanted is None or market in wanted)
    ]
    return ('{"error":[],"result":{' + ",".join(entries) + "}}").encode()


def _kraken_rows(window: Window) -> Iterator[tuple[Market, tuple, tuple, tuple]]:
    """Each market with its rolling 24 h, its day since midnight, and its book (bid, ask, size of the last trade)."""
    rolling = zip(columns_of(window.day), window.volume.tolist(), strict=True)
    today = zip(columns_of(window.today), (window.today.lots / window.scale).tolist(), strict=True)
    lots = (window.day.last_lots / window.scale).tolist()
    book = zip(window.bid.tolist(), window.ask.tolist(), lots, strict=True)
    blank = ((0.0, 0.0, 0.0, 0.0, 0.0, 0), 0.0)
    for market, alive, *parts, prices in zip(
        window.markets, window.alive.tolist(), rolling, today, book, strict=True
    ):
        yield (market, *(parts if alive else (blank, blank)), prices)


def _kraken_entry(key: str, market: Market, rolling: tuple, today: tuple, book: tuple) -> str:
    """One pair: index 0 of v, p, t, l, h is since midnight, 1 the rolling 24 h; o since midnight."""
    (_, high, low, last, quote, trades), volume = rolling
    (open_0, high_0, low_0, _, quote_0, trades_0), volume_0 = today
    bid, ask, lot = book
    # Kraken shows prices with more decimals than it trades in
    d, v = max(5, market.decimals + (market.decimals > 5)), market.lot_decimals
    depth = 1 + int(lot * 7)
    vwap, vwap_0 = quote / volume if volume else 0.0, quote_0 / volume_0 if volume_0 else 0.0
    return (
        f'"{key}":{{"a":["{ask:.{d}f}","{depth}","{depth}.000"],"b":["{bid:.{d}f}","{depth + 2}","{depth + 2}.000"],'
        f'"c":["{last:.{d}f}","{lot if last else 0.0:.{v}f}"],"v":["{volume_0:.{v}f}","{volume:.{v}f}"],'
        f'"p":["{vwap_0:.{d}f}","{vwap:.{d}f}"],"t":[{trades_0},{trades}],'
        f'"l":["{low_0:.{d}f}","{low:.{d}f}"],"h":["{high_0:.{d}f}","{high:.{d}f}"],"o":"{open_0:.{d}f}"}}'
    )


def _kraken_ohlc(request: Request) -> bytes:
    """The newest 720 minutes after `since`, the running one last; `last` is the newest closed minute."""
    market = _kraken_find(request, request.query.get("pair", ""))
    if request.query.get("interval", "1") != "1":
        raise Refused("invalid")
    since = whole(request.query.get("since"), 0)
    first = max(request.now - 719, since // 60 + 1)
    candles = request.candles(market, min(first, request.now), request.now, flat=True)
    entries = ",".join(_kraken_candle(candle, market) for candle in candles)
    key = _kraken_key(request, market)
    return f'{{"error":[],"result":{{"{key}":[{entries}],"last":{(request.now - 1) * 60}}}}}'.encode()


def _kraken_candle(candle: Candle, market: Market) -> str:
    d = market.decimals
    vwap = f"{candle.quote_volume / candle.volume:.{d}f}" if candle.volume else "0.0"
    prices = '","'.join(f"{price:.{d}f}" for price in candle[1:5])
    volume = f"{candle.volume:.{market.lot_decimals}f}"
    return f'[{candle.minute * 60},"{prices}","{vwap}","{volume}",{candle.trades}]'


def _kraken_pairs(request: Request) -> bytes:
    markets = [m for m in request.book.markets(request.exchange) if m.dead or m.listed(day_of(request.now))]
    return written(
        {"error": [], "result": {_kraken_key(request, m): _kraken_pair(request, m) for m in markets}}
    )


def _kraken_pair(request: Request, market: Market) -> dict[str, Any]:
    new, short, _ = _kraken_names(market)
    modern = request.query.get("assetVersion") == "1"
    base, quote = _KRAKEN_CODES.get(market.base, market.base), _KRAKEN_CODES.get(market.quote, market.quote)
    return {
        "altname": short,
        "wsname": new if modern else f"{base}/{quote}{market.suffix}",
        "aclass_base": "currency",
        "base": market.base if modern else _kraken_code(market.base),
        "aclass_quote": "currency",
        "quote": market.quote if modern else _kraken_code(market.quote),
        "lot": "unit",
        "cost_decimals": 5,
        "pair_decimals": market.decimals,
        "lot_decimals": market.lot_decimals,
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": [[0, 0.4], [10000, 0.35], [50000, 0.24]],
        "fees_maker": [[0, 0.25], [10000, 0.2], [50000, 0.14]],
        "fee_volume_currency": "USD" if modern else "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": "1",
        "costmin": "0.5",
        "tick_size": plain(10.0**-market.decimals, market.decimals),
        "status": "cancel_only" if market.dead else "online",
    }


# ---- Coinbase Exchange: https://docs.cdp.coinbase.com/exchange/reference/exchangerestapi_getproducts


def _coinbase_stats(request: Request) -> bytes:
    """Products without a trade in 24 h are absent; no quote volume, no time."""
    window = request.window()
    entries = []
    for market, alive, row, volume in zip(
        window.markets, window.alive.tolist(), columns_of(window.day), window.volume.tolist(), strict=True
    ):
        if alive:
            entries.append(
                f'"{market.base}-{market.quote}":{{{_coinbase_product_stats(market, row, volume)}}}'
            )
    return ("{" + ",".join(entries) + "}").encode()


def _coinbase_product_stats(market: Market, row: tuple, volume: float) -> str:
    opened, high, low, last = (plain(price, market.decimals) for price in row[:4])
    day = (
        f'"stats_24hour":{{"open":"{opened}","high":"{high}","low":"{low}","last":"{last}",'
        f'"volume":"{plain(volume, market.lot_decimals)}"}}'
    )
    if not market.usd_a_day:  # replayed bars do not reach back 30 days
        return day
    month = 30 * market.usd_a_day / row[3]
    return f'"stats_30day":{{"volume":"{plain(month, 3)}"}},{day}'


def _coinbase_products(request: Request) -> bytes:
    day = day_of(request.now)
    markets = [
        market for market in request.book.markets(request.exchange) if market.dead or market.listed(day)
    ]
    return written([_coinbase_product(market) for market in markets])


def _coinbase_product(market: Market) -> dict[str, Any]:
    return {
        "id": f"{market.base}-{market.quote}",
        "base_currency": market.base,
        "quote_currency": market.quote,
        "base_min_size": plain(10.0**-market.lot_decimals, market.lot_decimals),
        "base_max_size": "1000000",
        "quote_increment": plain(10.0**-market.decimals, market.decimals),
        "base_increment": plain(10.0**-market.lot_decimals, market.lot_decimals),
        "display_name": f"{market.base}/{market.quote}",
        "min_market_funds": "1",
        "max_market_funds": "1000000",
        "margin_enabled": False,
        "post_only": False,
        "limit_only": False,
        "cancel_only": False,
        "trading_disabled": market.dead,
        "status": "delisted" if market.dead else "online",
        "status_message": "",
    }


def _coinbase_candles(request: Request) -> bytes:
    """[open time s, low, high, open, close, volume], newest first, at most 300; quiet minutes are absent."""
    names = {f"{m.base}-{m.quote}": m for m in request.book.markets(request.exchange)}
    market = names.get(request.caught[0].upper())
    if market is None:
        raise Refused("unknown_pair")
    if request.query.get("granularity", "60") != "60":
        raise Refused("granularity")
    last = _coinbase_minute(request.query.get("end"), request.now)
    first = _coinbase_minute(request.query.get("start"), last - 299)
    if last - first > 300:
        raise Refused("too_many")
    found = [
        [candle.minute * 60, candle.low, candle.high, candle.open, candle.close, candle.volume]
        for candle in request.candles(market, first, last)[::-1]
    ]
    return written(found[:300])


def _coinbase_minute(text: str | None, otherwise: int) -> int:
    if not text:
        return otherwise
    if text.isdecimal():
        return whole(text, otherwise) // 60
    try:
        # a plus of a zone arrives as a space when the caller did not escape it
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise Refused("invalid") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() // 60)


# ---- Binance: https://developers.binance.com/docs/binance-spot-api-docs/rest-api


def _binance_ticker(request: Request) -> bytes:
    """Every market, those without a trade as zeros; `symbol` asks for one, `symbols` for some."""
    window = request.window()
    entries = _binance_entries(window)
    if "symbol" in request.query:
        return entries[_binance_number(window, request.query["symbol"])].encode()
    if "symbols" in request.query:
        symbols = re.findall(r'"([^"]+)"', request.query["symbols"])
        entries = [entries[_binance_number(window, symbol)] for symbol in symbols]
    return ("[" + ",".join(entries) + "]").encode()


def _binance_number(window: Window, symbol: str) -> int:
    for number, market in enumerate(window.markets):
        if market.base + market.quote == symbol:
            return number
    raise Refused("unknown_pair")


def _binance_entries(window: Window) -> list[str]:
    numbers = zip(
        columns_of(window.day),
        window.volume.tolist(),
        (window.day.last_lots / window.scale).tolist(),
        window.bid.tolist(),
        window.ask.tolist(),
        window.closed_ms.tolist(),
        window.trade_id.tolist(),
        strict=True,
    )
    markets = zip(window.markets, window.alive.tolist(), numbers, strict=True)
    return [
        _binance_entry(market, *row) if alive else _binance_zeros(market, window.at_ms)
        for market, alive, row in markets
    ]


def _binance_entry(
    market: Market,
    row: tuple,
    volume: float,
    lot: float,
    bid: float,
    ask: float,
    closed_ms: int,
    trade_id: int,
) -> str:
    opened, high, low, last, quote, trades = row
    # very cheap coins show two decimals of a quantity
    v = 2 if 0 < market.price < 1e-4 and market.quote in ("USDT", "USDC") else 8
    change, average = last - opened, quote / volume if volume else last
    size = volume / max(trades, 1)
    return (
        f'{{"symbol":"{market.base}{market.quote}","priceChange":"{change:.8f}",'
        f'"priceChangePercent":"{100 * change / opened:.3f}","weightedAvgPrice":"{average:.8f}",'
        f'"prevClosePrice":"{opened:.8f}","lastPrice":"{last:.8f}","lastQty":"{lot:.{v}f}",'
        f'"bidPrice":"{bid:.8f}","bidQty":"{size * (bid > 0):.{v}f}","askPrice":"{ask:.8f}",'
        f'"askQty":"{size * (ask > 0):.{v}f}","openPrice":"{opened:.8f}","highPrice":"{high:.8f}",'
        f'"lowPrice":"{low:.8f}","volume":"{volume:.{v}f}","quoteVolume":"{quote:.8f}",'
        f'"openTime":{closed_ms - DAY_MS},"closeTime":{closed_ms},'
        f'"firstId":{trade_id - trades + 1},"lastId":{trade_id},"count":{trades}}}'
    )


def _binance_zeros(market: Market, at_ms: int) -> str:
    """A market that stopped: the ticker's time stopped with it, here 30 days ago."""
    stale, zero = at_ms - at_ms % DAY_MS - 30 * DAY_MS, "0.00000000"
    names = (
        "lastPrice lastQty bidPrice bidQty askPrice askQty openPrice highPrice lowPrice volume quoteVolume"
    )
    zeros = ",".join(f'"{name}":"{zero}"' for name in names.split())
    return (
        f'{{"symbol":"{market.base}{market.quote}","priceChange":"{zero}","priceChangePercent":"0.000",'
        f'"weightedAvgPrice":"{zero}","prevClosePrice":"{market.price:.8f}",{zeros},'
        f'"openTime":{stale - DAY_MS},"closeTime":{stale},"firstId":-1,"lastId":-1,"count":0}}'
    )


def _binance_klines(request: Request) -> bytes:
    """Ascending, the running minute last; from `startTime` on, or the newest `limit` up to `endTime`."""
    query = request.query
    if not query.get("symbol"):
        raise Refused("missing_symbol")
    market = next(
        (m for m in request.book.markets(request.exchange) if m.base + m.quote == query["symbol"]), None
    )
    if market is None:
        raise Refused("unknown_pair")
    if query.get("interval") != "1m":
        raise Refused("interval")
    limit = min(max(whole(query.get("limit"), 500), 1), 1000)
    last = min(whole(query.get("endTime"), request.at_ms) // MINUTE_MS, request.now)
    if query.get("startTime"):
        first = -(-whole(query["startTime"], 0) // MINUTE_MS)
        candles = candles_from(request, market, first, last, limit)
    else:
        candles = request.candles(market, last - limit + 1, last, flat=True)
    return ("[" + ",".join(_binance_kline(candle, market) for candle in candles) + "]").encode()


def _binance_kline(candle: Candle, market: Market) -> str:
    opened = candle.minute * MINUTE_MS
    prices = '","'.join(f"{price:.8f}" for price in candle[1:5])
    return (
        f'[{opened},"{prices}","{candle.volume:.8f}",{opened + MINUTE_MS - 1},"{candle.quote_volume:.8f}",'
        f'{candle.trades},"{candle.volume / 2:.8f}","{candle.quote_volume / 2:.8f}","0"]'
    )


def _binance_info(request: Request) -> bytes:
    limits = [
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000},
        {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61000},
    ]
    day = day_of(request.now)
    symbols = [
        _binance_symbol(market, market.listed(day)) for market in request.book.markets(request.exchange)
    ]
    head = {"timezone": "UTC", "serverTime": request.at_ms, "rateLimits": limits, "exchangeFilters": []}
    return written({**head, "symbols": symbols})


def _binance_symbol(market: Market, trading: bool) -> dict[str, Any]:
    return {
        "symbol": market.base + market.quote,
        "status": "TRADING" if trading else "BREAK",
        "baseAsset": market.base,
        "baseAssetPrecision": 8,
        "quoteAsset": market.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": f"{10.0**-market.decimals:.8f}",
                "maxPrice": "1000000.00000000",
                "tickSize": f"{10.0**-market.decimals:.8f}",
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": f"{10.0**-market.lot_decimals:.8f}",
                "maxQty": "9000000.00000000",
                "stepSize": f"{10.0**-market.lot_decimals:.8f}",
            },
        ],
        "permissions": ["SPOT"],
    }


# ---- Cryptowatch (closed in 2023): an aggregator of the others, and of contracts that only it shows

_CRYPTOWATCH_NAMES = {"kraken": "kraken", "coinbase": "coinbase-pro", "binance": "binance"}
CRYPTOWATCH_SOURCES = (*_CRYPTOWATCH_NAMES, "futures")
_ALLOWANCE = {
    "cost": 0.002,
    "remaining": 9.998,
    "upgrade": "This is a simulation: its allowance is never used up",
}


def _cryptowatch_key(market: Market, day: int) -> tuple[str, str]:
    """The names of the exchange and of the pair; a quarterly contract carries the day on which it ends."""
    pair = f"{market.base}{market.quote}".lower()
    exchange = _CRYPTOWATCH_NAMES.get(market.exchange, market.exchange)
    if not market.suffix:
        return exchange, pair
    ends = f"-{expiry(day):%d%b%y}".lower() if market.suffix.startswith("quarterly") else ""
    return exchange, f"{pair}-{market.suffix}{ends}"


def _cryptowatch_markets(request: Request) -> dict[tuple[str, str], Market]:
    day = day_of(request.now)
    return {
        _cryptowatch_key(market, day): market
        for source in CRYPTOWATCH_SOURCES
        for market in request.book.markets(source)
        if (market.dead or market.listed(day)) and not market.suffix.startswith(":")
    }


def _cryptowatch_summaries(request: Request) -> bytes:
    keys = {market: key for key, market in _cryptowatch_markets(request).items()}
    result = {}
    for source in CRYPTOWATCH_SOURCES:
        window = request.book.window(source, request.at_ms)
        rows = zip(
            window.markets, window.alive.tolist(), columns_of(window.day), window.volume.tolist(), strict=True
        )
        for market, alive, row, volume in rows:
            if market in keys:
                summary = _cryptowatch_summary(market, row, volume) if alive else _CRYPTOWATCH_ZEROS
                result[":".join(keys[market])] = summary
    return written({"result": result, "allowance": _ALLOWANCE})


def _cryptowatch_price(
    last: float, high: float, low: float, percentage: float, absolute: float
) -> dict[str, Any]:
    change = {"percentage": percentage, "absolute": absolute}
    return {"last": last, "high": high, "low": low, "change": change}


_CRYPTOWATCH_ZEROS = {"price": _cryptowatch_price(0, 0, 0, 0, 0), "volume": 0, "volumeQuote": 0}


def _cryptowatch_summary(market: Market, row: tuple, volume: float) -> dict[str, Any]:
    """`percentage` is a fraction; an inverse contract counts both its volumes in dollars."""
    opened, high, low, last, quote, _ = row
    change = last - opened
    price = _cryptowatch_price(last, high, low, change / opened, change)
    return {"price": price, "volume": quote if "inverse" in market.suffix else volume, "volumeQuote": quote}


def _cryptowatch_ohlc(request: Request) -> bytes:
    """[close time s, open, high, low, close, base volume, quote volume], ascending; quiet minutes are absent."""
    markets = _cryptowatch_markets(request)
    market = markets.get(request.caught)
    if market is None:
        known = request.caught[0] in {exchange for exchange, _ in markets}
        raise Refused("unknown_pair" if known else "unknown_exchange")
    if request.query.get("periods", "60") != "60":
        raise Refused("invalid")
    after = whole(request.query.get("after"), 0) // 60
    last = min(whole(request.query.get("before"), request.at_ms // 1000) // 60, request.now)
    candles = request.candles(market, max(last - (5999 if after else 999), after), last)
    entries = [[(candle.minute + 1) * 60, *candle[1:7]] for candle in candles]
    return written(
        {"result": {"60": entries}, "allowance": {**_ALLOWANCE, "cost": 0.015, "remaining": 9.985}}
    )


def _cryptowatch_pairs(request: Request) -> bytes:
    found = {pair: market for (_, pair), market in _cryptowatch_markets(request).items()}
    assets = sorted({asset for market in found.values() for asset in (market.base, market.quote)})
    numbers = {asset: number for number, asset in enumerate(assets, 1)}
    entries = [
        _cryptowatch_pair(number, pair, market, numbers)
        for number, (pair, market) in enumerate(sorted(found.items()), 1)
    ]
    return written({"result": entries, "allowance": _ALLOWANCE})


def _cryptowatch_pair(number: int, pair: str, market: Market, numbers: dict[str, int]) -> dict[str, Any]:
    entry = {
        "id": number,
        "symbol": pair,
        "base": _cryptowatch_asset(market.base, numbers),
        "quote": _cryptowatch_asset(market.quote, numbers),
        "route": f"https://api.cryptowat.ch/pairs/{pair}",
    }
    if market.suffix:
        entry["futuresContractPeriod"] = market.suffix.split("-")[0]
    return entry


def _cryptowatch_asset(asset: str, numbers: dict[str, int]) -> dict[str, Any]:
    return {
        "id": numbers[asset],
        "symbol": asset.lower(),
        "name": asset,
        "fiat": asset in _KRAKEN_MONEY,
        "route": f"https://api.cryptowat.ch/assets/{asset.lower()}",
    }


# ---- the registry


def _kraken_error(says: str) -> bytes:
    return written({"error": [says]})


def _binance_error(code: int, says: str) -> bytes:
    return written({"code": code, "msg": says})


def _coinbase_error(says: str) -> bytes:
    return written({"message": says})


def _cryptowatch_error(says: str) -> bytes:
    return written({"error": says, "allowance": {**_ALLOWANCE, "cost": 0.005}})


FORMATS: dict[str, Format] = {
    "kraken": Format(
        routes={
            "/0/public/Ticker": _kraken_ticker,
            "/0/public/OHLC": _kraken_ohlc,
            "/0/public/AssetPairs": _kraken_pairs,
        },
        errors={
            "not_found": (404, _kraken_error("EGeneral:Unknown method")),
            "unknown_pair": (200, _kraken_error("EQuery:Unknown asset pair")),
            "invalid": (200, _kraken_error("EGeneral:Invalid arguments")),
            "rate_limit": (200, _kraken_error("EGeneral:Too many requests")),
            "banned": (418, _kraken_error("EGeneral:Temporary lockout")),
            "restricted": (451, _kraken_error("EGeneral:Permission denied")),
            "internal": (500, _kraken_error("EGeneral:Internal error")),
            "unavailable": (503, _kraken_error("EService:Unavailable")),
        },
        headers={"Cache-Control": "public, max-age=2"},
    ),
    "coinbase": Format(
        routes={
            "/products/stats": _coinbase_stats,
            "/products": _coinbase_products,
            "/products/([^/]+)/candles": _coinbase_candles,
        },
        errors={
            "not_found": (404, _coinbase_error("NotFound")),
            "unknown_pair": (404, _coinbase_error("NotFound")),
            "invalid": (400, _coinbase_error("Invalid start")),
            "granularity": (400, _coinbase_error("Unsupported granularity")),
            "too_many": (
                400,
                _coinbase_error(
                    "granularity too small for the requested time range. Count of aggregations requested exceeds 300"
                ),
            ),
            "rate_limit": (429, _coinbase_error("Public rate limit exceeded")),
            "banned": (418, _coinbase_error("Forbidden")),
            "restricted": (451, _coinbase_error("Unavailable for legal reasons")),
            "internal": (500, _coinbase_error("Internal server error")),
            "unavailable": (503, _coinbase_error("Service unavailable")),
        },
    ),
    "binance": Format(
        routes={
            "/api/v3/ticker/24hr": _binance_ticker,
            "/api/v3/klines": _binance_klines,
            "/api/v3/exchangeInfo": _binance_info,
        },
        errors={
            "not_found": (404, _binance_error(-1000, "Not found.")),
            "unknown_pair": (400, _binance_error(-1121, "Invalid symbol.")),
            "interval": (400, _binance_error(-1120, "Invalid interval.")),
            "missing_symbol": (
                400,
                _binance_error(
                    -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
                ),
            ),
            "invalid": (400, _binance_error(-1100, "Illegal characters found in a parameter.")),
            "rate_limit": (429, _binance_error(-1003, "Too many requests.")),
            "banned": (418, _binance_error(-1003, "Way too many requests; IP banned.")),
            "restricted": (451, _binance_error(0, "Service unavailable from a restricted location.")),
            "internal": (
                500,
                _binance_error(-1000, "An unknown error occurred while processing the request."),
            ),
            "unavailable": (503, _binance_error(-1001, "Internal error; unable to process your request.")),
        },
        headers={"X-MBX-USED-WEIGHT-1M": "80"},
    ),
    "cryptowatch": Format(
        routes={
            "/markets/summaries": _cryptowatch_summaries,
            "/markets/([^/]+)/([^/]+)/ohlc": _cryptowatch_ohlc,
            "/pairs": _cryptowatch_pairs,
        },
        errors={
            "not_found": (404, _cryptowatch_error("Not found")),
            "unknown_pair": (404, _cryptowatch_error("Market not found")),
            "unknown_exchange": (404, _cryptowatch_error("Exchange not found")),
            "invalid": (400, _cryptowatch_error("Invalid parameter")),
            "rate_limit": (429, _cryptowatch_error("Out of allowance")),
            "banned": (418, _cryptowatch_error("Banned")),
            "restricted": (451, _cryptowatch_error("Not available")),
            "internal": (500, _cryptowatch_error("Internal server error")),
            "unavailable": (503, _cryptowatch_error("Service unavailable")),
        },
    ),
    **VENUES,
}
