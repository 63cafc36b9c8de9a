"""Real cron for some minutes: is each minute polled once, by the crontab that `cryptomon schedule install` writes?

Two projects on one simulated exchange, in one crontab: `lines` has a line a job (--each-job), `runner` the resident
runner. Beside the tick, `lines` has a job that takes longer than its timeout_s, and one whose process is stopped so
that it cannot end itself: the first is ended by its own limit, the second by that of its line, and while either
runs its line begins nothing.

Debian's cron is run in the foreground, as root, where none runs already. The user's crontab is put back as it was.

Run: python benchmarks/cron.py FOLDER [--minutes 4]
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import nbformat

from cryptomon_lib import open_monitor
from cryptomon_lib.config import export
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.runs import load_runs
from cryptomon_lib.simulator import Simulator

PROJECT = Path(__file__).resolve().parent.parent
MINUTE = timedelta(minutes=1)
TICK = (
    'tick: {cron: "* * * * *", notebooks: [10_collect, 20_flatten, 30_metrics, 40_alerts], timeout_s: 300, '
    "catch_up: none, retries: {times: 1, wait_s: 5}}\n"
)
# minutes that each takes to be ended, by its own limit and by that of its line (which is a minute later)
LONG = 'long: {cron: "* * * * *", notebooks: [80_long], timeout_s: 90}\n'
STUCK = 'stuck: {cron: "* * * * *", notebooks: [81_stuck], timeout_s: 30}\n'
CELLS = {
    "80_long": "import time\ntime.sleep(3600)",
    # whoever runs this notebook stands still, and with it its time limit
    "81_stuck": "import os, signal, time\nos.kill(os.getppid(), signal.SIGSTOP)\ntime.sleep(3600)",
}
EXCHANGES = ["kraken", "coinbase", "binance"]
# what a log says of the two jobs that are made to fail, whose kernels are killed; a tick whose kernel dies fails, too
EXPECTED = re.compile(r"8[01]_(?:long|stuck)|Kernel died while waiting")
IDLE_S = 150


class Project:
    """A project with its root below a folder, and the crontab's block for it."""

    def __init__(self, folder: Path, hosts: dict[str, str], schedule: str, *flags: str):
        self.name, self.flags = folder.name, flags
        self.home = folder / "home"
        for name in ("notebooks", "params"):
            shutil.copytree(PROJECT / name, self.home / name)
        for stem, source in CELLS.items():
            cell = nbformat.v4.new_code_cell("number = 1", metadata={"tags": ["parameters"]})
            notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(source)])
            notebook.metadata.kernelspec = {
                "name": "python3",
                "display_name": "Python 3",
                "language": "python",
            }
            nbformat.write(notebook, self.home / "notebooks" / f"{stem}.ipynb")
        (self.home / "scheduled").mkdir()
        (self.home / "scheduled" / "schedule.yaml").write_text(schedule)
        self.settings = {"root": str(folder / "root"), "hosts": hosts, "exchanges": EXCHANGES}
        self.settings["fetch"] = {"budgets": str(folder / "budgets"), "pause_s": 0}
        self.said: list[str] = []

    def command(self, *words: str) -> str:
        """What a `cryptomon` command says."""
        with self.environ() as environ:
            done = subprocess.run(
                [sys.executable, "-m", "cryptomon_lib.cli", *words],
                env=environ,
                capture_output=True,
                text=True,
            )
        if done.returncode:
            raise SystemExit(f"cryptomon {' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout

    @contextmanager
    def environ(self) -> Iterator[dict[str, str]]:
        """The environment of this project's commands."""
        before = dict(os.environ)
        try:
            os.environ["CRYPTOMON_HOME"] = str(self.home)
            export(self.settings)
            yield dict(os.environ)
        finally:
            os.environ.clear()
            os.environ.update(before)

    def remove(self) -> None:
        """Take its block out of the crontab; its log goes too, and is kept in `said`."""
        log = self.home / ".cryptomon" / "schedule" / "local.log"
        self.said = log.read_text().splitlines() if log.exists() else []
        print(self.name, *self.command("schedule", "remove", "--target", "cron").splitlines(), sep="\n  ")

    def monitor(self) -> Monitor:
        """Its monitor."""
        with self.environ():
            return open_monitor("local")

    def busy(self) -> bool:
        """Whether a tick is under way."""
        return any(run["job"] == "tick" and run["status"] == "running" for run in load_runs(self.monitor()))


@contextmanager
def crontab_kept() -> Iterator[None]:
    """The user's crontab as it was before, whatever happens."""
    before = subprocess.run(["crontab", "-l"], capture_output=True, text=True)
    try:
        yield
    finally:
        after = subprocess.run(["crontab", "-l"], capture_output=True, text=True)
        if after.stdout != before.stdout:
            words = ["crontab", "-"] if before.returncode == 0 else ["crontab", "-r"]
            subprocess.run(words, input=before.stdout, text=True, check=True)
            print("the crontab was not as before, and was put back")


@contextmanager
def daemon() -> Iterator[str]:
    """A cron daemon: the machine's, or one of our own while this is open; which."""
    pid = Path("/run/crond.pid")
    if pid.exists() and pid.read_text().strip() and Path(f"/proc/{pid.read_text().strip()}").exists():
        yield f"the machine's, process {pid.read_text().strip()}"
        return
    process = subprocess.Popen(["/usr/sbin/cron", "-f"])
    try:
        time.sleep(0.5)
        if process.poll() is not None:
            raise SystemExit(f"cron ended at once, code {process.returncode}")
        yield f"our own, process {process.pid}"
    finally:
        process.terminate()
        process.wait(20)


def watch(projects: list[Project], minutes: int) -> list[datetime]:
    """Let cron run; the whole minutes that it had."""
    first = datetime.now(UTC).replace(second=0, microsecond=0) + MINUTE
    until = first + minutes * MINUTE - timedelta(seconds=3)
    while (now := datetime.now(UTC)) < until:
        # the last tick's end is the end
        if now > first + (minutes - 1) * MINUTE + timedelta(seconds=15) and not any(
            one.busy() for one in projects
        ):
            break
        time.sleep(1)
    return [first + number * MINUTE for number in range(minutes)]


def check(project: Project, minutes: list[datetime]) -> list[str]:
    """What is wrong with a project's data and log; prints what there is."""
    monitor, wrong = project.monitor(), []
    table = monitor.lake.open("ticks")
    rows = table.to_pyarrow_table(columns=["market_id", "collected_at"]).to_pylist() if table else []
    found: dict[str, Counter] = {}
    for row in rows:
        minute = row["collected_at"].replace(second=0, microsecond=0, tzinfo=UTC)
        found.setdefault(row["market_id"], Counter())[minute] += 1
    for minute in minutes:
        counts = Counter(one[minute] for one in found.values())
        if not found or set(counts) != {1}:
            wrong.append(f"{project.name}: {minute:%H:%M}: markets by how often they ticked: {dict(counts)}")
    runs = load_runs(monitor)
    delays = [
        (datetime.fromisoformat(run["started_at"]) - minute).total_seconds()
        for run in runs
        if run["notebook"] == "10_collect"
        for minute in [datetime.fromisoformat(run["started_at"]).replace(second=0, microsecond=0)]
        if minute in minutes
    ]
    states = Counter((run["job"], run["status"]) for run in runs)
    print(f"{project.name}: {len(found)} markets, {len(rows)} rows of ticks, {len(minutes)} whole minutes")
    print(
        f"  runs: {', '.join(f'{job} {status} {count}' for (job, status), count in sorted(states.items()))}"
    )
    if delays:
        print(f"  a tick's first notebook began {min(delays):.1f} to {max(delays):.1f} s into its minute")
    # what is under way when the crontab is taken back is ended
    over = f"{minutes[-1] + MINUTE:%Y-%m-%dT%H:%M}"
    wrong += [
        f"{project.name}: {run['job']} {run['status']}"
        for run in runs
        if (run["job"] == "tick") != (run["status"] == "succeeded") and run["started_at"] < over
    ]
    bad = [
        line
        for line in project.said
        if re.search(r"ERROR|Error|Traceback|\bfailed\b(?! 0)", line) and not EXPECTED.search(line)
    ]
    print(f"  log: {len(project.said)} lines, {len(bad)} of them errors")
    return wrong + [f"{project.name}: log: {line}" for line in bad]


def check_limits(project: Project, minutes: list[datetime]) -> list[str]:
    """What is wrong with how the two jobs that take too long were ended, and kept from running twice."""
    wrong = []
    for job, limit_s, status in (("long", 90, "timeout"), ("stuck", 90, "stopped")):
        runs = sorted(
            (run for run in load_runs(project.monitor()) if run["job"] == job),
            key=lambda run: run["started_at"],
        )
        spans = [(datetime.fromisoformat(run["started_at"]), run["ended_at"]) for run in runs]
        print(
            f"  {job}: " + ", ".join(f"{run['status']} after {run['duration_s'] or 0:.0f} s" for run in runs)
        )
        ended = [run for run in runs if run["status"] == status and abs(run["duration_s"] - limit_s) < 30]
        if not ended:
            wrong.append(f"{project.name}: no run of {job} ended as {status} after about {limit_s} s")
        for (_, end), (begin, _) in pairwise(spans):
            if end is None or datetime.fromisoformat(end) > begin:
                wrong.append(f"{project.name}: two runs of {job} at once, at {begin:%H:%M:%S}")
        if len(runs) >= len(minutes):
            wrong.append(f"{project.name}: {job} began in every minute, though its runs take longer")
    return wrong


def main(folder: Path, minutes: int) -> int:
    """Run it; the exit code."""
    for name in ("crontab", "/usr/sbin/cron"):
        if shutil.which(name) is None:
            print(f"No {name} here: install Debian's package cron.")
            return 2
    if os.geteuid() and not Path("/run/crond.pid").exists():
        print("No cron daemon runs here, and only root may run one.")
        return 2
    folder.mkdir(parents=True)
    with Simulator() as simulator, crontab_kept():
        hosts = {name: simulator.hosts[name] for name in EXCHANGES}
        lines = Project(folder / "lines", hosts, TICK + LONG + STUCK, "--each-job")
        runner = Project(folder / "runner", hosts, TICK)
        projects = [lines, runner]
        try:
            for one in projects:
                print(
                    one.name,
                    *one.command("schedule", "install", "--target", "cron", *one.flags).splitlines(),
                    sep="\n  ",
                )
            with daemon() as which:
                print(f"cron: {which}, {minutes} minutes", flush=True)
                whole = watch(projects, minutes)
        finally:
            for one in projects:
                one.remove()
        ends = time.monotonic() + IDLE_S
        while any(run["status"] == "running" for one in projects for run in load_runs(one.monitor())):
            if time.monotonic() > ends:
                break
            time.sleep(1)
    wrong = [fault for one in projects for fault in check(one, whole)] + check_limits(lines, whole)
    print("\n".join(wrong) if wrong else f"all well: each of {len(whole)} minutes once in both")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=int, default=4)
    given = parser.parse_args()
    sys.exit(main(given.folder.resolve(), given.minutes))
