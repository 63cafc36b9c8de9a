"""What Prometheus reads is of its form and conventions, tells what status tells, and is never half written."""

import re
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from cryptomon_lib import cli, prometheus
from cryptomon_lib.api import create_app
from cryptomon_lib.errors import StorageError
from cryptomon_lib.lake import Batch
from cryptomon_lib.prometheus import exposition, rendered, write_textfile
from cryptomon_lib.run import _expose
from cryptomon_lib.status import Part, Status

NOW = datetime(2026, 7, 27, 12, tzinfo=UTC)
RAN = {
    "job": "tick", "started_at": NOW, "status": "succeeded", "duration_s": 2.5, "reason": None,
    "succeeded_at": NOW, "success_age_s": 31.0, "failures_24h": 2, "more_failures": False,
}  # fmt: skip


def samples(text):
    """Each sample by name and labels, of a text that the client's own parser takes."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def status():
    """One in which every part has something to tell."""
    values = {
        "ticks": {"kraken": {"age_s": 12.5, "share": 0.99}, "okx": {"age_s": None, "share": None}},
        "runs": {
            "10_collect": RAN | {"facts": {"failed": 3, "failures": {"okx": 3}, "problems": {"okx": "x"}}},
            "20_flatten": RAN | {"status": "failed", "facts": {"rows": 302}},
            "30_metrics": RAN | {"status": "running", "duration_s": None, "facts": {}},
        },
        "alerts": {"firing_by_rule": {'a"b\\c\nd': 2}, "evaluated_age_s": 9.0, "undelivered": 1, "parked": 4},
        "queue": {"waiting": {"kraken": 5}, "oldest_s": 66.0, "quarantine": {"okx": 1}},
        "holes": {"open": 7, "unfillable": 8, "open_today": 1, "unfillable_today": 0},
        "storage": {"ticks": {"rows": 10, "files": 2, "bytes": 4096}},
        "checks": {},
    }
    parts = {name: Part(name, values=value) for name, value in values.items()}
    parts["checks"].exit_code = 3
    return Status(NOW, "local", "/root", True, parts)


def test_every_part_of_the_status_is_told(status):
    found = samples(rendered(status))

    assert found["cryptomon_newest_tick_age_seconds", ("source", "kraken")] == 12.5
    assert found["cryptomon_completeness_today_ratio", ("source", "kraken")] == 0.99
    assert found["cryptomon_run_last_success_age_seconds", ("notebook", "10_collect")] == 31
    assert found["cryptomon_run_failures_24h", ("notebook", "20_flatten")] == 2
    assert found["cryptomon_run_fact", ("fact", "rows"), ("notebook", "20_flatten")] == 302
    assert found["cryptomon_calls_failed", ("source", "okx")] == 3
    assert found["cryptomon_ingest_waiting", ("source", "kraken")] == 5
    assert found["cryptomon_quarantine_payloads", ("source", "okx")] == 1
    assert found["cryptomon_outbox_waiting",] == 1 and found["cryptomon_outbox_parked",] == 4
    assert found["cryptomon_table_bytes", ("table", "ticks")] == 4096
    assert found["cryptomon_hole_minutes", ("state", "unfillable")] == 8
    assert found["cryptomon_part_readable", ("part", "checks")] == 0


def test_what_is_not_known_has_no_sample_and_what_is_odd_comes_back_as_it_was(status):
    found = samples(rendered(status))

    assert ("cryptomon_newest_tick_age_seconds", ("source", "okx")) not in found
    assert ("cryptomon_run_duration_seconds", ("notebook", "30_metrics")) not in found
    assert ("cryptomon_run_succeeded", ("notebook", "30_metrics")) not in found
    assert found["cryptomon_alerts_firing", ("rule", 'a"b\\c\nd')] == 2


def test_names_follow_the_conventions(status):
    """Base units, one prefix, no type in the name, _total for counters alone: what promtool check metrics asks for."""
    families = list(text_string_to_metric_families(rendered(status)))

    assert len({family.name for family in families}) == len(families) >= 20
    for family in families:
        assert re.fullmatch(r"cryptomon_[a-z0-9_]+", family.name) and family.documentation.endswith(".")
        assert family.type == "gauge"
        assert not re.search(
            r"_(total|count|sum|bucket|gauge|milliseconds|ms|megabytes|mb|percent)$", family.name
        )


def test_a_root_with_and_without_data_can_be_told(monitor, table_of):
    assert samples(exposition(monitor))["cryptomon_well",] == 0
    rows = [{"market_id": "kraken:kraken:BTC-USD", "collected_at": datetime.now(UTC) - timedelta(seconds=90)}]
    monitor.lake.append("ticks", [Batch("one", table_of("ticks", rows))])

    found = samples(exposition(monitor))

    assert 90 <= found["cryptomon_newest_tick_age_seconds", ("source", "kraken")] < 600
    assert found["cryptomon_table_rows", ("table", "ticks")] == 1


def test_the_file_is_there_whole_or_as_it_was(local, tmp_path, monkeypatch):
    path = tmp_path / "textfile" / "cryptomon.prom"
    write_textfile(local, path)
    before = path.read_text()
    monkeypatch.setattr(prometheus, "exposition", lambda monitor: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_textfile(local, path)

    assert samples(before) and path.read_text() == before
    assert [one.name for one in path.parent.iterdir()] == ["cryptomon.prom"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_folder_that_cannot_be_is_told_and_fails_no_run(open_at, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monitor = open_at(tmp_path / "root", metrics_file=str(tmp_path / "file" / "cryptomon.prom"))

    with pytest.raises(StorageError, match="Name a folder"):
        write_textfile(monitor, tmp_path / "file" / "cryptomon.prom")
    _expose(monitor)

    assert "metrics_file: Cannot write" in caplog.text


def test_a_run_writes_the_file_that_the_params_name(open_at, tmp_path):
    monitor = open_at(tmp_path / "root", metrics_file=str(tmp_path / "made.prom"))
    _expose(monitor)
    assert samples((tmp_path / "made.prom").read_text())["cryptomon_well",] == 0


def test_the_command_prints_it(local):
    told = CliRunner().invoke(cli.app, ["metrics", "--set", f"root={local.storage.root}"])
    assert told.exit_code == 0 and samples(told.stdout)


async def _asked(monitor, **headers):
    transport = httpx.ASGITransport(create_app(monitor))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        return await client.get("/metrics", headers=headers)


def test_the_api_serves_it_to_who_has_a_key(open_at, tmp_path, monkeypatch):
    import asyncio

    monkeypatch.setenv("KEYS_OF_A_TEST", "prometheus=abc123")
    monitor = open_at(tmp_path / "root", api={"keys": "KEYS_OF_A_TEST"})

    refused = asyncio.run(_asked(monitor))
    told = asyncio.run(_asked(monitor, authorization="Bearer abc123"))

    assert refused.status_code == 401
    assert told.status_code == 200 and told.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert ("cryptomon_info", ("environment", "local"), ("simulated", "true")) in samples(told.text)
