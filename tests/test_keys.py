"""A planted API key is sent, by header, and found nowhere in anything that a run leaves behind, failures included."""

import gzip
import json
import logging
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from cryptomon_lib import exchanges, fetch
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.errors import ConfigError, CryptomonError, FetchError, Forbidden
from cryptomon_lib.fetch import Fetcher, Key, hide, without_secrets
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.monitor import open_fetcher, open_monitor
from cryptomon_lib.run import run_job

KEY = "CG-plant/ed+k3y=0123456789"
VARIABLE = "PLANTED_KEY_FOR_A_TEST"
COIN = {"id": "bitcoin", "symbol": "btc", "current_price": 1.0, "total_volume": 2.0, "note": KEY}
PAGE = json.dumps([COIN | {"id": f"coin-{number}"} for number in range(20)])
# what a server that wants to leak could do, one after the other; the last one for ever
ANSWERS = [
    (200, {}, PAGE),
    (401, {}, json.dumps({"error": f"invalid key {KEY}"})),
    (
        429,
        {"X-RateLimit-Key": KEY, "Retry-After": "0"},
        json.dumps({"status": {"error_code": 429, "error_message": f"key {KEY} is over"}}),
    ),
    (200, {}, json.dumps({"error": f"{'x' * 90}{KEY}"})),
    (302, {"Location": f"http://elsewhere.example/{quote(KEY)}?x_cg_demo_api_key={quote(KEY, safe='')}"}, ""),
    (302, {"Location": f"/coins?page=1&again={quote(KEY, safe='')}"}, ""),
    (200, {}, f"<html>{'y' * 180}{KEY}</html>"),
    (200, {}, f'[{{"id": "{KEY}", "cut": '),
    (500, {}, f"Traceback: {KEY}"),
    (403, {}, KEY),
    (302, {"Location": f"http://[{KEY}"}, ""),
    (None, {}, ""),
    # passes for an answer, and is none to flatten
    (200, {}, json.dumps({"coins": [{"id": KEY}] * 20})),
]


class Leaky(ThreadingHTTPServer):
    """Answers as ANSWERS say; keeps the headers that it was asked with."""

    daemon_threads = True

    def __init__(self):
        self.left, self.seen = list(ANSWERS), []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.seen.append((self.path, dict(self.headers)))
        status, headers, body = server.left.pop(0) if len(server.left) > 1 else server.left[0]
        if status is None:
            time.sleep(1.2)
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format, *given):
        pass


@pytest.fixture
def leaky():
    server = Leaky()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setattr(fetch, "_hidden", {})
    return KEY


def forms():
    return {KEY, quote(KEY), quote(KEY, safe=""), json.dumps(KEY)[1:-1], KEY[:16]}


def leaks(folder: Path) -> list[str]:
    """Files under a folder that hold the key in any form, unpacked where they are packed."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            body = path.read_bytes()
            if path.suffix == ".gz":
                # the header tells of the payload too
                body += gzip.decompress(body)
            found += [f"{path}: {form}" for form in forms() if form.encode() in body or form in str(path)]
    return found


def flags(leaky, **more):
    quick = {"attempts": 1, "pause_s": 0, "backoff_s": 0.01, "read_timeout_s": 0.5}
    return {
        "exchanges": ["coingecko"],
        "hosts": {"coingecko": leaky.url},
        "keys": {"coingecko": VARIABLE},
        "fetch": quick,
    } | more


def test_a_key_is_found_in_nothing_that_runs_leave_behind(leaky, planted, tmp_path, caplog, capfd):
    root = tmp_path / "root"
    given = flags(leaky, root=str(root))
    given["fetch"]["budgets"] = str(tmp_path / "budgets")
    monitor = open_monitor("local", flags=given | {"calls_per_min": {"coingecko": 6000}})
    caplog.set_level(logging.DEBUG)
    told = []
    for minute in range(8):
        try:
            collected = collect_payloads(monitor, endpoint="tickers", as_of=f"2026-07-27T12:{minute:02}:00Z")
            told.append(f"{collected.outcomes} {collected.table.to_string()} {collected.problems}")
        except CryptomonError as error:
            told.append("".join(traceback.format_exception(error)))
        flatten_payloads(monitor)
    logged = capfd.readouterr()
    everything = "\n".join(
        [*told, *(record.getMessage() for record in caplog.records), logged.out, logged.err]
    )

    assert leaky.left == [ANSWERS[-1]], "not every failure was met"
    assert all(headers.get("x-cg-demo-api-key") == KEY for _, headers in leaky.seen)
    assert not [form for form in forms() if form in everything]
    assert leaks(tmp_path) == []
    # and it was a run that leaves something: rows, a payload, one that was refused, an echo that was blanked
    kept = [one.key for one in monitor.storage.objects("archive")]
    assert kept and b"*" * len(KEY) in gzip.decompress(monitor.storage.get(kept[0]))
    assert list(monitor.storage.objects("quarantine"))


@pytest.mark.notebook
def test_a_key_is_in_no_notebook_and_no_record_of_a_run(leaky, planted, tmp_path, monkeypatch, open_at):
    root = tmp_path / "root"
    given = flags(leaky) | {"root": str(root)}
    for name, value in given.items():
        monkeypatch.setenv(f"CRYPTOMON_{name.upper()}", json.dumps(value))
    leaky.left = [ANSWERS[1], ANSWERS[3], ANSWERS[9]] * 5
    with pytest.raises(CryptomonError) as failed:
        run_job(open_monitor("local"), "10_collect")
    leaky.left = [ANSWERS[0]]
    (record,) = run_job(open_monitor("local"), "10_collect")

    assert record["facts"]["stored"] > 0 and "***" in str(failed.value)
    assert {path.suffix for path in (root / "runs").rglob("*") if path.is_file()} >= {".json", ".ipynb"}
    assert not [form for form in forms() if form in f"{failed.value} {record}"]
    assert leaks(root) == []


def test_a_parameter_of_the_address_is_sent_and_shown_nowhere(leaky, planted):
    settings = open_monitor("local", flags={"fetch": flags(leaky)["fetch"]}).settings.fetch
    fetcher = Fetcher(settings, keys={"coingecko": Key(KEY, parameter="x_cg_demo_api_key")})
    leaky.left = ANSWERS[1:]
    told = []
    for _ in ANSWERS[1:]:
        with pytest.raises(FetchError) as failed:
            fetcher.get(f"{leaky.url}/coins?page=1", exchange="coingecko")
            raise FetchError("it answered", exchange="x", url="y")
        told.append("".join(traceback.format_exception(failed.value)) + repr(vars(failed.value)))
    assert all(
        f"x_cg_demo_api_key={quote(KEY, safe='')}" in path for path, _ in leaky.seen if "again" not in path
    )
    assert not [form for form in forms() for one in told if form in one]


def test_an_absent_key_fails_its_exchange_alone_and_names_the_variable(leaky, local, open_at):
    monitor = open_at(local.storage.root, **flags(leaky) | {"hosts": {"coingecko": leaky.url}})
    with pytest.raises(Forbidden, match=f"environment variable {VARIABLE} is not set"):
        open_fetcher(monitor.settings).get(leaky.url, exchange="coingecko")
    assert leaky.seen == []


def test_a_key_for_an_exchange_that_takes_none_is_an_error(local, open_at, planted):
    with pytest.raises(ConfigError, match="names kraken, whose public routes take no key"):
        open_fetcher(open_at(local.storage.root, keys={"kraken": VARIABLE}).settings)
    assert not hasattr(exchanges.get("kraken"), "KEY_HEADER")


def test_a_key_written_into_the_params_is_refused_and_not_repeated(local, open_at):
    with pytest.raises(ConfigError, match="NAME_OF_AN_ENVIRONMENT_VARIABLE") as told:
        open_at(local.storage.root, keys={"coingecko": KEY})
    assert KEY not in "".join(traceback.format_exception(told.value))


def test_a_key_is_blanked_in_every_form_it_can_come_back_in(planted):
    hide(KEY)
    for form in forms() - {KEY[:16]}:
        assert form not in without_secrets(f"GET https://api.test/{form}?q={form} failed: {form!r}")
    assert KEY not in repr(Key(KEY, "x"))
