"""Compaction: every row once before, during and after it, whoever writes, reads, is late, or is killed."""

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from test_flatten import kill_at

from cryptomon_lib import compact
from cryptomon_lib.compact import compact_tables, joins
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import AccountingError, CommitConflict, ConfigError, StorageError
from cryptomon_lib.lake import Batch, Lake
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.rollups import roll_up

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
MARKETS = tuple(f"kraken:kraken:C{number}-USD" for number in (7, 3, 5, 1))


@pytest.fixture
def fill(table_of):
    """Writes a file for each of so many minutes: `fill(monitor, first, count)`."""

    def filled(monitor, first, count, markets=MARKETS):
        for index in range(count):
            at = first + index * MINUTE + timedelta(seconds=2.5)
            rows = [
                {"market_id": market, "collected_at": at, "price": at.minute + 0.1, "exchange_at": at}
                for market in markets
            ]
            monitor.lake.append("ticks", [Batch(f"{at}{markets}", table_of("ticks", rows))])

    return filled


def files(monitor, name="ticks"):
    """The names of the table's files, without what tells them apart, by partition and time."""
    actions = monitor.lake.actions(monitor.lake.open(name)).to_pylist()
    actions.sort(key=lambda one: (one["path"].rsplit("/", 1)[0], str(one["min.collected_at"])))
    return [one["path"].rsplit("/", 1)[1].partition("-")[0] for one in actions]


def file_rows(monitor, name="ticks"):
    """Each file's rows, in the order in which they are stored."""
    actions = monitor.lake.actions(monitor.lake.open(name))
    return [monitor.lake.read(name, actions.slice(index, 1)).to_pylist() for index in range(actions.num_rows)]


# ---- what becomes of the files


def test_the_minute_files_of_a_closed_hour_become_one_sorted_by_market_and_time(monitor, fill, stored):
    fill(monitor, NOON, 6)
    before = stored(monitor, "ticks")
    done = compact_tables(monitor, NOON + HOUR + 5 * MINUTE)
    assert (done.hours, done.days, done.files_before, done.files_after, done.rows) == (1, 0, 6, 1, 24)
    assert files(monitor) == ["hour"] and stored(monitor, "ticks") == before
    (rows,) = file_rows(monitor)
    assert [(row["market_id"], row["collected_at"]) for row in rows] == sorted(
        (row["market_id"], row["collected_at"]) for row in before
    )


def test_an_hour_that_is_not_closed_is_left_alone(local, fill):
    fill(local, NOON, 3)
    fill(local, NOON + HOUR, 3)
    assert compact_tables(local, NOON + HOUR + 3 * MINUTE).hours == 0
    assert compact_tables(local, NOON + HOUR + 5 * MINUTE).hours == 1
    assert files(local) == ["hour", "part", "part", "part"]
    assert compact_tables(local, NOON + HOUR + 50 * MINUTE).hours == 0


def test_a_closed_day_becomes_one_file_a_source(monitor, fill, stored):
    for source in ("kraken", "binance"):
        fill(monitor, NOON, 2, markets=[f"{source}:{source}:BTC-USD"])
        fill(monitor, NOON + 3 * HOUR, 2, markets=[f"{source}:{source}:BTC-USD"])
    fill(monitor, NOON + DAY, 1)
    before = stored(monitor, "ticks")
    done = compact_tables(monitor, NOON + DAY + 5 * MINUTE)
    assert (done.hours, done.days) == (0, 2)
    assert files(monitor) == ["day", "day", "part"]  # of binance, of kraken, and kraken's next day
    assert stored(monitor, "ticks") == before
    again = compact_tables(monitor, NOON + DAY + 10 * MINUTE)
    assert (again.hours, again.days) == (0, 0)


def test_a_day_s_hours_stay_while_the_last_of_them_is_asked_for_each_minute(local, fill):
    fill(local, NOON + 11 * HOUR, 3)
    assert compact_tables(local, NOON + 14 * HOUR - MINUTE).days == 0 and files(local) == ["hour"]
    assert compact_tables(local, NOON + 14 * HOUR).days == 1


def test_a_day_of_many_files_becomes_hours_first(local, fill, stored, monkeypatch):
    monkeypatch.setattr(compact, "_FILES", 4)
    fill(local, NOON, 3)
    fill(local, NOON + HOUR, 3)
    before = stored(local, "ticks")
    done = compact_tables(local, NOON + DAY)
    assert (done.hours, done.days, done.files_before) == (2, 1, 8)
    assert files(local) == ["day"] and stored(local, "ticks") == before


def test_one_market_s_read_of_a_closed_day_is_one_row_group(local, fill, monkeypatch):
    monkeypatch.setitem(compact._GROUP, "day", 10)
    monkeypatch.setattr(compact, "_BUCKET", 17)
    fill(local, NOON, 5)
    compact_tables(local, NOON + DAY)
    (file,) = local.lake.files("ticks")
    described = pq.ParquetFile(file.path).metadata
    groups = [described.row_group(index).column(0).statistics for index in range(described.num_row_groups)]
    assert [(one.min, one.max) for one in groups] == [
        ("kraken:kraken:C1-USD", "kraken:kraken:C3-USD"),
        ("kraken:kraken:C5-USD", "kraken:kraken:C5-USD"),
        ("kraken:kraken:C7-USD", "kraken:kraken:C7-USD"),
    ]


def test_a_large_day_is_sorted_by_market_in_stretches_of_time(local, fill, stored, monkeypatch):
    monkeypatch.setitem(compact._GROUP, "day", 8)
    # 7 hours before noon and 5 after, the first and the last minute of the day among them: 56 rows in 6 stretches
    moments = [NOON + hour * HOUR for hour in (-12, -11, -9, -8, -5, -4, -1, 0, 2, 4, 8)]
    for at in [*moments, NOON + DAY / 2 - MINUTE, NOON + 30 * MINUTE, NOON + 5 * HOUR]:
        fill(local, at, 1)
    before = stored(local, "ticks")
    assert compact_tables(local, NOON + DAY).days == 1
    (rows,) = file_rows(local)
    assert len(rows) == 56 and stored(local, "ticks") == before
    assert rows == sorted(
        rows, key=lambda row: (row["collected_at"].hour // 4, row["market_id"], row["collected_at"])
    )
    (file,) = local.lake.files("ticks")
    described = pq.ParquetFile(file.path)
    column = described.schema_arrow.names.index("collected_at")
    groups = map(described.metadata.row_group, range(described.num_row_groups))
    spans = [group.column(column).statistics for group in groups]
    assert len(spans) >= 6
    assert all(one.min.hour // 4 == one.max.hour // 4 for one in spans)


def test_the_log_says_of_a_joined_file_what_it_said_of_the_files_before(local, fill):
    fill(local, NOON, 3)
    lake = local.lake

    def bounds():
        actions = lake.actions(lake.open("ticks")).to_pylist()
        names = ("market_id", "collected_at", "exchange_at", "base")
        return {
            name: (min(one[f"min.{name}"] for one in actions), max(one[f"max.{name}"] for one in actions))
            for name in names
        } | {
            "nulls": sum(one["null_count.exchange_at"] for one in actions),
            "rows": sum(one["num_records"] for one in actions),
        }

    before = bounds()
    compact_tables(local, NOON + HOUR + 5 * MINUTE)
    assert bounds() == before and before["rows"] == 12
    assert lake.newest("ticks") == NOON + 2 * MINUTE + timedelta(seconds=2.5)


def test_rows_without_a_market_and_values_that_no_bound_can_say_are_joined_too(local, table_of, stored):
    odd = [
        {"market_id": None, "source": "kraken", "collected_at": NOON + index * MINUTE} for index in range(3)
    ]
    odd += [{"market_id": MARKETS[0], "collected_at": NOON, "price": float("inf")}]
    for index, row in enumerate(odd):
        rows = table_of(
            "ticks",
            [{"market_id": MARKETS[0]} | row if row["market_id"] else row | {"market_id": "kraken:kraken:X"}],
        )
        if row["market_id"] is None:
            rows = rows.set_column(0, "market_id", [[None]]).cast(rows.schema)
        local.lake.append("ticks", [Batch(f"{index}", rows)])
    assert compact_tables(local, NOON + HOUR + 5 * MINUTE).rows == 4
    (rows,) = file_rows(local)
    assert [row["market_id"] for row in rows] == [MARKETS[0], None, None, None]


def test_every_table_with_days_is_compacted_and_a_table_without_is_vacuumed(local, table_of):
    for index in range(3):
        at = NOON + index * MINUTE
        finding = {"check": f"c{index}", "subject": "x", "at": at, "severity": "info", "says": "it"}
        local.lake.append("findings", [Batch(f"{index}", table_of("findings", [finding]))])
        notice = {"notice_id": f"{index}", "state": "sent", "at": at, "alert_ids": ["a", f"{index}"]}
        local.lake.append("notices", [Batch(f"{index}", table_of("notices", [notice]))])
        local.lake.replace("latest", table_of("latest", [{"market_id": MARKETS[0], "collected_at": at}]))
    done = compact_tables(local, NOON + 2 * DAY, vacuum_after=timedelta(0))
    assert done.days == 2 and done.vacuumed == 6 + 2
    kept = local.lake.open("notices").to_pyarrow_table().to_pylist()
    assert sorted(row["alert_ids"][1] for row in kept) == ["0", "1", "2"]


def test_an_empty_root_is_no_error(local):
    assert compact_tables(local).files_before == 0


# ---- late rows, ids


def test_late_rows_are_joined_on_a_later_run(monitor, fill, stored):
    fill(monitor, NOON, 4)
    compact_tables(monitor, NOON + HOUR + 5 * MINUTE)
    fill(monitor, NOON + 1 * MINUTE, 1, markets=["kraken:kraken:LATE-USD"])
    assert compact_tables(monitor, NOON + HOUR + 10 * MINUTE).hours == 1
    assert files(monitor) == ["hour"]
    compact_tables(monitor, NOON + DAY)
    fill(monitor, NOON + 2 * MINUTE, 1, markets=["kraken:kraken:LATER-USD"])
    assert compact_tables(monitor, NOON + DAY).days == 1
    assert files(monitor) == ["day"] and len(stored(monitor, "ticks")) == 18


def test_what_was_written_once_is_not_written_again_after_compaction_and_vacuum(local, fill, stored):
    fill(local, NOON, 4)
    compact_tables(local, NOON + DAY, vacuum_after=timedelta(0))
    fill(local, NOON, 4)
    assert len(stored(local, "ticks")) == 16
    lake, table = local.lake, local.lake.open("ticks")
    rows = lake.read("ticks", lake.actions(table))
    assert lake.missing("ticks", table, rows).num_rows == 0


def test_compaction_is_no_news_to_the_roll_ups(local, fill):
    fill(local, NOON, 60)
    roll_up(local, NOON + HOUR + 5 * MINUTE)
    assert compact_tables(local, NOON + HOUR + 5 * MINUTE).hours == 1
    assert compact_tables(local, NOON + DAY).days == 3  # the two roll-ups' own days too
    assert roll_up(local, NOON + HOUR + 6 * MINUTE).hours == 0


# ---- beside readers and writers


def test_readers_see_every_row_once_while_files_are_joined_and_written(local, fill, stored, monkeypatch):
    monkeypatch.setattr(compact, "_FILES", 8)
    fill(local, NOON - HOUR, 12)
    ended, wrong, reads = threading.Event(), [], []

    def read():
        lake, connection = Lake(local.storage), duckdb.connect()
        seen = 0
        while not ended.is_set():
            paths = [file.path for file in lake.files("ticks")]
            text = "select count(*), count(distinct (market_id, collected_at)) from read_parquet($1)"
            rows, keys = connection.execute(text, [paths]).fetchone()
            reads.append(rows)
            if rows != keys or rows < seen:
                wrong.append((rows, keys, seen))
            seen = rows

    def write():
        fill(local, NOON, 25)
        ended.set()

    threads = [threading.Thread(target=work) for work in (read, write)]
    for thread in threads:
        thread.start()
    # as if the hour were over each time: what is joined here is written to at the same moment
    while not ended.is_set():
        compact_tables(local, NOON + HOUR + 5 * MINUTE)
    for thread in threads:
        thread.join()
    compact_tables(local, NOON + HOUR + 5 * MINUTE)
    assert wrong == [] and len(reads) > 3
    assert len(stored(local, "ticks")) == 4 * 37 and files(local) == ["hour", "hour"]


def test_a_query_that_began_before_reads_on_until_the_grace_is_over(local, fill):
    fill(local, NOON, 5)
    before = [file.path for file in local.lake.files("ticks")]
    compact_tables(local, NOON + DAY)
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in before) == 20
    compact_tables(local, NOON + DAY, vacuum_after=timedelta(0))
    assert not any(Path(path).exists() for path in before)


def test_a_query_of_the_engine_is_the_same_before_and_after(local, fill):
    fill(local, NOON, 40)
    engine = Engine(local, NOON + 40 * MINUTE)
    text = "select market_id, measure, at, value, average_1h from trailing_1h order by market_id, measure, at"
    before = engine.query(text)
    compact_tables(local, NOON + DAY)
    assert engine.query(text).equals(before) and before.num_rows >= 160


def test_an_append_that_came_first_makes_the_commit_look_again(local, fill, stored, monkeypatch):
    fill(local, NOON, 4)
    plain, calls = Lake.swap, []

    def overtaken(self, *given, **named):
        calls.append(1)
        if len(calls) == 1:
            fill(Monitorless(local), NOON + 2 * HOUR, 1)
        return plain(self, *given, **named)

    monkeypatch.setattr(Lake, "swap", overtaken)
    assert compact_tables(local, NOON + HOUR + 5 * MINUTE).hours == 1
    assert len(calls) == 2 and len(stored(local, "ticks")) == 20


class Monitorless:
    """A writer of its own on the same root."""

    def __init__(self, monitor):
        self.lake = Lake(monitor.storage)


def test_who_is_overtaken_each_time_says_so_and_nothing_is_lost(local, fill, stored, monkeypatch):
    fill(local, NOON, 4)

    def never(self, *given, **named):
        raise CommitConflict("another came first")

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "swap", never)
        with pytest.raises(CommitConflict, match="tries again"):
            compact_tables(local, NOON + HOUR + 5 * MINUTE)
    assert len(stored(local, "ticks")) == 16
    assert compact_tables(local, NOON + HOUR + 5 * MINUTE).hours == 1


def test_a_join_that_another_run_made_meanwhile_is_left_to_it(local, fill, stored, monkeypatch):
    fill(local, NOON, 4)
    plain, calls = Lake.write, []

    def slow(self, *given, **named):
        calls.append(1)
        if len(calls) == 1:
            compact_tables(local, NOON + HOUR + 5 * MINUTE)
        return plain(self, *given, **named)

    monkeypatch.setattr(Lake, "write", slow)
    done = compact_tables(local, NOON + HOUR + 5 * MINUTE)
    assert (done.hours, done.overtaken) == (0, 1)
    assert len(stored(local, "ticks")) == 16 and files(local) == ["hour"]
    parquet = [one for one in local.storage.objects("tables/ticks/source=kraken") if "hour-" in one.key]
    assert len(parquet) == 1, "the file that was not needed is gone"


def test_a_file_that_lacks_rows_is_not_committed(local, fill, stored, monkeypatch):
    fill(local, NOON, 4)
    plain = compact._Sorted.groups
    monkeypatch.setattr(compact._Sorted, "groups", lambda self: (rows.slice(1) for rows in plain(self)))
    with pytest.raises(AccountingError, match="16 rows, but 15 were written"):
        compact_tables(local, NOON + HOUR + 5 * MINUTE)
    monkeypatch.undo()
    assert files(local) == ["part"] * 4 and len(stored(local, "ticks")) == 16


def test_a_file_that_is_gone_is_said_plainly(local, fill):
    fill(local, NOON, 2)
    Path(local.lake.files("ticks")[0].path).unlink()
    with pytest.raises(StorageError, match="join 2 files of ticks"):
        compact_tables(local, NOON + HOUR + 5 * MINUTE)


# ---- kill -9, two at once


def run(flags, environ, now, point=None):
    """Compact in a process of its own, killed at a point or not."""
    os.environ.update(environ)
    if point:
        kill_at(*point)
    compact._FILES = 4
    compact_tables(open_monitor("local", flags=flags), now, vacuum_after=timedelta(0))


POINTS = {
    "an hour's file begun": ("cryptomon_lib.compact:_Sorted", "_rows", "after", 1),
    "an hour's file written, not committed": ("cryptomon_lib.lake:Lake", "swap", "before", 1),
    "an hour committed": ("cryptomon_lib.lake:Lake", "swap", "after", 1),
    "all hours committed, the day's file written": ("cryptomon_lib.lake:Lake", "swap", "before", 3),
    "the day committed, nothing vacuumed": ("cryptomon_lib.lake:Lake", "swap", "after", 3),
    "vacuum about to begin": ("cryptomon_lib.lake:Lake", "vacuum", "before", 1),
}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_a_compaction_that_is_killed_and_run_again_loses_and_doubles_nothing(
    point, local, fill, stored, start_process
):
    fill(local, NOON, 4)
    fill(local, NOON + HOUR, 4)
    before, flags = stored(local, "ticks"), {"root": local.storage.root}
    killed = start_process(run, flags, {}, NOON + DAY, point)
    killed.join(60)
    assert killed.exitcode == -9
    assert stored(local, "ticks") == before
    again = start_process(run, flags, {}, NOON + DAY)
    again.join(60)
    assert again.exitcode == 0
    assert stored(local, "ticks") == before and files(local) == ["day"]


@pytest.mark.s3
def test_a_compaction_on_s3_that_is_killed_and_run_again_loses_and_doubles_nothing(
    s3, open_at, fill, stored, start_process
):
    monitor = open_at(s3.root, s3.endpoint_url)
    fill(monitor, NOON, 3)
    before = stored(monitor, "ticks")
    flags = {"root": s3.root, "endpoint_url": s3.endpoint_url}
    environ = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    killed = start_process(run, flags, environ, NOON + DAY, ("cryptomon_lib.lake:Lake", "swap", "before", 1))
    killed.join(60)
    assert killed.exitcode == -9 and stored(monitor, "ticks") == before
    compact_tables(monitor, NOON + DAY)
    assert stored(monitor, "ticks") == before and files(monitor) == ["day"]


def test_two_compactions_at_once_lose_and_double_nothing(local, fill, stored, start_process):
    fill(local, NOON, 8)
    fill(local, NOON + HOUR, 8)
    before, flags = stored(local, "ticks"), {"root": local.storage.root}
    runs = [start_process(run, flags, {}, NOON + DAY) for _ in range(2)]
    for one in runs:
        one.join(60)
    # one may find its files deleted, the other's work done and vacuumed without grace: it says so and fails
    codes = [one.exitcode for one in runs]
    assert 0 in codes and set(codes) <= {0, 1}
    compact_tables(local, NOON + DAY)
    assert stored(local, "ticks") == before and files(local) == ["day"]


# ---- what stays beside the files


def test_a_file_that_a_killed_run_left_goes_after_the_grace_and_not_before(local, fill):
    fill(local, NOON, 2)
    actions = local.lake.actions(local.lake.open("ticks"))
    left = local.lake.write(
        "ticks", {"source": "kraken", "day": "2026-07-27"}, [local.lake.read("ticks", actions)], "day"
    )
    key = f"tables/ticks/{left.path}"
    compact_tables(local, NOON + DAY)
    assert local.storage.exists(key), "it may be about to be committed"
    old = datetime.now(UTC).timestamp() - 2 * 3600
    os.utime(local.storage.path(key), (old, old))
    fill(local, NOON + 2 * MINUTE, 1)
    compact_tables(local, NOON + DAY)
    assert not local.storage.exists(key)


def test_tables_of_an_older_version_are_configured_anew_once(local, fill):
    fill(local, NOON, 1)
    local.lake.open("ticks").alter.set_table_properties(
        {"delta.deletedFileRetentionDuration": "interval 1 hours"}
    )
    compact_tables(local, NOON)
    table = local.lake.open("ticks")
    assert table.metadata().configuration["delta.deletedFileRetentionDuration"] == "interval 6 hours"
    compact_tables(local, NOON)
    assert local.lake.open("ticks").version() == table.version()


def test_an_old_log_is_cut_by_the_next_checkpoint(local, fill, stored):
    log = Path(local.storage.root, "tables/ticks/_delta_log")
    fill(local, NOON, 30)
    local.lake.open("ticks").create_checkpoint()
    old = datetime.now(UTC).timestamp() - 3 * 24 * 3600
    for entry in log.iterdir():
        os.utime(entry, (old, old))
    fill(local, NOON + HOUR, 31)
    assert len(list(log.glob("*.json"))) < 40
    assert len(stored(local, "ticks")) == 4 * 61


def test_what_is_due_is_said_by_the_log_alone(local, fill):
    fill(local, NOON, 2)
    actions = local.lake.actions(local.lake.open("ticks"))
    assert [join.span for join in joins("ticks", actions, NOON + DAY, "day")] == ["day"]
    assert joins("ticks", actions, NOON + 30 * MINUTE, "hour") == []
    assert joins("ticks", actions.slice(0, 0), NOON + DAY, "day") == []


def test_what_the_tables_consist_of_is_told(local, fill):
    assert compact.describe_tables(local).empty
    fill(local, NOON, 3)
    told = compact.describe_tables(local).loc["ticks"]
    assert (told["files"], told["rows"], told["commits"]) == (3, 12, 3)
    assert told["newest"] == NOON + 2 * MINUTE + timedelta(seconds=2.5)


def test_joins_that_there_is_no_time_for_are_left_to_the_next_run(local, fill, stored):
    fill(local, NOON, 2)
    fill(local, NOON + HOUR, 2)
    done = compact_tables(local, NOON + 3 * HOUR, seconds=0)
    assert (done.hours, done.left) == (0, 2)
    assert compact_tables(local, NOON + 3 * HOUR).hours == 2 and len(stored(local, "ticks")) == 16


# ---- days whose time is up


def test_days_go_when_params_say_so_and_what_was_computed_of_them_stays(local, open_at, fill, stored):
    for day in range(3):
        fill(local, NOON + day * DAY, 2)
    now = NOON + 3 * DAY
    roll_up(local, now)
    before = stored(local, "rollups_1h")
    assert compact_tables(local, now).expired == 0
    kept = open_at(local.storage.root, retention={"tables_days": {"ticks": 2}})
    done = compact_tables(kept, now, vacuum_after=timedelta(0))
    assert done.expired == 1 and done.vacuumed > 0
    assert {row["day"] for row in stored(local, "ticks")} == {"2026-07-28", "2026-07-29"}
    assert roll_up(local, now).hours == 0 and stored(local, "rollups_1h") == before
    # nor is it undone by computing all that there is anew
    roll_up(local, now, rebuild=True)
    keys = [
        [(row["market_id"], row["measure"], row["hour_at"]) for row in rows]
        for rows in (stored(local, "rollups_1h"), before)
    ]
    assert keys[0] == keys[1]


def test_days_of_a_table_that_there_is_not_are_an_error_of_the_params(local, open_at, fill):
    fill(local, NOON, 1)
    odd = open_at(local.storage.root, retention={"tables_days": {"tickz": 2}})
    with pytest.raises(ConfigError, match="Did you mean ticks"):
        compact_tables(odd, NOON)
