"""What the tests share: monitors on a folder and on S3 over HTTP, rows for the tables, the recordings."""

import logging
import math
import multiprocessing
import os
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pytest

from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.tables import TABLES, day_of, schema

PROJECT = Path(__file__).resolve().parent.parent
# tests retry and pace as the real thing does, only sooner
QUICK = {"pause_s": 0, "backoff_s": 0.01, "backoff_max_s": 0.05, "read_timeout_s": 10}

# where the fixture three_days ends
THREE_DAYS = datetime(2026, 7, 27, 12, 0, 30, tzinfo=UTC)

_buckets = count(1)


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch):
    """No setting of whoever runs the tests reaches them, and none of a test the next one."""
    for name in _settings():
        monkeypatch.delenv(name)
    yield
    # a command's flags are exported, as they are for the processes that it starts
    for name in _settings():
        del os.environ[name]


@pytest.fixture(autouse=True)
def _own_log():
    """No test hears at the level, or through the handler, that a command set up in another."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
    root.setLevel(level)


def _settings():
    return [name for name in os.environ if name.startswith("CRYPTOMON_") and name != "CRYPTOMON_CAPTURES"]


@pytest.fixture(scope="session")
def captures():
    """The folder of recorded payloads, which is no part of the project."""
    named = os.environ.get("CRYPTOMON_CAPTURES")
    folder = Path(named) if named else PROJECT.parent / "shared" / "captures"
    if not folder.is_dir():
        pytest.skip("no recorded payloads: name their folder in CRYPTOMON_CAPTURES")
    return folder


@pytest.fixture(scope="session")
def _s3_server():
    """An S3 on loopback."""
    moto = pytest.importorskip("moto.server", reason="S3 on loopback needs the extra dev")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def _serve_s3(address):
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0)
    server.start()
    address.send("http://{}:{}".format(*server.get_host_and_port()))
    # until whoever asked for it is gone
    with suppress(EOFError):
        address.recv()


@pytest.fixture
def s3_apart(start_process, monkeypatch):
    """As s3, by a server in a process of its own: what delta-rs does to a table's columns does not let go of Python
    meanwhile, so that a server in the same process could not answer."""
    pytest.importorskip("moto.server", reason="S3 on loopback needs the extra dev")
    own, its = multiprocessing.Pipe()
    process = start_process(_serve_s3, its)
    assert own.poll(60), "no S3 within 60 s"
    yield _bucket_at(own.recv(), monkeypatch)
    process.kill()
    process.join()


@pytest.fixture
def s3(_s3_server, monkeypatch):
    """A new bucket on the loopback S3: its root, and the server's address."""
    return _bucket_at(_s3_server, monkeypatch)


def _bucket_at(url, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    bucket = f"test-{next(_buckets)}"
    files = fsspec.filesystem("s3", endpoint_url=url, skip_instance_cache=True)
    files.mkdir(f"s3://{bucket}")
    return SimpleNamespace(root=f"s3://{bucket}/monitor", endpoint_url=url)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def place(request, tmp_path):
    """Where a monitor may be: a root and its endpoint, once in a folder and once on S3."""
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return SimpleNamespace(root=str(tmp_path / "root"), endpoint_url=None)


@pytest.fixture
def open_at(tmp_path):
    """Opens a monitor at a root, on the loopback simulator of `hosts`, with further flags."""

    def opened(root, endpoint_url=None, hosts=None, **flags):
        flags["fetch"] = QUICK | {"budgets": str(tmp_path / "budgets")} | flags.get("fetch", {})
        places = {"root": str(root), "endpoint_url": endpoint_url, "hosts": hosts or {}}
        return open_monitor("local", flags=places | flags)

    return opened


@pytest.fixture
def monitor(place, open_at):
    """A monitor without data, once in a folder and once on S3."""
    return open_at(place.root, place.endpoint_url)


@pytest.fixture
def local(tmp_path, open_at):
    """A monitor without data in a folder."""
    return open_at(tmp_path / "root")


def _table(name, rows):
    """Rows of a table from dicts that name what matters; a market's own columns follow from its market_id."""
    declared, made = TABLES[name], []
    for row in rows:
        row = dict(row)
        if "market_id" in row and "source" in declared.column_names:
            source, exchange, symbol = row["market_id"].split(":", 2)
            base, _, quote = symbol.partition("-")
            own = {"source": source, "exchange": exchange, "symbol": symbol, "kind": "spot"}
            row = own | {"market": symbol, "base": base, "quote": quote} | row
        if declared.day_of:
            row.setdefault("day", day_of(row[declared.day_of]))
        made.append({column: row.get(column) for column in declared.column_names})
    return pa.Table.from_pylist(made, schema=schema(name))


@pytest.fixture(scope="session")
def start_process():
    """Starts a function of a test module in a process of its own: `start_process(function, *arguments)`."""
    # forked from a process that has imported everything and done nothing, which is quick and safe
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        [
            "pytest",
            "s3fs",
            "cryptomon_lib.collect",
            "cryptomon_lib.flatten",
            "cryptomon_lib.alerts",
            "cryptomon_lib.notify",
        ]
    )

    def start(function, *given):
        process = processes.Process(target=function, args=given)
        process.start()
        return process

    return start


@pytest.fixture(scope="session")
def table_of():
    """Makes rows of a table: `table_of("ticks", [{"market_id": "kraken:kraken:BTC-USD", …}])`."""
    return _table


@pytest.fixture(scope="session")
def rollups_of():
    """Roll-ups by plain Python: `rollups_of(values, until)`, values by their moments for each market and measure.

    Rolled up are the hours that have values, to that of `until`.
    """

    def made(values, until):
        rows = []
        for (market_id, measure), own in values.items():
            hours = defaultdict(list)
            for at in sorted(own):
                hours[at.replace(minute=0, second=0, microsecond=0)].append(own[at])
            for hour_at, found in hours.items():
                if hour_at < until:
                    mean = math.fsum(found) / len(found)
                    row = {"market_id": market_id, "measure": measure, "hour_at": hour_at, "expected": 60}
                    row |= {"samples": len(found), "mean": mean, "min": min(found), "max": max(found)}
                    row |= {"m2": math.fsum((value - mean) ** 2 for value in found)}
                    rows.append(row | {"first": found[0], "last": found[-1]})
        return _table("rollups_1h", rows)

    return made


@pytest.fixture
def stored():
    """Reads all rows of a monitor's table, sorted by its key, as dicts."""

    def read(monitor, name):
        table = monitor.lake.open(name)
        if table is None:
            return []
        rows = table.to_pyarrow_table().cast(schema(name))
        return rows.sort_by([(column, "ascending") for column in TABLES[name].key]).to_pylist()

    return read


@pytest.fixture
def minutes():
    """Makes moments: `minutes(first, count)` are count of them, a minute apart, from an ISO text in UTC."""

    def made(first, count, step_s=60):
        start = datetime.fromisoformat(first).replace(tzinfo=UTC)
        return [start + timedelta(seconds=step_s * index) for index in range(count)]

    return made


@pytest.fixture(scope="session")
def three_days(table_of, tmp_path_factory):
    """Three days until THREE_DAYS in many files: markets with candles, with a counter, with now one, now the other."""
    monitor = open_monitor("local", flags={"root": str(tmp_path_factory.mktemp("days"))})
    start = THREE_DAYS - timedelta(days=3)
    moments, at = [], start
    while at <= THREE_DAYS + timedelta(minutes=2):
        moments.append(at)
        at += timedelta(minutes=1) if THREE_DAYS - at < timedelta(hours=3) else timedelta(minutes=15)
    groups = {}
    for at in moments:
        near = THREE_DAYS - at < timedelta(hours=3)
        groups.setdefault((at - start) // (timedelta(minutes=5) if near else timedelta(hours=5)), []).append(
            at
        )
    for number, group in groups.items():
        monitor.lake.append("ticks", [Batch(f"{number}", table_of("ticks", _ticks(group)))])
        bars = table_of("candles", _candles(group))
        monitor.lake.append("candles", [Batch(f"{number}", bars)])
    return monitor


def _ticks(moments):
    for at in moments:
        number = at.hour * 60 + at.minute
        for index, symbol in enumerate(("BTC-USD", "ETH-USD", "SOL-USD"), 1):
            yield {
                "market_id": f"kraken:kraken:{symbol}",
                "collected_at": at,
                "price": 100.0 * index + number % (17 + index),
                "bid": 99.0 - index,
                "ask": 101.0,
                "volume_24h": 1000.0 + number * index,
                "quote_volume_24h": 500.0 + index * number,
                "volume_today": float(number * index),
            }


def _candles(moments):
    for at in moments:
        opened = at.replace(second=0) - timedelta(minutes=1)
        # SOL's candles stopped coming 100 minutes ago; its counter did not
        for symbol in ("BTC-USD", "SOL-USD") if THREE_DAYS - at > timedelta(minutes=100) else ("BTC-USD",):
            yield {
                "market_id": f"kraken:kraken:{symbol}",
                "interval_s": 60,
                "opened_at": opened,
                "close": 1.0,
                "volume": 3.0 + opened.minute,
                "collected_at": at,
                "origin": "live",
            }
