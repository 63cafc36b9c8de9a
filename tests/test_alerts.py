"""All rules after each tick: nothing missed, nothing doubled, killed anywhere; and what alerts are now and were."""

import signal
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from killing import kill_at

from cryptomon_lib import alerts
from cryptomon_lib.alerts import (
    STATES,
    alert_history,
    alert_spans,
    evaluate_alerts,
    firing_alerts,
    last_step,
    save_rules,
)
from cryptomon_lib.backtest import backtest_rule, other_threshold
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import ConfigError, StorageError
from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.rollups import roll_up
from cryptomon_lib.rules import read_rule

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RULES = (read_rule("volume", {"measure": "volume_24h", "times": 3, "no_data": "5m"}),)
# an hour of 100, then what happens
VALUES = [100.0] * 60 + [300.0, 320.0, 100.0, 400.0, 400.0, 100.0]
FIRST = NOON + 60 * MINUTE
# 300 does not fire
EXPECTED = [(1, "firing"), (2, "resolved"), (3, "firing"), (5, "resolved")]


def ticks(table_of, values, market="BTC-USD", first=NOON):
    rows = [
        {
            "market_id": f"kraken:kraken:{market}",
            "collected_at": first + MINUTE * number,
            "volume_24h": value,
            "price": 10.0 + number,
        }
        for number, value in enumerate(values)
        if value is not None
    ]
    return table_of("ticks", rows)


@pytest.fixture
def filled(local, table_of):
    """A monitor with those ticks."""
    local.lake.append("ticks", [Batch("ticks", ticks(table_of, VALUES))])
    return local


def came(stored, monitor):
    """Minute after the hour and state of all transitions."""
    return sorted(((row["at"] - FIRST) // MINUTE, row["state"]) for row in stored(monitor, "alerts"))


def test_100_on_average_then_300_does_not_fire_and_above_300_does_minute_by_minute(filled, stored):
    for minute in range(len(VALUES) - 60):
        evaluate_alerts(filled, FIRST + minute * MINUTE, RULES)
    assert came(stored, filled) == EXPECTED
    first = min(stored(filled, "alerts"), key=lambda row: row["at"])
    shown = ("value", "average", "samples", "threshold", "exchange", "market")
    # the 300 of the minute before is in the average
    assert [first[name] for name in shown] == [320, pytest.approx(6200 / 60), 60, 3, "kraken", "BTC-USD"]


def test_the_same_minute_twice_changes_nothing(filled, stored):
    one = evaluate_alerts(filled, FIRST + MINUTE, RULES)
    two = evaluate_alerts(filled, FIRST + MINUTE, RULES)
    earlier = evaluate_alerts(filled, FIRST, RULES)
    assert (one.transitions.num_rows, two.transitions.num_rows, earlier.transitions.num_rows) == (1, 0, 0)
    assert one.number == two.number == earlier.number and came(stored, filled) == EXPECTED[:1]


def test_minutes_that_nobody_looked_at_are_made_up_for_in_order(filled, stored):
    evaluate_alerts(filled, FIRST, RULES)
    evaluate_alerts(filled, FIRST + 5 * MINUTE, RULES)
    assert came(stored, filled) == EXPECTED


@pytest.mark.parametrize("rolled", [True, False], ids=["rolled up", "not rolled up"])
@pytest.mark.parametrize("every", [1, 5])
def test_against_the_average_of_a_day_the_same_fires_live_and_in_a_back_test(
    every, rolled, local, table_of, stored
):
    rule = read_rule("day", {"measure": "volume_24h", "times": 3, "over": "24h"})
    values = [100.0] * 24 * 60 + VALUES[60:]
    local.lake.append("ticks", [Batch("day", ticks(table_of, values, first=FIRST - timedelta(hours=24)))])
    if rolled:
        assert roll_up(local, FIRST + 5 * MINUTE).hours == 24
    for minute in range(0, 6, every):
        evaluate_alerts(local, FIRST + minute * MINUTE, [rule])
    assert came(stored, local) == EXPECTED
    first = min(stored(local, "alerts"), key=lambda row: row["at"])
    # 24 hours of 100, and the 300 of the minute before
    assert [first[name] for name in ("average", "samples")] == [pytest.approx(144_300 / 1441), 1441]
    assert first["says"].startswith("BTC-USD volume_24h is 3.20 x its average of the 24 h before")

    found = backtest_rule(local, rule, FIRST - MINUTE, FIRST + 5 * MINUTE).transitions.to_pylist()
    assert sorted(((one["at"] - FIRST) // MINUTE, one["state"]) for one in found) == EXPECTED
    assert {one["average"] for one in found} == {row["average"] for row in stored(local, "alerts")}


def test_readings_that_come_late_are_evaluated_when_they_come(local, table_of, stored):
    local.lake.append("ticks", [Batch("hour", ticks(table_of, VALUES[:61]))])
    for minute in range(4):
        evaluate_alerts(local, FIRST + minute * MINUTE, RULES)
    assert came(stored, local) == []
    local.lake.append("ticks", [Batch("late", ticks(table_of, VALUES[61:], first=FIRST + MINUTE))])
    evaluate_alerts(local, FIRST + 5 * MINUTE, RULES)
    assert came(stored, local) == EXPECTED


def test_a_source_that_falls_silent_is_told_once_and_ends_nothing(filled, stored):
    values = [500.0, *[None] * 9, 100.0]
    first = FIRST + 6 * MINUTE
    filled.lake.append("ticks", [Batch("silent", ticks_of(filled, values, first))])
    for minute in range(4, 17):
        evaluate_alerts(filled, FIRST + minute * MINUTE, RULES)
    assert came(stored, filled)[-4:] == [(6, "firing"), (11, "no_data"), (16, "data"), (16, "resolved")]


def ticks_of(monitor, values, first):
    from conftest import _table

    return ticks(_table, values, first=first)


# ---- killed anywhere, and two at once


PLACES = {
    "before its outcome is kept": ("cryptomon_lib.storage:Storage", "create", "before", 1),
    "after that, before the transitions are appended": (
        "cryptomon_lib.storage:Storage",
        "create",
        "after",
        1,
    ),
    "before they are committed": ("cryptomon_lib.lake:Lake", "_commit", "before", 1),
    "after that": ("cryptomon_lib.lake:Lake", "_commit", "after", 1),
    "before older steps are forgotten": ("cryptomon_lib.alerts", "_forget", "before", 1),
}


def _evaluate(root, minutes, place=None):
    if place:
        kill_at(*place)
    monitor = open_monitor("local", flags={"root": root})
    for minute in minutes:
        evaluate_alerts(monitor, FIRST + minute * MINUTE, RULES)


@pytest.mark.parametrize("name", PLACES)
def test_killed_at_any_step_and_run_again_no_transition_is_missed_and_none_doubled(
    name, filled, stored, start_process
):
    evaluate_alerts(filled, FIRST, RULES)
    process = start_process(_evaluate, filled.storage.root, [1], PLACES[name])
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    _evaluate(filled.storage.root, [1, 2, 3, 4, 5])
    assert came(stored, filled) == EXPECTED


def test_of_evaluators_at_once_one_writes_each_transition(filled, stored, start_process):
    evaluate_alerts(filled, FIRST, RULES)
    started = [start_process(_evaluate, filled.storage.root, [1, 2, 3, 4, 5]) for _ in range(3)]
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0, 0]
    assert came(stored, filled) == EXPECTED


def test_who_comes_second_looks_again_and_does_not_write_what_is_written(filled, stored, monkeypatch):
    evaluate_alerts(filled, FIRST, RULES)
    create, calls = type(filled.storage).create, []

    def first_another(storage, key, body):
        # another evaluator gets through just before this one
        calls.append(key)
        if len(calls) == 1:
            evaluate_alerts(filled, FIRST + MINUTE, RULES)
        return create(storage, key, body)

    monkeypatch.setattr(type(filled.storage), "create", first_another)
    step = evaluate_alerts(filled, FIRST + 2 * MINUTE, RULES)
    assert came(stored, filled) == EXPECTED[:2] and step.number == 3


def test_only_the_newest_steps_are_kept_and_one_that_cannot_be_read_says_so(filled):
    for minute in range(6):
        evaluate_alerts(filled, FIRST + minute * MINUTE, RULES)
    keys = [one.key for one in filled.storage.objects(STATES)]
    assert len(keys) == alerts._KEPT and last_step(filled).at == FIRST + 5 * MINUTE
    filled.storage.put(keys[-1], b"PK")
    with pytest.raises(StorageError, match="no step of alerts"):
        last_step(filled)


@pytest.mark.s3
def test_steps_and_transitions_are_kept_on_s3_too(s3, open_at, table_of, stored):
    monitor = open_at(s3.root, s3.endpoint_url)
    monitor.lake.append("ticks", [Batch("ticks", ticks(table_of, VALUES))])
    for minute in (0, 5, 5):
        evaluate_alerts(monitor, FIRST + minute * MINUTE, RULES)
    assert came(stored, monitor) == EXPECTED


# ---- rules of programs


def rows(**columns):
    return pa.table({"rule": ["p"], "market_id": ["kraken:kraken:BTC-USD"], "view": ["now_1h"], "measure": ["volume_24h"],
                     "compared": ["value"], "compare": [">"], "threshold": [300.0]} | columns)  # fmt: skip


def test_rules_of_a_table_are_evaluated_beside_those_of_the_file(filled, stored):
    assert save_rules(filled, rows()) == 1
    evaluate_alerts(filled, FIRST, RULES)
    step = evaluate_alerts(filled, FIRST + MINUTE, RULES)
    assert sorted(row["rule"] for row in stored(filled, "alerts")) == ["p", "volume"] and step.rules == 2
    # a rule that is taken away ends what it fired
    save_rules(filled, rows(rule=["q"], threshold=[1e9]))
    evaluate_alerts(filled, FIRST + 2 * MINUTE, RULES)
    ended = [row for row in stored(filled, "alerts") if row["rule"] == "p" and row["state"] == "resolved"]
    assert [row["quiet"] for row in ended] == ["rule_removed"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"compare": ["="]}, "compare is '='"),
        ({"severity": ["loud"]}, "severity is 'loud'"),
        ({"compared": ["ratio_2h"]}, "no column ratio_2h of a view now_1h"),
        ({"view": ["now_2h"]}, "of a view now_2h"),
        ({"threshold": [float("nan")]}, "no finite numbers"),
        ({"threshold": pa.array([None], pa.float64())}, "threshold is null in 1 rows"),
        ({"colour": ["red"]}, "no column colour"),
    ],
)
def test_a_table_with_a_rule_that_cannot_be_used_is_refused_whole(local, columns, says):
    with pytest.raises(ConfigError, match=says):
        save_rules(local, rows(**columns))
    assert local.lake.open("alert_rules") is None


# ---- what they are and were


def test_what_fires_now_and_what_fired_before(filled):
    for minute in range(5):
        evaluate_alerts(filled, FIRST + minute * MINUTE, RULES)
    engine = Engine(filled, FIRST + 4 * MINUTE)
    (alight,) = firing_alerts(engine).to_dict("records")
    assert (alight["rule"], alight["value"], alight["fired_at"]) == (
        "volume",
        400,
        (FIRST + 3 * MINUTE).replace(tzinfo=None),
    )
    assert firing_alerts(Engine(filled, FIRST + 2 * MINUTE)).empty
    spans = alert_spans(engine, NOON)
    assert list(spans["minutes"]) == [1, 1] and list(spans["resolved_at"].isna()) == [True, False]
    assert len(alert_history(engine, NOON, market_id="kraken:kraken:BTC-USD", rule="volume")) == 3
    assert alert_history(engine, NOON, market_id="x:x:x").empty and alert_spans(engine, NOON, rule="x").empty


def test_what_another_threshold_would_have_done_on_one_market(filled):
    found = other_threshold(filled, RULES[0], 2.5, "kraken:kraken:BTC-USD", FIRST + 5 * MINUTE, hours=2)
    # 300 and 320 are one alert then
    assert list(found["minutes"])[::-1] == [2, 2] and found["fired_at"].min() == FIRST.replace(tzinfo=None)
