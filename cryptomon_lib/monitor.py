"""One environment, opened: its settings, its objects, its tables. What every job is given."""

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from cryptomon_lib.config import Settings, load_settings
from cryptomon_lib.lake import Lake
from cryptomon_lib.simulator import Simulator
from cryptomon_lib.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Monitor:
    """An environment's settings, storage and lake."""

    settings: Settings
    storage: Storage
    lake: Lake


def open_monitor(
    environment: str | None = None,
    given: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Monitor:
    """The monitor of an environment; arguments and errors as load_settings. A notebook passes its globals()."""
    settings = load_settings(environment, given, flags)
    storage = Storage(settings.root, settings.endpoint_url)
    return Monitor(settings, storage, Lake(storage))


def hosts(settings: Settings) -> Mapping[str, str]:
    """Base addresses to use in place of the exchanges' own.

    Where the data is simulated and nothing answers at the address that params name, a simulated exchange is
    started in this process: a notebook opened alone works, and so does a plain papermill command line.
    """
    if not settings.simulated or any(_answers(address) for address in settings.hosts.values()):
        return settings.hosts
    log.info("no simulated exchange at %s: one is started here", ", ".join(settings.hosts.values()))
    return dict(settings.hosts) | _own_simulator().hosts


@cache
def _own_simulator() -> Simulator:
    return Simulator()


def _answers(address: str) -> bool:
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname, parts.port or 80), timeout=1):
            return True
    except OSError:
        return False
