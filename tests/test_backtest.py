"""What a rule would have done: firings, ends, cool-downs, notices and prices, counted by hand; settings side by side."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from cryptomon_lib.backtest import backtest_rule, other_threshold, window
from cryptomon_lib.errors import ConfigError, PayloadError
from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.receivers import Log, Subscription, User
from cryptomon_lib.rules import read_rule

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BTC, ETH = "kraken:kraken:BTC-USD", "kraken:kraken:ETH-USD"
LENGTH = 200
END = NOON + (LENGTH - 1) * MINUTE
# of the average of the hour before: 3 times, 3.87, 4.15, 3.5; and 4 times for ETH
VOLUMES = {BTC: {60: 300.0, 61: 400.0, 63: 450.0, 150: 350.0}, ETH: {61: 400.0}}
RULE = read_rule("volume", {"measure": "volume_24h", "times": 3, "cool_down": "1h"})
USER = User(name="maria", receivers={"log": Log()}, alerts=(Subscription(rules=("volume",)),), resolved=False)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, table_of):
    """A monitor with 200 minutes of two markets: 100 a minute but for a few, prices that rise by 0.1 a minute from 10."""
    monitor = open_monitor("local", flags={"root": str(tmp_path_factory.mktemp("backtest"))})
    rows = [
        {
            "market_id": market,
            "collected_at": NOON + MINUTE * minute,
            "volume_24h": values.get(minute, 100.0),
            "price": 10 + minute / 10,
        }
        for market, values in VOLUMES.items()
        for minute in range(LENGTH)
    ]
    monitor.lake.append("ticks", [Batch("ticks", table_of("ticks", rows))])
    return monitor


def minutes(firings, column="fired_at"):
    """Market and minute of each, in order."""
    since = [
        (moment.to_pydatetime().replace(tzinfo=UTC) - NOON) // MINUTE if not pd.isna(moment) else None
        for moment in firings[column]
    ]
    return sorted(zip(firings["market_id"], since, strict=True))


def test_every_firing_its_end_and_what_people_are_told_are_as_counted_by_hand(filled):
    found = backtest_rule(filled, RULE, NOON, END, user=USER)

    assert minutes(found.firings) == [(BTC, 61), (BTC, 63), (BTC, 150), (ETH, 61)]
    assert minutes(found.firings, "resolved_at") == [(BTC, 62), (BTC, 64), (BTC, 151), (ETH, 62)]
    assert set(found.firings["minutes"]) == {1}
    # within an hour of the one that was told
    assert minutes(found.firings[~found.firings["told"]]) == [(BTC, 63)]
    (said,) = found.settings.to_dict("records")
    assert (said["firings"], said["markets"], said["told"], said["notices"]) == (4, 2, 3, 2)
    assert said["per_day"] == pytest.approx(4 * 1440 / (LENGTH - 1))


def test_markets_of_one_minute_are_one_notice(filled):
    found = backtest_rule(filled, RULE, NOON, END, user=USER)

    told = [
        ((one.at.replace(tzinfo=UTC) - NOON) // MINUTE, one.transitions) for one in found.notices.itertuples()
    ]
    assert told == [(61, 2), (150, 1)]


def test_a_user_who_has_not_subscribed_to_the_rule_gets_no_notice(filled):
    other = User(name="tom", receivers={"log": Log()}, alerts=(Subscription(rules=("price_3x",)),))

    assert backtest_rule(filled, RULE, NOON, END, user=other).notices.empty


def test_the_price_in_the_hour_after_is_in_percent_of_that_when_it_fired(filled):
    found = backtest_rule(filled, RULE, NOON, END).firings
    after = {
        minute: (row.price, row.after_1h_pct)
        for row in found.itertuples()
        for minute in [(row.fired_at.to_pydatetime().replace(tzinfo=UTC) - NOON) // MINUTE]
    }

    assert after[61] == (pytest.approx(16.1), pytest.approx(100 * (22.1 / 16.1 - 1)))
    assert after[63] == (pytest.approx(16.3), pytest.approx(100 * (22.3 / 16.3 - 1)))
    # an hour later is after the end of what is known
    assert after[150][0] == pytest.approx(25) and pd.isna(after[150][1])


def test_thresholds_side_by_side_are_each_what_the_rule_would_be_with_it(filled):
    found = backtest_rule(filled, RULE, NOON, END, {"threshold": [2, 3, 4, 5]}, user=USER)

    columns = ["firings", "markets", "told", "notices"]
    assert {name: tuple(row) for name, row in found.settings[columns].iterrows()} == {
        "threshold=2": (4, 2, 3, 3),
        "threshold=3": (4, 2, 3, 2),
        "threshold=4": (1, 1, 1, 1),
        "threshold=5": (0, 0, 0, 0),
    }
    two = found.firings[found.firings["setting"] == "threshold=2"]
    # 3.0 and 3.87 times follow each other and are one alert
    assert minutes(two) == [(BTC, 60), (BTC, 63), (BTC, 150), (ETH, 61)] and two["minutes"].max() == 2


def test_without_the_cool_down_everything_is_told(filled):
    found = backtest_rule(filled, RULE, NOON, END, {"cool_down": [0, "1h", "3h"]}, user=USER)

    assert dict(found.settings["told"]) == {"cool_down=0": 4, "cool_down=1h": 3, "cool_down=3h": 2}
    assert set(found.settings["firings"]) == {4}


def test_a_condition_of_several_parts_and_a_recovery_are_followed(filled):
    rule = read_rule("large", {"condition": "measure = 'volume_24h' and ratio_1h > 3 and value >= 400"})
    kept = read_rule("kept", {"measure": "volume_24h", "times": 3, "keep_firing_for": "5m"})

    assert minutes(backtest_rule(filled, rule, NOON, END).firings) == [(BTC, 61), (BTC, 63), (ETH, 61)]
    # 61 and 63 are one then; it is over when five minutes of 64 on were below
    longest = backtest_rule(filled, kept, NOON, END, markets=[BTC]).firings
    assert minutes(longest) == [(BTC, 61), (BTC, 150)]
    assert minutes(longest, "resolved_at") == [(BTC, 69), (BTC, 156)]


def test_only_the_markets_that_are_named_and_only_the_time_that_is_asked_for(filled):
    one = backtest_rule(filled, RULE, NOON, END, markets=[ETH])
    pattern = read_rule("eth", {"measure": "volume_24h", "times": 3, "markets": "*ETH*"})

    assert minutes(one.firings) == minutes(backtest_rule(filled, pattern, NOON, END).firings) == [(ETH, 61)]
    # 61 is not after 61
    late = backtest_rule(filled, RULE, NOON + 61 * MINUTE, NOON + 100 * MINUTE)
    assert minutes(late.firings) == [(BTC, 63)]


def test_what_fires_at_the_end_lasts_until_then(filled):
    found = backtest_rule(filled, RULE, NOON, NOON + 63 * MINUTE, markets=[BTC]).firings
    alight = found[found["resolved_at"].isna()]

    assert minutes(alight) == [(BTC, 63)] and list(alight["minutes"]) == [0]


def test_a_view_that_only_knows_now_is_asked_as_of_each_minute(filled):
    rule = read_rule("away", {"view": "zscore_1h", "condition": "measure = 'volume_24h' and zscore_1h > 7"})
    found = backtest_rule(filled, rule, NOON + 148 * MINUTE, NOON + 152 * MINUTE, markets=[BTC])

    # the hour before 150 moved nowhere, so it has no deviation to be away by; 63 is out of it by then
    assert found.firings.empty and found.settings["firings"].tolist() == [0]
    early = backtest_rule(filled, rule, NOON + 59 * MINUTE, NOON + 62 * MINUTE, markets=[BTC])
    # 300 is one of sixty there: a deviation of 25.8, and 400 is 11.5 of them away
    assert minutes(early.firings) == [(BTC, 61)]


def test_another_threshold_on_one_market_looks_at_the_last_hours_only(filled):
    assert minutes(other_threshold(filled, RULE, 4, BTC, END, hours=4)) == [(BTC, 63)]
    assert other_threshold(filled, RULE, 4, ETH, END, hours=4).empty
    assert other_threshold(filled, RULE, 4, BTC, END, hours=1).empty


def test_nothing_was_collected_so_nothing_would_have_fired(local):
    found = backtest_rule(local, RULE, NOON, END, {"threshold": [2, 3]}, user=USER)

    assert found.firings.empty and found.notices.empty and found.transitions.num_rows == 0
    assert found.settings["firings"].tolist() == found.settings["notices"].tolist() == [0, 0]
    assert found.settings["after_1h_pct_median"].isna().all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"treshold": [2]}, "no setting treshold.*threshold"),
        ({"threshold": ["much"]}, "threshold is 'much'; it has to be a number"),
        ({"threshold": [float("nan")]}, "finite"),
        ({"recover": [4]}, "beyond the threshold"),
        ({"cool_down": ["soon"]}, "write it as 90s, 5m, 1h or 2d"),
    ],
)
def test_a_setting_that_a_rule_cannot_take_is_refused_by_name(local, settings, says):
    with pytest.raises(ConfigError, match=says):
        backtest_rule(local, RULE, NOON, END, settings)


def test_a_rule_without_a_number_has_no_other_threshold(local):
    rule = read_rule("silent", {"view": "now_1h", "condition": "average_1h is null"})

    with pytest.raises(ConfigError, match="has no threshold to set"):
        other_threshold(local, rule, 2, BTC, END)


def test_no_time_at_all_is_refused(local):
    with pytest.raises(ConfigError, match="of no time"):
        backtest_rule(local, RULE, END, END)


def test_a_window_is_a_length_or_two_moments():
    assert window("7d", "2026-07-27T12:00:00Z") == (NOON - timedelta(days=7), NOON)
    assert window("2026-07-27T11:00:00Z", "2026-07-27T12:00:00Z") == (NOON - timedelta(hours=1), NOON)
    assert datetime.now(UTC) - window("90m")[1] < timedelta(minutes=5)
    for wrong in ("a week", "2026-07-99"):
        with pytest.raises((ConfigError, PayloadError)):
            window(wrong)
