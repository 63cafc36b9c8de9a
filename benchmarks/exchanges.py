"""Rows a second of each exchange's flatten, from the bytes of a payload to typed columns; the slowest is named.

The payload is the longest that was recorded, where recordings are there (CRYPTOMON_CAPTURES), else the simulated
exchange's; short ones are repeated under other symbols until they have 2,000 rows, so that what a call costs by
itself weighs alike.

Run: python benchmarks/exchanges.py [rounds]
"""

import gzip
import json
import os
import re
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import requests

from cryptomon_lib import exchanges
from cryptomon_lib.config import home
from cryptomon_lib.payloads import Payload
from cryptomon_lib.simulator import Simulator

AT = datetime(2026, 7, 27, 12, tzinfo=UTC)
ROWS = 2000
CALLED = {"gate": "gateio", "htx": "huobi"}


def recorded(name: str) -> bytes | None:
    """The longest recorded tickers of an exchange."""
    folder = Path(os.environ.get("CRYPTOMON_CAPTURES", home().parent / "shared" / "captures"))
    files = [
        path
        for path in folder.joinpath(CALLED.get(name, name)).glob("*.json.gz")
        if re.search("(?i)ticker|stats|markets|ingest", path.name)
    ]
    bodies = sorted((gzip.decompress(path.read_bytes()) for path in files), key=len)
    if bodies and name == "cryptowatch":
        return b'{"result":' + bodies[-1] + b"}"
    return bodies[-1] if bodies and len(bodies[-1]) > 10_000 else None


def simulated(name: str, simulator: Simulator) -> bytes:
    """The simulated exchange's tickers."""
    answer = requests.get(
        exchanges.requests(name, "tickers")[0].url(simulator.hosts[name]),
        headers={"X-As-Of": "2026-07-27T12:00:00Z"},
        timeout=30,
    )
    answer.raise_for_status()
    return answer.content


def payload(name: str, body: bytes) -> Payload:
    """A payload as the queue holds it."""
    module = exchanges.get(name)
    return Payload("", module.HOST, module.TICKERS.partition("?")[0], {}, AT, AT, None, body)


def repeated(name: str, body: bytes) -> bytes:
    """The same rows again under other symbols, up to ROWS of them."""
    rows = exchanges.get(name).list_symbols(body)
    if len(rows) >= ROWS:
        return body
    found = json.loads(body)
    place, at = _rows_of(found)
    times = -(-ROWS // len(rows))
    if isinstance(place, dict):
        more = {f"{key[:1]}{n}{key[1:]}": row for n in range(times) for key, row in place.items()}
    else:
        key = exchanges.get(name).FIELDS["symbol"]
        more = [_renamed(row, key, n) for n in range(times) for row in place]
    if at is None:
        return json.dumps(more).encode()
    holder = found
    for step in at[:-1]:
        holder = holder[step]
    holder[at[-1]] = more
    return json.dumps(found).encode()


def _renamed(row: dict | list, key: str, number: int) -> dict | list:
    if isinstance(row, list):
        return [f"{row[0][:1]}{number}{row[0][1:]}", *row[1:]]
    return {**row, key: f"{row[key][:1]}{number}{row[key][1:]}"}


def _rows_of(found: dict | list) -> tuple[dict | list, tuple | None]:
    """The rows of a payload, and the way to them."""
    ways = (("data", "ticker"), ("result", "list"), ("data",), ("result",))
    for way in ways:
        place = found
        for step in way:
            place = place.get(step) if isinstance(place, dict) else None
        if isinstance(place, dict | list):
            return place, way
    return found, None


def main(rounds: int) -> None:
    """Print the table, slowest first."""
    with Simulator() as simulator:
        bodies = {name: recorded(name) or simulated(name, simulator) for name in exchanges.names()}
    payloads = {name: payload(name, repeated(name, body)) for name, body in bodies.items()}
    counts = {name: exchanges.flatten(one).rows.num_rows for name, one in payloads.items()}
    spent: dict[str, list[float]] = {name: [] for name in payloads}
    for _ in range(rounds):
        for name, one in payloads.items():
            began = time.process_time()
            exchanges.flatten(one)
            spent[name].append(time.process_time() - began)
    found = {name: statistics.median(times) for name, times in spent.items()}
    rates = sorted((counts[name] / seconds, name) for name, seconds in found.items())
    print(
        f"median of {rounds} rounds taken in turn; CPU time, so that what else the machine does weighs less"
    )
    print(f"{'':<14}{'rows':>8}{'KB':>8}{'CPU ms':>8}{'rows/s':>12}")
    for rate, name in rates:
        size = len(payloads[name].body) / 1024
        print(f"{name:<14}{counts[name]:8,}{size:8,.0f}{found[name] * 1000:8.1f}{rate:12,.0f}")
    print(
        f"slowest: {rates[0][1]}, {rates[0][0]:,.0f} rows a second; fastest: {rates[-1][1]}, {rates[-1][0]:,.0f}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
