"""What is kept for how long: payloads, quarantine and runs go by whole days, as `retention` in params says."""

import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cryptomon_lib.errors import StorageError
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.payloads import ARCHIVE, INGEST, QUARANTINE
from cryptomon_lib.storage import Storage

log = logging.getLogger(__name__)

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_DONE = "runs/expired.txt"


def expire(monitor: Monitor, now: datetime) -> int:
    """Delete what is older than the params keep it; how many objects went."""
    kept = monitor.settings.retention
    days = {
        ARCHIVE: kept.archive_days,
        QUARANTINE: kept.quarantine_days,
        "rejected": kept.quarantine_days,
        "notices": kept.quarantine_days,
        "runs": kept.runs_days,
    }
    gone = 0
    for prefix, limit in days.items():
        oldest = f"{now - timedelta(days=limit):%Y-%m-%d}"
        for folder in _day_folders(monitor.storage, prefix):
            if folder.rsplit("/", 1)[1] < oldest:
                for one in monitor.storage.objects(folder):
                    monitor.storage.delete(one.key)
                    gone += 1
    monitor.storage.remove_empty_folders([*days, INGEST])
    if gone:
        log.info("%d objects were older than params keep them and are deleted", gone)
    return gone


def expire_daily(monitor: Monitor) -> None:
    """`expire`, where it was not yet done today. A role that may delete nothing leaves it to the next run of another."""
    now = datetime.now(UTC)
    today = f"{now:%Y-%m-%d}".encode()
    if monitor.storage.exists(_DONE) and monitor.storage.get(_DONE) == today:
        return
    try:
        expire(monitor, now)
        monitor.storage.put(_DONE, today)
    except StorageError as error:
        log.warning("what is older than params keep it stays for now: %s", error)


def _day_folders(storage: Storage, prefix: str) -> Iterator[str]:
    """Folders below prefix that are named by a day; nothing below a day is listed."""
    for name in storage.folders(prefix):
        if _DAY.fullmatch(name):
            yield f"{prefix}/{name}"
        else:
            yield from _day_folders(storage, f"{prefix}/{name}")
