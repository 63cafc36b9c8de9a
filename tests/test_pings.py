"""Dead-man pings: start, success or fail of a job, in order; a watching service that is slow or away changes no run."""

import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import pytest
from receiving import Hook, closing

from cryptomon_lib.errors import NotebookFailed
from cryptomon_lib.notify import send_notices
from cryptomon_lib.pings import Ping, _pinger, pinged
from cryptomon_lib.run import Kernels, run_job

PROJECT = Path(__file__).parent.parent
PING = Ping(start="JOB_START", success="JOB_SUCCESS", fail="JOB_FAIL")


@pytest.fixture
def service(monkeypatch):
    """A watching service, its three addresses in the environment."""
    with closing(Hook()) as hook:
        for what in ("start", "success", "fail"):
            monkeypatch.setenv(f"JOB_{what.upper()}", f"{hook.url}/hunter2/{what}")
        yield hook


def said(service):
    _pinger.wait(90)
    return [path.rsplit("/", 1)[1] for path in service.asked]


def test_a_job_that_ends_well_pings_start_and_success(service):
    with pinged(PING):
        pass

    assert said(service) == ["start", "success"]


def test_a_job_that_fails_pings_fail_and_its_error_goes_on(service):
    with pytest.raises(ZeroDivisionError), pinged(PING):
        _ = 1 / 0

    assert said(service) == ["start", "fail"]


def test_only_what_is_named_is_pinged(service):
    with pinged(Ping(success="JOB_SUCCESS")), pinged(None):
        pass

    assert said(service) == ["success"]


def test_a_service_that_hangs_delays_no_job_and_is_asked_again(service):
    service.answers = [2.0, 200, 503, 200]
    began = time.monotonic()
    with pinged(PING):
        pass
    assert time.monotonic() - began < 0.5

    assert said(service) == ["start", "start", "success", "success"]


def test_a_service_that_is_away_and_a_variable_that_is_not_set_are_told_without_the_address(
    monkeypatch, caplog
):
    monkeypatch.setenv("JOB_START", "http://127.0.0.1:1/hunter2")
    monkeypatch.setenv("JOB_FAIL", "hunter2")
    with caplog.at_level("DEBUG"), pinged(Ping(start="JOB_START", success="JOB_SUCCESS")):
        pass
    with caplog.at_level("DEBUG"):
        with pytest.raises(ZeroDivisionError), pinged(Ping(fail="JOB_FAIL")):
            _ = 1 / 0
        _pinger.wait(90)

    assert "JOB_START was not taken: ConnectionError" in caplog.text
    assert "JOB_SUCCESS is not set" in caplog.text
    assert "JOB_FAIL was not taken: MissingSchema" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_process_that_ends_at_once_still_sends_its_last_ping(service):
    code = """
        from cryptomon_lib.pings import Ping, pinged
        with pinged(Ping(start="JOB_START", success="JOB_SUCCESS")):
            pass
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=PROJECT, timeout=60)

    assert said(service) == ["start", "success"]


# ---- through the runner


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own with a schedule, a job that works and one that fails."""
    for folder in ("params", "scheduled", "notebooks"):
        (tmp_path / "home" / folder).mkdir(parents=True)
    for path in (PROJECT / "params").glob("*.yaml"):
        (tmp_path / "home" / "params" / path.name).write_text(path.read_text())
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for stem, code in {"10_good": "1", "20_bad": "1 / 0", "40_alerts": "1"}.items():
        cells = [
            nbformat.v4.new_code_cell("count = 3", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(code),
        ]
        notebook = nbformat.v4.new_notebook(metadata=kernel, cells=cells)
        nbformat.write(notebook, tmp_path / "home" / "notebooks" / f"{stem}.ipynb")
    ping = "ping: {start: JOB_START, success: JOB_SUCCESS, fail: JOB_FAIL}"
    (tmp_path / "home" / "scheduled" / "schedule.yaml").write_text(
        f"good: {{cron: '* * * * *', notebooks: [10_good], {ping}}}\n"
        f"bad: {{cron: '* * * * *', notebooks: [20_bad], {ping}}}\n"
        "alerts: {cron: '* * * * *', notebooks: [40_alerts]}\n"
    )
    monkeypatch.setenv("CRYPTOMON_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture(scope="module")
def kernels():
    kept = Kernels(keep=True)
    yield kept
    kept.close()


@pytest.mark.notebook
def test_the_runner_pings_and_says_no_address_in_record_or_notebook(project, service, open_at, kernels):
    monitor = open_at(project / "root")
    run_job(monitor, "good", kernels=kernels)
    with pytest.raises(NotebookFailed):
        run_job(monitor, "bad", kernels=kernels)

    assert said(service) == ["start", "success", "start", "fail"]
    left = b"".join(monitor.storage.get(one.key) for one in monitor.storage.objects("runs"))
    assert b"10_good" in left and b"hunter2" not in left


@pytest.mark.notebook
def test_another_job_good_or_failed_tells_that_alerts_are_not_evaluated_any_more(project, open_at, kernels):
    monitor = open_at(project / "root")
    send_notices(monitor, evaluated=datetime.now(UTC))
    run_job(monitor, "good", kernels=kernels)
    assert monitor.storage.objects("notices") == []

    send_notices(monitor, evaluated=datetime.now(UTC) - timedelta(minutes=9))
    monitor = open_at(project / "root", notify={"silent_m": 5})
    with pytest.raises(NotebookFailed):
        run_job(monitor, "bad", kernels=kernels)
    (one,) = monitor.storage.objects("notices")
    assert b"alerts_not_evaluated" in monitor.storage.get(one.key)
