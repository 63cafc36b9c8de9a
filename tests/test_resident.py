"""The resident runner under a clock of its own: what happens when times pass, clocks jump and jobs take long."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clocks import NOON, FakeClock

from cryptomon_lib.config import load_settings
from cryptomon_lib.errors import AlreadyRunning, ConfigError
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.resident import Due, Lane, Runner, Timetable, Upgraded, end_other, in_words, only_one
from cryptomon_lib.runs import load_runs
from cryptomon_lib.schedule import Job

TICK = Job(notebooks=("10_collect",), cron="* * * * *", catch_up="none")
COMPACT = Job(notebooks=("50_compact",), cron="5 * * * *", timeout_s=1800)
LONG = Job(notebooks=("50_compact",), cron="5 * * * *", timeout_s=7200)
REPORT = Job(notebooks=("90_daily_report",), cron="12 0 * * *", timeout_s=900)
PROJECT = Path(__file__).parent.parent


def at(text, day=27):
    """A moment of the day of NOON."""
    return datetime.fromisoformat(f"2026-07-{day} {text}").replace(tzinfo=UTC)


class FakeProcess:
    """A job beside the runner that takes so many seconds; stubborn: only killing ends it."""

    def __init__(self, clock, seconds, stubborn=False):
        self._clock, self._ends, self._stubborn = clock, clock.monotonic() + seconds, stubborn
        self.ended_by = None

    def poll(self):
        return 0 if self.ended_by or self._clock.monotonic() >= self._ends else None

    def says(self):
        return "done"

    def terminate(self):
        if not self._stubborn:
            self.ended_by = "terminate"

    def kill(self):
        self.ended_by = "kill"


class World:
    """A runner with its jobs, what ran when by the wall clock, and what was told."""

    def __init__(
        self, jobs, clock, took=None, done=None, stubborn=False, reread=lambda: None, outdated=lambda: False
    ):
        self.clock, self.told, self.ran, self.ended, self.processes = clock, [], [], [], []
        self._took, self._stubborn = took or {}, stubborn
        self.lane = Lane(self._start, clock, self.told.append, lambda name, at: self.ended.append((name, at)))
        self.timetable = Timetable(jobs, clock.now(), done)
        self.runner = Runner(self.timetable, self._here, self.lane, clock, self.told.append, reread, outdated)

    def follow(self, **passed):
        self.runner.follow(timedelta(**passed).total_seconds())
        return self

    def times(self, name):
        return [f"{moment:%H:%M}" for one, moment in self.ran if one == name]

    def _here(self, name):
        self._record(name)
        self.clock.work(self._seconds(name))
        return "ran"

    def _start(self, name):
        self._record(name)
        self.processes.append(FakeProcess(self.clock, self._seconds(name), self._stubborn))
        return self.processes[-1]

    def _record(self, name):
        self.ran.append((name, self.clock.now()))

    def _seconds(self, name):
        took = self._took.get(name, 2)
        return took(self.clock.now()) if callable(took) else took


def minutes_of(first, count):
    return [f"{at(first) + timedelta(minutes=number):%H:%M}" for number in range(count)]


def test_a_tick_comes_at_once_and_then_at_the_beginning_of_each_minute():
    world = World({"tick": TICK}, FakeClock(at("12:00:40"))).follow(minutes=4)

    assert world.ran[0][1] == at("12:00:40")
    assert [moment for _, moment in world.ran[1:]] == [
        at(text) for text in ("12:01", "12:02", "12:03", "12:04")
    ]


def test_a_long_job_delays_no_tick():
    world = World(
        {"compact": COMPACT, "tick": TICK}, FakeClock(at("12:04")), took={"compact": 20 * 60}
    ).follow(minutes=25)

    assert world.times("tick") == minutes_of("12:04", 25)
    assert world.times("compact") == ["12:05"]
    assert not world.runner.missed and world.ended == [("compact", at("12:05"))]
    # of two that are due at once the tick has the processors first
    assert [name for name, moment in world.ran if f"{moment:%H:%M}" == "12:05"] == ["tick", "compact"]


def test_minutes_that_pass_while_a_tick_takes_too_long_are_missed_told_and_counted():
    world = World(
        {"tick": TICK}, FakeClock(NOON), took={"tick": lambda now: 200 if now == NOON else 2}
    ).follow(minutes=5)

    # 12:01 and 12:02 passed; that of 12:03 comes late within its own minute
    assert world.times("tick") == ["12:00", "12:03", "12:04"]
    assert world.runner.missed == {"tick": 2}
    assert "tick: 2 of its times passed and are not run" in world.told


def test_a_clock_that_is_set_forward_brings_one_run_a_job_and_tells_what_was_missed():
    clock = FakeClock(NOON, steps=[(90, timedelta(hours=3))])
    world = World({"tick": TICK, "compact": COMPACT}, clock).follow(minutes=4)

    # 12:00 12:01, then 15:01:30: at once, and on with the minutes
    assert world.times("tick") == ["12:00", "12:01", "15:01", "15:02", "15:03"]
    assert world.runner.missed["tick"] == 179
    assert "the clock was set forward, or the machine slept, by 3:00:00" in world.told
    # 12:05, 13:05 and 14:05 passed: once, late
    assert world.times("compact") == ["15:01"]
    assert "compact: 3 of its times passed, it runs once for all" in world.told


def test_a_clock_that_is_set_back_two_hours_neither_stops_ticks_nor_repeats_what_comes_once_an_hour():
    clock = FakeClock(at("12:04"), steps=[(150, timedelta(hours=-2))])
    world = World({"tick": TICK, "compact": COMPACT}, clock).follow(minutes=125)

    # 12:04 12:05 12:06, then 10:06:30 by the new clock: on with 10:07
    assert world.times("tick")[:6] == ["12:04", "12:05", "12:06", "10:07", "10:08", "10:09"]
    assert len(world.times("tick")) == 125
    # 11:05 and 12:05 by the new clock: what ran at 12:05 does not run again before that has passed
    assert world.times("compact") == ["12:05"]
    assert max(clock.slept) <= 1 and "the clock was set back by 2:00:00" in world.told
    assert not world.runner.missed


def test_a_clock_that_is_set_back_a_little_repeats_no_minute():
    # at 12:02:01 it is 12:00:31 again
    clock = FakeClock(NOON, steps=[(121, timedelta(seconds=-90))])
    world = World({"tick": TICK}, clock).follow(minutes=7)

    assert world.times("tick") == ["12:00", "12:01", "12:02", "12:03", "12:04", "12:05"]


def test_a_clock_that_is_set_back_by_days_is_believed():
    clock = FakeClock(at("12:04"), steps=[(150, timedelta(days=-2))])
    world = World({"compact": COMPACT}, clock).follow(minutes=125)

    assert [moment.day for _, moment in world.ran] == [27, 25, 25]


def test_of_a_job_that_still_runs_there_is_never_a_second():
    world = World({"compact": LONG}, FakeClock(at("12:04")), took={"compact": 70 * 60}).follow(minutes=125)

    assert world.times("compact") == ["12:05", "14:05"]
    assert "compact: the one of 12:05 still runs, that of 13:05 is left out" in world.told
    assert world.lane.left_out == {"compact": 1}


def test_one_long_job_at_a_time_the_others_wait_each_once():
    jobs = {
        "compact": LONG,
        "backfill": Job(notebooks=("70_backfill",), cron="10,40 * * * *"),
        "strict": Job(notebooks=("60_health",), cron="20 * * * *", catch_up="none"),
    }
    world = World(jobs, FakeClock(at("12:04")), took={"compact": 50 * 60}).follow(minutes=57)

    # both of 12:10 and 12:40 had to wait until 12:55: one run; that of 12:20 may not come late
    assert [(name, f"{moment:%H:%M}") for name, moment in world.ran] == [
        ("compact", "12:05"),
        ("backfill", "12:55"),
    ]
    assert "backfill: the one of 12:10 still waits, that of 12:40 is left out" in world.told
    assert "strict: that of 12:20 is left out, another job ran too long" in world.told


def test_a_job_beside_the_runner_that_hangs_is_ended_and_at_last_killed():
    world = World(
        {"compact": COMPACT}, FakeClock(at("12:04")), took={"compact": 10**6}, stubborn=True
    ).follow(minutes=40)

    assert world.processes[0].ended_by == "kill" and not world.lane.is_busy
    assert world.ended == [("compact", at("12:05"))]


def test_at_its_end_the_runner_ends_the_job_beside_it():
    world = World({"compact": COMPACT}, FakeClock(at("12:04")), took={"compact": 10**6}).follow(minutes=5)

    world.lane.close()

    assert world.processes[0].ended_by == "terminate" and world.ended == []


def test_what_passed_while_the_machine_was_off_runs_once_where_it_catches_up():
    jobs = {"tick": TICK, "report": REPORT, "never": Job(notebooks=("x",), cron="0 3 * * *", catch_up="none")}
    done = {"report": at("00:12", 24), "never": at("03:00", 24)}
    world = World(jobs, FakeClock(NOON), done=done).follow(minutes=2)

    assert world.times("report") == ["12:00"] and world.times("never") == []
    assert "report: 3 of its times passed, it runs once for all" in world.told
    late = World({"report": REPORT}, FakeClock(NOON), done={"report": at("00:12", 26)}).follow(minutes=1)
    assert late.told[0] == "report: that of 2026-07-27 00:12 passed, it runs late"
    assert world.ended == [("report", at("00:12"))]


def test_what_never_ran_or_ran_in_a_future_has_nothing_to_catch_up_with():
    assert Timetable({"report": REPORT}, NOON).due(NOON) == []
    future = Timetable({"report": REPORT}, NOON, {"report": at("00:12", 30)})
    assert future.due(at("00:12:01", 28)) == [Due("report", at("00:12", 28), 1)]


def test_a_schedule_that_changes_holds_from_then_on_and_one_that_is_wrong_changes_nothing():
    now = {"compact": Job(notebooks=("50_compact",), cron="*/10 * * * *"), "tick": TICK}
    answers = {3: ConfigError("no [/]cron"), 400: now}
    asked = iter(range(10**6))

    def reread():
        answer = answers.get(next(asked))
        if isinstance(answer, Exception):
            raise answer
        return answer

    world = World({"compact": COMPACT, "tick": TICK}, FakeClock(at("12:03")), reread=reread).follow(
        minutes=20
    )

    assert world.times("compact") == ["12:05", "12:10", "12:20"]
    assert r"the schedule stays as it was: no \[/]cron" in world.told


def test_after_an_upgrade_the_runner_ends_once_no_job_runs_beside_it(tmp_path):
    clock, module = FakeClock(at("12:04")), tmp_path / "module.py"
    module.write_text("old")
    upgraded = Upgraded(tmp_path, clock)

    def took(now):
        # while compaction runs the library is replaced
        module.unlink()
        module.with_name("renamed.py").write_text("new")
        return 600

    world = World({"tick": TICK, "compact": COMPACT}, clock, took={"compact": took}, outdated=upgraded)
    world.follow(hours=1)

    assert world.ended == [("compact", at("12:05"))] and world.told[-1].startswith("the library changed")
    assert at("12:15") <= clock.now() <= at("12:17") and world.times("tick")[-1] in ("12:15", "12:16")


def test_a_library_that_stays_or_is_just_being_replaced_ends_nothing(tmp_path):
    clock, module = FakeClock(), tmp_path / "module.py"
    module.write_text("old")
    upgraded = Upgraded(tmp_path, clock)
    said = []
    for number in range(8):
        clock.work(31)
        if 2 <= number < 5:
            os.utime(module, ns=(number, number))
        said.append(upgraded())

    # it changes at three looks in a row; at the next one it has come to rest
    assert said == [False] * 5 + [True] * 3


def test_a_job_that_cannot_be_started_is_told_and_the_next_one_comes():
    told, clock = [], FakeClock(NOON)

    def start(name):
        if name == "first":
            raise OSError("no memory")
        return FakeProcess(clock, 1)

    lane = Lane(start, clock, told.append)
    lane.put("first", COMPACT, NOON)
    lane.put("second", COMPACT, NOON)

    assert told == ["first: cannot be started: no memory"] and lane.is_busy


def test_what_a_run_did_is_one_line():
    records = [
        {"duration_s": 1.25, "facts": {"stored": 3}},
        {"duration_s": 2, "facts": {"rows": 9, "failed": 1, "told": 0}},
    ]

    assert in_words(records) == "3.2 s, 3 payloads, 9 rows, [red]1 calls failed[/]"


# ---- with real processes


def test_there_is_one_runner_on_a_root_and_the_other_can_be_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYPTOMON_ROOT", str(tmp_path / "root"))
    settings = load_settings("local")
    code = (
        "import time\nfrom cryptomon_lib.config import load_settings\nfrom cryptomon_lib.resident import only_one\n"
        "with only_one(load_settings('local')):\n    print('in', flush=True)\n    time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    assert process.stdout.readline() == "in\n"

    with pytest.raises(AlreadyRunning, match="already"), only_one(settings):
        pass
    assert end_other(settings) is True
    assert process.wait(60) == -signal.SIGTERM
    assert end_other(settings) is False
    with only_one(settings):
        pass


@pytest.mark.notebook
def test_the_command_ticks_in_its_own_kernel_runs_what_it_missed_beside_and_ends_clean(tmp_path, monkeypatch):
    home = tmp_path / "home"
    for folder in ("scheduled", "notebooks", ".cryptomon/schedule"):
        (home / folder).mkdir(parents=True)
    (home / "params").symlink_to(PROJECT / "params")
    for stem, source in (("10_quick", "from cryptomon_lib import Facts\nFacts(rows=7)"), ("50_slow", SLOW)):
        (home / "notebooks" / f"{stem}.ipynb").write_text(notebook(source))
    (home / "scheduled" / "schedule.yaml").write_text(
        "tick: {cron: '* * * * *', notebooks: [10_quick], catch_up: none}\n"
        "slow: {cron: '0 0 1 * *', notebooks: [50_slow]}\n"
    )
    root = tmp_path / "root"
    environ = {"CRYPTOMON_HOME": str(home), "CRYPTOMON_ROOT": str(root)}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    settings = load_settings("local")
    with only_one(settings):
        (place,) = (home / ".cryptomon" / "schedule").glob("local-*.pid")
    # a year ago it ran; the times since are caught up with by one run
    last = (datetime.now(UTC) - timedelta(days=400)).isoformat()
    (home / ".cryptomon" / "schedule" / f"{place.stem}.json").write_text(json.dumps({"slow": last}))
    said = tmp_path / "said"

    with said.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cryptomon_lib.cli", "schedule", "follow"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(os.environ),
            start_new_session=True,
        )
        try:
            until = time.monotonic() + 120
            while not ("7 rows" in said.read_text() and (home / "begun").exists()):
                assert process.poll() is None and time.monotonic() < until, said.read_text()
                time.sleep(0.2)
            process.terminate()
            assert process.wait(90) == 0, said.read_text()
        finally:
            if process.poll() is None:
                process.kill()

    assert "runs once" in said.read_text() and "Ended." in said.read_text()
    runs = {record["job"]: record["status"] for record in load_runs(open_monitor("local"))}
    assert runs == {"tick": "succeeded", "slow": "stopped"}
    # it was interrupted, so it is still to be caught up with
    assert json.loads((home / ".cryptomon" / "schedule" / f"{place.stem}.json").read_text()) == {"slow": last}


SLOW = "from pathlib import Path\nimport time\nPath('begun').touch()\ntime.sleep(600)"


def notebook(source):
    """A notebook of a cell of parameters and one of code."""
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "execution_count": None,
            "metadata": {"tags": ["parameters"]} if number == 0 else {},
            "outputs": [],
            "source": text,
        }
        for number, text in enumerate(("number = 1", source))
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
