"""What breaks around a monitor: the disk, S3, the network, a process, the files. What is said, that nothing is lost, and
that it goes on by itself afterwards."""

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from killing import kill_at
from throttling import ThrottledS3

from cryptomon_lib import lake, storage
from cryptomon_lib.alerts import evaluate_alerts
from cryptomon_lib.backfill import fill_holes
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.compact import compact_tables
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CollectError, QueryError, StorageError
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.holes import load_holes, note_holes
from cryptomon_lib.latest import keep_latest
from cryptomon_lib.retention import expire
from cryptomon_lib.simulator import Simulator

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MARKETS = ["BTC-USD", "ETH-USD"]


@pytest.fixture(scope="module")
def simulator():
    with Simulator() as served:
        yield served


@pytest.fixture
def opened(open_at, simulator):
    """Opens a monitor at a root on the simulated exchange."""

    def at(root, endpoint_url=None, **flags):
        flags = {"exchanges": ["bitstamp"], "watchlist": MARKETS, "min_markets": 5} | flags
        return open_at(root, endpoint_url, simulator.hosts | flags.pop("hosts", {}), **flags)

    return at


def tick(monitor, minute):
    """One minute's poll and flatten."""
    collect_payloads(monitor, as_of=START + minute * MINUTE)
    return flatten_payloads(monitor)


def polled(monitor, stored):
    """The minutes after START of which there are ticks; each market's once, or this fails."""
    minutes = {}
    for row in stored(monitor, "ticks"):
        minutes.setdefault(row["market_id"], []).append(int((row["collected_at"] - START) / MINUTE))
    assert len({tuple(sorted(one)) for one in minutes.values()}) == 1
    return sorted(next(iter(minutes.values())))


# ---- the disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB, and what mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True
        )

    try:
        mount("size=3m")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a file system cannot be mounted here: {error}")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file):
    """Write until there is no room left."""
    handle = os.open(file, os.O_CREAT | os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left"):
            while True:
                os.write(handle, b"0" * 4096)
    finally:
        os.close(handle)


def test_a_full_disk_is_said_and_loses_nothing_and_once_there_is_room_it_goes_on(small_disk, opened, stored):
    folder, _ = small_disk
    monitor = opened(folder / "root")
    tick(monitor, 0)
    filling = folder / "filling"
    fill(filling)

    for minute in (1, 2):
        with pytest.raises(StorageError, match="No space left") as caught:
            tick(monitor, minute)
        assert str(monitor.settings.root) in str(caught.value)
    # what was asked before can be asked all the same
    assert Engine(monitor, START + MINUTE).query("select count(*) as n from ticks")["n"][0].as_py() > 0
    filling.unlink()
    for minute in (2, 3):
        tick(monitor, minute)

    # the minute of which no payload could be kept is missing, and nothing else
    assert polled(monitor, stored) == [0, 2, 3]


def test_a_disk_that_fills_between_poll_and_flatten_keeps_what_was_polled(small_disk, opened, stored):
    folder, _ = small_disk
    monitor = opened(folder / "root")
    tick(monitor, 0)
    collect_payloads(monitor, as_of=START + MINUTE)
    waiting = [one.key for one in monitor.storage.objects("ingest")]
    filling = folder / "filling"
    fill(filling)

    with pytest.raises(StorageError, match=r"No space left|storage full"):
        flatten_payloads(monitor)
    assert [one.key for one in monitor.storage.objects("ingest")] == waiting
    filling.unlink()
    tick(monitor, 2)

    assert polled(monitor, stored) == [0, 1, 2]
    assert monitor.storage.objects("ingest") == []


def test_a_folder_that_became_read_only_is_said_and_later_it_goes_on(small_disk, opened, stored):
    folder, mount = small_disk
    monitor = opened(folder / "root")
    tick(monitor, 0)
    mount("ro")
    try:
        with pytest.raises(StorageError, match="Read-only file system") as caught:
            tick(monitor, 1)
        assert "permissions" in str(caught.value) and str(folder) in str(caught.value)
        assert Engine(monitor, START + MINUTE).query("select count(*) as n from ticks")["n"][0].as_py() > 0
    finally:
        mount("rw")
    tick(monitor, 1)

    assert polled(monitor, stored) == [0, 1]


# ---- S3


@pytest.fixture
def throttled(s3, monkeypatch):
    """The loopback S3 behind a proxy that can be in a mood."""
    proxy = ThrottledS3(s3.endpoint_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    yield s3.root, proxy
    proxy.close()


@pytest.mark.s3
def test_an_s3_that_refuses_every_sixth_request_is_asked_again(throttled, opened, stored):
    root, proxy = throttled
    monitor = opened(root, proxy.address)
    tick(monitor, 0)
    proxy.mood, proxy.every = "slow_down", 6
    for minute in (1, 2):
        tick(monitor, minute)
    proxy.mood = "pass"

    assert proxy.answered["slow_down"] > 5
    assert polled(monitor, stored) == [0, 1, 2]


@pytest.fixture
def impatient(monkeypatch):
    """The same ways of bearing with an S3, a hundredth as long."""
    monkeypatch.setattr(
        storage, "S3_CLIENT", storage.S3_CLIENT | {"read_timeout": 0.5, "connect_timeout": 0.5}
    )
    monkeypatch.setattr(storage, "S3_TRIES", 3)
    short = {"timeout": "1s", "retry_timeout": "1s", "backoff_config.max_backoff": "200ms"}
    monkeypatch.setattr(lake, "S3_PATIENCE", lake.S3_PATIENCE | short)


@pytest.mark.s3
@pytest.mark.parametrize("mood", ["slow_down", "stall"])
def test_an_s3_that_refuses_or_is_silent_for_long_ends_the_run_with_words_and_loses_nothing(
    mood, impatient, throttled, opened, stored
):
    root, proxy = throttled
    monitor = opened(root, proxy.address)
    tick(monitor, 0)
    # polled, and not flattened yet
    collect_payloads(monitor, as_of=START + MINUTE)
    waiting = [one.key for one in monitor.storage.objects("ingest")]
    proxy.mood = mood
    for what in (
        lambda: collect_payloads(monitor, as_of=START + 2 * MINUTE),
        lambda: flatten_payloads(monitor),
        lambda: monitor.storage.exists(waiting[0]),
        lambda: monitor.lake.open("ticks"),
    ):
        began = time.monotonic()
        with pytest.raises(StorageError, match=r"^Cannot \w+.*s3://.*[Cc]heck the root"):
            what()
        assert time.monotonic() - began < 30
    proxy.mood = "pass"

    assert [one.key for one in monitor.storage.objects("ingest")] == waiting
    tick(monitor, 3)
    assert polled(monitor, stored) == [0, 1, 3]


@pytest.mark.s3
def test_an_s3_that_refuses_for_a_minute_is_outlasted(throttled, opened, monkeypatch):
    """By a clock that the waits move on: none of them is slept."""
    root, proxy = throttled
    storage_of = opened(root, proxy.address).storage
    storage_of.put("before", b"1")
    waited = []

    async def wait(seconds):
        waited.append(seconds)
        if sum(waited) > 60:
            proxy.mood = "pass"

    monkeypatch.setattr("s3fs.core.asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": wait}))
    for ask in (
        lambda: storage_of.create("new", b"2"),
        # an answer without a body says 503 and nothing else
        lambda: storage_of.exists("before"),
        lambda: storage_of.get("before") == b"1",
    ):
        waited.clear()
        proxy.mood = "slow_down"
        assert ask() is True and 60 < sum(waited) < 74


@pytest.mark.s3
def test_a_network_that_is_gone_in_the_middle_of_an_upload_leaves_nothing_half(
    impatient, throttled, opened, stored
):
    root, proxy = throttled
    monitor = opened(root, proxy.address)
    tick(monitor, 0)
    collect_payloads(monitor, as_of=START + MINUTE)
    # of a flatten's puts the data files come first, the commit that names them last
    for number in (1, 2):
        proxy.mood, proxy.every, proxy.only = "cut", number, "PUT"
        with suppress(StorageError):
            flatten_payloads(monitor)
        with suppress(StorageError):
            collect_payloads(monitor, as_of=START + (1 + number) * MINUTE)
    proxy.mood, proxy.every, proxy.only = "pass", 1, ""
    assert proxy.answered["cut"] > 3
    flatten_payloads(monitor)
    tick(monitor, 4)

    # each minute whole and once
    minutes = polled(monitor, stored)
    assert set(minutes) >= {0, 1, 4} and len(minutes) == len(set(minutes))
    assert monitor.storage.objects("ingest") == []


# ---- the network


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("http://127.0.0.1:1/bitstamp", id="refused"),
        pytest.param("http://192.0.2.1/bitstamp", id="black hole"),
        pytest.param("http://no-such-host.invalid/bitstamp", id="no such name"),
    ],
)
def test_minutes_without_a_network_end_in_time_are_named_and_are_made_up_for(host, opened, stored, tmp_path):
    quick = {"connect_timeout_s": 0.5, "attempts": 2}
    monitor = opened(tmp_path / "root", fetch=quick)
    away = opened(tmp_path / "root", fetch=quick, hosts={"bitstamp": host}, simulated=False)
    for minute in range(3):
        tick(monitor, minute)
    for minute in range(3, 6):
        began = time.monotonic()
        with pytest.raises(CollectError, match="bitstamp"):
            tick(away, minute)
        assert time.monotonic() - began < 30
    for minute in range(6, 14):
        tick(monitor, minute)
    now = START + 14 * MINUTE

    assert polled(monitor, stored) == [0, 1, 2, *range(6, 14)]
    note_holes(monitor, now)
    named = [one for one in load_holes(monitor) if one.key == ("bitstamp", "ticks")]
    assert [(one.minutes, one.state) for one in named] == [(3, "unfillable")]
    fill_holes(monitor, "1h", as_of=now)
    opens = {row["opened_at"] for row in stored(monitor, "candles") if row["market_id"].endswith("BTC/USD")}
    assert {START + minute * MINUTE for minute in range(1, 12)} <= opens


# ---- rubbish under the root


def test_a_payload_that_is_half_there_goes_to_quarantine_and_holds_nobody_up(opened, stored, tmp_path):
    monitor = opened(tmp_path / "root")
    collect_payloads(monitor, as_of=START)
    key = next(one.key for one in monitor.storage.objects("ingest") if "ohlc" in one.key)
    monitor.storage.put(key, monitor.storage.get(key)[:40])
    monitor.storage.put("ingest/notes.txt", b"who put this here?")
    (Path(monitor.storage.root) / "ingest" / ".unfinished-x").write_bytes(b"half")

    assert flatten_payloads(monitor).quarantined == 2
    tick(monitor, 1)

    assert polled(monitor, stored) == [0, 1]
    reasons = [one.key for one in monitor.storage.objects("quarantine") if one.key.endswith("reason.json")]
    assert len(reasons) == 2


def test_files_that_are_no_part_of_a_table_are_in_nobodys_way(opened, stored, tmp_path):
    monitor = opened(tmp_path / "root")
    tick(monitor, 0)
    day = next(Path(monitor.lake.uri("ticks")).glob("source=*/day=*"))
    (day / "part-foreign.parquet").write_bytes(b"PAR1 not really")
    (day / "notes.txt").write_text("mine")
    (Path(monitor.lake.uri("ticks")) / "_delta_log" / "notes.txt").write_text("mine")
    tick(monitor, 1)
    compact_tables(monitor, START + timedelta(days=2), vacuum_after=timedelta(0))
    tick(monitor, 2)

    assert polled(monitor, stored) == [0, 1, 2]
    assert keep_latest(Engine(monitor, START + 2 * MINUTE)).rows > 5


def test_a_data_file_that_was_cut_is_named_and_the_others_go_on(opened, tmp_path):
    monitor = opened(tmp_path / "root")
    tick(monitor, 0)
    tick(monitor, 1)
    cut = Path(monitor.lake.files("ticks")[0].path)
    cut.write_bytes(cut.read_bytes()[:100])

    with pytest.raises(QueryError, match=cut.name):
        Engine(monitor, START + MINUTE).query("select sum(price) as s from ticks")
    # other tables, and what comes, are none the worse
    assert Engine(monitor, START + MINUTE).query("select count(*) as n from candles")["n"][0].as_py() > 0
    assert tick(monitor, 2).rows > 0
    with pytest.raises(StorageError, match=cut.name):
        compact_tables(monitor, START + timedelta(days=2))


def test_a_line_of_the_log_that_is_no_json_is_said_with_the_table(opened, stored, tmp_path):
    monitor = opened(tmp_path / "root")
    for minute in range(2):
        tick(monitor, minute)
    log = sorted((Path(monitor.lake.uri("ticks")) / "_delta_log").glob("*.json"))[-1]
    whole = log.read_bytes()
    log.write_bytes(whole[:50] + b"\x00garbage")
    collect_payloads(monitor, as_of=START + 2 * MINUTE)

    with pytest.raises(StorageError, match="tables/ticks"):
        flatten_payloads(monitor)
    assert len(monitor.storage.objects("ingest")) == 3
    log.write_bytes(whole)
    flatten_payloads(monitor)

    assert polled(monitor, stored) == [0, 1, 2]


# ---- the clock


def test_a_clock_that_was_stepped_back_and_forward_doubles_nothing(opened, stored, tmp_path):
    monitor = opened(tmp_path / "root")
    moments = [0, 1, 2, 0, 1, 2, 3, 90, 4, 5]
    steps = []
    for minute in moments:
        tick(monitor, minute)
        now = START + minute * MINUTE
        keep_latest(Engine(monitor, now))
        steps.append(evaluate_alerts(monitor, now).at)

    assert polled(monitor, stored) == [0, 1, 2, 3, 4, 5, 90]
    # what was evaluated is not again, and never for an earlier moment
    assert steps == sorted(steps)
    as_of = {row["as_of"] for row in stored(monitor, "latest")}
    assert as_of == {START + 90 * MINUTE}


# ---- a process that is killed


def die_in(job, flags, place, name, when, nth):
    from cryptomon_lib.monitor import open_monitor

    monitor = open_monitor("local", flags=flags)
    kill_at(place, name, when, nth)
    if job == "backfill":
        fill_holes(monitor, "1h", as_of=START + 30 * MINUTE)
    else:
        expire(monitor, START + timedelta(days=90))


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize(
    ("job", "place", "name"),
    [
        ("backfill", "cryptomon_lib.storage:Storage", "create"),
        ("backfill", "cryptomon_lib.lake:Lake", "append"),
        ("retention", "cryptomon_lib.storage:Storage", "delete"),
    ],
)
def test_what_was_killed_is_done_by_the_next_run(
    job, place, name, nth, opened, stored, simulator, start_process, tmp_path
):
    flags = {
        "root": str(tmp_path / "root"), "hosts": simulator.hosts, "exchanges": ["bitstamp"], "watchlist": MARKETS,
        "min_markets": 5, "fetch": {"pause_s": 0, "budgets": str(tmp_path / "budgets"), "workers": 1},
    }  # fmt: skip
    monitor = opened(tmp_path / "root")
    for minute in (0, 1, 20, 21):
        tick(monitor, minute)
    process = start_process(die_in, job, flags, place, name, "after", nth)
    process.join(120)
    ended = process.exitcode

    if job == "backfill":
        fill_holes(monitor, "1h", as_of=START + 30 * MINUTE)
        minutes = [
            (row["opened_at"] - START) // MINUTE
            for row in stored(monitor, "candles")
            if row["market_id"].endswith("BTC/USD")
        ]
        assert len(minutes) == len(set(minutes)) and set(range(1, 24)) <= set(minutes)
    else:
        assert expire(monitor, START + timedelta(days=90)) > 0
        assert monitor.storage.objects("archive") == []
    assert polled(monitor, stored) == [0, 1, 20, 21]
    # a kill that never came would show nothing
    assert ended == -signal.SIGKILL or (job, nth) == ("backfill", 3)
