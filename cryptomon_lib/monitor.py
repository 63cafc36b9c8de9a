"""One environment, opened: its settings, its objects, its tables. What every job is given."""

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from cryptomon_lib import exchanges
from cryptomon_lib.budget import Budgets
from cryptomon_lib.config import Settings, home, load_settings, secret
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.fetch import Fetcher, Key
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


def open_fetcher(settings: Settings, share: float | None = None) -> Fetcher:
    """What asks the exchanges, within the budgets that all processes of this machine share, with the keys of the params.

    share: of each budget's calls, for work that can wait; None: all of them.

    Raises ConfigError: params name a key for an exchange that takes none, or that is not known.
    """
    limits = {name: _limit(settings, name) for name in {*exchanges.names(), *settings.exchanges}}
    return Fetcher(
        settings.fetch,
        budgets=budgets(settings),
        calls_per_min={name: limit for name, limit in limits.items() if limit},
        share=share,
        keys={name: _key(name, variable) for name, variable in settings.keys.items()},
    )


def budgets(settings: Settings) -> Budgets:
    """The budgets of hosts as this machine keeps them."""
    return Budgets(home() / settings.fetch.budgets)


def _limit(settings: Settings, name: str) -> int | None:
    """Calls a minute of an exchange; None where it has no limit: an address of this machine, unless params give one."""
    if name in settings.calls_per_min:
        return settings.calls_per_min[name]
    if (urlsplit(settings.hosts.get(name, "")).hostname or "").startswith(("127.", "localhost")):
        return None
    return getattr(exchanges.get(name), "CALLS_PER_MIN", settings.fetch.calls_per_min)


def _key(name: str, variable: str) -> Key:
    module = exchanges.get(name)
    header, parameter = getattr(module, "KEY_HEADER", None), getattr(module, "KEY_PARAMETER", None)
    if not (header or parameter):
        raise ConfigError(f"keys in params names {name}, whose public routes take no key; take it out.")
    try:
        return Key(secret(variable), header, parameter)
    except ConfigError as error:
        # the others are asked all the same
        return Key(None, absent=f"{error} Or take {name} out of keys in params.")


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
