"""A column that a later version added reads as null where it was not: tables that were written before, in every use."""

import dataclasses
import os
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cryptomon_lib import parquet, sql, tables
from cryptomon_lib.compact import compact_tables
from cryptomon_lib.engine import Engine
from cryptomon_lib.export import export_tables
from cryptomon_lib.holes import note_holes
from cryptomon_lib.lake import Batch
from cryptomon_lib.latest import keep_latest
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.rollups import roll_up
from cryptomon_lib.status import status_of

NOW = datetime(2026, 7, 27, 12, 0, 30, tzinfo=UTC)
# what the old version did not have yet: a number and a time, one in the middle and one before the partition column
NEWER = {"ticks": ("volume_today", "exchange_at"), "candles": ("trades",), "rollups_1h": ("last",)}
CACHED = (tables.schema,)


@pytest.fixture
def old_dictionary(monkeypatch):
    """The data dictionary as an older version had it; the callable that it gives brings today's back."""
    now = dict(tables.TABLES)

    def use(declared):
        for name, table in declared.items():
            monkeypatch.setitem(tables.TABLES, name, table)
        for cached in CACHED:
            cached.cache_clear()

    use(
        {
            name: dataclasses.replace(
                now[name], columns=tuple(one for one in now[name].columns if one.name not in newer)
            )
            for name, newer in NEWER.items()
        }
    )
    yield lambda: use(now)
    use(now)


def rows_of(name, at, market="BTC-USD", **more):
    """A row of ticks or candles as its version has it."""
    row = {
        "market_id": f"kraken:kraken:{market}", "source": "kraken", "exchange": "kraken", "symbol": market,
        "market": market, "base": "BTC", "quote": "USD", "kind": "spot", "collected_at": at,
        "price": 100.0 + at.minute, "bid": 99.0, "ask": 101.0, "volume_24h": 10.0, "day": f"{at:%Y-%m-%d}",
        "interval_s": 60, "opened_at": at.replace(second=0), "open": 1.0, "high": 2.0, "low": 1.0, "close": 1.0,
        "volume": 3.0, "origin": "live",
    } | more  # fmt: skip
    return pa.Table.from_pylist(
        [{column: row.get(column) for column in tables.schema(name).names}], schema=tables.schema(name)
    )


def fill(monitor, begin, end, step=timedelta(minutes=1), **more):
    """A commit a moment into ticks and candles, from begin to end."""
    at = begin
    while at < end:
        for name in ("ticks", "candles"):
            monitor.lake.append(name, [Batch(f"{name}{at}", rows_of(name, at, **more))])
        at += step


@pytest.fixture
def upgraded(local, old_dictionary):
    """Tables that the old version filled and compacted in part, opened by today's."""
    monitor = local
    day = NOW - timedelta(days=1)
    fill(monitor, day.replace(hour=3), day.replace(hour=3, minute=3))
    fill(monitor, NOW - timedelta(minutes=80), NOW - timedelta(minutes=60), timedelta(minutes=4))
    # today's views need what the old version did not have, so what its own rolled up is written as it was
    hour = {
        "market_id": "kraken:kraken:BTC-USD",
        "measure": "price",
        "hour_at": day.replace(hour=3, second=0),
    }
    numbers = {
        "samples": 3,
        "expected": 60,
        "mean": 101.0,
        "m2": 2.0,
        "min": 100.0,
        "max": 102.0,
        "first": 100.0,
    }
    kept = dict.fromkeys(tables.schema("rollups_1h").names) | hour | numbers | {"day": f"{day:%Y-%m-%d}"}
    rolled = pa.Table.from_pylist([kept], schema=tables.schema("rollups_1h"))
    monitor.lake.append("rollups_1h", [Batch("rolled", rolled)])
    compact_tables(monitor, NOW)
    fill(monitor, NOW - timedelta(minutes=20), NOW - timedelta(minutes=2), timedelta(minutes=3))
    old_dictionary()
    return monitor


def test_the_old_tables_lack_what_today_has(upgraded):
    for name, newer in NEWER.items():
        have = {field.name for field in upgraded.lake.open(name).schema().fields}
        assert not have & set(newer) and set(tables.schema(name).names) - have == set(newer)


def test_rows_that_are_read_back_have_null_there(upgraded):
    for name, newer in NEWER.items():
        table = upgraded.lake.open(name)
        rows = upgraded.lake.read(name, upgraded.lake.actions(table))

        assert rows.num_rows and rows.schema == tables.schema(name)
        assert all(rows[column].null_count == rows.num_rows for column in newer)


def test_every_view_can_be_asked_and_raw_columns_are_null(upgraded):
    engine = Engine(upgraded, NOW)

    for name in sql.views():
        engine.query(f"select * from {name}")
    found = engine.query(
        "select count(*) as rows, count(volume_today) as today, count(price) as priced from ticks"
    )
    assert found.to_pylist() == [
        {"rows": found["priced"][0].as_py(), "today": 0, "priced": found["priced"][0].as_py()}
    ]
    assert engine.query("select trades from candles where trades is null").num_rows > 0


def test_new_rows_come_beside_old_ones_and_both_are_read(upgraded):
    at = NOW - timedelta(minutes=1)
    fill(upgraded, at, NOW, volume_today=7.0, exchange_at=at, trades=5)

    found = Engine(upgraded, NOW).query(
        "select count(*) as rows, count(volume_today) as today, max(volume_today) as most from ticks"
    )
    row = found.to_pylist()[0]
    assert row["today"] == 1 and row["most"] == 7.0 and row["rows"] > 1
    assert set(upgraded.lake.columns("ticks")) == set(tables.schema("ticks").names)
    rows = upgraded.lake.read("candles", upgraded.lake.actions(upgraded.lake.open("candles")))
    assert pc.sum(rows["trades"]).as_py() == 5 and rows["trades"].null_count == rows.num_rows - 1


def test_what_is_polled_again_is_still_known_by_its_key(upgraded):
    lake, at = upgraded.lake, NOW - timedelta(minutes=5)
    again = rows_of("ticks", at, volume_today=1.0)

    written = lake.append(
        "ticks", [Batch("again", again)], fresh=lambda table, rows: lake.missing("ticks", table, rows)
    )

    assert written.rows == 0


def test_old_and_new_files_are_joined_into_one_that_has_all_columns(upgraded):
    fill(upgraded, NOW - timedelta(minutes=1), NOW, volume_today=7.0, trades=5)
    before = Engine(upgraded, NOW).query("select count(*) as rows from ticks")["rows"][0].as_py()

    roll_up(upgraded, NOW + timedelta(days=2))
    done = compact_tables(upgraded, NOW + timedelta(days=2))

    assert done.days >= 2
    files = upgraded.lake.files("ticks", "2026-07-27")
    assert len(files) == 1 and sum(one.rows for one in upgraded.lake.files("ticks")) == before
    with upgraded.storage.fs.open(files[0].path.removeprefix("s3://"), "rb") as file:
        read = pq.ParquetFile(file).read()
    assert read.schema.names == parquet.file_schema("ticks").names
    assert (
        pc.sum(read["volume_today"]).as_py() == 7.0 and read["volume_today"].null_count == read.num_rows - 1
    )


def test_latest_roll_ups_holes_status_and_the_plain_copy_go_on(upgraded):
    assert keep_latest(Engine(upgraded, NOW)).rows == 1
    assert roll_up(upgraded, NOW + timedelta(hours=1)).rows > 0
    note_holes(upgraded, NOW)
    assert status_of(upgraded, NOW).exit_code in (0, 8)
    export_tables(upgraded, ["ticks", "candles"])
    exported = [one.key for one in upgraded.storage.objects("exports") if one.key.endswith(".parquet")]
    assert len(exported) == 4
    for key in exported:
        with upgraded.storage.fs.open(upgraded.storage.path(key), "rb") as file:
            names = pq.ParquetFile(file).schema_arrow.names
        assert {"volume_today", "trades"} & set(names)


def append_today(root, endpoint_url, environ):
    """In a process of its own: a row as today's data dictionary has it."""
    os.environ.update(environ)
    monitor = open_monitor("local", flags={"root": root, "endpoint_url": endpoint_url})
    new = rows_of("ticks", NOW - timedelta(minutes=1), volume_today=7.0)
    assert monitor.lake.append("ticks", [Batch("new", new)]).rows == 1


@pytest.mark.s3
def test_on_s3_old_rows_are_read_with_null_and_a_table_is_widened(
    s3_apart, open_at, old_dictionary, start_process
):
    """delta-rs changes a table's columns without letting go of Python, so a server in the same process would hang it."""
    monitor = open_at(s3_apart.root, s3_apart.endpoint_url)
    monitor.lake.append("ticks", [Batch("old", rows_of("ticks", NOW - timedelta(minutes=2)))])
    old_dictionary()

    found = Engine(monitor, NOW).query("select price, volume_today from ticks")
    assert found["volume_today"].to_pylist() == [None] and found["price"][0].as_py() > 0

    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    widening = start_process(append_today, s3_apart.root, s3_apart.endpoint_url, keys)
    widening.join(60)
    hangs = widening.is_alive()
    widening.kill()
    assert not hangs and widening.exitcode == 0
    assert {field.name for field in monitor.lake.open("ticks").schema().fields} == set(
        tables.schema("ticks").names
    )
    found = Engine(monitor, NOW).query("select volume_today from ticks order by collected_at")
    assert found["volume_today"].to_pylist() == [None, 7.0]
