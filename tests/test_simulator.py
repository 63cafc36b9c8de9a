"""The simulated exchange, asked over HTTP as a collector would."""

import gzip
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
import requests

from cryptomon_lib import exchanges
from cryptomon_lib.errors import SimulatorError
from cryptomon_lib.payloads import Payload
from cryptomon_lib.simulated_formats import FORMATS
from cryptomon_lib.simulated_universe import MARKETS, expiry
from cryptomon_lib.simulator import Simulator, markets

NOON = "2026-07-27T12:00:00Z"
NOON_S = 1_785_153_600
TICKERS = {
    "kraken": "/0/public/Ticker?assetVersion=1",
    "coinbase": "/products/stats",
    "binance": "/api/v3/ticker/24hr",
    "cryptowatch": "/markets/summaries",
}


@pytest.fixture(scope="module")
def exchange():
    """One simulator for the tests that only read."""
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def faulty():
    """A simulator whose faults a test may set."""
    with Simulator() as simulator:
        yield simulator


def get(simulator, path, at=NOON, **options):
    return requests.get(
        simulator.url + path, headers={"X-As-Of": at}, timeout=options.pop("timeout", 10), **options
    )


def read(simulator, path, at=NOON):
    answer = get(simulator, path, at)
    assert answer.status_code == 200, answer.text
    return answer.json()


def tickers(name):
    return f"/{name}{TICKERS[name]}"


def shape(value):
    """Names and types of a payload, a list by its first item."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )


# ---- the same moment is the same for ever


@pytest.mark.parametrize("name", TICKERS)
def test_two_servers_of_one_seed_say_the_same_about_the_same_minute_in_any_order(name):
    moments = ["2026-07-27T12:00:00Z", "2019-03-01T00:00:00Z", "2026-07-27T00:00:30Z"]
    path = f"/{name}{TICKERS[name]}"
    with Simulator(seed=3) as one, Simulator(seed=3) as other, Simulator(seed=4) as stranger:
        first = [get(one, path, at).content for at in moments]
        second = [get(other, path, at).content for at in reversed(moments)]
        assert first == second[::-1]
        assert get(stranger, path, moments[0]).content != first[0]


def test_the_clock_starts_where_it_is_told_and_runs_at_its_speed():
    with Simulator(start="2021-09-28T12:00:00Z", speed=600) as simulator:
        began = requests.get(simulator.url, timeout=60).json()["clock"]
        time.sleep(0.2)
        later = requests.get(simulator.url, timeout=60).json()["clock"]
    assert began.startswith("2021-09-28T12:0")
    assert later > began and later >= "2021-09-28T12:02:00"


def test_the_front_page_says_that_it_is_simulated(exchange):
    about = read(exchange, "/")
    assert about["simulated"] is True
    assert about["clock"] == "2026-07-27T12:00:00.000Z"
    assert set(about["exchanges"]) == set(FORMATS) == set(exchange.hosts)


@pytest.mark.parametrize("wrong", ["yesterday", "1960-01-01", "9999-12-31", ""])
def test_an_as_of_time_that_is_no_usable_time_is_refused_or_ignored_when_empty(exchange, wrong):
    answer = get(exchange, "/coinbase/products", wrong)
    assert answer.status_code == (400 if wrong else 200)


# ---- formats


def test_kraken_tickers_have_the_fields_and_types_of_kraken(exchange):
    payload = read(exchange, "/kraken/0/public/Ticker?assetVersion=1")
    assert payload["error"] == [] and list(payload) == ["error", "result"]
    example = {
        "a": ["65000.10000", "1", "1.000"],
        "b": ["65000.00000", "1", "1.000"],
        "c": ["65000.10000", "0.00100000"],
        "v": ["10.00000000", "20.00000000"],
        "p": ["64900.00000", "64950.00000"],
        "t": [100, 200],
        "l": ["64000.00000", "63900.00000"],
        "h": ["66000.00000", "66000.00000"],
        "o": "64500.00000",
    }
    assert shape(payload["result"]["BTC/USD"]) == shape(example)
    assert len({json.dumps(shape(entry)) for entry in payload["result"].values()}) == 1
    assert "AAVE/USD:BTNL" in payload["result"] and len(payload["result"]) >= 90


def test_kraken_without_the_asset_version_uses_its_old_keys(exchange):
    old = read(exchange, "/kraken/0/public/Ticker")["result"]
    assert {"XXBTZUSD", "XETHXXBT", "XDGUSD", "SOLUSD"} <= set(old)
    pairs = read(exchange, "/kraken/0/public/AssetPairs")["result"]
    assert set(pairs) == set(old)
    assert pairs["XXBTZUSD"]["wsname"] == "XBT/USD" and pairs["XXBTZUSD"]["base"] == "XXBT"


def test_kraken_shows_dead_pairs_as_zeros_with_a_live_book(exchange):
    dead = read(exchange, tickers("kraken"))["result"]["AI16Z/USD"]
    assert {float(number) for name in "cvplh" for number in dead[name]} == {0.0}
    assert float(dead["o"]) == 0 and dead["t"] == [0, 0] and float(dead["a"][0]) > float(dead["b"][0]) > 0


def test_kraken_candles_end_with_the_running_minute_and_name_the_last_closed_one(exchange):
    result = read(exchange, "/kraken/0/public/OHLC?pair=XBTUSD&interval=1", "2026-07-27T12:00:20Z")["result"]
    rows = result["XXBTZUSD"]
    assert shape(rows[0]) == shape([1, "1.0", "1.0", "1.0", "1.0", "1.0", "1.0", 5])
    assert [row[0] for row in rows] == list(range(NOON_S - 719 * 60, NOON_S + 60, 60))
    assert result["last"] == NOON_S - 60
    later = read(exchange, f"/kraken/0/public/OHLC?pair=BTC/USD&assetVersion=1&since={NOON_S - 120}")
    assert [row[0] for row in later["result"]["BTC/USD"]] == [NOON_S - 60, NOON_S]


def test_coinbase_stats_leave_out_what_has_no_trade(exchange):
    payload = read(exchange, "/coinbase/products/stats")
    example = {
        "stats_30day": {"volume": "1"},
        "stats_24hour": {"open": "1", "high": "1", "low": "1", "last": "1", "volume": "1"},
    }
    assert {json.dumps(shape(entry)) for entry in payload.values()} == {json.dumps(shape(example))}
    products = {product["id"]: product for product in read(exchange, "/coinbase/products")}
    assert products["REP-USD"]["status"] == "delisted" and "REP-USD" not in payload
    assert set(payload) <= set(products) and len(payload) >= 55
    assert products["BTC-USD"]["base_currency"] == "BTC"


def test_coinbase_candles_are_newest_first_with_low_before_high(exchange):
    window = "start=2026-07-27T11:00:00Z&end=2026-07-27T11:30:00Z"
    rows = read(exchange, f"/coinbase/products/BTC-USD/candles?granularity=60&{window}")
    assert [row[0] for row in rows] == list(range(NOON_S - 1800, NOON_S - 3660, -60))
    assert all(
        low <= min(opened, closed) <= max(opened, closed) <= high for _, low, high, opened, closed, _ in rows
    )
    too_many = get(
        exchange, "/coinbase/products/BTC-USD/candles?start=2026-07-27T00:00:00Z&end=2026-07-27T11:00:00Z"
    )
    assert too_many.status_code == 400 and "300" in too_many.json()["message"]


def test_coinbase_leaves_out_quiet_minutes(exchange):
    rows = read(exchange, "/coinbase/products/OXT-USD/candles?granularity=60")
    assert 0 <= len(rows) < 300


def test_binance_tickers_have_the_fields_and_types_of_binance(exchange):
    payload = read(exchange, "/binance/api/v3/ticker/24hr")
    words = (
        "symbol priceChange priceChangePercent weightedAvgPrice prevClosePrice lastPrice lastQty bidPrice bidQty "
        "askPrice askQty openPrice highPrice lowPrice volume quoteVolume"
    )
    numbers = "openTime closeTime firstId lastId count"
    example = dict.fromkeys(words.split(), "text") | dict.fromkeys(numbers.split(), 1)
    assert {json.dumps(shape(row)) for row in payload} == {json.dumps(shape(example))}
    by_symbol = {row["symbol"]: row for row in payload}
    assert len(by_symbol) == len(payload) >= 100 and "币安人生USDT" in by_symbol
    dead = by_symbol["BCCBTC"]
    assert (
        float(dead["lastPrice"]) == 0
        and dead["firstId"] == -1
        and dead["closeTime"] < NOON_S * 1000 - 86_400_000
    )
    assert by_symbol["BTCUSDT"]["closeTime"] == NOON_S * 1000
    assert read(exchange, "/binance/api/v3/ticker/24hr?symbol=BTCUSDT") == by_symbol["BTCUSDT"]


def test_binance_klines_keep_their_limits(exchange):
    path = "/binance/api/v3/klines?symbol=BTCUSDT&interval=1m"
    rows = read(exchange, path, "2026-07-27T12:00:20Z")
    assert len(rows) == 500 and rows[-1][0] == NOON_S * 1000 and rows[-1][6] == NOON_S * 1000 + 59_999
    assert shape(rows[0]) == shape([1, "o", "h", "l", "c", "v", 1, "q", 1, "b", "q", "0"])
    assert len(read(exchange, f"{path}&limit=5000")) == 1000
    start = (NOON_S - 86_400) * 1000
    assert [row[0] for row in read(exchange, f"{path}&limit=3&startTime={start}")] == [
        start,
        start + 60_000,
        start + 120_000,
    ]
    info = {entry["symbol"]: entry for entry in read(exchange, "/binance/api/v3/exchangeInfo")["symbols"]}
    assert info["BTCUSDT"]["status"] == "TRADING" and info["BCCBTC"]["status"] == "BREAK"


def test_cryptowatch_summaries_gather_the_others_and_contracts(exchange):
    payload = read(exchange, "/cryptowatch/markets/summaries")
    example = {
        "price": {"last": 1.0, "high": 1.0, "low": 1.0, "change": {"percentage": 0.01, "absolute": 1.0}},
        "volume": 1.0,
        "volumeQuote": 1.0,
    }
    assert {json.dumps(shape(entry)) for entry in payload["result"].values()} == {json.dumps(shape(example))}
    assert set(payload["allowance"]) == {"cost", "remaining", "upgrade"}
    keys = payload["result"].keys()
    assert {"kraken:btcusd", "coinbase-pro:btcusd", "binance:btcusdt", "ftx:btcusd-perpetual-futures"} <= keys
    assert "kraken-futures:btcusd-quarterly-future-inverse-25sep26" in keys
    assert any(entry["price"]["last"] == 0 for entry in payload["result"].values())
    entry = payload["result"]["kraken:btcusd"]["price"]
    assert entry["change"]["percentage"] == pytest.approx(
        entry["change"]["absolute"] / (entry["last"] - entry["change"]["absolute"])
    )


def test_cryptowatch_candles_carry_their_closing_time_and_every_pair_is_explained(exchange):
    rows = read(exchange, f"/cryptowatch/markets/kraken/btcusd/ohlc?periods=60&after={NOON_S - 300}")[
        "result"
    ]["60"]
    assert [row[0] for row in rows] == list(range(NOON_S - 240, NOON_S + 60, 60))
    assert len(rows[0]) == 7
    known = {pair["symbol"] for pair in read(exchange, "/cryptowatch/pairs")["result"]}
    assert {key.split(":")[1] for key in read(exchange, "/cryptowatch/markets/summaries")["result"]} == known


REFUSALS = {
    "/kraken/0/public/OHLC?pair=NOPE": (200, {"error": ["EQuery:Unknown asset pair"]}),
    "/kraken/0/public/Ticker?pair=XBTUSD,NOPE": (200, {"error": ["EQuery:Unknown asset pair"]}),
    "/kraken/0/public/OHLC?pair=XBTUSD&since=never": (200, {"error": ["EGeneral:Invalid arguments"]}),
    "/kraken/0/public/Nothing": (404, {"error": ["EGeneral:Unknown method"]}),
    "/coinbase/products/NO-PE/candles": (404, {"message": "NotFound"}),
    "/coinbase/nothing": (404, {"message": "NotFound"}),
    "/coinbase/products/BTC-USD/candles?granularity=61": (400, {"message": "Unsupported granularity"}),
    "/coinbase/products/BTC-USD/candles?start=" + "9" * 5000: (400, {"message": "Invalid start"}),
    "/binance/api/v3/klines?symbol=NOPE&interval=1m": (400, {"code": -1121, "msg": "Invalid symbol."}),
    "/binance/api/v3/klines?symbol=BTCUSDT&interval=9m": (400, {"code": -1120, "msg": "Invalid interval."}),
    "/binance/nothing": (404, {"code": -1000, "msg": "Not found."}),
    "/unknown/ticker": (404, {"error": "not found"}),
}


@pytest.mark.parametrize("path", REFUSALS, ids=lambda path: path[:50])
def test_what_an_exchange_does_not_know_gets_its_own_error(exchange, path):
    answer = get(exchange, path)
    assert (answer.status_code, answer.json()) == REFUSALS[path]


def test_cryptowatch_tells_an_unknown_exchange_from_an_unknown_market(exchange):
    assert get(exchange, "/cryptowatch/markets/nope/btcusd/ohlc").json()["error"] == "Exchange not found"
    answer = get(exchange, "/cryptowatch/markets/kraken/nope/ohlc")
    assert answer.status_code == 404 and answer.json()["error"] == "Market not found"


@pytest.mark.parametrize(
    "path", ["/../", "/../../etc/passwd", "/kraken/..%2f..%2fetc/passwd", "//[", "/errors/..%2fx"]
)
def test_a_hostile_path_finds_nothing(exchange, path):
    with socket.create_connection(("127.0.0.1", exchange.port), timeout=60) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        status = connection.recv(65536).split(b"\r\n")[0]
    assert b" 404 " in status


# ---- the numbers agree with each other


def day_of_klines(exchange, symbol, at_s):
    """The 1,440 closed minutes before a moment, by two calls."""
    path = f"/binance/api/v3/klines?symbol={symbol}&interval=1m&limit=720"
    starts = [(at_s - 86_400) * 1000, (at_s - 43_200) * 1000]
    return [row for start in starts for row in read(exchange, f"{path}&startTime={start}")]


@pytest.mark.parametrize("symbol", ["BTCUSDT", "SHIBUSDT", "OXTETH", "DOGEBTC"])
def test_a_binance_ticker_is_the_sum_of_its_candles(exchange, symbol):
    rows = [row for row in day_of_klines(exchange, symbol, NOON_S) if row[8]]
    ticker = read(exchange, f"/binance/api/v3/ticker/24hr?symbol={symbol}")
    assert Decimal(ticker["volume"]) == sum(Decimal(row[5]) for row in rows)
    assert Decimal(ticker["highPrice"]) == max(Decimal(row[2]) for row in rows)
    assert Decimal(ticker["lowPrice"]) == min(Decimal(row[3]) for row in rows)
    assert ticker["lastPrice"] == rows[-1][4] and ticker["openPrice"] == rows[0][1]
    assert ticker["count"] == sum(row[8] for row in rows)
    assert float(ticker["quoteVolume"]) == pytest.approx(
        sum(float(row[7]) for row in rows), rel=1e-12, abs=1e-6
    )
    change = Decimal(ticker["lastPrice"]) - Decimal(ticker["openPrice"])
    assert Decimal(ticker["priceChange"]) == change


@pytest.mark.parametrize("pair", ["BTC/USD", "SHIB/USD", "ETH/BTC"])
def test_kraken_counts_since_midnight_over_the_candles_since_midnight(exchange, pair):
    at = "2026-07-27T05:17:40Z"
    rows = read(exchange, f"/kraken/0/public/OHLC?assetVersion=1&pair={pair}", at)["result"][pair]
    rows = [row for row in rows if NOON_S - 43_200 <= row[0] < NOON_S - 43_200 + 317 * 60]
    assert len(rows) == 317
    traded = [row for row in rows if row[7]]
    entry = read(exchange, f"/kraken/0/public/Ticker?assetVersion=1&pair={pair}", at)["result"][pair]
    assert Decimal(entry["v"][0]) == sum(Decimal(row[6]) for row in traded)
    assert Decimal(entry["h"][0]) == max(Decimal(row[2]) for row in traded)
    assert Decimal(entry["l"][0]) == min(Decimal(row[3]) for row in traded)
    assert Decimal(entry["o"]) == Decimal(traded[0][1]) and entry["t"][0] == sum(row[7] for row in traded)
    assert Decimal(entry["c"][0]) == Decimal(traded[-1][4])


def test_kraken_has_no_day_yet_in_its_first_minute(exchange):
    entry = read(exchange, tickers("kraken"), "2026-07-27T00:00:30Z")["result"]["BTC/USD"]
    assert Decimal(entry["v"][0]) == 0 == Decimal(entry["o"]) and Decimal(entry["c"][0]) > 0


def test_candles_go_on_over_midnight(exchange):
    rows = read(
        exchange, "/binance/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1000", "2026-07-27T08:00:00Z"
    )
    assert [row[0] for row in rows] == list(range(rows[0][0], rows[0][0] + 60_000_000, 60_000))
    assert all(later[1] == earlier[4] for earlier, later in pairwise(rows))


def test_a_quiet_minute_stands_at_the_last_price(exchange):
    rows = day_of_klines(exchange, "OXTETH", NOON_S)
    quiet = [(earlier, row) for earlier, row in pairwise(rows) if not row[8]]
    assert quiet and all(set(row[1:5]) == {earlier[4]} and float(row[5]) == 0 for earlier, row in quiet)


def test_the_running_minute_grows_into_the_closed_one(exchange):
    path = "/binance/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1"
    minute = [read(exchange, path, f"2026-07-27T12:00:{second:02d}.5Z")[0] for second in range(1, 60, 7)]
    closed = read(exchange, f"{path}&endTime={NOON_S * 1000}", "2026-07-27T12:01:00Z")[0]
    for earlier, later in zip(minute, [*minute[1:], closed], strict=True):
        assert float(earlier[5]) <= float(later[5]) and earlier[8] <= later[8]
        assert float(earlier[2]) <= float(later[2]) and float(earlier[3]) >= float(later[3])
        assert float(later[3]) <= float(later[4]) <= float(later[2])


def test_one_pair_costs_nearly_the_same_everywhere(exchange):
    kraken = float(read(exchange, tickers("kraken"))["result"]["BTC/USD"]["c"][0])
    coinbase = float(read(exchange, tickers("coinbase"))["BTC-USD"]["stats_24hour"]["last"])
    assert kraken == pytest.approx(coinbase, rel=0.03) and kraken != coinbase


def test_prices_stay_where_they_belong_over_the_years(exchange):
    path = "/binance/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1"
    prices = [float(read(exchange, path, f"{year}-05-01T00:00:00Z")[0][4]) for year in range(2018, 2031)]
    assert min(prices) > 25_000 and max(prices) < 250_000


def test_markets_come_and_go(exchange):
    days = ["2026-01-05", "2026-01-25", "2026-02-14", "2026-03-06", "2026-03-27"]
    seen = [set(read(exchange, tickers("kraken"), f"{day}T12:00:00Z")["result"]) for day in days]
    assert set.union(*seen) != set.intersection(*seen)


def test_a_quarterly_contract_ends_on_the_last_friday_of_its_quarter():
    assert expiry(20_661).isoformat() == "2026-09-25"
    assert expiry(20_721).isoformat() == "2026-12-25"


def test_the_list_of_markets_names_what_can_always_be_traded(exchange):
    entries = read(exchange, tickers("coinbase"), "2024-02-29T12:00:00Z")
    assert set(markets("coinbase")) <= set(entries) | {"OXT-USD", "REQ-USD", "BNT-BTC", "RLC-GBP", "CTSI-EUR"}
    assert "AI16Z-USD" not in markets("kraken") and len(markets("binance")) > 90
    with pytest.raises(SimulatorError, match="kraken"):
        markets("nope")


def test_every_market_has_a_name_of_its_own():
    for name, found in MARKETS.items():
        assert len({(m.exchange, m.base, m.quote, m.suffix) for m in found}) == len(found), name


# ---- faults


def fault(simulator, kind, **options):
    simulator.set_faults([{"kind": kind, **options}])
    return get(simulator, tickers("kraken"), timeout=3)


@pytest.mark.parametrize("status", ["500", "503", "451", "418"])
def test_a_status_fault_answers_with_that_status_and_the_exchange_s_error(faulty, status):
    answer = fault(faulty, status)
    assert answer.status_code == int(status) and answer.json()["error"]


def test_too_many_requests_says_when_to_come_back(faulty):
    answer = fault(faulty, "429", retry_after=7)
    assert answer.status_code == 429 and answer.headers["Retry-After"] == "7"
    assert answer.json() == {"error": ["EGeneral:Too many requests"]}


def test_a_missing_minute_is_missing_and_the_others_are_there(faulty):
    faulty.set_faults([{"kind": "missing", "from": "2026-07-27T12:00:00Z", "to": "2026-07-27T12:01:00Z"}])
    seen = [
        get(faulty, tickers("binance"), f"2026-07-27T{t}Z").status_code
        for t in ("11:59:59", "12:00:59", "12:01:00")
    ]
    assert seen == [200, 503, 200]


def test_a_timeout_holds_the_connection(faulty):
    with pytest.raises(requests.ReadTimeout):
        faulty.set_faults([{"kind": "timeout", "seconds": 5}])
        get(faulty, tickers("kraken"), timeout=0.3)


def test_a_slow_answer_comes_late(faulty):
    began = time.monotonic()
    assert fault(faulty, "slow", seconds=0.4).status_code == 200
    assert time.monotonic() - began >= 0.4


def test_a_dropped_connection_says_nothing(faulty):
    with pytest.raises(requests.ConnectionError):
        fault(faulty, "drop")


def test_a_truncated_body_is_no_json(faulty):
    with pytest.raises(ValueError):
        fault(faulty, "truncated").json()


def test_a_truncated_body_may_lie_about_its_length(faulty):
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        fault(faulty, "truncated", content_length="lies")


def test_a_page_comes_instead_of_data(faulty):
    answer = fault(faulty, "html")
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/html")
    assert answer.text.startswith("<!DOCTYPE html>")


def test_null_and_nothing_come_instead_of_data(faulty):
    assert fault(faulty, "null").json() is None
    assert fault(faulty, "empty").json() == {}
    assert get(faulty, tickers("binance")).json() == []


def test_an_error_body_has_the_status_that_it_has_there_or_the_one_asked_for(faulty):
    assert fault(faulty, "error_body").status_code == 200
    assert fault(faulty, "error_body", status=502).status_code == 502
    assert get(faulty, tickers("coinbase")).json() == {"message": "Public rate limit exceeded"}


def test_a_large_body_is_larger_than_allowed_and_still_json(faulty):
    answer = fault(faulty, "large", bytes=3_000_000)
    assert len(answer.content) > 3_000_000 and answer.json()["error"] == []


def test_a_redirect_points_elsewhere(faulty):
    faulty.set_faults([{"kind": "redirect", "location": "http://127.0.0.1:1/else\r\nX-Evil: 1"}])
    answer = get(faulty, tickers("kraken"), allow_redirects=False)
    assert answer.status_code == 302 and answer.headers["Location"].startswith("http://127.0.0.1:1/else")
    assert "X-Evil" not in answer.headers


@pytest.mark.parametrize("name", TICKERS)
def test_a_format_drifts_in_each_way(faulty, name):
    good = get(faulty, tickers(name)).json()
    bad = {}
    for drift in ("renamed", "scalar", "not_available"):
        faulty.set_faults([{"kind": "drift", "drift": drift}])
        bad[drift] = get(faulty, tickers(name)).json()
    assert all(payload != good for payload in bad.values())
    assert "_v2" in json.dumps(bad["renamed"]) and "1566801953000" in json.dumps(bad["scalar"])
    assert "N/A" in json.dumps(bad["not_available"])


def test_a_fault_meets_only_what_it_is_meant_for(faulty):
    faulty.set_faults([{"kind": "500", "exchange": "kraken", "route": "Ticker", "times": 2}])
    seen = [get(faulty, tickers("kraken")).status_code for _ in range(3)]
    assert seen == [500, 500, 200]
    assert get(faulty, "/kraken/0/public/AssetPairs").status_code == 200
    assert get(faulty, tickers("coinbase")).status_code == 200
    assert faulty.faults()[0]["hits"] == 2


def test_every_nth_request_and_a_share_of_the_minutes_meet_a_fault(faulty):
    faulty.set_faults([{"kind": "500", "every": 3}])
    assert [get(faulty, "/coinbase/products").status_code for _ in range(6)] == [200, 200, 500] * 2
    faulty.set_faults([{"kind": "503", "share": 0.3}])
    moments = [f"2026-07-27T{hour:02d}:{minute:02d}:00Z" for hour in (3, 4) for minute in range(0, 60, 2)]
    seen = [get(faulty, "/coinbase/products", at).status_code for at in moments]
    assert 5 < seen.count(503) < 35
    assert seen == [get(faulty, "/coinbase/products", at).status_code for at in moments]


def test_faults_are_set_and_cleared_over_http(faulty):
    address = f"{faulty.url}/_faults"
    assert requests.post(address, json=[{"kind": 418}], timeout=60).json() == [{"kind": "418", "hits": 0}]
    assert get(faulty, "/coinbase/products").status_code == 418
    assert requests.get(address, timeout=60).json() == [{"kind": "418", "hits": 1}]
    assert requests.delete(address, timeout=60).json() == []
    assert get(faulty, "/coinbase/products").status_code == 200


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([{"kind": "slwo"}], "did you mean 'slow'"),
        ([{"kind": "500", "exchnage": "kraken"}], "did you mean 'exchange'"),
        ([{"kind": "500", "share": "much"}], "share of a fault"),
        ([{"kind": "500", "from": "soon"}], "not a time"),
        (["500"], "is an object"),
    ],
)
def test_a_fault_that_is_not_understood_is_refused_and_the_old_ones_stay(faulty, wrong, says):
    faulty.set_faults([{"kind": "500"}])
    answer = requests.post(f"{faulty.url}/_faults", json=wrong, timeout=60)
    assert answer.status_code == 400 and says in answer.json()["error"]
    assert len(faulty.faults()) == 1
    with pytest.raises(SimulatorError):
        Simulator(faults=wrong)


# ---- the server


def test_answers_are_compressed_only_for_those_who_can_read_it(exchange):
    address = exchange.hosts["kraken"] + TICKERS["kraken"]
    plain = urllib.request.Request(address, headers={"X-As-Of": NOON})
    packed = urllib.request.Request(address, headers={"X-As-Of": NOON, "Accept-Encoding": "gzip"})
    with urllib.request.urlopen(plain, timeout=60) as one, urllib.request.urlopen(packed, timeout=5) as other:
        assert one.headers["Content-Encoding"] is None and other.headers["Content-Encoding"] == "gzip"
        assert one.read() == gzip.decompress(other.read())


def test_one_connection_serves_many_requests_and_each_is_counted(faulty):
    with requests.Session() as session:
        for _ in range(3):
            assert session.get(f"{faulty.url}/coinbase/products", timeout=60).status_code == 200
    assert faulty.requests["coinbase/products"] == 3


def test_many_threads_get_the_same_answer(exchange):
    answers = []

    def ask():
        answers.append(get(exchange, tickers("binance"), "2025-02-03T04:05:06Z").content)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8 and len(set(answers)) == 1


def test_a_taken_port_and_an_open_address_are_refused(exchange):
    with pytest.raises(SimulatorError, match=f"port {exchange.port} is taken"):
        Simulator(port=exchange.port)
    with pytest.raises(SimulatorError, match="loopback"):
        Simulator(host="0.0.0.0")
    with pytest.raises(SimulatorError, match="not a port"):
        Simulator(port=70_000)
    with pytest.raises(SimulatorError, match="negative"):
        Simulator(seed=-1)


def test_a_closed_simulator_answers_no_more_not_even_over_an_open_connection():
    simulator = Simulator()
    with requests.Session() as session:
        session.get(simulator.url, timeout=60)
        simulator.close()
        simulator.close()
        with pytest.raises(requests.ConnectionError):
            session.get(simulator.url, timeout=2)


def test_closing_does_not_wait_for_a_held_connection():
    with Simulator(faults=[{"kind": "timeout", "seconds": 60}]) as simulator:
        thread = threading.Thread(
            target=pytest.raises, args=(requests.ConnectionError, requests.get, simulator.url + "/x")
        )
        thread.start()
        time.sleep(0.2)
        began = time.monotonic()
    thread.join(5)
    assert time.monotonic() - began < 2 and not thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_foreground_it_serves_until_it_is_asked_to_end(number):
    code = (
        "from cryptomon_lib.simulator import serve\n"
        "import sys\n"
        "serve(ready=lambda simulator: (sys.stdout.write(simulator.url + '\\n'), sys.stdout.flush()))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().strip()
        assert requests.get(address, timeout=60).json()["simulated"] is True
        process.send_signal(number)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


# ---- each exchange's own reader reads what is written in its way


READERS = [name for name in exchanges.names() if hasattr(exchanges.get(name), "candles_request")]


def flattened(exchange, request, body, at):
    payload = Payload("", request.host, request.route, dict(request.query), at, at, request.symbol, body)
    listed = exchanges.get(request.source).read_instruments(body_of(exchange, request.source))
    return exchanges.flatten(payload, {one.symbol: one for one in listed})


def body_of(exchange, name):
    request = exchanges.request(name, "instruments")
    return get(exchange, f"/{name}{request.url('/')}").content


@pytest.mark.parametrize("name", READERS)
def test_what_an_exchange_writes_is_what_its_module_reads(name, exchange):
    at = datetime(2026, 7, 27, 12, 0, 20, tzinfo=UTC)
    module, as_of = exchanges.get(name), "2026-07-27T12:00:20Z"
    ticker = exchanges.request(name, "tickers")
    found = flattened(exchange, ticker, get(exchange, f"/{name}{ticker.url('/')}", as_of).content, at)
    assert not found.rejected and found.rows.num_rows >= 20
    market = next(one for one in MARKETS[name] if one.base == "BTC" and one.quote in ("USD", "USDT"))
    row = next(r for r in found.rows.to_pylist() if r["market"] == f"{market.base}-{market.quote}")
    window = exchange.market.window(name, 1785153620000)
    place = window.markets.index(market)
    for column, expected in {
        "price": window.day.last[place],
        "high_24h": window.day.high[place],
        "low_24h": window.day.low[place],
        "volume_24h": window.volume[place],
    }.items():
        assert row[column] == pytest.approx(expected, rel=1e-6), column
    for column in ("open_24h", "change_24h_pct", "quote_volume_24h"):
        if row[column] is not None:
            opened = window.day.open[place]
            expected = {
                "open_24h": opened,
                "change_24h_pct": 100 * (window.day.last[place] / opened - 1),
                "quote_volume_24h": window.day.quote_volume[place],
            }[column]
            assert row[column] == pytest.approx(expected, rel=1e-3, abs=0.02), column
    minute = timedelta(minutes=1)
    (one,) = [i for i in module.read_instruments(body_of(exchange, name)) if i.symbol == row["symbol"]]
    until = at.replace(second=0)
    requests = [
        module.candles_request(one, until - 5 * minute, until),
        *exchanges.candles_pages(name, one, until - 250 * minute, until - 3 * minute, at),
    ]
    opened = set()
    for request in requests:
        body = get(exchange, f"/{name}{request.url('/')}", as_of).content
        candles = flattened(exchange, request, body, at)
        assert {reason for _, reason in candles.rejected} <= {"the interval had not ended"}
        truth = {c.minute: c for c in exchange.market.candles(market, 29752000, 29752559, 1785153620000)}
        for candle in candles.rows.to_pylist():
            number = int(candle["opened_at"].timestamp()) // 60
            opened.add(number)
            if number not in truth:
                assert candle["volume"] == 0
                continue
            expected = truth[number]
            for column in ("open", "high", "low", "close", "volume"):
                assert candle[column] == pytest.approx(getattr(expected, column), rel=1e-6), (number, column)
            if candle["quote_volume"] is not None:
                assert candle["quote_volume"] == pytest.approx(expected.quote_volume, rel=1e-4)
    # BTC trades each minute: all closed ones from 250 minutes ago are there
    assert set(range(29752560 - 250, 29752560)) <= opened


def test_coins_come_page_by_page_and_after_the_last_one_nothing(exchange):
    pages = [
        read(exchange, f"/coingecko/api/v3/coins/markets?vs_currency=usd&per_page=25&page={n}")
        for n in (1, 2, 3, 4)
    ]
    assert [len(page) for page in pages[:2]] == [25, 25] and pages[3] == []
    ids = [coin["id"] for page in pages for coin in page]
    assert len(set(ids)) == len(ids) > 50


def test_a_call_of_candles_that_reaches_too_far_back_is_refused_as_gate_does(exchange):
    answer = get(
        exchange,
        f"/gate/api/v4/spot/candlesticks?currency_pair=BTC_USDT&interval=1m&from={NOON_S - 700_000}&to={NOON_S}",
    )
    assert answer.status_code == 400 and b"too long ago" in answer.content
