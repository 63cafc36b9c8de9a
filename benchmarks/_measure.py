"""What the benchmarks share: wall and CPU time of rounds taken in turn, peak memory, the recorded payload."""

import gc
import gzip
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pyarrow as pa

from cryptomon_lib.exchanges import flatten, request
from cryptomon_lib.lake import Batch
from cryptomon_lib.payloads import Payload
from cryptomon_lib.tables import schema

# what of a market changes when it trades
MOVING = ("price", "volume_24h", "quote_volume_24h", "change_24h", "change_24h_pct")
CAPTURES = Path(
    os.environ.get("CRYPTOMON_CAPTURES") or Path(__file__).resolve().parents[2] / "shared" / "captures"
)


def in_turn(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median wall and CPU milliseconds of each, the rounds interleaved so that noise meets all alike."""
    wall = {name: [] for name in contenders}
    cpu = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, work in contenders.items():
            gc.collect()
            began, spent = time.perf_counter(), time.process_time()
            work()
            if number:  # the first round warms up
                wall[name].append((time.perf_counter() - began) * 1e3)
                cpu[name].append((time.process_time() - spent) * 1e3)
    return {
        name: {"wall_ms": statistics.median(wall[name]), "cpu_ms": statistics.median(cpu[name])}
        for name in contenders
    }


def peak_mb(script: str, *words: str) -> float:
    """By how much the work of a process of its own raises its resident memory, at the highest, in MB."""
    command = [sys.executable, script, *words]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def say_peak(work: Callable[[], object]) -> None:
    """Do the work and print by how much it raised this process' memory at its highest, for `peak_mb`."""
    before = psutil.Process().memory_info().rss / 2**20
    # forget the peak of what came before; Linux only, as is the reading
    Path("/proc/self/clear_refs").write_text("5")
    work()
    print(max(0.0, high_water_mb("self") - before))


def high_water_mb(pid: int | str) -> float:
    """The highest resident memory of a process so far, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def running_kernels() -> list[psutil.Process]:
    """The Jupyter kernels that run below this process."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ipykernel" in " ".join(one.cmdline()):
                found.append(one)
    return found


def cryptowatch_body() -> tuple[bytes, str]:
    """One Cryptowatch answer of 9,590 markets, and where it is from: recorded, else made up in its shape."""
    recorded = CAPTURES / "cryptowatch" / "ingest.json.gz"
    if recorded.is_file():
        return b'{"result":' + gzip.decompress(recorded.read_bytes()) + b"}", "recorded"
    rows = {
        f"exchange{number % 29}:coin{number}usd": {
            "price": {
                "last": 1e-6 * (number + 1) ** 2.1,
                "high": 1.1e-6 * (number + 1) ** 2.1,
                "low": 0.9e-6 * (number + 1) ** 2.1,
                "change": {"percentage": 0.0123456789 * (number % 7 - 3), "absolute": 1e-8 * number},
            },
            "volume": 12345.678901 * (number % 101),
            "volumeQuote": 98765.4321 * (number % 97),
        }
        for number in range(9590)
    }
    return msgspec.json.encode({"result": rows}), "made up"


class Feed:
    """Polls of all markets, minute by minute: those that trade move, the others say what they said before."""

    def __init__(self, begin: datetime, markets: int = 9590):
        body, self.origin = cryptowatch_body()
        self._begin, self._chance = begin, np.random.default_rng(7)
        self._call = call = request("cryptowatch", "tickers")
        payload = Payload(call.key(begin), call.host, call.route, {}, begin, begin, None, body)
        self._rows = flatten(payload, {}).rows.slice(0, markets)
        self._values = {name: self._rows[name].to_numpy().copy() for name in MOVING}
        # most markets trade seldom, a few every minute
        self._busy = self._chance.beta(0.4, 1.2, self._rows.num_rows)

    def batch(self, minute: int) -> Batch:
        """The rows of one minute."""
        at = self._begin + timedelta(minutes=minute, seconds=2)
        trades = self._chance.random(len(self._busy)) < self._busy
        moved = np.where(trades, self._chance.lognormal(0, 1e-3, len(trades)), 1)
        for values in self._values.values():
            values *= moved
        rows = self._rows
        fixed = {
            "collected_at": pa.repeat(pa.scalar(at, pa.timestamp("us", tz="UTC")), rows.num_rows),
            "day": pa.repeat(f"{at:%Y-%m-%d}", rows.num_rows),
        }
        for name in schema("ticks").names:
            moving = name in self._values
            values = pa.array(self._values[name], from_pandas=True) if moving else fixed.get(name, rows[name])
            rows = rows.set_column(rows.schema.get_field_index(name), name, values)
        return Batch(self._call.key(at), rows.cast(schema("ticks")))


def table(rows: Mapping[str, Mapping[str, float]], of: str, base: str) -> str:
    """Rows of measures as text, with the ratio to one of them."""
    lines = [f"{'':<34}{'wall ms':>10}{'CPU ms':>10}{'peak MB':>10}{'x ' + of:>12}"]
    for name, row in rows.items():
        peak = f"{row['peak_mb']:10.0f}" if "peak_mb" in row else " " * 10
        lines.append(
            f"{name:<34}{row['wall_ms']:10.1f}{row['cpu_ms']:10.1f}{peak}{row['wall_ms'] / rows[base]['wall_ms']:12.2f}"
        )
    return "\n".join(lines)
