"""Alert rules at scale: 100, 10 thousand and 1 million rules over 9,590 markets a tick, and a rule over a week of them.

tick         readings of all markets in, transitions out: conditions, states, cool-downs, set-wise in one process
written      the same, with the step's object put and its transitions committed to the table `alerts`
loop         one `if` a rule in Python, without state or writing: what a program of one's own would begin with
back-test    one rule over generated ticks, seven days of 9,590 markets: through the engine, the history and the evaluator

Run: python benchmarks/alerts.py [tick|backtest] [days]; the generated tables are deleted at the end.
"""

import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _measure import high_water_mb
from deltalake import write_deltalake

from cryptomon_lib import open_monitor
from cryptomon_lib.alerts import Step, publish
from cryptomon_lib.alerts import _key as key_of
from cryptomon_lib.alerts import _packed as packed
from cryptomon_lib.backtest import backtest_rule
from cryptomon_lib.evaluator import TABLE, Evaluator
from cryptomon_lib.history import reading
from cryptomon_lib.rules import read_rule
from cryptomon_lib.tables import TABLES, schema

MARKETS = 9590
BEGIN = datetime(2026, 1, 15, tzinfo=UTC)
NAMES = [f"cryptowatch:exchange{number % 29}:coin{number}usd" for number in range(MARKETS)]


def readings(minute: int, chance: np.random.Generator) -> pa.Table:
    """A value of each market beside its average: one in a hundred is above three times of it."""
    ratio = chance.lognormal(0, 0.47, MARKETS)
    at = (BEGIN + timedelta(minutes=minute)).replace(tzinfo=None)
    return pa.table(
        [
            pa.array(NAMES),
            pa.repeat(pa.scalar("volume_1m"), MARKETS),
            pa.repeat(pa.scalar(at, pa.timestamp("ms")), MARKETS),
            pa.array(100 * ratio),
            pa.repeat(pa.scalar(100.0), MARKETS),
            pa.array(ratio),
            pa.repeat(pa.scalar(60, pa.int64()), MARKETS),
            pa.repeat(pa.scalar(60, pa.int64()), MARKETS),
        ],
        schema=reading(),
    )


def rules(count: int, chance: np.random.Generator) -> pa.Table:
    """Rules of programs, spread over the markets, thresholds from 3 to 6, with a cool-down of an hour."""
    fixed = {
        "view": "now_1h",
        "measure": "volume_1m",
        "compared": "ratio_1h",
        "compare": ">",
        "severity": "info",
    }
    columns = {
        "rule": pa.array([f"r{number}" for number in range(count)]),
        "market_id": pa.array(np.asarray(NAMES, object)[np.arange(count) % MARKETS], pa.string()),
        "threshold": pa.array(chance.uniform(3, 6, count)),
        "cool_down_s": pa.repeat(pa.scalar(3600.0), count),
    }
    columns |= {name: pa.repeat(pa.scalar(value), count) for name, value in fixed.items()}
    whole = {
        name: columns[name] if name in columns else pa.nulls(count, TABLE.field(name).type)
        for name in TABLE.names
    }
    return pa.table(whole, schema=TABLE)


def loop(table: pa.Table, rows: pa.Table) -> float:
    """Seconds of one `if` a rule."""
    markets, thresholds = table["market_id"].to_pylist(), table["threshold"].to_pylist()
    began = time.perf_counter()
    ratio = dict(zip(rows["market_id"].to_pylist(), rows["ratio_1h"].to_pylist(), strict=True))
    fired = [number for number, market in enumerate(markets) if ratio[market] > thresholds[number]]
    assert fired is not None
    return time.perf_counter() - began


def ticks(count: int, minutes: int = 8) -> dict[str, float]:
    """Median seconds of a tick."""
    chance = np.random.default_rng(7)
    table = rules(count, chance)
    began = time.perf_counter()
    evaluator = Evaluator([], table)
    compiled = time.perf_counter() - began
    told: dict[str, list[float]] = {"tick": [], "cpu": [], "written": [], "transitions": [], "loop": []}
    with tempfile.TemporaryDirectory() as folder:
        monitor = open_monitor("local", flags={"root": folder})
        for minute in range(minutes):
            rows, now = readings(minute, chance), BEGIN + timedelta(minutes=minute)
            gc.collect()
            began, spent = time.perf_counter(), time.process_time()
            changed = evaluator.advance({"now_1h": rows}, now)
            told["tick"].append(time.perf_counter() - began)
            told["cpu"].append(time.process_time() - spent)
            step = Step(minute + 1, now, evaluator.state(), changed, count)
            assert monitor.storage.create(key_of(step.number), packed(step))
            publish(monitor, step)
            told["written"].append(time.perf_counter() - began)
            told["transitions"].append(changed.num_rows)
            told["loop"].append(loop(table, rows))
    # the first tick compiles and warms
    return {name: statistics.median(values[2:]) for name, values in told.items()} | {"compiled": compiled}


def generated(folder: str, days: int):
    """Ticks of some days in hourly files, sorted by market as compaction leaves them; prices that walk, some jump."""
    monitor = open_monitor("local", flags={"root": folder})
    chance = np.random.default_rng(11)
    price = chance.lognormal(0, 3, MARKETS)
    names = pa.array(NAMES)
    for hour in range(days * 24):
        minutes = [BEGIN + timedelta(hours=hour, minutes=minute) for minute in range(60)]
        moves = chance.normal(0, 1e-3, (60, MARKETS))
        moves[chance.random((60, MARKETS)) < 2e-6] += 1.5
        path = np.exp(np.log(price) + np.cumsum(moves, axis=0))
        # towards where it began: a week of jumps would end anywhere
        price = path[-1] * np.where(path[-1] > 50 * price, 0.02, 1.0)
        which = np.repeat(np.arange(MARKETS), 60)
        day = f"{minutes[0]:%Y-%m-%d}"
        size = 60 * MARKETS
        columns = {
            "market_id": names.take(pa.array(which)),
            "source": pa.repeat(pa.scalar("cryptowatch"), size),
            "collected_at": pa.array(
                np.tile(np.array([one.replace(tzinfo=None) for one in minutes], "datetime64[us]"), MARKETS)
            ).cast(schema("ticks").field("collected_at").type),
            "price": pa.array(path.T.ravel()),
            "volume_24h": pa.array(path.T.ravel() * 1e3),
            "day": pa.repeat(pa.scalar(day), size),
        }
        rows = pa.table(
            {
                name: columns[name] if name in columns else pa.nulls(size, schema("ticks").field(name).type)
                for name in schema("ticks").names
            }
        )
        write_deltalake(
            monitor.lake.uri("ticks"), rows, mode="append", partition_by=list(TABLES["ticks"].partition_by)
        )
    return monitor


def history(days: int) -> None:
    """A rule over all of it."""
    folder = tempfile.mkdtemp(prefix="cryptomon-bench-")
    try:
        began = time.perf_counter()
        monitor = generated(folder, days)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet")) / 2**30
        rows = sum(pq.read_metadata(path).num_rows for path in Path(folder).rglob("*.parquet"))
        print(
            f"{rows:,} ticks of {days} days generated, {size:.2f} GiB, {time.perf_counter() - began:.0f} s",
            flush=True,
        )
        # what is still to be written of it is none of the question's
        os.sync()
        rule = read_rule(
            "price_3x", {"measure": "price", "times": 3, "recover": 2, "cool_down": "1h", "rearm": 2}
        )
        until = BEGIN + timedelta(days=days)
        for settings in ({}, {"threshold": [2, 3, 5]}):
            before = high_water_mb("self")
            began, spent = time.perf_counter(), time.process_time()
            found = backtest_rule(monitor, rule, BEGIN, until - timedelta(minutes=1), settings)
            wall, cpu = time.perf_counter() - began, time.process_time() - spent
            count = max(1, len(settings.get("threshold", [])))
            print(
                f"back-test of {count} setting(s): {wall:.1f} s wall, {cpu:.1f} s CPU, {len(found.firings):,} firings, "
                f"peak {high_water_mb('self'):.0f} MB (before {before:.0f})",
                flush=True,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(words: list[str]) -> None:
    """Print the tables."""
    if not words or words[0] == "tick":
        print(
            f"{'rules':>10}{'tick s':>9}{'CPU s':>9}{'written s':>11}{'loop s':>9}{'compile s':>11}"
            f"{'changes':>9}{'peak MB':>9}"
        )
        for count in (100, 10_000, 1_000_000):
            one = ticks(count)
            print(
                f"{count:>10,}{one['tick']:9.3f}{one['cpu']:9.3f}{one['written']:11.3f}{one['loop']:9.3f}"
                f"{one['compiled']:11.2f}{one['transitions']:9.0f}{high_water_mb('self'):9.0f}",
                flush=True,
            )
        print(
            f"goal: a million rules within 0.3 s a tick, written: {'reached' if one['written'] <= 0.3 else 'MISSED'}"
        )
    if not words or words[0] == "backtest":
        history(int(words[1]) if len(words) > 1 else 7)


if __name__ == "__main__":
    main(sys.argv[1:])
