"""What a rule may say, and what is said about one that it may not."""

import re
from pathlib import Path

import pytest

from cryptomon_lib.config import home
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.rule_tests import expanded, run_rule_tests
from cryptomon_lib.rules import duration_s, filled, load_rules, matcher, read_rule, with_threshold

SHORT = {"measure": "volume_1m", "times": 3}


@pytest.fixture
def write(tmp_path):
    """Writes an alerts.yaml of its own and reads it."""

    def written(text):
        path = tmp_path / "params" / "alerts.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return load_rules(path)

    return written


# ---- the two forms


def test_the_short_form_is_a_condition_on_the_view_of_its_window():
    rule = read_rule("volume", SHORT | {"over": "1h", "markets": ["*-USD", "kraken:*"], "cool_down": "1h"})
    assert (rule.view, rule.measures, rule.condition) == ("now_1h", ("volume_1m",), "ratio_1h > 3.0")
    assert (rule.compared, rule.compare, rule.threshold, rule.simple) == ("ratio_1h", ">", 3.0, True)
    assert (rule.markets, rule.cool_down_s, rule.severity) == (("*-USD", "kraken:*"), 3600, "warning")


@pytest.mark.parametrize(
    ("over", "view", "said"),
    [
        ("24h", "now_24h", "24 h"),
        ("1d", "now_24h", "24 h"),
        ("7d", "now_7d", "7 days"),
        ("60m", "now_1h", "hour"),
    ],
)
def test_an_average_is_over_an_hour_a_day_or_a_week_however_that_is_written(over, view, said):
    rule = read_rule("volume", SHORT | {"over": over, "recover": 2})
    assert (rule.view, rule.compared, rule.recover) == (view, f"ratio_{view.removeprefix('now_')}", 2)
    assert f"its average of the {said} before" in rule.message


@pytest.mark.parametrize(
    ("condition", "headline", "simple"),
    [
        ("ratio_1h > 3", ("ratio_1h", ">", 3), True),
        ("(ratio_1h >= 3.5)", ("ratio_1h", ">=", 3.5), True),
        ("3 > ratio_1h", ("ratio_1h", "<", 3), True),
        ("value <= -2", ("value", "<=", -2), True),
        ("ratio_1h > 3 and value > 10", ("ratio_1h", ">", 3), False),
        ("measure = 'price' and value > 10", ("value", ">", 10), False),
        ("value > 3 * average_1h", (None, None, None), False),
        ("not ratio_1h > 3", (None, None, None), False),
        ("value between 1 and 2 or samples in (59, 60)", (None, None, None), False),
        ("abs(value - average_1h) > 2e0 * average_1h", (None, None, None), False),
        ("case when samples < 60 then ratio_1h else value end > 5", (None, None, None), False),
    ],
)
def test_messages_and_larger_moves_go_by_the_first_comparison_of_a_column_with_a_number(
    condition, headline, simple
):
    rule = read_rule("one", {"condition": condition})
    assert ((rule.compared, rule.compare, rule.threshold), rule.simple) == (headline, simple)


def test_every_delivered_rule_can_be_used_and_the_issue_s_three_are_there():
    rules = {rule.name: rule for rule in load_rules()}
    assert rules["volume_3x"].measures == ("volume_1m",) and rules["volume_3x"].threshold == 3
    assert rules["price_move_3x"].measures == ("move_1m_bps",) and rules["price_move_3x"].threshold == 3
    assert rules["any_3x"].measures is None and rules["any_3x"].condition == "ratio_1h > 3.0"


def test_where_there_is_no_file_there_is_no_rule(tmp_path):
    assert load_rules(tmp_path / "alerts.yaml") == ()


def test_an_example_of_the_file_s_own_comment_is_a_rule(write):
    text = (home() / "params" / "alerts.yaml").read_text()
    lines = [line.removeprefix("#     ") for line in text.splitlines() if line.startswith("#     ")]
    condition = next(line for line in lines if line.startswith("condition: ")).partition("#")[0]
    (rule,) = write(f"rules:\n  one:\n    {condition}\n")
    assert rule.condition == "ratio_1h > 3 AND value > 10"


# ---- errors say file, rule, key, and the nearest known


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rule: {}", r"params/alerts\.yaml: unknown key rule\. Did you mean rules"),
        ("rules: [a]", r"params/alerts\.yaml has to be rules"),
        ("rules: {a: 3}", r"params/alerts\.yaml: rule a is 3"),
        ("rules: {A-b: {measure: price, times: 3}}", "rule A-b: a name is lower case"),
        (
            "rules: {a: {measure: price, times: 3, cooldown: 1h}}",
            "rule a: unknown key cooldown. Did you mean cool_down",
        ),
        ("rules:\n  a: {times: 3}\n  a: {times: 4}", "stands twice"),
        ("rules: {a: {measure: price, times: three}}", "rule a: .*times"),
        ("rules: {a: [", "not valid YAML"),
    ],
)
def test_an_error_names_the_file_the_rule_and_the_key(write, text, says):
    with pytest.raises(ConfigError, match=says):
        write(text)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({}, "give a condition in SQL"),
        ({"measure": "price"}, "give a condition in SQL"),
        (SHORT | {"condition": "ratio_1h > 3"}, "one of them"),
        ({"times": 3}, "needs a measure"),
        (SHORT | {"view": "now_1h"}, "knows its view by over"),
        (SHORT | {"over": "2h"}, "over is '2h'; there are averages over 1h, 24h, 7d"),
        (SHORT | {"over": "day"}, "over is 'day'; write it as 90s, 5m, 1h or 2d"),
        (SHORT | {"over": "24h", "recover": "ratio_1h < 2"}, "view now_24h has no column ratio_1h"),
        (SHORT | {"times": 0}, "above 0"),
        (SHORT | {"times": float("nan")}, "above 0"),
        ({"condition": "ratio_1h > 3", "over": "1h"}, "over belongs to the short form"),
        ({"condition": "ratoi_1h > 3"}, "no column ratoi_1h. Did you mean ratio_1h"),
        ({"condition": "ratio_1h > 3", "view": "now1h"}, "view is 'now1h'. Did you mean now_1h"),
        ({"condition": "age_s > 3", "view": "freshness"}, "no market_id"),
        ({"condition": "ratio_1h"}, "which is a value"),
        ({"condition": "ratio_1h + 1"}, "which is a value"),
        ({"condition": "value is null and 1"}, "which is a value"),
        ({"condition": ""}, "one expression"),
        ({"condition": "ratio_1h > 3; drop table alerts"}, "one expression"),
        ({"condition": "ratio_1h > 3, value > 2"}, "one expression"),
        ({"condition": "ratio_1h > 3 from ticks"}, "one expression"),
        ({"condition": "ratio_1h > 3 union select 1"}, "one expression"),
        ({"condition": "ratio_1h > 3 order by value"}, "one expression"),
        ({"condition": "ratio_1h >"}, "not SQL"),
        ({"condition": "ratio_1h > (select max(value) from now_1h)"}, "not allowed"),
        ({"condition": "exists (select 1)"}, "not allowed"),
        ({"condition": "max(value) > 3"}, "not allowed"),
        ({"condition": "lag(value) over (order by at) > 3"}, "not allowed"),
        ({"condition": "at > current_timestamp"}, "not allowed"),
        ({"condition": "random() > 0.5"}, "not allowed"),
        ({"condition": "read_text('/etc/passwd') = 'x'"}, "not allowed"),
        ({"condition": "value > :v"}, "not allowed"),
        ({"condition": "now_1h.value > 3"}, "no column now_1h.value"),
        (SHORT | {"severity": "warn"}, "severity is 'warn'. Did you mean warning"),
        (SHORT | {"for": "5 minutes"}, "for is '5 minutes'; write it as 90s, 5m, 1h or 2d"),
        (SHORT | {"cool_down": -1}, "cool_down is -1"),
        (SHORT | {"rearm": 1}, "rearm is 1"),
        ({"condition": "value > average_1h", "rearm": 2}, "rearm is 2"),
        (SHORT | {"recover": 4}, "beyond the threshold"),
        ({"condition": "value < 3", "recover": 2}, "beyond the threshold"),
        ({"condition": "value > average_1h", "recover": 2}, "write it as a condition"),
        (SHORT | {"recover": "ratio < 2"}, "recover: view now_1h has no column ratio"),
        (SHORT | {"min_samples": -1}, "min_samples is -1"),
        ({"condition": "price > 3", "view": "latest", "measure": "price"}, "needs a column measure"),
        ({"condition": "value > 3", "view": "measures", "min_samples": 3}, "needs a column samples"),
        (SHORT | {"markets": []}, "markets is"),
        (SHORT | {"message": "{vaule}"}, "no field {vaule}. Did you mean value"),
        (SHORT | {"message": "{value.__class__}"}, "no field"),
        (SHORT | {"message": "{0}"}, "no field"),
        (SHORT | {"message": "{value!r}"}, "a format is"),
        (SHORT | {"message": "{value:{samples}}"}, "a format is"),
        (SHORT | {"message": "{value:999999999}"}, "at most 100"),
        (SHORT | {"message": "{value:.2x}"}, "cannot be filled in"),
        (SHORT | {"message": "{value"}, "cannot be filled in"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_the_way_out(entry, says):
    with pytest.raises(ConfigError, match=says) as caught:
        read_rule("one", entry, "params/alerts.yaml")
    assert str(caught.value).startswith("params/alerts.yaml: rule one")


# ---- patterns, durations, messages, other thresholds


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("*", True),
        ("BTC-USD", True),
        ("btc-*", True),
        ("kraken:*", True),
        ("kraken:BTC-USD", True),
        ("kraken:kraken:XBT/USD", True),
        ("XBT/USD", True),
        ("?TC-USD", True),
        ("ETH-*", False),
        ("BTC", False),
        ("kraken", False),
        ("[BX]TC-USD", False),
        (".*", False),
    ],
)
def test_a_pattern_means_a_market_by_its_id_its_symbol_or_its_pair(pattern, fits):
    assert matcher([pattern])("kraken:kraken:XBT/USD", "BTC-USD") is fits
    assert matcher(["nothing", pattern])("kraken:kraken:XBT/USD", "BTC-USD") is fits


def test_a_market_of_unknown_pair_is_meant_by_its_id_alone():
    assert matcher(["cryptowatch:*"])("cryptowatch:odd:xyz", None)
    assert not matcher(["BTC-*"])("cryptowatch:odd:xyz", None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("5 min", 300), ("1.5h", 5400), ("2d", 172_800), (7, 7), (0, 0)],
)
def test_durations_are_read_in_their_units(text, seconds):
    assert duration_s(text, "x") == seconds


def test_a_message_shows_what_is_known_and_a_question_mark_for_the_rest():
    message = "{market}: {value:.2f} {average:.1f} {samples:>4}"
    assert filled(message, {"market": "BTC-USD", "value": 1.234, "samples": 60}) == "BTC-USD: 1.23 ?   60"


def test_another_threshold_keeps_the_distance_of_recovery():
    rule = with_threshold(read_rule("one", SHORT | {"recover": 2}), 6)
    assert (rule.condition, rule.threshold, rule.recover) == ("ratio_1h > 6.0", 6, 4)
    free = with_threshold(read_rule("one", {"condition": "5 < ratio_1h and value > 10"}), 2.5)
    assert free.condition == "2.5 < ratio_1h AND value > 10" and free.threshold == 2.5
    with pytest.raises(ConfigError, match="no threshold to set"):
        with_threshold(read_rule("one", {"condition": "value > average_1h"}), 2)


def test_the_file_of_rules_is_no_environment():
    from cryptomon_lib.config import environments

    assert "alerts" not in environments() and (Path(home()) / "params" / "alerts.yaml").is_file()


# ---- unit tests of rules


@pytest.mark.parametrize("outcome", run_rule_tests(), ids=lambda outcome: f"{outcome.file}: {outcome.name}")
def test_the_folder_of_rule_tests(outcome):
    assert outcome.passed, f"\n{outcome.difference}"


@pytest.fixture
def run(tmp_path):
    """Runs one rule test from its text; how what came differs."""

    def ran(text):
        path = tmp_path / "one.yaml"
        path.write_text(text)
        return run_rule_tests(path, [read_rule("volume", SHORT)])

    return ran


def test_a_failing_rule_test_shows_what_was_expected_and_what_came(run):
    (outcome,) = run(
        "tests:\n- name: wrong\n  rule: volume\n  given: [{values: 100x60 400 100}]\n"
        "  expect: [{at: 60m, state: firing}, {at: 62m, state: resolved}]"
    )
    assert not outcome.passed
    assert outcome.difference.splitlines()[1:] == [
        "     60m  firing    kraken:kraken:BTC-USD",
        "-    62m  resolved  kraken:kraken:BTC-USD",
        "+    61m  resolved  kraken:kraken:BTC-USD",
    ]


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ("{name: a, rule: vollume, given: []}", "no rule is called 'vollume'. Did you mean volume"),
        (
            "{name: a, rule: {times: 3}, given: []}",
            "one.yaml: test 'a': rule given: the short form needs a measure",
        ),
        ("{name: a, rule: volume, given: [{values: 100y3}]}", "'100y3' is no term"),
        ("{name: a, rule: volume, given: [{values: 1x999999}]}", "more than 100,000"),
        ("{name: a, rule: volume, given: [{}]}", "one of them"),
        ("{name: a, rule: volume, given: [{columns: {value: 1x3, ratio_1h: 1x4}}]}", "all need as many"),
        ("{name: a, rule: volume, given: [{value: 3}]}", "unknown field `value`"),
        ("{name: a, rule: volume, every: 0, given: [{values: 1x2}]}", "time has to go on"),
        ("{rule: volume, given: []}", "`name`"),
    ],
)
def test_a_rule_test_that_cannot_be_read_says_where_and_what(run, test, says):
    with pytest.raises(ConfigError, match=r"one\.yaml") as caught:
        run(f"tests: [{test}]")
    assert says in str(caught.value)


def test_a_series_is_written_in_short():
    assert expanded("100x2 _ -1.5 1+2x3 _x2", "x") == [100, 100, None, -1.5, 1, 3, 5, None, None]


# ---- the README's worked example


def test_the_readme_s_rule_does_what_the_readme_says_of_it(tmp_path):
    (text,) = re.findall(r"```yaml\n(rules:.*?)```", (home() / "README.md").read_text(encoding="utf-8"), re.S)
    (tmp_path / "alerts.yaml").write_text(text)
    (tmp_path / "tests.yaml").write_text(
        """
tests:
- name: three times does not fire, a hundredth more does, and nothing but dollars
  rule: dollar_volume_3x
  given:
  - {market: "x:x:AT-USD", values: 100x60 300}
  - {market: "x:x:OVER-USD", values: 100x60 300.01}
  - {market: "x:x:OVER-EUR", values: 100x60 900}
  expect: [{at: 60m, state: firing, market: "x:x:OVER-USD", says: "OVER-USD: 300.01 in a minute, 3.0 x the hour's average"}]
"""
    )
    (outcome,) = run_rule_tests(tmp_path / "tests.yaml", load_rules(tmp_path / "alerts.yaml"))
    assert outcome.passed, outcome.difference
