"""Exchanges that ccxt knows: its own code, asked over a socket in place of the exchange, into the same columns."""

import json
import lzma
import math
import sys
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest

from cryptomon_lib import exchanges
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.config import load_settings
from cryptomon_lib.errors import CollectError, ConfigError, FetchError, PayloadError
from cryptomon_lib.exchanges import _ccxt
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.payloads import Payload, unpack

ccxt = pytest.importorskip("ccxt", reason="exchanges by ccxt need the extra ccxt")
NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
MARKETS = [
    {"market": f"{base}-{quote}", "status": status, "base": base, "quote": quote, "pricePrecision": 5}
    for base, quote, status in [
        ("BTC", "EUR", "trading"),
        ("ADA", "BTC", "trading"),
        ("OLD", "EUR", "halted"),
    ]
]
TICKERS = [
    {"market": "BTC-EUR", "open": "49000", "high": "51000", "low": "48000", "last": "50005", "volume": "200.25",
     "volumeQuote": "9992475", "bid": "50000.5", "ask": "50010.5", "timestamp": 1785153600000},
    {"market": "ADA-BTC", "open": "1e-7", "high": "1.2e-7", "low": "9e-8", "last": "1.15e-7", "volume": "7",
     "volumeQuote": "8e-7", "bid": None, "ask": None, "timestamp": 1785153600001},
    {"market": "OLD-EUR", "open": None, "high": None, "low": None, "last": None, "volume": "0", "volumeQuote": "0"},
]  # fmt: skip


@pytest.fixture
def bitvavo():
    """A server that answers as Bitvavo does, at /v2; `answers` by path, `seen` what was asked."""
    answers = {"/v2/markets": (200, MARKETS), "/v2/ticker/24h": (200, TICKERS)}
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = urlsplit(self.path).path
            seen.append(path)
            status, value = answers.get(path, (404, {"errorCode": 110, "error": "Invalid endpoint."}))
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.seen = answers, seen
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def monitor(tmp_path, open_at, bitvavo):
    _ccxt.open_exchange.cache_clear()
    exchanges.get.cache_clear()
    return open_at(
        tmp_path, hosts={"ccxt:bitvavo": bitvavo.url}, exchanges=["ccxt:bitvavo"], fetch={"attempts": 1}
    )


def test_an_exchange_by_ccxt_is_collected_archived_and_flattened_like_any_other(monitor, bitvavo, stored):
    collected = collect_payloads(monitor, as_of=NOON)
    (one,) = collected.outcomes
    assert (one.source, one.state, one.markets) == ("ccxt-bitvavo", "stored", 3)
    assert one.key == "ingest/bitvavo.ccxt/tickers/2026-07-27/20260727T120000Z.json.gz"
    # the native rows, as the exchange gave them
    payload = json.loads(unpack(one.key, monitor.storage.get(one.key)).body)
    assert payload["exchange"] == "bitvavo" and payload["ccxt"] == ccxt.__version__
    assert payload["tickers"]["BTC/EUR"]["info"] == TICKERS[0]
    assert flatten_payloads(monitor).rows == 3
    rows = {row["symbol"]: row for row in stored(monitor, "ticks")}
    btc = rows["BTC/EUR"]
    assert btc["market_id"] == "ccxt-bitvavo:bitvavo:BTC/EUR" and btc["market"] == "BTC-EUR"
    told = (
        "price",
        "bid",
        "ask",
        "open_24h",
        "high_24h",
        "low_24h",
        "change_24h",
        "volume_24h",
        "quote_volume_24h",
    )
    assert [btc[name] for name in told] == [
        50005.0, 50000.5, 50010.5, 49000.0, 51000.0, 48000.0, 1005.0, 200.25, 9992475.0,
    ]  # fmt: skip
    assert btc["change_24h_pct"] == pytest.approx(100 * 1005 / 49000)
    assert btc["exchange_at"] == NOON and btc["kind"] == "spot"
    assert rows["ADA/BTC"]["price"] == 1.15e-7 and rows["ADA/BTC"]["bid"] is None
    assert rows["OLD/EUR"]["price"] is None and rows["OLD/EUR"]["volume_24h"] == 0
    # the list of markets is asked for once in a process
    collect_payloads(monitor, as_of=NOON.replace(minute=1))
    assert bitvavo.seen.count("/v2/markets") == 1 and bitvavo.seen.count("/v2/ticker/24h") == 2


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (429, {"errorCode": 101, "error": "Rate limit exceeded"}, "asked too often"),
        (200, {"errorCode": 107, "error": "The matching engine is overloaded."}, "refused"),
        (503, {"error": "down"}, "HTTP 503"),
    ],
)
def test_what_goes_wrong_is_told_as_with_any_exchange(status, body, says, monitor, bitvavo):
    bitvavo.answers["/v2/ticker/24h"] = (status, body)
    with pytest.raises(CollectError, match="ccxt-bitvavo") as caught:
        collect_payloads(monitor, as_of=NOON)
    assert says in str(caught.value)


def test_an_answer_that_ccxt_cannot_read_is_a_failed_call(monitor):
    with pytest.raises(FetchError, match="cannot read the answer: TypeError"):
        exchanges.get("ccxt:bitvavo").fetch(lambda url, headers, refused: b"7")


def test_a_row_of_another_form_is_rejected_alone_and_a_body_of_another_form_is_an_error():
    module = exchanges.get("ccxt:bitvavo")
    assert exchanges.by_host(module.HOST) == "ccxt-bitvavo"

    def flat(body):
        return exchanges.flatten(Payload("", module.HOST, "/tickers", {}, NOON, NOON, None, body))

    found = flat(
        json.dumps(
            {"tickers": {"BTC/EUR": {"last": 2}, "ADA/BTC": 7, "BTC/USD:BTC-261225-70000-C": {}}}
        ).encode()
    )
    assert (found.entries, found.rows.num_rows) == (3, 1)
    assert set(dict(found.rejected)) == {"ADA/BTC", "BTC/USD:BTC-261225-70000-C"}
    contracts = {"BTC/USDT:USDT": {}, "BTC/USD:BTC-261225": {}, "native": {}}
    kinds = flat(json.dumps({"tickers": contracts}).encode()).rows["kind"].to_pylist()
    assert kinds == ["perpetual", "future", "spot"]
    for body in (b"[]", b'{"tickers": []}', b"7", b'{"tickers": {}}', b'{"tickers": {"A/B": 1}}'):
        with pytest.raises(PayloadError):
            flat(body)


def test_an_unknown_exchange_and_an_absent_extra_say_what_to_do(monitor, monkeypatch):
    with pytest.raises(ConfigError, match="Did you mean bitvavo"):
        collect_payloads(monitor, ["ccxt:bitvavoo"])
    with pytest.raises(ConfigError, match="tickers only"):
        collect_payloads(monitor, endpoint="/v2/book", as_of=NOON)
    monkeypatch.setitem(sys.modules, "ccxt", None)
    with pytest.raises(ConfigError, match=r"pip install 'cryptomon\[ccxt\]'"):
        collect_payloads(monitor)


def test_params_name_it_with_a_colon_and_tables_with_a_dash():
    settings = load_settings(
        "local", flags={"exchanges": ["ccxt:bitvavo", "kraken"], "keys": {"ccxt:bitvavo": "X"}}
    )
    assert settings.exchanges == ("ccxt-bitvavo", "kraken") and settings.keys == {"ccxt-bitvavo": "X"}


NAMES = {"bitfinex2": "bitfinex", "gateio": "gate", "huobi": "htx", "mexc3": "mexc"}
COLUMNS = {
    "price": "last", "bid": "bid", "ask": "ask", "high_24h": "high", "low_24h": "low",
    "volume_24h": "baseVolume", "quote_volume_24h": "quoteVolume",
}  # fmt: skip


def recorded(captures, name):
    with lzma.open(captures / "normalised_oracle" / f"{name}.json.xz") as file:
        return json.load(file)["tickers"]


def rows_of(name, tickers):
    module = exchanges.get(f"ccxt:{NAMES.get(name, name)}")
    body = json.dumps({"tickers": tickers}).encode()
    found = exchanges.flatten(Payload("", module.HOST, "/tickers", {}, NOON, NOON, None, body))
    assert found.entries == len(tickers) == found.rows.num_rows + len(found.rejected)
    return {row["symbol"]: row for row in found.rows.to_pylist()}


def differences(rows, tickers):
    for symbol, row in rows.items():
        for column, theirs in COLUMNS.items():
            expected = tickers[symbol].get(theirs)
            untraded = not tickers[symbol]["last"] and column in ("high_24h", "low_24h")
            if "volume" not in column and (not expected or untraded):
                expected = None
            same = row[column] is expected if expected is None else row[column] is not None
            if not same or (expected is not None and not math.isclose(row[column], expected, rel_tol=1e-9)):
                yield symbol, column, row[column], expected


@pytest.mark.parametrize(
    "name", ["binance", "bitfinex2", "bitget", "gateio", "huobi", "kraken", "kucoin", "mexc3", "okx"]
)
def test_what_ccxt_read_comes_out_as_it_went_in(name, captures):
    tickers = recorded(captures, name)
    rows = rows_of(name, tickers)
    assert len(rows) >= 0.99 * len(tickers) and list(differences(rows, tickers)) == []


@pytest.mark.parametrize("name", ["binance", "bitfinex2", "gateio", "mexc3"])
def test_todays_ccxt_reads_recorded_native_rows_as_it_did_then(name, captures):
    """Of those whose reader needs no more than the row itself."""
    tickers = dict(list(recorded(captures, name).items())[:300])
    reader = getattr(ccxt, NAMES.get(name, name))()
    market = reader.safe_market_structure({"spot": True, "type": "spot"})
    again = {
        symbol: reader.parse_ticker(one["info"], market | {"symbol": symbol})
        for symbol, one in tickers.items()
    }
    assert list(differences(rows_of(name, again), tickers)) == []
