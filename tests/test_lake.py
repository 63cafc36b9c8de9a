"""Delta tables: rows are written once, whoever else writes, compacts or reads."""

import multiprocessing
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from cryptomon_lib import lake as lake_module
from cryptomon_lib.errors import CommitConflict, StorageError
from cryptomon_lib.lake import Batch, Lake
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.storage import Storage
from cryptomon_lib.tables import empty, schema

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def ticks(table_of):
    """Makes ticks of a minute: one row a market."""

    def made(at=NOON, markets=("BTC-USD", "ETH-USD"), source="kraken", price=100.0):
        return table_of(
            "ticks",
            [
                {"market_id": f"{source}:{source}:{market}", "collected_at": at, "price": price}
                for market in markets
            ],
        )

    return made


@pytest.fixture
def candles(table_of):
    """Makes candles of one market, by the minutes after noon that they opened."""

    def made(*opened, close=100.0, market="BTC-USD", origin="live"):
        return table_of(
            "candles",
            [
                {
                    "market_id": f"kraken:kraken:{market}",
                    "interval_s": 60,
                    "opened_at": NOON + minute * MINUTE,
                    "close": close,
                    "collected_at": NOON,
                    "origin": origin,
                }
                for minute in opened
            ],
        )

    return made


def fresh(lake, name):
    return lambda table, rows: lake.missing(name, table, rows)


# ---- once


def test_a_batch_is_written_once_however_often_it_is_offered(monitor, ticks, stored):
    batches = [Batch("a", ticks()), Batch("b", ticks(NOON + MINUTE))]
    first = monitor.lake.append("ticks", batches)
    assert (first.ids, first.rows) == ({"a", "b"}, 4)
    again = monitor.lake.append("ticks", [*batches, Batch("c", ticks(NOON + 2 * MINUTE))])
    assert (again.ids, again.rows) == ({"c"}, 2)
    assert monitor.lake.append("ticks", batches).rows == 0
    assert len(stored(monitor, "ticks")) == 6
    assert monitor.lake.written("ticks", ["a", "b", "c", "d"]) == {"a", "b", "c"}


def test_an_append_without_anything_new_makes_no_commit(monitor, ticks):
    monitor.lake.append("ticks", [Batch("a", ticks())])
    before = monitor.lake.open("ticks").version()
    monitor.lake.append("ticks", [Batch("a", ticks())])
    assert monitor.lake.open("ticks").version() == before


def test_a_batch_without_rows_has_its_id_recorded_all_the_same(monitor):
    assert monitor.lake.append("ticks", [Batch("none", empty("ticks"))]).ids == {"none"}
    assert monitor.lake.written("ticks", ["none"]) == {"none"}
    assert monitor.lake.append("ticks", [Batch("none", empty("ticks"))]).ids == frozenset()


def test_a_batch_whose_rows_are_all_known_has_its_id_recorded_all_the_same(monitor, candles, stored):
    lake = monitor.lake
    lake.append("candles", [Batch("a", candles(0, 1))], fresh(lake, "candles"))
    done = lake.append("candles", [Batch("b", candles(0, 1, close=7.0))], fresh(lake, "candles"))
    assert (done.ids, done.rows) == ({"b"}, 0)
    assert lake.written("candles", ["b"]) == {"b"}
    assert [row["close"] for row in stored(monitor, "candles")] == [100, 100]


def test_of_rows_that_overlap_only_those_that_the_table_lacks_are_written(monitor, candles, stored):
    lake = monitor.lake
    lake.append("candles", [Batch("a", candles(0, 1, 2))], fresh(lake, "candles"))
    both = [Batch("b", candles(2, 3, close=2.0)), Batch("c", candles(3, 4, close=3.0))]
    assert lake.append("candles", both, fresh(lake, "candles")).rows == 2
    assert [row["close"] for row in stored(monitor, "candles")] == [100, 100, 100, 2, 3]


def closes(monitor, stored):
    return [(row["close"], row["origin"]) for row in stored(monitor, "candles")]


def test_what_was_filled_in_never_takes_the_place_of_what_came_live(monitor, candles, stored):
    lake = monitor.lake
    lake.append("candles", [Batch("a", candles(0, 1))], fresh(lake, "candles"))
    done = lake.append(
        "candles", [Batch("b", candles(0, 1, 2, close=7.0, origin="backfill"))], fresh(lake, "candles")
    )
    assert done.rows == 1
    assert closes(monitor, stored) == [(100, "live"), (100, "live"), (7, "backfill")]


def test_what_comes_live_takes_the_place_of_what_was_filled_in_also_when_it_comes_later(
    monitor, candles, stored
):
    lake = monitor.lake
    lake.append("candles", [Batch("a", candles(0, 1, 2, origin="backfill"))], fresh(lake, "candles"))
    lake.append(
        "candles", [Batch("x", candles(0, 1, market="ETH-USD", origin="backfill"))], fresh(lake, "candles")
    )
    done = lake.append("candles", [Batch("b", candles(1, 2, 3, close=7.0))], fresh(lake, "candles"))
    assert done == lake_module.Appended(frozenset({"b"}), 3)
    assert closes(monitor, stored)[:4] == [(100, "backfill"), (7, "live"), (7, "live"), (7, "live")]
    assert len(closes(monitor, stored)) == 6
    # and the id is in: offered again, it changes nothing
    assert lake.append("candles", [Batch("b", candles(1))], fresh(lake, "candles")).rows == 0
    assert lake.append("candles", [Batch("c", candles(1, 2, 3))], fresh(lake, "candles")).rows == 0


def test_of_both_in_one_commit_the_live_one_is_kept(monitor, candles, stored):
    lake = monitor.lake
    both = [Batch("a", candles(0, 1, origin="backfill")), Batch("b", candles(1, 2, close=7.0))]
    assert lake.append("candles", both, fresh(lake, "candles")).rows == 3
    assert closes(monitor, stored) == [(100, "backfill"), (7, "live"), (7, "live")]


def test_an_id_with_any_character_is_found_again(local, ticks):
    ids = ["kraken/0/Ticker~a=b%2Fc/x.json.gz@20260101", "ünïcode 币", "'quoted\" \\ \n new"]
    local.lake.append("ticks", [Batch(id, ticks(NOON + index * MINUTE)) for index, id in enumerate(ids)])
    assert local.lake.written("ticks", ids) == set(ids)


def test_an_unknown_table_has_no_ids_no_files_and_no_rows(monitor):
    assert monitor.lake.open("ticks") is None
    assert monitor.lake.written("ticks", ["a"]) == set()
    assert monitor.lake.files("ticks") == monitor.lake.vacuum("ticks") == []
    assert monitor.lake.compact("ticks") == {}


def test_times_are_stored_with_their_zone_and_partitions_as_text(local, ticks):
    local.lake.append("ticks", [Batch("a", ticks())])
    (file,) = local.lake.files("ticks")
    assert file.partition == {"source": "kraken", "day": "2026-07-27"} and file.rows == 2
    kept = pq.ParquetFile(file.path).schema_arrow
    assert kept.field("collected_at").type == pa.timestamp("us", tz="UTC")
    assert "day" not in kept.names and "source" not in kept.names
    # what Athena is known to read
    assert local.lake.open("ticks").protocol().min_reader_version == 1


# ---- several writers


def append_all(root, endpoint_url, environ, name, ids, gate, rounds):
    """Offer batches one after the other, as one of several processes that were given the same ones."""
    os.environ.update(environ)
    monitor = open_monitor("local", flags={"root": root, "endpoint_url": endpoint_url})
    lake = monitor.lake
    gate.wait(90)
    for number in range(rounds):
        rows = rounds_rows(name, number)
        lake.append(name, [Batch(f"{id}-{number}", rows) for id in ids], fresh(lake, name))


def rounds_rows(name, number):
    """Candles of five minutes that overlap those of the rounds before and after; or one tick."""
    at = NOON + number * MINUTE
    market = {"market_id": "kraken:kraken:BTC-USD", "source": "kraken", "exchange": "kraken"}
    rows = [
        market
        | {"interval_s": 60, "opened_at": at + index * MINUTE, "collected_at": at, "day": "2026-07-27"}
        | ({"close": 1.0} if name == "candles" else {"price": 1.0})
        for index in range(5 if name == "candles" else 1)
    ]
    return pa.Table.from_pylist(
        [{column: row.get(column) for column in schema(name).names} for row in rows], schema=schema(name)
    )


@pytest.mark.parametrize("name", ["ticks", "candles"])
def test_processes_that_write_the_same_at_once_write_each_row_once(
    place, open_at, start_process, stored, name
):
    rounds = 8 if place.endpoint_url is None else 4
    gate = multiprocessing.get_context("forkserver").Barrier(3)
    environ = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    given = (place.root, place.endpoint_url, environ, name)
    # two with the same ids, one with the same rows under others
    writers = [start_process(append_all, *given, ids, gate, rounds) for ids in (["a"], ["a"], ["b"])]
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    monitor = open_at(place.root, place.endpoint_url)
    rows = stored(monitor, name)
    when = "opened_at" if name == "candles" else "collected_at"
    length = rounds + 4 if name == "candles" else rounds
    assert [row[when] for row in rows] == [NOON + minute * MINUTE for minute in range(length)]
    ids = {f"{id}-{number}" for id in "ab" for number in range(rounds)}
    assert monitor.lake.written(name, ids) == ids


def test_threads_that_create_a_table_at_once_lose_nothing(local, ticks, stored):
    gate, failed = threading.Barrier(4), []

    def write(number):
        gate.wait(90)
        try:
            Lake(local.storage).append("ticks", [Batch(f"{number}", ticks(NOON + number * MINUTE))])
        except StorageError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert len(stored(local, "ticks")) == 8


def test_who_was_overtaken_asks_again_what_is_there(monitor, candles, stored):
    lake, asked = monitor.lake, []
    lake.append("candles", [Batch("first", candles(0))])

    def overtaken(table, rows):
        asked.append(table.version())
        if len(asked) == 1:
            lake.append("candles", [Batch("other", candles(1))])
        return lake.missing("candles", table, rows)

    done = lake.append("candles", [Batch("mine", candles(0, 1, 2))], overtaken)
    assert len(asked) == 2 and done.rows == 1
    assert len(stored(monitor, "candles")) == 3


def test_who_is_overtaken_each_time_says_so(local, ticks, monkeypatch):
    monkeypatch.setattr(lake_module, "_TRIES", 3)
    local.lake.append("ticks", [Batch("first", ticks())])
    turns = iter(range(100))

    def overtaken(table, rows):
        Lake(local.storage).append("ticks", [Batch(f"other-{next(turns)}", ticks(NOON + MINUTE))])
        return rows

    with pytest.raises(CommitConflict, match="came first 3 times"):
        local.lake.append("ticks", [Batch("mine", ticks(NOON + 2 * MINUTE))], overtaken)
    assert local.lake.written("ticks", ["mine"]) == set()


def test_compaction_beside_a_writer_fails_neither(local, ticks, stored):
    for number in range(5):
        local.lake.append("ticks", [Batch(f"before-{number}", ticks(NOON + number * MINUTE))])
    done = threading.Event()

    def write():
        try:
            for number in range(20):
                Lake(local.storage).append("ticks", [Batch(f"{number}", ticks(NOON + (5 + number) * MINUTE))])
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        local.lake.compact("ticks")
    writer.join()
    local.lake.compact("ticks")
    rows = stored(local, "ticks")
    assert len(rows) == len({(row["market_id"], row["collected_at"]) for row in rows}) == 50


# ---- replace, compact, vacuum


def test_a_partition_is_replaced_and_the_others_are_not(monitor, ticks, stored):
    yesterday = NOON - timedelta(days=1)
    rows = [ticks(), ticks(yesterday), ticks(source="binance")]
    monitor.lake.append("ticks", [Batch("a", pa.concat_tables(rows))])
    monitor.lake.replace(
        "ticks", ticks(price=7.0, markets=["NEW-USD"]), "source = 'kraken' and day = '2026-07-27'"
    )
    found = [(row["market_id"], row["day"], row["price"]) for row in stored(monitor, "ticks")]
    assert found == [
        ("binance:binance:BTC-USD", "2026-07-27", 100),
        ("binance:binance:ETH-USD", "2026-07-27", 100),
        ("kraken:kraken:BTC-USD", "2026-07-26", 100),
        ("kraken:kraken:ETH-USD", "2026-07-26", 100),
        ("kraken:kraken:NEW-USD", "2026-07-27", 7),
    ]
    assert monitor.lake.written("ticks", ["a"]) == {"a"}


def test_a_table_without_partitions_is_replaced_whole(monitor, table_of, stored):
    for price in (1.0, 2.0):
        rows = [{"market_id": "kraken:kraken:BTC-USD", "price": price, "collected_at": NOON}]
        monitor.lake.replace("latest", table_of("latest", rows))
    assert [row["price"] for row in stored(monitor, "latest")] == [2]


def test_ids_survive_compaction_checkpoint_and_vacuum(monitor, ticks, stored):
    for number in range(4):
        monitor.lake.append("ticks", [Batch(f"{number}", ticks(NOON + number * MINUTE))])
    monitor.lake.compact("ticks")
    monitor.lake.open("ticks").create_checkpoint()
    monitor.lake.vacuum("ticks", timedelta(0))
    again = monitor.lake.append("ticks", [Batch(f"{n}", ticks(NOON + n * MINUTE)) for n in range(5)])
    assert again.ids == {"4"}
    assert len(stored(monitor, "ticks")) == 10


def test_ids_are_kept_as_long_as_they_matter_and_no_longer(local, ticks, monkeypatch):
    long_ago = time.time() - lake_module.IDS_KEPT.total_seconds() - 3600
    with monkeypatch.context() as then:
        then.setattr(lake_module.time, "time", lambda: long_ago)
        local.lake.append("ticks", [Batch("old", ticks())])
    local.lake.append("ticks", [Batch("new", ticks(NOON + MINUTE))])
    local.lake.open("ticks").create_checkpoint()
    assert local.lake.written("ticks", ["old", "new"]) == {"new"}
    again = local.lake.append("ticks", [Batch("old", ticks())], fresh(local.lake, "ticks"))
    assert again.rows == 0, "its rows are found by their keys"


def test_ids_survive_the_checkpoints_that_many_commits_bring(local, ticks):
    for number in range(62):
        local.lake.append("ticks", [Batch(f"{number}", ticks(NOON + number * MINUTE, ["BTC-USD"]))])
    log = Path(local.storage.root, "tables/ticks/_delta_log")
    assert list(log.glob("*.checkpoint.parquet"))
    for commit in log.glob("0000000000000000000*.json"):
        commit.unlink()
    assert local.lake.written("ticks", map(str, range(62))) == set(map(str, range(62)))


def test_a_reader_with_an_older_list_of_files_reads_on_while_they_are_joined(local, ticks):
    for number in range(6):
        local.lake.append("ticks", [Batch(f"{number}", ticks(NOON + number * MINUTE))])
    before = [file.path for file in local.lake.files("ticks")]
    assert len(before) == 6
    local.lake.compact("ticks")
    local.lake.vacuum("ticks")
    after = [file.path for file in local.lake.files("ticks")]
    assert len(after) == 1
    counts = [sum(pq.ParquetFile(path).metadata.num_rows for path in paths) for paths in (before, after)]
    assert counts == [12, 12]


def test_vacuum_deletes_what_no_version_within_the_grace_uses(monitor, ticks, stored):
    for number in range(3):
        monitor.lake.append("ticks", [Batch(f"{number}", ticks(NOON + number * MINUTE))])
    monitor.lake.compact("ticks")
    parquet = [one for one in monitor.storage.objects("tables/ticks") if one.key.endswith(".parquet")]
    assert monitor.lake.vacuum("ticks") == [] and len(parquet) == 4
    assert len(monitor.lake.vacuum("ticks", timedelta(0))) == 3
    assert len(stored(monitor, "ticks")) == 6


# ---- files


def test_files_are_those_of_the_days_asked_for(monitor, ticks):
    days = [NOON + timedelta(days=day) for day in range(4)]
    monitor.lake.append("ticks", [Batch(f"{day:%d}", ticks(day)) for day in days])
    named = [f"{day:%Y-%m-%d}" for day in days]

    def found(since=None, until=None):
        files = monitor.lake.files("ticks", since, until)
        assert all(file.path.startswith(monitor.lake.uri("ticks")) and file.rows == 2 for file in files)
        return sorted(file.partition["day"] for file in files)

    assert found() == named
    assert found(named[1], named[2]) == named[1:3]
    assert found(since=named[3]) == named[3:]
    assert found(until=named[0]) == named[:1]
    assert found(since="2027-01-01") == []


def test_keys_are_looked_for_only_in_files_that_may_hold_them(local, ticks, monkeypatch):
    for day in range(3):
        local.lake.append("ticks", [Batch(f"{day}", ticks(NOON + timedelta(days=day)))])
    local.lake.append("ticks", [Batch("other", ticks(source="binance"))])
    looked, plain = [], Lake._read_key
    monkeypatch.setattr(
        Lake, "_read_key", lambda self, name, path, key: looked.append(path) or plain(self, name, path, key)
    )
    table = local.lake.open("ticks")
    newer = ticks(NOON + timedelta(days=2, minutes=1))
    assert local.lake.missing("ticks", table, newer).num_rows == 2 and looked == []
    assert local.lake.missing("ticks", table, ticks(NOON + timedelta(days=1))).num_rows == 0
    assert len(looked) == 1 and "day=2026-07-28" in looked[0]


def test_of_the_same_key_twice_the_first_counts(local, ticks):
    table = local.lake._open_or_create("ticks")
    rows = pa.concat_tables([ticks(price=1.0), ticks(price=2.0)])
    assert local.lake.missing("ticks", table, rows)["price"].to_pylist() == [1, 1]
    assert local.lake.missing("ticks", table, rows.slice(0, 0)).num_rows == 0


# ---- what cannot be


def test_a_root_that_cannot_be_written_is_said_plainly(tmp_path, ticks):
    (tmp_path / "root").write_text("a file where a folder should be")
    lake = Lake(Storage(str(tmp_path / "root")))
    with pytest.raises(StorageError, match="Check the root"):
        lake.append("ticks", [Batch("a", ticks())])


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_said_plainly(s3, ticks):
    lake = Lake(Storage("s3://no-such-bucket/monitor", s3.endpoint_url))
    with pytest.raises(StorageError, match="no-such-bucket"):
        lake.append("ticks", [Batch("a", ticks())])


def test_a_damaged_log_is_said_plainly(local, ticks):
    local.lake.append("ticks", [Batch("a", ticks())])
    (log,) = Path(local.storage.root, "tables/ticks/_delta_log").glob("*1.json")
    log.write_text("{ not json")
    with pytest.raises(StorageError, match="tables/ticks"):
        local.lake.append("ticks", [Batch("b", ticks(NOON + MINUTE))])


def test_a_data_file_that_is_gone_is_said_plainly(local, candles):
    lake = local.lake
    lake.append("candles", [Batch("a", candles(0))])
    Path(lake.files("candles")[0].path).unlink()
    with pytest.raises(StorageError):
        lake.append("candles", [Batch("b", candles(0, 1))], fresh(lake, "candles"))


# ---- the table that a process keeps open for its next append


@pytest.fixture
def openings(monkeypatch):
    """Names of the tables that were opened, one for each opening."""
    found, plain = [], Lake.open
    monkeypatch.setattr(Lake, "open", lambda self, name: found.append(name) or plain(self, name))
    return found


def test_who_appends_alone_opens_the_table_once_between_two_checkpoints(monitor, ticks, openings, stored):
    often = 2 * int(lake_module._CONFIGURATION[lake_module._CHECKPOINT])
    for number in range(often if monitor.storage.is_s3 is False else 6):
        assert monitor.lake.written("ticks", [f"id-{number}"]) == set()
        monitor.lake.append("ticks", [Batch(f"id-{number}", ticks(NOON + number * MINUTE))])
        # a notebook has a monitor of its own, the process is the same
        monitor = open_monitor(
            "local", flags={"root": monitor.storage.root, "endpoint_url": monitor.storage.endpoint_url}
        )

    assert len(openings) <= 6
    assert len(stored(monitor, "ticks")) == 2 * (number + 1)
    assert monitor.lake.written("ticks", ["id-0", f"id-{number}", "id-x"]) == {"id-0", f"id-{number}"}


def test_what_others_wrote_meanwhile_is_seen_by_who_keeps_the_table_open(monitor, ticks, stored, monkeypatch):
    monitor.lake.append("ticks", [Batch("mine", ticks(markets=("A-USD",)))])
    kept = dict(lake_module._tables)
    monkeypatch.setattr(lake_module, "_tables", {})
    monitor.lake.append("ticks", [Batch("other", ticks(markets=("B-USD",)))])
    monkeypatch.setattr(lake_module, "_tables", kept)

    assert monitor.lake.written("ticks", ["mine", "other"]) == {"mine", "other"}
    assert monitor.lake.append("ticks", [Batch("other", ticks(markets=("B-USD",)))]).rows == 0
    assert len(stored(monitor, "ticks")) == 2


def test_a_table_that_was_removed_and_made_anew_is_opened_anew(monitor, ticks, stored, monkeypatch):
    monitor.lake.append("ticks", [Batch("old", ticks(markets=("A-USD",)))])
    kept = dict(lake_module._tables)
    for one in monitor.storage.objects("tables"):
        monitor.storage.delete(one.key)
    monkeypatch.setattr(lake_module, "_tables", {})
    time.sleep(1.1 if monitor.storage.is_s3 else 0)  # the time of an object is told in seconds there
    monitor.lake.append("ticks", [Batch("new", ticks(markets=("B-USD",)))])
    monkeypatch.setattr(lake_module, "_tables", kept)

    assert monitor.lake.written("ticks", ["old", "new"]) == {"new"}
    assert monitor.lake.append("ticks", [Batch("old", ticks(markets=("A-USD",)))]).rows == 1
    assert len(stored(monitor, "ticks")) == 2


def test_after_a_write_that_failed_the_table_is_opened_anew(local, ticks, openings, monkeypatch):
    local.lake.append("ticks", [Batch("a", ticks(markets=("A-USD",)))])
    plain = lake_module.write_deltalake

    def refused(*given, **named):
        raise OSError("No space left on device")

    monkeypatch.setattr(lake_module, "write_deltalake", refused)
    with pytest.raises(StorageError, match="No space left"):
        local.lake.append("ticks", [Batch("b", ticks(markets=("B-USD",)))])
    monkeypatch.setattr(lake_module, "write_deltalake", plain)
    before = len(openings)

    assert local.lake.append("ticks", [Batch("b", ticks(markets=("B-USD",)))]).rows == 1
    assert len(openings) == before + 1


def test_a_process_keeps_no_more_tables_open_than_it_needs(tmp_path, ticks, monkeypatch):
    monkeypatch.setattr(lake_module, "_tables", {})
    monkeypatch.setattr(lake_module, "_TABLES_KEPT", 3)
    for number in range(5):
        Lake(Storage(str(tmp_path / f"{number}"))).append("ticks", [Batch("a", ticks(markets=("A-USD",)))])

    assert [uri.split("/")[-3] for uri, _ in lake_module._tables] == ["2", "3", "4"]


def test_the_version_of_a_table_is_that_of_its_newest_commit_whoever_made_it(monitor, ticks):
    assert monitor.lake.version("ticks") == -1

    monitor.lake.append("ticks", [Batch("one", ticks(NOON))])
    first = monitor.lake.version("ticks")
    write_deltalake(monitor.lake.open("ticks"), ticks(NOON + MINUTE), mode="append")

    assert monitor.lake.version("ticks") == first + 1 == monitor.lake.open("ticks").version()
