"""Roll-ups: equal to the direct computation, each hour once and in order, late rows included, whoever is killed."""

import gzip
import json
import math
import os
import random
import statistics
from datetime import UTC, datetime, timedelta

import pytest
from test_flatten import kill_at

from cryptomon_lib import sql
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CommitConflict
from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.rollups import roll_up

BEGIN = datetime(2026, 7, 27, 20, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
MARKETS = ("kraken:kraken:BTC-USD", "kraken:kraken:ETH-USD", "binance:binance:SHIB-USDT")


def tick(market_id, at, seed):
    """One market at one moment, its numbers following from both."""
    chance = random.Random(f"{market_id}{at}{seed}")
    price = 6e4 * chance.lognormvariate(0, 1e-4)
    return {
        "market_id": market_id,
        "collected_at": at,
        "price": price,
        "bid": price * 0.999,
        "ask": price * 1.001,
        "volume_24h": chance.uniform(1e6, 1e7),
        "volume_today": (at - at.replace(hour=0, minute=0)).total_seconds() * 1.5,
    }


@pytest.fixture
def fill(table_of):
    """Writes ticks of minutes: `fill(monitor, first, count)`, those left out that `skip` is true for."""

    def filled(monitor, first, count, markets=MARKETS, skip=lambda at: False, seed=0):
        at = [first + index * MINUTE + timedelta(seconds=3.25) for index in range(count)]
        rows = [tick(market, moment, seed) for moment in at if not skip(moment) for market in markets]
        batch = Batch(f"{first}{count}{markets}{seed}", table_of("ticks", rows))
        return monitor.lake.append("ticks", [batch])

    return filled


def direct(monitor, until, hours):
    """{(market_id, measure, hour_at): aggregates} of the view, in plain Python."""
    rows = Engine(monitor, until).query("select market_id, measure, at, value from measures").to_pylist()
    found = {}
    for row in rows:
        at = row["at"].replace(tzinfo=UTC)
        if until - hours * HOUR <= at < until:
            hour = at.replace(minute=0, second=0, microsecond=0)
            found.setdefault((row["market_id"], row["measure"], hour), []).append((at, row["value"]))
    return {key: aggregates([value for _, value in sorted(values)]) for key, values in found.items()}


def aggregates(values):
    mean = statistics.fmean(values)
    return {
        "samples": len(values),
        "expected": 60,
        "mean": mean,
        "m2": math.fsum((value - mean) ** 2 for value in values),
        "min": min(values),
        "max": max(values),
        "first": values[0],
        "last": values[-1],
    }


def same_rows(rows, expected):
    """Whether stored rows are the expected aggregates, each once, within 1e-9."""
    found = {(row["market_id"], row["measure"], row["hour_at"]): row for row in rows}
    assert len(found) == len(rows) and found.keys() == expected.keys()
    for key, row in found.items():
        for name, value in expected[key].items():
            # squares of deviations are held against the mean's square, whose last digits they are made of
            size = expected[key]["mean"] ** 2 if name == "m2" else abs(value)
            assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-12 * size), (key, name)
    return True


def hours(rows):
    return sorted({row["hour_at"] for row in rows})


# ---- equal to the direct computation


def test_an_hour_is_the_direct_computation_over_it_with_holes(monitor, fill, stored):
    fill(
        monitor,
        BEGIN,
        250,
        skip=lambda at: at.minute % 7 == 3 or 21 * 60 < at.hour * 60 + at.minute < 21 * 60 + 50,
    )
    fill(monitor, BEGIN + HOUR, 2, markets=["kraken:kraken:RARE-USD"])
    done = roll_up(monitor, BEGIN + 4 * HOUR + 5 * MINUTE)
    assert (done.hours, done.dirty, done.until) == (4, 0, BEGIN + 4 * HOUR)
    rows = stored(monitor, "rollups_1h")
    assert same_rows(rows, direct(monitor, BEGIN + 4 * HOUR, 4))
    assert {row["measure"] for row in rows} >= {"price", "volume_1m", "volume_24h", "spread_bps"}
    # the day of the hour, across midnight
    assert {row["day"] for row in rows} == {"2026-07-27"}


def test_recorded_bars_with_their_hole_are_rolled_up_as_plain_python_computes_them(
    local, captures, table_of, stored
):
    begin, end = datetime(2021, 9, 29, 5, tzinfo=UTC), datetime(2021, 9, 29, 11, tzinfo=UTC)
    bars, candles, ticks = {}, [], []
    for path in sorted((captures / "history_1m").glob("*-1m.json.gz")):
        market = f"binance:binance:{path.name.partition('-')[0].replace('_', '-')}"
        for opened, _, high, low, close, volume in json.loads(gzip.decompress(path.read_bytes())):
            at = datetime.fromtimestamp(opened / 1000, UTC) + MINUTE
            if begin <= at < end:
                bars.setdefault((market, at.replace(minute=0)), []).append((close, volume))
                same = {"market_id": market, "collected_at": at}
                ticks.append(same | {"price": close, "bid": low, "ask": high})
                candles.append(same | {"interval_s": 60, "opened_at": at - MINUTE, "volume": volume})
    local.lake.append("ticks", [Batch("ticks", table_of("ticks", ticks))])
    local.lake.append("candles", [Batch("candles", table_of("candles", candles))])
    assert len({market for market, _ in bars}) == 18 and len(ticks) == 18 * 240
    roll_up(local, end + 5 * MINUTE)
    expected = {
        (market, measure, hour): aggregates(list(values))
        for (market, hour), rows in bars.items()
        for measure, values in zip(("price", "volume_1m"), zip(*rows, strict=True), strict=True)
    }
    # of the hole's two hours the first has one minute, the last bar before it, and the second none
    assert {hour.hour for _, _, hour in expected} == {5, 6, 7, 9, 10}
    found = [row for row in stored(local, "rollups_1h") if row["measure"] in ("price", "volume_1m")]
    assert same_rows(found, expected)
    assert sum(row["samples"] < row["expected"] for row in found) == 2 * 18 * 2


def test_candles_count_for_the_hour_that_they_end_in(local, table_of, stored):
    opened = [BEGIN + index * MINUTE for index in range(121)]
    rows = [
        {
            "market_id": MARKETS[0],
            "interval_s": 60,
            "opened_at": at,
            "volume": 1.0 + at.minute,
            "collected_at": at,
        }
        for at in opened
    ]
    local.lake.append("candles", [Batch("a", table_of("candles", rows))])
    roll_up(local, BEGIN + 3 * HOUR + 5 * MINUTE)
    kept = stored(local, "rollups_1h")
    assert [(row["hour_at"], row["samples"], row["first"], row["last"]) for row in kept] == [
        (BEGIN, 59, 1.0, 59.0),
        (BEGIN + HOUR, 60, 60.0, 59.0),
        (BEGIN + 2 * HOUR, 2, 60.0, 1.0),
    ]


def test_expected_is_one_a_cadence_and_one_a_minute_for_what_is_of_the_minute(local, open_at, fill, stored):
    slow = open_at(local.storage.root, cadence_s=300)
    fill(slow, BEGIN, 60)
    roll_up(slow, BEGIN + 2 * HOUR)
    expected = {row["measure"]: row["expected"] for row in stored(slow, "rollups_1h")}
    assert expected["price"] == 12 and expected["volume_1m"] == 60


# ---- when


def test_an_hour_is_rolled_up_when_it_is_closed_and_its_last_answers_had_time_to_arrive(local, fill, stored):
    fill(local, BEGIN, 60)
    assert roll_up(local, BEGIN + HOUR + 3 * MINUTE).hours == 0
    assert local.lake.open("rollups_1h") is None
    assert roll_up(local, BEGIN + HOUR + 4 * MINUTE).hours == 1
    again = roll_up(local, BEGIN + HOUR + 30 * MINUTE)
    assert (again.hours, again.commits) == (0, 0)
    assert hours(stored(local, "rollups_1h")) == [BEGIN]


def test_nothing_to_roll_up_is_no_error(local):
    done = roll_up(local, BEGIN)
    assert (done.hours, done.until) == (0, None)


def test_the_next_hour_is_one_commit_and_one_file_and_nothing_is_computed_twice(local, fill, stored):
    fill(local, BEGIN, 120)
    roll_up(local, BEGIN + HOUR + 5 * MINUTE)
    before = local.lake.open("rollups_1h").version()
    done = roll_up(local, BEGIN + 2 * HOUR + 5 * MINUTE)
    assert (done.hours, done.dirty, done.computed) == (1, 0, [BEGIN + HOUR])
    table = local.lake.open("rollups_1h")
    assert table.version() == before + 1 and len(table.file_uris()) == 2


def test_what_there_is_no_time_for_is_left_to_the_next_run(local, fill, stored, monkeypatch):
    fill(local, BEGIN, 300)  # across midnight: two commits
    now, clock = BEGIN + 5 * HOUR + 5 * MINUTE, iter(range(100))
    with monkeypatch.context() as slow:
        slow.setattr("cryptomon_lib.rollups.time.monotonic", lambda: next(clock))
        done = roll_up(local, now, seconds=2)
    assert (done.hours, done.left, done.until) == (4, 1, BEGIN + 4 * HOUR)
    # those of ticks come after: all five are left
    assert (done.ticks.hours, done.unfinished) == (0, 6)
    assert roll_up(local, now).computed == [BEGIN + 4 * HOUR]
    # hours of late rows are not left: they would be begun from the first one again
    fill(local, BEGIN, 300, markets=["kraken:kraken:LATE-USD"])
    done = roll_up(local, now, seconds=0)
    assert (done.hours, done.dirty, done.left) == (5, 5, 0)
    assert same_rows(stored(local, "rollups_1h"), direct(local, BEGIN + 5 * HOUR, 5))


def test_after_a_pause_of_a_year_only_hours_with_rows_are_computed(local, fill, stored):
    fill(local, BEGIN, 60)
    fill(local, BEGIN + timedelta(days=365), 60)
    done = roll_up(local, BEGIN + timedelta(days=366))
    # the hour after the last row too: a row reaches two minutes into what follows
    assert done.computed == [
        BEGIN + days + hour for days in (0 * HOUR, timedelta(days=365)) for hour in (0 * HOUR, HOUR)
    ]


# ---- late rows


def test_late_rows_make_their_hours_dirty_and_no_others(monitor, fill, stored):
    fill(monitor, BEGIN, 300)
    roll_up(monitor, BEGIN + 5 * HOUR + 5 * MINUTE)
    fill(monitor, BEGIN + HOUR + 10 * MINUTE, 5, markets=["kraken:kraken:LATE-USD"])
    fill(monitor, BEGIN - 30 * HOUR, 1)
    done = roll_up(monitor, BEGIN + 5 * HOUR + 10 * MINUTE)
    assert done.computed == [BEGIN - 30 * HOUR, BEGIN + HOUR] and done.dirty == 2
    assert not done.log_gone
    rows = stored(monitor, "rollups_1h")
    assert same_rows([row for row in rows if row["hour_at"] >= BEGIN], direct(monitor, BEGIN + 5 * HOUR, 5))
    assert roll_up(monitor, BEGIN + 5 * HOUR + 15 * MINUTE).hours == 0


def test_a_late_row_before_the_hour_dirties_the_hour_that_it_reaches_into(local, fill, stored):
    fill(local, BEGIN, 180, skip=lambda at: at.hour == 20 and at.minute == 59)
    roll_up(local, BEGIN + 3 * HOUR + 5 * MINUTE)
    # the counter's difference of the minute after it needs this one
    fill(local, BEGIN + 59 * MINUTE, 1)
    assert roll_up(local, BEGIN + 3 * HOUR + 6 * MINUTE).computed == [BEGIN, BEGIN + HOUR]
    assert same_rows(stored(local, "rollups_1h"), direct(local, BEGIN + 3 * HOUR, 3))


def test_rows_that_only_moved_to_another_file_make_nothing_dirty(local, fill):
    fill(local, BEGIN, 30)
    fill(local, BEGIN + 30 * MINUTE, 30)
    roll_up(local, BEGIN + HOUR + 5 * MINUTE)
    lake, table = local.lake, local.lake.open("ticks")
    actions = lake.actions(table).filter(
        [path.startswith("source=kraken") for path in lake.actions(table)["path"].to_pylist()]
    )
    joined = lake.write("ticks", {"source": "kraken", "day": "2026-07-27"}, [lake.read("ticks", actions)])
    lake.swap("ticks", table, [joined], actions["path"].to_pylist(), same_rows=True)
    assert roll_up(local, BEGIN + HOUR + 6 * MINUTE).hours == 0


def test_rows_that_were_taken_away_make_their_day_dirty(local, fill, stored, table_of):
    fill(local, BEGIN, 120)
    roll_up(local, BEGIN + 2 * HOUR + 5 * MINUTE)
    local.lake.replace(
        "ticks", table_of("ticks", [tick(MARKETS[0], BEGIN, 1)]), "source = 'kraken' and day = '2026-07-27'"
    )
    assert roll_up(local, BEGIN + 2 * HOUR + 6 * MINUTE).dirty == 22  # the day so far
    assert same_rows(stored(local, "rollups_1h"), direct(local, BEGIN + 2 * HOUR, 2))


def test_where_the_log_is_gone_what_was_written_since_is_computed_again(local, fill, stored):
    fill(local, BEGIN, 180)
    roll_up(local, BEGIN + 3 * HOUR + 5 * MINUTE)
    fill(local, BEGIN + HOUR, 1, markets=["kraken:kraken:LATE-USD"])
    local.lake.open("ticks").create_checkpoint()
    for one in local.storage.objects("tables/ticks/_delta_log"):
        if one.key.endswith(".json"):
            local.storage.delete(one.key)
    done = roll_up(local, BEGIN + 3 * HOUR + 6 * MINUTE)
    assert done.log_gone and BEGIN + HOUR in done.computed
    assert same_rows(stored(local, "rollups_1h"), direct(local, BEGIN + 3 * HOUR, 3))
    assert not roll_up(local, BEGIN + 3 * HOUR + 7 * MINUTE).log_gone


# ---- from raw again


def test_a_rebuild_computes_all_hours_anew(local, fill, stored):
    fill(local, BEGIN, 180)
    roll_up(local, BEGIN + 3 * HOUR + 5 * MINUTE)
    before = stored(local, "rollups_1h")
    table = local.lake.open("rollups_1h")
    spoiled = local.lake.read("rollups_1h", local.lake.actions(table)).slice(2)
    local.lake.replace("rollups_1h", spoiled)
    assert stored(local, "rollups_1h") != before
    done = roll_up(local, BEGIN + 3 * HOUR + 6 * MINUTE, rebuild=True)
    assert done.hours == 3 and stored(local, "rollups_1h") == before


def test_a_rebuild_since_a_moment_leaves_what_was_before(local, fill, stored):
    fill(local, BEGIN, 240)
    roll_up(local, BEGIN + 4 * HOUR + 5 * MINUTE)
    done = roll_up(local, BEGIN + 4 * HOUR + 6 * MINUTE, rebuild=True, since=BEGIN + 2 * HOUR + 10 * MINUTE)
    assert done.computed == [BEGIN + 2 * HOUR, BEGIN + 3 * HOUR]
    assert same_rows(stored(local, "rollups_1h"), direct(local, BEGIN + 4 * HOUR, 4))


def test_another_text_of_the_view_is_told_until_all_is_rebuilt(local, fill, monkeypatch):
    from cryptomon_lib import rollups

    fill(local, BEGIN, 60)
    roll_up(local, BEGIN + HOUR + 5 * MINUTE)
    monkeypatch.setattr(rollups, "_fingerprint", lambda kind: 7)
    fill(local, BEGIN + HOUR, 60)
    assert roll_up(local, BEGIN + 2 * HOUR + 5 * MINUTE).stale
    assert roll_up(local, BEGIN + 2 * HOUR + 5 * MINUTE, rebuild=True, since=BEGIN + HOUR).stale is False
    assert roll_up(local, BEGIN + 2 * HOUR + 6 * MINUTE).stale
    roll_up(local, BEGIN + 2 * HOUR + 7 * MINUTE, rebuild=True)
    assert not roll_up(local, BEGIN + 2 * HOUR + 8 * MINUTE).stale


# ---- ticks: the last of each hour and how many there were


SILENT = {"NOW": 0, "MINUTES": 7, "HALF": 35, "HOURS": 200, "DAY": 23 * 60 + 50, "GONE": 24 * 60 + 5}
NOON = datetime(2026, 7, 28, 12, 20, 30, tzinfo=UTC)


def write_silent_ones(monitor, table_of, name="a", every=1, silent=SILENT):
    """Writes 25 h of ticks until NOON of markets that fell silent so many minutes ago, with holes; gives the rows."""
    rows = [
        tick(f"kraken:kraken:{market}-USD", NOON - minute * MINUTE, 3)
        # what a market is said to be may change
        | {"kind": "spot" if minute < 300 else "future", "quote": "USD"}
        for market, minutes in silent.items()
        for minute in range(minutes, 25 * 60, every)
        if minute % 7 != 3 and not 420 < minute < 470
    ]
    monitor.lake.append("ticks", [Batch(name, table_of("ticks", rows))])
    return rows


def newest_of(rows, now):
    """{market_id: (newest row's time, price and kind, the first's time, their number)} of 24 h, in plain Python."""
    found = {}
    for row in sorted(rows, key=lambda row: row["collected_at"]):
        if now - 24 * HOUR < row["collected_at"] <= now:
            found.setdefault(row["market_id"], []).append(row)
    return {
        market: (
            own[-1]["collected_at"].replace(tzinfo=None),
            own[-1]["price"],
            own[-1]["kind"],
            own[0]["collected_at"].replace(tzinfo=None),
            len(own),
        )
        for market, own in found.items()
    }


def newest_in(monitor, now):
    text = "select market_id, collected_at, price, kind, first_at, samples, expected from newest_ticks"
    rows = Engine(monitor, now).query(text).to_pylist()
    found = {row.pop("market_id"): tuple(row.values()) for row in rows}
    assert len(found) == len(rows) and {row[-1] for row in found.values()} == {1440}
    return {market: row[:-1] for market, row in found.items()}


@pytest.mark.parametrize("hours", [0, 1, 5, 30], ids="all but the last {} h rolled up".format)
def test_the_newest_ticks_are_the_same_whatever_is_rolled_up(hours, local, table_of, stored):
    rows = write_silent_ones(local, table_of)
    assert newest_in(local, NOON) == newest_of(rows, NOON)
    done = roll_up(local, NOON - hours * HOUR)
    until = NOON.replace(minute=0, second=0) - hours * HOUR
    assert done.ticks.hours == max(0, 25 - hours)
    assert sorted({row["hour_at"] for row in stored(local, "ticks_1h")}) == [
        until - n * HOUR for n in range(25 - hours, 0, -1)
    ]
    markets = newest_in(local, NOON)
    assert markets == newest_of(rows, NOON) and len(markets) == len(SILENT) - 1
    # at the full hour, and as of a moment that lies before what is rolled up
    for now in (NOON.replace(minute=0, second=0), NOON - 2 * HOUR, NOON - 90 * MINUTE):
        assert newest_in(local, now) == newest_of(rows, now)


def test_late_ticks_are_counted_when_they_are_rolled_up(local, table_of, stored):
    rows = write_silent_ones(local, table_of)
    roll_up(local, NOON)
    rows += write_silent_ones(local, table_of, "late", 60, {"LATE": 90, "OTHER": 240})
    assert roll_up(local, NOON).ticks.dirty > 0
    assert newest_in(local, NOON) == newest_of(rows, NOON)
    kept = stored(local, "ticks_1h")
    assert len(kept) == len({(row["market_id"], row["hour_at"]) for row in kept})
    assert sum(row["samples"] for row in kept) == sum(
        row["collected_at"] < NOON.replace(minute=0, second=0) for row in rows
    )


@pytest.fixture(scope="module")
def both(table_of, tmp_path_factory):
    """Engines on the same ticks, late ones among them, with all that is closed rolled up and with nothing."""
    engines = []
    for name in ("rolled", "direct"):
        monitor = open_monitor("local", flags={"root": str(tmp_path_factory.mktemp(name))})
        write_silent_ones(monitor, table_of)
        write_silent_ones(monitor, table_of, "late", 60, {"LATE": 90, "OTHER": 240})
        engines.append(Engine(monitor, NOON))
    roll_up(engines[0].monitor, NOON)
    return engines


@pytest.mark.parametrize(
    "view", ["newest_ticks", "markets", "rank_24h", "movers", "spread", "freshness", "latest"]
)
def test_views_of_now_are_the_same_with_roll_ups_and_without(view, both):
    text = f"select * from {view} order by {', '.join(sql.views()[view].grain)}"
    rolled, direct = (engine.query(text) for engine in both)
    assert rolled.schema == direct.schema and rolled.num_rows == direct.num_rows > 0
    for column in rolled.column_names:
        for one, other in zip(rolled[column].to_pylist(), direct[column].to_pylist(), strict=True):
            assert one == other or one == pytest.approx(other, rel=1e-9), column


# ---- two at once, kill -9


def roll(flags, environ, now, point=None):
    """Roll up in a process of its own, killed at a point or not."""
    os.environ.update(environ)
    if point:
        kill_at(*point)
    roll_up(open_monitor("local", flags=flags), now)


def test_two_runs_at_once_roll_up_each_hour_once(local, fill, stored, start_process):
    # two days, so two commits
    fill(local, BEGIN + 3 * HOUR, 120)
    flags = {"root": local.storage.root}
    now = BEGIN + 5 * HOUR + 5 * MINUTE
    runs = [start_process(roll, flags, {}, now) for _ in range(2)]
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0]
    assert same_rows(stored(local, "rollups_1h"), direct(local, BEGIN + 5 * HOUR, 2))


POINTS = {
    "an hour computed, nothing written": ("cryptomon_lib.rollups", "_computed", "after", 3),
    "a file written, not committed": ("cryptomon_lib.lake:Lake", "swap", "before", 1),
    "the first day committed": ("cryptomon_lib.lake:Lake", "swap", "after", 1),
    "the second day's file written": ("cryptomon_lib.lake:Lake", "swap", "before", 2),
    "the late hours committed, the new one not": ("cryptomon_lib.lake:Lake", "swap", "after", 2),
}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_a_roll_up_that_is_killed_and_run_again_is_as_one_that_was_not(
    point, local, fill, stored, start_process
):
    flags = {"root": local.storage.root}
    # of three days: late rows for the first two, a new hour for the third
    fill(local, BEGIN - 24 * HOUR, 60)
    fill(local, BEGIN, 60)
    roll_up(local, BEGIN + HOUR + 5 * MINUTE)
    fill(local, BEGIN - 24 * HOUR, 60, markets=["kraken:kraken:LATE-USD"])
    fill(local, BEGIN, 60, markets=["kraken:kraken:LATE-USD"])
    fill(local, BEGIN + 24 * HOUR, 60)
    now = BEGIN + 25 * HOUR + 5 * MINUTE
    killed = start_process(roll, flags, {}, now, point)
    killed.join(60)
    assert killed.exitcode == -9
    roll_up(local, now)
    rows = stored(local, "rollups_1h")
    assert len(rows) == len({(row["market_id"], row["measure"], row["hour_at"]) for row in rows})
    for day in (-1, 0, 1):
        end = BEGIN + day * 24 * HOUR + HOUR
        assert same_rows([row for row in rows if row["hour_at"] == end - HOUR], direct(local, end, 1))


def test_who_is_overtaken_each_time_says_so(local, fill, monkeypatch):
    fill(local, BEGIN, 60)
    monkeypatch.setattr("cryptomon_lib.rollups._commit", _overtaken)
    with pytest.raises(CommitConflict, match="always"):
        roll_up(local, BEGIN + HOUR + 5 * MINUTE)


def _overtaken(*given):
    raise CommitConflict("always")
