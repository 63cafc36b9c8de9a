"""One screen says how it is: on data, on nothing, on a root that is broken; and its exit code says the same."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from cryptomon_lib import cli
from cryptomon_lib.alerts import evaluate_alerts
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.health import check_health
from cryptomon_lib.holes import note_holes
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.runs import newest_of_each
from cryptomon_lib.simulator import Simulator
from cryptomon_lib.status import span, status_of
from cryptomon_lib.storage import Storage

NOW = datetime(2026, 7, 27, 12, 0, 40, tzinfo=UTC)


@pytest.fixture(scope="session")
def simulator():
    made = Simulator()
    yield made
    made.close()


def keep_run(storage, notebook, at, status="succeeded", kept=False, **more):
    """A record of a run, as the runner leaves it."""
    run_id = f"{at:%Y%m%dT%H%M%SZ}-{notebook}-{abs(hash((notebook, at))) % 0xFFFFFF:06x}"
    record = {
        "run_id": run_id, "job": "tick", "notebook": notebook, "host": "elsewhere", "pid": 1,
        "started_at": at.isoformat(timespec="milliseconds"), "status": status, "reason": None, "facts": {},
        "ended_at": (at + timedelta(seconds=2)).isoformat(timespec="milliseconds"), "duration_s": 2.0,
    } | more  # fmt: skip
    storage.put(f"runs/{at:%Y-%m-%d}/{run_id}.json", json.dumps(record).encode())
    if kept:
        storage.put(f"runs/{at:%Y-%m-%d}/{run_id}.ipynb", b"{}")


@pytest.fixture
def filled(place, open_at, simulator):
    """Ten minutes of one simulated exchange until NOW, evaluated, checked, with a run that succeeded."""
    monitor = open_at(place.root, place.endpoint_url, simulator.hosts, exchanges=["kraken"])
    collect_payloads(monitor, endpoint="tickers", samples=10, as_of=NOW - timedelta(minutes=9))
    flatten_payloads(monitor)
    evaluate_alerts(monitor, NOW, [])
    note_holes(monitor, NOW)
    check_health(monitor, NOW)
    keep_run(monitor.storage, "10_collect", NOW - timedelta(seconds=30), facts={"stored": 1})
    return monitor


def test_where_all_is_well_it_says_so(filled):
    found = status_of(filled, NOW)

    assert found.wrong == [] and found.exit_code == 0
    ticks = found.parts["ticks"].values["kraken"]
    assert 0 <= ticks["age_s"] <= 60 and ticks["share"] == 1
    assert found.parts["storage"].values["ticks"]["files"] >= 1
    assert found.parts["runs"].values["10_collect"]["success_age_s"] == 28
    assert found.parts["queue"].values == {"waiting": {}, "oldest_s": 0.0, "quarantine": {}}
    assert json.loads(found.as_json())["well"] is True


def test_a_poll_that_failed_is_told_of_today_alone(filled):
    later = NOW + timedelta(minutes=20)
    collect_payloads(filled, endpoint="tickers", samples=5, as_of=later - timedelta(minutes=4))
    flatten_payloads(filled)
    note_holes(filled, later + timedelta(minutes=5))

    ticks = status_of(filled, later).parts["ticks"]

    # between the tenth poll and the eleventh there are fifteen minutes without one
    assert ticks.values["kraken"]["expected"] - ticks.values["kraken"]["polls"] == 15
    assert "lacks 15 of" in " ".join(ticks.wrong)


def test_what_is_old_or_failed_or_waits_is_wrong(filled):
    storage = filled.storage
    for minutes in (5, 4, 3):
        at = NOW - timedelta(minutes=minutes)
        keep_run(storage, "20_flatten", at, "failed", kept=True, reason="boom")
    # a success whose notebook is gone, as all but one of an hour's are
    keep_run(storage, "20_flatten", NOW - timedelta(minutes=30))
    later = NOW + timedelta(minutes=40)
    collect_payloads(filled, endpoint="tickers", as_of=NOW + timedelta(minutes=5))

    found = status_of(filled, later)

    told = "\n".join(found.wrong)
    assert found.exit_code == 8
    assert "the newest of kraken is 41 min old" in told
    assert "20_flatten failed: boom" in told
    assert "payloads wait for 36 min" in told
    ran = newest_of_each(filled, later)["20_flatten"]
    assert ran.failures == 3
    assert ran.succeeded_at == NOW - timedelta(minutes=30) + timedelta(seconds=2)


def test_a_run_that_was_killed_is_one_that_did_not_succeed(local):
    keep_run(local.storage, "10_collect", NOW - timedelta(hours=5), "running")

    assert newest_of_each(local, NOW)["10_collect"].newest["status"] == "killed"
    assert newest_of_each(local, NOW)["10_collect"].failures == 1


def test_an_empty_root_is_not_well_and_says_what_to_do(monitor):
    found = status_of(monitor, NOW)

    assert found.exit_code == 8
    assert "kraken has no tick: cryptomon run tick" in " ".join(found.wrong)


def test_a_broken_root_is_told_part_by_part_without_a_traceback(filled):
    filled.storage.put("health.json", b"{half")
    filled.storage.put("holes/judged.json", b"no json")
    filled.storage.put("tables/holes/_delta_log/00000000000000000099.json", b"no json")

    found = status_of(filled, NOW)

    assert found.exit_code == 3
    assert found.parts["checks"].wrong and found.parts["ticks"].wrong and found.parts["holes"].wrong
    # what can be read is told
    assert found.parts["queue"].lines and not found.parts["queue"].wrong


def test_the_command_shows_a_screen_or_json_and_exits_with_the_same(local):
    given = ["status", "--set", f"root={local.storage.root}"]
    shown, told = CliRunner().invoke(cli.app, given), CliRunner().invoke(cli.app, [*given, "--json"])

    assert shown.exit_code == told.exit_code == 8
    assert "simulated data" in shown.output and "kraken" in shown.output
    assert len(shown.output.splitlines()) <= 50
    assert json.loads(told.stdout)["exit_code"] == 8


def test_a_bucket_that_is_not_there_is_exit_code_3(s3):
    monitor = open_monitor(
        "local", flags={"root": "s3://no-such-bucket-here/x", "endpoint_url": s3.endpoint_url}
    )
    assert status_of(monitor).exit_code == 3


def test_it_reads_few_objects_and_lists_five_times(filled, monkeypatch):
    """Two days of runs, ingest, quarantine, outbox, alert_state: the same number however much there is."""
    listed, read = [], []
    objects, get = Storage.objects, Storage.get
    monkeypatch.setattr(
        Storage, "objects", lambda self, prefix: listed.append(prefix) or objects(self, prefix)
    )
    monkeypatch.setattr(Storage, "get", lambda self, key: read.append(key) or get(self, key))
    for minutes in range(60):
        keep_run(filled.storage, "30_metrics", NOW - timedelta(minutes=minutes))

    status_of(filled, NOW)

    assert sorted(listed) == [
        "alert_state", "ingest", "outbox", "quarantine", "runs/2026-07-26", "runs/2026-07-27",
    ]  # fmt: skip
    assert len(read) <= 15
    assert not any(key.startswith(("tables/", "archive/")) for key in read)


@pytest.mark.parametrize(
    ("seconds", "says"), [(40, "40 s"), (720, "12 min"), (12_600, "3.5 h"), (400_000, "5 d")]
)
def test_a_length_of_time_is_said_as_people_say_it(seconds, says):
    assert span(seconds) == says
