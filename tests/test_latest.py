"""The table latest: the view once a tick, replaced whole, never older than it was, never empty to a reader."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from cryptomon_lib import metrics
from cryptomon_lib.compact import compact_tables
from cryptomon_lib.engine import Engine
from cryptomon_lib.engines import duckdb
from cryptomon_lib.errors import CommitConflict
from cryptomon_lib.lake import Batch, Lake
from cryptomon_lib.latest import keep_latest, shared_columns
from cryptomon_lib.tables import TABLES

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MARKETS = [f"kraken:kraken:C{number}-USD" for number in range(5)]


@pytest.fixture
def tick(table_of):
    """Writes one tick of all markets: `tick(monitor, at, price)`."""

    def ticked(monitor, at=NOON, price=100.0):
        rows = [
            {"market_id": market, "collected_at": at, "price": price, "bid": 99.0, "ask": 101.0}
            for market in MARKETS
        ]
        monitor.lake.append("ticks", [Batch(f"{at}", table_of("ticks", rows))])

    return ticked


def test_the_table_is_the_view_with_its_moment(monitor, tick, stored):
    tick(monitor)
    engine = Engine(monitor, NOON + MINUTE / 2)
    kept = keep_latest(engine)
    assert (kept.rows, kept.as_of) == (5, NOON + MINUTE / 2)
    view = engine.query(f"select {', '.join(shared_columns())} from latest order by market_id")
    rows = engine.query("select * from stored_latest order by market_id")
    assert rows.select(view.column_names).equals(view.cast(rows.select(view.column_names).schema))
    assert set(rows["as_of"].to_pylist()) == {(NOON + MINUTE / 2).replace(tzinfo=None)}
    assert {row["spread_bps"] for row in stored(monitor, "latest")} == {200.0}


def test_view_and_table_agree_on_their_columns():
    assert {*shared_columns(), "as_of"} == set(TABLES["latest"].column_names)


def test_each_tick_replaces_it_whole_and_leaves_one_file(local, tick, stored):
    for minute in range(3):
        at = NOON + minute * MINUTE
        tick(local, at, price=100.0 + minute)
        assert keep_latest(Engine(local, at)).rows == 5
    assert {row["price"] for row in stored(local, "latest")} == {102.0}
    assert len(local.lake.files("latest")) == 1


def test_an_earlier_moment_does_not_take_the_place_of_a_later_one(local, tick, stored):
    tick(local)
    tick(local, NOON + MINUTE, price=7.0)
    keep_latest(Engine(local, NOON + MINUTE))
    assert keep_latest(Engine(local, NOON)).rows == 0
    assert keep_latest(Engine(local, NOON + MINUTE)).rows == 0
    assert {row["price"] for row in stored(local, "latest")} == {7.0}


def test_where_no_market_ticked_the_last_that_is_known_stays(local, tick, stored):
    assert keep_latest(Engine(local, NOON)).rows == 0
    tick(local)
    keep_latest(Engine(local, NOON))
    assert keep_latest(Engine(local, NOON + timedelta(days=3))).rows == 0
    assert len(stored(local, "latest")) == 5


def test_a_table_of_older_columns_is_replaced(local, tick, stored):
    write_deltalake(local.lake.uri("latest"), pa.table({"market_id": ["gone"], "volume_of_old": [1.0]}))
    tick(local)
    assert keep_latest(Engine(local, NOON)).rows == 5
    assert [row["market_id"] for row in stored(local, "latest")] == MARKETS


def test_readers_never_see_it_empty_or_half(local, tick):
    tick(local)
    keep_latest(Engine(local, NOON))
    ended, seen = threading.Event(), []

    def read():
        lake = Lake(local.storage)
        while not ended.is_set():
            table = lake.open("latest")
            rows = lake.read("latest", lake.actions(table))
            seen.append((rows.num_rows, len(set(rows["as_of"].to_pylist()))))

    reader = threading.Thread(target=read)
    reader.start()
    for second in range(1, 9):
        keep_latest(Engine(local, NOON + timedelta(seconds=second)))
        compact_tables(local, NOON)
    ended.set()
    reader.join()
    assert set(seen) == {(5, 1)} and len(seen) > 10


def test_who_writes_first_wins_and_the_other_looks_again(local, tick, stored, monkeypatch):
    tick(local)
    keep_latest(Engine(local, NOON))
    plain, calls = Lake.swap, []

    def overtaken(self, *given, **named):
        calls.append(1)
        if len(calls) == 1:
            keep_latest(Engine(local, NOON + 2 * MINUTE))
        return plain(self, *given, **named)

    monkeypatch.setattr(Lake, "swap", overtaken)
    assert keep_latest(Engine(local, NOON + MINUTE)).rows == 0
    assert {row["as_of"] for row in stored(local, "latest")} == {NOON + 2 * MINUTE}
    assert len(stored(local, "latest")) == 5


def test_who_is_overtaken_each_time_says_so(local, tick, monkeypatch):
    tick(local)

    def never(self, *given, **named):
        raise CommitConflict("another came first")

    monkeypatch.setattr(Lake, "swap", never)
    with pytest.raises(CommitConflict, match="5 times"):
        keep_latest(Engine(local, NOON))


def test_many_ticks_leave_few_files_and_a_short_log(local, tick, monkeypatch):
    tick(local)
    said = {name: Engine(local, NOON).query(f"select * from {name}") for name in ("latest", "now_1h")}
    monkeypatch.setattr(
        Engine, "query", lambda self, text: said[text.split()[-1]].select(shared_columns(text.split()[-1]))
    )
    for second in range(45):
        keep_latest(Engine(local, NOON + timedelta(seconds=second)))
    folder = Path(local.storage.root, "tables/latest")
    assert len(list(folder.glob("_delta_log/*.checkpoint.parquet"))) == 45 // 10
    assert len(list(folder.glob("*.parquet"))) == 45
    compact_tables(local, NOON, vacuum_after=timedelta(0))
    assert len(list(folder.glob("*.parquet"))) == 1


# ---- now_1h, kept beside it and read in place of the view


@pytest.fixture
def hour(table_of):
    """Writes the ticks of 70 minutes until NOON, and a candle a minute of one market."""

    def written(monitor):
        ticks = [
            {
                "market_id": market,
                "collected_at": NOON - n * MINUTE,
                "price": 100.0 + n * 0.01,
                "bid": 9.0,
                "ask": 9.5,
            }
            for market in MARKETS
            for n in range(70)
        ]
        candles = [
            {
                "market_id": MARKETS[0],
                "interval_s": 60,
                "opened_at": NOON - n * MINUTE,
                "volume": 1.0 + n,
                "close": 1.0,
            }
            for n in range(1, 70)
        ]
        candles[0]["volume"] = 1e4
        monitor.lake.append("ticks", [Batch("ticks", table_of("ticks", ticks))])
        monitor.lake.append("candles", [Batch("candles", table_of("candles", candles))])

    return written


@pytest.fixture
def read(monkeypatch):
    """The tables that queries read, as they read them."""
    names, plain = [], duckdb._read

    def noted(seen, *given):
        names.append(seen.name)
        return plain(seen, *given)

    monkeypatch.setattr(duckdb, "_read", noted)
    return names


def asked(monitor, at, read=None, view="now_1h"):
    """What the view says at a moment; `read` has the tables that it was read from then."""
    if read is not None:
        read.clear()
    keys = "market_id, measure"
    return Engine(monitor, at).query(f"select * from {view} order by {keys}").to_pylist()


@pytest.mark.parametrize("view", ["now_1h", "spikes"])
def test_what_a_tick_kept_is_read_and_is_what_the_view_says(view, monitor, hour, read):
    hour(monitor)
    moments = [NOON, NOON + MINUTE / 2, NOON + 9 * MINUTE, NOON + 11 * MINUTE]
    computed = [asked(monitor, at, read, view) for at in moments]
    assert "ticks" in read
    keep_latest(Engine(monitor, NOON))
    assert [asked(monitor, at, read, view) for at in moments] == computed
    assert set(read) == {"now_1h"}
    # all that is of now, and what is older than ten minutes is not
    assert [len(rows) > 0 for rows in computed] == [True, True, True, False]


def test_latest_is_the_same_from_what_was_kept(local, hour, read):
    hour(local)
    text = "select * from latest order by market_id"
    computed = Engine(local, NOON).query(text)
    keep_latest(Engine(local, NOON))
    kept = Engine(local, NOON).query(text)
    assert "now_1h" in read and kept.equals(computed)
    assert kept["ratio_1h_volume_1m"][0].as_py() > 3


def test_a_row_that_comes_later_is_in_what_is_computed_then(monitor, hour, tick, read):
    hour(monitor)
    keep_latest(Engine(monitor, NOON))
    tick(monitor, NOON + MINUTE, price=7.0)
    prices = {row["value"] for row in asked(monitor, NOON + MINUTE, read) if row["measure"] == "price"}
    assert prices == {7.0} and "ticks" in read and "now_1h" not in read


@pytest.mark.parametrize(
    ("kept", "moment"),
    [
        pytest.param(NOON, NOON - MINUTE, id="an earlier moment"),
        pytest.param(NOON - 5 * MINUTE, NOON, id="rows lie between"),
        pytest.param(NOON - MINUTE / 2, NOON + MINUTE / 4, id="a row came of age"),
    ],
)
def test_of_another_moment_it_is_computed(kept, moment, local, hour, read):
    hour(local)
    computed = asked(local, moment)
    keep_latest(Engine(local, kept))
    assert asked(local, moment, read) == computed and "ticks" in read and "now_1h" not in read


def test_a_candle_that_had_not_ended_is_not_missed(local, hour, table_of, read):
    hour(local)
    row = {
        "market_id": MARKETS[0],
        "interval_s": 60,
        "opened_at": NOON - MINUTE / 2,
        "volume": 5e4,
        "close": 1.0,
    }
    local.lake.append("candles", [Batch("early", table_of("candles", [row]))])
    keep_latest(Engine(local, NOON))
    found = asked(local, NOON + MINUTE, read)
    assert {row["value"] for row in found if row["measure"] == "volume_1m"} == {5e4} and "candles" in read


# ---- who reads it


def test_metrics_latest_reads_the_table_while_it_is_of_now_and_else_the_view(local, tick):
    tick(local)
    keep_latest(Engine(local, NOON))
    tick(local, NOON + MINUTE, price=7.0)
    prices = {
        seconds: set(metrics.latest(Engine(local, NOON + timedelta(seconds=seconds)))["price"])
        for seconds in (-1, 0, 60, 120, 121)
    }
    # of the table until it is two ticks old; before its moment and after that, of the view
    assert prices == {-1: set(), 0: {100.0}, 60: {100.0}, 120: {100.0}, 121: {7.0}}
    assert list(metrics.latest(Engine(local, NOON)).columns) == shared_columns()
