"""The whole monitor in one process tree: simulated exchange, first 24 h, dashboard, a tick each minute.

Owns what `make run` does: which processes there are, in which order they start, and that all of them end.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from cryptomon_lib import logs
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.config import Settings, export, home, load_settings
from cryptomon_lib.dashboard_server import DashboardProcess, free_port, start
from cryptomon_lib.errors import SimulatorError
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.monitor import Monitor, open_monitor
from cryptomon_lib.resident import follow
from cryptomon_lib.run import Kernels, Stopped, signals

# what is younger than this is left to the next tick
_RECENT = timedelta(minutes=2)
_END_S = 10


def up(environment: str, hours: int = 24, minutes: int | None = None, console: Console | None = None) -> None:
    """Run everything until SIGINT or SIGTERM; then end everything.

    hours: how much history to fill where the exchange is simulated. minutes: end by itself after so long.

    Raises ConfigError, StorageError, SimulatorError: before anything is left running.
    """
    console = console or (_Lines(quiet=True) if logs.is_json() else Console())
    began = time.monotonic()
    settings = load_settings(environment)
    with signals(), ExitStack() as stack:
        try:
            if settings.simulated:
                stack.enter_context(_simulator(settings, console))
            monitor = open_monitor(environment)
            _say_where(console, monitor)
            # it warms up while history is filled
            dashboard = stack.enter_context(_dashboard(settings, console))
            if settings.simulated:
                fill(monitor, hours, console)
            else:
                console.print("History begins now: a missed minute cannot be asked for again.")
            dashboard.wait_ready()
            kernels = Kernels(keep=True)
            stack.callback(kernels.close)
            console.print(
                f"[bold]Ready after {time.monotonic() - began:.0f} s.[/] Open {dashboard.url} · Ctrl-C ends it."
            )
            follow(
                environment,
                kernels,
                minutes=minutes,
                told=lambda says: console.print(says, highlight=False, soft_wrap=True),
            )
        except Stopped as stop:
            stop.answered.set()
            console.print("Ending …")
    console.print("Ended: nothing is left running.")


class _Lines(Console):
    """Writes log lines in place of what is for a terminal; a bar's drawing is no text, and left out."""

    def print(self, *said: Any, **how: Any) -> None:
        for one in said:
            if isinstance(one, str):
                logs.tell(Text.from_markup(one).plain)


def fill(monitor: Monitor, hours: int, console: Console) -> None:
    """Ask the simulated exchange for what is missing of the last hours; one batched flatten."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    newest = monitor.lake.newest("ticks")
    since = max(
        now - timedelta(hours=hours),
        newest.replace(second=0, microsecond=0) if newest else datetime.min.replace(tzinfo=UTC),
    )
    minutes = int((now - since).total_seconds() // 60)
    if now - since < _RECENT:
        return
    columns = (
        TextColumn("{task.description:<30}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:

        def bar(says: str) -> Callable[[int, int], None]:
            task = progress.add_task(says, total=1)
            return lambda done, of: progress.update(task, completed=done, total=of)

        polls, hourly = bar(f"polls of {minutes:,} minutes"), -(-minutes // 60)
        collect_payloads(
            monitor,
            endpoint="tickers",
            samples=minutes,
            every_s=60,
            as_of=since + timedelta(minutes=1),
            progress=polls,
        )
        collect_payloads(
            monitor,
            endpoint="candles",
            samples=hourly,
            every_s=3600,
            as_of=now - timedelta(hours=hourly - 1),
            progress=bar("candles of the watchlist"),
        )
        flatten_payloads(monitor, progress=bar("payloads to tables"))


def _say_where(console: Console, monitor: Monitor) -> None:
    settings = monitor.settings
    kind = "[yellow]simulated data[/]" if settings.simulated else "live data"
    console.print(f"cryptomon · environment {settings.environment} · {kind}")
    console.print(f"data       {settings.root}")


@contextmanager
def _simulator(settings: Settings, console: Console) -> Iterator[None]:
    wanted = urlsplit(next(iter(settings.hosts.values()))).port or 8899
    port = free_port(wanted)
    if port != wanted:
        console.print(f"Port {wanted} is taken; the simulated exchange takes {port}.")
    export({"hosts": {name: f"http://127.0.0.1:{port}/{name}" for name in settings.hosts}})
    process = subprocess.Popen(
        [sys.executable, "-m", "cryptomon_lib.cli", "simulate", "--port", str(port), "--quiet"],
        # Ctrl-C in a terminal goes to all; this one is ended by us, after the last tick
        start_new_session=True,
    )
    try:
        _wait_for(port, process)
        console.print(f"exchange   http://127.0.0.1:{port}  (simulated)")
        yield
    finally:
        _end(process)


@contextmanager
def _dashboard(settings: Settings, console: Console) -> Iterator[DashboardProcess]:
    port = free_port(settings.dashboard.port)
    if port != settings.dashboard.port:
        console.print(f"Port {settings.dashboard.port} is taken; the dashboard takes {port}.")
    # its log is for when it fails; here it would run over the progress bars
    said = home() / ".cryptomon" / "dashboard.log"
    said.parent.mkdir(exist_ok=True)
    with said.open("w") as output:
        server = start(settings.environment, port, output=output)
        try:
            console.print(f"dashboard  {server.url}  (log: {said})")
            yield server
        finally:
            server.stop()


def _wait_for(port: int, process: subprocess.Popen, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SimulatorError(
                f"The simulated exchange ended at once, code {process.returncode}; see above."
            )
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise SimulatorError(f"The simulated exchange does not answer at port {port}.")


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
