"""SQL over the tables' files: as of a moment, values bound, nothing locked, on a folder and on S3."""

import shutil
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb as plain_duckdb
import fsspec.implementations.memory
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cryptomon_lib import connect, sql
from cryptomon_lib.engine import Engine
from cryptomon_lib.engines import duckdb, remote
from cryptomon_lib.errors import ConfigError, PayloadError, QueryError
from cryptomon_lib.lake import Batch, Lake
from cryptomon_lib.storage import Storage
from cryptomon_lib.tables import TABLES

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def ticks(table_of):
    def made(at=NOON, price=100.0, markets=("BTC-USD", "ETH-USD")):
        rows = [
            {"market_id": f"kraken:kraken:{one}", "collected_at": at, "price": price, "volume_24h": 5.0}
            for one in markets
        ]
        return table_of("ticks", rows)

    return made


def test_tables_and_views_are_read_and_times_are_naive_utc(monitor, ticks):
    at = NOON + timedelta(milliseconds=123)
    monitor.lake.append("ticks", [Batch("a", ticks(at))])
    engine = Engine(monitor, NOON + MINUTE)
    rows = engine.query("select market_id, collected_at, day, price from ticks order by market_id")
    assert rows.schema.field("collected_at").type == pa.timestamp("ms")
    assert rows.to_pylist()[0] == {
        "market_id": "kraken:kraken:BTC-USD",
        "collected_at": at.replace(tzinfo=None),
        "day": "2026-07-27",
        "price": 100,
    }
    assert [row["price"] for row in engine.query("select price from latest").to_pylist()] == [100, 100]


def test_every_query_looks_at_the_newest_commit(local, ticks):
    engine = Engine(local, NOON + timedelta(hours=1))
    counts = []
    for number in range(3):
        local.lake.append("ticks", [Batch(f"{number}", ticks(NOON + number * MINUTE))])
        counts.append(engine.query("select count(*) as n from ticks")["n"].to_pylist()[0])
    assert counts == [2, 4, 6]


def test_a_moment_is_what_the_views_take_for_now(local, ticks):
    for number in range(3):
        local.lake.append(
            "ticks", [Batch(f"{number}", ticks(NOON + number * MINUTE, price=float(number + 1)))]
        )
    for as_of, price in (("2026-07-27T12:00:30Z", 1), (NOON + MINUTE, 2), ("2026-07-27 14:05:00+02:00", 3)):
        found = Engine(local, as_of).query("select max(price) as price from latest").to_pylist()
        assert found == [{"price": price}], as_of
    assert Engine(local, NOON - MINUTE).query("select * from latest").num_rows == 0
    assert Engine(local, NOON + timedelta(hours=25)).query("select * from latest").num_rows == 0


def test_without_a_moment_the_clock_is_followed(local, ticks):
    engine = Engine(local)
    assert abs(engine.now - datetime.now(UTC)) < timedelta(seconds=5)
    local.lake.append("ticks", [Batch("a", ticks(datetime.now(UTC).replace(microsecond=0)))])
    assert engine.query("select * from latest").num_rows == 2


def test_a_moment_that_is_none_is_told(local):
    with pytest.raises(PayloadError, match="write it as"):
        Engine(local, "yesterday")


# ---- values and names


HOSTILE = ["x", "' or '1'='1", "'; drop view ticks; --", 'a"b', "\\", "币", "", "%s", ":market_id", "$1"]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_is_bound_and_never_part_of_the_text(value, local, ticks):
    local.lake.append("ticks", [Batch("a", ticks(markets=["BTC-USD", value or "-"]))])
    engine = Engine(local, NOON)
    text = "select market_id, :market_id as given from ticks where market_id = :market_id"
    wanted = f"kraken:kraken:{value or '-'}"
    assert engine.query(text, market_id=wanted).to_pylist() == [{"market_id": wanted, "given": wanted}]
    assert engine.query(text, market_id=value).num_rows == 0
    assert engine.query("select count(*) as n from ticks")["n"].to_pylist() == [2]


def test_values_of_every_kind_are_bound(local):
    engine = Engine(local, NOON)
    for value in (1, 1.5, True, "text", None, NOON.replace(tzinfo=None)):
        assert engine.query("select :v as v", v=value).to_pylist() == [{"v": value}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("select * from tikcs", "No table or view is called tikcs"),
        ("select * from read_csv('/etc/passwd')", "DuckDB refuses|No table"),
        ("select * from '/etc/passwd'", "No table or view|DuckDB refuses"),
        ("select * from information_schema.tables", "tables"),
        ("select nothing from ticks", "nothing"),
        ("selec 1", "Not Trino SQL|nothing but a query"),
        ("select 1; select 2", "One query at a time"),
        ("create table x as select 1", "nothing but a query"),
        ("drop table ticks", "nothing but a query"),
        ("copy ticks to '/tmp/x'", "Not Trino SQL|nothing but a query"),
        ("attach 'x.db'", "Not Trino SQL|nothing but a query"),
        ("select * from information_schema.ticks", "information_schema.ticks"),
        ("select :x as x", "No value for :x"),
        ("select cast('x' as double) as x", "DuckDB refuses"),
        ("", "One query at a time"),
    ],
)
def test_what_is_no_query_over_known_names_is_refused(text, says, local):
    with pytest.raises(QueryError, match=says):
        Engine(local, NOON).query(text)


def test_a_value_that_no_name_asks_for_is_told(local):
    with pytest.raises(QueryError, match="no :name of that"):
        Engine(local, NOON).query("select 1 as one", market_id="x")


def test_names_are_those_of_trino_in_upper_case_too(local, ticks):
    local.lake.append("ticks", [Batch("a", ticks())])
    engine = Engine(local, NOON)
    assert engine.query("SELECT Price FROM LATEST").num_rows == 2
    # a step may have the name of what it reads, and of a view that another view reads
    text = "with ticks as (select price from ticks), measures as (select 1 as one) select * from ticks, measures, now_1h"
    assert engine.query(text).num_rows == 2 * 1 * 4
    assert engine.query("with latest as (select price from ticks) select * from latest").num_rows == 2


def test_what_a_query_took_is_kept_thread_by_thread(local, ticks):
    local.lake.append("ticks", [Batch("a", ticks())])
    engine, elsewhere = Engine(local, NOON), []
    assert engine.last is None
    engine.query("select * from ticks")
    assert engine.last.rows == 2 and engine.last.seconds > 0 and engine.last.cost_usd is None
    thread = threading.Thread(target=lambda: elsewhere.append(engine.last))
    thread.start()
    thread.join()
    assert elsewhere == [None]


def test_an_engine_that_is_not_duckdb_is_refused_with_the_way_out(local, open_at):
    with pytest.raises(ConfigError, match="CRYPTOMON_ENGINE=duckdb"):
        Engine(open_at(local.storage.root, engine="athena"))


# ---- types


def test_whole_numbers_and_fractions_come_back_as_the_other_engines_give_them(local):
    text = (
        "select count(*) as n, sum(1) as total, cast(1 as integer) as small, 1e0 / 3 as third, "
        "cast(1.5 as decimal(4, 2)) as money, 'x' as name, true as yes"
    )
    found = Engine(local, NOON).query(text)
    assert [str(kind) for kind in found.schema.types] == [
        "int64", "int64", "int64", "double", "double", "string", "bool",
    ]  # fmt: skip


def test_a_name_with_a_quote_in_the_root_is_no_trouble(tmp_path, open_at, ticks):
    monitor = open_at(tmp_path / 'it\'s a "root" with spaces')
    monitor.lake.append("ticks", [Batch("a", ticks())])
    assert Engine(monitor, NOON).query("select * from ticks").num_rows == 2


# ---- files


def test_only_files_that_can_hold_rows_that_are_needed_are_read(local, ticks):
    for number in range(6):
        local.lake.append("ticks", [Batch(f"{number}", ticks(NOON - number * timedelta(hours=10)))])
    backend = duckdb.Backend(local)

    def count(text, now=NOON, **values):
        return [len(files) for table, files in backend.reads(text, values, now) if table == "ticks"]

    assert count("select * from ticks") == [6]
    # where nothing is rolled up, a day's
    assert count("select * from freshness") == [3]
    assert count("select * from ticks where collected_at > :since", since=NOON - timedelta(hours=11)) == [2]
    assert count("select * from ticks where collected_at > :since", now=NOON, since="?") == [6]
    assert count("select * from ticks where source = 'binance' or day = '2026-07-27'") == [6]
    assert count("select * from ticks where source = 'binance'") == [0]
    assert count("select * from ticks where day = '2026-07-27'") == [2]
    assert count("select * from freshness", now=NOON + timedelta(days=9)) == [0]
    assert backend.reads("select * from candles", {}, NOON) == [("candles", [])]


def test_readers_beside_a_writer_and_a_compaction_see_whole_commits_and_every_row_once(local, ticks):
    rounds, done, seen, wrong = 15, threading.Event(), [], []
    local.lake.append("ticks", [Batch("first", ticks(NOON - MINUTE))])

    def read():
        engine = Engine(local, NOON + timedelta(hours=1))
        while not done.is_set():
            text = "select count(*) as n, count(distinct row(market_id, collected_at)) as keys from ticks"
            (row,) = engine.query(text).to_pylist()
            seen.append(row["n"])
            if row["n"] != row["keys"] or row["n"] % 2:
                wrong.append(row)

    reader = threading.Thread(target=read)
    reader.start()
    lake = Lake(Storage(local.storage.root))
    for number in range(rounds):
        lake.append("ticks", [Batch(f"{number}", ticks(NOON + number * MINUTE))])
        if number % 4 == 3:
            lake.compact("ticks")
    done.set()
    reader.join()
    assert wrong == [] and len(seen) > 2 and seen == sorted(seen)


def test_files_that_vanish_between_the_look_and_the_reading_are_looked_for_again(monitor, ticks, monkeypatch):
    for number in range(3):
        monitor.lake.append("ticks", [Batch(f"{number}", ticks(NOON + number * MINUTE))])
    engine, plain, turns = Engine(monitor, NOON + timedelta(hours=1)), duckdb.Backend._statement, []

    def compacted_meanwhile(*given):
        text = plain(*given)
        if not turns:
            monitor.lake.compact("ticks")
            monitor.lake.vacuum("ticks", timedelta(0))
        turns.append(text)
        return text

    monkeypatch.setattr(duckdb.Backend, "_statement", compacted_meanwhile)
    assert engine.query("select count(*) as n from ticks")["n"].to_pylist() == [6]
    assert len(turns) == 2


@pytest.mark.s3
def test_on_s3_a_file_is_asked_for_once_however_often_it_is_queried(s3, open_at, ticks, monkeypatch):
    monitor = open_at(s3.root, s3.endpoint_url)
    for number in range(3):
        monitor.lake.append("ticks", [Batch(f"{number}", ticks(NOON + number * MINUTE))])
    asked, fs = Counter(), type(monitor.storage.fs)
    call = fs._call_s3

    async def counted(self, method, *given, **named):
        if str(named.get("Key", "")).endswith(".parquet"):
            asked[method] += 1
        return await call(self, method, *given, **named)

    monkeypatch.setattr(fs, "_call_s3", counted)
    engine = Engine(monitor, NOON + timedelta(hours=1))
    for text in ("select count(*) as n from ticks", "select market_id, price from ticks order by 1"):
        engine.query(text)
    # its size and its bytes
    assert asked == {"head_object": 3, "get_object": 3}
    monitor.lake.append("ticks", [Batch("new", ticks(NOON + 3 * MINUTE))])
    assert engine.query("select count(*) as n from ticks")["n"].to_pylist() == [8]
    assert asked == {"head_object": 4, "get_object": 4}


def test_of_a_large_file_the_end_is_kept_and_ranges_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_WHOLE_MAX", 1_000)
    monkeypatch.setattr(remote, "_END", 50_000)
    rows = pa.table({"n": range(200_000), "text": [f"{number * 7919:040}" for number in range(200_000)]})
    pq.write_table(rows, tmp_path / "big.parquet", row_group_size=20_000, compression="none")
    body, read = (tmp_path / "big.parquet").read_bytes(), []

    class Beneath(fsspec.implementations.memory.MemoryFileSystem):
        def cat_file(self, path, start=None, end=None, **named):
            read.append((start, end))
            return body[start:end]

        def info(self, path, **named):
            return {"name": path, "size": len(body), "type": "file", "LastModified": NOON}

    connection = plain_duckdb.connect()
    connection.register_filesystem(remote.ImmutableFiles(Beneath()))
    text = "select count(*), min(text), max(text) from read_parquet('s3://bucket/big.parquet') where n between 5000 and 5999"
    assert connection.execute(text).fetchone() == (1_000, f"{5000 * 7919:040}", f"{5999 * 7919:040}")
    assert read.count((len(body) - 50_000, len(body))) == 1
    assert sum(end - start for start, end in read) < len(body) / 2


def test_what_is_kept_of_files_is_bounded(monkeypatch):
    class Beneath(fsspec.implementations.memory.MemoryFileSystem):
        def cat_file(self, path, start=None, end=None, **named):
            return bytes(end - start)

        def info(self, path, **named):
            return {"name": path, "size": 1_000, "type": "file", "LastModified": NOON}

    files = remote.ImmutableFiles(Beneath(), kept_max=3_500)
    for number in range(10):
        assert files.open(f"s3://bucket/{number}").read() == bytes(1_000)
    assert list(files._kept) == ["bucket/7", "bucket/8", "bucket/9"]


def test_a_table_that_was_removed_and_made_anew_is_seen_as_it_is(local, ticks):
    engine, text = Engine(local, NOON + timedelta(hours=1)), "select price from ticks"
    assert engine.query(text).num_rows == 0
    for price in (1.0, 2.0):
        local.lake.append("ticks", [Batch("a", ticks(price=price, markets=["BTC-USD"]))])
        assert engine.query(text)["price"].to_pylist() == [price]
        shutil.rmtree(Path(local.lake.uri("ticks")))
        assert engine.query(text).num_rows == 0


def test_what_comes_is_followed_over_checkpoints_and_replaced_rows(local, ticks):
    engine, text = (
        Engine(local, NOON + timedelta(days=1)),
        "select count(*) as n, max(price) as top from ticks",
    )
    for number in range(4):
        local.lake.append("ticks", [Batch(f"{number}", ticks(NOON + number * MINUTE))])
        assert engine.query(text).to_pylist() == [{"n": 2 * number + 2, "top": 100}]
    table = local.lake.open("ticks")
    table.create_checkpoint()
    table.cleanup_metadata()
    assert engine.query(text).to_pylist() == [{"n": 8, "top": 100}]
    local.lake.replace("ticks", ticks(price=7.0))
    assert engine.query(text).to_pylist() == [{"n": 2, "top": 7}]


def test_an_engine_that_was_closed_opens_anew(local, ticks):
    local.lake.append("ticks", [Batch("a", ticks())])
    engine = Engine(local, NOON)
    assert engine.query("select * from ticks").num_rows == 2
    engine.close()
    engine.close()
    assert engine.query("select * from ticks").num_rows == 2


def test_a_file_that_is_gone_is_an_error_and_not_fewer_rows(local, ticks):
    local.lake.append("ticks", [Batch("a", ticks())])
    local.lake.append("ticks", [Batch("b", ticks(NOON + MINUTE))])
    Path(local.lake.files("ticks")[0].path).unlink()
    with pytest.raises(QueryError, match="DuckDB refuses"):
        Engine(local, NOON).query("select * from ticks")


# ---- for whoever uses DuckDB itself


def test_any_duckdb_client_sees_every_table_and_view_as_the_engine_gives_it(three_days, tmp_path):
    now, path = datetime(2026, 7, 27, 12, 0, 30, tzinfo=UTC), tmp_path / "monitor.duckdb"
    engine = Engine(three_days, now)
    duckdb.write_database(three_days, path, now)
    duckdb.write_database(three_days, path, now)
    opened = [connect(three_days, now), plain_duckdb.connect(str(path), read_only=True)]
    offered = {
        row[0]
        for row in opened[1]
        .execute("select view_name from duckdb_views() where schema_name = 'main'")
        .fetchall()
    }
    assert {sql.base_name(name, sql.views()) for name in TABLES} | set(sql.views()) <= offered
    for name in ("ticks", "stored_latest", "now_1h", "rank_24h", "volume_1m", "candles"):
        text = f"select count(*) as n, min(market_id) as low, max(market_id) as high from {name}"
        (expected,) = engine.query(text).to_pylist()
        for connection in opened:
            assert connection.execute(text).fetchall() == [tuple(expected.values())], name
    for connection in opened:
        connection.close()
    assert [one.name for one in tmp_path.iterdir()] == ["monitor.duckdb"]


def test_a_connection_reads_from_s3(s3, open_at, ticks):
    monitor = open_at(s3.root, s3.endpoint_url)
    monitor.lake.append("ticks", [Batch("a", ticks())])
    with connect(monitor, NOON) as connection:
        assert connection.execute("select price from newest_ticks").fetchall() == [(100.0,), (100.0,)]


def test_a_database_that_cannot_be_written_is_told(local, tmp_path):
    with pytest.raises(QueryError, match="Cannot write"):
        duckdb.write_database(local, tmp_path / "no" / "folder" / "x.duckdb")


def test_a_moment_that_names_no_zone_is_of_utc(local):
    assert Engine(local, NOON.replace(tzinfo=None)).now == NOON == Engine(local, "2026-07-27 12:00").now


def test_what_was_learnt_of_files_that_are_gone_is_forgotten_now_and_then(local, ticks, monkeypatch):
    monkeypatch.setattr(duckdb, "_GONE_MAX", 3)
    engine, counts, databases = Engine(local, NOON + timedelta(hours=1)), [], []
    for number in range(12):
        local.lake.append("ticks", [Batch(f"{number}", ticks(NOON + number * MINUTE))])
        # what was gone before stays gone: each compaction leaves one file
        local.lake.compact("ticks")
        with duckdb._shared(local).cursor() as open_all_the_while:
            counts.append(engine.query("select count(*) as n from ticks")["n"].to_pylist()[0])
            assert open_all_the_while.execute("select 1").fetchall() == [(1,)]
        databases.append(duckdb._shared(local).database)

    assert counts == [2 * number for number in range(1, 13)]
    # eleven files went
    assert len({id(one) for one in databases}) in (3, 4)
