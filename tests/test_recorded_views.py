"""Every view on ten days of recorded one-minute bars of 18 markets, their hole included, beside numpy on the same bars."""

import gzip
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from cryptomon_lib.engine import Engine
from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import open_monitor

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
BEGIN = datetime(2021, 9, 28, tzinfo=UTC)
HOLE = (datetime(2021, 9, 29, 7, tzinfo=UTC), datetime(2021, 9, 29, 9, tzinfo=UTC))
# the hole within a day, and at the beginning of a week
MOMENTS = {
    "day": datetime(2021, 9, 29, 14, 30, tzinfo=UTC),
    "week": datetime(2021, 10, 6, 8, 30, tzinfo=UTC),
}
# followed markets have candles; the others only what was polled
FOLLOWED = ("BTC-USDT", "ETH-USDT", "ETH-BTC", "DOGE-USDT")


@pytest.fixture(scope="module")
def bars(captures):
    """By market: open, high, low, close, volume of each minute since BEGIN, nan where there is none."""
    found = {}
    for path in sorted((captures / "history_1m").glob("*-1m.json.gz")):
        with gzip.open(path) as file:
            rows = np.array(json.load(file))
        own = np.full((9 * 1440, 5), np.nan)
        at = ((rows[:, 0] - BEGIN.timestamp() * 1e3) / 6e4).astype(int)
        inside = (at >= 0) & (at < len(own))
        own[at[inside]] = rows[inside, 1:6]
        found[path.name.removesuffix("-1m.json.gz").replace("_", "-")] = own
    assert len(found) == 18
    assert all(np.isnan(own[31 * 60 : 33 * 60]).all() for own in found.values())
    return found


def minute(at):
    return round((at - BEGIN) / MINUTE)


def moment(number):
    return BEGIN + int(number) * MINUTE


@pytest.fixture(scope="module")
def monitors(bars, table_of, rollups_of, tmp_path_factory):
    """The same bars polled and collected, with roll-ups of all closed hours and without."""
    ticks, candles, values = [], [], {}
    for market, own in bars.items():
        name = f"binance:binance:{market}"
        known = np.flatnonzero(~np.isnan(own[:, 3]))
        known = known[known < minute(MOMENTS["week"])]
        values[name, "price"] = {moment(n + 1): own[n, 3] for n in known}
        for now in MOMENTS.values():
            first, last = minute(now - 27 * HOUR), minute(now)
            ticks += [
                {"market_id": name, "collected_at": moment(n + 1), "price": own[n, 3]}
                for n in known[(known >= first) & (known < last)]
            ]
        if market in FOLLOWED:
            values[name, "volume_1m"] = {moment(n + 1): own[n, 4] for n in known}
            columns = ("open", "high", "low", "close", "volume")
            candles += [
                {"market_id": name, "interval_s": 60, "opened_at": moment(n), "origin": "live"}
                | dict(zip(columns, own[n], strict=True))
                for n in known
            ]
    made = {}
    for rolled in (True, False):
        monitor = open_monitor("local", flags={"root": str(tmp_path_factory.mktemp("bars"))})
        monitor.lake.append("ticks", [Batch("ticks", table_of("ticks", ticks))])
        monitor.lake.append("candles", [Batch("candles", table_of("candles", candles))])
        if rolled:
            until = MOMENTS["week"].replace(minute=0)
            monitor.lake.append("rollups_1h", [Batch("rolled", rollups_of(values, until))])
        made[rolled] = monitor
    return made


@pytest.fixture(params=[True, False], ids=["rolled up", "not rolled up"])
def rolled(request):
    return request.param


@pytest.fixture
def ask(monitors):
    """By market, and what else names a row: the rows of a view."""

    def asked(view, when="day", rolled=True, where="true", also=()):
        rows = (
            Engine(monitors[rolled], MOMENTS[when]).query(f"select * from {view} where {where}").to_pylist()
        )
        found = {(row["market_id"].rpartition(":")[2], *(row[key] for key in also)): row for row in rows}
        assert len(found) == len(rows) > 0
        return found

    return asked


def closes(own, begin, end):
    """Prices polled after begin, to the end: that of a bar is told when it ends."""
    return own[max(0, minute(begin)) : minute(end), 3]


def known(values):
    return values[~np.isnan(values)]


def near(value, expected):
    if expected is None or np.isnan(expected):
        return value is None
    return value is not None and np.isclose(value, expected, rtol=1e-9, atol=0)


def last_known(values):
    found = known(values)
    return found[-1] if len(found) else np.nan


def price_at(own, at):
    return last_known(closes(own, at - 10 * MINUTE, at))


@pytest.mark.parametrize("when", MOMENTS)
def test_the_newest_prices_their_hour_and_z_score(when, ask, bars):
    now = MOMENTS[when]
    found, scores = (ask(view, when, where="measure = 'price'") for view in ("now_1h", "zscore_1h"))
    for market, own in bars.items():
        hour, value = known(closes(own, now - HOUR - MINUTE, now - MINUTE)), own[minute(now) - 1, 3]
        row = found[market,]
        assert (row["value"], row["samples"], row["expected"]) == (value, len(hour), 60)
        assert near(row["average_1h"], hour.mean()) and near(row["ratio_1h"], value / hour.mean())
        assert near(row["stddev_1h"], hour.std(ddof=1))
        assert np.isclose(scores[market,]["zscore_1h"], (value - hour.mean()) / hour.std(ddof=1), rtol=1e-6)


def test_a_day_of_values_and_the_rank(rolled, ask, bars):
    now = MOMENTS["day"]
    found = ask("measures_24h", rolled=rolled, where="measure = 'price'")
    ranks = ask("rank_24h", rolled=rolled, where="measure = 'price'")
    days = {market: known(closes(own, now - DAY, now)) for market, own in bars.items()}
    deviations = {market: day.std(ddof=1) for market, day in days.items()}
    relative = {market: deviations[market] / day.mean() for market, day in days.items()}
    for market, day in days.items():
        row, rank = found[market,], ranks[market,]
        assert (row["samples"], row["min"], row["max"]) == (len(day), day.min(), day.max())
        assert (row["first"], row["last"]) == (day[0], day[-1]) and len(day) == 1440 - 120
        assert near(row["mean"], day.mean()) and near(row["m2"], ((day - day.mean()) ** 2).sum())
        assert near(rank["stddev_24h"], deviations[market]) and near(rank["cv_24h"], relative[market])
        assert rank["rank_24h"] == place(deviations, market) / 18
        assert rank["rank_cv_24h"] == place(relative, market) / 18
        alike = {other: d for other, d in deviations.items() if other.endswith(market[-4:])}
        assert rank["rank_24h_in_quote"] == place(alike, market) / len(alike)


def place(values, name):
    return 1 + sum(value > values[name] for value in values.values())


@pytest.mark.parametrize("when", MOMENTS)
def test_returns_and_movers(when, ask, bars):
    now = MOMENTS[when]
    found = ask("returns", when)
    moved = {}
    for market, own in bars.items():
        row, price = found[market,], price_at(own, now)
        before = {"1h": price_at(own, now - HOUR), "24h": price_at(own, now - DAY)}
        hour = now.replace(minute=0) - 7 * DAY - HOUR
        # told in that hour; in the hole nobody told anything
        week = closes(own, hour - MINUTE, hour + HOUR - MINUTE) if hour > BEGIN else np.array([])
        before["7d"] = last_known(week) if len(known(week)) >= 45 else np.nan
        for name, price_then in before.items():
            assert near(row[f"price_{name}"], price_then), (market, name)
            assert near(row[f"return_{name}_pct"], 100 * (price / price_then - 1)) or (
                abs(row[f"return_{name}_pct"]) < 1e-9
            ), (market, name)
        assert row["samples"] == sum(not np.isnan(one) for one in before.values())
        moved[market] = row["return_24h_pct"]
    movers = ask("movers", when)
    assert {market: row["place_rise"] for (market,), row in movers.items()} == {
        market: place(moved, market) for market in bars
    }
    fallen = {market: -move for market, move in moved.items()}
    assert {market: row["place_fall"] for (market,), row in movers.items()} == {
        market: place(fallen, market) for market in bars
    }


def hourly(own, begin, end, column=3):
    """By closed hour: what was told in it (a bar's close is told when it ends)."""
    hours = {}
    at = begin
    while at < end:
        told = known(own[max(0, minute(at) - 1) : minute(at + HOUR) - 1, column])
        if len(told):
            hours[at] = told
        at += HOUR
    return hours


def test_volatility_of_a_week_spans_no_hole(ask, bars):
    now = MOMENTS["week"]
    hour, found = now.replace(minute=0), ask("volatility", "week")
    for market, own in bars.items():
        hours = {at: told[-1] for at, told in hourly(own, hour - 169 * HOUR, hour).items() if len(told) >= 45}
        returns = {at: np.log(last / hours[at - HOUR]) for at, last in hours.items() if at - HOUR in hours}
        day = np.array([value for at, value in returns.items() if at >= hour - DAY])
        week = np.array(list(returns.values()))
        row = found[market,]
        assert (row["samples"], row["samples_7d"]) == (len(day), len(week)) == (24, 168 - 2)
        assert near(row["volatility_24h_pct"], 100 * np.sqrt(24) * day.std(ddof=1))
        assert near(row["volatility_7d_pct"], 100 * np.sqrt(24) * week.std(ddof=1))


@pytest.mark.parametrize("measure", ["price", "volume_1m"])
def test_moving_averages_of_an_hour_a_day_and_a_week(measure, ask, bars):
    now, column = MOMENTS["week"], {"price": 3, "volume_1m": 4}[measure]
    found = ask("moving_averages", "week", where=f"measure = '{measure}'")
    assert {market for (market,) in found} == (set(bars) if measure == "price" else set(FOLLOWED))
    for (market,), row in found.items():
        own = bars[market][:, column]
        end, begin = minute(now), minute(now.replace(minute=0) - 7 * DAY) - 1
        hour, day, week = own[end - 60 : end], own[end - 1440 : end], known(own[begin:end])
        assert near(row["moving_average_1h"], hour.mean()) and near(row["moving_average_24h"], day.mean())
        assert near(row["moving_average_7d"], week.mean()) and row["samples_7d"] == len(week)


def test_hours_of_a_week(ask, bars):
    now = MOMENTS["week"]
    found = ask("measures_1h", "week", where="measure = 'price'", also=("hour_at",))
    for market, own in bars.items():
        hours = hourly(own, BEGIN, now)
        for at, told in hours.items():
            row = found.pop((market, at.replace(tzinfo=None)))
            told = told[: 31 if at == now.replace(minute=0) else None]
            assert (row["samples"], row["first"], row["last"]) == (len(told), told[0], told[-1])
            assert near(row["mean"], told.mean())
            assert np.isclose(row["m2"], ((told - told.mean()) ** 2).sum(), rtol=1e-8, atol=1e-18)
    assert found == {}


def test_candles_of_followed_markets_are_the_bars_of_every_length(ask, bars):
    now = MOMENTS["week"]
    for length, size, since in (
        ("1m", 1, now - DAY),
        ("5m", 5, now - DAY),
        ("1h", 60, BEGIN),
        ("1d", 1440, BEGIN),
    ):
        found = ask(f"candles_{length}", "week", where="volume is not null", also=("opened_at",))
        compared = 0
        for market in FOLLOWED:
            own = bars[market]
            for first in range(minute(since), minute(now) // size * size, size):
                some = own[first : first + size]
                some = some[~np.isnan(some[:, 3])]
                row = found.get((market, moment(first).replace(tzinfo=None)))
                if 2 * len(some) < size:
                    assert row is None, (length, market, first)
                    continue
                # the present day: as far as it is
                some = some[: minute(now) - first]
                expected = (some[0, 0], some[:, 1].max(), some[:, 2].min(), some[-1, 3])
                assert tuple(row[name] for name in ("open", "high", "low", "close")) == expected
                assert near(row["volume"], some[:, 4].sum()) and row["samples"] == len(some)
                assert (row["origin"], row["expected"]) == ("candle", size)
                compared += 1
        assert compared > {"1m": 5000, "5m": 1000, "1h": 700, "1d": 30}[length], length


def test_candles_of_the_others_are_of_what_was_polled(ask, bars):
    now = MOMENTS["week"]
    hours = ask("candles_1h", "week", where="origin = 'tick'", also=("opened_at",))
    assert {market for market, _ in hours} >= set(bars) - set(FOLLOWED)
    for market in set(bars) - set(FOLLOWED):
        for at, told in hourly(bars[market], BEGIN, now.replace(minute=0)).items():
            row = hours[market, at.replace(tzinfo=None)]
            assert (row["samples"], row["expected"], row["volume"]) == (len(told), 60, None)
            expected = (told[0], told.max(), told.min(), told[-1]) if len(told) >= 30 else (None,) * 4
            assert tuple(row[name] for name in ("open", "high", "low", "close")) == expected
    minutes = ask("candles_1m", "week", where="origin = 'tick'", also=("opened_at",))
    for market in set(bars) - set(FOLLOWED):
        for n in range(minute(now) - 1439, minute(now)):
            price = bars[market][n - 1, 3]
            row = minutes[market, moment(n).replace(tzinfo=None)]
            assert tuple(row[name] for name in ("open", "high", "low", "close")) == (price,) * 4


def test_latest_has_it_all_and_what_reads_the_newest_tick_agrees(ask, bars):
    now = MOMENTS["day"]
    found, newest = ask("latest"), ask("newest_ticks")
    assert set(found) == set(newest) == set(ask("markets"))
    for (market,), row in found.items():
        own = bars[market]
        day = known(closes(own, now - DAY, now))
        assert (row["price"], row["collected_at"]) == (own[minute(now) - 1, 3], now.replace(tzinfo=None))
        assert (row["samples"], row["expected"]) == (len(day), 1440) == (newest[market,]["samples"], 1440)
        assert near(row["moving_average_24h"], day.mean())
        assert row["moving_average_7d"] is None and row["return_7d_pct"] is None
        assert row["volume_1m"] == (own[minute(now) - 1, 4] if market in FOLLOWED else None)
