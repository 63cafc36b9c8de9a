"""What a tick asks of S3: requests by what is billed, and payload bytes, against moto behind a proxy that counts.

    python benchmarks/s3_requests.py [--ticks 3] [--only twelve]

Two monitors, of one payload a tick and of twelve at most: what they differ by is the payloads' own. docs/aws.md
has the figures.
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
from pathlib import Path

import boto3

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "tests"))

from throttling import ThrottledS3  # noqa: E402

from cryptomon_lib.config import choose_environment  # noqa: E402
from cryptomon_lib.monitor import open_monitor  # noqa: E402
from cryptomon_lib.run import Kernels, run_job  # noqa: E402
from cryptomon_lib.simulator import Simulator  # noqa: E402

BUCKET = "cryptomon-dev"
MONITORS = {
    "one payload": (["kraken"], []),
    "twelve": (["kraken", "coinbase", "binance"], ["BTC-USD", "ETH-USD", "SOL-USD"]),
}


class Counting(ThrottledS3):
    """Counts what passes, by what S3 bills: GET and HEAD as `get`, DELETE is free, all else as `put`."""

    def __init__(self, address):
        super().__init__(address)
        self.billed = Counter()

    def _passed_on(self, asked, body):
        listing = asked.command == "GET" and "list-type" in asked.path
        kind = {"GET": "get", "HEAD": "get", "DELETE": "delete"}.get(asked.command, "put")
        self.billed["put" if listing else kind] += 1
        return super()._passed_on(asked, body)


def serve(address):
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0)
    server.start()
    address.send("http://{}:{}".format(*server.get_host_and_port()))
    address.recv()


def measured(url, exchanges, watchlist, ticks):
    """Of each tick after the first two: what was billed, payloads, and at the end bytes of the archive and rows."""
    proxy, found = Counting(url), []
    os.environ |= {
        "CRYPTOMON_ENDPOINT_URL": proxy.address, "AWS_ENDPOINT_URL": proxy.address, "CRYPTOMON_ENGINE": "duckdb",
        "CRYPTOMON_EXCHANGES": ",".join(exchanges), "CRYPTOMON_WATCHLIST": ",".join(watchlist) or "NONE-USD",
        "CRYPTOMON_ROOT": f"s3://{BUCKET}/{len(exchanges)}", "CRYPTOMON_AWS__METRICS": "false",
    }  # fmt: skip
    monitor, kernels = open_monitor("dev"), Kernels(keep=True)
    for number in range(ticks + 2):
        proxy.billed.clear()
        records = run_job(monitor, "tick", {"every_s": 1}, kernels)
        if number >= 2:
            stored = sum(record["facts"].get("stored", 0) for record in records)
            found.append(dict(proxy.billed) | {"payloads": stored})
        time.sleep(1)
    kernels.close()
    archive = [one for one in monitor.storage.objects("archive") if "candle" not in one.key.lower()]
    rows = sum(one.rows for one in monitor.lake.files("ticks"))
    proxy.close()
    return found, sum(one.size for one in archive) / max(1, rows)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ticks", type=int, default=3)
    options.add_argument("--only", choices=MONITORS, help="one of the monitors")
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
            found, archived = measured(url, exchanges, watchlist, options.ticks)
            sys.stdout.write(f"{name}: {found}, {archived:.1f} bytes of the archive a row\n")
            sys.stdout.flush()
    server.kill()


if __name__ == "__main__":
    main()
