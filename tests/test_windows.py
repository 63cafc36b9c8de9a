"""Long windows: from roll-ups, from values, or from both, they say what plain Python makes of the same values."""

import math
from datetime import UTC, datetime, timedelta
from random import Random
from statistics import stdev

import pytest

from cryptomon_lib.engine import Engine
from cryptomon_lib.history import readings
from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import open_monitor

NOW = datetime(2026, 7, 27, 12, 30, 20, tzinfo=UTC)
HOUR_AT = NOW.replace(minute=0, second=0)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MARKETS = ("BTC-USD", "SHIB-USD", "STABLE-USD", "STILL-EUR", "FEW-EUR")
MEASURES = ("price", "volume_24h", "spread_bps")
# until when all is rolled up: to the last closed hour, not since five hours, not at all
ROLLED = {"all": HOUR_AT, "late": HOUR_AT - 5 * HOUR, "none": None}


def price_of(market, minute, random):
    return {
        "BTC-USD": 60_000 + 500 * math.sin(minute / 90) + random.gauss(0, 20),
        "SHIB-USD": 2.1e-5 * (1 + 0.02 * math.sin(minute / 50)) + random.gauss(0, 1e-8),
        "STABLE-USD": 1 + random.gauss(0, 1e-6),
        "STILL-EUR": 0.1,
        "FEW-EUR": 7.0 + random.random(),
    }[market]


@pytest.fixture(scope="module")
def ticks():
    """Ticks of 30 hours, 20 seconds past the minute: single ones are absent, two hours and half an hour as well."""
    random, rows = Random(5), []
    for market in MARKETS:
        for minute in range(30 * 60):
            at = NOW - minute * MINUTE
            hole = 7 * HOUR < NOW - at < 9 * HOUR or 40 * MINUTE < NOW - at < 70 * MINUTE
            few = market == "FEW-EUR" and minute % 29
            if hole or few or random.random() < 0.03:
                continue
            price = price_of(market, minute, random)
            rows.append(
                {
                    "market_id": f"kraken:kraken:{market}",
                    "collected_at": at,
                    "price": price if random.random() > 0.02 else None,
                    "bid": price * 0.999,
                    "ask": price * (1.001 + random.random() / 1e4),
                    "volume_24h": 1e3 + minute,
                }
            )
    return rows


@pytest.fixture(scope="module")
def values(ticks):
    """By market and measure: the values by their moments, from the ticks alone."""
    found = {(f"kraken:kraken:{market}", measure): {} for market in MARKETS for measure in MEASURES}
    for row in ticks:
        ask, bid = row["ask"], row["bid"]
        told = {"price": row["price"], "volume_24h": row["volume_24h"]}
        told["spread_bps"] = (ask - bid) / ((ask + bid) / 2) * 1e4
        for measure, value in told.items():
            if value is not None:
                found[row["market_id"], measure][row["collected_at"]] = value
    return found


@pytest.fixture(scope="module")
def weeks(values):
    """The prices of eight days: before the ticks 50 an hour, and an hour in ten without."""
    random, found = Random(6), {}
    for (market, measure), own in values.items():
        if measure == "price":
            found[market, measure] = dict(own)
            for hours in range(31, 8 * 24):
                if random.random() > 0.1:
                    first = HOUR_AT - hours * HOUR
                    price = price_of(market.rpartition(":")[2], hours * 60, random)
                    values_of_hour = {first + n * MINUTE: price * (1 + n / 1e4) for n in range(50)}
                    found[market, measure] |= values_of_hour
    return found


@pytest.fixture(scope="module")
def engines(ticks, values, weeks, table_of, rollups_of, tmp_path_factory):
    """Engines on the same ticks, with roll-ups until now, until five hours ago, and without."""
    opened = {}
    for name, until in ROLLED.items():
        monitor = open_monitor("local", flags={"root": str(tmp_path_factory.mktemp(name))})
        monitor.lake.append("ticks", [Batch("ticks", table_of("ticks", ticks))])
        if until:
            monitor.lake.append("rollups_1h", [Batch("hours", rollups_of(values | weeks, until))])
        opened[name] = Engine(monitor, NOW)
    return opened


@pytest.fixture(params=ROLLED)
def engine(request, engines):
    return engines[request.param]


def described(values):
    """samples, mean, m2, min, max, first and last of values by their moments."""
    ordered = [values[at] for at in sorted(values)]
    mean = math.fsum(ordered) / len(ordered)
    return {
        "samples": len(ordered),
        "mean": mean,
        "m2": math.fsum((value - mean) ** 2 for value in ordered),
        "min": min(ordered),
        "max": max(ordered),
        "first": ordered[0],
        "last": ordered[-1],
    }


def near(row, expected):
    """Whether a row has the numbers that are expected of it, to a part in 1e9."""
    for name, value in expected.items():
        # what does not move deviates by nothing; a difference of rounding is no deviation
        floor = 1e-28 if name == "m2" else 0
        if row[name] is None or not math.isclose(row[name], value, rel_tol=1e-9, abs_tol=floor):
            return False
    return True


def of_window(values, begin, end=NOW):
    """Values after begin, to the end."""
    return {at: value for at, value in values.items() if begin < at <= end}


def test_all_closed_hours_are_rolled_up_until_the_end_of_the_newest_one(engines):
    found = {
        name: engine.query("select rolled_until from rolled").to_pylist() for name, engine in engines.items()
    }
    assert found == {
        name: [{"rolled_until": (until or datetime(1970, 1, 1, tzinfo=UTC)).replace(tzinfo=None)}]
        for name, until in ROLLED.items()
    }


def test_roll_ups_later_than_the_moment_are_not_of_the_past(engines):
    earlier = Engine(engines["all"].monitor, HOUR_AT - 3 * HOUR + MINUTE)
    (row,) = earlier.query("select rolled_until from rolled").to_pylist()
    assert row["rolled_until"] == (HOUR_AT - 3 * HOUR).replace(tzinfo=None)


def test_a_value_is_in_the_roll_ups_or_among_the_unrolled(engines, values):
    text = "select count(*) as n, min(at) as first_at from unrolled where measure = 'price'"
    found = {name: engine.query(text).to_pylist()[0] for name, engine in engines.items()}
    for name, until in ROLLED.items():
        since = max(until or NOW, NOW - 26 * HOUR) if until else NOW - 26 * HOUR
        own = [at for (_, measure), own in values.items() if measure == "price" for at in own if at > since]
        assert found[name] == {"n": len(own), "first_at": min(own).replace(tzinfo=None)}


def test_an_hour_is_what_its_values_say(engine, values):
    rows = engine.query("select * from measures_1h").to_pylist()
    found = {(row["market_id"], row["measure"], row["hour_at"].replace(tzinfo=UTC)): row for row in rows}
    assert len(found) == len(rows)
    compared = 0
    for (market, measure), own in values.items():
        hours = {at.replace(minute=0, second=0) for at in own if at > NOW - 25 * HOUR}
        for hour in hours:
            row = found[market, measure, hour]
            assert near(row, described({at: own[at] for at in own if hour <= at < hour + HOUR})), row
            assert row["expected"] == 60
            compared += 1
    assert compared > 300


def test_a_day_is_what_its_values_say(engine, values):
    rows = engine.query("select * from measures_24h where measure <> 'move_1m_bps'").to_pylist()
    found = {(row["market_id"], row["measure"]): row for row in rows}
    assert found.keys() == values.keys() and len(rows) == len(found)
    for key, own in values.items():
        expected = described(of_window(own, NOW - DAY))
        assert near(found[key], expected), (key, found[key], expected)
        assert found[key]["expected"] == 1440
    still = found["kraken:kraken:STILL-EUR", "price"]
    assert (still["m2"], still["mean"]) == (0, 0.1)


def test_a_rank_is_the_same_with_and_without_roll_ups(engine, values):
    rows = engine.query("select * from rank_24h where measure = 'price'").to_pylist()
    found = {row["market_id"].rpartition(":")[2]: row for row in rows}
    deviations, relative = {}, {}
    for market in MARKETS:
        told = described(of_window(values[f"kraken:kraken:{market}", "price"], NOW - DAY))
        if told["samples"] >= 60:
            deviations[market] = math.sqrt(told["m2"] / (told["samples"] - 1))
            relative[market] = deviations[market] / told["mean"]
    assert set(MARKETS) - set(deviations) == {"FEW-EUR"}
    for market, deviation in deviations.items():
        assert math.isclose(found[market]["stddev_24h"], deviation, rel_tol=1e-9, abs_tol=1e-15), market
        place = 1 + sum(other > deviation for other in deviations.values())
        assert found[market]["rank_24h"] == place / 4
        alike = [deviations[other] for other in deviations if other[-3:] == market[-3:]]
        assert found[market]["rank_24h_in_quote"] == (1 + sum(o > deviation for o in alike)) / len(alike)
        place = 1 + sum(other > relative[market] for other in relative.values())
        assert found[market]["rank_cv_24h"] == place / 4
    assert (found["FEW-EUR"]["rank_24h"], found["FEW-EUR"]["stddev_24h"]) == (None, None)


def test_the_newest_tick_of_a_market_is_found_whether_it_fell_silent_or_not(local, table_of):
    rows = [
        {"market_id": f"kraken:kraken:{market}", "collected_at": NOW - minutes * MINUTE, "price": price}
        for market, minutes, price in (
            ("A-USD", 30, 1.0),
            ("A-USD", 1, 2.0),
            ("A-USD", 0, 3.0),
            ("SILENT-USD", 30, 4.0),
            ("SILENT-USD", 10, 5.0),
            ("GONE-USD", 1440, 6.0),
        )
    ]
    local.lake.append("ticks", [Batch("ticks", table_of("ticks", rows))])
    text = "select symbol, price, samples, expected from newest_ticks order by symbol"
    assert Engine(local, NOW).query(text).to_pylist() == [
        {"symbol": "A-USD", "price": 3, "samples": 3, "expected": 1440},
        {"symbol": "SILENT-USD", "price": 5, "samples": 2, "expected": 1440},
    ]


# ---- what is made of them


def rows_by_market(engine, view, where="true"):
    rows = engine.query(f"select * from {view} where {where}").to_pylist()
    found = {row["market_id"].rpartition(":")[2]: row for row in rows}
    assert len(found) == len(rows)
    return found


def price_at(own, moment):
    """The newest price that was then at most 10 minutes old."""
    known = of_window(own, moment - 10 * MINUTE, moment)
    return known[max(known)] if known else None


def percent(now, before):
    return None if now is None or before is None else 100 * (now / before - 1)


def same(value, expected, within=1e-9):
    if value is None or expected is None:
        return value is expected
    return math.isclose(value, expected, rel_tol=within, abs_tol=1e-12)


def closes_of(own):
    """By closed hour of the last 169: its last price, where it has 45 of its 60."""
    hours = {}
    for at, value in sorted(own.items()):
        hours.setdefault(at.replace(minute=0, second=0), []).append(value)
    begin = HOUR_AT - 169 * HOUR
    return {hour: found[-1] for hour, found in hours.items() if begin <= hour < HOUR_AT and len(found) >= 45}


@pytest.mark.parametrize("rolled", ["all", "late"])
def test_returns_are_those_of_the_prices_then_and_now(rolled, engines, values, weeks):
    found = rows_by_market(engines[rolled], "returns")
    gone = 0
    for market in MARKETS:
        own = weeks[f"kraken:kraken:{market}", "price"]
        now = price_at(own, NOW)
        if now is None:
            assert market not in found
            gone += 1
            continue
        row, week = found[market], closes_of(own).get(HOUR_AT - 169 * HOUR)
        before = [price_at(own, NOW - HOUR), price_at(own, NOW - DAY), week]
        names = ("return_1h_pct", "return_24h_pct", "return_7d_pct")
        for name, price in zip(names, before, strict=True):
            assert same(row[name], percent(now, price)), (market, name)
        assert (row["samples"], row["expected"]) == (3 - before.count(None), 3)
        # an hour ago lies in the hole of half an hour
        assert row["return_1h_pct"] is None
    assert gone <= 1 and len(found) >= 4


def test_a_return_of_one_hour_takes_the_newest_price_of_then(local, table_of):
    prices = {0: 110.0, 9: 5.0, 60: 100.0, 61: 3.0, 1449: 55.0}
    rows = [
        {"market_id": "kraken:kraken:A-USD", "collected_at": NOW - minutes * MINUTE, "price": price}
        for minutes, price in prices.items()
    ]
    local.lake.append("ticks", [Batch("ticks", table_of("ticks", rows))])
    (row,) = Engine(local, NOW).query("select * from returns").to_pylist()
    assert (row["price_1h"], row["price_24h"], row["price_7d"]) == (100, 55, None)
    assert (row["return_1h_pct"], row["return_24h_pct"]) == (pytest.approx(10), pytest.approx(100))
    assert (row["return_7d_pct"], row["samples"]) == (None, 2)


@pytest.mark.parametrize("rolled", ["all", "late"])
def test_volatility_is_the_deviation_of_hourly_returns_that_span_no_hole(rolled, engines, weeks):
    found = rows_by_market(engines[rolled], "volatility")
    counted = []
    for market in MARKETS:
        closes = closes_of(weeks[f"kraken:kraken:{market}", "price"])
        returns = {
            hour: math.log(price / closes[hour - HOUR])
            for hour, price in closes.items()
            if hour - HOUR in closes
        }
        day = [value for hour, value in returns.items() if hour >= HOUR_AT - DAY]
        row = found[market]
        assert (row["samples"], row["samples_7d"]) == (len(day), len(returns)), market
        for name, some, floor in (("24h", day, 12), ("7d", list(returns.values()), 84)):
            expected = 100 * math.sqrt(24) * stdev(some) if len(some) >= floor else None
            assert same(row[f"volatility_{name}_pct"], expected), (market, name)
        counted.append(len(day))
    # two hours in 24 are a hole, and a return has two ends
    assert max(counted) < 24 and found["FEW-EUR"]["volatility_24h_pct"] is None


@pytest.mark.parametrize("rolled", ["all", "late"])
def test_moving_averages_are_those_of_all_values_up_to_now(rolled, engines, values, weeks):
    found = rows_by_market(engines[rolled], "moving_averages", "measure = 'price'")
    for market in MARKETS:
        own, row = weeks[f"kraken:kraken:{market}", "price"], found[market]
        week = {at: value for at, value in own.items() if at >= HOUR_AT - 7 * DAY}
        windows = {
            "1h": (of_window(own, NOW - HOUR), 30, "samples_1h"),
            "24h": (of_window(own, NOW - DAY), 720, "samples"),
            "7d": (week, 5040, "samples_7d"),
        }
        for name, (some, floor, samples) in windows.items():
            expected = math.fsum(some.values()) / len(some) if len(some) >= floor else None
            assert same(row[f"moving_average_{name}"], expected), (market, name)
            assert row[samples] == len(some), (market, name)
    assert found["BTC-USD"]["moving_average_7d"] and found["BTC-USD"]["moving_average_24h"]


def test_a_z_score_is_the_distance_from_the_hour_before_in_its_deviations(local, table_of):
    prices = [100.0 + (-1) ** minute for minute in range(60)]
    rows = [
        {"market_id": f"kraken:kraken:{market}", "collected_at": NOW - (60 - n) * MINUTE, "price": price}
        for market, series in {"A-USD": [*prices, 104.0], "STILL-USD": [5.0] * 60 + [6.0]}.items()
        for n, price in enumerate(series)
    ]
    local.lake.append("ticks", [Batch("ticks", table_of("ticks", rows))])
    engine = Engine(local, NOW)
    found = rows_by_market(engine, "zscore_1h", "measure = 'price'")
    assert found["A-USD"]["zscore_1h"] == pytest.approx(4 / stdev(prices), rel=1e-12)
    assert (found["A-USD"]["samples"], found["A-USD"]["expected"]) == (60, 60)
    # of what did not move no deviation can be told
    assert (found["STILL-USD"]["stddev_1h"], found["STILL-USD"]["zscore_1h"]) == (0, None)
    some = Engine(local, NOW - 31 * MINUTE)
    assert rows_by_market(some, "zscore_1h", "measure = 'price'")["A-USD"]["zscore_1h"] is None


def test_movers_are_placed_from_both_ends_and_ties_share_the_better_place(local, table_of):
    moves = {"UP-USD": 30.0, "SAME-USD": 10.0, "ALSO-USD": 10.0, "DOWN-USD": -5.0}
    rows = [
        {"market_id": f"kraken:kraken:{market}", "collected_at": at, "price": price} | more
        for market, move in moves.items()
        for at, price, more in ((NOW - DAY, 100.0, {}), (NOW, 100.0 + move, {}))
    ]
    perpetual = {"market_id": "kraken:kraken:PERP-USD", "kind": "perpetual"}
    rows += [perpetual | {"collected_at": at, "price": 1.0} for at in (NOW - DAY, NOW)]
    rows.append({"market_id": "kraken:kraken:NEW-USD", "collected_at": NOW, "price": 9.0})
    local.lake.append("ticks", [Batch("ticks", table_of("ticks", rows))])
    found = rows_by_market(Engine(local, NOW), "movers")
    assert {market: (row["place_rise"], row["place_fall"]) for market, row in found.items()} == {
        "UP-USD": (1, 4),
        "SAME-USD": (2, 2),
        "ALSO-USD": (2, 2),
        "DOWN-USD": (4, 1),
    }
    assert {row["places"] for row in found.values()} == {4}


def test_the_gap_of_a_pair_is_between_fresh_prices_of_two_exchanges(local, table_of):
    def tick(market_id, price, age_s, **more):
        return {"market_id": market_id, "collected_at": NOW - timedelta(seconds=age_s), "price": price} | more

    rows = [
        tick("kraken:kraken:BTC-USD", 100.0, 30, bid=99.9, ask=100.0),
        tick("coinbase:coinbase:BTC-USD", 102.0, 119, bid=101.5, ask=102.5),
        # too old to be held against the others
        tick("binance:binance:BTC-USD", 200.0, 120, bid=1e6, ask=1e6),
        # the same exchange by another source, older
        tick("cryptowatch:kraken:BTC-USD", 1.0, 90),
        tick("kraken:kraken:ONE-USD", 5.0, 1),
        tick("kraken:kraken:OLD-USD", 5.0, 1),
        tick("coinbase:coinbase:OLD-USD", 9.0, 500),
        tick("kraken:kraken:PERP-USD", 5.0, 1, kind="perpetual"),
        tick("coinbase:coinbase:PERP-USD", 6.0, 1, kind="perpetual"),
        tick("kraken:kraken:ODD-USD", 5.0, 1, market=None),
        tick("coinbase:coinbase:ODD-USD", 6.0, 1, market=None),
    ]
    local.lake.append("ticks", [Batch("ticks", table_of("ticks", rows))])
    (row,) = Engine(local, NOW).query("select * from price_gaps").to_pylist()
    assert row == {
        "market": "BTC-USD",
        "low_market_id": "kraken:kraken:BTC-USD",
        "low_price": 100.0,
        "high_market_id": "coinbase:coinbase:BTC-USD",
        "high_price": 102.0,
        "gap_bps": pytest.approx(200),
        "crossed_bps": pytest.approx(150),
        "oldest_at": (NOW - timedelta(seconds=119)).replace(tzinfo=None),
        "samples": 2,
        "expected": 3,
    }


def test_the_spread_is_that_of_the_newest_tick_beside_the_hour_before(local, table_of):
    rows = [
        {
            "market_id": "kraken:kraken:A-USD",
            "collected_at": NOW - minutes * MINUTE,
            "bid": 100.0 - width,
            "ask": 100.0 + width,
        }
        for minutes, width in [(0, 3.0), *((n, 1.0) for n in range(1, 41))]
    ]
    local.lake.append("ticks", [Batch("ticks", table_of("ticks", rows))])
    (row,) = Engine(local, NOW).query("select * from spread").to_pylist()
    assert (row["bid"], row["ask"], row["samples"], row["expected"]) == (97, 103, 40, 60)
    assert (row["spread_bps"], row["average_1h_bps"]) == (pytest.approx(600), pytest.approx(200))
    assert row["ratio_1h"] == pytest.approx(3)


@pytest.mark.parametrize("rolled", ["all", "none"])
def test_latest_says_of_each_market_what_the_views_say_of_it(rolled, engines):
    engine = engines[rolled]
    found = rows_by_market(engine, "latest")
    assert found.keys() == set(MARKETS)
    views = {
        "newest_ticks": ("true", ["collected_at", "price", "bid", "volume_24h", "kind", "samples"]),
        "returns": ("true", ["return_1h_pct", "return_24h_pct", "return_7d_pct"]),
        "volatility": ("true", ["volatility_24h_pct"]),
        "rank_24h": ("measure = 'price'", ["stddev_24h", "rank_24h", "rank_24h_in_quote", "rank_cv_24h"]),
        "zscore_1h": ("measure = 'price'", ["zscore_1h"]),
        "moving_averages": ("measure = 'price'", ["moving_average_1h", "moving_average_24h"]),
    }
    for view, (where, names) in views.items():
        told = rows_by_market(engine, view, where)
        for market, row in found.items():
            for name in names:
                assert (
                    same(row[name], told[market][name])
                    if market in told and isinstance(row[name], float)
                    else row[name] == (told[market][name] if market in told else None)
                ), (view, market, name)
    told = rows_by_market(engine, "now_1h", "measure = 'price'")
    for market, row in told.items():
        assert found[market]["ratio_1h_price"] == row["ratio_1h"]
        assert found[market]["samples_1h"] == row["samples"]


# ---- candles


def candle(market, at, price, volume=1.0):
    return {
        "market_id": f"kraken:kraken:{market}",
        "interval_s": 60,
        "opened_at": at,
        "open": price,
        "high": price + 2,
        "low": price - 2,
        "close": price + 1,
        "volume": volume,
        "collected_at": at + MINUTE,
        "origin": "live",
    }


def shown(rows):
    names = ("open", "high", "low", "close", "volume", "samples", "expected", "origin")
    return {
        (row["symbol"], f"{row['opened_at']:%d %H:%M}"): tuple(row[name] for name in names) for row in rows
    }


def candles_of(engine, length):
    rows = engine.query(f"select * from candles_{length}").to_pylist()
    for row in rows:
        row["symbol"] = row["market_id"].rpartition(":")[2]
    return shown(rows)


@pytest.fixture
def traded(local, table_of):
    """Followed: candles to 12:28 with one minute absent, ticks in every one. Polled: ticks and a counter alone."""
    bars = [
        candle("BTC-USD", HOUR_AT + minute * MINUTE, 100.0 + minute) for minute in range(29) if minute != 7
    ]
    rows = [
        {
            "market_id": f"kraken:kraken:{market}",
            "collected_at": HOUR_AT + minute * MINUTE + timedelta(seconds=10),
            "price": 200.0 + minute,
            "volume_today": 3.0 * minute if market == "ETH-USD" else None,
        }
        for market in ("BTC-USD", "ETH-USD")
        for minute in range(31)
    ]
    # sampled three times in its last minute
    rows += [
        {"market_id": "kraken:kraken:ETH-USD", "collected_at": NOW - timedelta(seconds=ago), "price": price}
        for ago, price in ((5, 500.0), (0, 1.0))
    ]
    local.lake.append("candles", [Batch("bars", table_of("candles", bars))])
    local.lake.append("ticks", [Batch("ticks", table_of("ticks", rows))])
    return Engine(local, NOW)


def test_a_minute_is_its_candle_and_else_what_was_polled_in_it(traded):
    found = candles_of(traded, "1m")
    assert len(found) == 31 * 2
    assert found["BTC-USD", "27 12:06"] == (106, 108, 104, 107, 1, 1, 1, "candle")
    assert found["BTC-USD", "27 12:07"] == (207, 207, 207, 207, None, 1, 1, "tick")
    assert found["ETH-USD", "27 12:06"] == (206, 206, 206, 206, 3, 1, 1, "tick")
    # the newest minute: what was seen in it, its volume not known yet
    assert found["ETH-USD", "27 12:30"] == (230, 500, 1, 1, None, 1, 1, "tick")


def test_five_minutes_are_put_together_minute_by_minute(traded):
    found = candles_of(traded, "5m")
    assert found["BTC-USD", "27 12:00"] == (100, 106, 98, 105, 5, 5, 5, "candle")
    assert found["BTC-USD", "27 12:05"] == (105, 207, 103, 110, 4, 5, 5, "mixed")
    assert found["ETH-USD", "27 12:25"] == (225, 229, 225, 229, 15, 5, 5, "tick")
    # a minute of it began, and its volume is not known
    assert found["ETH-USD", "27 12:30"] == (230, 500, 1, 1, None, 1, 1, "tick")


def test_an_hour_with_half_its_candles_is_made_of_them(traded):
    found = candles_of(traded, "1h")
    assert found["BTC-USD", "27 12:00"] == (100, 130, 98, 129, 28, 28, 31, "candle")
    assert found["ETH-USD", "27 12:00"] == (200, 500, 1, 1, 90, 33, 31, "tick")
    # half an hour is no day, and says so
    assert candles_of(traded, "1d")["BTC-USD", "27 00:00"] == (None,) * 5 + (28, 751, "candle")


@pytest.mark.parametrize("rolled", ["all", "late"])
def test_hours_and_days_of_30_days_are_what_the_prices_say(rolled, engines, weeks):
    hourly, daily = (candles_of(engines[rolled], length) for length in ("1h", "1d"))
    compared, days = 0, {}
    for market in MARKETS:
        hours = {}
        for at, value in sorted(weeks[f"kraken:kraken:{market}", "price"].items()):
            hours.setdefault(at.replace(minute=0, second=0), []).append(value)
        for hour, some in hours.items():
            row = hourly[market, f"{hour:%d %H:%M}"]
            begun = 31 if hour == HOUR_AT else 60
            assert row[5:7] == (len(some), begun)
            if 2 * len(some) < begun:
                assert row[:5] == (None,) * 5
                continue
            assert row[:4] == (some[0], max(some), min(some), some[-1]), (market, hour)
            days.setdefault((market, f"{hour:%d} 00:00"), []).extend(some)
            compared += 1
    for (market, day), some in days.items():
        row, minutes = daily[market, day], 12 * 60 + 31 if day == "27 00:00" else 1440
        assert row[5:7] == (len(some), minutes)
        expected = (some[0], max(some), min(some), some[-1]) if 2 * len(some) >= minutes else (None,) * 4
        assert row[:4] == expected, (market, day)
    assert compared > 600 and len(days) >= 30


# ---- averages of a day and of a week, the value itself left out


def beside(own, at, hours, since=NOW - 8 * DAY):
    """samples and average of the full hours before a value and of what its hour had; older than since is not known."""
    begins = max(at.replace(minute=0, second=0) - hours * HOUR, since)
    before = [value for moment, value in own.items() if begins <= moment < at]
    return len(before), math.fsum(before) / len(before) if len(before) >= 30 * hours else None


def is_beside(row, value, samples, average, window):
    ratio = None if average is None else value / average
    wanted = {"value": value, f"average_{window}": average, f"ratio_{window}": ratio}
    return row["samples"] == samples and all(
        row[name] is None if one is None else math.isclose(row[name], one, rel_tol=1e-9)
        for name, one in wanted.items()
    )


@pytest.mark.parametrize(("window", "hours"), [("24h", 24), ("7d", 168)])
@pytest.mark.parametrize("rolled", ROLLED)
def test_a_long_average_is_of_full_hours_and_of_this_one_without_the_value(
    rolled, window, hours, engines, values, weeks
):
    found = engines[rolled].query(f"select * from now_{window}").to_pylist()
    assert {(row["market_id"], row["measure"]) for row in found} >= {
        (f"kraken:kraken:{market}", measure) for market in MARKETS[:4] for measure in MEASURES
    }
    known, averages = values if rolled == "none" else values | weeks, 0
    for row in found:
        if row["measure"] not in MEASURES:
            continue
        own = known[row["market_id"], row["measure"]]
        at = row["at"].replace(tzinfo=UTC)
        assert (
            at == max(values[row["market_id"], row["measure"]]) and row["expected"] == hours * 60 + at.minute
        )
        samples, average = beside(
            own, at, hours, NOW - (26 * HOUR - MINUTE / 2 if rolled == "none" else 8 * DAY)
        )
        assert is_beside(row, own[at], samples, average, window), f"{row} {samples} {average}"
        averages += average is not None
    # of a week without roll-ups there are too few
    assert averages == {("24h", True): 12, ("7d", False): 5}.get((window, rolled == "none"), averages)


@pytest.mark.parametrize(("window", "hours"), [("24h", 24), ("7d", 168)])
def test_the_history_has_the_same_long_averages_minute_by_minute(window, hours, engines, values, weeks):
    own = (values | weeks)["kraken:kraken:BTC-USD", "price"]
    # over the edges of hours and of what is read at a time, half a second past the minute
    since = NOW - 7 * HOUR + timedelta(milliseconds=500)
    found = readings(engines["late"].monitor, ["price"], since, NOW, window=window).to_pylist()
    mine = [row for row in found if row["market_id"].endswith("BTC-USD")]
    assert [row["at"].replace(tzinfo=UTC) for row in mine] == sorted(at for at in own if since < at <= NOW)
    for row in mine[::5]:
        at = row["at"].replace(tzinfo=UTC)
        assert is_beside(row, own[at], *beside(own, at, hours), window)
        assert row["expected"] == hours * 60 + at.minute
