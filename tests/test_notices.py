"""When messages go out: grouped, held by quiet hours and caps, told late as one digest; the same live and in hindsight."""

from datetime import UTC, datetime, timedelta

import pytest

from cryptomon_lib.notices import (
    Stream,
    Transition,
    due_at,
    is_quiet,
    keys_of,
    notice_id,
    notices_of,
    quiet_until,
    step,
    transitions_of,
)
from cryptomon_lib.receivers import Log, Subscription, User

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def user(**keys):
    return User(**{"name": "maria", "receivers": {"log": Log()}} | keys)


def fired(minute, market="BTC-USD", state="firing", severity="warning", rule="volume_3x", began=None):
    """A transition so many minutes after noon."""
    began = minute if began is None else began
    return Transition(
        at=NOON + minute * MINUTE,
        alert_id=f"{rule}-{market}-{began}",
        state=state,
        rule=rule,
        market_id=f"kraken:kraken:{market}",
        severity=severity,
        started_at=NOON + began * MINUTE,
    )


def at(minute):
    return NOON + minute * MINUTE


def told(notices):
    """Minute, kind and number of transitions of each."""
    return [((one.at - NOON) // MINUTE, one.kind, len(one.transitions)) for one in notices]


# ---- grouping


def test_57_markets_that_crash_together_make_one_message():
    crash = [fired(3, f"C{number}-USD") for number in range(57)]

    assert told(notices_of(user(), crash)) == [(3, "alert", 57)]


def test_what_a_user_did_not_subscribe_to_is_not_told():
    only = user(alerts=(Subscription(rules=("volume_*",), severities=("critical",), markets=("BTC-*",)),))
    rows = [
        fired(0, severity="critical"),
        fired(0, severity="warning", market="BTC-EUR"),
        fired(0, severity="critical", market="ETH-USD"),
        fired(0, severity="critical", rule="price_3x"),
    ]

    (notice,) = notices_of(only, rows)
    assert notice.transitions == (rows[0],)


def test_ends_are_told_only_to_whom_they_are_wanted():
    rows = [fired(0), fired(5, state="resolved", began=0)]

    assert told(notices_of(user(resolved=True), rows)) == [(0, "alert", 1), (5, "alert", 1)]
    assert told(notices_of(user(resolved=False), rows)) == [(0, "alert", 1)]


def test_an_end_within_the_quiet_hours_is_told_beside_its_beginning_to_all():
    night = user(quiet_hours="12:00-13:00", resolved=False)

    (digest,) = notices_of(night, [fired(0), fired(5, state="resolved", began=0)])
    assert [one.state for one in digest.transitions] == ["firing", "resolved"]


# ---- caps


def test_a_cap_holds_the_rest_and_tells_it_in_one_digest_when_there_is_room():
    storm = [fired(minute) for minute in range(30)]

    assert told(notices_of(user(notices_per_hour=3), storm)) == [
        (0, "alert", 1),
        (1, "alert", 1),
        (2, "alert", 1),
        (60, "digest", 27),
    ]


@pytest.mark.parametrize("cap", [1, 2, 5])
def test_no_hour_has_more_messages_than_the_cap_and_none_is_missed(cap):
    storm = [fired(minute, f"C{minute % 7}-USD") for minute in range(0, 600, 2)]
    notices = notices_of(user(notices_per_hour=cap), storm)

    for one in notices:
        assert sum(timedelta() <= other.at - one.at < timedelta(hours=1) for other in notices) <= cap
    assert sorted(each for one in notices for each in one.transitions) == sorted(storm)


def test_no_cap_is_one_message_for_each_minute():
    assert len(notices_of(user(notices_per_hour=None), [fired(minute) for minute in range(100)])) == 100


# ---- quiet hours


def test_quiet_hours_hold_and_then_tell_in_one_digest():
    night = user(quiet_hours="12:00-14:00")

    assert told(notices_of(night, [fired(1), fired(30), fired(119), fired(121)])) == [
        (120, "digest", 3),
        (121, "alert", 1),
    ]


def test_a_severity_that_is_always_told_passes_quiet_hours_and_cap():
    night = user(quiet_hours="12:00-14:00", always=("critical",))
    rows = [fired(1), fired(2, severity="critical"), fired(3)]
    assert told(notices_of(night, rows)) == [(2, "alert", 1), (120, "digest", 2)]

    busy = user(notices_per_hour=1, always=("critical",))
    assert told(notices_of(busy, [fired(0), *rows]))[:2] == [(0, "alert", 1), (2, "alert", 1)]


@pytest.mark.parametrize(
    ("clock", "zone", "quiet"),
    [
        ("2026-07-27T19:59", "Europe/Berlin", False),
        ("2026-07-27T20:00", "Europe/Berlin", True),
        ("2026-07-28T04:59", "Europe/Berlin", True),
        ("2026-07-28T05:00", "Europe/Berlin", False),
        # in winter the same hours of the clock are an hour later in UTC
        ("2026-12-27T20:30", "Europe/Berlin", False),
        ("2026-12-28T05:30", "Europe/Berlin", True),
        ("2026-07-27T12:00", "Asia/Kolkata", False),
        ("2026-07-27T16:30", "Asia/Kolkata", True),
    ],
)
def test_quiet_hours_are_those_of_the_users_clock(clock, zone, quiet):
    moment = datetime.fromisoformat(clock).replace(tzinfo=UTC)
    assert is_quiet(user(quiet_hours="22:00-07:00", time_zone=zone), moment) is quiet


@pytest.mark.parametrize(
    ("quiet_hours", "now", "until"),
    [
        ("22:00-07:00", "2026-07-27T21:00", "2026-07-28T05:00"),
        # the clock is set back at 01:00 UTC: the night is an hour longer
        ("22:00-07:00", "2026-10-24T22:00", "2026-10-25T06:00"),
        # the clock is set forward at 01:00 UTC: 02:30 does not exist in that night
        ("22:00-02:30", "2026-03-28T23:00", "2026-03-29T01:00"),
    ],
)
def test_quiet_hours_end_by_the_users_clock_in_the_night_when_it_changes_too(quiet_hours, now, until):
    night = user(quiet_hours=quiet_hours, time_zone="Europe/Berlin")
    now, until = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (now, until))

    assert is_quiet(night, now) and is_quiet(night, until - MINUTE) and not is_quiet(night, until)
    assert quiet_until(night, now) == until


def test_what_is_held_by_the_cap_until_the_night_waits_for_the_morning():
    both = user(notices_per_hour=1, quiet_hours="12:30-20:00")

    assert told(notices_of(both, [fired(0), fired(10)])) == [(0, "alert", 1), (480, "digest", 1)]


# ---- late


def test_a_days_outage_is_told_as_one_digest():
    missed = [fired(minute, f"C{minute}-USD") for minute in range(0, 1440, 5)]

    stream, notice = step(user(), Stream(), missed, at(1441))
    assert (notice.kind, len(notice.transitions)) == ("digest", 288)
    assert step(user(), stream, [], at(1442))[1] is None


def test_what_comes_while_a_receiver_is_away_is_one_digest_when_it_is_back():
    stream = Stream()
    for minute in range(60):
        stream, notice = step(user(), stream, [fired(minute)], at(minute), blocked=True)
        assert notice is None

    stream, notice = step(user(), stream, [fired(60)], at(60))
    assert (notice.kind, len(notice.transitions)) == ("digest", 61)
    assert stream.held == ()


def test_what_is_held_beyond_what_is_kept_is_counted():
    stream, _ = step(user(), Stream(), [fired(0, f"C{n}-USD") for n in range(6000)], at(0), blocked=True)
    assert (len(stream.held), stream.more) == (5000, 1000)

    stream, notice = step(user(), stream, [], at(1))
    assert (len(notice.transitions), notice.more, stream.more) == (5000, 1000, 0)


# ---- live and in hindsight


@pytest.mark.parametrize(
    "keys", [{}, {"notices_per_hour": 2}, {"quiet_hours": "13:00-15:00", "always": ("critical",)}]
)
def test_a_run_each_minute_sends_what_hindsight_says(keys):
    rows = [
        fired(minute, f"C{minute % 5}-USD", severity="critical" if minute % 11 == 0 else "warning")
        for minute in range(0, 240, 3)
    ]
    stream, live = Stream(), []
    for minute in range(400):
        stream, notice = step(user(**keys), stream, [one for one in rows if one.at == at(minute)], at(minute))
        live += [notice] if notice else []

    assert live == notices_of(user(**keys), rows)


def test_nothing_held_is_due_never():
    assert due_at(user(), Stream(sent=(NOON,)), NOON) is None


# ---- ids and rows


def test_an_id_is_that_of_user_receiver_and_changes_told_whenever_and_in_whichever_order():
    _, one = step(user(), Stream(), [fired(0), fired(0, "ETH-USD")], at(0))
    _, two = step(user(), Stream(), [fired(0, "ETH-USD"), fired(0)], at(3))

    assert notice_id("maria", "log", one) == notice_id("maria", "log", two)
    assert (
        len({notice_id(name, receiver, one) for name in ("maria", "bob") for receiver in ("log", "mail")})
        == 4
    )
    _, three = step(user(), Stream(), [fired(0), fired(1, "ETH-USD")], at(1))
    assert notice_id("maria", "log", three) != notice_id("maria", "log", one)


def test_rows_of_the_table_become_transitions_without_those_that_nobody_is_told_of(table_of):
    common = {"rule": "r", "market_id": "kraken:kraken:XBT/USD", "severity": "info", "started_at": NOON}
    named = {"exchange": "kraken", "symbol": "XBT/USD", "market": "BTC-USD"}
    states = enumerate(("pending", "lapsed", "firing", "resolved", "no_data", "data"))
    rows = [common | named | {"alert_id": "a", "state": state, "at": at(n)} for n, state in states]
    rows.append(common | named | {"alert_id": "b", "state": "firing", "at": at(9), "quiet": "cool_down"})

    found = transitions_of(table_of("alerts", rows))

    assert [one.state for one in found] == ["firing", "resolved", "no_data", "data"]
    assert [one.is_over for one in found] == [False, True, False, True]
    assert found[0].market_names == ("kraken:kraken:XBT/USD", "kraken:BTC-USD", "BTC-USD", "XBT/USD")


def test_rows_have_the_keys_of_their_transitions_to_the_second(table_of):
    common = {"rule": "r", "market_id": "kraken:kraken:XBT/USD", "severity": "info", "started_at": NOON}
    times = [at(0), at(1) + timedelta(microseconds=999_999), at(60 * 24 * 200)]
    rows = table_of(
        "alerts",
        [common | {"alert_id": f"{n}", "state": "firing", "at": when} for n, when in enumerate(times)],
    )

    assert keys_of(rows).to_pylist() == [one.key for one in transitions_of(rows)]
