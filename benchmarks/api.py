"""The API under load, on loopback: calls per second and the slowest hundredth of latest, series and rank.

For 10, 100 and 1,000 clients at once, each with a connection of its own, calling again as soon as it is answered:
warm, where the same was asked since the data changed, and cold, where each call is about another market.
The floor beside it is an app of the same server that answers `{}` at once.
Run: python benchmarks/api.py [seconds for each] [markets]
"""

import asyncio
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from itertools import count

import aiohttp
import httpx
import numpy as np
import pyarrow as pa
import uvicorn

from cryptomon_lib.api import create_app
from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.tables import schema

CLIENTS = (10, 100, 1000)
MINUTES = 30


def fill(root: str, markets: int) -> None:
    """Half an hour of ticks of so many markets."""
    monitor, chance = open_monitor("local", flags={"root": root, "hosts": {}}), np.random.default_rng(7)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    names = [f"BASE{number}-USD" for number in range(markets)]
    for back in range(MINUTES):
        at = now - timedelta(minutes=back)
        columns = {
            "market_id": [f"kraken:kraken:{name}" for name in names],
            "source": ["kraken"] * markets,
            "exchange": ["kraken"] * markets,
            "symbol": names,
            "market": names,
            "base": [name.partition("-")[0] for name in names],
            "quote": ["USD"] * markets,
            "kind": ["spot"] * markets,
            "collected_at": [at] * markets,
            "price": chance.lognormal(3, 1, markets),
            "volume_24h": chance.lognormal(9, 2, markets),
            "day": [f"{at:%Y-%m-%d}"] * markets,
        }
        rows = pa.table(
            [columns.get(each.name, [None] * markets) for each in schema("ticks")], schema=schema("ticks")
        )
        monitor.lake.append("ticks", [Batch(f"{at}", rows)])


def run_server(root: str, port: int) -> None:
    """The API, in a process of its own."""
    monitor = open_monitor(
        "local", flags={"root": root, "hosts": {}, "api": {"calls_per_min": 1_000_000_000}}
    )
    uvicorn.run(create_app(monitor), port=port, log_level="error", access_log=False)


async def nothing(scope, receive, send) -> None:
    """An app that answers at once: what the server beneath costs."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})


def run_floor(port: int) -> None:
    """The floor, in a process of its own."""
    uvicorn.run(nothing, port=port, log_level="error", access_log=False, lifespan="off")


async def load(addresses, clients: int, seconds: float) -> tuple[float, float, float, int]:
    """Calls per second, median and 99th percentile in ms, and failures, of clients that call one after the other."""
    took, failed, ends = [], 0, time.perf_counter() + seconds

    async def one(client: aiohttp.ClientSession) -> None:
        nonlocal failed
        while time.perf_counter() < ends:
            began = time.perf_counter()
            try:
                async with client.get(next(addresses), headers={"Accept-Encoding": "gzip"}) as answer:
                    await answer.read()
                    failed += answer.status != 200
            except aiohttp.ClientError:
                failed += 1
            took.append(time.perf_counter() - began)

    # nobody unpacks what comes: the generator shares the machine with the server
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=clients),
        timeout=aiohttp.ClientTimeout(60),
        auto_decompress=False,
    ) as client:
        began = time.perf_counter()
        await asyncio.gather(*(one(client) for _ in range(clients)))
        lasted = time.perf_counter() - began
    ordered = sorted(took)
    return (
        len(took) / lasted,
        statistics.median(ordered) * 1e3,
        ordered[int(len(ordered) * 0.99)] * 1e3,
        failed,
    )


def main(seconds: float, markets: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as root:
        fill(root, markets)
        ports = [_free_port(), _free_port()]
        # a forked process would have the tables' threads of this one, which do not survive it
        started = multiprocessing.get_context("spawn")
        processes = [
            started.Process(target=run_server, args=(root, ports[0])),
            started.Process(target=run_floor, args=(ports[1],)),
        ]
        for process in processes:
            process.start()
        try:
            for port in ports:
                _wait(port)
            url, floor = f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
            said = httpx.get(f"{url}/v1/latest?limit=1000", timeout=60)
            print(f"{markets:,} markets; latest?limit=1000 is {len(said.content):,} bytes of JSON")
            print(f"{'':<28}{'clients':>8}{'calls/s':>9}{'median ms':>11}{'p99 ms':>9}{'failed':>8}")
            for clients in CLIENTS:
                numbers = count()
                asked = {
                    "floor: an empty answer": lambda: floor,
                    "latest, warm": lambda: f"{url}/v1/latest?limit=1000",
                    "series, warm": lambda: f"{url}/v1/series?market=kraken:BASE7-USD",
                    "rank, warm": lambda: f"{url}/v1/rank?measure=price&limit=100",
                    "series, cold": lambda numbers=numbers: (
                        f"{url}/v1/series?market=kraken:BASE{next(numbers) % markets}-USD"
                    ),
                }
                for name, address in asked.items():
                    figures = asyncio.run(load(iter(address, None), clients, seconds))
                    print(
                        f"{name:<28}{clients:>8,}{figures[0]:>9,.0f}{figures[1]:>11.1f}{figures[2]:>9.1f}{figures[3]:>8}"
                    )
        finally:
            for process in processes:
                process.terminate()
                process.join(20)


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


def _wait(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the server did not start within a minute")


if __name__ == "__main__":
    main(
        float(sys.argv[1]) if len(sys.argv) > 1 else 5,
        int(sys.argv[2]) if len(sys.argv) > 2 else 9590,
    )
