"""Recorded bars, served over HTTP, collected, flattened, evaluated, told: each alert is what plain Python makes of the bars.

Candles come an hour at once, and the bars have a real hole of two hours. Six hours around it are replayed. All ten days, the
first 34 hours minute by minute, take 20 minutes of a core:

    CRYPTOMON_REPLAY_HOURS=240 python -m pytest -q --timeout 0 tests/test_recorded_alerts.py
"""

import gzip
import json
import os
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from statistics import fmean

import pytest

from cryptomon_lib.alerts import alert_history, evaluate_alerts
from cryptomon_lib.backtest import backtest_rule
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.compact import compact_tables
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CollectError
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.notices import BEGINS, notices_of, transitions_of
from cryptomon_lib.notify import send_notices
from cryptomon_lib.receivers import user_named
from cryptomon_lib.rollups import roll_up
from cryptomon_lib.rules import load_rules
from cryptomon_lib.simulator import Simulator

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
# taken out of the environment: it is no setting, and what looks like one and is not known is an error
HOURS = int(os.environ.pop("CRYPTOMON_REPLAY_HOURS", "6"))
WHOLE = HOURS > 24
BEGIN = datetime(2021, 9, 28, tzinfo=UTC) if WHOLE else datetime(2021, 9, 29, 5, tzinfo=UTC)
END = BEGIN + HOURS * HOUR
# the hole, from the minute after its last values to the first after it
HOLE = (datetime(2021, 9, 29, 7, 1, tzinfo=UTC), datetime(2021, 9, 29, 9, 1, tzinfo=UTC))
# minutes that are evaluated one by one; the others twenty at once, as after a time when nobody looked
ONE_BY_ONE = (BEGIN, BEGIN + 34 * HOUR) if WHOLE else (BEGIN + 110 * MINUTE, BEGIN + 124 * MINUTE)
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
    """A monitor that lived through those hours, evaluated its rules, told people and cleaned up all the while."""
    names = [
        path.name.removesuffix("-1m.json.gz").replace("_", "-")
        for path in (captures / "history_1m").glob("*-1m.json.gz")
    ]
    rules = [rule for rule in load_rules() if rule.name in DELIVERED]
    with Simulator(replay=captures / "history_1m") as simulator:
        flags = {"root": str(tmp_path_factory.mktemp("lived")), "hosts": simulator.hosts}
        monitor = open_monitor("local", flags=flags | {"fetch": {"attempts": 1, "pause_s": 0}})

        def look(now):
            send_notices(monitor, evaluated=evaluate_alerts(monitor, now, rules).at, now=now)

        at = BEGIN
        while at < END:
            # an hour's candles are there when it is over; within the hole nothing answers
            with suppress(CollectError):
                collect_payloads(monitor, ["binance"], "tickers", samples=60, as_of=at)
            with suppress(CollectError):
                collect_payloads(monitor, ["binance"], "candles", names, every_s=3600, as_of=at + HOUR)
            flatten_payloads(monitor)
            roll_up(monitor, at + 5 * MINUTE)
            for minute in range(60):
                now = at + minute * MINUTE
                if ONE_BY_ONE[0] <= now < ONE_BY_ONE[1] or minute % 20 == 19:
                    look(now)
            at += HOUR
            if at.hour == 0:
                compact_tables(monitor, at)
        look(END)
        # what the cap held back goes out
        for hour in (1, 2):
            send_notices(monitor, evaluated=END + hour * HOUR, now=END + hour * HOUR)
    return monitor


@pytest.fixture(scope="module")
def messages(lived):
    """What the delivered user got as files, by time: when, of what kind, and what each tells."""
    found = [json.loads(lived.storage.get(one.key)) for one in lived.storage.objects("notices")]
    return sorted(
        (
            (
                datetime.fromisoformat(one["at"]),
                one["kind"],
                sorted((told["id"], told["state"], told["at"]) for told in one["alerts"]),
            )
            for one in found
        ),
        key=lambda one: one[0],
    )


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
    begins, ends = (f"{moment:%Y-%m-%d %H:%M}" for moment in HOLE)
    inside = rows[(rows["at"] > begins) & (rows["at"] < ends)]
    # of each market's volume it is told once that it is silent
    assert set(inside["state"]) == {"no_data"} and len(inside) == 18 == inside["market_id"].nunique()
    assert sorted(rows["state"].unique()) == ["data", "firing", "no_data", "resolved"]


def test_each_change_is_told_once_and_what_is_quiet_is_not(lived, messages):
    told = transitions_of(lived.lake.open("alerts").to_pyarrow_table())
    ids = Counter((one[0], one[1], datetime.fromisoformat(one[2])) for _, _, all_ in messages for one in all_)
    assert ids == Counter((one.alert_id, one.state, one.at) for one in told) and max(ids.values()) == 1
    assert 0 < len(messages) < len(told)


@pytest.mark.skipif(not WHOLE, reason="of a time that is evaluated minute by minute from its beginning")
def test_the_notifier_sends_what_the_back_test_says_it_would(lived, messages):
    # silence is noticed a minute after the moment that it bears: from then on the two differ by that
    ends = HOLE[0] + 13 * MINUTE
    told = [one for one in transitions_of(lived.lake.open("alerts").to_pyarrow_table()) if one.at <= ends]
    wanted = [
        (one.at, one.kind, sorted((each.alert_id, each.state, iso(each.at)) for each in one.transitions))
        for one in notices_of(user_named("everyone"), told, ends)
        if one.at <= ends
    ]
    assert [one for one in messages if one[0] <= ends] == wanted and len(wanted) > 50


def test_what_the_delivered_user_gets_a_day_is_said(lived, messages, expected, capsys):
    told = transitions_of(lived.lake.open("alerts").to_pyarrow_table())
    firings = [one for one in expected if one[2] == "firing"]
    loud = [one for one in told if one.state == "firing"]
    by_minute = notices_of(user_named("everyone"), told, END)
    assert len(loud) == sum(one[4] for one in firings) and len(messages) <= len(by_minute)
    if WHOLE:
        days = HOURS / 24
        begins = [one for one in told if one.state in BEGINS]
        figures = {
            "firings": firings,
            "firings told after the cool-down": loud,
            "changes told, silences and ends too": told,
            "of them beginnings": begins,
            "notices, run by run of this replay": messages,
            "notices, were each minute evaluated as it came": by_minute,
        }
        with capsys.disabled():
            print(f"\n{HOURS} h of 18 markets, a day:")
            for words, found in figures.items():
                print(f"{len(found) / days:8.1f} {words}")


def iso(moment):
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
