"""A day with faults, lived through and then filled: is it complete, and what does it cost?

Over midnight: 3 % of all calls fail, Kraken is down for two hours, and nothing runs for twenty minutes as after a
kill. Then `fill_holes` is killed in the middle and run again. Truth is the exchange: its candles are asked for once
more, minute by minute, and compared with what the views say.

Run: python benchmarks/backfill.py [hours]
"""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta

from cryptomon_lib import exchanges
from cryptomon_lib.backfill import fill_holes
from cryptomon_lib.collect import collect_payloads, load_instruments
from cryptomon_lib.engine import Engine
from cryptomon_lib.fetch import Fetcher
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.holes import common, load_holes, minute_of, moment_of, size, spans_of, without
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.simulator import Simulator
from cryptomon_lib.tables import schema

START = datetime(2026, 7, 27, 6, tzinfo=UTC)
EXCHANGES = ["kraken", "coinbase", "binance"]


def main(hours: int) -> None:
    with Simulator() as simulator, tempfile.TemporaryDirectory() as root:
        fetch = {"attempts": 1, "pause_s": 0}
        flags = {"root": root, "hosts": simulator.hosts, "fetch": fetch, "exchanges": EXCHANGES}
        monitor = open_monitor("local", flags=flags)
        now = START + timedelta(hours=hours)
        calls, failed = live(monitor, simulator, hours)
        print(f"lived {hours} h: {calls:,} calls, {failed:,} failed", flush=True)
        told(monitor, now, "before")
        simulator.set_faults([])
        simulator.requests.clear()
        kill_in_the_middle(flags, now, simulator)
        first = asked(simulator)
        began = time.perf_counter()
        done = fill_holes(monitor, "1h", as_of=now)
        took = time.perf_counter() - began
        print(
            f"\nfill_holes, killed after {first} calls and run again: {done.calls} calls more, {took:.1f} s, "
            f"{done.count('filled'):,} minutes filled, {done.count('untraded'):,} without a trade, "
            f"{done.count('lost'):,} lost, {done.count('open')} open"
        )
        began = time.perf_counter()
        again = fill_holes(monitor, "1h", as_of=now)
        print(f"once more: {again.calls} calls, {time.perf_counter() - began:.1f} s")
        told(monitor, now, "after")
        compare(monitor, simulator, now, hours)


def live(monitor, simulator, hours: int) -> tuple[int, int]:
    down = START + timedelta(hours=hours / 2)
    simulator.set_faults(
        [
            {
                "kind": "503",
                "exchange": "kraken",
                "from": down.isoformat(),
                "to": (down + timedelta(hours=2)).isoformat(),
            },
            {"kind": "500", "share": 0.03},
        ]
    )
    calls = failed = 0
    killed = hours * 60 // 5
    # nothing runs for the twenty minutes after the kill
    for first, last in ((0, killed), (killed + 20, hours * 60)):
        for begins in range(first, last, 120):
            samples = min(120, last - begins)
            collected = collect_payloads(monitor, samples=samples, as_of=START + timedelta(minutes=begins))
            calls, failed = calls + len(collected.outcomes), failed + collected.count("failed")
            flatten_payloads(monitor)
    return calls, failed


def asked(simulator) -> int:
    return sum(
        count
        for path, count in simulator.requests.items()
        if "OHLC" in path or "candles" in path or "klines" in path
    )


def _fill(flags: dict, now: datetime) -> None:
    fill_holes(
        open_monitor("local", flags=flags | {"fetch": flags["fetch"] | {"workers": 1, "pause_s": 0.1}}),
        "1h",
        as_of=now,
    )


def kill_in_the_middle(flags: dict, now: datetime, simulator) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_fill, args=(flags, now))
    process.start()
    while process.is_alive() and asked(simulator) < 5:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def told(monitor, now: datetime, when: str) -> None:
    began = time.perf_counter()
    rows = Engine(monitor, now).query("select * from completeness order by source, measure").to_pandas()
    print(f"\ncompleteness {when} ({time.perf_counter() - began:.2f} s)")
    print(rows.drop(columns=["first_at", "last_at"]).to_string(index=False))


def compare(monitor, simulator, now: datetime, hours: int) -> None:
    """Every minute that the exchange's candles have, against the views; and that no row is there twice."""
    fetcher, engine = Fetcher(monitor.settings.fetch), Engine(monitor, now)
    holes, wrong, checked = load_holes(monitor), 0, 0
    span = (minute_of(now) - min(hours, 24) * 60 + 2, minute_of(now) - 6)
    kept = {}
    for measure in ("price", "volume_1m"):
        for row in engine.query(
            "select market_id, at from measures where measure = :m", m=measure
        ).to_pylist():
            kept.setdefault((row["market_id"], measure), []).append(minute_of(row["at"]))
    for source in EXCHANGES:
        module = exchanges.get(source)
        for one in load_instruments(monitor, source).values():
            market = f"{source}:{source}:{one.symbol}"
            if f"{one.base}-{one.quote}" not in monitor.settings.watchlist or not one.trading:
                continue
            has = set()
            for first in range(span[0], span[1] + 1, 250):
                pages = exchanges.candles_pages(
                    source, one, moment_of(first - 1), moment_of(first + 248), now
                )
                for request in pages:
                    body = fetcher.get(
                        request.url(simulator.hosts[source]),
                        exchange=source,
                        may_be_empty=True,
                        headers={"X-As-Of": now.isoformat()},
                    ).body
                    has |= {int(ms) // 60000 + 1 for ms in module.flatten_candles(body)[0]["opened_at_ms"]}
            truth = common(spans_of(has), [span])
            for measure in ("price", "volume_1m"):
                minutes = [
                    minute for minute in kept.get((market, measure), []) if span[0] <= minute <= span[1]
                ]
                wrong += len(minutes) - len(set(minutes))
                wrong += size(without(truth, spans_of(minutes)))
                # the rest has to be named
                rest = without(without([span], truth), spans_of(minutes))
                named = [hole.span for hole in holes if hole.key == (market, measure)]
                wrong += size(without(rest, named))
                checked += size(truth)
    doubled = 0
    for name, key in (("candles", "opened_at"), ("ticks", "collected_at")):
        rows = monitor.lake.open(name).to_pyarrow_table().cast(schema(name)).select(["market_id", key])
        doubled += rows.num_rows - rows.group_by(["market_id", key]).aggregate([]).num_rows
    print(
        f"\n{checked:,} market-minutes that the exchanges' candles have: {wrong} missing, twice or not named; "
        f"{doubled} rows doubled"
    )
    sizes = {state: sum(one.state == state for one in holes) for state in ("open", "filled", "unfillable")}
    print(f"the table holes: {len(holes)} rows, {sizes}")


if __name__ == "__main__":
    logging.basicConfig(level="ERROR")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 24)
