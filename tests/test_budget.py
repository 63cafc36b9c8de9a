"""Budgets of hosts: one pace for all processes of a machine, bans that all of them respect."""

import os
import signal
import time
from bisect import bisect_left

import pytest

from cryptomon_lib.budget import BACKGROUND, Budgets
from cryptomon_lib.config import load_settings
from cryptomon_lib.errors import Forbidden, RateLimited
from cryptomon_lib.fetch import Fetcher
from cryptomon_lib.monitor import open_fetcher
from cryptomon_lib.simulator import Simulator

HOST = "api.test"


class Clock:
    """A clock that tests move."""

    def __init__(self, at=1_800_000_000.0):
        self.at = at

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def budgets(tmp_path, clock):
    return Budgets(tmp_path / "budgets", clock)


@pytest.fixture
def simulator():
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def fetcher(tmp_path):
    """Makes a fetcher as another process would: it shares nothing with the others but the folder."""

    def make(**settings):
        quick = {"attempts": 1, "pause_s": 0, "backoff_s": 0.01, "read_timeout_s": 5} | settings
        fetch = load_settings("local", flags={"fetch": quick}).fetch
        return Fetcher(fetch, budgets=Budgets(tmp_path / "budgets"), calls_per_min={"binance": 6000})

    return make


def starts_of(budgets, clock, count, calls_per_min, lane="live"):
    """When so many calls start that are asked for as soon as the one before has started."""
    found = []
    for _ in range(count):
        clock.at += budgets.reserve(HOST, calls_per_min, lane)
        found.append(clock.at)
    return found


def most_in_a_minute(starts):
    return max(bisect_left(starts, first + 60) - index for index, first in enumerate(starts))


@pytest.mark.parametrize("calls_per_min", [1, 2, 7, 60, 300])
def test_no_minute_has_more_calls_than_the_budget_and_none_is_wasted(budgets, clock, calls_per_min):
    starts = starts_of(budgets, clock, 4 * calls_per_min, calls_per_min)

    assert most_in_a_minute(starts) <= calls_per_min
    assert starts[-1] - starts[0] < 60 * 4 * 1.3


def test_a_poll_of_a_few_calls_starts_at_once(budgets, clock):
    assert [budgets.reserve(HOST, 60) for _ in range(12)] == [0] * 12
    assert budgets.reserve(HOST, 60) > 0
    assert budgets.reserve("other.test", 60) == 0


def test_work_that_can_wait_waits_in_a_queue_of_its_own(budgets):
    waits = [budgets.reserve(HOST, 6, BACKGROUND) for _ in range(50)]

    assert waits[-1] > 400
    assert budgets.reserve(HOST, 60) == 0


def reserve_many(folder, count):
    budgets = Budgets(folder)
    for _ in range(count):
        budgets.reserve(HOST, 60)


def hold_and_hang(folder):
    with Budgets(folder)._state(HOST) as state:
        state["next_at"] = {"live": time.time() + 30}
        time.sleep(60)


def test_processes_side_by_side_share_one_queue(tmp_path, start_process):
    processes = [start_process(reserve_many, tmp_path, 20) for _ in range(3)]
    for process in processes:
        process.join(20)
        assert process.exitcode == 0

    # 60 places are taken: the next call starts a minute later, less the dozen that start at once
    assert Budgets(tmp_path).reserve(HOST, 60) == pytest.approx(60 * (60 - 11) / 49, abs=5)


def test_a_process_that_is_killed_inside_holds_nobody_up(tmp_path, start_process):
    process = start_process(hold_and_hang, tmp_path)
    while not list(tmp_path.glob("*.lock")):
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)

    began = time.monotonic()
    assert Budgets(tmp_path).reserve(HOST, 60) == 0
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("broken", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_state_that_cannot_be_read_is_begun_anew(budgets, broken):
    budgets.reserve(HOST, 60)
    (path,) = budgets.folder.glob("*.json")
    path.write_bytes(broken)

    assert budgets.reserve(HOST, 60) == 0 and budgets.banned(HOST) is None


def test_a_clock_that_was_set_back_stops_nobody(budgets, clock):
    budgets.reserve(HOST, 1)
    budgets.ban(HOST, 60, "told")
    clock.at -= 30 * 86400

    assert budgets.reserve(HOST, 1) == 0 and budgets.banned(HOST) is None


def test_a_longer_ban_stays_and_ends_by_itself(budgets, clock):
    budgets.ban(HOST, 300, "first")
    budgets.ban(HOST, 10, "second")
    clock.at += 200

    assert budgets.bans() == {HOST: budgets.banned(HOST)}
    assert (budgets.banned(HOST).left_s, budgets.banned(HOST).says) == (100, "first")
    clock.at += 101
    assert budgets.banned(HOST) is None and budgets.bans() == {}


def test_after_a_complaint_the_pace_is_halved_for_ten_minutes(budgets, clock):
    budgets.slow_down(HOST)
    slowed = starts_of(budgets, clock, 120, 60)
    assert most_in_a_minute(slowed) <= 30

    clock.at += 700
    assert most_in_a_minute(starts_of(budgets, clock, 120, 60)) > 50


# ---- what an exchange's refusal means


def ask(fetcher, simulator, **given):
    return fetcher.get(f"{simulator.hosts['binance']}/api/v3/ticker/24hr", exchange="binance", **given)


def asked(simulator):
    return simulator.requests["binance/api/v3/ticker/24hr"]


@pytest.mark.parametrize("kind", ["429", "418"])
def test_a_ban_is_respected_by_every_process_until_it_ends(simulator, fetcher, kind):
    simulator.set_faults([{"kind": kind, "times": 1, "retry_after": 900}])
    with pytest.raises(RateLimited) as told:
        ask(fetcher(), simulator)
    assert told.value.retry_after_s == 900

    with pytest.raises(RateLimited, match=f"not asked: for another 9?[0-9]+ s .*HTTP {kind}") as kept:
        ask(fetcher(attempts=4), simulator)
    assert kept.value.retry_after_s == pytest.approx(900, abs=5)
    assert asked(simulator) == 1


def test_a_short_ban_is_waited_for_and_then_the_call_succeeds(simulator, fetcher):
    simulator.set_faults([{"kind": "429", "times": 1, "retry_after": 1}])
    one, other = fetcher(), fetcher()
    began = time.monotonic()
    with pytest.raises(RateLimited):
        ask(one, simulator)

    assert ask(other, simulator).status == 200
    assert time.monotonic() - began > 1


def test_the_wrong_country_names_the_host_to_use_instead(simulator, fetcher):
    simulator.set_faults([{"kind": "451"}])
    with pytest.raises(Forbidden, match=r"hosts: \{binance: https://data-api.binance.vision\}"):
        ask(fetcher(), simulator, elsewhere="https://data-api.binance.vision")
    with pytest.raises(Forbidden, match="leave binance out of exchanges"):
        ask(fetcher(), simulator)


def test_an_exchange_on_this_machine_has_no_budget_unless_params_give_one(local, open_at, simulator):
    def limits(**flags):
        settings = open_at(local.storage.root, **flags).settings
        return open_fetcher(settings)._calls_per_min

    assert "binance" not in limits(hosts=simulator.hosts)
    assert limits(hosts=simulator.hosts, calls_per_min={"binance": 30})["binance"] == 30
    assert limits(hosts={"binance": "https://mirror.example"})["binance"] == 600
