"""What pending, firing, over, cooling down and silent mean, minute by minute and many at once, and for a million rules."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from cryptomon_lib.evaluator import TABLE, Evaluator, State
from cryptomon_lib.history import reading
from cryptomon_lib.rules import read_rule

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RULE = {"measure": "volume_1m", "times": 3}
BTC = "kraken:kraken:BTC-USD"


def readings(values, market=BTC, measure="volume_1m", first=0, samples=60, step=MINUTE):
    """Values a minute, each beside an average of 100; None is a minute without one."""
    rows = [
        {
            "market_id": market,
            "measure": measure,
            "at": (START + step * (first + number)).replace(tzinfo=None),
            "value": float(value),
            "average_1h": 100.0,
            "ratio_1h": value / 100,
            "samples": samples,
            "expected": 60,
        }
        for number, value in enumerate(values)
        if value is not None
    ]
    return pa.Table.from_pylist(rows, schema=reading())


def run(rule, values, at_once=1, kept=False, **named):
    """The transitions of a rule over values, so many minutes at once; its state stored and loaded in between."""
    evaluator, found = Evaluator([read_rule("r", rule)]), []
    for first in range(0, len(values), at_once):
        part = values[first : first + at_once]
        now = START + MINUTE * (first + len(part) - 1)
        found += evaluator.advance({"now_1h": readings(part, first=first, **named)}, now).to_pylist()
        if kept:
            state = evaluator.state()
            evaluator = Evaluator([read_rule("r", rule)])
            evaluator.load(state)
    return found


def short(found):
    """Minute, state, and why it is quiet."""
    told = [((row["at"] - START) // MINUTE, row["state"], row["quiet"]) for row in found]
    return sorted((at, state) if quiet is None else (at, state, quiet) for at, state, quiet in told)


TWICE = [(0, "firing"), (1, "resolved"), (2, "firing", "cool_down"), (3, "resolved", "cool_down")]
CASES = {
    "exactly three times is not above": (RULE, [300] * 3, []),
    "above fires at once": (RULE, [100, 300.01, 100], [(1, "firing"), (2, "resolved")]),
    "for has to hold all the time": (
        RULE | {"for": "2m"},
        [400, 100, 400, 400, 400, 100],
        [(0, "pending"), (1, "lapsed"), (2, "pending"), (4, "firing"), (5, "resolved")],
    ),
    "a hole begins for anew": (
        RULE | {"for": "2m"},
        [400, None, None, None, 400, 400, 400],
        [(0, "pending"), (4, "lapsed"), (4, "pending"), (6, "firing")],
    ),
    "one missing minute is no hole": (
        RULE | {"for": "2m"},
        [400, None, 400],
        [(0, "pending"), (2, "firing")],
    ),
    "over only below the recovery": (RULE | {"recover": 2}, [400, 250, 201, 200], [(0, "firing"), (3, "resolved")]),
    "and only after so long": (
        RULE | {"keep_firing_for": "2m"},
        [400, 100, 100, 400, 100, 100, 100],
        [(0, "firing"), (6, "resolved")],
    ),
    "a hole neither fires nor ends": (RULE, [400, None, None, None, None, 100], [(0, "firing"), (5, "resolved")]),
    "silence is a state of its own": (
        RULE | {"no_data": "3m"},
        [400, None, None, None, None, 100, 100],
        [(0, "firing"), (3, "no_data"), (5, "data"), (5, "resolved")],
    ),
    "patience that is not exceeded says nothing": (RULE | {"no_data": "3m"}, [1, None, None, 1, None, None, 1], []),
    "a cool-down is quiet and then speaks": (
        RULE | {"cool_down": "4m"},
        [400, 100, 400, 400, 400, 400, 100],
        [(0, "firing"), (1, "resolved"), (2, "firing", "cool_down"), (4, "firing"), (6, "resolved")],
    ),
    "what ends within the cool-down is quiet to its end": (
        RULE | {"cool_down": "9m"},
        [400, 100, 400, 100],
        [(0, "firing"), (1, "resolved"), (2, "firing", "cool_down"), (3, "resolved", "cool_down")],
    ),
    "a larger move is told within it": (
        RULE | {"cool_down": "9m", "rearm": 2},
        [400, 100, 800, 100, 801, 100],
        [*TWICE, (4, "firing"), (5, "resolved")],
    ),
    "a move that grows while it fires is told again": (
        RULE | {"cool_down": "9m", "rearm": 2},
        [400, 700, 900, 1700, 1900, 100],
        [(0, "firing"), (2, "firing"), (4, "firing"), (5, "resolved")],
    ),
    "smaller is larger below a threshold": (
        {"condition": "value < 50", "cool_down": "9m", "rearm": 2},
        [40, 100, 30, 100, 19, 100],
        [*TWICE, (4, "firing"), (5, "resolved")],
    ),
    "a condition of several parts": (
        {"condition": "ratio_1h > 3 and value > 350", "recover": "ratio_1h < 2"},
        [320, 400, 250, 100],
        [(1, "firing"), (3, "resolved")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_rule_goes_through_its_states(name):
    rule, values, expected = CASES[name]
    assert short(run(rule, values)) == expected


@pytest.mark.parametrize("name", CASES)
def test_many_minutes_at_once_come_to_the_same_as_one_after_the_other(name):
    rule, values, expected = CASES[name]
    assert short(run(rule, values, at_once=4)) == expected


def test_a_state_that_is_stored_and_loaded_goes_on():
    rule, values, expected = CASES["a larger move is told within it"]
    assert short(run(rule, values, kept=True)) == expected


def test_a_reading_that_was_seen_is_not_seen_again():
    evaluator = Evaluator([read_rule("r", RULE)])
    assert evaluator.advance({"now_1h": readings([400])}, START).num_rows == 1
    state = evaluator.state()
    assert evaluator.advance({"now_1h": readings([400])}, START).num_rows == 0
    # nor is one that comes later and is older
    evaluator.advance({"now_1h": readings([100], first=5)}, START + 5 * MINUTE)
    assert evaluator.advance({"now_1h": readings([900], first=3)}, START + 6 * MINUTE).num_rows == 0
    assert state.pairs["firing"].to_pylist() == [True]


def test_too_few_samples_are_no_reading():
    assert run(RULE | {"min_samples": 40}, [400], samples=39) == []
    assert short(run(RULE | {"min_samples": 40}, [400], samples=40)) == [(0, "firing")]


def test_a_reading_without_the_column_that_a_rule_is_about_is_no_reading():
    # `ratio_1h > 3 and value >= 50` is false, not unknown, where there is no ratio and the value is small
    rule = read_rule(
        "r", {"condition": "ratio_1h > 3 and value >= 50", "recover": "ratio_1h < 2", "cool_down": "5m"}
    )
    evaluator, found = Evaluator([rule]), []
    for number, value in enumerate([400, 100, 400, 10, 10, 10, 10, 10, 10]):
        rows = readings([value], first=number).to_pylist()
        if value == 10:
            rows[0] |= {"ratio_1h": None, "average_1h": None}
        rows = pa.Table.from_pylist(rows, schema=reading())
        found += evaluator.advance({"now_1h": rows}, START + MINUTE * number).to_pylist()
    assert short(found) == [(0, "firing"), (1, "resolved"), (2, "firing", "cool_down")]


def test_an_alert_is_known_by_its_rule_market_measure_and_start():
    ids = {
        row["alert_id"]
        for found in (
            run(RULE, [400]),
            run(RULE, [100, 400]),
            run(RULE, [400], market="kraken:kraken:ETH-USD"),
            run({"measure": "*", "times": 3}, [400], measure="price"),
        )
        for row in found
    }
    assert len(ids) == 4
    assert run(RULE, [400])[0]["alert_id"] == run(RULE | {"severity": "info"}, [400])[0]["alert_id"]


def test_a_transition_says_what_it_was_and_what_it_was_held_against():
    rule = RULE | {
        "severity": "critical",
        "message": "{market} on {exchange}: {value:.1f} is {ratio:.2f} x {average:.0f}",
    }
    (row,) = run(rule, [412])
    shown = (
        "value",
        "average",
        "ratio",
        "compared",
        "reached",
        "threshold",
        "samples",
        "severity",
        "quiet",
        "says",
    )
    assert {name: row[name] for name in shown} == {
        "value": 412,
        "average": 100,
        "ratio": 4.12,
        "compared": "ratio_1h",
        "reached": 4.12,
        "threshold": 3,
        "samples": 60,
        "severity": "critical",
        "quiet": None,
        "says": "BTC-USD on kraken: 412.0 is 4.12 x 100",
    }
    assert row["started_at"] == row["fired_at"] == row["at"] == START and row["day"] == "2026-01-01"


def test_markets_are_meant_by_pattern_and_measures_by_name():
    rules = [
        read_rule("usd", RULE | {"markets": ["*-USD"]}),
        read_rule("prices", RULE | {"measure": ["price", "spread_bps"]}),
        read_rule(
            "free", {"condition": "ratio_1h > 3 and value > 1", "measure": "price", "markets": "ETH-*"}
        ),
    ]
    rows = [
        readings([400], market=f"kraken:kraken:{market}", measure=measure)
        for market in ("BTC-USD", "ETH-EUR")
        for measure in ("volume_1m", "price")
    ]
    found = Evaluator(rules).advance({"now_1h": pa.concat_tables(rows)}, START).to_pylist()
    assert sorted((row["rule"], row["market_id"][14:], row["measure"]) for row in found) == [
        ("free", "ETH-EUR", "price"),
        ("prices", "BTC-USD", "price"),
        ("prices", "ETH-EUR", "price"),
        ("usd", "BTC-USD", "volume_1m"),
    ]


def test_a_rule_that_is_no_more_ends_what_it_fired():
    evaluator = Evaluator([read_rule("r", RULE)])
    evaluator.advance({"now_1h": readings([400])}, START)
    other = Evaluator([read_rule("other", RULE)])
    other.load(evaluator.state())
    found = other.advance({}, START + MINUTE).to_pylist()
    assert [(row["rule"], row["state"], row["quiet"]) for row in found] == [("r", "resolved", "rule_removed")]
    assert other.advance({}, START + 2 * MINUTE).num_rows == 0 and other.state().pairs.num_rows == 0


def test_a_view_without_measures_or_times_is_evaluated_as_of_now():
    rule = read_rule("r", {"view": "latest", "condition": "price > 10", "recover": 8})
    evaluator, found = Evaluator([rule]), []
    for number, price in enumerate([9.0, 11.0, 9.0, 8.0]):
        rows = pa.table({"market_id": [BTC], "price": [price]})
        found += evaluator.advance({"latest": rows}, START + MINUTE * number).to_pylist()
    assert short(found) == [(1, "firing"), (3, "resolved")]
    assert (found[0]["value"], found[0]["measure"]) == (11, "")


# ---- rules of programs


def table(rows):
    filling = dict.fromkeys(TABLE.names) | {"measure": "volume_1m", "view": "now_1h", "severity": "info"}
    return pa.Table.from_pylist([filling | row for row in rows], schema=TABLE)


def test_a_program_s_rule_comes_to_the_same_as_a_person_s():
    entry = RULE | {
        "recover": 2,
        "for": "1m",
        "keep_firing_for": "1m",
        "cool_down": "5m",
        "rearm": 2,
        "no_data": "3m",
    }
    columns = {
        "rule": "r", "market_id": BTC, "compared": "ratio_1h", "compare": ">", "threshold": 3.0, "recover": 2.0,
        "for_s": 60.0, "keep_firing_s": 60.0, "cool_down_s": 300.0, "rearm": 2.0, "no_data_s": 180.0,
    }  # fmt: skip
    values = [400, 400, 250, 100, 100, 400, 400, 100, 100, None, None, None, None, 900, 900, 100]
    found = {}
    for name, evaluator in {
        "person": Evaluator([read_rule("r", entry)]),
        "program": Evaluator([], table([columns])),
    }.items():
        found[name] = [
            (row["alert_id"], row["state"], row["at"], row["quiet"])
            for number in range(len(values))
            for row in evaluator.advance(
                {"now_1h": readings(values[number : number + 1], first=number)}, START + MINUTE * number
            ).to_pylist()
        ]
    assert found["person"] == found["program"] and len(found["person"]) > 8


def test_ten_thousand_rules_of_programs_fire_for_exactly_those_that_are_exceeded():
    rules = [
        {
            "rule": f"r{number}",
            "market_id": f"x:x:M{number % 100}",
            "compared": "value",
            "compare": compare,
            "threshold": number / 10,
        }
        for number, compare in ((number, (">", "<")[number % 7 == 0]) for number in range(10_000))
    ]
    rows = pa.concat_tables([readings([market * 10.0], market=f"x:x:M{market}") for market in range(100)])
    found = Evaluator([], table(rules)).advance({"now_1h": rows}, START)
    expected = set()
    for rule in rules:
        value = float(rule["market_id"].removeprefix("x:x:M")) * 10
        if value > rule["threshold"] if rule["compare"] == ">" else value < rule["threshold"]:
            expected.add(rule["rule"])
    assert set(found["rule"].to_pylist()) == expected and found.num_rows == len(expected) > 1000


def test_a_fresh_state_is_empty():
    assert all(getattr(State(), name).num_rows == 0 for name in ("pairs", "seen", "silent", "names"))


def test_a_condition_may_name_any_column_of_its_view():
    """Also those by which rules and readings are joined."""
    condition = "measure = 'volume_1m' and market_id like 'kraken:%' and ratio_1h > 3"
    found = run(
        {"condition": condition, "recover": "measure = 'volume_1m' and ratio_1h < 2"}, [400, 250, 100]
    )
    assert short(found) == [(0, "firing"), (2, "resolved")]
    assert not run({"condition": "measure = 'price' and ratio_1h > 3"}, [400])
