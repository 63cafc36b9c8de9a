"""Retention: whole days go when they are too old, on a folder and on S3, and nothing else does."""

from datetime import UTC, datetime

import pytest

from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.retention import expire, expire_daily

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
OLD, YOUNG = "2026-02-28", "2026-03-02"


@pytest.fixture
def monitor(place):
    flags = {"root": place.root, "endpoint_url": place.endpoint_url, "retention": {"quarantine_days": 30}}
    return open_monitor("local", flags=flags)


def test_payloads_quarantine_and_runs_go_by_the_days_that_params_keep_them(monitor):
    for day in (OLD, YOUNG):
        for key in (
            f"archive/api.kraken.com/0/public/Ticker~assetVersion=1/{day}/a.json.gz",
            f"quarantine/api.kraken.com/0/public/Ticker/{day}/b.json.gz",
            f"rejected/api.kraken.com/0/public/Ticker/{day}/c.json",
            f"runs/{day}/d.json",
            f"ingest/api.kraken.com/0/public/Ticker/{day}/e.json.gz",
        ):
            monitor.storage.put(key, b"x")

    assert expire(monitor, NOW) == 4

    left = [
        one.key
        for prefix in ("archive", "quarantine", "rejected", "runs")
        for one in monitor.storage.objects(prefix)
    ]
    assert len(left) == 4 and all(YOUNG in key for key in left)
    # what waits in the queue is never too old
    assert len(monitor.storage.objects("ingest")) == 2


def test_it_is_done_once_a_day(monitor):
    monitor.storage.put("runs/2020-01-01/a.json", b"x")
    expire_daily(monitor)
    monitor.storage.put("runs/2020-01-01/b.json", b"x")
    expire_daily(monitor)

    assert [one.key for one in monitor.storage.objects("runs")] == [
        "runs/2020-01-01/b.json",
        "runs/expired.txt",
    ]
