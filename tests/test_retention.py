"""Retention: whole days go when they are too old, on a folder and on S3, and nothing else does."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cryptomon_lib.alerts import evaluate_alerts
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.compact import compact_tables
from cryptomon_lib.engine import Engine
from cryptomon_lib.export import export_tables
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.health import check_health
from cryptomon_lib.holes import note_holes
from cryptomon_lib.latest import keep_latest
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.notify import send_notices
from cryptomon_lib.retention import RULES, expire, expire_daily, rule_of
from cryptomon_lib.rollups import roll_up
from cryptomon_lib.simulator import Simulator

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


def test_pages_and_messages_that_were_given_up_go_too_and_so_do_days_of_the_plain_copy(local):
    settings = local.settings.retention
    now = datetime.now(UTC)
    old, young = (f"{now - timedelta(days=days):%Y-%m-%d}" for days in (settings.reports_days + 1, 1))
    local.settings.retention.tables_days["ticks"] = 30
    for key in (
        f"reports/{old}.html",
        f"reports/{young}.html",
        "outbox/parked/old.json",
        "outbox/parked/young.json",
        f"exports/ticks/source=kraken/day={old}/rows.parquet",
        f"exports/ticks/source=kraken/day={young}/rows.parquet",
        f"exports/candles/source=kraken/day={old}/rows.parquet",
    ):
        local.storage.put(key, b"x")
    past = (now - timedelta(days=settings.quarantine_days + 1)).timestamp()
    os.utime(local.storage.path("outbox/parked/old.json"), (past, past))

    assert expire(local, now) == 3

    assert [one.key for one in local.storage.objects("reports")] == [f"reports/{young}.html"]
    assert [one.key for one in local.storage.objects("outbox")] == ["outbox/parked/young.json"]
    left = [one.key for one in local.storage.objects("exports")]
    assert len(left) == 2 and f"exports/ticks/source=kraken/day={old}/rows.parquet" not in left


def test_everything_that_is_written_under_a_root_has_a_rule(open_at, tmp_path):
    """All steps of the jobs on one root, then every key of it; whoever writes a new prefix says what ends its growth."""
    with Simulator() as simulator:
        monitor = open_at(tmp_path / "root", hosts=simulator.hosts, exchanges=["kraken"])
        now = datetime(2026, 7, 27, 12, 0, 40, tzinfo=UTC)
        # of today, and so before there is anything of that day in July
        expire_daily(monitor)
        collect_payloads(monitor, samples=3, as_of=now - timedelta(minutes=2))
        monitor.storage.put(
            "ingest/api.kraken.com/0/public/Ticker/2026-07-27/20260727T110000Z.json.gz", b"no gzip"
        )
        flatten_payloads(monitor)
        keep_latest(Engine(monitor, now))
        evaluate_alerts(monitor, now)
        send_notices(monitor, now=now)
        roll_up(monitor, now)
        compact_tables(monitor, now)
        note_holes(monitor, now)
        check_health(monitor, now)
        export_tables(monitor, ["ticks"])
        collect_payloads(monitor, endpoint="tickers", as_of=now + timedelta(minutes=1))
    root = tmp_path / "root"
    keys = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]

    assert [key for key in keys if rule_of(key) is None] == []
    # and the walk went everywhere that it could
    for prefix in (
        "ingest",
        "archive",
        "quarantine",
        "tables",
        "alert_state",
        "holes",
        "instruments",
    ):
        assert any(key.startswith(prefix) for key in keys), prefix
    assert rule_of("something/new.json") is None


def test_the_documentation_has_every_rule():
    page = (Path(__file__).parent.parent / "docs" / "storage.md").read_text(encoding="utf-8")
    for prefix, says in RULES.items():
        assert f"| `{prefix}` | {says} |" in page
