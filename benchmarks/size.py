"""How many bytes a tick takes: one row of the day's Parquet beside one of the first system's JSON lines.

Days of recorded bars are replayed minute by minute over HTTP, collected, flattened and compacted by the project's own
calls; the JSON lines are written from the same rows, with the first system's names. These are eighteen of the busiest
markets, which say something new each minute; `benchmarks/metrics.py` says the same of a feed of 9,590.

Run: python benchmarks/size.py [days]
"""

import gzip
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
from _measure import CAPTURES

from cryptomon_lib import open_monitor
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.compact import compact_tables
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.simulator import Simulator

BEGIN = datetime(2021, 9, 30, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
LINES = """
copy (
    select price as price_last, high_24h as price_high, low_24h as price_low,
        change_24h_pct / 100 as price_change_percentage, change_24h as price_change_absolute,
        volume_24h as volume, quote_volume_24h as volumequote, exchange as market, symbol as asset,
        strftime(collected_at, '%Y-%m-%d %H:%M:%S') as created_at
    from read_parquet($paths) order by collected_at
) to '{path}' (format json)
"""


def replayed(folder: Path, days: int):
    """A monitor that collected so many whole days of the recorded bars, an hour at a time."""
    with Simulator(replay=CAPTURES / "history_1m") as simulator:
        flags = {"root": str(folder / "root"), "hosts": simulator.hosts, "fetch": {"attempts": 1}}
        monitor = open_monitor("local", flags=flags)
        for hour in range(days * 24):
            at = BEGIN + HOUR * hour
            collect_payloads(monitor, ["binance"], "tickers", samples=60, every_s=60, as_of=at)
            flatten_payloads(monitor)
    return monitor


def sizes(monitor, day: str) -> tuple[int, int, int]:
    """Files, rows and bytes of a day's ticks."""
    files = monitor.lake.files("ticks", day, day)
    return len(files), sum(file.rows for file in files), sum(file.size for file in files)


def main() -> None:
    """Print bytes a row of each day, before and after it is joined."""
    days = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        monitor = replayed(folder, days)
        before = {
            f"{BEGIN + DAY * n:%Y-%m-%d}": sizes(monitor, f"{BEGIN + DAY * n:%Y-%m-%d}") for n in range(days)
        }
        compact_tables(monitor, BEGIN + DAY * days + timedelta(hours=3))
        connection = duckdb.connect()
        connection.execute("set TimeZone = 'UTC'")
        for day, (parts, rows, size) in before.items():
            files, joined, small = sizes(monitor, day)
            assert joined == rows, "compaction lost or doubled rows"
            lines = folder / f"{day}.jsonl"
            paths = [file.path for file in monitor.lake.files("ticks", day, day)]
            connection.execute(LINES.format(path=lines), {"paths": paths})
            plain = lines.stat().st_size
            packed = len(gzip.compress(lines.read_bytes(), 6))
            print(
                f"{day}: {rows:,} rows; JSON lines {plain / rows:.0f} bytes a row, gzip {packed / rows:.1f}; "
                f"Parquet {size / rows:.1f} in {parts} files as collected, {small / rows:.1f} in {files} as compacted: "
                f"{plain / small:.1f} x"
            )


if __name__ == "__main__":
    main()
