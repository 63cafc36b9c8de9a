"""One environment, opened: its settings, its objects, its tables. What every job is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptomon_lib.config import Settings, load_settings
from cryptomon_lib.lake import Lake
from cryptomon_lib.storage import Storage


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
