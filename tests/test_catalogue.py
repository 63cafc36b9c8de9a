"""docs/exchanges.md is what the modules say, and the file of one more exchange that developers are shown is one."""

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from cryptomon_lib import catalogue, exchanges
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.tables import TABLES

PROJECT = Path(__file__).parent.parent


def test_the_page_of_exchanges_has_a_section_for_each():
    written = (PROJECT / catalogue.PAGE).read_text(encoding="utf-8")
    assert all(f"\n## {name}\n" in written for name in exchanges.names())


@pytest.mark.parametrize("name", exchanges.names())
def test_a_module_says_its_source_its_limit_and_where_each_column_comes_from(name):
    module = exchanges.get(name)
    ticks, candles = (set(TABLES[table].column_names) for table in ("ticks", "candles"))
    assert module.__doc__
    assert set(module.FIELDS) <= ticks
    if hasattr(module, "CANDLE_FIELDS"):
        assert set(module.CANDLE_FIELDS) - {"opened_at_ms", "is_closed"} <= candles
    if name != "cryptowatch":  # closed in 2023
        assert "Source:" in module.__doc__ and module.CALLS_PER_MIN >= 5
    # what differs is a column that is read or could be
    assert set(getattr(module, "DIFFERS", {})) <= ticks


@pytest.fixture
def cryptocom(tmp_path):
    """That file in the folder of exchanges, as far as this test goes."""
    (code,) = re.findall(
        r"```py\n(.*?)```", (PROJECT / "docs" / "developer.md").read_text(encoding="utf-8"), re.S
    )
    (tmp_path / "cryptocom.py").write_text(code, encoding="utf-8")
    caches = (exchanges.names, exchanges.get, exchanges.by_host)
    exchanges.__path__.append(str(tmp_path))
    for cached in caches:
        cached.cache_clear()
    yield "cryptocom"
    exchanges.__path__.remove(str(tmp_path))
    for cached in caches:
        cached.cache_clear()


ROWS = [
    {"i": "BTC_USD", "h": "51000", "l": "48000", "a": "50005", "v": "200.25", "vv": "10013000", "c": "0.0205",
     "b": "50000.5", "k": "50010.5", "t": 1785153600000},
    {"i": "DEAD_USD", "h": None, "l": None, "a": None, "v": "0", "vv": "0", "c": None, "t": 1785153600000},
    {"i": "BTCUSD-PERP", "h": "51000", "l": "48000", "a": "50005", "v": "7", "c": "0.02", "t": 1785153600000},
    {"a": "1"},
]  # fmt: skip


def test_one_more_exchange_is_the_one_file_that_is_shown(cryptocom, tmp_path, open_at, stored):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(self.server.answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answer = {"id": -1, "method": "public/get-tickers", "code": 0, "result": {"data": ROWS}}
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        hosts = {cryptocom: f"http://127.0.0.1:{server.server_address[1]}"}
        monitor = open_at(tmp_path / "root", hosts=hosts, exchanges=[cryptocom], min_markets=1)
        assert collect_payloads(monitor).count("stored") == 1
        done = flatten_payloads(monitor)
        server.answer = {"code": 42901, "message": "RATE_LIMIT"}
        assert exchanges.get(cryptocom).refused(json.dumps(server.answer).encode()) == "42901 RATE_LIMIT"
    finally:
        server.shutdown()
        server.server_close()
    assert (done.rows, done.rejected) == (3, 1)
    rows = {row["symbol"]: row for row in stored(monitor, "ticks")}
    btc = rows["BTC_USD"]
    assert btc["market_id"] == "cryptocom:cryptocom:BTC_USD" and btc["market"] == "BTC-USD"
    assert (btc["price"], btc["change_24h_pct"], btc["volume_24h"]) == (50005, pytest.approx(2.05), 200.25)
    assert rows["DEAD_USD"]["price"] is None and rows["BTCUSD-PERP"]["market"] is None
