"""From transitions to people: each told once, whoever is away, slow, killed or twice at it."""

import importlib
import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from killing import kill_at
from receiving import Hook, Mail, closing

from cryptomon_lib.alerts import evaluate_alerts, save_rules
from cryptomon_lib.delivery import try_receivers
from cryptomon_lib.errors import ConfigError, NotifyError
from cryptomon_lib.lake import Batch, Lake
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.notify import check_evaluated, retry_parked, send_notices, users_of, watch
from cryptomon_lib.receivers import Apprise, File, Subscription, User, Webhook
from cryptomon_lib.rules import read_rule
from cryptomon_lib.storage import Storage

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def fired(minute=0, *markets, state="firing", severity="warning", rule="volume_3x"):
    """Rows of `alerts`, evaluated a minute after."""
    return [
        {
            "alert_id": f"{rule}-{market}-{minute}",
            "state": state,
            "at": NOON + minute * MINUTE,
            "rule": rule,
            "market_id": f"kraken:kraken:{market}",
            "exchange": "kraken",
            "symbol": market,
            "market": market,
            "severity": severity,
            "started_at": NOON + minute * MINUTE,
            "evaluated_at": NOON + minute * MINUTE,
        }
        for market in markets or ("BTC-USD",)
    ]


@pytest.fixture
def evaluate(table_of):
    """Writes transitions as the evaluator does."""

    def write(monitor, rows):
        monitor.lake.append("alerts", [Batch(json.dumps(rows, default=str), table_of("alerts", rows))])

    return write


@pytest.fixture
def hook():
    with closing(Hook()) as server:
        yield server


@pytest.fixture
def other():
    with closing(Hook()) as server:
        yield server


@pytest.fixture
def mail():
    with closing(Mail()) as server:
        yield server


@pytest.fixture
def webhook(monkeypatch):
    """A user told by webhook."""
    monkeypatch.setenv("HOOK_KEY", "key")

    def made(hook, name="maria", **keys):
        receiver = Webhook(url=hook.url, secret_env="HOOK_KEY", timeout_s=keys.pop("timeout_s", None))
        return User(**{"name": name, "receivers": {"hook": receiver}} | keys)

    return made


def run(monitor, *users, minute=0):
    return send_notices(monitor, now=NOON + minute * MINUTE, users={user.name: user for user in users})


def states(monitor, stored, receiver=None):
    """State and attempts of each row of `notices`, in order of attempts."""
    rows = [row for row in stored(monitor, "notices") if receiver in (None, row["receiver"])]
    return [
        (row["state"], row["attempts"]) for row in sorted(rows, key=lambda row: (row["attempts"], row["at"]))
    ]


# ---- once, and together


def test_markets_that_crash_together_are_one_message_and_another_run_sends_none(
    monitor, stored, evaluate, hook, webhook
):
    evaluate(monitor, fired(0, *(f"C{number}-USD" for number in range(57))))

    first, second = run(monitor, webhook(hook)), run(monitor, webhook(hook), minute=1)

    assert (first.transitions, first.planned, first.sent) == (57, 1, 1)
    assert (second.transitions, second.planned, second.sent) == (0, 0, 0)
    (body,) = hook.bodies
    assert len(body["alerts"]) == 57 and body["user"] == "maria" and body["simulated"] is True
    assert states(monitor, stored) == [("queued", 0), ("sent", 1)]
    (ids,) = {tuple(row["alert_ids"]) for row in stored(monitor, "notices")}
    assert len(ids) == 57


def test_what_is_committed_late_or_twice_is_told_once(local, evaluate, hook, webhook):
    evaluate(local, fired(5))
    run(local, webhook(hook), minute=6)
    # another evaluator, slower, commits an earlier minute, and one row that is in already
    evaluate(local, fired(0, "ETH-USD") + fired(5))
    run(local, webhook(hook), minute=7)
    run(local, webhook(hook), minute=8)

    assert [[one["market"] for one in body["alerts"]] for body in hook.bodies] == [["BTC-USD"], ["ETH-USD"]]


def test_of_a_day_of_small_files_only_those_of_the_last_minutes_are_read(
    local, evaluate, hook, webhook, monkeypatch
):
    for minute in range(0, 60, 2):
        evaluate(local, fired(minute))
    run(local, webhook(hook), minute=60)
    opened = []
    plain = Lake._file
    monkeypatch.setattr(
        Lake, "_file", lambda lake, name, path: opened.append(name) or plain(lake, name, path)
    )
    evaluate(local, fired(61))
    run(local, webhook(hook), minute=61)

    assert [len(body["alerts"]) for body in hook.bodies] == [30, 1]
    assert 1 <= opened.count("alerts") <= 8


def test_a_day_without_a_notifier_is_one_digest(local, evaluate, hook, webhook):
    evaluate(local, fired(-1))
    run(local, webhook(hook), minute=0)
    for minute in range(0, 1440, 60):
        evaluate(local, fired(minute))
    run(local, webhook(hook), minute=1441)

    assert [(body["kind"], len(body["alerts"])) for body in hook.bodies] == [("alert", 1), ("digest", 24)]


def test_quiet_hours_hold_over_runs_and_then_tell_one_digest(local, evaluate, hook, webhook):
    night = webhook(hook, quiet_hours="12:00-12:30")
    for number, minute in enumerate(range(0, 40, 5), 1):
        evaluate(local, fired(minute))
        told = run(local, night, minute=minute)
        assert told.held == (number if minute < 30 else 0)

    assert [(body["kind"], len(body["alerts"])) for body in hook.bodies] == [("digest", 7), ("alert", 1)]


def test_each_user_is_told_of_what_is_subscribed_to(local, evaluate, hook, other, webhook):
    bob = webhook(other, name="bob", alerts=(Subscription(markets=("ETH-*",)),))
    evaluate(local, fired(0, "BTC-USD", "ETH-USD"))
    run(local, webhook(hook), bob)

    assert [len(body["alerts"]) for body in hook.bodies] == [2]
    assert [one["market"] for body in other.bodies for one in body["alerts"]] == ["ETH-USD"]


def test_a_rule_that_names_receivers_is_told_by_those_alone(
    local, evaluate, hook, other, webhook, monkeypatch
):
    rule = read_rule("loud", {"measure": "price", "times": 3, "receivers": ["pager"]})
    monkeypatch.setattr("cryptomon_lib.notify.load_rules", lambda: (rule,))
    (quiet,), (pager,) = webhook(hook).receivers.values(), webhook(other).receivers.values()
    evaluate(local, fired(0, rule="loud") + fired(0))
    run(local, User(name="maria", receivers={"mail": quiet, "pager": pager}))

    told = [
        sorted(one["rule"] for body in server.bodies for one in body["alerts"]) for server in (hook, other)
    ]
    assert told == [["volume_3x"], ["loud", "volume_3x"]]


def test_a_subscription_is_held_against_the_rules_of_file_and_table(local, tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "base.yaml").write_text("{}")
    monkeypatch.setenv("CRYPTOMON_HOME", str(tmp_path))
    (tmp_path / "params" / "alerts.yaml").write_text("rules: {volume_3x: {measure: volume_1m, times: 3}}")
    users = tmp_path / "params" / "receivers.yaml"
    text = "users: {maria: {alerts: [{rules: [RULE]}], receivers: {log: {kind: log}}}}"

    for rule in ("volume_3x", "volume_*", "alerts_not_evaluated"):
        users.write_text(text.replace("RULE", rule))
        assert users_of(local)
    for rule in ("kept_17", "kept_*"):
        users.write_text(text.replace("RULE", rule))
        with pytest.raises(ConfigError, match="no rule is called"):
            users_of(local)
    kept = {
        "rule": ["kept_17"],
        "market_id": ["kraken:kraken:BTC-USD"],
        "view": ["now_1h"],
        "compared": ["value"],
    }
    save_rules(local, pa.table(kept | {"compare": [">"], "threshold": [1.0]}))
    for rule in ("kept_17", "kept_*"):
        users.write_text(text.replace("RULE", rule))
        assert users_of(local)


# ---- receivers that fail, hang and recover


def test_what_is_not_taken_is_tried_again_later_each_time_under_the_same_id(
    local, stored, evaluate, hook, webhook
):
    maria = webhook(hook)
    evaluate(local, fired())
    hook.answers = [500, 503]
    assert run(local, maria, minute=0).failed == 1
    # the waits are 1 and 2 minutes: not yet, second failure, not yet, taken
    sent = [run(local, maria, minute=minute).sent for minute in (0.5, 1, 2, 2.9, 3, 4)]

    assert sent == [0, 0, 0, 0, 1, 0]
    assert hook.calls == 3 and len(hook.ids) == 1
    assert states(local, stored) == [("queued", 0), ("failed", 1), ("sent", 3)]


def test_a_receiver_that_was_away_for_an_hour_gets_one_message_and_one_digest(local, evaluate, hook, webhook):
    maria = webhook(hook)
    away = [0, 1, 3, 7, 15, 30, 45]
    hook.answers = [500] * len(away)
    for minute in away:
        evaluate(local, fired(minute))
        run(local, maria, minute=minute)
    told = [run(local, maria, minute=minute) for minute in (60, 61, 62)]

    assert [one.sent for one in told] == [1, 1, 0]
    assert [(body["kind"], len(body["alerts"])) for body in hook.bodies] == [("alert", 1), ("digest", 6)]


def test_a_receiver_that_hangs_delays_nobody_and_is_tried_again(local, evaluate, hook, other, webhook):
    evaluate(local, fired())
    hook.answers = [30.0]
    users = [webhook(hook, timeout_s=0.5), webhook(other, name="bob")]

    began, told = time.monotonic(), run(local, *users)

    assert (told.sent, told.failed, told.waiting) == (1, 1, 1)
    assert time.monotonic() - began < 5 and len(other.ids) == 1
    assert run(local, *users, minute=1).sent == 1
    assert len(hook.ids) == 1


def test_fifty_receivers_that_hang_take_no_longer_than_one(local, evaluate, hook, webhook):
    evaluate(local, fired())
    hook.answers = [5.0] * 50
    users = [webhook(hook, name=f"user{number}", timeout_s=1) for number in range(50)]

    began = time.monotonic()
    assert run(local, *users).failed == 50
    assert time.monotonic() - began < 4


def test_a_poison_message_is_parked_with_its_reason_and_blocks_no_other(
    local, stored, evaluate, hook, webhook
):
    maria = webhook(hook)
    hook.answers = [413]
    evaluate(local, fired(0))
    first = run(local, maria, minute=0)
    evaluate(local, fired(1))
    second = run(local, maria, minute=1)

    assert (first.parked, first.given_up, second.sent, second.given_up) == (1, 1, 1, 1)
    (parked,) = local.storage.objects("outbox/parked")
    assert json.loads(local.storage.get(parked.key))["reason"] == "answered HTTP 413"
    assert ("parked", 1) in states(local, stored)


def test_what_was_parked_is_sent_again_on_demand_under_its_id(local, stored, evaluate, hook, webhook):
    maria = webhook(hook)
    hook.answers = [413]
    evaluate(local, fired(0))
    run(local, maria, minute=0)
    (parked,) = local.storage.objects("outbox/parked")

    assert retry_parked(local) == 1
    assert send_notices(local, users={"maria": maria}).sent == 1
    assert hook.ids == [parked.key.rsplit("/", 1)[1].removesuffix(".json")]
    assert local.storage.objects("outbox/parked") == [] and retry_parked(local) == 0
    assert {state for state, _ in states(local, stored)} == {"queued", "parked", "sent"}


def test_a_receiver_that_stays_away_is_given_up_after_a_day(local, evaluate, hook, webhook):
    maria = webhook(hook)
    hook.answers = [500] * 200
    evaluate(local, fired(0))
    tries = [run(local, maria, minute=minute) for minute in range(0, 1500, 60)]

    assert [one.parked for one in tries].index(1) * 60 == 1440
    assert tries[-1].waiting == 0
    (parked,) = local.storage.objects("outbox/parked")
    assert "after 24 h: answered HTTP 500" in local.storage.get(parked.key).decode()


def test_messages_of_a_user_who_is_gone_are_parked(local, evaluate, hook, webhook):
    hook.answers = [500]
    evaluate(local, fired(0))
    run(local, webhook(hook), minute=0)

    assert run(local, webhook(hook, name="bob"), minute=2).parked == 1
    (parked,) = local.storage.objects("outbox/parked")
    assert "no receiver maria/hook any more" in local.storage.get(parked.key).decode()


def test_a_mail_server_that_fails_hangs_and_recovers_gets_each_alert_once(local, evaluate, mail, monkeypatch):
    monkeypatch.setenv(
        "MARIA_MAIL", f"mailto://127.0.0.1:{mail.port}?from=monitor@example.org&to=maria@example.org"
    )
    # apprise takes seconds to be imported where the machine is busy, and that is none of the server's patience
    importlib.import_module("apprise")
    maria = User(name="maria", receivers={"mail": Apprise(url_env="MARIA_MAIL", timeout_s=6)})
    mail.answers = ["451 later", 9.0]
    evaluate(local, fired(0))

    told = [run(local, maria, minute=minute) for minute in (0, 1, 3, 4)]

    assert [(one.sent, one.failed) for one in told] == [(0, 1), (0, 1), (1, 0), (0, 0)]
    assert len(mail.received) == 1 and "volume_3x on kraken:BTC-USD" in mail.received[0]


# ---- two at once


def notify_in_process(root, address, name):
    os.environ["HOOK_KEY"] = "key"
    receivers = {"hook": Webhook(url=address, secret_env="HOOK_KEY"), "file": File()}
    monitor = open_monitor("local", flags={"root": root})
    send_notices(monitor, now=NOON, users={name: User(name=name, receivers=receivers)})


def test_notifiers_at_once_send_one_message(local, stored, evaluate, start_process, hook):
    evaluate(local, fired(0, *(f"C{number}-USD" for number in range(20))))
    runs = [start_process(notify_in_process, local.storage.root, hook.url, "maria") for _ in range(4)]
    for one in runs:
        one.join(60)

    assert [one.exitcode for one in runs] == [0] * 4
    assert len(hook.ids) == 1
    assert states(local, stored) == [("queued", 0)] * 2 + [("sent", 1)] * 2


def test_notifiers_at_once_in_one_process_and_on_s3_send_one_message(monitor, evaluate, hook, webhook):
    evaluate(monitor, fired())
    threads = [threading.Thread(target=run, args=(monitor, webhook(hook))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(hook.ids) == 1


# ---- kill -9

POINTS = {
    "nothing evaluated": ("cryptomon_lib.lake:Lake", "append", "before", 1),
    "evaluated, nothing planned": ("cryptomon_lib.lake:Lake", "append", "after", 1),
    "about to write the plan": ("cryptomon_lib.outbox:Outbox", "add", "before", 1),
    "the plan half written": ("os", "link", "before", 1),
    "the plan written": ("cryptomon_lib.outbox:Outbox", "add", "after", 1),
    "an attempt claimed": ("cryptomon_lib.outbox:Outbox", "claim", "after", 1),
    "both attempts claimed": ("cryptomon_lib.outbox:Outbox", "claim", "after", 2),
    "about to send": ("cryptomon_lib.channels", "send", "before", 1),
    "sent, not marked": ("cryptomon_lib.channels", "send", "after", 1),
    "both sent, one marked at most": ("cryptomon_lib.channels", "send", "after", 2),
    "about to mark": ("cryptomon_lib.outbox:Outbox", "end", "before", 1),
    "marked": ("cryptomon_lib.outbox:Outbox", "end", "after", 1),
    "both marked, nothing told": ("cryptomon_lib.lake:Lake", "append", "before", 2),
    "told, not cleaned": ("cryptomon_lib.lake:Lake", "append", "after", 2),
}


def evaluate_and_notify(root, address, rows, point):
    """What 40_alerts does, in a process of its own that is killed at a point."""
    from conftest import _table

    if point:
        kill_at(*point)
    monitor = open_monitor("local", flags={"root": root})
    monitor.lake.append("alerts", [Batch("evaluation", _table("alerts", rows))])
    notify_in_process(root, address, "maria")


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_a_kill_at_any_step_loses_no_message_and_doubles_one_at_most(
    local, stored, start_process, hook, point
):
    rows = fired(0, "BTC-USD", "ETH-USD")
    killed = start_process(evaluate_and_notify, local.storage.root, hook.url, rows, point)
    killed.join(60)
    assert killed.exitcode == -9
    again = start_process(evaluate_and_notify, local.storage.root, hook.url, rows, None)
    again.join(60)
    assert again.exitcode == 0

    assert 1 <= len(hook.ids) <= 2 and len(set(hook.ids)) == 1
    assert all(len(body["alerts"]) == 2 for body in hook.bodies)
    assert len(local.storage.objects("notices")) == 1
    told = sorted((row["receiver"], row["state"]) for row in stored(local, "notices"))
    assert told == [(name, state) for name in ("file", "hook") for state in ("queued", "sent")]


STEPS = {
    "the step of the evaluation about to be kept": ("cryptomon_lib.storage:Storage", "create", "before", 1),
    "the step kept, the table not told": ("cryptomon_lib.storage:Storage", "create", "after", 1),
    "the table told, nothing marked": ("cryptomon_lib.lake:Lake", "append", "after", 1),
    "evaluated and marked, nothing planned": ("cryptomon_lib.outbox:Outbox", "add", "before", 1),
    "sent, not marked": ("cryptomon_lib.channels", "send", "after", 1),
}


def minute_of_alerts(root, address, moment, point):
    """A minute of 40_alerts with the evaluator itself, in a process of its own that is killed at a point."""
    os.environ["HOOK_KEY"] = "key"
    if point:
        kill_at(*point)
    monitor = open_monitor("local", flags={"root": root})
    rule = read_rule("price_3x", {"measure": "price", "times": 3})
    step = evaluate_alerts(monitor, moment, [rule])
    maria = User(name="maria", receivers={"hook": Webhook(url=address, secret_env="HOOK_KEY")})
    send_notices(monitor, evaluated=step.at, now=moment, users={"maria": maria})


@pytest.mark.parametrize("point", STEPS.values(), ids=STEPS)
def test_a_kill_between_evaluation_and_message_loses_and_doubles_no_alert(
    local, table_of, start_process, hook, monkeypatch, point
):
    ticks = [
        # 100 on average; 300 does not fire, above 300 does
        {"market_id": "kraken:kraken:BTC-USD", "collected_at": NOON + minute * MINUTE, "price": price}
        for minute, price in enumerate([*[100.0] * 60, 301.0])
    ]
    local.lake.append("ticks", [Batch("ticks", table_of("ticks", ticks))])
    monkeypatch.setenv("HOOK_KEY", "key")
    before, now, after = (NOON + minute * MINUTE + timedelta(seconds=5) for minute in (59, 60, 61))
    minute_of_alerts(local.storage.root, hook.url, before, None)
    killed = start_process(minute_of_alerts, local.storage.root, hook.url, now, point)
    killed.join(60)
    assert killed.exitcode == -9
    for moment in (now, after):
        minute_of_alerts(local.storage.root, hook.url, moment, None)

    assert len(set(hook.ids)) == 1 and len(hook.ids) == (2 if "send" in point else 1)
    for body in hook.bodies:
        (alert,) = body["alerts"]
        assert (alert["rule"], alert["state"], alert["value"]) == ("price_3x", "firing", 301.0)
        assert alert["started_at"] == "2026-07-27T13:00:00.000Z"


# ---- what stays behind


def test_what_is_done_leaves_the_outbox_after_an_hour(local, evaluate, hook, webhook, monkeypatch):
    def kept(part):
        return len([one for one in local.storage.objects("outbox") if f"/{part}/" in one.key])

    for minute in range(3):
        evaluate(local, fired(minute))
        run(local, webhook(hook), minute=minute)
    assert (kept("plans"), kept("attempts")) == (6, 6)

    monkeypatch.setattr("cryptomon_lib.outbox._GRACE", timedelta())
    evaluate(local, fired(3))
    # one on its way keeps its plan, whatever its age
    hook.answers = [500]
    run(local, webhook(hook), minute=3)
    assert (kept("plans"), kept("attempts")) == (3, 4)
    run(local, webhook(hook), minute=4)
    evaluate(local, fired(5))
    run(local, webhook(hook), minute=5)
    run(local, webhook(hook), minute=6)

    assert len(set(hook.ids)) == 5
    assert (kept("plans"), kept("attempts")) == (2, 2)


def test_a_run_reads_no_message_that_is_done(local, evaluate, hook, webhook, monkeypatch):
    for minute in range(5):
        evaluate(local, fired(minute))
        run(local, webhook(hook), minute=minute)
    read = []
    plain = Storage.get
    monkeypatch.setattr(Storage, "get", lambda storage, key: read.append(key) or plain(storage, key))
    run(local, webhook(hook), minute=5)

    assert read == ["outbox/plans/000000000005.json"]


def test_a_run_with_nothing_new_writes_nothing(local, evaluate, hook, webhook):
    evaluate(local, fired())
    run(local, webhook(hook), minute=0)
    before = [(one.key, one.modified_at) for one in local.storage.objects("outbox")]
    version = local.lake.open("notices").version()
    for minute in range(1, 5):
        run(local, webhook(hook), minute=minute)

    assert [(one.key, one.modified_at) for one in local.storage.objects("outbox")] == before
    assert local.lake.open("notices").version() == version


def test_no_secret_is_anywhere_under_the_root(local, evaluate, hook, monkeypatch, caplog):
    monkeypatch.setenv("HOOK_KEY", "planted-secret-key")
    monkeypatch.setenv("HOOK_URL", f"{hook.url}/planted-secret-path")
    monkeypatch.setenv(
        "MARIA_MAIL", "mailto://maria:planted-secret-word@127.0.0.1:1?from=a@example.org&to=maria@example.org"
    )
    receivers = {
        "hook": Webhook(url_env="HOOK_URL", secret_env="HOOK_KEY"),
        "mail": Apprise(url_env="MARIA_MAIL"),
        "gone": Webhook(url="http://127.0.0.1:1/x", secret_env="HOOK_KEY"),
    }
    hook.answers = [500]
    with caplog.at_level("DEBUG"):
        evaluate(local, fired())
        told = run(local, User(name="maria", receivers=receivers))
        tried = try_receivers(local, User(name="maria", receivers=receivers))

    assert told.failed == 3 and list(tried["result"]).count("sent") == 1
    found = b"".join(local.storage.get(one.key) for one in local.storage.objects("outbox"))
    found += repr(local.lake.open("notices").to_pyarrow_table().to_pylist()).encode()
    found += (caplog.text + tried.to_string() + repr(told)).encode()
    assert b"answered HTTP 500" in found and b"planted-secret" not in found


# ---- the watch


def test_alerts_that_are_not_evaluated_are_an_alert_once_and_its_end_is_told(local, hook, webhook):
    maria = {"maria": webhook(hook)}

    def evaluated(minute):
        return send_notices(local, users=maria, evaluated=NOON + minute * MINUTE, now=NOON + minute * MINUTE)

    evaluated(0)
    told = [run(local, *maria.values(), minute=minute) for minute in (5, 10, 11, 12, 60)]
    assert [one.sent for one in told] == [0, 0, 1, 0, 0]
    assert [one.unevaluated for one in told] == [0, 0, 11, 12, 60]
    assert evaluated(61).sent == 1

    firing, resolved = hook.bodies
    assert "alerts_not_evaluated" in firing["title"] and "12:00 UTC" in firing["text"]
    assert (firing["alerts"][0]["state"], resolved["alerts"][0]["state"]) == ("firing", "resolved")
    assert firing["alerts"][0]["id"] == resolved["alerts"][0]["id"]


def test_a_job_that_watches_reads_one_object_while_all_is_well(local):
    assert watch(local, NOON) is None
    # where alerts were never evaluated, patience began with the first look
    assert watch(local, NOON + 10 * MINUTE) is None
    told = watch(local, NOON + 11 * MINUTE)
    assert told.sent == 2 and told.unevaluated == 11


def test_the_check_from_outside_says_since_when(local):
    with pytest.raises(NotifyError, match="never evaluated"):
        check_evaluated(local, NOON)
    send_notices(local, evaluated=NOON, now=NOON)
    assert check_evaluated(local, NOON + 5 * MINUTE) == 5 * MINUTE
    with pytest.raises(NotifyError, match="last evaluated 25 minutes ago, at 2026-07-27 12:00"):
        check_evaluated(local, NOON + 25 * MINUTE)


# ---- by hand


def test_a_test_message_tells_of_each_receiver_whether_it_took_it(local, hook, webhook):
    receivers = dict(webhook(hook).receivers) | {
        "file": File(),
        "gone": Webhook(url="http://127.0.0.1:1/", secret_env="HOOK_KEY"),
    }
    tried = try_receivers(local, User(name="maria", receivers=receivers))

    assert dict(tried["result"]) == {"hook": "sent", "file": "sent", "gone": "failed"}
    assert tried.loc["gone", "reason"] == "no answer: ConnectionError"
    assert hook.bodies[0]["kind"] == "test" and local.storage.objects("outbox") == []
