"""Recorded bars, served over HTTP, collected, flattened and evaluated: every alert is what plain Python makes of the bars.

The bars have a real hole of two hours, and candles come an hour at once. CRYPTOMON_REPLAY_HOURS=236 replays all of them.
"""

import gzip
import json
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from statistics import fmean

import pytest

from cryptomon_lib.alerts import alert_history, evaluate_alerts
from cryptomon_lib.backtest import backtest_rule
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CollectError
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.notices import notices_of, transitions_of
from cryptomon_lib.receivers import user_named
from cryptomon_lib.rules import load_rules
from cryptomon_lib.simulator import Simulator

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
HOURS = int(os.environ.get("CRYPTOMON_REPLAY_HOURS", "6"))
# the hole is from 07:00 to 08:59
BEGIN = datetime(2021, 9, 29, 5, tzinfo=UTC)
END = BEGIN + HOURS * HOUR
# minutes that are evaluated one by one; the others twenty at once, as after a time when nobody looked
ONE_BY_ONE = (BEGIN + 110 * MINUTE, BEGIN + 124 * MINUTE)
# times, floor of the value, recovery and whether that itself is over, as params/alerts.yaml has them
DELIVERED = {"volume_3x": ("volume_1m", 0, True), "price_move_3x": ("move_1m_bps", 50, False)}
COOL_DOWN, REARM, KEEP = 6 * HOUR, 3, 5 * MINUTE


@pytest.fixture(scope="module")
def bars(captures):
    """By market_id: close and volume by the moment that a bar opened."""
    found = {}
    for path in sorted((captures / "history_1m").glob("*-1m.json.gz")):
        symbol = path.name.removesuffix("-1m.json.gz").replace("_", "")
        rows = json.loads(gzip.decompress(path.read_bytes()))
        found[f"binance:binance:{symbol}"] = {
            datetime.fromtimestamp(row[0] / 1000, UTC): (row[4], row[5]) for row in rows
        }
    assert len(found) == 18
    return found


@pytest.fixture(scope="module")
def lived(captures, tmp_path_factory):
    """A monitor that lived through those hours and evaluated its rules all the while."""
    names = [
        path.name.removesuffix("-1m.json.gz").replace("_", "-")
        for path in (captures / "history_1m").glob("*-1m.json.gz")
    ]
    rules = [rule for rule in load_rules() if rule.name in DELIVERED]
    with Simulator(replay=captures / "history_1m") as simulator:
        flags = {"root": str(tmp_path_factory.mktemp("lived")), "hosts": simulator.hosts}
        monitor = open_monitor("local", flags=flags | {"fetch": {"attempts": 1, "pause_s": 0}})
        at = BEGIN
        while at < END:
            # an hour's candles are there when it is over; within the hole nothing answers
            with suppress(CollectError):
                collect_payloads(monitor, ["binance"], "tickers", samples=60, as_of=at)
            with suppress(CollectError):
                collect_payloads(monitor, ["binance"], "candles", names, every_s=3600, as_of=at + HOUR)
            flatten_payloads(monitor)
            for minute in range(60):
                now = at + minute * MINUTE
                if ONE_BY_ONE[0] <= now < ONE_BY_ONE[1] or minute % 20 == 19:
                    evaluate_alerts(monitor, now, rules)
            at += HOUR
        evaluate_alerts(monitor, END, rules)
    return monitor


def series(own, measure):
    """A measure's values by their moments, from the bars alone."""
    # a tick shows the bar that closed just then; the first poll of candles asks for the hour before it too
    ticks = [at for at in (BEGIN + MINUTE * number for number in range(HOURS * 60)) if at - MINUTE in own]
    if measure == "volume_1m":
        first = BEGIN - 4 * MINUTE
        return {at + MINUTE: volume for at, (_, volume) in own.items() if first <= at < END}
    price = {at: own[at - MINUTE][0] for at in ticks}
    return {at: 1e4 * abs(price[at] / price[at - MINUTE] - 1) for at in ticks if at - MINUTE in price}


def by_hand(values, floor, recovers_at_two):
    """(state, minute, told) of one market, minute by minute: three times its average, and what follows from it."""
    found, firing, told, over_since, before = [], False, False, None, None
    told_at = told_ratio = None
    for at, value in sorted(values.items()):
        hour = [values[one] for one in (at - MINUTE * back for back in range(1, 61)) if one in values]
        average = fmean(hour) if len(hour) >= 30 else None
        if not average:
            continue
        ratio = value / average
        holds = ratio > 3 and value >= floor
        over = not holds and (ratio <= 2 if recovers_at_two else ratio < 2)
        broken = before is not None and at - before > 2.5 * MINUTE
        over_since = None if not over else at if over_since is None or broken else over_since
        before = at
        if firing and over and at - over_since >= KEEP:
            firing = False
            found.append(("resolved", at, told))
            continue
        begins = holds and not firing
        if begins:
            firing, told = True, False
        if not firing:
            continue
        larger = told_ratio is not None and ratio / 3 > REARM * told_ratio
        if larger or (not told and (told_at is None or at - told_at >= COOL_DOWN)):
            told, told_at, told_ratio = True, at, ratio / 3
            found.append(("firing", at, True))
        elif begins:
            found.append(("firing", at, False))
    return found


@pytest.fixture(scope="module")
def expected(bars):
    return {
        (rule, market, state, at, told)
        for rule, (measure, floor, closed) in DELIVERED.items()
        for market, own in bars.items()
        for state, at, told in by_hand(series(own, measure), floor, closed)
    }


def test_every_alert_is_what_plain_python_makes_of_the_bars(lived, expected):
    rows = alert_history(Engine(lived, END), BEGIN - HOUR).to_dict("records")
    found = {
        (
            row["rule"],
            row["market_id"],
            row["state"],
            row["at"].to_pydatetime().replace(tzinfo=UTC),
            row["quiet"] is None or row["quiet"] != row["quiet"],
        )
        for row in rows
    }
    assert len(found) == len(rows)
    assert sorted(found - expected) == [] and sorted(expected - found) == []
    assert {row[0] for row in found} >= {"volume_3x"} and len(found) > 100


def test_the_back_test_says_what_was(lived, expected):
    for rule in load_rules():
        if rule.name in DELIVERED:
            found = backtest_rule(lived, rule, BEGIN - HOUR, END).transitions.to_pylist()
            told = {
                (row["rule"], row["market_id"], row["state"], row["at"], row["quiet"] is None)
                for row in found
            }
            assert told == {one for one in expected if one[0] == rule.name}


def test_no_alert_fires_or_ends_within_the_hole(lived):
    rows = alert_history(Engine(lived, END), BEGIN - HOUR, states=("firing", "resolved", "no_data", "data"))
    inside = rows[(rows["at"] > "2021-09-29 07:01") & (rows["at"] < "2021-09-29 09:01")]
    # of each market's volume it is told once that it is silent
    assert set(inside["state"]) == {"no_data"} and len(inside) == 18 == inside["market_id"].nunique()
    assert sorted(rows["state"].unique()) == ["data", "firing", "no_data", "resolved"]


def test_what_the_delivered_user_gets_a_day_is_told(lived, expected, capsys):
    table = lived.lake.open("alerts").to_pyarrow_table()
    told = transitions_of(table)
    notices = notices_of(user_named("everyone"), told, END)
    firings = [one for one in expected if one[2] == "firing"]
    days = HOURS / 24
    with capsys.disabled():
        if HOURS > 24:
            quiet = sum(not one[4] for one in firings)
            loud = len(firings) - quiet
            print(
                f"\n{HOURS} h, 18 markets, a day: {len(firings) / days:.0f} firings, {loud / days:.0f} told after the"
            )
            print(f"cool-down, {len(told) / days:.0f} changes told, {len(notices) / days:.0f} notices")
    assert 0 < len(notices) < len(told) < len(table)
