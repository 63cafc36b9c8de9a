"""Each exchange against what it really sent: recordings, the same rows as others read them, awkward bodies and errors."""

import gzip
import json
import lzma
import math
import re
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from cryptomon_lib import exchanges
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.errors import CollectError, PayloadError
from cryptomon_lib.flatten import _UNFIT, flatten_payloads
from cryptomon_lib.payloads import Payload
from cryptomon_lib.simulator import Simulator

AT = datetime(2022, 11, 21, 6, 36, tzinfo=UTC)
# what recordings call an exchange that is called otherwise now
OLD_NAMES = {"gate": "gateio", "htx": "huobi", "bitfinex": "bitfinex2", "mexc": "mexc3"}
# a payload from rows: (name, native row) each
ENVELOPES = {
    "kraken": lambda rows, ms: {"error": [], "result": dict(rows)},
    "okx": lambda rows, ms: {"code": "0", "msg": "", "data": [row for _, row in rows]},
    "kucoin": lambda rows, ms: {"code": "200000", "data": {"time": ms, "ticker": [row for _, row in rows]}},
    "htx": lambda rows, ms: {"status": "ok", "ts": ms, "data": [row for _, row in rows]},
    "bitget": lambda rows, ms: {"code": "00000", "msg": "success", "data": [row for _, row in rows]},
}
# the rows of a payload: name (None where the row has it) and native row
ROWS = {
    "kraken": lambda body: body["result"].items(),
    "coinbase": lambda body: body.items(),
    "okx": lambda body: unnamed(body["data"]),
    "kucoin": lambda body: unnamed(body["data"]["ticker"]),
    "htx": lambda body: unnamed(body["data"]),
    "bitget": lambda body: unnamed(body["data"]),
    "bybit": lambda body: unnamed(body["result"]["list"]),
    "bitfinex": lambda body: unnamed(row for row in body if row[0].startswith("t")),
    "cryptowatch": lambda body: {name.partition(":")[2]: row for name, row in body["result"].items()}.items(),
}
COMPARED = {
    "market": "symbol",
    "price": "last",
    "bid": "bid",
    "ask": "ask",
    "open_24h": "open",
    "high_24h": "high",
    "low_24h": "low",
    "change_24h": "change",
    "change_24h_pct": "percentage",
    "volume_24h": "baseVolume",
    "quote_volume_24h": "quoteVolume",
    "exchange_at": "timestamp",
}
VOLUMES = ("volume_24h", "quote_volume_24h", "volume_today")
SIGNED = ("change_24h", "change_24h_pct")
# without a trade in 24 h there is none of these
OF_A_TRADE = ("price", "high_24h", "low_24h", *SIGNED)


def unnamed(rows):
    return [(None, row) for row in rows]


def read(path):
    opened = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    with opened(path, "rb") as file:
        return file.read()


def flat(name, body, instruments=None):
    module = exchanges.get(name)
    route = module.TICKERS.partition("?")[0]
    return exchanges.flatten(Payload("", module.HOST, route, {}, AT, AT, None, body), instruments)


def key_of(name, symbol, info):
    path = exchanges.get(name).FIELDS.get("symbol")
    return symbol if path is None else info[0] if path == "[0]" else info[path]


def near(value, expected, within=1e-9):
    if value is None or expected is None:
        return value is expected
    return value == expected or math.isclose(value, expected, rel_tol=within)


# ---- against what others make of the same rows


def oracle_files(captures):
    found = {
        name: captures / "normalised_oracle" / f"{OLD_NAMES.get(name, name)}.json.xz"
        for name in exchanges.names()
    }
    return {name: path for name, path in found.items() if path.is_file()}


@pytest.mark.parametrize("name", exchanges.names())
def test_ticks_are_what_ccxt_makes_of_the_same_rows_but_where_the_module_says_why(name, captures):
    files = oracle_files(captures)
    if name not in files:
        assert len(files) >= 9
        pytest.skip(f"nobody else's reading of {name} was recorded")
    tickers = json.loads(read(files[name]))["tickers"]
    ms = next((one["timestamp"] for one in tickers.values() if "timestamp" in one), None)
    rows = [(symbol, one["info"]) for symbol, one in tickers.items()]
    envelope = ENVELOPES.get(name, lambda rows, ms: [row for _, row in rows])
    found = flat(name, json.dumps(envelope(rows, ms)).encode())
    assert found.entries == len(tickers) == found.rows.num_rows + len(found.rejected)
    ours = {row["symbol"]: row for row in found.rows.to_pylist()}
    assert len(ours) >= 0.99 * len(tickers)
    differ = {}
    for symbol, one in tickers.items():
        row = ours.get(key_of(name, symbol, one["info"]))
        for column, theirs in COMPARED.items() if row else ():
            if not same(column, row, one.get(theirs), one):
                differ.setdefault(column, (symbol, row[column], one.get(theirs)))
    # each column that differs anywhere is explained, and none is explained that does not differ
    assert set(differ) == set(getattr(exchanges.get(name), "DIFFERS", {})), differ


def same(column, row, theirs, one):
    value = row[column]
    if column == "market":
        # without its list of instruments a joined symbol has no market
        return value is None or value == theirs.partition(":")[0].replace("/", "-")
    if column == "exchange_at":
        return (value and round(value.timestamp() * 1000)) == theirs
    expected = None if theirs is None else float(theirs)
    # zero is a price there and no trade here
    if (column not in VOLUMES + SIGNED and not expected) or (column in OF_A_TRADE and not one["last"]):
        expected = None
    return near(value, expected)


# ---- recordings, through the simulated exchange, collect and flatten


def recordings(captures, name):
    folder = captures / OLD_NAMES.get(name, name).removesuffix("2").removesuffix("3")
    return sorted(
        path for path in folder.glob("*.json.gz") if re.search("(?i)ticker|stats|markets", path.name)
    )


@pytest.mark.parametrize("name", [name for name in exchanges.names() if name not in ("cryptowatch",)])
def test_each_recording_comes_out_field_by_field_as_it_was_sent(name, captures):
    files = recordings(captures, name)
    assert files, f"no recording of {name}"
    for path in files:
        body = read(path)
        found = flat(name, body)
        rows = list(ROWS.get(name, unnamed)(json.loads(body)))
        assert found.entries == len(rows) == found.rows.num_rows + len(found.rejected), path.name
        assert found.rows.num_rows >= 0.99 * len(rows), (path.name, found.rejected[:5])
        ours = {row["symbol"]: row for row in found.rows.to_pylist()}
        module = exchanges.get(name)
        old = name == "bitget" and "_v1_" in path.name
        fields = module.OLD_FIELDS if old else module.FIELDS
        wrong = []
        for symbol, native in rows:
            row = ours.get(key_of(name, symbol, native))
            for column, text in fields.items() if row else ():
                if column in ("symbol", "base", "exchange_at") or row is None:
                    continue
                expected = computed(native, text)
                price = computed(native, fields["price"])
                if (column not in VOLUMES + SIGNED and not expected) or (column in OF_A_TRADE and not price):
                    expected = None
                # what the exchange leaves out may follow from the open
                follows = expected is None and column in SIGNED and row["open_24h"] is not None
                if not follows and not near(row[column], expected, 1e-12):
                    wrong.append((path.name, symbol, column, row[column], expected))
        assert wrong == []


def computed(native, text):
    """What a mapping says of a native row, in plain Python."""
    first, *rest = text.split()
    value = number(native, first)
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        other = number(native, term)
        if value is None or other is None:
            return None
        value = value * other if sign == "*" else value - other
    return value


def number(native, term):
    if term.replace(".", "", 1).isdecimal():
        return float(term)
    name, _, place = term.partition("[")
    for part in filter(None, name.split(".")):
        native = native.get(part) if isinstance(native, dict) else None
    if place:
        native = native[int(place.rstrip("]"))] if native is not None else None
    try:
        value = float(native)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def test_all_recordings_are_polled_over_http_and_flattened_with_nothing_lost(
    captures, tmp_path, open_at, stored
):
    names = [name for name in exchanges.names() if name != "coingecko"]
    with Simulator(replay=captures) as simulator:
        monitor = open_at(tmp_path, hosts=simulator.hosts, exchanges=names, fetch={"attempts": 1})
        assert set(names) <= set(simulator.hosts)
        collected = collect_payloads(monitor, endpoint="tickers", as_of="2026-08-01T00:00:00Z")
    failed = {one.source: one.endpoint for one in collected.outcomes if one.state == "failed"}
    # lists of instruments that nobody recorded
    assert set(failed.values()) <= {"instruments"}
    done = flatten_payloads(monitor)
    assert done.quarantined == 0 and done.entries == done.rows + done.rejected
    rows = stored(monitor, "ticks")
    assert {row["source"] for row in rows} == set(names)
    assert len({(row["market_id"], row["collected_at"]) for row in rows}) == len(rows) == done.rows
    by_source = {name: [row for row in rows if row["source"] == name] for name in names}
    # where a list of instruments was recorded, it tells joined symbols apart
    assert sum(row["market"] is not None for row in by_source["htx"]) > 400
    assert sum(row["market"] is not None for row in by_source["cryptowatch"]) > 4000


# ---- what is no data


@pytest.fixture
def says_only():
    """A server that answers everything with one body and status: `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = self.server.answer
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "https://elsewhere.example/")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_each_error_body_is_a_named_error_of_every_exchange_and_stores_nothing(
    captures, says_only, tmp_path, open_at, caplog
):
    hosts = dict.fromkeys(exchanges.names(), says_only.url)
    monitor = open_at(tmp_path, hosts=hosts, fetch={"attempts": 1, "workers": 16})
    files = sorted((captures / "errors").iterdir())
    assert len(files) >= 38
    for number, path in enumerate(files):
        status = re.search(r"__(\d{3})_", path.name)
        says_only.answer = int(status[1]) if status else 200, read(path)
        at = datetime(2026, 7, 27, 12, number, tzinfo=UTC)
        with suppress(CollectError):
            collected = collect_payloads(monitor, exchanges.names(), "tickers", as_of=at)
            # an empty list after the first page is the end of the list of coins
            stored = {one.source for one in collected.outcomes if one.state == "stored"}
            assert stored == {"coingecko"} and read(path).strip() == b"[]", path.name
    told = [record.getMessage() for record in caplog.records if "going on with" not in record.getMessage()]
    for name in exchanges.names():
        # each exchange says its own, with the head of what came
        mine = [line for line in told if line.startswith(f"{name}: ")]
        assert len(mine) >= len(files), name
    assert all("~page=" in one.key for one in monitor.storage.objects("ingest"))


@pytest.mark.parametrize("name", exchanges.names())
def test_what_is_no_payload_of_an_exchange_brings_no_price(name, captures):
    files = [*sorted((captures / "errors").iterdir()), *sorted((captures / "awkward").iterdir())]
    assert len(files) >= 46
    for path in files:
        try:
            found = flat(name, read(path))
        except _UNFIT as error:
            assert str(error)
            continue
        if name in ("binance", "mexc") and path.name.startswith("latoken"):
            # it names its fields as they do, and means the same by them
            continue
        prices = [row["price"] for row in found.rows.to_pylist() if row["price"] is not None]
        assert prices == [], (path.name, prices[:3])


def test_an_error_body_that_came_as_data_goes_to_quarantine_in_the_exchange_s_words():
    with pytest.raises(PayloadError, match="50011 Too Many Requests"):
        flat("okx", b'{"code": "50011", "msg": "Too Many Requests", "data": []}')
