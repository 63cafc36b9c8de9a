"""Compaction of a day of 1,440 files x 9,590 markets: time, peak memory, objects and bytes before and after.

The files are generated: a recorded poll, then each minute prices and volumes of those markets that trade in it, by
the flattening's own writer. Compaction runs in a process of its own; beside it one reader counts rows and keys
again and again, and one writer appends a minute of the next day each second. Then, before and after, one market's day
and all markets' last hour are read.

Run: python benchmarks/compact.py [minutes] [markets]; needs about 3 GB of disk for the whole day
"""

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import psutil
from _measure import Feed, high_water_mb

from cryptomon_lib import open_monitor
from cryptomon_lib.compact import compact_tables
from cryptomon_lib.monitor import Monitor

BEGIN = datetime(2026, 1, 15, tzinfo=UTC)


def monitor_at(root: str) -> Monitor:
    """A monitor on the generated day."""
    return open_monitor("local", flags={"root": root})


def work(root: str, told) -> None:
    """Compact; tell seconds, peak memory and what was done."""
    monitor, began = monitor_at(root), time.perf_counter()
    done = compact_tables(monitor, BEGIN + timedelta(days=1, hours=2), vacuum_after=timedelta(hours=1))
    told.send({"seconds": time.perf_counter() - began, "peak_mb": high_water_mb("self")} | vars(done))


def read(root: str, rows: int, stop, told) -> None:
    """Count the day's rows and keys until told to stop; tell how often, and how often the count was another."""
    lake, counts, wrong, first = monitor_at(root).lake, 0, 0, None
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("set enable_progress_bar = false")
    while not stop.is_set():
        listed = [file.path for file in lake.files("ticks", f"{BEGIN:%Y-%m-%d}", f"{BEGIN:%Y-%m-%d}")]
        found = connection.execute(
            "select count(*), sum(hash(market_id, collected_at) % 1000003) from read_parquet($1)", [listed]
        ).fetchone()
        counts += 1
        first = first or found
        wrong += found != first or found[0] != rows
    told.send({"reads": counts, "wrong": wrong})


def write(root: str, stop, told, markets: int) -> None:
    """Append a minute of the next day each second; tell how often and how long the slowest took."""
    lake, feed, took = monitor_at(root).lake, Feed(BEGIN, markets), []
    while not stop.wait(1):
        batch = feed.batch(1440 + len(took))
        began = time.perf_counter()
        lake.append("ticks", [batch])
        took.append(time.perf_counter() - began)
    told.send({"appends": len(took), "slowest_s": max(took, default=0)})


def questions(root: str) -> dict[str, float]:
    """Median milliseconds of one market's day and of all markets' last hour, read as the engine reads."""
    lake, connection = monitor_at(root).lake, duckdb.connect(config={"threads": 2})
    connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false")
    actions = lake.actions(lake.open("ticks")).to_pylist()
    day = [one for one in actions if one["partition.day"] == f"{BEGIN:%Y-%m-%d}"]
    since = max(one["max.collected_at"] for one in day) - timedelta(minutes=59)
    hour = [one for one in day if one["max.collected_at"] >= since]
    paths = [[f"{lake.uri('ticks')}/{one['path']}" for one in some] for some in (day, hour)]
    market = connection.execute("select max(market_id) from read_parquet($1)", [paths[1]]).fetchone()[0]
    texts = {
        "one market, a day": (
            "select collected_at, price from read_parquet($1) where market_id = $2",
            [paths[0], market],
        ),
        "all markets, the last hour": (
            "select market_id, avg(price) from read_parquet($1) where collected_at >= $2 group by 1",
            [paths[1], since],
        ),
        "all markets, a day": (
            "select market_id, stddev(price) from read_parquet($1) group by 1",
            [paths[0]],
        ),
    }
    told = {}
    for name, (text, given) in texts.items():
        taken = []
        for _ in range(4):
            began = time.perf_counter()
            connection.execute(text, given).fetchall()
            taken.append((time.perf_counter() - began) * 1e3)
        told[name] = statistics.median(taken[1:])
    return told


def held(root: str) -> dict[str, float]:
    """Objects and megabytes of the table."""
    found = [one for one in Path(root, "tables", "ticks").rglob("*.parquet") if "_delta_log" not in one.parts]
    return {"objects": len(found), "mb": sum(one.stat().st_size for one in found) / 2**20}


def main(minutes: int, markets: int) -> None:
    """Print what was measured."""
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as root:
        feed, lake, began = Feed(BEGIN, markets), monitor_at(root).lake, time.perf_counter()
        rows = sum(lake.append("ticks", [feed.batch(minute)]).rows for minute in range(minutes))
        print(
            f"{feed.origin} poll, {minutes} minute files, {rows:,} rows, written in {time.perf_counter() - began:.0f} s"
        )
        before = held(root) | questions(root)
        stop, ends = processes.Event(), [processes.Pipe(duplex=False) for _ in range(3)]
        beside = [
            processes.Process(target=read, args=(root, rows, stop, ends[1][1])),
            processes.Process(target=write, args=(root, stop, ends[2][1], markets)),
        ]
        for one in beside:
            one.start()
        worker = processes.Process(target=work, args=(root, ends[0][1]))
        worker.start()
        worker.join()
        stop.set()
        told = [end.recv() for end, _ in ends]
        for one in beside:
            one.join()
        compacted, reader, writer = told
        named = lake.files("ticks", f"{BEGIN:%Y-%m-%d}", f"{BEGIN:%Y-%m-%d}")
        after = {"objects": len(named), "mb": sum(file.size for file in named) / 2**20} | questions(root)
        began = time.perf_counter()
        gone = len(lake.vacuum("ticks", timedelta(0)))
        vacuumed = time.perf_counter() - began
        print(
            json.dumps({"compaction": compacted, "reader": reader, "writer": writer}, indent=1, default=str)
        )
    print(f"{'':<30}{'before':>12}{'after':>12}")
    for name, value in before.items():
        print(f"{name:<30}{value:12.1f}{after[name]:12.1f}")
    print(f"vacuum, later: {gone} files in {vacuumed:.1f} s; cores: {psutil.cpu_count()}")
    print(
        f"below 1 GB: {'reached' if compacted['peak_mb'] < 1024 else 'MISSED'}, {compacted['peak_mb']:.0f} MB"
    )
    print(f"each reader saw each row once: {'yes' if not reader['wrong'] else 'NO'}, {reader['reads']} reads")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1440, int(sys.argv[2]) if len(sys.argv) > 2 else 9590)
