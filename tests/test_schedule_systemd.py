"""The generated units: systemd's own tools take them, their times are those of the schedule, installing is idempotent."""

import os
import random
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from croniter import croniter

from cryptomon_lib.config import load_settings
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.schedule import Job, scheduled_jobs
from cryptomon_lib.scheduling import host, systemd

PROJECT = Path(__file__).parent.parent
with_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@pytest.fixture(params=["plain", "a folder of $100%"])
def project(request, tmp_path, monkeypatch):
    """A project in a folder with an easy or a hard name."""
    home = tmp_path / request.param
    home.mkdir()
    for name in ("params", "scheduled"):
        (home / name).symlink_to(PROJECT / name)
    monkeypatch.setenv("CRYPTOMON_HOME", str(home))
    monkeypatch.setenv("CRYPTOMON_ROOT", str(home / "data"))
    return home


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that systemd runs, as far as units go: its folder, and what systemctl was asked."""
    units, asked, bin_folder = tmp_path / "units", tmp_path / "asked", tmp_path / "bin"
    bin_folder.mkdir()
    asked.touch()
    (bin_folder / "systemctl").write_text(f'#!/bin/sh\necho "$*" >> {asked}\n')
    (bin_folder / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.setattr(systemd, "_SYSTEM", units)
    monkeypatch.setattr(systemd, "_BOOTED", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return units, asked


def verify(folder, *words):
    units = [str(path) for path in sorted(folder.iterdir()) if path.suffix in (".service", ".timer")]
    # a user's manager wants to know where its sockets would be
    environ = dict(os.environ) | {"XDG_RUNTIME_DIR": str(folder)}
    return subprocess.run(
        ["systemd-analyze", *words, "verify", *units], capture_output=True, text=True, env=environ
    )


def written(folder, units):
    folder.mkdir(exist_ok=True)
    for name, text in units.items():
        (folder / name).write_text(text)
    return folder


@with_systemd
@pytest.mark.parametrize(("uid", "words"), [(0, ()), (1000, ("--user",))])
def test_systemd_takes_every_unit_without_a_word(project, tmp_path, monkeypatch, uid, words):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    settings = load_settings("local")
    for each_job in (False, True):
        folder = written(
            tmp_path / f"units-{each_job}", systemd.render(scheduled_jobs(), settings, each_job=each_job)
        )
        done = verify(folder, *words)
        # what else is installed here is looked at too, and has faults of its own
        ours = [
            line for line in done.stderr.splitlines() if line.startswith("cryptomon") or "/cryptomon-" in line
        ]
        assert (done.returncode, ours) == (0, []), done.stderr
    (folder / "cryptomon-local-tick.service").write_text(
        "[Service]\nType=oneshot\nExecStart=/no/such/program\n"
    )
    assert verify(folder, *words).returncode != 0


@with_systemd
def test_of_its_own_scale_systemd_calls_the_services_guarded(project, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    folder = written(tmp_path / "units", systemd.render(scheduled_jobs(), load_settings("local")))
    words = ["security", "--offline=true", "--threshold=30", str(folder / "cryptomon-local.service")]

    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True)

    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze rates no files")
    assert done.returncode == 0, done.stdout[-500:]


def test_a_job_has_a_service_with_its_limit_and_a_timer_that_is_exact(project):
    units = systemd.render(scheduled_jobs(), load_settings("local"), each_job=True)

    assert {name.removeprefix("cryptomon-local-") for name in units if name.endswith(".timer")} == {
        f"{name}.timer" for name in scheduled_jobs()
    }
    assert "OnCalendar=*-*-* *:*:00 UTC" in units["cryptomon-local-tick.timer"]
    assert "Persistent=no" in units["cryptomon-local-tick.timer"]
    assert "Persistent=yes" in units["cryptomon-local-report.timer"]
    assert all("AccuracySec=1s" in text for name, text in units.items() if name.endswith(".timer"))
    assert "TimeoutStartSec=960" in units["cryptomon-local-report.service"]


def test_no_secret_stands_in_a_unit(project, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")

    units = systemd.render(scheduled_jobs(), load_settings("local"), each_job=True)

    assert "very-secret" not in "".join(units.values())
    assert "AWS_SECRET_ACCESS_KEY=…" in units["local.env"]


def test_installing_twice_is_installing_once_and_removing_leaves_nothing(project, machine):
    units, asked = machine
    jobs, settings = scheduled_jobs(), load_settings("local")

    systemd.install(jobs, settings, each_job=True)
    timers = sorted(path.name for path in units.glob("*.timer"))
    assert len(timers) == len(jobs) and Path(settings.root).is_dir()
    assert re.search(r"^enable cryptomon-local-tick.timer ", asked.read_text(), re.M)
    # one runner in place of the timers: they are switched off before they go
    asked.write_text("")
    for _ in range(2):
        systemd.install(jobs, settings)
        assert [path.name for path in units.iterdir()] == ["cryptomon-local.service"]
    assert asked.read_text().splitlines()[0].startswith("disable --now cryptomon-local-")
    systemd.install(jobs, load_settings("live"))
    systemd.remove(settings)

    assert [path.name for path in units.iterdir()] == ["cryptomon-live.service"]
    assert "disable --now cryptomon-local.service" in asked.read_text()
    assert not host.environment_file(settings).exists()
    assert systemd.remove(settings) == ["There were no units of ours."]


def test_units_of_another_project_are_left_alone(project, machine):
    units, _ = machine
    units.mkdir()
    theirs = "# Generated from elsewhere\n[Unit]\nDescription=cryptomon local: the runner\n"
    (units / "cryptomon-local.service").write_text(theirs)

    with pytest.raises(ConfigError, match="another project's"):
        systemd.install(scheduled_jobs(), load_settings("local"))

    assert (units / "cryptomon-local.service").read_text() == theirs


def test_where_systemd_does_not_run_it_says_what_to_do_and_writes_nothing(project, machine, monkeypatch):
    monkeypatch.setattr(systemd, "_BOOTED", Path("/no/such/folder"))

    with pytest.raises(ConfigError, match="--output FOLDER"):
        systemd.install(scheduled_jobs(), load_settings("local"))

    assert not machine[0].exists() and not host.environment_file(load_settings("local")).exists()


@with_systemd
def test_the_times_of_a_timer_are_those_of_the_schedule():
    chance, begins = random.Random(11), datetime(2026, 2, 20, 13, 7, tzinfo=UTC)
    for _ in range(25):
        fields = []
        for low, high in ((0, 59), (0, 23), (1, 28), (1, 12), (0, 7)):
            one, other = sorted(chance.sample(range(low, high + 1), 2))
            kinds = ["*", "*", str(one), f"{one}-{other}", f"*/{max(one, 2)}", f"{one},{other}"]
            fields.append(chance.choice(kinds))
        job = Job(notebooks=("x",), cron=" ".join(fields))
        times = croniter(job.cron, begins)
        expected = [times.get_next(datetime) for _ in range(3)]

        got = sorted({moment for one in systemd.calendar_of(job) for moment in elapses(one, begins)})

        assert got[:3] == expected, job.cron


def elapses(calendar, begins):
    """The next times of a calendar event, as systemd tells them."""
    said = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=3", f"--base-time={begins:%Y-%m-%d %H:%M:%S} UTC", calendar],
        capture_output=True, text=True, check=True, env={"TZ": "UTC", "PATH": os.environ["PATH"]},
    ).stdout  # fmt: skip
    found = re.findall(r"(?:Next elapse|Iter\. #\d+|Iteration #\d+): \w+ (\S+ \S+) UTC", said)
    return [datetime.fromisoformat(one).replace(tzinfo=UTC) for one in found]
