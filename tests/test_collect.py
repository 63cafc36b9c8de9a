"""Polling side by side: what is stored, what is asked again, and what a run says of exchanges that fail."""

import json
import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from cryptomon_lib import exchanges
from cryptomon_lib.collect import collect_payloads, load_instruments
from cryptomon_lib.errors import CollectError, ConfigError, PayloadError
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.payloads import unpack
from cryptomon_lib.simulator import Simulator

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
ALL = list(exchanges.names())


class Api(ThreadingHTTPServer):
    """An API that answers what a test puts into `answers` by path; keeps the addresses and headers asked for."""

    daemon_threads = True

    def __init__(self):
        self.answers, self.headers, self.asked, self.seen = {}, {}, [], []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.seen.append(dict(self.headers))
        body = self.server.answers.get(urlsplit(self.path).path)
        self.send_response(404 if body is None else 200)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        body = body or b'{"message": "NotFound"}'
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *given):
        pass


@pytest.fixture
def api():
    server = Api()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def _simulator():
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(_simulator):
    """The simulated exchange, without faults and with no request counted."""
    _simulator.set_faults([])
    _simulator.requests.clear()
    return _simulator


@pytest.fixture
def polled(local, open_at, simulator):
    """A monitor in a folder whose exchanges are the simulated ones; further settings by name."""

    def opened(**flags):
        fetch = {"attempts": 1} | flags.pop("fetch", {})
        return open_at(local.storage.root, hosts=simulator.hosts, fetch=fetch, **flags)

    return opened


def outcomes(collected):
    return {(one.source, one.endpoint): one.state for one in collected.outcomes}


def queued(monitor):
    return [one.key for one in monitor.storage.objects("ingest")]


def stats(*products):
    return json.dumps({name: {"stats_24hour": {"last": "1"}} for name in products}).encode()


# ---- what is stored


def test_a_payload_is_stored_exactly_as_it_came_under_its_identity(place, open_at, api):
    body = b'{ "BTC-USD": {"stats_24hour":\n {"last": "1.0e3"}}, "\xe5\xb8\x81-USD": {} }\n'
    api.answers["/products/stats"] = body
    monitor = open_at(place.root, place.endpoint_url, hosts={"coinbase": api.url})
    collected = collect_payloads(monitor, ["coinbase"], "tickers", as_of="2026-07-27T12:00:42Z")
    (one,) = collected.outcomes
    assert (one.state, one.bytes, one.slot, one.markets) == ("stored", len(body), NOON, 2)
    (key,) = queued(monitor)
    assert (
        key
        == one.key
        == "ingest/api.exchange.coinbase.com/products/stats/2026-07-27/20260727T120000Z.json.gz"
    )
    payload = unpack(key, monitor.storage.get(key))
    assert (payload.body, payload.collected_at, payload.slot) == (body, NOON, NOON)
    assert api.seen[0]["X-As-Of"] == "2026-07-27T12:00:00Z"


def test_a_live_payload_counts_as_collected_when_its_answer_came(local, open_at, api):
    api.answers["/products/stats"] = stats("BTC-USD")
    monitor = open_at(local.storage.root, hosts={"coinbase": api.url})
    before = datetime.now(UTC)
    collect_payloads(monitor, ["coinbase"], "tickers")
    after = datetime.now(UTC)
    (key,) = queued(monitor)
    payload = unpack(key, monitor.storage.get(key))
    assert before - timedelta(milliseconds=1) <= payload.collected_at <= after
    assert payload.slot <= before and payload.slot.second == 0
    assert "X-As-Of" not in api.seen[0]


def test_all_endpoints_of_all_exchanges_are_polled_in_one_run(polled, simulator):
    monitor = polled(watchlist=["BTC-USD", "BTC-USDT"])
    collected = collect_payloads(monitor, ALL, as_of=NOON)
    assert collected.count("failed") == 0 and collected.count("stored") == len(collected.outcomes)
    told = collected.table.set_index(["source", "endpoint"])
    assert {source for source, endpoint in told.index if endpoint == "tickers"} == set(ALL)
    assert {source for source, endpoint in told.index if endpoint == "candles"} == {
        name for name in ALL if hasattr(exchanges.get(name), "candles_request")
    }
    assert told.loc[("binance", "tickers"), "markets"] > 50
    assert told["stored"].sum() == len(queued(monitor)) and (told["bytes"] > 0).all()
    symbols = {
        unpack(k, monitor.storage.get(k)).symbol
        for k in queued(monitor)
        if any(word in k for word in ("OHLC", "data-api.binance.vision/api/v3/klines", "/products/BTC"))
    }
    assert symbols == {"BTC/USD", "BTC/USDT", "BTCUSDT", "BTC-USD", "BTC-USDT"}


@pytest.mark.parametrize(
    ("endpoint", "kinds"), [("tickers", {"tickers"}), ("candles", {"candles", "instruments"})]
)
def test_one_endpoint_alone_is_polled_when_it_is_asked_for(endpoint, kinds, polled):
    collected = collect_payloads(polled(), ["kraken"], endpoint, ["BTC-USD", "ETH-USD"], as_of=NOON)
    assert {one.endpoint for one in collected.outcomes} == kinds
    assert sum(one.endpoint == "candles" for one in collected.outcomes) == (2 if endpoint == "candles" else 0)


def test_a_route_of_an_exchange_is_archived_as_it_is(polled, simulator):
    monitor = polled()
    collect_payloads(monitor, ["coinbase"], "/products?limit=5", as_of=NOON)
    (key,) = queued(monitor)
    assert key == "ingest/api.exchange.coinbase.com/products~limit=5/2026-07-27/20260727T120000Z.json.gz"
    done = flatten_payloads(monitor)
    assert (done.payloads, done.unflattened, done.rows) == (1, 1, 0)
    assert [one.key for one in monitor.storage.objects("archive")] == [key.replace("ingest", "archive", 1)]


def test_the_routes_that_params_name_are_polled_beside_the_tickers(polled):
    monitor = polled(
        endpoints={"coinbase": ["/products?limit=9", "/products/BTC-USD/candles?granularity=60"]},
        watchlist=[],
    )
    collected = collect_payloads(monitor, ["coinbase"], as_of=NOON)
    assert {one.endpoint for one in collected.outcomes} == {
        "instruments",
        "tickers",
        "/products?limit=9",
        "/products/BTC-USD/candles?granularity=60",
    }
    assert collected.count("stored") == 4


# ---- side by side


@pytest.mark.parametrize("as_of", [None, NOON], ids=["live", "replay"])
def test_exchanges_that_take_200_ms_each_take_little_more_together(as_of, polled, simulator):
    # all that there are: a call each, of one of them a call per page
    monitor = polled(fetch={"workers": 20})
    calls = sum(getattr(exchanges.get(name), "TICKERS_PAGES", 1) for name in ALL)
    # what a simulated answer costs to make, and the lists of instruments, are paid before
    collect_payloads(monitor, ALL, "tickers", as_of=as_of)
    for one in monitor.storage.objects("ingest"):
        monitor.storage.delete(one.key)
    simulator.set_faults([{"kind": "slow", "seconds": 0.2}])
    simulator.requests.clear()
    started = time.perf_counter()
    collected = collect_payloads(monitor, ALL, "tickers", as_of=as_of)
    wall = time.perf_counter() - started
    assert collected.count("stored") == calls == simulator.requests.total()
    # one after the other would be 3.4 s and more
    assert len(ALL) >= 13 and 0.2 <= wall < 0.2 * calls / 2


def test_an_exchange_that_fails_is_reported_and_stops_no_other(polled, simulator, caplog):
    simulator.set_faults([{"kind": "500", "exchange": "kraken"}, {"kind": "html", "exchange": "cryptowatch"}])
    monitor = polled()
    collected = collect_payloads(monitor, ALL, "tickers", as_of=NOON)
    states = outcomes(collected)
    assert states["kraken", "tickers"] == states["cryptowatch", "tickers"] == "failed"
    assert states["coinbase", "tickers"] == states["binance", "tickers"] == "stored"
    says = collected.table.set_index(["source", "endpoint"])["says"]
    assert "HTTP 500" in says["kraken", "tickers"] and "kraken" in says["kraken", "tickers"]
    assert "kraken: no success" in caplog.text
    assert flatten_payloads(monitor).rows > 100


def test_a_run_of_which_nothing_came_fails_with_every_exchange_s_reason(polled, simulator):
    simulator.set_faults([{"kind": "451", "exchange": "binance"}, {"kind": "drop"}])
    with pytest.raises(CollectError) as caught:
        collect_payloads(polled(), ALL, as_of=NOON)
    assert all(name in str(caught.value) for name in ALL)
    assert "HTTP 451" in str(caught.value) and "no connection" in str(caught.value)


def test_an_exchange_that_fails_for_a_moment_is_asked_again_within_the_run(polled, simulator):
    simulator.set_faults([{"kind": "503", "exchange": "kraken", "times": 2}])
    collected = collect_payloads(polled(fetch={"attempts": 3}), ["kraken"], "tickers", as_of=NOON)
    assert collected.count("stored") == 1 and simulator.requests.total() == 3


def test_a_run_that_had_nothing_to_ask_for_fails(polled, simulator):
    with pytest.raises(CollectError, match="nothing to ask for"):
        collect_payloads(polled(), ["coinbase"], "candles", ["NO-PE"], as_of=NOON)
    simulator.set_faults([{"kind": "500", "route": "AssetPairs"}])
    with pytest.raises(CollectError, match="HTTP 500"):
        collect_payloads(polled(), ["kraken"], "candles", as_of=NOON)


# ---- the same slot again


@pytest.mark.parametrize("between", ["nothing", "flatten", "quarantine"])
def test_a_second_run_of_a_slot_makes_no_second_call_and_no_second_payload(
    between, polled, simulator, monkeypatch
):
    monitor = polled(watchlist=["BTC-USD"])
    first = collect_payloads(monitor, ["kraken", "coinbase"], as_of=NOON)
    with monkeypatch.context() as broken:
        if between == "quarantine":
            for name in ("kraken", "coinbase"):
                broken.setattr(exchanges.get(name), "flatten_tickers", _fails)
        if between != "nothing":
            done = flatten_payloads(monitor)
            assert done.quarantined == (2 if between == "quarantine" else 0)
    before = _everything(monitor)
    simulator.requests.clear()
    second = collect_payloads(monitor, ["kraken", "coinbase"], as_of=NOON)
    assert simulator.requests.total() == 0
    assert {one.state for one in second.outcomes} == {"already"}
    assert len(second.outcomes) == first.count("stored") - 2  # the lists of instruments are known by then
    assert _everything(monitor) == before


def _fails(body):
    raise PayloadError("broken for a moment")


def _everything(monitor):
    folders = ("ingest", "archive", "quarantine", "instruments")
    return [one.key for folder in folders for one in monitor.storage.objects(folder)]


def test_two_runs_of_a_slot_at_once_store_one_payload(polled, simulator):
    monitor = polled()
    simulator.set_faults([{"kind": "slow", "seconds": 0.2}])
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(collect_payloads(monitor, ["coinbase"], "tickers", as_of=NOON))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.outcomes[0].state for one in found) == ["already", "stored"]
    assert len(queued(monitor)) == 1


# ---- slots


@pytest.mark.parametrize(
    ("as_of", "samples", "every_s", "slots"),
    [
        ("2026-07-27T12:00:59Z", 3, None, ["120000", "120100", "120200"]),
        ("2026-07-27T12:00:07Z", 3, 5, ["120005", "120010", "120015"]),
        # an hour's samples of a replay start at its minute, whatever the hour
        ("2026-07-27T12:34:56+02:00", 2, 3600, ["103400", "113400"]),
        ("2026-07-27", 1, 60, ["000000"]),
    ],
)
def test_the_samples_of_a_run_lie_on_the_grid(as_of, samples, every_s, slots, polled):
    monitor, seen = polled(), []
    collect_payloads(
        monitor,
        ["coinbase"],
        "tickers",
        samples=samples,
        every_s=every_s,
        as_of=as_of,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert [key.rpartition("T")[2] for key in queued(monitor)] == [f"{slot}Z.json.gz" for slot in slots]
    assert seen[-1] == (samples, samples)


def test_a_live_run_of_several_samples_polls_each_at_its_time(polled):
    monitor = polled()
    started = time.monotonic()
    collected = collect_payloads(monitor, ["coinbase"], "tickers", samples=3, every_s=1)
    assert 1 <= time.monotonic() - started < 4
    slots = [one.slot for one in collected.outcomes]
    assert slots == [slots[0] + timedelta(seconds=index) for index in range(3)]
    for key in queued(monitor):
        payload = unpack(key, monitor.storage.get(key))
        assert 0 <= (payload.collected_at - payload.slot).total_seconds() < 1.5


def test_candles_are_asked_for_since_the_last_poll_and_four_minutes_more(local, open_at, api):
    pair = {"wsname": "XBT/USD", "altname": "XBTUSD", "status": "online"}
    api.answers["/0/public/AssetPairs"] = json.dumps({"error": [], "result": {"XXBTZUSD": pair}}).encode()
    api.answers["/0/public/OHLC"] = b'{"error":[],"result":{"XXBTZUSD":[],"last":0}}'
    monitor = open_at(local.storage.root, hosts={"kraken": api.url})
    for every_s, minutes in ((60, 5), (3600, 64), (5, 5)):
        api.asked.clear()
        collect_payloads(monitor, ["kraken"], "candles", ["BTC-USD"], every_s=every_s, as_of=NOON)
        query = parse_qs(urlsplit(api.asked[-1]).query)
        since = datetime.fromtimestamp(int(query["since"][0]) + 1, UTC)
        assert (query["pair"], since) == (["XBTUSD"], NOON - timedelta(minutes=minutes))
        for one in monitor.storage.objects("ingest"):
            monitor.storage.delete(one.key)


# ---- instruments


def test_instruments_are_asked_for_once_a_day_and_kept_when_they_are_listed_no_more(local, open_at, api):
    def listed(*symbols):
        rows = [
            {"symbol": one, "baseAsset": one[:3], "quoteAsset": one[3:], "status": "TRADING"}
            for one in symbols
        ]
        return json.dumps({"symbols": rows}).encode()

    ticker = [{"symbol": "BTCUSD", "lastPrice": "1"}]
    api.answers["/api/v3/exchangeInfo"] = listed("BTCUSD", "OLDUSD")
    api.answers["/api/v3/ticker/24hr"] = json.dumps(ticker).encode()
    monitor = open_at(local.storage.root, hosts={"binance": api.url}, fetch={"attempts": 1})
    for second in range(3):
        collect_payloads(monitor, ["binance"], "tickers", as_of=NOON + timedelta(minutes=second))
    assert [path for path in api.asked if "exchangeInfo" in path] == ["/api/v3/exchangeInfo"]
    api.answers["/api/v3/exchangeInfo"] = listed("BTCUSD", "NEWUSD")
    collect_payloads(monitor, ["binance"], "instruments", as_of=NOON + timedelta(days=1))
    assert set(load_instruments(monitor, "binance")) >= {"BTCUSD", "OLDUSD"}


def test_a_list_of_instruments_that_fails_leaves_the_known_ones_and_the_tickers(polled, simulator):
    simulator.set_faults([{"kind": "500", "route": "exchangeInfo"}])
    monitor = polled()
    collected = collect_payloads(monitor, ["binance"], "tickers", as_of=NOON)
    assert outcomes(collected) == {("binance", "instruments"): "failed", ("binance", "tickers"): "stored"}
    simulator.set_faults([])
    collect_payloads(monitor, ["binance"], "tickers", as_of=NOON + timedelta(minutes=1))
    assert len(load_instruments(monitor, "binance")) > 50


# ---- checks


def test_fewer_markets_than_params_ask_for_are_reported_and_stored_all_the_same(polled, caplog):
    monitor = polled(min_markets=10_000)
    collected = collect_payloads(monitor, ["coinbase"], "tickers", as_of=NOON)
    (one,) = collected.outcomes
    assert one.state == "stored" and "min_markets in params is 10000" in one.says
    assert one.says in caplog.text


def test_markets_that_vanished_are_reported_as_a_share_and_new_ones_are_not(local, open_at, api):
    monitor = open_at(local.storage.root, hosts={"coinbase": api.url}, min_markets=1)
    names = [f"C{number}-USD" for number in range(10)]
    said = []
    for minute, products in enumerate((names, names[:8], names[:5], names, names)):
        api.answers["/products/stats"] = stats(*products)
        collected = collect_payloads(monitor, ["coinbase"], "tickers", as_of=NOON + timedelta(minutes=minute))
        said.append(collected.outcomes[0].says)
    assert said == ["", "", "38% of the markets vanished since last time", "", ""]


def test_a_payload_that_will_not_flatten_is_told_when_it_is_stored(local, open_at, api):
    api.answers["/products/stats"] = b'[["BTC-USD", 7]]'
    monitor = open_at(local.storage.root, hosts={"coinbase": api.url})
    (one,) = collect_payloads(monitor, ["coinbase"], "tickers", as_of=NOON).outcomes
    assert one.state == "stored" and one.says.startswith("stored, but it will not flatten")


def test_what_an_exchange_says_of_its_limits_is_logged(local, open_at, api, caplog):
    caplog.set_level(logging.INFO, "cryptomon_lib")
    api.answers["/products/stats"] = stats("BTC-USD")
    api.headers = {"X-RateLimit-Remaining": "41", "Server": "nobody"}
    collect_payloads(open_at(local.storage.root, hosts={"coinbase": api.url}), ["coinbase"])
    assert "coinbase says of its limits: {'x-ratelimit-remaining': '41'}" in caplog.text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"exchanges": ["krakn"]}, "Did you mean kraken"),
        ({"endpoint": "orders"}, "one of all, tickers, candles, instruments|all, tickers"),
        ({"samples": 0}, "samples is 0"),
        ({"every_s": -1}, "every_s is -1"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_any_call(given, says, polled, simulator):
    with pytest.raises(ConfigError, match=says):
        collect_payloads(polled(), **({"exchanges": ["kraken"], "as_of": NOON} | given))
    assert simulator.requests.total() == 0


def test_a_host_of_an_exchange_that_is_not_known_is_refused(local, open_at):
    with pytest.raises(ConfigError, match="krakn"):
        collect_payloads(open_at(local.storage.root, hosts={"krakn": "http://127.0.0.1:1"}), ["kraken"])
    with pytest.raises(ConfigError, match="No exchange to poll"):
        collect_payloads(open_at(local.storage.root, exchanges=[]))


def test_routes_with_queries_several_an_exchange_and_templates_are_archived_and_counted(local, open_at, api):
    api.answers["/api/v3/depth"] = b'{"lastUpdateId": 1, "bids": [["1", "2"]], "asks": [["3", "4"]]}'
    api.answers["/api/v3/trades"] = b'[{"id": 1, "price": "1", "qty": "2"}]'
    api.answers["/api/v3/exchangeInfo"] = json.dumps(
        {
            "symbols": [
                {"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"},
                {"symbol": "ETHUSDT", "baseAsset": "ETH", "quoteAsset": "USDT", "status": "TRADING"},
                {"symbol": "OLDUSDT", "baseAsset": "OLD", "quoteAsset": "USDT", "status": "BREAK"},
            ]
        }
    ).encode()
    api.answers["/api/v3/ticker/24hr"] = b'[{"symbol": "BTCUSDT", "lastPrice": "2"}]'
    api.answers["/api/v3/klines"] = b"[]"
    monitor = open_at(
        local.storage.root,
        hosts={"binance": api.url},
        endpoints={
            "binance": [
                "/api/v3/depth?symbol={symbol}&limit=5",
                "/api/v3/trades?symbol=BTCUSDT",
                # the same route as tickers and candles, for something else
                "/api/v3/ticker/24hr?symbol=BTCUSDT",
                "/api/v3/klines?symbol={base}{quote}&interval=5m",
            ]
        },
        watchlist=["BTC-USDT", "ETH-USDT", "OLD-USDT"],
        min_markets=1,
    )
    collected = collect_payloads(monitor, ["binance"], as_of=NOON)
    assert collected.count("failed") == 0
    named = sorted(one.key.split("/", 2)[2] for one in collected.outcomes if one.endpoint.startswith("/"))
    day = "2026-07-27/20260727T120000Z.json.gz"
    assert named == [
        f"api/v3/depth~symbol=BTCUSDT~limit=5/{day}",
        f"api/v3/depth~symbol=ETHUSDT~limit=5/{day}",
        f"api/v3/klines~symbol=BTCUSDT~interval=5m/{day}",
        f"api/v3/klines~symbol=ETHUSDT~interval=5m/{day}",
        f"api/v3/ticker/24hr~symbol=BTCUSDT/{day}",
        f"api/v3/trades~symbol=BTCUSDT/{day}",
    ]
    done = flatten_payloads(monitor)
    # the tickers and two markets' candles, which had none, are flattened; the rest, and the list of instruments, is
    # archived as it came
    assert (done.unflattened, done.quarantined, done.rows) == (7, 0, 1)
    archived = {one.key.split("/", 2)[2] for one in monitor.storage.objects("archive")}
    assert set(named) <= archived
    key = f"archive/data-api.binance.vision/{named[0]}"
    assert unpack(key, monitor.storage.get(key)).body == api.answers["/api/v3/depth"]


def test_a_template_with_an_unknown_word_says_which_there_are(polled):
    monitor = polled(endpoints={"binance": ["/api/v3/depth?symbol={pair}"]}, watchlist=["BTC-USDT"])
    with pytest.raises(ConfigError, match=r"known are \{symbol\}, \{base\}, \{quote\}"):
        collect_payloads(monitor, ["binance"], as_of=NOON)


@pytest.mark.parametrize("given", [True, False])
def test_the_pages_of_a_list_are_one_slot_and_its_key_travels_in_the_header(
    given, local, open_at, api, monkeypatch
):
    monkeypatch.setenv("SOME_NAME", "not-to-be-seen")
    coins = [{"id": f"coin-{n}", "symbol": "c", "current_price": n + 1} for n in range(20)]
    api.answers["/api/v3/coins/markets"] = json.dumps(coins).encode()
    keys = {"coingecko": "SOME_NAME"} if given else {}
    monitor = open_at(local.storage.root, hosts={"coingecko": api.url}, keys=keys)
    collected = collect_payloads(monitor, ["coingecko"], as_of=NOON)
    assert [one.state for one in collected.outcomes] == ["stored"] * 4
    assert {one.get("x-cg-demo-api-key") for one in api.seen} == {"not-to-be-seen" if given else None}
    folder = "ingest/api.coingecko.com/api/v3/coins/markets~vs_currency=usd~per_page=250~page="
    assert {key.split("/2026")[0] for key in queued(monitor)} == {f"{folder}{n}" for n in (1, 2, 3, 4)}
    assert not any(b"not-to-be-seen" in monitor.storage.get(key) for key in queued(monitor))
