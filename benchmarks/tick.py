"""A whole tick at 9,590 markets: collect from loopback, flatten, spikes of all markets over an hour of history.

resident runner     the notebooks through papermill, one kernel kept warm: what `make run` does
papermill command   the same notebooks, a fresh command line each: what cron without the runner would do
plain Python        the same calls in a process that has its imports, no notebook at all: the floor

CPU is that of all processes that work for the contender, kernels included, the served exchange left out.
Run: python benchmarks/tick.py [rounds]
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
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from _measure import cryptowatch_body, high_water_mb

from cryptomon_lib import Engine, collect_payloads, flatten_payloads, open_monitor
from cryptomon_lib.config import export, home
from cryptomon_lib.exchanges import flatten, request
from cryptomon_lib.lake import Batch
from cryptomon_lib.payloads import Payload
from cryptomon_lib.run import Kernels, run_job
from cryptomon_lib.tables import schema

BEGIN = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
NOTEBOOKS = ("10_collect", "20_flatten", "30_metrics")


def prepare(folder: Path, port: int) -> subprocess.Popen:
    """Settings, an hour of history in minute files, and a served exchange; its process."""
    body, origin = cryptowatch_body()
    recordings = folder / "recordings" / "cryptowatch"
    recordings.mkdir(parents=True)
    (recordings / "ingest.json.gz").write_bytes(gzip.compress(body[len(b'{"result":') : -1], 1))
    export(
        {
            "root": str(folder / "root"),
            "exchanges": ["cryptowatch"],
            "hosts": {"cryptowatch": f"http://127.0.0.1:{port}/cryptowatch"},
        }
    )
    monitor = open_monitor("local")
    # the list of pairs is asked for once a day; the tick is not to wait for it
    monitor.storage.put(
        "instruments/cryptowatch.json", json.dumps({"x": {"symbol": "x", "base": "X", "quote": "Y"}}).encode()
    )
    call, chance = request("cryptowatch", "tickers"), np.random.default_rng(7)
    for minute in range(60):
        at = BEGIN - timedelta(minutes=60 - minute)
        rows = flatten(Payload(call.key(at), call.host, call.route, {}, at, at, None, body), {}).rows
        moved = pa.array(
            np.asarray(rows["price"].to_numpy()) * chance.lognormal(0, 1e-3, rows.num_rows), from_pandas=True
        )
        rows = rows.set_column(schema("ticks").get_field_index("price"), "price", moved)
        monitor.lake.append("ticks", [Batch(call.key(at), rows)])
    print(f"{origin} payload, {rows.num_rows:,} markets, {minute + 1} minute files of history")
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


def resident(moment: str, kernels: Kernels) -> tuple[float, float]:
    """Wall and CPU seconds of a tick by the resident runner."""
    worker = psutil.Process()
    below = [one for one in worker.children(recursive=True) if "ipykernel" in " ".join(one.cmdline())]
    spent, began = cpu_of([worker, *below]), time.perf_counter()
    run_job(open_monitor("local"), "tick", {"as_of": moment}, kernels)
    return time.perf_counter() - began, cpu_of([worker, *below]) - spent


def command_line(moment: str, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of the same notebooks by the papermill command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for stem in NOTEBOOKS:
        command = [
            sys.executable,
            "-m",
            "papermill",
            str(home() / "notebooks" / f"{stem}.ipynb"),
            str(folder / "out.ipynb"),
        ]
        command += [] if stem == "20_flatten" else ["-p", "as_of", moment]
        subprocess.run([*command, "--no-progress-bar"], check=True, capture_output=True, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def plain(moment: str) -> tuple[float, float]:
    """Wall and CPU seconds of the same calls without a notebook."""
    began, spent = time.perf_counter(), time.process_time()
    monitor = open_monitor("local")
    collect_payloads(monitor, as_of=moment)
    flatten_payloads(monitor)
    can_spike = "measure not in ('volume_24h', 'quote_volume_24h')"
    Engine(monitor, moment).query(f"select * from spikes where {can_spike} order by ratio_1h desc")
    return time.perf_counter() - began, time.process_time() - spent


def cpu_of(processes: list[psutil.Process]) -> float:
    """CPU seconds that processes have spent."""
    return sum(one.cpu_times().user + one.cpu_times().system for one in processes)


def main(rounds: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        served = prepare(folder, random.randint(20000, 40000))
        kernels = Kernels(keep=True)
        try:
            told: dict[str, list[tuple[float, float]]] = {
                "plain Python": [],
                "resident runner": [],
                "papermill command": [],
            }
            for number in range(rounds + 2):
                minutes = iter(
                    f"{BEGIN + timedelta(minutes=3 * number + part):%Y-%m-%dT%H:%M:%SZ}" for part in range(3)
                )
                figures = (
                    plain(next(minutes)),
                    resident(next(minutes), kernels),
                    command_line(next(minutes), folder),
                )
                if number >= 2:  # the first ones warm up: imports, the kernel's own caches
                    for one, figure in zip(told.values(), figures, strict=True):
                        one.append(figure)
            below = [
                one
                for one in psutil.Process().children(recursive=True)
                if "ipykernel" in " ".join(one.cmdline())
            ]
            memory = {
                "plain Python": high_water_mb("self"),
                "resident runner": sum(high_water_mb(one.pid) for one in below),
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
    (wall, cpu), (_, much) = middle["resident runner"], middle["papermill command"]
    print(f"goal: resident within 0.5 s: {'reached' if wall <= 0.5 else 'MISSED'}, {wall:.2f} s;", end=" ")
    print(
        f"at most a fifth of the command's CPU: {'reached' if cpu <= much / 5 else 'MISSED'}, {cpu / much:.2f}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
