"""Checks of the data: what each finds and what it leaves alone, and how findings come, stay and go."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from cryptomon_lib import health
from cryptomon_lib.errors import QueryError, Unhealthy
from cryptomon_lib.health import CRITICAL, INFO, WARNING, check_health
from cryptomon_lib.holes import note_holes
from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import budgets

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def keep(local, open_at, table_of):
    """A monitor of one exchange and what stores its rows."""
    monitor = open_at(local.storage.root, exchanges=["kraken"])
    kept = iter(range(1000))

    def store(table, rows):
        monitor.lake.append(table, [Batch(f"{next(kept)}", table_of(table, rows))])
        return monitor

    return SimpleNamespace(monitor=monitor, store=store)


def ticks(market="kraken:kraken:A-USD", minutes=range(-70, 1), price=lambda minute: 100.0 + minute, **fixed):
    """Ticks by minutes from noon; a field that is a function is given the minute."""
    return [
        {"market_id": market, "collected_at": NOON + minute * MINUTE, "volume_24h": 1000.0 + minute}
        | {
            name: value(minute) if callable(value) else value
            for name, value in ({"price": price} | fixed).items()
        }
        for minute in minutes
    ]


def found(monitor, check, at=NOON + timedelta(seconds=5)):
    return {one.subject: one.severity for one in check_health(monitor, at).findings if one.check == check}


def test_data_that_is_as_it_should_be_has_no_finding(keep):
    for market in ("kraken:kraken:A-USD", "binance:binance:A-USD", "coinbase:coinbase:A-USD"):
        monitor = keep.store("ticks", ticks(market, exchange_at=lambda minute: NOON + minute * MINUTE))
    report = check_health(monitor, NOON + timedelta(seconds=5))
    assert report.findings == [] and report.status == "ok" and report.changes == 0
    report.check(strict=True)
    assert set(report.seconds) == set(health.checks())


@pytest.mark.parametrize(("age", "severity"), [(100, None), (200, WARNING), (1000, CRITICAL)])
def test_old_ticks_are_found(keep, age, severity):
    monitor = keep.store("ticks", ticks())
    assert found(monitor, "fresh", NOON + timedelta(seconds=age)).get("kraken") == severity


def test_an_exchange_that_never_ticked_is_a_warning_and_one_that_went_silent_is_critical(keep):
    assert found(keep.monitor, "fresh") == {"kraken": WARNING}
    keep.store("ticks", ticks())
    assert found(keep.monitor, "fresh", NOON + timedelta(days=3)) == {"kraken": CRITICAL}


def test_old_candles_are_found_beside_fresh_ticks(keep):
    keep.store("ticks", ticks())
    rows = [
        {
            "market_id": "kraken:kraken:A-USD",
            "interval_s": 60,
            "opened_at": NOON - 30 * MINUTE,
            "close": 1.0,
            "origin": "live",
        }
    ]
    keep.store("candles", rows)
    assert found(keep.monitor, "fresh") == {"kraken candles": WARNING}


@pytest.mark.parametrize(("minutes", "severity"), [(5, None), (20, WARNING), (200, CRITICAL)])
def test_a_payload_that_waits_is_found(keep, minutes, severity):
    slot = NOON - minutes * MINUTE
    keep.monitor.storage.put(
        f"ingest/api.kraken.com/0/public/Ticker/{slot:%Y-%m-%d/%Y%m%dT%H%M%SZ}.json.gz", b"x"
    )
    assert found(keep.monitor, "stuck").get("api.kraken.com") == severity


@pytest.mark.parametrize(("count", "severity"), [(1, WARNING), (51, CRITICAL)])
def test_quarantine_is_found_with_its_newest_reason(keep, count, severity):
    for number in range(count):
        key = f"quarantine/api.kraken.com/0/public/Ticker/2026-07-27/{number:03}.json.gz.reason.json"
        keep.monitor.storage.put(key, json.dumps({"reason": f"reason {number}"}).encode())
    now = datetime.now(UTC)
    (one,) = [one for one in check_health(keep.monitor, now).findings if one.check == "quarantine"]
    assert one.severity == severity and f"reason {count - 1}" in one.says
    assert found(keep.monitor, "quarantine", now + timedelta(days=2)) == {}


def test_a_market_that_ticks_no_more_and_one_that_is_new_are_told(keep):
    for number in range(8):
        keep.store("ticks", ticks(f"kraken:kraken:M{number}-USD", range(-120, 1)))
    keep.store("ticks", ticks("kraken:kraken:OLD-USD", range(-120, -40)))
    keep.store("ticks", ticks("kraken:kraken:NEW-USD", range(-20, 1)))
    assert found(keep.monitor, "vanished") == {"kraken:kraken:OLD-USD": INFO}
    assert found(keep.monitor, "appeared") == {"kraken:kraken:NEW-USD": INFO}


def test_many_markets_that_tick_no_more_are_one_critical_finding(keep):
    for number in range(5):
        keep.store("ticks", ticks(f"kraken:kraken:M{number}-USD", range(-120, 1 if number < 2 else -40)))
    assert found(keep.monitor, "vanished") == {"kraken": CRITICAL}


def test_an_answer_that_is_always_the_same_is_critical(keep):
    for number in range(3):
        keep.store("ticks", ticks(f"kraken:kraken:M{number}-USD", price=7.0, volume_24h=9.0))
    assert found(keep.monitor, "frozen") == {"kraken": CRITICAL}
    keep.store("ticks", ticks("kraken:kraken:LIVE-USD"))
    assert found(keep.monitor, "frozen") == {}


def test_a_price_that_stands_still_while_its_market_trades_is_found(keep):
    book = {"bid": 6.99, "ask": 7.01}
    keep.store("ticks", ticks("kraken:kraken:STUCK-USD", price=7.0, **book))
    keep.store("ticks", ticks("kraken:kraken:QUIET-USD", price=7.0, volume_24h=5.0, **book))
    keep.store("ticks", ticks("kraken:kraken:COARSE-BTC", price=7e-8, bid=7e-8, ask=8e-8))
    keep.store(
        "ticks", ticks("kraken:kraken:BOOK-USD", price=7.0, bid=lambda minute: 6 + minute / 1000, ask=7.01)
    )
    assert found(keep.monitor, "stale_price") == {"kraken:kraken:STUCK-USD": WARNING}


def test_a_price_far_from_all_others_of_its_pair_is_found(keep):
    for exchange, price in {"kraken": 100.0, "binance": 101.0, "coinbase": 99.0, "okx": 150.0}.items():
        keep.store("ticks", ticks(f"{exchange}:{exchange}:A-USD", price=price))
    # of two nobody knows which is wrong
    for exchange, price in {"kraken": 100.0, "binance": 200.0}.items():
        keep.store("ticks", ticks(f"{exchange}:{exchange}:B-USD", price=price))
    assert found(keep.monitor, "outlier") == {"okx:okx:A-USD": WARNING}


@pytest.mark.parametrize(
    ("seconds", "severity"), [(0, None), (-60, None), (-300, WARNING), (4, None), (9, WARNING)]
)
def test_clocks_that_differ_are_found(keep, seconds, severity):
    at = timedelta(seconds=seconds)
    keep.store("ticks", ticks(exchange_at=lambda minute: NOON + minute * MINUTE + at))
    assert found(keep.monitor, "clock").get("kraken") == severity


def test_yesterday_s_missing_polls_are_found_and_what_was_before_the_first_is_none(keep):
    # noon to 16:00 and 18:00 to 24:00 of yesterday, and on
    keep.store("ticks", ticks(minutes=[*range(-1440, -1200), *range(-1080, -600)]))
    note_holes(keep.monitor, NOON - timedelta(hours=10))
    report = check_health(keep.monitor, NOON)
    told = {one.subject: one.says for one in report.findings if one.check == "incomplete"}
    assert list(told) == ["kraken"] and told["kraken"].startswith("120 of 1,440 polls of yesterday")


def test_a_host_that_banned_us_is_told(keep):
    budgets(keep.monitor.settings).ban("api.kraken.com", 500, "HTTP 418 at 12:00:00 UTC")
    (one,) = [one for one in check_health(keep.monitor).findings if one.check == "banned"]
    assert one.subject == "api.kraken.com" and "HTTP 418" in one.says


def test_runs_that_fail_are_found_until_one_succeeds(keep):
    def record(number, status, notebook="20_flatten"):
        now = datetime.now(UTC) - timedelta(minutes=10 - number)
        body = {"notebook": notebook, "status": status, "started_at": now.isoformat(), "reason": "why"}
        keep.monitor.storage.put(
            f"runs/{datetime.now(UTC):%Y-%m-%d}/{notebook}{number}.json", json.dumps(body).encode()
        )

    record(0, "failed", "60_health")
    record(1, "failed")
    assert found(keep.monitor, "runs", None) == {"20_flatten": WARNING}
    record(2, "timeout")
    record(3, "failed")
    assert found(keep.monitor, "runs", None) == {"20_flatten": CRITICAL}
    record(4, "succeeded")
    assert found(keep.monitor, "runs", None) == {}


def test_a_disk_that_is_nearly_full_is_found(local, open_at):
    monitor = open_at(local.storage.root, health={"disk_free_gb": 1e6})
    assert found(monitor, "disk") == {local.storage.root: CRITICAL}


# ---- how findings come, stay and go


def told(stored, monitor):
    return [
        (row["state"], row["severity"], row["subject"])
        for row in sorted(stored(monitor, "findings"), key=lambda row: row["at"])
    ]


def test_a_finding_is_told_when_it_comes_changes_stays_for_a_day_and_goes(keep, stored):
    monitor = keep.store("ticks", ticks())
    for minutes in (4, 5, 6, 30, 60):
        check_health(monitor, NOON + minutes * MINUTE)
    expected = [("found", WARNING, "kraken"), ("worse", CRITICAL, "kraken")]
    assert told(stored, monitor) == expected
    check_health(monitor, NOON + timedelta(hours=13))
    check_health(monitor, NOON + timedelta(hours=14))
    expected.append(("still", CRITICAL, "kraken"))
    assert told(stored, monitor) == expected
    keep.store("ticks", ticks(minutes=[15 * 60]))
    report = check_health(monitor, NOON + timedelta(hours=15))
    assert told(stored, monitor) == [*expected, ("gone", CRITICAL, "kraken")]
    assert not [one for one in report.findings if one.check == "fresh"]
    check_health(monitor, NOON + timedelta(hours=15))
    assert len(stored(monitor, "findings")) == 4
    assert {row["since_at"] for row in stored(monitor, "findings")} == {NOON + 4 * MINUTE}


def test_the_report_is_a_small_json_and_an_exit_code(keep):
    monitor = keep.store("ticks", ticks())
    report = check_health(monitor, NOON + timedelta(hours=1))
    says = json.loads(monitor.storage.get("health.json"))
    assert (says["status"], says["exit_code"], says["counts"]["critical"]) == ("critical", 8, 1)
    (one,) = says["findings"]
    assert (one["check"], one["subject"], one["since"]) == ("fresh", "kraken", "2026-07-27T13:00:00+00:00")
    with pytest.raises(Unhealthy, match="fresh, kraken: the newest tick is 60 min old"):
        report.check()


def test_a_warning_is_no_failure_unless_it_is_asked_to_be(keep):
    report = check_health(keep.store("ticks", ticks()), NOON + 4 * MINUTE)
    report.check()
    with pytest.raises(Unhealthy):
        report.check(strict=True)


def test_a_check_that_fails_is_a_finding_stops_no_other_and_keeps_what_it_found(keep, stored, monkeypatch):
    monitor = keep.store("ticks", ticks())
    check_health(monitor, NOON + 4 * MINUTE)

    def broken(look):
        raise QueryError("no such column")
        yield

    monkeypatch.setitem(health._CHECKS, "fresh", broken)
    report = check_health(monitor, NOON + 5 * MINUTE)
    assert {(one.check, one.subject) for one in report.findings} == {
        ("fresh", "the check itself"),
        ("fresh", "kraken"),
    }
    assert set(report.seconds) == set(health.checks())
    assert ("gone", WARNING, "kraken") not in told(stored, monitor)


def test_a_check_is_added_in_one_place(keep, monkeypatch):
    monkeypatch.setattr(health, "_CHECKS", dict(health._CHECKS))

    @health.check
    def mine(look):
        """A check of one's own."""
        yield "here", INFO, "hello"

    assert (
        found(keep.monitor, "mine") == {"here": INFO} and health.checks()["mine"] == "A check of one's own."
    )
