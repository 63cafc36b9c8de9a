"""What was missed: the arithmetic of minutes, the table holes, and a day with faults after which nothing is missing."""

import os
import random
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest

from cryptomon_lib import exchanges, holes
from cryptomon_lib.backfill import fill_holes, parse_since
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CollectError, ConfigError, ParameterError, UnknownMarket
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.holes import (
    FILLED,
    OPEN,
    UNFILLABLE,
    Hole,
    common,
    joined,
    load_holes,
    minute_of,
    moment_of,
    note_holes,
    opened,
    settle,
    size,
    spans_of,
    union,
    without,
)
from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import open_fetcher
from cryptomon_lib.simulator import Simulator

START = datetime(2026, 7, 27, 22, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
KRAKEN, COINBASE = "kraken:kraken:BTC/USD", "coinbase:coinbase:BTC-USD"
EVERY = ["kraken", "coinbase", "binance"]


@pytest.fixture(scope="module")
def _simulator():
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(_simulator):
    _simulator.set_faults([])
    _simulator.requests.clear()
    return _simulator


@pytest.fixture
def polled(local, open_at, simulator):
    """A monitor in a folder, whose exchanges are the simulated ones and whose watchlist is short."""
    flags = {"hosts": simulator.hosts, "watchlist": ["BTC-USD", "ETH-USDT"], "exchanges": EVERY}
    return open_at(local.storage.root, fetch={"attempts": 1}, **flags)


def live(monitor, minutes, start=START, names=EVERY, endpoint="all"):
    """Live through so many minutes."""
    collect_payloads(monitor, names, endpoint, samples=minutes, as_of=start)
    flatten_payloads(monitor)


def candle_calls(simulator):
    return sum(
        count
        for path, count in simulator.requests.items()
        if "OHLC" in path or "candles" in path or "klines" in path
    )


def minutes_of(monitor, now, measure, since, count):
    """By market: the minutes (by their end) in which the view has a value of the measure, and how often."""
    found = {}
    for row in Engine(monitor, now).query("select * from measures where measure = :m", m=measure).to_pylist():
        minute = minute_of(row["at"])
        if minute_of(since) < minute <= minute_of(since) + count:
            found.setdefault(row["market_id"], []).append(minute)
    return found


# ---- minutes


def test_arithmetic_of_spans_is_that_of_sets_of_minutes():
    chance = random.Random(7)
    for _ in range(300):
        made = [
            [
                (first, first + chance.randrange(6))
                for first in (chance.randrange(60) for _ in range(chance.randrange(7)))
            ]
            for _ in range(2)
        ]
        one, other = ({minute for a, b in spans for minute in range(a, b + 1)} for spans in made)
        assert union(made[0]) == spans_of(one)
        assert without(*made) == spans_of(one - other)
        assert common(*made) == spans_of(one & other)
        assert size(union(made[0])) == len(one)


def test_a_minute_is_named_by_its_end_and_knows_its_moment():
    assert moment_of(minute_of(START)) == START == moment_of(minute_of(START + timedelta(seconds=59)))
    assert minute_of(START.replace(tzinfo=None)) == minute_of(START)


@pytest.mark.parametrize(
    ("text", "back"), [("30d", 43200), ("12h", 720), ("90min", 90), ("2026-07-27T21:00:00Z", 60)]
)
def test_since_is_a_span_or_a_moment(text, back):
    assert parse_since(text, START) == START - back * MINUTE


@pytest.mark.parametrize("text", ["30", "d", "-1d", "soon", "2026-07-28T00:00:00Z", "99999999999999d"])
def test_any_other_since_is_an_error_that_shows_how(text):
    with pytest.raises(ParameterError, match="since is"):
        parse_since(text, START)


def hole(first, last, state=OPEN, reason="r", subject="s", measure="price", closed=None):
    closed = closed if closed is not None or state == OPEN else 9000
    return Hole(subject, measure, first, last, last - first + 1, state, reason, 1, closed)


def test_only_open_minutes_are_settled_and_what_is_left_stays_open():
    rows = [hole(10, 20), hole(30, 40, FILLED), hole(10, 20, measure="volume_1m")]
    after = settle(rows, ("s", "price"), [(15, 35)], UNFILLABLE, "gone", 99)
    told = {(one.measure, one.first, one.last, one.state, one.closed) for one in after}
    assert told == {
        ("price", 10, 14, OPEN, None),
        ("price", 15, 20, UNFILLABLE, 99),
        ("price", 30, 40, FILLED, 9000),
        ("volume_1m", 10, 20, OPEN, None),
    }
    assert settle(after, ("s", "price"), [(15, 35)], UNFILLABLE, "gone", 100) == after


def test_a_minute_has_one_row_of_a_measure():
    rows = opened([hole(10, 20, FILLED)], ("s", "price"), [(5, 25), (12, 13)], "why", 7)
    assert [(one.first, one.last, one.state) for one in rows] == [
        (10, 20, FILLED),
        (5, 9, OPEN),
        (21, 25, OPEN),
    ]


def test_rows_that_touch_and_say_the_same_are_one():
    rows = [hole(1, 2), hole(3, 4), hole(5, 6, reason="other"), hole(8, 9, reason="other")]
    assert [(one.first, one.last, one.minutes) for one in joined(rows)] == [(1, 4, 4), (5, 6, 2), (8, 9, 2)]


def test_many_closed_rows_of_a_day_are_joined_and_open_ones_never_hidden():
    closed = [hole(10 * index, 10 * index, FILLED) for index in range(100)]
    still_open = [hole(505, 505)]
    after = joined([*closed, *still_open])
    assert [one.span for one in after if one.state == OPEN] == [(505, 505)]
    filled = [one for one in after if one.state == FILLED]
    assert len(filled) == 2 and sum(one.minutes for one in filled) == 100
    assert not common([one.span for one in filled], [(505, 505)])
    assert joined(after) == after


# ---- the table


@pytest.fixture
def monitor(local):
    return local


@pytest.fixture
def keep(monitor, table_of):
    """Stores ticks and candles of a market by minutes after the start."""
    kept = iter(range(1000))

    def store(table, minutes, market="kraken:kraken:BTC-USD", **fixed):
        when = "collected_at" if table == "ticks" else "opened_at"
        rows = [
            {"market_id": market, when: START + minute * MINUTE, "price": 1.0, "interval_s": 60, "close": 1.0}
            | {"volume": 1.0, "origin": "live"}
            | ({} if table == "ticks" else {"collected_at": START + minute * MINUTE})
            | fixed
            for minute in minutes
        ]
        monitor.lake.append(table, [Batch(f"{next(kept)}", table_of(table, rows))])

    return store


def rows_of(monitor):
    return [
        (
            one.subject,
            one.measure,
            one.first - minute_of(START),
            one.last - minute_of(START),
            one.minutes,
            one.state,
        )
        for one in load_holes(monitor)
    ]


def test_holes_follow_the_gaps_and_a_second_look_changes_nothing(monitor, keep):
    keep("ticks", [*range(1, 10), *range(13, 30)])
    keep("candles", [*range(0, 10), *range(17, 30)])
    now = START + 30 * MINUTE
    note_holes(monitor, now)
    expected = [
        ("kraken", "ticks", 10, 12, 3, UNFILLABLE),
        # a candle that opened at 9 ends at 10
        ("kraken:kraken:BTC-USD", "price", 11, 12, 2, OPEN),
        ("kraken:kraken:BTC-USD", "volume_1m", 11, 17, 7, OPEN),
    ]
    assert rows_of(monitor) == expected
    version = monitor.lake.open("holes").version()
    note_holes(monitor, now)
    assert rows_of(monitor) == expected and monitor.lake.open("holes").version() == version


@pytest.mark.s3
def test_holes_are_kept_on_s3_too(s3, open_at, table_of):
    monitor = open_at(s3.root, s3.endpoint_url)
    rows = [
        {"market_id": "kraken:kraken:BTC-USD", "collected_at": START + minute * MINUTE, "price": 1.0}
        for minute in (*range(10), *range(13, 30))
    ]
    monitor.lake.append("ticks", [Batch("a", table_of("ticks", rows))])
    for minutes in (30, 31, 32):
        note_holes(monitor, START + minutes * MINUTE)
    assert rows_of(monitor) == [("kraken", "ticks", 10, 12, 3, UNFILLABLE)]


def test_a_hole_whose_minutes_come_after_all_is_filled(monitor, keep):
    keep("ticks", range(30))
    keep("candles", [*range(0, 10), *range(15, 30)])
    note_holes(monitor, START + 30 * MINUTE)
    keep("candles", [11, 12])
    note_holes(monitor, START + 31 * MINUTE)
    assert rows_of(monitor) == [
        ("kraken:kraken:BTC-USD", "volume_1m", 11, 11, 1, OPEN),
        ("kraken:kraken:BTC-USD", "volume_1m", 12, 13, 2, FILLED),
        ("kraken:kraken:BTC-USD", "volume_1m", 14, 15, 2, OPEN),
    ]


def test_days_in_which_nothing_ran_are_a_hole_although_the_view_sees_24_h_only(monitor, keep):
    keep("ticks", range(30))
    keep("candles", range(30))
    note_holes(monitor, START + 35 * MINUTE)
    later = 3 * 1440
    keep("ticks", range(later, later + 30))
    keep("candles", range(later, later + 30))
    note_holes(monitor, START + (later + 35) * MINUTE)
    # the last tick was of minute 29; the last candle ended with minute 30
    assert [row for row in rows_of(monitor) if row[2] < later] == [
        ("kraken", "ticks", 30, later - 1, later - 30, UNFILLABLE),
        ("kraken:kraken:BTC-USD", "price", 31, later - 1, later - 31, OPEN),
        ("kraken:kraken:BTC-USD", "volume_1m", 31, later, later - 30, OPEN),
    ]


def test_the_views_account_for_what_was_closed(monitor, keep):
    keep("ticks", range(60))
    keep("candles", [*range(0, 20), *range(30, 60)])
    now = START + 60 * MINUTE
    note_holes(monitor, now)

    def closed(rows):
        rows = settle(
            rows,
            ("kraken:kraken:BTC-USD", "volume_1m"),
            [(minute_of(START) + 21, minute_of(START) + 24)],
            FILLED,
            "nothing was traded",
            1 << 26,
        )
        return settle(
            rows,
            ("kraken:kraken:BTC-USD", "volume_1m"),
            [(minute_of(START) + 25, minute_of(START) + 25)],
            UNFILLABLE,
            "gone",
            1 << 26,
        )

    holes.update_holes(monitor, closed, minute_of(now))
    (gap,) = Engine(monitor, now).query("select * from gaps").to_pylist()
    assert (gap["minutes"], gap["untraded"], gap["lost"], gap["open"]) == (10, 4, 1, 5)
    rows = Engine(monitor, now).query("select * from completeness").to_pylist()
    told = {row["measure"]: row for row in rows}
    assert (told["volume_1m"]["samples"], told["volume_1m"]["untraded"], told["volume_1m"]["lost"]) == (
        50,
        4,
        1,
    )
    assert told["volume_1m"]["share"] == pytest.approx(54 / 1440)
    assert (told["price"]["samples"], told["price"]["filled"]) == (61, 1)


def test_a_price_that_no_poll_brought_is_its_candle_s_close_and_goes_when_a_tick_comes(monitor, keep):
    keep("ticks", [1, 2, 4])
    keep("candles", range(5), close=7.0)
    now = START + 5 * MINUTE + timedelta(seconds=30)
    text = "select at, value, origin from measures where measure = 'price' order by at"

    def prices():
        rows = Engine(monitor, now).query(text).to_pylist()
        return [(minute_of(row["at"]) - minute_of(START), row["value"], row["origin"]) for row in rows]

    assert prices() == [(1, 1, "tick"), (2, 1, "tick"), (3, 7, "candle"), (4, 1, "tick"), (5, 7, "candle")]
    keep("ticks", [3])
    assert prices()[2] == (3, 1, "tick") and len(prices()) == 5


# ---- filling


def test_a_first_history_is_filled_newest_first_and_only_once(polled, simulator):
    now = START + 120 * MINUTE
    done = fill_holes(polled, "20h", ["btc-usd"], as_of=now)
    assert (done.count("open"), done.failed) == (0, 0)
    # Kraken keeps 720 minutes, and says so of the rest
    assert done.minutes[KRAKEN]["lost"] == 1200 - 720 + 1 and done.minutes[KRAKEN]["filled"] == 720 - 6
    assert done.minutes[COINBASE]["filled"] + done.minutes[COINBASE]["untraded"] == 1200 - 5
    lost = [one for one in load_holes(polled) if one.state == UNFILLABLE]
    assert {one.reason for one in lost} == {"kraken keeps the newest 720 minutes of candles only"}
    asked = candle_calls(simulator)
    again = fill_holes(polled, "20h", ["btc-usd"], as_of=now)
    assert (again.calls, candle_calls(simulator)) == (0, asked)


def test_rows_that_were_filled_in_say_so_and_their_payloads_are_kept(polled, stored):
    fill_holes(polled, "1h", ["BTC-USD"], ["coinbase"], as_of=START)
    assert {row["origin"] for row in stored(polled, "candles")} == {"backfill"}
    (one,) = [one.key for one in polled.storage.objects("archive") if "candles" in one.key]
    assert "start=" in one and one.endswith("20260727T220000Z.json.gz")


def test_what_is_older_than_the_market_is_named_and_not_asked_for_without_end(polled, simulator, monkeypatch):
    module = exchanges.get("coinbase")
    whole = module.flatten_candles

    def since_noon(body):
        """A market that began at noon."""
        columns, rejected = whole(body)
        keep = [ms >= (START - timedelta(hours=10)).timestamp() * 1000 for ms in columns["opened_at_ms"]]
        return {
            name: [one for one, kept in zip(values, keep, strict=True) if kept]
            for name, values in columns.items()
        }, rejected

    monkeypatch.setattr(module, "flatten_candles", since_noon)
    done = fill_holes(polled, "20d", ["BTC-USD"], ["coinbase"], as_of=START)
    assert done.minutes[COINBASE]["open"] == 0
    assert done.minutes[COINBASE]["lost"] == 20 * 1440 - 600 - 0
    assert {one.reason.split(":")[0] for one in load_holes(polled) if one.state == UNFILLABLE} == {
        "coinbase has no candle that old"
    }
    # two days of nothing are enough: 300 minutes a call
    assert candle_calls(simulator) < 30


def test_a_minute_without_a_trade_is_no_hole(polled, simulator, monkeypatch):
    module = exchanges.get("coinbase")
    whole = module.flatten_candles

    def quiet(body):
        columns, rejected = whole(body)
        keep = [ms // 60000 % 7 != 0 for ms in columns["opened_at_ms"]]
        return {
            name: [one for one, kept in zip(values, keep, strict=True) if kept]
            for name, values in columns.items()
        }, rejected

    monkeypatch.setattr(module, "flatten_candles", quiet)
    done = fill_holes(polled, "10h", ["BTC-USD"], ["coinbase"], as_of=START)
    assert done.minutes[COINBASE]["open"] == 0
    assert done.minutes[COINBASE]["untraded"] == pytest.approx(600 / 7, abs=3)
    assert len(load_holes(polled)) < 60
    asked = candle_calls(simulator)
    assert fill_holes(polled, "10h", ["BTC-USD"], ["coinbase"], as_of=START).calls == 0
    assert candle_calls(simulator) == asked


def test_a_call_that_fails_leaves_its_hole_open_with_the_reason_and_the_next_run_fills_it(polled, simulator):
    simulator.set_faults([{"kind": "500", "exchange": "coinbase", "route": "candles"}])
    done = fill_holes(polled, "10h", ["BTC-USD"], ["coinbase", "binance", "kraken"], as_of=START)
    assert done.failed == 2 and done.minutes[COINBASE]["open"] == 595 and done.minutes[KRAKEN]["open"] == 0
    reasons = {one.reason for one in load_holes(polled) if one.state == OPEN}
    assert len(reasons) == 1 and "HTTP 500" in reasons.pop()
    done.check()
    with pytest.raises(CollectError, match="None of 2 calls"):
        fill_holes(polled, "10h", ["BTC-USD"], ["coinbase"], as_of=START).check()

    simulator.set_faults([])
    assert fill_holes(polled, "1h", ["BTC-USD"], ["coinbase"], as_of=START).minutes[COINBASE]["filled"] == 595


def test_what_was_asked_for_once_and_failed_is_asked_for_by_the_next_run_of_the_watchlist(polled, simulator):
    simulator.set_faults([{"kind": "500", "exchange": "coinbase", "route": "candles"}])
    fill_holes(polled, "1h", ["SOL-USD"], ["coinbase"], as_of=START)
    simulator.set_faults([])
    done = fill_holes(polled, "2h", as_of=START)
    assert done.minutes["coinbase:coinbase:SOL-USD"]["filled"] == 55
    assert done.minutes[COINBASE]["filled"] == 115
    # it is on no watchlist: what it lacks later is nobody's loss
    live(polled, 30)
    note_holes(polled, START + 40 * MINUTE)
    assert not [one for one in load_holes(polled) if one.state == OPEN and "SOL" in one.subject]
    assert [one for one in load_holes(polled) if one.state == OPEN and one.subject == COINBASE]


def test_a_source_that_fails_again_and_again_is_left_alone_until_the_next_run(polled, simulator):
    simulator.set_faults([{"kind": "500", "exchange": "coinbase", "route": "candles"}])
    done = fill_holes(polled, "20d", ["BTC-USD"], ["coinbase"], as_of=START)
    assert done.failed == candle_calls(simulator) == 16 and done.minutes[COINBASE]["open"] == 20 * 1440 - 5


def test_a_run_that_is_out_of_time_leaves_the_rest_to_the_next(polled, monkeypatch):
    assert fill_holes(polled, "10h", ["BTC-USD"], as_of=START, seconds=0).calls == 0
    ticking = iter([0.0, 0.0, 1.0, 0.0, *[9.0] * 99])
    # the first call of the round begins in time, the others do not
    monkeypatch.setattr("cryptomon_lib.backfill.monotonic", lambda: next(ticking))
    monkeypatch.setattr("cryptomon_lib.backfill._ROUND", 1)
    assert fill_holes(polled, "10h", ["BTC-USD"], as_of=START, seconds=5).calls == 1
    monkeypatch.undo()
    assert fill_holes(polled, "10h", ["BTC-USD"], as_of=START).count("open") == 0


def test_what_nobody_has_is_an_error_that_names_the_nearest(polled):
    with pytest.raises(UnknownMarket, match=r"BTC-UDS.*Did you mean BTC-USD"):
        fill_holes(polled, "1h", ["BTC-UDS"], as_of=START)
    with pytest.raises(ConfigError, match="None of cryptowatch has candles"):
        fill_holes(polled, "1h", ["BTC-USD"], ["cryptowatch"], as_of=START)


def test_where_no_exchange_has_candles_the_scheduled_run_has_nothing_to_do(local, open_at):
    monitor = open_at(local.storage.root, exchanges=["cryptowatch"], watchlist=["BTC-USD"])
    done = fill_holes(monitor, as_of=START)
    assert done.calls == 0 and done.table.empty
    with pytest.raises(ConfigError, match="None of cryptowatch has candles"):
        fill_holes(monitor, markets=["BTC-USD"], as_of=START)


def test_calls_keep_to_their_share_of_the_budget(local, open_at, simulator, monkeypatch):
    monitor = open_at(
        local.storage.root, hosts=simulator.hosts, calls_per_min={"coinbase": 600}, backfill={"share": 0.5}
    )
    fetcher = open_fetcher(monitor.settings, monitor.settings.backfill.share)
    waits = []
    monkeypatch.setattr(fetcher, "_sleep", waits.append)
    monkeypatch.setattr(fetcher.budgets, "_now", lambda: 1.8e9)
    fill_holes(monitor, "30d", ["BTC-USD"], ["coinbase"], as_of=START, fetcher=fetcher)
    # 144 calls at 300 a minute: sixty at once, the others a quarter of a second apart
    assert candle_calls(simulator) == 144
    assert max(waits) == pytest.approx((144 - 60) * 60 / 241, abs=0.5)


# ---- killed, and a day with faults


def fill_until_killed(root, hosts, folder):
    from cryptomon_lib.monitor import open_monitor

    flags = {"root": root, "hosts": hosts, "fetch": {"pause_s": 0.05, "budgets": folder, "workers": 1}}
    fill_holes(open_monitor("local", flags=flags), "5d", ["BTC-USD"], ["coinbase"], as_of=START)


def test_a_run_that_is_killed_is_taken_up_where_it_was(polled, simulator, start_process, stored, tmp_path):
    process = start_process(
        fill_until_killed, polled.storage.root, simulator.hosts, str(tmp_path / "budgets")
    )
    for _ in range(1000):
        # past the first round, inside the second
        if candle_calls(simulator) >= 19 or not process.is_alive():
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join(20)
    before = candle_calls(simulator)
    assert 19 <= before < 24

    done = fill_holes(polled, "5d", ["BTC-USD"], ["coinbase"], as_of=START)
    # what lay in the queue was not asked for again
    assert candle_calls(simulator) <= 24 + 1 and done.minutes[COINBASE]["open"] == 0
    rows = [row["opened_at"] for row in stored(polled, "candles")]
    assert len(rows) == len(set(rows))
    untraded = sum(
        one.minutes for one in load_holes(polled) if one.measure == "price" and "nothing" in one.reason
    )
    assert len(rows) + untraded == pytest.approx(5 * 1440 - 5, abs=60)


def test_hours_with_faults_are_complete_after_the_backfill(local, open_at, simulator, stored):
    """Over midnight: 3 % of calls fail, one exchange is down for two hours, a process is killed for twenty minutes."""
    names = ["kraken", "coinbase"]
    polled = open_at(
        local.storage.root,
        hosts=simulator.hosts,
        fetch={"attempts": 1},
        exchanges=names,
        watchlist=["BTC-USD"],
    )
    down = (START + timedelta(minutes=60), START + timedelta(minutes=180))
    simulator.set_faults(
        [
            {"kind": "503", "exchange": "kraken", "from": down[0].isoformat(), "to": down[1].isoformat()},
            {"kind": "500", "share": 0.03},
        ]
    )
    live(polled, 20, names=names)
    # killed: nothing runs for twenty minutes
    live(polled, 160, START + 40 * MINUTE, names)
    now, length = START + 200 * MINUTE, 195
    simulator.set_faults([])
    missing = {row["subject"] for row in Engine(polled, now).query("select * from gaps").to_pylist()}
    assert {*names, KRAKEN, COINBASE} <= missing

    done = fill_holes(polled, "1h", as_of=now)

    assert done.count("open") == 0 and done.failed == 0
    for measure in ("price", "volume_1m"):
        found = minutes_of(polled, now, measure, START, length)
        untraded = {}
        for one in load_holes(polled):
            if one.measure == measure and one.reason == "nothing was traded":
                untraded.setdefault(one.subject, []).append(one.span)
        for market in (KRAKEN, COINBASE):
            minutes = [minute for minute in found[market] if minute <= minute_of(START) + length]
            assert len(minutes) == len(set(minutes)), (market, measure)
            span = (minute_of(START) + 1, minute_of(START) + length)
            left = without(without([span], spans_of(minutes)), untraded.get(market, []))
            assert left == [], (market, measure)
    # the polls that nobody can ask for again are named
    lost = {one.subject: 0 for one in load_holes(polled) if one.state == UNFILLABLE}
    for one in load_holes(polled):
        lost[one.subject] = lost.get(one.subject, 0) + (one.minutes if one.measure == "ticks" else 0)
    assert lost["kraken"] >= 140 and 20 <= lost["coinbase"] <= 45
    assert not [one for one in load_holes(polled) if one.state == OPEN]
    keys = [(row["market_id"], row["opened_at"]) for row in stored(polled, "candles")]
    assert len(keys) == len(set(keys))
    ticks = [(row["market_id"], row["collected_at"]) for row in stored(polled, "ticks")]
    assert len(ticks) == len(set(ticks))
    # a second run has nothing to do
    assert fill_holes(polled, "1h", as_of=now).calls == 0
