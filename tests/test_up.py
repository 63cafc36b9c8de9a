"""The whole monitor as `make run` starts it: from the command to data, dashboard and ticks, and to its end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from cryptomon_lib.engine import Engine
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.runs import load_runs

pytestmark = pytest.mark.notebook
PROJECT = Path(__file__).parent.parent


class Up:
    """`cryptomon up` in a process group of its own, its words collected."""

    def __init__(self, root: Path, **environ: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cryptomon_lib.cli", "up", "--hours", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(os.environ) | {"CRYPTOMON_ROOT": str(root)} | environ,
            cwd=PROJECT,
            start_new_session=True,
        )
        self.said = ""
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.said += line

    def wait_for(self, pattern: str, seconds: float = 120) -> re.Match:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := re.search(pattern, self.said):
                return found
            assert self.process.poll() is None, self.said
            time.sleep(0.1)
        raise AssertionError(f"{pattern} did not come:\n{self.said}")


@pytest.fixture
def up(tmp_path):
    started = []

    def start(**environ: str) -> Up:
        started.append(Up(tmp_path / "root", **environ))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)


def children(pid: int) -> set[int]:
    """All processes below one."""
    import psutil

    return {one.pid for one in psutil.Process(pid).children(recursive=True)}


def test_one_command_fills_serves_ticks_and_leaves_nothing_running(up, tmp_path, monkeypatch):
    monitor = up()
    dashboard = monitor.wait_for(r"dashboard\s+(http://\S+)")[1]
    monitor.wait_for(r"Ready after")
    monitor.wait_for(r"tick: [\d.]+ s, \d+ payloads, \d+ rows")

    with urllib.request.urlopen(dashboard, timeout=60) as page:
        assert page.status == 200
    assert "simulated data" in monitor.said and str(tmp_path / "root") in monitor.said
    below = children(monitor.process.pid)
    assert len(below) >= 3
    monitor.process.send_signal(signal.SIGINT)
    assert monitor.process.wait(90) == 0
    assert "nothing is left running" in monitor.said
    time.sleep(2)
    assert not {pid for pid in below if Path(f"/proc/{pid}").exists() and _alive(pid)}

    monkeypatch.setenv("CRYPTOMON_ROOT", str(tmp_path / "root"))
    opened = open_monitor("local")
    complete = (
        Engine(opened).query("select source, samples from completeness where measure = 'ticks'").to_pylist()
    )
    assert len(complete) == 3 and all(one["samples"] >= 120 for one in complete)
    assert {record["status"] for record in load_runs(opened)} <= {"succeeded", "stopped"}


def test_a_taken_port_is_told_and_another_one_is_used(up):
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        taken = [one.getsockname()[1] for one in (first, second)]
        hosts = {name: f"http://127.0.0.1:{taken[0]}/{name}" for name in ("kraken", "coinbase", "binance")}
        # as programs read it
        monitor = up(
            CRYPTOMON_HOSTS=str(hosts), CRYPTOMON_DASHBOARD__PORT=str(taken[1]), CRYPTOMON_LOG_FORMAT="json"
        )
        monitor.wait_for("Ready after")

    assert f"Port {taken[0]} is taken" in monitor.said and f"Port {taken[1]} is taken" in monitor.said
    monitor.process.send_signal(signal.SIGTERM)
    assert monitor.process.wait(90) == 0
    monitor.listener.join(30)
    said = [json.loads(line) for line in monitor.said.splitlines()]
    assert said[-1]["message"] == "Ended: nothing is left running." and all(one["logger"] for one in said)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
