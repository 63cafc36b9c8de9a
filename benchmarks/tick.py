"""A whole tick at 9,590 markets on 24 h of history: collect from loopback, flatten, all metrics of now, `latest`, alerts.

The history is what a day of ticks, compaction and roll-ups leaves: a day file, hour files, the minutes of this hour.

resident runner     the notebooks through papermill, one kernel kept warm: what `make run` does
papermill command   the same notebooks, a fresh command line each: what cron without the runner would do
plain Python        the same calls in a process that has its imports, no notebook at all: the floor

CPU is that of all processes that work for the contender, kernels included, the served exchange left out.
Run: python benchmarks/tick.py [rounds] [hours of history]
"""

import gzip
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import psutil
from _measure import Feed, cryptowatch_body, high_water_mb, running_kernels

from cryptomon_lib import (
    Engine,
    collect_payloads,
    compact_tables,
    describe_tables,
    evaluate_alerts,
    flatten_payloads,
    keep_latest,
    open_monitor,
    roll_up,
)
from cryptomon_lib.config import export, home
from cryptomon_lib.run import Kernels, declared_parameters, run_job
from cryptomon_lib.schedule import job_named, notebook_path

BEGIN = datetime(2026, 1, 15, 12, 30, tzinfo=UTC)
# seconds of each notebook and each call, by name
PARTS: dict[str, list[float]] = {}
SPIKES = "select * from spikes where measure not in ('volume_24h', 'quote_volume_24h') order by ratio_1h desc"


def prepare(folder: Path, port: int, hours: int) -> subprocess.Popen:
    """Settings, history as compaction and roll-ups leave it, and a served exchange; its process."""
    body, _ = cryptowatch_body()
    recordings = folder / "recordings" / "cryptowatch"
    recordings.mkdir(parents=True)
    (recordings / "ingest.json.gz").write_bytes(gzip.compress(body[len(b'{"result":') : -1], 1))
    export(
        {
            "root": str(folder / "root"),
            "exchanges": ["cryptowatch"],
            "hosts": {"cryptowatch": f"http://127.0.0.1:{port}/cryptowatch"},
            # by the machine's clock these ticks are of long ago, and alerts long not evaluated
            "notify": {"silent_m": 10_000_000, "late_m": 10_000_000},
        }
    )
    monitor = open_monitor("local")
    # the list of pairs is asked for once a day; the tick is not to wait for it
    monitor.storage.put(
        "instruments/cryptowatch.json", json.dumps({"x": {"symbol": "x", "base": "X", "quote": "Y"}}).encode()
    )
    feed = Feed(BEGIN - timedelta(hours=hours))
    rows = sum(monitor.lake.append("ticks", [feed.batch(minute)]).rows for minute in range(60 * hours))
    rolled, compacted = timed(lambda: roll_up(monitor, BEGIN)), timed(lambda: compact_tables(monitor, BEGIN))
    print(
        f"{feed.origin} payload, {rows:,} rows of {hours} h; rolled up in {rolled:.0f} s, compacted in {compacted:.0f} s"
    )
    print(describe_tables(monitor)[["files", "rows", "mb"]].round(1).to_string())
    command = [
        sys.executable,
        "-m",
        "cryptomon_lib.cli",
        "simulate",
        "--port",
        str(port),
        "--replay",
        str(recordings),
    ]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    served.stdout.readline()
    return served


def timed(work) -> float:
    """Seconds that the work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def resident(moment: str, kernels: Kernels) -> tuple[float, float]:
    """Wall and CPU seconds of a tick by the resident runner."""
    worker = psutil.Process()
    below = running_kernels()
    spent, began = cpu_of([worker, *below]), time.perf_counter()
    records = run_job(open_monitor("local"), "tick", {"as_of": moment}, kernels)
    taken = time.perf_counter() - began, cpu_of([worker, *below]) - spent
    for record in records:
        PARTS.setdefault(record["notebook"], []).append(record["duration_s"])
    return taken


def command_line(moment: str, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of the same notebooks by the papermill command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for stem in job_named("tick").notebooks:
        command = [
            sys.executable,
            "-m",
            "papermill",
            str(home() / "notebooks" / f"{stem}.ipynb"),
            str(folder / "out.ipynb"),
        ]
        command += ["-p", "as_of", moment] if "as_of" in declared_parameters(notebook_path(stem)) else []
        subprocess.run([*command, "--no-progress-bar"], check=True, capture_output=True, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def plain(moment: str) -> tuple[float, float]:
    """Wall and CPU seconds of the same calls without a notebook."""
    began, spent = time.perf_counter(), time.process_time()
    monitor = open_monitor("local")
    engine = Engine(monitor, moment)
    steps = {
        "collect": lambda: collect_payloads(monitor, as_of=moment),
        "flatten": lambda: flatten_payloads(monitor),
        "freshness": lambda: engine.query("select * from freshness order by source"),
        "latest, computed and kept": lambda: keep_latest(engine),
        "spikes": lambda: engine.query(SPIKES),
        "alerts": lambda: evaluate_alerts(monitor, moment),
    }
    for name, step in steps.items():
        PARTS.setdefault(f"plain: {name}", []).append(timed(step))
    return time.perf_counter() - began, time.process_time() - spent


def cpu_of(processes: list[psutil.Process]) -> float:
    """CPU seconds that processes have spent."""
    return sum(one.cpu_times().user + one.cpu_times().system for one in processes)


def main(rounds: int, hours: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        served = prepare(folder, random.randint(20000, 40000), hours)
        kernels = Kernels(keep=True)
        try:
            told: dict[str, list[tuple[float, float]]] = {
                "plain Python": [],
                "resident runner": [],
                "papermill command": [],
            }
            # one after the other: alerts make up for a minute that nobody looked at, which is no tick's usual work
            minutes = (f"{BEGIN + timedelta(minutes=number):%Y-%m-%dT%H:%M:%SZ}" for number in count())
            for number in range(rounds + 2):
                figures = [plain(next(minutes)), resident(next(minutes), kernels)]
                if (
                    number >= 2
                ):  # the first ones warm up: imports, the kernel's own caches; of a command nothing stays
                    figures.append(command_line(next(minutes), folder))
                    for one, figure in zip(told.values(), figures, strict=True):
                        one.append(figure)
            memory = {
                "plain Python": high_water_mb("self"),
                "resident runner": sum(high_water_mb(one.pid) for one in running_kernels()),
            }
        finally:
            kernels.close()
            served.terminate()
            served.wait(20)
    print(f"median of {rounds} rounds taken in turn")
    print(f"{'':<20}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}")
    middle = {
        name: tuple(statistics.median(part) for part in zip(*figures, strict=True))
        for name, figures in told.items()
    }
    for name, (wall, cpu) in middle.items():
        print(f"{name:<20}{wall:9.2f}{cpu:9.2f}" + (f"{memory[name]:9.0f}" if name in memory else ""))
    print("where the time goes, median seconds")
    for name, seconds in PARTS.items():
        print(f"  {name:<32}{statistics.median(seconds[2:] or seconds):8.2f}")
    (wall, cpu), (_, much) = middle["resident runner"], middle["papermill command"]
    print(f"goal: resident within 0.5 s: {'reached' if wall <= 0.5 else 'MISSED'}, {wall:.2f} s;", end=" ")
    print(
        f"at most a fifth of the command's CPU: {'reached' if cpu <= much / 5 else 'MISSED'}, {cpu / much:.2f}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, int(sys.argv[2]) if len(sys.argv) > 2 else 24)
