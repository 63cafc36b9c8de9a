"""How the dashboard is served: a Voila of its own process, on a port that is free, checked to its end.

Run as a module it serves, with its options as JSON on standard input: nothing secret is an argument or an
environment variable, where other processes and the kernels would see it. Always standalone: as an extension
of a Jupyter server, Voila runs whatever code a visitor sends.
"""

import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from cryptomon_lib import logs
from cryptomon_lib.config import hide, home, load_settings
from cryptomon_lib.errors import ConfigError, RunError

log = logging.getLogger(__name__)

NOTEBOOK = "notebooks/dashboard.ipynb"
# stands in dashboard.py too, which a server need not load
END_MARK = "cryptomon-page-complete"
_PORTS_TRIED = 50
_STOP_S = 20.0


class DashboardProcess:
    """A dashboard that serves in a process of its own; as a context it ends with the block.

    Attributes: url, process (a Popen), token.
    """

    def __init__(self, process: subprocess.Popen, url: str, token: str | None):
        self.process, self.url, self.token = process, url, token

    def __enter__(self) -> "DashboardProcess":
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    def poll(self) -> int | None:
        """The exit code, None while it serves."""
        return self.process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended."""
        return self.process.wait(timeout)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return when it answers. Raises RunError: it ended, or took longer."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.poll() is not None:
                raise RunError(
                    f"The dashboard's server ended with exit code {self.poll()} before it answered; "
                    "its log says why."
                )
            try:
                requests.get(f"{self.url}/cryptomon/alive", timeout=5).raise_for_status()
                return
            except requests.RequestException:
                time.sleep(0.1)
        raise RunError(
            f"The dashboard at {self.url} did not answer within {timeout_s:g} s; its log says why."
        )

    def stop(self, timeout_s: float = _STOP_S) -> int:
        """End it and its kernels, by force after timeout_s; the exit code."""
        if self.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            log.warning("the dashboard did not end within %g s and is killed", timeout_s)
            self.process.kill()
            return self.process.wait()


def start(
    environment: str | None = None,
    port: int | None = None,
    token: str | None = None,
    env: Mapping[str, str] | None = None,
    *,
    ip: str = "127.0.0.1",
    pool: int = 0,
    parameters: Mapping[str, Any] | None = None,
    notebook: Path | None = None,
    output: Any = None,
) -> DashboardProcess:
    """A dashboard in a process of its own, on port or the next free one; `wait_ready` says when it answers.

    port: None is the params' dashboard.port, 0 any. token: asked for at login; None lets everybody in.
    env: the process's whole environment (None: this one's); its CRYPTOMON_* settings reach the page.
    ip: 0.0.0.0 lets other machines in, for which it needs a token or a proxy that knows its users.
    pool: how many kernels are kept ready for the next execution of the notebook, about 60 MB each; one page serves all.
    parameters: of the notebook's parameters cell, by name. output: where its log goes, as Popen's stderr.

    Raises ConfigError: no such environment, or no port is free.
    """
    options = _options(environment, port, token, ip, pool, parameters, notebook)
    process = subprocess.Popen(
        [sys.executable, "-m", "cryptomon_lib.dashboard_server"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env=None if env is None else dict(env),
        text=True,
    )
    process.stdin.write(json.dumps(options))
    process.stdin.close()
    shown = "127.0.0.1" if ip == "0.0.0.0" else ip
    return DashboardProcess(process, f"http://{shown}:{options['port']}", token)


def serve(
    environment: str | None = None,
    port: int | None = None,
    token: str | None = None,
    *,
    ip: str = "127.0.0.1",
    pool: int = 0,
    parameters: Mapping[str, Any] | None = None,
    notebook: Path | None = None,
) -> None:
    """Serve the dashboard in this process until SIGINT or SIGTERM; arguments and errors as start."""
    _run(_options(environment, port, token, ip, pool, parameters, notebook))


def free_port(preferred: int, ip: str = "127.0.0.1") -> int:
    """The preferred port, or the next that is free, which is then said. Raises ConfigError: none is."""
    for port in range(preferred, preferred + _PORTS_TRIED):
        with socket.socket() as tried:
            # a port that was closed a moment ago is free
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((ip, port))
            except OSError as error:
                log.debug("port %d: %s", port, error)
                continue
            if preferred and port != preferred:
                log.warning("port %d is taken: the dashboard takes %d", preferred, port)
            return tried.getsockname()[1]
    raise ConfigError(
        f"No port from {preferred} to {preferred + _PORTS_TRIED - 1} is free on {ip}: set dashboard.port in params."
    )


def check(url: str, token: str | None = None, timeout_s: float = 60.0) -> float:
    """Open the page as a viewer would, to its end; the seconds that it took.

    Raises RunError: no answer, or a page that is not complete, which Voila gives with HTTP 200.
    """
    # executed anew, not as it was kept for viewers
    headers = {"Cache-Control": "no-cache"} | ({"Authorization": f"token {token}"} if token else {})
    started = time.perf_counter()
    try:
        answer = requests.get(url, headers=headers, timeout=timeout_s)
    except requests.RequestException as error:
        raise RunError(f"The dashboard at {url} does not answer: {error}") from error
    took = time.perf_counter() - started
    if answer.status_code != 200:
        raise RunError(f"The dashboard at {url} answers HTTP {answer.status_code}.")
    if END_MARK not in answer.text:
        says = (
            "asks for its token"
            if "password" in answer.text and "cm-cells" not in answer.text
            else "is not complete"
        )
        raise RunError(f"The dashboard's page at {url} {says}: the server's log says why.")
    return took


def _options(
    environment: str | None,
    port: int | None,
    token: str | None,
    ip: str,
    pool: int,
    parameters: Mapping[str, Any] | None,
    notebook: Path | None,
) -> dict[str, Any]:
    settings = load_settings(environment)
    return {
        "notebook": str(Path(notebook) if notebook else home() / NOTEBOOK),
        "port": free_port(settings.dashboard.port if port is None else port, ip),
        "ip": ip,
        "token": token,
        "pool": pool,
        "parameters": {"environment": settings.environment} | dict(parameters or {}),
    }


def _run(options: Mapping[str, Any]) -> None:
    hide(options["token"] or "")
    # a second to import, which whoever only starts the process need not spend
    from cryptomon_lib.dashboard_voila import run

    run(options, check)


if __name__ == "__main__":
    logs.set_up()
    _run(json.load(sys.stdin))
