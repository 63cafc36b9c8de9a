"""The metrics by worked examples: ranks, three times the average of the hour, holes, the minute's volume, names."""

from datetime import UTC, datetime, timedelta
from math import sqrt
from statistics import stdev

import pandas as pd
import pytest

from cryptomon_lib import metrics, sql
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import UnknownMarket
from cryptomon_lib.lake import Batch

NOW = datetime(2026, 7, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


@pytest.fixture
def keep(local, table_of):
    """Stores ticks or candles; gives an engine that looks at them at noon, or as of another moment."""
    kept = iter(range(1000))

    def store(table, rows, now=NOW):
        local.lake.append(table, [Batch(f"{next(kept)}", table_of(table, rows))])
        return Engine(local, now)

    return store


def ticks(named, values, column="price", until=NOW, step=MINUTE, **fixed):
    """A market's ticks of one column, the last value at `until`; None is a minute without a tick."""
    market = named if ":" in named else f"kraken:kraken:{named}"
    first = until - step * (len(values) - 1)
    return [
        {"market_id": market, "collected_at": first + step * index, column: value} | fixed
        for index, value in enumerate(values)
        if value is not None
    ]


def candles(market, volumes, until=NOW, **fixed):
    """A market's closed candles, the last one ending at `until`; None is a minute without one."""
    first = until - MINUTE * len(volumes)
    return [
        {
            "market_id": f"kraken:kraken:{market}",
            "interval_s": 60,
            "opened_at": first + MINUTE * index,
            "close": 1.0,
            "volume": volume,
            "collected_at": until,
            "origin": "live",
        }
        | fixed
        for index, volume in enumerate(volumes)
        if volume is not None
    ]


def swing(deviation, size=60, around=1000.0):
    """Values with exactly that sample standard deviation."""
    half = deviation * sqrt((size - 1) / size)
    return [around + half * (-1) ** index for index in range(size)]


def ranked(engine, measure="price"):
    rows = engine.query("select * from rank_24h where measure = :measure", measure=measure).to_pylist()
    return {row["market_id"].rpartition(":")[2]: row for row in rows}


# ---- rank_24h


def test_deviations_of_100_200_and_300_rank_3_2_and_1_of_3(keep):
    rows = [
        row
        for market, deviation in {"BNT-BTC": 100, "GOLD-BTC": 200, "CBC-ETH": 300}.items()
        for row in ticks(market, swing(deviation), "volume_24h")
    ]
    found = ranked(keep("ticks", rows), "volume_24h")
    assert {market: row["stddev_24h"] for market, row in found.items()} == pytest.approx(
        {"BNT-BTC": 100, "GOLD-BTC": 200, "CBC-ETH": 300}, rel=1e-12
    )
    assert {market: row["rank_24h"] for market, row in found.items()} == {
        "BNT-BTC": 3 / 3,
        "GOLD-BTC": 2 / 3,
        "CBC-ETH": 1 / 3,
    }
    # ETH alone, and two of BTC
    assert {market: row["rank_24h_in_quote"] for market, row in found.items()} == {
        "BNT-BTC": 2 / 2,
        "GOLD-BTC": 1 / 2,
        "CBC-ETH": 1 / 1,
    }
    assert found["CBC-ETH"]["cv_24h"] == pytest.approx(0.3, rel=1e-12)


def test_ties_share_the_better_rank(keep):
    values = {"A-USD": swing(7), "B-USD": swing(5), "C-USD": swing(5), "D-USD": swing(3)}
    rows = [row for market, series in values.items() for row in ticks(market, series)]
    assert {market: row["rank_24h"] for market, row in ranked(keep("ticks", rows)).items()} == {
        "A-USD": 1 / 4,
        "B-USD": 2 / 4,
        "C-USD": 2 / 4,
        "D-USD": 4 / 4,
    }


def test_a_market_that_does_not_move_has_the_last_rank_and_one_with_59_samples_has_none(keep):
    rows = [
        *ticks("A-USD", swing(1)),
        *ticks("STILL-USD", [5.0] * 60),
        *ticks("FEW-USD", swing(100, 59)),
    ]
    found = ranked(keep("ticks", rows))
    assert (found["A-USD"]["rank_24h"], found["STILL-USD"]["rank_24h"]) == (1 / 2, 2 / 2)
    assert found["STILL-USD"]["stddev_24h"] == 0
    few = found["FEW-USD"]
    assert (few["stddev_24h"], few["rank_24h"], few["rank_24h_in_quote"], few["cv_24h"]) == (None,) * 4
    assert (few["samples"], few["expected"]) == (59, 1440)


def test_only_spot_markets_are_ranked_and_only_the_last_24_hours_count(keep):
    rows = [
        *ticks("A-USD", swing(1)),
        *ticks("PERP-USD", swing(50), kind="perpetual"),
        *ticks("A-USD", [1e6, 1e7, 1e8], until=NOW - DAY),
    ]
    found = ranked(keep("ticks", rows))
    assert list(found) == ["A-USD"]
    assert found["A-USD"]["stddev_24h"] == pytest.approx(1, rel=1e-12) and found["A-USD"]["samples"] == 60


def test_a_market_of_unknown_quote_is_ranked_among_all_and_in_no_quote(keep):
    rows = [*ticks("A-USD", swing(1)), *ticks("ODD", swing(2), market=None, base=None, quote=None)]
    found = ranked(keep("ticks", rows))
    assert (found["ODD"]["rank_24h"], found["ODD"]["rank_24h_in_quote"]) == (1 / 2, None)
    assert found["A-USD"]["rank_24h_in_quote"] == 1


# ---- trailing_1h, now_1h and spikes


def spiking(engine):
    return {
        (row["market_id"].rpartition(":")[2], row["measure"])
        for row in engine.query("select * from spikes").to_pylist()
    }


def test_300_after_sixty_of_100_is_no_spike_and_a_hundredth_more_is_one(keep):
    rows = [*ticks("AT-USD", [100.0] * 60 + [300.0]), *ticks("OVER-USD", [100.0] * 60 + [300.01])]
    engine = keep("ticks", rows)
    assert spiking(engine) == {("OVER-USD", "price")}
    (row,) = engine.query(
        "select * from now_1h where measure = 'price' and market_id like '%AT-USD'"
    ).to_pylist()
    assert (row["value"], row["average_1h"], row["ratio_1h"], row["samples"]) == (300, 100, 3, 60)


def test_a_point_is_not_in_its_own_average(keep):
    engine = keep("ticks", ticks("A-USD", [float(value) for value in range(1, 62)]))
    row = metrics.series(engine, "kraken:kraken:A-USD", "price").iloc[-1]
    assert (row["value"], row["average_1h"], row["samples"]) == (61, 30.5, 60)
    assert row["ratio_1h"] == pytest.approx(2)


def test_the_hour_reaches_back_3600_seconds_and_no_further(keep):
    values = [1e6, *[100.0] * 60, 100.0]
    row = metrics.series(keep("ticks", ticks("A-USD", values)), "kraken:kraken:A-USD", "price").iloc[-1]
    assert (row["average_1h"], row["samples"], row["expected"]) == (100, 60, 60)


@pytest.mark.parametrize(("before", "average"), [(29, None), (30, 100.0)])
def test_an_average_of_fewer_than_30_samples_is_null(before, average, keep):
    engine = keep("ticks", ticks("A-USD", [100.0] * before + [1000.0]))
    price = "select average_1h, ratio_1h, samples from {} where measure = 'price' order by at desc limit 1"
    now = engine.query(price.format("now_1h")).to_pylist()
    trailing = engine.query(price.format("trailing_1h")).to_pylist()
    ratio = 1000 / average if average else None
    assert now == trailing == [{"average_1h": average, "ratio_1h": ratio, "samples": before}]
    assert spiking(engine) == ({("A-USD", "price")} if average else set())


def test_a_hole_is_not_bridged_by_what_came_before_it(keep):
    # an hour at 1, two hours of nothing, 40 minutes at 100
    engine = keep("ticks", ticks("A-USD", [1.0] * 60 + [None] * 120 + [100.0] * 40))
    found = metrics.series(engine, "kraken:kraken:A-USD", "price")
    assert len(found) == 100
    first, last = found.iloc[60], found.iloc[-1]
    assert first["samples"] == 0 and pd.isna(first["average_1h"]) and pd.isna(first["ratio_1h"])
    assert (last["samples"], last["average_1h"]) == (39, 100)
    short = found.iloc[80]
    assert short["samples"] == 20 and pd.isna(short["average_1h"])


def test_a_hole_that_ends_within_the_hour_counts_as_missing_samples(keep):
    # ROWS would take the 60 rows before; the hour holds 20 of them
    engine = keep("ticks", ticks("A-USD", [1.0] * 100 + [None] * 20 + [7.0] * 40))
    row = metrics.series(engine, "kraken:kraken:A-USD", "price").iloc[-1]
    assert row["samples"] == 40 and row["average_1h"] == pytest.approx((1 + 39 * 7) / 40)


def test_the_average_is_of_one_market_and_one_measure(keep):
    rows = [
        *ticks("A-USD", [100.0] * 61, volume_24h=1.0),
        *ticks("B-USD", [5000.0] * 61, volume_24h=900.0),
    ]
    found = keep("ticks", rows).query("select * from now_1h").to_pylist()
    # a price that stands still has moves of 0, and no ratio to them
    moves = [row for row in found if row["measure"] == "move_1m_bps"]
    rest = [row for row in found if row["measure"] != "move_1m_bps"]
    assert [row["ratio_1h"] for row in moves] == [None, None]
    assert len(rest) == 4 and {row["ratio_1h"] for row in rest} == {1.0}


def test_an_average_of_zero_gives_no_ratio(keep):
    engine = keep("ticks", ticks("A-USD", [0.0] * 60 + [5.0], "volume_24h"))
    (row,) = engine.query("select value, average_1h, ratio_1h from now_1h").to_pylist()
    assert row == {"value": 5.0, "average_1h": 0.0, "ratio_1h": None}
    assert spiking(engine) == set()


def test_a_value_older_than_ten_minutes_is_not_of_now(keep):
    engine = keep("ticks", ticks("A-USD", [100.0] * 61 + [999.0], until=NOW - 10 * MINUTE))
    assert engine.query("select * from now_1h").num_rows == 0
    assert len(metrics.series(engine, "kraken:kraken:A-USD", "price")) == 62


def test_now_1h_is_the_newest_row_of_trailing_1h(keep):
    rows = [
        row
        for index, market in enumerate(("A-USD", "B-USD", "C-USD"), 1)
        for row in ticks(
            market,
            [None if minute % (7 * index) == 3 else 50.0 + minute * index % 23 for minute in range(90)],
            until=NOW - index * MINUTE,
            volume_24h=5.0 * index,
            bid=1.0,
            ask=1.0 + index,
        )
    ]
    engine = keep("ticks", rows)
    newest = (
        "select t.* from trailing_1h t join (select market_id, measure, max(at) as at from trailing_1h "
        "group by market_id, measure) n on t.market_id = n.market_id and t.measure = n.measure and t.at = n.at "
        "order by t.market_id, t.measure"
    )
    found = engine.query("select * from now_1h order by market_id, measure").to_pandas()
    expected = engine.query(newest).to_pandas()
    pd.testing.assert_frame_equal(found[list(expected)], expected, rtol=1e-12)
    assert len(found) == 12


# ---- measures


def test_what_is_absent_is_no_row_of_a_measure(keep):
    engine = keep(
        "ticks",
        [
            *ticks("A-USD", [None, 5.0], bid=99.0, ask=101.0),
            *ticks("B-USD", [7.0], "volume_24h", bid=1.0),
        ],
    )
    found = engine.query("select market_id, measure, value from measures order by 1, 2").to_pylist()
    assert [(row["market_id"][-5:], row["measure"], row["value"]) for row in found] == [
        ("A-USD", "price", 5),
        ("A-USD", "spread_bps", pytest.approx(200)),
        ("B-USD", "volume_24h", 7),
    ]
    assert metrics.measures(engine) == ["price", "spread_bps", "volume_24h"]


def test_what_lies_ahead_of_the_moment_is_not_seen(keep):
    rows = [*ticks("A-USD", [1.0] * 61), *ticks("A-USD", [999.0, 999.0], until=NOW + 2 * MINUTE)]
    keep("candles", candles("A-USD", [3.0, 4.0], until=NOW + MINUTE))
    engine = keep("ticks", rows, NOW + timedelta(milliseconds=500))
    late = engine.query("select market_id, at from measures where at > timestamp '2026-07-27 12:00:00.500'")
    assert late.num_rows == 0
    assert engine.query("select max(value) as top from measures").to_pylist() == [{"top": 3.0}]


# ---- volume_1m


def volumes(engine):
    rows = engine.query("select at, volume, origin from volume_1m order by at").to_pylist()
    return [(f"{row['at']:%H:%M:%S}", row["volume"], row["origin"]) for row in rows]


def test_the_minute_s_volume_is_that_of_its_candle(keep):
    engine = keep("candles", candles("A-USD", [5.0, 0.0, None, 7.5]))
    assert volumes(engine) == [
        ("11:57:00", 5, "candle"),
        ("11:58:00", 0, "candle"),
        ("12:00:00", 7.5, "candle"),
    ]


def test_candles_of_other_intervals_are_not_the_minute_s_volume(keep):
    assert volumes(keep("candles", candles("A-USD", [5.0], interval_s=300))) == []


def test_without_a_candle_it_is_the_difference_of_the_counter(keep):
    counter = [10.0, 12.5, 12.5, 20.0]
    engine = keep(
        "ticks", ticks("A-USD", counter, "volume_today", until=NOW + timedelta(seconds=3)), NOW + MINUTE
    )
    assert volumes(engine) == [
        ("11:58:03", 2.5, "counter"),
        ("11:59:03", 0, "counter"),
        ("12:00:03", 7.5, "counter"),
    ]


def test_a_candle_goes_before_the_counter_minute_by_minute(keep):
    late = NOW + timedelta(seconds=2)
    keep("candles", candles("A-USD", [100.0, None, 300.0]))
    engine = keep(
        "ticks",
        [
            *ticks("A-USD", [0.0, 1.0, 2.0, 3.0], "volume_today", until=late),
            *ticks("B-USD", [0.0, 9.0], "volume_today", until=late),
        ],
        late,
    )
    assert sorted(volumes(engine), key=lambda row: (row[0], row[1])) == [
        ("11:58:00", 100, "candle"),
        ("11:59:02", 1, "counter"),
        ("12:00:00", 300, "candle"),
        ("12:00:02", 9, "counter"),
    ]


def test_over_midnight_the_counter_says_nothing(keep):
    midnight = datetime(2026, 7, 27, 0, 1, tzinfo=UTC)
    engine = keep("ticks", ticks("A-USD", [900.0, 901.0, 0.5, 2.0], "volume_today", until=midnight), midnight)
    assert volumes(engine) == [("23:59:00", 1, "counter"), ("00:01:00", 1.5, "counter")]


def test_a_counter_that_is_higher_after_midnight_says_nothing_of_the_minute_between(keep):
    midnight = datetime(2026, 7, 27, 0, 0, tzinfo=UTC)
    engine = keep("ticks", ticks("A-USD", [3.0, 50.0], "volume_today", until=midnight), midnight)
    assert volumes(engine) == []


def test_a_counter_that_fell_says_nothing_and_then_goes_on(keep):
    engine = keep("ticks", ticks("A-USD", [10.0, 12.0, 11.0, 14.0], "volume_today"))
    assert volumes(engine) == [("11:58:00", 2, "counter"), ("12:00:00", 3, "counter")]


@pytest.mark.parametrize(("seconds", "seen"), [(29, False), (30, True), (60, True), (90, True), (91, False)])
def test_the_difference_of_polls_is_the_minute_s_only_where_they_are_about_a_minute_apart(
    seconds, seen, keep
):
    rows = ticks("A-USD", [1.0, 4.0], "volume_today", step=timedelta(seconds=seconds))
    assert bool(volumes(keep("ticks", rows))) is seen


def test_rolling_24_h_volumes_are_never_made_into_a_minute_s_volume(keep):
    assert volumes(keep("ticks", ticks("A-USD", [10.0, 20.0, 30.0], "volume_24h"))) == []


def test_a_burst_of_the_minute_s_volume_is_a_spike_where_the_rolling_sum_shows_none(keep):
    keep("candles", candles("A-USD", [10.0] * 60 + [1000.0]))
    rolling = [14_400.0] * 60 + [15_390.0]
    assert spiking(keep("ticks", ticks("A-USD", rolling, "volume_24h"))) == {("A-USD", "volume_1m")}


# ---- move_1m


def moves(engine):
    rows = engine.query("select at, move_bps from move_1m order by at").to_pylist()
    return [(f"{row['at']:%H:%M:%S}", row["move_bps"]) for row in rows]


def test_a_move_is_how_far_the_price_came_within_the_minute_up_or_down(keep):
    engine = keep("ticks", ticks("A-USD", [100.0, 101.0, 100.495, None, 200.0]))
    found = moves(engine)
    # over the missing minute there is none
    assert [at for at, _ in found] == ["11:57:00", "11:58:00"]
    assert [move for _, move in found] == pytest.approx([100, 50])


# ---- latest, market_summaries, completeness, freshness


def test_latest_is_each_market_s_newest_tick_of_24_hours(keep):
    rows = [
        *ticks("A-USD", [1.0, 2.0, 3.0]),
        *ticks("GONE-USD", [9.0], until=NOW - DAY),
        *ticks("OLD-USD", [8.0], until=NOW - DAY + MINUTE),
        *ticks("NONE-USD", [1.0], "volume_24h"),
    ]
    found = metrics.latest(keep("ticks", rows)).set_index("symbol")
    assert found["price"].to_dict() == {
        "A-USD": 3,
        "NONE-USD": pytest.approx(float("nan"), nan_ok=True),
        "OLD-USD": 8,
    }


def test_market_summaries_are_the_ticks_row_for_row_under_the_old_names(keep):
    row = {
        "high_24h": 3.0,
        "low_24h": 1.0,
        "change_24h_pct": 50.0,
        "change_24h": 1.0,
        "volume_24h": 7.0,
        "quote_volume_24h": 14.0,
    }
    engine = keep("ticks", ticks("cryptowatch:bitfinex:btcusd", [2.0], **row, base="BTC", quote="USD"))
    (found,) = engine.query("select * from market_summaries").to_pylist()
    assert found == {
        "price_last": 2,
        "price_high": 3,
        "price_low": 1,
        "price_change_percentage": 50,
        "price_change_absolute": 1,
        "volume": 7,
        "volumequote": 14,
        "market": "bitfinex",
        "asset": "btcusd",
        "created_at": NOW.replace(tzinfo=None),
        "source": "cryptowatch",
        "day": "2026-07-27",
    }


def test_completeness_counts_minutes_and_freshness_seconds(keep):
    rows = [
        *ticks("A-USD", [1.0] * 10 + [None] * 5 + [1.0] * 5, until=NOW - timedelta(seconds=90)),
        *ticks("B-USD", [1.0] * 3, until=NOW - timedelta(seconds=90)),
    ]
    engine = keep("ticks", rows)
    (complete,) = engine.query("select source, samples, expected, share from completeness").to_pylist()
    assert complete == {
        "source": "kraken",
        "samples": 15,
        "expected": 1440,
        "share": pytest.approx(15 / 1440),
    }
    (fresh,) = engine.query("select source, age_s from freshness").to_pylist()
    assert fresh == {"source": "kraken", "age_s": 90}


def test_a_source_that_fell_silent_is_as_old_as_its_last_tick_of_the_day(keep):
    silent = {"ticking": 590, "edge": 600, "silent": 3 * 3600, "yesterday": 86399, "gone": 86400}
    rows = [
        {
            "market_id": f"{source}:{source}:{name}-USD",
            "collected_at": NOW - timedelta(seconds=age),
            "price": 1.0,
        }
        for source, age in silent.items()
        for name in ("A", "B")
    ]
    # an earlier one of each
    rows += [row | {"collected_at": row["collected_at"] - timedelta(minutes=1)} for row in rows]
    found = keep("ticks", rows).query("select source, age_s from freshness").to_pylist()
    # what is older than 24 h is not there
    assert {row["source"]: row["age_s"] for row in found} == {
        source: age for source, age in silent.items() if source != "gone"
    }


# ---- the questions


def test_the_views_are_described_in_the_order_that_they_need_each_other():
    found = metrics.describe_views()
    assert list(found.index) == list(sql.views()) and found["says"].str.endswith(".").all()


def test_no_view_doubles_its_key(keep):
    keep("candles", candles("A-USD", [1.0] * 61))
    rows = [
        row
        for market in ("A-USD", "binance:binance:A-USD", "cryptowatch:kraken:A-USD")
        # a day ago as well: a mover has moved since
        for until, values in ((NOW - DAY, [1.0]), (NOW, swing(2, 62)))
        for row in ticks(market, values, until=until, volume_24h=3.0, volume_today=1.0, bid=1.0, ask=2.0)
    ]
    found = metrics.check_views(keep("ticks", rows))
    assert found["doubled"].eq(0).all() and list(found.index) == list(sql.views())
    # an hour is too short for these
    assert found.index[found["rows"] == 0].isin(["spikes", "gaps", "volatility", "volatility_24h"]).all()


def test_of_no_data_every_question_has_an_empty_answer(local):
    engine = Engine(local, NOW)
    # these have their one row all the same: nothing is rolled up
    assert metrics.check_views(engine)["rows"].drop(["rolled", "rolled_ticks"]).eq(0).all()
    for table in (metrics.markets(engine), metrics.latest(engine), metrics.ranks(engine, "price")):
        assert len(table) == 0 and len(table.columns) > 5
    assert metrics.measures(engine) == []
    assert len(metrics.series(engine, "no:such:market", "price")) == 0


def test_ranks_name_the_markets_and_put_the_most_variable_first(keep):
    rows = [
        row for n, market in enumerate(("A-USD", "B-USD", "C-USD")) for row in ticks(market, swing(n + 1))
    ]
    found = metrics.ranks(keep("ticks", rows), "price")
    assert list(found["market"]) == ["C-USD", "B-USD", "A-USD"]
    assert list(found["place"]) == [1, 2, 3] and set(found["places"]) == {3}
    assert found["stddev_24h"].iloc[0] == pytest.approx(stdev(swing(3)))


def test_a_value_that_looks_like_sql_is_a_value(keep):
    engine = keep("ticks", ticks("A-USD", [1.0]))
    assert len(metrics.series(engine, "x' or '1'='1", "price")) == 0


# ---- resolve_market


@pytest.fixture
def known():
    columns = ["market_id", "source", "exchange", "symbol", "market", "base", "quote"]
    rows = [
        ("kraken:kraken:BTC/USD", "kraken", "kraken", "BTC/USD", "BTC-USD", "BTC", "USD"),
        ("kraken:kraken:BTC/USD:BTNL", "kraken", "kraken", "BTC/USD:BTNL", "BTC-USD", "BTC", "USD"),
        ("kraken:kraken:ETH/EUR", "kraken", "kraken", "ETH/EUR", "ETH-EUR", "ETH", "EUR"),
        ("coinbase:coinbase:BTC-USD", "coinbase", "coinbase", "BTC-USD", "BTC-USD", "BTC", "USD"),
        ("cryptowatch:bitfinex:btcusd", "cryptowatch", "bitfinex", "btcusd", "BTC-USD", "BTC", "USD"),
        ("cryptowatch:kraken:ethusd", "cryptowatch", "kraken", "ethusd", "ETH-USD", "ETH", "USD"),
        ("cryptowatch:odd:xyz", "cryptowatch", "odd", "xyz", None, None, None),
    ]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize(
    ("name", "market_id"),
    [
        ("kraken:kraken:BTC/USD:BTNL", "kraken:kraken:BTC/USD:BTNL"),
        ("cryptowatch:odd:xyz", "cryptowatch:odd:xyz"),
        ("kraken:BTC-USD", "kraken:kraken:BTC/USD"),
        ("coinbase:btc-usd", "coinbase:coinbase:BTC-USD"),
        ("bitfinex:BTC-USD", "cryptowatch:bitfinex:btcusd"),
        ("ETH-EUR", "kraken:kraken:ETH/EUR"),
        ("eth-usd", "cryptowatch:kraken:ethusd"),
    ],
)
def test_a_market_is_known_by_its_id_its_exchange_and_pair_or_its_pair(name, market_id, known):
    assert metrics.resolve_market(name, known) == market_id


def test_a_name_that_stands_for_several_markets_names_them_all(known):
    with pytest.raises(UnknownMarket) as caught:
        metrics.resolve_market("BTC-USD", known)
    assert all(f"{one}:" in str(caught.value) for one in ("kraken:kraken", "coinbase", "bitfinex"))


def test_a_name_of_no_market_names_the_nearest(known):
    with pytest.raises(UnknownMarket, match="coinbase:BTC-USD"):
        metrics.resolve_market("coinbase:BTC-USDT", known)
    with pytest.raises(UnknownMarket, match="No market is called 'x'"):
        metrics.resolve_market("x", known.iloc[:0])
