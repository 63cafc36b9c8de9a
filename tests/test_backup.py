"""A backup that is taken while the monitor works, and the root that is made of it."""

import multiprocessing
import signal
import threading
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from killing import kill_at
from typer.testing import CliRunner

from cryptomon_lib import backup, compact_tables, evaluate_alerts, flatten_payloads, roll_up, send_notices
from cryptomon_lib.backup import _LEFT_OUT, RESTORING, back_up, backups, load_backup, restore, verify_backup
from cryptomon_lib.cli import app
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.errors import ParameterError, StorageError
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.payloads import INGEST
from cryptomon_lib.simulator import Simulator
from cryptomon_lib.storage import Storage

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def exchange():
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def lived(tmp_path, open_at, exchange):
    """A monitor in a folder, as `_lived`."""
    return _lived(open_at, tmp_path / "root", exchange)


def _lived(open_at, root, exchange, endpoint_url=None):
    """A monitor that has lived two minutes, alerts and notices too; one poll waits in the queue."""
    monitor = open_at(root, endpoint_url, exchange.hosts, exchanges=["kraken"], watchlist=["BTC-USD"])
    for minute in range(2):
        live(monitor, minute)
    collect_payloads(monitor, as_of=START + 2 * MINUTE)
    return monitor


def live(monitor, minute):
    at = START + minute * MINUTE
    collect_payloads(monitor, as_of=at)
    flatten_payloads(monitor)
    step = evaluate_alerts(monitor, at)
    send_notices(monitor, evaluated=step.at, now=at)


def at_root(open_at, monitor, root):
    """The same monitor at another root."""
    return open_at(
        root,
        monitor.settings.endpoint_url,
        dict(monitor.settings.hosts),
        exchanges=["kraken"],
        watchlist=["BTC-USD"],
    )


def rows(monitor, name):
    """What a table has, in an order of its own."""
    table = monitor.lake.open(name)
    if table is None:
        return []
    found = table.to_pyarrow_table()
    return sorted(map(str, found.select(sorted(found.column_names)).to_pylist()))


def contents(storage):
    return {
        one.key: storage.get(one.key)
        for one in storage.everything()
        if not one.key.startswith(_LEFT_OUT) and not one.key.startswith("tables/")
    }


def test_a_restored_root_is_what_was_backed_up_and_goes_on(place, exchange, open_at):
    lived = _lived(open_at, place.root, exchange, place.endpoint_url)
    folder = place.root.rsplit("/", 1)[0]
    kept, again = f"{folder}/kept", f"{folder}/again"
    done = back_up(lived, kept)
    assert done.copied > 10
    other = at_root(open_at, lived, again)
    told = []
    found = restore(other, kept, progress=lambda *counts: told.append(counts))
    assert told[-1] == (len(found.objects), len(found.objects)) and told == sorted(told)
    assert found.tables == done.backup.tables and set(found.tables) >= {"ticks", "candles"}
    assert contents(other.storage) == contents(lived.storage)
    for name in found.tables:
        assert rows(other, name) == rows(lived, name), name
    # the poll that waited is flattened in both, once
    assert flatten_payloads(lived).rows == flatten_payloads(other).rows > 0
    assert rows(other, "ticks") == rows(lived, "ticks")
    live(other, 4)
    live(lived, 4)
    assert rows(other, "ticks") == rows(lived, "ticks")
    assert rows(other, "alerts") == rows(lived, "alerts")


def test_what_a_target_has_is_not_copied_again(lived, tmp_path):
    kept = str(tmp_path / "kept")
    first = back_up(lived, kept)
    time.sleep(1.1)
    second = back_up(lived, kept)
    assert second.copied == 0 and second.backup.objects == first.backup.objects
    time.sleep(1.1)
    live(lived, 4)
    third = back_up(lived, kept, keep=2)
    assert 0 < third.copied < first.copied and third.let_go == 1
    place = Storage(kept, lived.settings.endpoint_url)
    assert backups(place) == [second.backup.name, third.backup.name]
    # contents of the backup that went are of the others too, or younger than a day
    assert not verify_backup(place, second.backup) and not verify_backup(place, third.backup)


def test_a_payload_flattened_while_the_queue_is_copied_is_neither_lost_nor_doubled(
    lived, tmp_path, open_at, monkeypatch
):
    kept, again = str(tmp_path / "kept"), tmp_path / "again"
    pinned = backup._Taking._pinned

    def flattened_first(taking):
        flatten_payloads(lived)
        return pinned(taking)

    monkeypatch.setattr(backup._Taking, "_pinned", flattened_first)
    waiting = len(lived.storage.objects(INGEST))
    back_up(lived, kept)
    other = at_root(open_at, lived, again)
    restore(other, kept)
    assert len(other.storage.objects(INGEST)) == waiting > 0
    assert rows(other, "ticks") == rows(lived, "ticks")
    flatten_payloads(other)
    assert rows(other, "ticks") == rows(lived, "ticks")


def test_what_is_rolled_up_is_never_of_a_later_version_than_is_backed_up(lived, tmp_path, monkeypatch):
    pin, pinned = backup._pin, []

    def noted(storage, lake, name):
        pinned.append(name)
        return pin(storage, lake, name)

    monkeypatch.setattr(backup, "_pin", noted)
    roll_up(lived, START + timedelta(hours=2))
    back_up(lived, str(tmp_path / "kept"))
    assert {"rollups_1h", "ticks_1h"} < set(pinned) and set(pinned[-2:]) == {"ticks", "candles"}


def test_files_that_compaction_takes_away_meanwhile_are_pinned_again(
    open_at, tmp_path, exchange, monkeypatch
):
    monitor = open_at(tmp_path / "root", hosts=exchange.hosts, exchanges=["kraken"], watchlist=["BTC-USD"])
    for minute in range(3):
        live(monitor, minute)
    pinned, pins = backup._Taking._pinned, []

    def then_compacted(taking):
        found = pinned(taking)
        pins.append(found)
        if len(pins) == 1:
            compact_tables(monitor, START + timedelta(hours=2), vacuum_after=timedelta(0))
            for name in monitor.storage.folders("tables"):
                monitor.lake.vacuum(name, timedelta(0))
        return found

    monkeypatch.setattr(backup._Taking, "_pinned", then_compacted)
    back_up(monitor, str(tmp_path / "kept"))
    assert len(pins) == 2
    other = at_root(open_at, monitor, tmp_path / "again")
    restore(other, str(tmp_path / "kept"))
    assert rows(other, "ticks") == rows(monitor, "ticks") != []


def test_a_backup_beside_writers_is_one_state(open_at, tmp_path, exchange):
    """Each minute of the restored root is whole, and they are the first ones."""
    monitor = open_at(tmp_path / "root", hosts=exchange.hosts, exchanges=["kraken"], watchlist=["BTC-USD"])
    live(monitor, 0)
    minutes, stop = [0], threading.Event()

    def write():
        while not stop.is_set() and len(minutes) < 60:
            live(monitor, minutes[-1] + 1)
            minutes.append(minutes[-1] + 1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            back_up(monitor, str(tmp_path / f"kept{number}"))
    finally:
        stop.set()
        writer.join(120)
    whole = _by_minute(monitor)
    for number in range(3):
        other = at_root(open_at, monitor, tmp_path / f"again{number}")
        restore(other, str(tmp_path / f"kept{number}"))
        flatten_payloads(other)
        found = _by_minute(other)
        assert found and found == {at: whole[at] for at in sorted(whole)[: len(found)]}


def _by_minute(monitor):
    found = monitor.lake.open("ticks").to_pyarrow_table(columns=["market_id", "collected_at"])
    counted = found.group_by("collected_at").aggregate(
        [("market_id", "count"), ("market_id", "count_distinct")]
    )
    return {one["collected_at"]: tuple(one.values())[:2] for one in counted.to_pylist()}


def _die(call, settings, when, nth, *given):
    kill_at("cryptomon_lib.storage:Storage", "send", when, nth)
    call(open_monitor("local", flags=settings), *given)


def _killed(call, settings, when, nth, *given):
    """Have a process begin a backup or restore, and die at the nth object that it sends."""
    process = multiprocessing.get_context("spawn").Process(
        target=_die, args=(call, settings, when, nth, *given)
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def test_killed_half_way_and_called_again_both_go_on(open_at, tmp_path, exchange):
    monitor = open_at(tmp_path / "root", hosts=exchange.hosts, exchanges=["kraken"], watchlist=["BTC-USD"])
    live(monitor, 0)
    kept, settings = str(tmp_path / "kept"), {"root": str(tmp_path / "root"), "hosts": {}}
    _killed(back_up, settings, "before", 4, kept)
    place = Storage(kept)
    assert backups(place) == []
    begun = len(place.objects("contents"))
    assert 0 < begun < back_up(monitor, kept).copied + begun
    there = {"root": str(tmp_path / "again"), "hosts": {}}
    _killed(restore, there, "after", 5, kept)
    other = at_root(open_at, monitor, tmp_path / "again")
    assert other.storage.exists(RESTORING) and other.lake.open("ticks") is None
    restore(other, kept)
    assert not other.storage.exists(RESTORING)
    assert rows(other, "ticks") == rows(monitor, "ticks") and contents(other.storage) == contents(
        monitor.storage
    )


def test_damage_is_found_and_named_and_all_else_restored(open_at, tmp_path, exchange):
    monitor = open_at(tmp_path / "root", hosts=exchange.hosts, exchanges=["kraken"], watchlist=["BTC-USD"])
    live(monitor, 0)
    kept = tmp_path / "kept"
    one = back_up(monitor, str(kept)).backup
    keys = sorted(key for key in one.objects if key.startswith("archive/"))
    damaged, missing = (
        kept / "contents" / one.objects[key].sha256[:2] / one.objects[key].sha256 for key in keys[:2]
    )
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    missing.unlink()
    assert verify_backup(Storage(str(kept)), one) == {
        keys[0]: "its content is damaged",
        keys[1]: "its content is missing",
    }
    told = CliRunner().invoke(app, ["backup", str(kept), "--verify", "--set", f"root={tmp_path / 'root'}"])
    assert isinstance(told.exception, StorageError) and keys[0] in told.output.replace("\n", "")
    other = at_root(open_at, monitor, tmp_path / "again")
    with pytest.raises(StorageError, match=r"2 of \d+ objects .* could not be restored"):
        restore(other, str(kept))
    assert rows(other, "ticks") == rows(monitor, "ticks") != []
    assert other.storage.exists(RESTORING)


def test_nothing_is_written_over_and_nothing_into_itself(open_at, tmp_path, exchange):
    monitor = open_at(tmp_path / "root", hosts=exchange.hosts, exchanges=["kraken"], watchlist=["BTC-USD"])
    live(monitor, 0)
    kept = str(tmp_path / "kept")
    with pytest.raises(ParameterError, match="has no backup"):
        restore(at_root(open_at, monitor, tmp_path / "again"), kept)
    name = back_up(monitor, kept).backup.name
    with pytest.raises(ParameterError, match="is not empty"):
        restore(monitor, kept)
    with pytest.raises(ParameterError, match=f"no backup.*{name}"):
        restore(at_root(open_at, monitor, tmp_path / "again"), kept, name[:-2])
    for inside in (tmp_path / "root" / "kept", tmp_path):
        with pytest.raises(ParameterError, match="lie in each other"):
            back_up(monitor, str(inside))
    with pytest.raises(ParameterError, match="keep is 0"):
        back_up(monitor, kept, keep=0)
    Path(kept, "backups", f"{name}.json.gz").write_bytes(b"rubbish")
    with pytest.raises(StorageError, match="is damaged"):
        load_backup(Storage(kept))


def test_the_commands(open_at, tmp_path, exchange):
    monitor = open_at(tmp_path / "root", hosts=exchange.hosts, exchanges=["kraken"], watchlist=["BTC-USD"])
    live(monitor, 0)
    kept = str(tmp_path / "kept")

    def says(*words, root="root"):
        ran = CliRunner().invoke(app, [*words, "--set", f"root={tmp_path / root}"])
        assert ran.exit_code == 0, (ran.output, ran.exception)
        return ran.output

    assert "tables; new in" in says("backup", kept, "--without", "runs/", "--keep", "3")
    name = backups(Storage(kept))[0]
    assert name in says("backup", kept, "--list") and f"{name}: " in says("backup", kept, "--verify")
    assert "is as" in says("restore", kept, root="again")
    assert rows(at_root(open_at, monitor, tmp_path / "again"), "ticks") == rows(monitor, "ticks") != []


def test_a_backup_has_no_more_memory_than_a_file_needs(tmp_path, open_at):
    """A content goes by a file of this machine, in pieces."""
    monitor = open_at(tmp_path / "root")
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(300_000_000)
    monitor.storage.send("archive/big", big)
    tracemalloc.start()
    back_up(monitor, str(tmp_path / "kept"))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50_000_000
