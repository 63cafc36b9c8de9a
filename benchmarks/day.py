"""A whole day of 9,590 markets a minute with kernels: every job of the schedule, tick after tick as fast as they go.

The runner's own calls: the tick's notebooks through papermill in one warm kernel, every other job in kernels of its
own, at the minutes that scheduled/schedule.yaml names. The exchange is an HTTP server in a process of its own whose
recorded poll moves on, market by market. At the end each market has to have each minute once.

A run that was ended anywhere goes on where it was.
Run: python benchmarks/day.py FOLDER [minutes]
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import psutil
from _measure import cryptowatch_body, running_kernels

from cryptomon_lib import describe_tables, open_monitor
from cryptomon_lib.config import export
from cryptomon_lib.run import Kernels, run_job
from cryptomon_lib.schedule import last_due, load_schedule
from cryptomon_lib.storage import write_whole

MINUTE = timedelta(minutes=1)
DAY_MINUTES = 1440
# until the report of the day is written
# lines of the log, and how far a run that was ended goes back
EVERY = 10


class Moving:
    """The recorded poll, which moves at each call: busy markets trade, the others say what they said before."""

    def __init__(self):
        body, self.origin = cryptowatch_body()
        self._rows = list(msgspec.json.decode(body)["result"].items())
        self._chance = np.random.default_rng(7)
        self._busy = self._chance.beta(0.4, 1.2, len(self._rows))

    def body(self) -> bytes:
        """The answer to the next poll."""
        trades = np.flatnonzero(self._chance.random(len(self._busy)) < self._busy)
        moved = self._chance.lognormal(0, 1e-3, len(trades))
        for number, much in zip(trades.tolist(), moved.tolist(), strict=True):
            row = self._rows[number][1]
            row["price"]["last"] *= much
            row["volume"] *= much
            row["volumeQuote"] *= much
        return msgspec.json.encode({"result": dict(self._rows)})


def serve() -> None:
    """The exchange, on a free port that is printed."""
    moving = Moving()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = moving.body()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *said) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    print(server.server_port, flush=True)
    server.serve_forever()


class Day:
    """The monitor and what the run knows of itself: when it began, and how far it came."""

    def __init__(self, folder: Path, port: int):
        self.state_file, self.log_file = folder / "state.json", folder / "day.jsonl"
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self.state = {"begin": (today - timedelta(days=1)).isoformat(), "minute": 0}
        if self.state_file.exists():
            self.state = json.loads(self.state_file.read_text())
        self.begin = datetime.fromisoformat(self.state["begin"])
        export(
            {
                "root": str(folder / "root"),
                "exchanges": ["cryptowatch"],
                "hosts": {"cryptowatch": f"http://127.0.0.1:{port}/cryptowatch"},
                "fetch": {"pause_s": 0},
                # by the machine's clock this day's alerts are evaluated late
                "notify": {"silent_m": 10_000, "late_m": 10_000},
            }
        )
        storage = open_monitor("local").storage
        # the list of pairs is another route, which this exchange does not have
        storage.put("instruments/cryptowatch.json", b'{"x": {"symbol": "x", "base": "X", "quote": "Y"}}')
        self.ticks, self.jobs, self.parts = [], {}, {}

    def run(self, minutes: int) -> None:
        """Tick after tick; after each, whatever else the schedule has for its minute."""
        others = {name: job for name, job in load_schedule().items() if job.cron and name != "tick"}
        with closing(Kernels(keep=True)) as kernels:
            while self.state["minute"] < minutes:
                at = self.begin + self.state["minute"] * MINUTE
                self.ticks.append(self.timed("tick", at, kernels))
                for name, job in others.items():
                    # the report of a day that was not yet
                    if last_due(job, at) == at and (
                        name != "report" or at >= self.begin + DAY_MINUTES * MINUTE
                    ):
                        with closing(Kernels(keep=False)) as own:
                            self.jobs.setdefault(name, []).append(self.timed(name, at, own))
                self.state["minute"] += 1
                if self.state["minute"] % EVERY == 0 or self.state["minute"] == minutes:
                    self.tell(at)

    def timed(self, name: str, at: datetime, kernels: Kernels) -> tuple[float, float]:
        """Wall and CPU seconds of a job, kernels included."""
        spent, began = _cpu(), time.perf_counter()
        moment = f"{at:%Y-%m-%dT%H:%M:%SZ}"
        given = {"day": f"{at - timedelta(days=1):%Y-%m-%d}"} if name == "report" else {"as_of": moment}
        for record in run_job(open_monitor("local"), name, given, kernels):
            if name == "tick":
                self.parts.setdefault(record["notebook"], []).append(record["duration_s"])
        return time.perf_counter() - began, _cpu() - spent

    def tell(self, at: datetime) -> None:
        """One line of the log; what it says is what the last minutes took, and how much of everything there is."""
        root = Path(open_monitor("local").settings.root)
        objects = Counter(
            {
                path.name: sum(len(files) for _, _, files in os.walk(path))
                for path in root.iterdir()
                if path.is_dir()
            }
        )
        line = {
            "minute": self.state["minute"],
            "at": f"{at:%Y-%m-%dT%H:%M}",
            "tick_wall_s": round(statistics.median(wall for wall, _ in self.ticks), 3),
            "tick_cpu_s": round(statistics.median(cpu for _, cpu in self.ticks), 3),
            "parts_s": {name: round(statistics.median(found), 3) for name, found in self.parts.items()},
            "jobs_cpu_s": {name: [round(cpu, 1) for _, cpu in found] for name, found in self.jobs.items()},
            "kernel_mb": round(sum(one.memory_info().rss for one in running_kernels()) / 2**20),
            "runner_mb": round(psutil.Process().memory_info().rss / 2**20),
            "objects": dict(objects),
        }
        self.ticks, self.jobs, self.parts = [], {}, {}
        with self.log_file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        write_whole(self.state_file, json.dumps(self.state).encode())

    def check(self, minutes: int) -> list[str]:
        """What is wrong with the minutes that were kept: nothing, where each market has each of them once."""
        monitor = open_monitor("local")
        files = [monitor.lake.uri("ticks") + "/" + path for path in self._paths(monitor)]
        found = duckdb.execute(
            "select market_id, count(*), count(distinct date_trunc('minute', collected_at))"
            " from read_parquet($files) group by 1",
            {"files": files},
        ).fetchall()
        print(f"{sum(rows for _, rows, _ in found):,} rows of {len(found):,} markets in {len(files)} files")
        print(describe_tables(monitor)[["files", "rows", "mb"]].round(1).to_string())
        return [
            f"{market}: {rows} rows, {different} minutes of {minutes}"
            for market, rows, different in found
            if rows != minutes or different != minutes
        ]

    def _paths(self, monitor) -> list[str]:
        return monitor.lake.actions(monitor.lake.open("ticks"))["path"].to_pylist()


def _cpu() -> float:
    """CPU seconds of this process, of what runs below it, the exchange left out, and of what ran below it and ended."""
    spent = time.process_time() + sum(os.times()[2:4])
    for one in running_kernels():
        with suppress(psutil.Error):
            spent += one.cpu_times().user + one.cpu_times().system
    return spent


def main(folder: Path, minutes: int) -> None:
    """Run the day to its end, then hold it against what there has to be."""
    folder.mkdir(parents=True, exist_ok=True)
    served = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        day = Day(folder, int(served.stdout.readline()))
        day.run(minutes)
        wrong = day.check(minutes)
    finally:
        served.terminate()
        served.wait(20)
    lines = [json.loads(line) for line in day.log_file.read_text().splitlines()]
    for name in ("tick_wall_s", "tick_cpu_s", "kernel_mb", "runner_mb"):
        quarter = max(1, len(lines) // 4)
        first, last = (
            statistics.median(one[name] for one in part) for part in (lines[:quarter], lines[-quarter:])
        )
        print(f"{name:<14} first quarter {first:9.2f}   last quarter {last:9.2f}   {last / first:5.2f}")
    if wrong:
        sys.exit("\n".join([f"{len(wrong)} markets have minutes missing or doubled", *wrong[:20]]))
    print(f"every market has each of the {minutes} minutes once")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve()
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else DAY_MINUTES + 15)
