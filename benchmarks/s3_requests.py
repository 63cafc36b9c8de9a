"""What a tick and an hour ask of S3: requests by what is billed, and bytes kept, against moto behind a proxy that counts.

    python benchmarks/s3_requests.py [--ticks 3] [--only "one payload"] [--keys]
    python benchmarks/s3_requests.py --hourly --warm 6 --ticks 60

Two monitors, of one payload a tick and of twelve at most: what they differ by is the payloads' own. With --hourly each
tick is a minute from a full hour on that has passed, as fast as they go, and the other jobs of scheduled/schedule.yaml
run at their minutes. docs/aws.md and docs/benchmarks.md have the figures, and `cryptomon cost` counts
with them (`cryptomon_lib/cost.py`).

What goes by the machine's clock does not happen in an hour that passes in minutes: vacuum finds nothing that is old
enough, and no log is cut. Both only delete and list.
"""

import argparse
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import boto3

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "tests"))

from throttling import ThrottledS3  # noqa: E402

from cryptomon_lib.config import choose_environment  # noqa: E402
from cryptomon_lib.monitor import Monitor, open_monitor  # noqa: E402
from cryptomon_lib.run import Kernels, run_job  # noqa: E402
from cryptomon_lib.schedule import last_due, load_schedule  # noqa: E402
from cryptomon_lib.simulator import Simulator  # noqa: E402

BUCKET = "cryptomon-dev"
MONITORS = {
    "one payload": (["kraken"], []),
    "twelve": (["kraken", "coinbase", "binance"], ["BTC-USD", "ETH-USD", "SOL-USD"]),
}
MINUTE = timedelta(minutes=1)


class Counting(ThrottledS3):
    """Counts what passes, by what S3 bills: GET and HEAD as `get`, DELETE is free, all else as `put`.

    billed: by that; asked: by that and by what the key is of.
    """

    def __init__(self, address: str):
        super().__init__(address)
        self.billed: Counter[str] = Counter()
        self.asked: Counter[tuple[str, str]] = Counter()

    def _answer(self, asked) -> None:
        # a kernel that ends does not wait for what it asked
        with suppress(ConnectionError):
            super()._answer(asked)

    def _passed_on(self, asked, body: bytes):
        address = urlsplit(asked.path)
        listing = asked.command == "GET" and "list-type" in address.query
        kind = {"GET": "get", "HEAD": "get", "DELETE": "delete"}.get(asked.command, "put")
        kind = "put" if listing else kind
        key = parse_qs(address.query).get("prefix", [""])[0] if listing else address.path
        self.billed[kind] += 1
        self.asked[("list" if listing else asked.command.lower()), _what(unquote(key))] += 1
        return super()._passed_on(asked, body)


def _what(key: str) -> str:
    """What a key is of: a table's log, its files, or the first folder below the root."""
    parts = key.lstrip("/").removeprefix(f"{BUCKET}/").split("/")[1:]
    if parts[:1] != ["tables"]:
        return parts[0] if parts else ""
    return f"{parts[1] if len(parts) > 1 else 'tables'} {'log' if '_delta_log' in parts else 'files'}"


def serve(address) -> None:
    """An S3 in memory, its address sent."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    address.send("http://{}:{}".format(*server.get_host_and_port()))
    address.recv()


def jobs_of(begin: datetime | None, number: int) -> Iterator[tuple[str, dict]]:
    """The jobs of a minute, with their parameters: the tick alone, a second after the other, where no begin is given."""
    if begin is None:
        yield "tick", {"every_s": 1}
        return
    at = begin + number * MINUTE
    given = {"as_of": f"{at:%Y-%m-%dT%H:%M:%SZ}"}
    yield "tick", given
    for name, job in load_schedule().items():
        if job.cron and name not in ("tick", "report") and last_due(job, at) == at:
            yield name, given


def measured(
    url: str, exchanges: list[str], watchlist: list[str], ticks: int, warm: int, hourly: bool
) -> dict:
    """What was billed of each tick and each job after the first `warm` ticks, by what, and what is stored at the end."""
    proxy = Counting(url)
    os.environ |= {
        "CRYPTOMON_ENDPOINT_URL": proxy.address, "AWS_ENDPOINT_URL": proxy.address, "CRYPTOMON_ENGINE": "duckdb",
        "CRYPTOMON_EXCHANGES": ",".join(exchanges), "CRYPTOMON_WATCHLIST": ",".join(watchlist) or "NONE-USD",
        "CRYPTOMON_ROOT": f"s3://{BUCKET}/{len(exchanges)}", "CRYPTOMON_AWS__METRICS": "false",
    }  # fmt: skip
    if hourly:
        # by the machine's clock these minutes' alerts are evaluated late
        os.environ |= {"CRYPTOMON_NOTIFY__SILENT_M": "10000", "CRYPTOMON_NOTIFY__LATE_M": "10000"}
    monitor, found = open_monitor("dev"), {"ticks": [], "jobs": {}, "asked": Counter()}
    # from a full hour on: with six ticks before, sixty end with the minute that closes and compacts it
    begin = (datetime.now(UTC) - (warm + ticks) * MINUTE).replace(minute=0, second=0, microsecond=0)
    with closing(Kernels(keep=True)) as kernels:
        for number in range(warm + ticks):
            for name, given in jobs_of(begin if hourly else None, number):
                proxy.billed.clear()
                proxy.asked.clear()
                run_job(monitor, name, given, kernels if name == "tick" else None)
                if number >= warm:
                    own = found["ticks"] if name == "tick" else found["jobs"].setdefault(name, [])
                    own.append({kind: proxy.billed[kind] for kind in ("put", "get")})
                    if name == "tick":
                        found["asked"] += proxy.asked
            if not hourly:
                time.sleep(1)
    found["kept"] = kept(monitor)
    proxy.close()
    return found


def kept(monitor: Monitor) -> dict[str, dict[str, float]]:
    """Objects and bytes below each folder of the root, and bytes of the archive's tickers a row of ticks."""
    found: dict[str, Counter] = {}
    for one in monitor.storage.everything():
        mine = found.setdefault(_what(f"/{BUCKET}/monitor/{one.key}"), Counter())
        mine["objects"] += 1
        mine["bytes"] += one.size
    archive = [one.size for one in monitor.storage.objects("archive") if "candle" not in one.key.lower()]
    rows = sum(one.rows for one in monitor.lake.files("ticks"))
    found["a row of ticks"] = Counter({"rows": rows, "archive_bytes": sum(archive) / max(1, rows)})
    return {name: dict(counted) for name, counted in sorted(found.items())}


def tell(name: str, found: dict, by_key: bool) -> None:
    """What was found, as lines."""
    ticks = found["ticks"]
    said = [f"{name}: {len(ticks)} ticks"]
    for kind, word in (("put", "writes and listings"), ("get", "reads")):
        each = [one[kind] for one in ticks]
        said.append(
            f"  {word} of a tick: {each[0]} first, {each[-1]} last, {sum(each) / len(each):.1f} mean: {each}"
        )
    for job, runs in found["jobs"].items():
        said.append(f"  {job}: {runs}")
    if found["jobs"]:
        whole = [*ticks, *(one for runs in found["jobs"].values() for one in runs)]
        said.append(
            f"  all: {sum(one['put'] for one in whole)} writes, {sum(one['get'] for one in whole)} reads"
        )
    if by_key:
        for (kind, what), much in found["asked"].most_common():
            said.append(f"    {much / len(ticks):8.1f} a tick  {kind:<6} {what}")
        for what, counted in found["kept"].items():
            said.append(f"    kept {what}: {json.dumps(counted)}")
    said.append(f"  archive: {found['kept']['a row of ticks']['archive_bytes']:.1f} bytes a row of ticks")
    sys.stdout.write("\n".join(said) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure the monitors one after the other."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--ticks", type=int, default=3)
    options.add_argument("--warm", type=int, default=2, help="ticks before these")
    options.add_argument("--hourly", action="store_true", help="minutes of a past hour, with the other jobs")
    options.add_argument("--only", choices=MONITORS, help="one of the monitors")
    options.add_argument(
        "--keys", action="store_true", help="what the requests of a tick are of, and what is stored"
    )
    options = options.parse_args()
    own, its = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(its,), daemon=True)
    server.start()
    url = own.recv()
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_REGION": "eu-central-1"}
    os.environ |= keys | {"AWS_DEFAULT_REGION": "eu-central-1", "CRYPTOMON_FETCH__PAUSE_S": "0"}
    boto3.client("s3", endpoint_url=url).create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    choose_environment("dev")
    with Simulator() as simulator, tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "CRYPTOMON_HOSTS": json.dumps(dict(simulator.hosts)),
            "CRYPTOMON_FETCH__BUDGETS": folder,
        }
        for name in [options.only] if options.only else MONITORS:
            exchanges, watchlist = MONITORS[name]
            found = measured(url, exchanges, watchlist, options.ticks, options.warm, options.hourly)
            tell(name, found, options.keys)
    server.kill()


if __name__ == "__main__":
    main()
