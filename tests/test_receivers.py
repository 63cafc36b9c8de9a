"""params/receivers.yaml: who is told of what; a mistake names user, key and the nearest, a secret is never repeated."""

import re
from datetime import time
from pathlib import Path

import pytest

from cryptomon_lib.errors import ConfigError
from cryptomon_lib.receivers import Apprise, File, Log, load_users, user_named


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a receivers.yaml into a project of its own."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "base.yaml").write_text("{}")
    monkeypatch.setenv("CRYPTOMON_HOME", str(tmp_path))
    return (tmp_path / "params" / "receivers.yaml").write_text


MARIA = """
users:
    maria:
        alerts: [{rules: ["volume_*"], severities: [critical], markets: ["BTC-*", "kraken:*"]}]
        receivers: {mail: {kind: apprise, url_env: MARIA_MAIL}, log: {kind: log}}
        time_zone: Europe/Berlin
        quiet_hours: "22:00-07:30"
        environments: [live]
"""


def test_the_delivered_file_tells_everyone_by_log_and_file_without_an_account():
    users = load_users("local")

    assert {type(one) for user in users.values() for one in user.receivers.values()} == {Log, File}


def test_a_user_has_what_the_file_says(written):
    written(MARIA)
    maria = user_named("maria")

    assert maria.quiet == (time(22), time(7, 30))
    assert maria.receivers == {"mail": Apprise(url_env="MARIA_MAIL"), "log": Log()}
    assert (maria.notices_per_hour, maria.resolved, maria.always) == (10, True, ())


def test_a_user_is_told_only_in_the_environments_named(written):
    written(MARIA)

    assert list(load_users("live")) == ["maria"]
    assert list(load_users("local")) == []


@pytest.mark.parametrize(
    ("rule", "severity", "names", "wanted"),
    [
        ("volume_3x", "critical", ("kraken:kraken:XBT", "BTC-USD"), True),
        ("volume_3x", "critical", ("binance:binance:BTCUSDT", "kraken:BTC"), True),
        ("volume_3x", "warning", ("BTC-USD",), False),
        ("price_3x", "critical", ("BTC-USD",), False),
        ("volume_3x", "critical", ("ETH-BTC",), False),
    ],
)
def test_rule_severity_and_market_all_have_to_fit(written, rule, severity, names, wanted):
    written(MARIA)

    assert user_named("maria").wants(rule, severity, names) is wanted


LOG = "receivers: {log: {kind: log}}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("user: {}", "unknown key user. Did you mean users?"),
        ("users: [maria]", "users has to be name:"),
        ("users: {maria: }", "user maria: it has to be keys and values"),
        ("users: {maria: {receivers: {}}}", "user maria: receivers has to name at least one"),
        (f"users: {{../up: {{{LOG}}}}}", "a name is made of letters"),
        (f"users: {{maria: {{{LOG}, quiet_hour: x}}}}", "unknown key quiet_hour. Did you mean quiet_hours?"),
        (f"users: {{maria: {{{LOG}, quiet_hours: 22-7}}}}", 'write it as "22:00-07:00"'),
        (f"users: {{maria: {{{LOG}, quiet_hours: '07:00-07:00'}}}}", "begin and end at the same time"),
        (f"users: {{maria: {{{LOG}, time_zone: Europa/Berlin}}}}", "write it as Europe/Berlin"),
        (f"users: {{maria: {{{LOG}, time_zone: ../etc}}}}", "write it as Europe/Berlin"),
        (f"users: {{maria: {{{LOG}, notices_per_hour: 0}}}}", "notices_per_hour"),
        (f"users: {{maria: {{{LOG}, always: [grave]}}}}", "info, warning, critical"),
        (
            f"users: {{maria: {{{LOG}, alerts: [{{rule: [x]}}]}}}}",
            "alerts, no. 1: unknown key rule. Did you mean rules?",
        ),
        (f"users: {{maria: {{{LOG}, alerts: {{}}}}}}", "alerts has to be a list"),
        (f"users: {{maria: {{{LOG}, alerts: [{{rules: [volum_3x]}}]}}}}", "Did you mean volume_3x?"),
        ("users: {maria: {receivers: {x: {kind: mail}}}}", "receiver x: kind is 'mail'."),
        ("users: {maria: {receivers: {x: {kind: webhok}}}}", "Did you mean webhook?"),
        ("users: {maria: {receivers: {x: {kind: log, url: y}}}}", "receiver x: unknown key url."),
        ("users: {maria: {receivers: {x: {kind: apprise}}}}", "url_env"),
        ("users: {maria: {receivers: {x: {kind: apprise, url_env: CRYPTOMON_X}}}}", "take another name"),
        ("users: {maria: {receivers: {x: {kind: webhook, secret_env: S}}}}", "give either url, or url_env"),
        ("users: {maria: {receivers: {x: {kind: sns, topic_arn: alerts}}}}", "arn:aws:sns:REGION"),
        ("users: {maria: {receivers: {log: {kind: log}, log: {kind: file}}}}", "stands twice"),
    ],
)
def test_a_mistake_names_the_file_the_user_the_key_and_what_it_has_to_be(written, text, says):
    written(text)

    with pytest.raises(ConfigError) as raised:
        load_users(rules={"volume_3x": (), "price_3x": ()})

    assert "receivers.yaml" in str(raised.value) and says in str(raised.value)


def test_a_rule_that_names_a_receiver_which_nobody_has_is_told_the_nearest(written):
    written(MARIA)

    assert load_users(rules={"volume_3x": ["mail"]})
    with pytest.raises(ConfigError, match=r"rule volume_3x: .*receiver 'mial'\. Did you mean mail"):
        load_users(rules={"volume_3x": ["mial"]})


def test_a_rule_that_is_kept_elsewhere_may_be_subscribed_to(written):
    written(MARIA)

    with pytest.raises(ConfigError, match="no rule is called"):
        load_users(rules={"price_3x": ()})
    assert load_users(rules={"price_3x": ()}, is_rule=lambda pattern: pattern == "volume_*")


def test_an_unknown_user_is_told_the_nearest(written):
    written(MARIA)

    with pytest.raises(ConfigError, match=r"no user 'mario'\. Did you mean maria"):
        user_named("mario")


@pytest.mark.parametrize(
    "keys",
    [
        "{kind: apprise, url_env: 'mailto://maria:hunter2@example.org'}",
        "{kind: webhook, secret_env: 'hunter2!', url: 'https://example.org/x'}",
        "{kind: webhook, secret_env: S, url: 'https://maria:hunter2@example.org/x'}",
        "{kind: webhook, secret_env: S, url: 'https://example.org/x?key=hunter2'}",
    ],
)
def test_a_secret_that_stands_in_the_file_by_mistake_is_refused_and_not_repeated(written, keys):
    written(f"users: {{maria: {{receivers: {{x: {keys}}}}}}}")

    with pytest.raises(ConfigError) as raised:
        load_users()

    assert "hunter2" not in str(raised.value)
    assert "environment variable" in str(raised.value) or "url_env" in str(raised.value)


def test_the_users_of_the_documentation_are_taken(written):
    text = (Path(__file__).parent.parent / "docs" / "notices.md").read_text()
    shown = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.S) if block.startswith("users:")]

    assert len(shown) == 2
    for block in shown:
        written(block)
        assert load_users()
