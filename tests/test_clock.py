"""Clocks that are set while something runs: slots under a clock of the test's own, and real processes of which
libfaketime (Debian's package faketime) sets the wall clock, as NTP or an operator does."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from clocks import NOON, FakeClock

from cryptomon_lib import collect, sampling
from cryptomon_lib.clock import floor_to, wait_for_slot
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.holes import load_holes, note_holes
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.runs import load_runs
from cryptomon_lib.simulator import Simulator

PROJECT = Path(__file__).parent.parent
MINUTE = timedelta(minutes=1)
# Debian's, for whatever machine
LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
with_faketime = pytest.mark.skipif(
    LIBRARY is None, reason="no libfaketime here: install Debian's package faketime"
)
# libfaketime takes the moments that Python sleeps until, which are of the clock that nobody sets, for moments of the
# wall; a select sleeps for so many seconds
SLEEP = """import select, time


def sleep(seconds):
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)


time.sleep = sleep
"""


def slots(clock, count, every_s=60, took_s=2.0):
    """Slots by their minute, and the second of the clock that nobody sets at which each came."""
    slot, found = floor_to(clock.now(), every_s), []
    for number in range(count):
        slot = wait_for_slot(slot, every_s, clock) if number else slot
        found.append((f"{slot:%H:%M:%S}", round(clock.monotonic())))
        clock.work(took_s)
    return found


# ---- slots


def test_slots_are_those_of_the_wall_clock_each_at_its_time():
    assert slots(FakeClock(NOON + timedelta(seconds=30)), 3) == [
        ("12:00:00", 0),
        ("12:01:00", 30),
        ("12:02:00", 90),
    ]


def test_slots_that_pass_while_a_poll_takes_long_are_left_out():
    assert [slot for slot, _ in slots(FakeClock(), 3, took_s=130)] == ["12:00:00", "12:02:00", "12:04:00"]


@pytest.mark.parametrize("seconds", [60, 600, 86_400, 630])
def test_after_a_step_forward_it_goes_on_with_the_slot_of_then(seconds):
    clock = FakeClock(steps=[(70, timedelta(seconds=seconds))])
    found = slots(clock, 4)

    # polled at 12:00 and 12:01; the step comes at 70, and within a second there is the slot of then
    assert [slot for slot, _ in found[:2]] == ["12:00:00", "12:01:00"]
    then = floor_to(NOON + timedelta(seconds=70 + seconds), 60)
    assert [slot for slot, _ in found[2:]] == [f"{then:%H:%M:%S}", f"{then + MINUTE:%H:%M:%S}"]
    assert found[2][1] <= 72 and max(clock.slept) <= 1


@pytest.mark.parametrize("seconds", [90, 600, 86_400, 630])
def test_a_step_back_is_waited_for_no_longer_than_a_cadence(seconds):
    clock = FakeClock(steps=[(70, timedelta(seconds=-seconds))])
    found = slots(clock, 4)

    then = floor_to(NOON + timedelta(seconds=62 + 60 - seconds), 60)
    assert [slot for slot, _ in found[2:]] == [f"{then:%H:%M:%S}", f"{then + MINUTE:%H:%M:%S}"]
    assert [after[1] - before[1] <= 62 for before, after in pairwise(found)] == [True] * 3


def test_a_step_back_within_the_slot_brings_it_no_second_time():
    found = slots(FakeClock(NOON, steps=[(40, timedelta(seconds=-30))]), 3)

    assert found == [("12:00:00", 0), ("12:01:00", 90), ("12:02:00", 150)]


# ---- samples of a job, and of one poll


@pytest.mark.parametrize("seconds", [0, 600, -600])
def test_samples_take_as_long_as_they_were_asked_for_however_the_clock_is_set(seconds, monkeypatch):
    clock, ran = FakeClock(NOON, steps=[(130, timedelta(seconds=seconds))]), []

    def run_job(monitor, job, parameters, kernels):
        ran.append(clock.now())
        clock.work(2)
        return []

    monkeypatch.setattr(sampling, "run_job", run_job)
    done = sampling.sample("local", "tick", 10, 60, clock=clock)

    minutes = [f"{moment:%H:%M}" for moment in ran]
    assert len(set(minutes)) == len(minutes) == done.succeeded
    assert 9 <= len(minutes) <= 11 and 9 * 60 <= clock.monotonic() <= 10 * 60
    expected = {0: "12:09", 600: "12:19", -600: "11:59"}[seconds]
    assert minutes[0] == "12:00" and abs(at(minutes[-1]) - at(expected)) <= MINUTE
    assert done.missed == (9 if seconds > 0 else 0)


def at(text):
    return datetime.strptime(text, "%H:%M").replace(tzinfo=UTC)


@pytest.mark.parametrize("seconds", [600, -600])
def test_a_sampled_poll_asks_for_each_slot_once_while_the_clock_is_set(seconds, local, monkeypatch):
    clock, asked = FakeClock(NOON, steps=[(130, timedelta(seconds=seconds))]), []

    def one(self, slot, request):
        asked.append(slot)
        clock.work(0.1)
        return collect.Outcome(request.source, request.endpoint, slot, "stored", key=request.key(slot))

    monkeypatch.setattr(collect.Poll, "one", one)
    collect_payloads(local, ["coinbase"], "tickers", samples=6, clock=clock)

    after = NOON + timedelta(seconds=seconds)
    assert asked[:3] == [NOON, NOON + MINUTE, NOON + 2 * MINUTE]
    assert len(asked) == len(set(asked)) == 6 and after < asked[3] <= after + 4 * MINUTE
    assert asked[4:] == [asked[3] + MINUTE, asked[3] + 2 * MINUTE]
    assert clock.monotonic() < 6 * 60


# ---- real processes


class Stepped:
    """`cryptomon …` in a process whose wall clock, and that of its kernels, this sets; its words are collected."""

    def __init__(self, folder, begin, *words):
        self.file, self.said = folder / "offset", ""
        self.begin_s = begin
        (folder / "python").mkdir()
        (folder / "python" / "sitecustomize.py").write_text(SLEEP)
        self.set(0)
        environ = os.environ | {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # times of files are what they are
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": str(folder / "python"),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cryptomon_lib.cli", *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._listen, daemon=True).start()

    def set(self, seconds):
        """Set the clock: so far from where it began."""
        self.stepped_s = seconds
        # a half-written file is no time
        new = self.file.with_suffix(".new")
        new.write_text(f"{self.begin_s + seconds:+.3f}\n")
        new.replace(self.file)

    def now(self):
        """What its wall clock says."""
        return datetime.now(UTC) + timedelta(seconds=self.begin_s + self.stepped_s)

    def wait_for(self, pattern, count=1, seconds=150):
        until = time.monotonic() + seconds
        while len(found := re.findall(pattern, self.said)) < count:
            assert self.process.poll() is None and time.monotonic() < until, self.said
            time.sleep(0.05)
        return found

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, 9)

    def _listen(self):
        for line in self.process.stdout:
            self.said += line


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose only job is a tick that polls and flattens, on a simulated exchange whose clock nobody sets."""
    home = tmp_path / "home"
    for folder in ("notebooks", "params", "scheduled"):
        shutil.copytree(PROJECT / folder, home / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (home / "scheduled" / "schedule.yaml").write_text(
        "tick: {cron: '* * * * *', notebooks: [10_collect, 20_flatten], catch_up: none}\n"
    )
    with Simulator() as simulator:
        for name, value in {
            "HOME": str(home),
            "ROOT": str(tmp_path / "root"),
            "HOSTS": str(simulator.hosts),
            "EXCHANGES": '["bitstamp", "kraken"]',
            "WATCHLIST": '["BTC-USD"]',
            "FETCH__BUDGETS": str(tmp_path / "budgets"),
        }.items():
            monkeypatch.setenv(f"CRYPTOMON_{name}", value)
        yield tmp_path


def begin_at(second, ago=timedelta(minutes=40)):
    """The offset, in seconds, with which it is this second of a minute now, so long ago."""
    now = time.time() - ago.total_seconds()
    return (second - now) % 60 - ago.total_seconds()


def ticked(monitor, stored):
    """The minutes that have ticks, with how often; the same of each market, or this fails."""
    found = {}
    for row in stored(monitor, "ticks"):
        found.setdefault(row["market_id"], Counter())[floor_to(row["collected_at"], 60)] += 1
    assert len({tuple(sorted(one.items())) for one in found.values()}) == 1, found
    return next(iter(found.values()))


@with_faketime
@pytest.mark.clock
@pytest.mark.notebook
@pytest.mark.timeout(600)
def test_a_runner_whose_clock_is_set_forward_and_back_loses_and_doubles_nothing(project, stored):
    runner = Stepped(project, begin_at(35), "schedule", "follow")
    first = floor_to(runner.now(), 60)
    try:
        # that of now at once, and the next one
        runner.wait_for(r"tick: [\d.]+ s, \d+ payloads", 2)
        # to a few seconds before a minute: ten minutes and some
        runner.set(forward := 600 + (55 - runner.now().second) % 60)
        ahead = floor_to(runner.now(), 60)
        runner.wait_for(r"tick: [\d.]+ s, \d+ payloads", 4)
        runner.set(forward - 600 - (runner.now().second - 55) % 60)
        behind = floor_to(runner.now(), 60)
        runner.wait_for(r"tick: [\d.]+ s, \d+ payloads", 6)
    finally:
        runner.close()

    assert runner.process.returncode == 0, runner.said
    assert "the clock was set forward" in runner.said and "the clock was set back" in runner.said
    assert re.search(r"tick: \d+ of its times passed and are not run", runner.said)
    assert not re.search(r"failed|Error|Traceback", runner.said), runner.said
    monitor = open_monitor("local")
    expected = {first, first + MINUTE, ahead, ahead + MINUTE, behind + MINUTE, behind + 2 * MINUTE}
    assert ticked(monitor, stored) == dict.fromkeys(expected, 1), runner.said
    # nothing waits, nothing was refused, and a run took no time below zero
    assert not monitor.storage.objects("ingest") and not monitor.storage.objects("quarantine")
    runs = load_runs(monitor)
    assert {run["status"] for run in runs} == {"succeeded"} and min(run["duration_s"] for run in runs) > 0
    # what was stepped over is named
    note_holes(monitor, datetime.now(UTC))
    missing = {
        minute
        for hole in load_holes(monitor)
        if hole.measure == "ticks"
        for minute in range(hole.first, hole.last + 1)
    }
    skipped = set(range(int((behind + 3 * MINUTE).timestamp()) // 60, int(ahead.timestamp()) // 60))
    assert len(skipped) >= 6 and skipped <= missing


@with_faketime
@pytest.mark.clock
@pytest.mark.notebook
@pytest.mark.timeout(600)
def test_a_sampled_job_whose_clock_is_set_forward_and_back_goes_on_at_the_next_slot(project, stored):
    sampled = Stepped(project, begin_at(0), "sample", "collect", "--every-s", "6", "--samples", "11")
    try:
        for count, seconds in ((2, 600), (4, 0)):
            sampled.wait_for(r"UTC  [\d.]+ s, \d+ stored", count)
            sampled.set(seconds)
            set_at = time.monotonic()
            sampled.wait_for("UTC  ", count + 1)
            # a cadence at most, and the run itself
            assert time.monotonic() - set_at < 20
        assert sampled.process.wait(120) == 0, sampled.said
    finally:
        sampled.close()

    labels = re.findall(r"(\S+ \S+) UTC  [\d.]+ s, \d+ stored", sampled.said)
    # forward and back, and on
    assert len(labels) == len(set(labels)) and labels != sorted(labels) and labels[-1] < max(labels), (
        sampled.said
    )
    monitor = open_monitor("local")
    flatten_payloads(monitor)
    slots = {
        one.key.rpartition("/")[2]
        for one in monitor.storage.objects("archive/www.bitstamp.net/api/v2/ticker")
    }
    times = Counter((row["market_id"], row["collected_at"]) for row in stored(monitor, "ticks"))
    polled = {moment for market, moment in times if market.startswith("bitstamp:")}
    assert max(times.values()) == 1 and len(polled) == len(slots) >= 4, sampled.said
    # on both sides of the step
    assert max(polled) - min(polled) > 9 * MINUTE
