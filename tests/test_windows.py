"""Long windows: from roll-ups, from values, or from both, they say what plain Python makes of the same values."""

import math
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from cryptomon_lib.engine import Engine
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
def engines(ticks, values, table_of, rollups_of, tmp_path_factory):
    """Engines on the same ticks, with roll-ups until now, until five hours ago, and without."""
    opened = {}
    for name, until in ROLLED.items():
        monitor = open_monitor("local", flags={"root": str(tmp_path_factory.mktemp(name))})
        monitor.lake.append("ticks", [Batch("ticks", table_of("ticks", ticks))])
        if until:
            monitor.lake.append("rollups_1h", [Batch("hours", rollups_of(values, until))])
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
    rows = engine.query("select * from measures_24h").to_pylist()
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
