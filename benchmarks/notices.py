"""Telling people: 57 markets that crash together, from rows of `alerts` to messages that are taken.

decide            `notices.step` alone, the pure part: who is told of what now
idle run          a run with nothing new: what every minute costs
one user          a run with 57 new transitions for one user, by file: read, decided, written, sent, marked, told
100, 1000 users   the same for so many, each a message of his own
one each          what a system without grouping does: 57 messages to one user

Run: python benchmarks/notices.py [rounds]
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import Monitor, open_monitor
from cryptomon_lib.notices import Stream, Transition, step
from cryptomon_lib.notify import send_notices
from cryptomon_lib.receivers import File, Subscription, User
from cryptomon_lib.tables import day_of, schema

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
MARKETS = [f"C{number}-USD" for number in range(57)]


def users(count: int, receivers: int = 1) -> dict[str, User]:
    """So many users of one subscription each, no cap."""
    wanted = (Subscription(rules=("price_*",), markets=("kraken:*", "ETH-*")),)
    by = {f"file{number}": File() for number in range(receivers)}
    return {
        f"user{number}": User(name=f"user{number}", receivers=by, alerts=wanted, notices_per_hour=None)
        for number in range(count)
    }


def crash(minute: int) -> list[dict]:
    """Rows of `alerts` of one minute."""
    at = NOON + timedelta(minutes=minute)
    common = {"state": "firing", "at": at, "started_at": at, "evaluated_at": at, "day": day_of(at)}
    named = {
        "rule": "price_3x",
        "severity": "critical",
        "exchange": "kraken",
        "value": 1.5,
        "says": "it fell",
    }
    return [
        common
        | named
        | {"alert_id": f"{minute}-{name}", "market_id": f"kraken:kraken:{name}", "market": name}
        for name in MARKETS
    ]


def decided(count: int) -> Callable[[], None]:
    """`step` for so many users."""
    names = Transition.__dataclass_fields__
    told = [Transition(**{name: row.get(name) for name in names}) for row in crash(0)]
    each = list(users(count).values())

    def work() -> None:
        for user in each:
            step(user, Stream(), told, NOON)

    return work


def told(monitor: Monitor, count: int, minutes: list[int], one_each: bool = False) -> Callable[[], None]:
    """A run after a minute in which all markets crashed; each call is another minute."""
    each = users(count)

    def work() -> None:
        minutes[0] += 1
        rows = crash(minutes[0])
        for number, part in enumerate([[row] for row in rows] if one_each else [rows]):
            monitor.lake.append(
                "alerts",
                [Batch(f"{minutes[0]}-{number}", pa.Table.from_pylist(part, schema=schema("alerts")))],
            )
            now = NOON + timedelta(minutes=minutes[0], seconds=number)
            done = send_notices(monitor, users=each, now=now)
            assert done.sent == count, done

    return work


def seconds(work: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Median wall and CPU seconds."""
    wall, cpu = [], []
    for _ in range(rounds):
        began, spent = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
    return statistics.median(wall), statistics.median(cpu)


def main() -> None:
    """Print one line a contender."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        monitor, minutes = open_monitor("local", flags={"root": folder}), [0]
        told(monitor, 1, minutes)()
        contenders = {
            "decide, 1,000 users": decided(1000),
            "idle run": lambda: send_notices(
                monitor, users=users(1), now=NOON + timedelta(minutes=minutes[0])
            ),
            "one user, one message": told(monitor, 1, minutes),
            "100 users": told(monitor, 100, minutes),
            "1,000 users": told(monitor, 1000, minutes),
            "one user, one message each": told(monitor, 1, minutes, one_each=True),
        }
        print(f"{'':<30}{'wall ms':>10}{'CPU ms':>10}")
        for name, work in contenders.items():
            wall, cpu = seconds(work, 1 if "each" in name or name == "1,000 users" else rounds)
            print(f"{name:<30}{wall * 1e3:>10.1f}{cpu * 1e3:>10.1f}")


if __name__ == "__main__":
    main()
