"""The generated crontab: other lines stay, secrets stay out of it, and its lines run as cron would run them."""

import json
import os
import random
import re
import shutil
import stat
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from croniter import croniter
from typer.testing import CliRunner

from cryptomon_lib import cli
from cryptomon_lib.config import load_settings
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.runs import load_runs
from cryptomon_lib.schedule import Job, scheduled_jobs
from cryptomon_lib.scheduling import cron, host

PROJECT = Path(__file__).parent.parent
SECRET = "p\"a$s`s\\w%o'r d;{}"
SCHEDULE = """
tick: {cron: '* * * * *', notebooks: [10_quick], timeout_s: 60, catch_up: none}
report: {cron: '12 0 * * 1-5', notebooks: [10_quick], timeout_s: 900, ping: {fail: PING_URL}}
"""
# as crontab does: a file a user
CRONTAB = """#!/bin/sh
case "$1" in
    -l) if [ -f {file} ]; then cat {file}; else echo "no crontab for me" >&2; exit 1; fi ;;
    -r) rm {file} ;;
    -) cat > {file} ;;
    *) echo "usage" >&2; exit 2 ;;
esac
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project in a folder whose name is hard on shells, its data beside it."""
    home = tmp_path / "100% of o'hara's $HOME"
    for folder in ("scheduled", "notebooks"):
        (home / folder).mkdir(parents=True)
    (home / "params").symlink_to(PROJECT / "params")
    (home / "scheduled" / "schedule.yaml").write_text(SCHEDULE)
    monkeypatch.setenv("CRYPTOMON_HOME", str(home))
    monkeypatch.setenv("CRYPTOMON_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("PING_URL", "https://ping.example.org/secret")
    return home


@pytest.fixture
def crontab(tmp_path, monkeypatch):
    """A crontab command of our own, so that nobody's real one is touched; the file that it keeps."""
    folder, file = tmp_path / "bin", tmp_path / "crontab.txt"
    folder.mkdir()
    (folder / "crontab").write_text(CRONTAB.format(file=file))
    (folder / "crontab").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return file


def as_cron(line):
    """Times, command and input of a line: a % ends the command unless it is escaped, as crontab(5) says."""
    *times, command = line.split(" ", 5)
    command, *given = re.split(r"(?<!\\)%", command)
    return " ".join(times), command.replace("\\%", "%"), "\n".join(given)


def run_as_cron(line, timeout=120):
    _, command, given = as_cron(line)
    assert given == ""
    few = {"HOME": "/", "LOGNAME": "me", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    return subprocess.run(
        ["/bin/sh", "-c", command], env=few, cwd="/", capture_output=True, text=True, timeout=timeout
    )


def lines_of(text):
    return [line for line in text.splitlines() if line[:1] in "*0123456789" and "cryptomon" in line]


def test_installing_again_changes_nothing_and_all_other_lines_stay(project, crontab):
    mine = "MAILTO=me\n# a word %\n5 4 * * * echo mine\n"
    crontab.write_text(mine)
    settings = load_settings("local")

    cron.install(scheduled_jobs(), settings)
    first = crontab.read_text()
    cron.install(scheduled_jobs(), settings)

    assert crontab.read_text() == first and first.startswith(mine)
    # what is written below the block is above it at the next time, where SHELL does not hold
    crontab.write_text(first + "9 9 * * * echo later\n")
    cron.install(scheduled_jobs(), settings, each_job=True)
    assert crontab.read_text().startswith(mine + "9 9 * * * echo later\n# >>> cryptomon local")
    cron.remove(settings)
    assert crontab.read_text() == mine + "9 9 * * * echo later\n"


def test_removing_leaves_no_trace(project, crontab):
    settings = load_settings("local")
    cron.install(scheduled_jobs(), settings, each_job=True)
    (host.folder() / "local.log").write_text("said")
    (host.folder() / "local-tick.cron").touch()
    (host.folder() / "local2.env").touch()

    told = cron.remove(settings)

    assert told == ["crontab: the block is gone"]
    assert not crontab.exists()
    assert [path.name for path in host.folder().iterdir()] == ["local2.env"]
    assert cron.remove(settings) == ["crontab: there was no block of ours"]


def test_two_environments_have_a_block_each(project, crontab):
    jobs = scheduled_jobs()
    for environment in ("local", "live"):
        cron.install(jobs, load_settings(environment))
    cron.remove(load_settings("local"))

    assert "cryptomon local" not in crontab.read_text() and "--environment live" in crontab.read_text()


def test_the_environment_is_in_a_file_of_its_owner_and_nowhere_else(project, crontab, monkeypatch):
    settings = load_settings("local")
    path = host.environment_file(settings)
    path.parent.mkdir(parents=True)
    path.write_text("OLD")
    path.chmod(0o644)

    told = cron.install(scheduled_jobs(), settings, each_job=True)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    printed = CliRunner().invoke(cli.app, ["schedule", "print", "--target", "cron"])
    assert printed.exit_code == 0 and "AWS_SECRET_ACCESS_KEY=…" in printed.stdout
    for text in (crontab.read_text(), "\n".join(told), printed.stdout):
        assert SECRET not in text and "ping.example.org" not in text
    # another shell, which knows nothing of it, installs again: the secret stays
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    cron.install(scheduled_jobs(), settings)
    said = subprocess.run(
        ["/bin/sh", "-c", f'. "{path.name}"; printf %s "$AWS_SECRET_ACCESS_KEY/$AWS_REGION"'],
        cwd=path.parent, capture_output=True, text=True, env={"PATH": "/nowhere:."},
    )  # fmt: skip
    assert said.stdout == f"{SECRET}/eu-central-1"


def test_a_secret_that_is_named_and_not_set_is_told(project, crontab, monkeypatch):
    monkeypatch.delenv("PING_URL")

    told = cron.install(scheduled_jobs(), load_settings("local"))

    assert any("Not set: PING_URL, named by schedule.yaml: report: ping" in line for line in told)


@pytest.mark.notebook
def test_a_line_runs_its_job_as_cron_runs_it(project, crontab, monkeypatch):
    cells = [
        {"source": "number = 1", "metadata": {"tags": ["parameters"]}},
        {
            "source": "import os\nassert os.environ['AWS_SECRET_ACCESS_KEY'].startswith('p\"a')",
            "metadata": {},
        },
    ]
    code = {"cell_type": "code", "execution_count": None, "outputs": []}
    cells = [code | {"id": f"cell-{number}"} | cell for number, cell in enumerate(cells)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (project / "notebooks" / "10_quick.ipynb").write_text(
        json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    )
    settings = load_settings("local")
    cron.install(scheduled_jobs(), settings, each_job=True)
    log = host.folder() / "local.log"
    _, report, rotate = lines_of(crontab.read_text())

    done = run_as_cron(report)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), log.read_text()
    assert [one["job"] for one in load_runs(open_monitor("local"))] == ["report"]
    assert "10_quick succeeded" in log.read_text()
    for _ in range(2):
        # the second finds nothing to put away
        assert run_as_cron(rotate).returncode == 0
    assert log.read_text() == "" and "10_quick succeeded" in Path(f"{log}.1").read_text()


def test_while_a_job_runs_its_line_starts_nothing(project, crontab):
    cron.install(scheduled_jobs(), load_settings("local"), each_job=True)
    tick = lines_of(crontab.read_text())[0]
    held = subprocess.Popen(["flock", str(host.folder() / "local-tick.cron"), "sleep", "600"])
    try:
        until = time.monotonic() + 60
        while subprocess.run(["flock", "-n", str(host.folder() / "local-tick.cron"), "true"]).returncode == 0:
            assert time.monotonic() < until
        done = run_as_cron(tick)
    finally:
        held.terminate()
        held.wait()

    assert done.returncode == 75 and (host.folder() / "local.log").read_text() == ""


def test_lines_have_absolute_paths_a_lock_and_a_hard_limit(project, crontab):
    tick, report, _ = lines_of(
        cron.render(scheduled_jobs(), load_settings("local"), each_job=True)["crontab"]
    )

    assert as_cron(tick)[0] == "* * * * *" and as_cron(report)[0] == "12 0 * * 1,2,3,4,5"
    assert " --kill-after 30 120 " in tick and " --kill-after 30 960 " in report
    for line in (tick, report):
        words = as_cron(line)[1].split("exec ")[1].split()
        assert words[0].startswith("/") and words[0].endswith("flock")
        assert all(Path(word).is_absolute() for word in words if word.endswith(("/python", "/timeout")))
    assert "nice" in report and "nice" not in tick


def test_by_default_a_line_each_minute_sees_that_the_runner_is_there(project, crontab):
    runner, _ = lines_of(cron.render(scheduled_jobs(), load_settings("local"))["crontab"])

    assert as_cron(runner)[0] == "* * * * *" and "schedule follow --environment local" in runner
    assert "flock" in runner and "timeout" not in runner


@pytest.mark.skipif(not Path("/usr/sbin/cron").exists(), reason="Debian's cron is not installed")
def test_the_crontab_is_one_that_debians_cron_takes(project, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("61 * * * * true\n")
    good = tmp_path / "good"
    good.write_text(cron.render(scheduled_jobs(), load_settings("local"), each_job=True)["crontab"])

    assert subprocess.run(["/usr/bin/crontab", "-n", wrong], capture_output=True).returncode != 0
    done = subprocess.run(["/usr/bin/crontab", "-n", good], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def some_cron(chance):
    """An expression of lists, ranges, steps, names and stars."""
    fields = []
    for low, high, names in ((0, 59, ()), (0, 23, ()), (1, 28, ()), (1, 12, MONTHS), (0, 7, DAYS)):
        one, other = sorted(chance.sample(range(low, high + 1), 2))
        kinds = ["*", "*", str(one), f"{one}-{other}", f"*/{max(one, 2)}", f"{one},{other}"]
        kinds += [names[one - low]] if names else [f"{one}-{high}/3"]
        fields.append(chance.choice(kinds))
    return " ".join(fields)


MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")


def test_a_line_means_what_the_schedule_says_written_so_that_a_star_changes_nothing():
    chance, begins = random.Random(7), datetime(2026, 2, 20, 13, 7, tzinfo=UTC)
    for _ in range(300):
        job = Job(notebooks=("x",), cron=some_cron(chance))
        said = cron.line_of(job)
        _, _, day, _, weekday = said.split()
        # cron daemons take `*/2` of a day for a star, and then both days have to fit in place of one
        assert "/" not in day + weekday and not re.search("[a-z7]", said.split()[4])
        expected, got = croniter(job.cron, begins), croniter(said, begins)
        assert [expected.get_next(datetime) for _ in range(4)] == [got.get_next(datetime) for _ in range(4)]


def test_on_a_host_in_another_zone_lines_of_an_hour_are_refused_and_the_runner_is_not(
    project, crontab, monkeypatch, request
):
    request.addfinalizer(time.tzset)
    jobs, settings = scheduled_jobs(), load_settings("local")
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Europe/Berlin")
        time.tzset()
        with pytest.raises(ConfigError, match=r"report: '12 0 \* \* 1-5' is meant in UTC.*CET/CEST"):
            cron.render(jobs, settings, each_job=True)
        cron.render({"hourly": Job(notebooks=("x",), cron="5 * * * *")}, settings, each_job=True)
        cron.render(jobs, settings)
        patched.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        with pytest.raises(ConfigError, match="hourly"):
            cron.render({"hourly": Job(notebooks=("x",), cron="5 * * * *")}, settings, each_job=True)


def test_what_cannot_be_is_one_line_that_says_what_to_do(project, crontab, monkeypatch):
    settings = load_settings("local")
    crontab.write_text(cron.render(scheduled_jobs(), settings)["crontab"].replace("# <<<", "# <"))
    with pytest.raises(ConfigError, match="mend it by crontab -e"):
        cron.install(scheduled_jobs(), settings)
    (crontab.parent / "bin" / "crontab").write_text("#!/bin/sh\necho 'you are not allowed' >&2; exit 3")
    with pytest.raises(ConfigError, match="you are not allowed"):
        cron.install(scheduled_jobs(), settings)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="install Debian's package cron"):
        cron.remove(settings)
    monkeypatch.setattr(cron, "_COMMAND_MAX", 200)
    with pytest.raises(ConfigError, match="move to a shorter path"):
        cron.render(scheduled_jobs(), settings)
    monkeypatch.setenv("CRYPTOMON_X", "a\0b" if os.name == "nt" else "a\x07b")
    with pytest.raises(ConfigError, match="CRYPTOMON_X has a control character"):
        host.write_environment(scheduled_jobs(), settings)


@pytest.mark.parametrize(
    "value", [SECRET, "two\nlines", "", " leading", "#hash", "a=b", "ü€", "\\", "$(date)", "'"]
)
def test_a_value_comes_back_from_the_environment_file_as_it_was(project, monkeypatch, value):
    monkeypatch.setenv("AWS_X", value)
    settings = load_settings("local")

    for _ in range(2):
        host.write_environment(scheduled_jobs(), settings)
        # the second time it is known from the file alone
        monkeypatch.delenv("AWS_X", raising=False)

    done = subprocess.run(
        ["/bin/sh", "-c", f". ./{host.environment_file(settings).name}; printf %s \"$AWS_X\""],
        cwd=host.folder(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == value
