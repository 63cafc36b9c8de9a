"""A month of simulated minutes, one tick after the other as fast as they go: does anything grow, is anything lost?

Each tick polls the simulated exchange over HTTP, flattens, and (every so many ticks) computes what notebooks 30 and 40
compute; compaction, roll-ups, backfill, health, the report and retention come at the times of the schedule. All are the
notebooks' own calls in one process, without kernels.

The exchange fails for 40 minutes of each day for candles (backfill has to mend it) and answers once a day with what
cannot be read (quarantine). Every day is held against the exchange: each market's minutes once, no more, no less.

What Delta Lake itself measures by the machine's clock (how long log, ids and deleted files stay) is divided by --speed,
simulated seconds a second. A run that was ended anywhere goes on where it was.

Run: python benchmarks/soak.py FOLDER [--ticks 43200] [--metrics-every 30] [--speed 300]
"""

import argparse
import gc
import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from cryptomon_lib import (
    Engine,
    collect_payloads,
    compact_tables,
    evaluate_alerts,
    exchanges,
    firing_of,
    flatten_payloads,
    keep_latest,
    lake,
    open_monitor,
    roll_up,
    send_notices,
)
from cryptomon_lib.backfill import fill_holes
from cryptomon_lib.collect import load_instruments
from cryptomon_lib.fetch import Fetcher
from cryptomon_lib.health import check_health
from cryptomon_lib.holes import note_holes
from cryptomon_lib.report import day_report
from cryptomon_lib.retention import expire
from cryptomon_lib.storage import write_whole
from cryptomon_lib.tables import TABLES

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
SOURCE, WATCHED = "bitstamp", ["BTC-USD", "ETH-USD"]
RETENTION = {
    "archive_days": 2,
    "quarantine_days": 3,
    "runs_days": 4,
    "tables_days": {
        "ticks": 5,
        "candles": 8,
        "rollups_1h": 12,
        "ticks_1h": 6,
        "alerts": 10,
        "notices": 10,
        "findings": 10,
    },
}
SPIKES = "select * from spikes where measure not in ('volume_24h', 'quote_volume_24h') order by ratio_1h desc"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
# hours after midnight when the day before is complete: the last of its candles came by backfill
CHECKED_AT = 4


class Soak:
    """The monitor, the exchange it polls, and what the run knows of itself (`state`, kept after each hour)."""

    def __init__(self, folder: Path, metrics_every: int, speed: float):
        self.folder, self.metrics_every = folder, metrics_every
        self.state_file, self.log_file = folder / "state.json", folder / "soak.jsonl"
        self.state = {"tick": 0, "jobs": {}, "gone": {}, "wrong": [], "days": 0, "spent_s": 0.0}
        if self.state_file.exists():
            self.state = json.loads(self.state_file.read_text())
        quicken(speed)
        self.spent: dict[str, list[tuple[float, float]]] = {}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The exchange served by a process of its own, the monitor opened on it."""
        command = [sys.executable, "-m", "cryptomon_lib.cli", "simulate", "--port", "0"]
        served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            address = served.stdout.readline().split()[-1].rsplit("/", 1)[0]
            self.host = f"{address}/{SOURCE}"
            spoil(address)
            flags = {
                "root": str(self.folder / "root"),
                "hosts": {SOURCE: self.host},
                "exchanges": [SOURCE],
                "watchlist": WATCHED,
                "min_markets": 5,
                "retention": RETENTION,
                "fetch": {"attempts": 1, "workers": 4, "pause_s": 0},
            }
            self.monitor = open_monitor("local", flags=flags)
            self.count_expired()
            yield
        finally:
            served.terminate()
            served.wait(20)

    def run(self, ticks: int) -> None:
        """Tick after tick; whatever job is due after it."""
        while self.state["tick"] < ticks:
            number = self.state["tick"]
            now = BEGIN + number * MINUTE
            self.tick(now, number)
            for name, job in due(now).items():
                self.timed(name, lambda job=job, now=now: job(self, now))
            self.state["tick"] = number + 1
            if now.minute == 59:
                self.tell(now)

    def tick(self, now: datetime, number: int) -> None:
        """What the notebooks 10 to 40 do."""
        self.timed("collect", lambda: collect_payloads(self.monitor, as_of=now))
        flattened = self.timed("flatten", lambda: flatten_payloads(self.monitor))
        facts = {"rows": flattened.rows, "quarantined": flattened.quarantined}
        if number % self.metrics_every == 0:
            engine = Engine(self.monitor, now)
            self.timed("freshness", lambda: engine.query("select * from freshness order by source"))
            self.timed("latest", lambda: keep_latest(engine))
            self.timed("spikes", lambda: engine.query(SPIKES).to_pandas())
            step = self.timed("alerts", lambda: evaluate_alerts(self.monitor, now))
            facts["firing"] = len(firing_of(step))
            self.timed("notices", lambda: send_notices(self.monitor, evaluated=step.at, now=now))
        run_id = f"{now:%Y%m%dT%H%M%SZ}-tick-{number:06x}"
        at = now.isoformat(timespec="milliseconds")
        record = {
            "run_id": run_id, "job": "tick", "notebook": "20_flatten", "environment": "local", "simulated": True,
            "parameters": {}, "version": "", "host": socket.gethostname(), "pid": os.getpid(), "started_at": at,
            "ended_at": at, "duration_s": 0.1, "status": "succeeded", "reason": None, "facts": facts,
        }  # fmt: skip
        self.monitor.storage.put(f"runs/{now:%Y-%m-%d}/{run_id}.json", json.dumps(record).encode())

    def timed(self, name: str, work: Callable):
        """Do it; wall and CPU seconds are kept until they are told."""
        began, spent = time.perf_counter(), time.process_time()
        done = work()
        self.spent.setdefault(name, []).append((time.perf_counter() - began, time.process_time() - spent))
        return done

    def tell(self, now: datetime) -> None:
        """One line of the log: what the hour took, and how much of everything there is."""
        gc.collect()
        parts = {name: quantiles(found) for name, found in self.spent.items()}
        # by tick: its two parts that are of every minute
        ticks = [
            (one[0] + other[0], one[1] + other[1])
            for one, other in zip(self.spent["collect"], self.spent["flatten"], strict=False)
        ]
        cpu = sum(one[1] for found in self.spent.values() for one in found)
        self.state["spent_s"] += cpu
        line = {
            "tick": self.state["tick"],
            "at": f"{now:%Y-%m-%dT%H:%M}",
            "tick_ms": quantiles(ticks),
            "parts_ms": parts,
            "cpu_s": round(cpu, 2),
            "rss_mb": round(psutil.Process().memory_info().rss / 2**20, 1),
            "handles": psutil.Process().num_fds(),
            "threads": psutil.Process().num_threads(),
            "objects": objects(Path(self.monitor.settings.root)),
            "tables": {name: self.table(name) for name in TABLES if self.monitor.lake.open(name) is not None},
        }
        self.spent = {}
        with self.log_file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        write_whole(self.state_file, json.dumps(self.state, indent=1).encode())

    def table(self, name: str) -> dict:
        """Files named, files there are, entries of the log, version."""
        folder = Path(self.monitor.lake.uri(name))
        log = list((folder / "_delta_log").iterdir())
        opened = self.monitor.lake.open(name)
        return {
            "named": self.monitor.lake.actions(opened).num_rows,
            "there": sum(len(files) for _, _, files in os.walk(folder)) - len(log),
            "log": len(log),
            "version": opened.version(),
        }

    def count(self, of: str, much: int) -> None:
        """Add to what is counted over the whole run."""
        self.state["gone"][of] = self.state["gone"].get(of, 0) + much

    def count_expired(self) -> None:
        """Have each table's files that retention lets go of counted."""
        expire_table = self.monitor.lake.expire

        def counted(name: str, oldest: str) -> int:
            gone = expire_table(name, oldest)
            self.count(f"expired {name}", gone)
            return gone

        self.monitor.lake.expire = counted

    def check_day(self, day: datetime) -> None:
        """Hold a day's rows against the minutes that it had, and candles against the exchange's own."""
        name, wrong = f"{day:%Y-%m-%d}", []
        for table, when in (("ticks", "collected_at"), ("candles", "opened_at")):
            kept = self.monitor.lake.open(table).to_pyarrow_table(filters=[("day", "=", name)])
            minutes = kept[when].cast(pa.timestamp("ms", "UTC")).cast(pa.int64()).to_numpy() // 60_000
            found: dict[str, np.ndarray] = {}
            for market in pc.unique(kept["market_id"]).to_pylist():
                found[market] = minutes[pc.equal(kept["market_id"], market).to_numpy(zero_copy_only=False)]
            truth = self.truth(day) if table == "candles" else None
            whole = np.arange(1440) + int(day.timestamp()) // 60
            for market in truth or found:
                wanted = truth[market] if truth else whole
                mine = found.get(market, np.array([], dtype=np.int64))
                missing = len(np.setdiff1d(wanted, mine))
                doubled, foreign = len(mine) - len(np.unique(mine)), len(np.setdiff1d(mine, whole))
                if missing or doubled or foreign:
                    wrong.append(
                        f"{name} {market} {table}: {missing} missing, {doubled} doubled, {foreign} foreign"
                    )
            self.count(f"{table} minutes checked", sum(len(one) for one in found.values()))
        self.state["days"] += 1
        self.state["wrong"] += wrong[:20]

    def truth(self, day: datetime) -> dict[str, np.ndarray]:
        """Minutes of the day in which watched markets have a candle, asked of the exchange a day later."""
        module, fetcher = exchanges.get(SOURCE), Fetcher(self.monitor.settings.fetch)
        found = {}
        for one in exchanges.followed(load_instruments(self.monitor, SOURCE), WATCHED):
            have: set[int] = set()
            asked = day + 2 * DAY
            for begin in range(0, 1440, 480):
                first, last = day + begin * MINUTE, day + (begin + 480) * MINUTE
                for request in exchanges.candles_pages(SOURCE, one, first, last, asked):
                    answer = fetcher.get(
                        request.url(self.host), exchange=SOURCE, may_be_empty=True,
                        headers={"X-As-Of": asked.isoformat()},
                    )  # fmt: skip
                    have |= {
                        int(ms) // 60_000 for ms in module.flatten_candles(answer.body)[0]["opened_at_ms"]
                    }
            begins = int(day.timestamp()) // 60
            found[f"{SOURCE}:{SOURCE}:{one.symbol}"] = np.array(
                sorted(minute for minute in have if begins <= minute < begins + 1440)
            )
        return found


def compact(soak: Soak, now: datetime) -> None:
    """Notebook 50. By the machine's clock an hour has not passed since files left their table, so no grace is left."""
    roll_up(soak.monitor, now)
    done = compact_tables(soak.monitor, now, vacuum_after=timedelta(0))
    for name in ("hours", "days", "expired", "vacuumed"):
        soak.count(f"compact {name}", getattr(done, name))


def backfill(soak: Soak, now: datetime) -> None:
    """Notebook 70."""
    done = fill_holes(soak.monitor, as_of=now)
    for name in ("filled", "untraded", "lost"):
        soak.count(f"backfill {name}", done.count(name))


def health(soak: Soak, now: datetime) -> None:
    """Notebook 60."""
    note_holes(soak.monitor, now)
    for severity, much in check_health(soak.monitor, now).counts.items():
        soak.count(f"health {severity}", much)


def report(soak: Soak, now: datetime) -> None:
    """Notebook 90, without its pictures."""
    told = day_report(soak.monitor, f"{now - DAY:%Y-%m-%d}")
    soak.count("report markets", len(told.latest))
    assert told.top


def retain(soak: Soak, now: datetime) -> None:
    """What every run does once a day; how much each rule deleted."""
    root = Path(soak.monitor.settings.root)
    before = objects(root)
    expire(soak.monitor, now)
    after = objects(root)
    for prefix in before:
        if prefix != "tables":
            soak.count(
                f"retention {prefix}", before[prefix]["files"] - after.get(prefix, {"files": 0})["files"]
            )


def verify(soak: Soak, now: datetime) -> None:
    """The day before yesterday's end is long closed: hold it against the truth."""
    soak.check_day((now - DAY).replace(hour=0, minute=0))


def due(now: datetime) -> dict[str, Callable[[Soak, datetime], None]]:
    """The jobs of the schedule that come after this minute's tick."""
    hourly = {5: ("compact", compact), 23: ("backfill", backfill), 41: ("health", health)}
    daily = {(0, 12): ("report", report), (0, 30): ("retention", retain), (CHECKED_AT, 50): ("check", verify)}
    jobs = [found for found in (hourly.get(now.minute), daily.get((now.hour, now.minute))) if found]
    if now < BEGIN + DAY:
        jobs = [one for one in jobs if one[0] not in ("report", "check")]
    return dict(jobs)


def quicken(speed: float) -> None:
    """What Delta Lake measures by the machine's clock goes by the simulated one."""
    units = {"days": 86400, "day": 86400, "hours": 3600, "hour": 3600}
    for settings in (lake._CONFIGURATION, lake._OF_PAYLOADS, lake._REPLACED):
        for name, value in settings.items():
            if value.startswith("interval"):
                _, much, unit = value.split()
                settings[name] = f"interval {max(1, round(int(much) * units[unit] / speed))} seconds"


def spoil(address: str) -> None:
    """Faults of every day of the month: no candles for a while, and once something that is no candle."""
    faults = []
    for day in range(40):
        begin = BEGIN + day * DAY
        faults.append(
            {"kind": "503", "route": "/ohlc/", "from": f"{begin + 10 * HOUR:%Y-%m-%dT%H:%M:%SZ}",
             "to": f"{begin + 10 * HOUR + 40 * MINUTE:%Y-%m-%dT%H:%M:%SZ}"}
        )  # fmt: skip
        faults.append(
            {"kind": "drift", "drift": "renamed", "route": "/ohlc/",
             "from": f"{begin + 15 * HOUR:%Y-%m-%dT%H:%M:%SZ}", "to": f"{begin + 15 * HOUR + MINUTE:%Y-%m-%dT%H:%M:%SZ}"}
        )  # fmt: skip
    asked = urllib.request.Request(f"{address}/_faults", json.dumps(faults).encode(), method="POST")
    urllib.request.urlopen(asked, timeout=20).close()


def objects(root: Path) -> dict[str, dict[str, int]]:
    """Files and bytes below each first folder of the root."""
    found: dict[str, Counter] = {}
    for path, _, files in os.walk(root):
        first = Path(path).relative_to(root).parts[:1]
        if first:
            mine = found.setdefault(first[0], Counter())
            mine["files"] += len(files)
            mine["bytes"] += sum(Path(path, name).stat().st_size for name in files)
    return {name: dict(counted) for name, counted in found.items()}


def quantiles(found: list[tuple[float, float]]) -> dict[str, float]:
    """Milliseconds of wall and CPU time: the middle and what 19 of 20 stay below."""
    wall, cpu = zip(*found, strict=True)
    return {
        f"{name}_{part}": round(float(np.percentile(values, percent)) * 1e3, 1)
        for name, values in (("wall", wall), ("cpu", cpu))
        for part, percent in (("p50", 50), ("p95", 95))
    }


def main() -> None:
    """Run it to the end, then say what it showed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ticks", type=int, default=43_200)
    parser.add_argument("--metrics-every", type=int, default=1)
    parser.add_argument("--speed", type=float, default=300)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    soak = Soak(given.folder, given.metrics_every, given.speed)
    with soak.opened():
        soak.run(given.ticks)
    print(json.dumps(soak.state, indent=1))
    if soak.state["wrong"]:
        sys.exit(f"{len(soak.state['wrong'])} findings: minutes are missing or doubled")


if __name__ == "__main__":
    logging.basicConfig(level="ERROR")
    main()
