"""What is kept for how long: by whole days, as `retention` in params says. All that is written has a rule."""

import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cryptomon_lib.errors import StorageError
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.outbox import PARKED
from cryptomon_lib.payloads import ARCHIVE, INGEST, QUARANTINE
from cryptomon_lib.schedule import load_schedule
from cryptomon_lib.storage import Storage

log = logging.getLogger(__name__)

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_DONE = "runs/expired.txt"
# prefixes of keys, and what ends their growth; `docs/storage.md` shows them, and a test walks a root that was used
RULES = {
    "ingest/": "a queue: flatten moves each payload to archive or quarantine",
    "archive/": "`retention.archive_days`",
    "quarantine/": "`retention.quarantine_days`",
    "rejected/": "`retention.quarantine_days`",
    "notices/": "`retention.quarantine_days`",
    "runs/": "`retention.runs_days`; of an hour's successes one notebook",
    "reports/": "`retention.reports_days`; so is the folder `html` of any job",
    "outbox/parked/": "`retention.quarantine_days` after they were given up",
    "outbox/": "plans and attempts go an hour after all their messages are done",
    "alert_state/": "the newest five",
    "tables/": "`retention.tables_days`, by table; nothing by default. Logs two days, replaced files an hour (`50_compact`)",
    "exports/": "days that `retention.tables_days` lets go of go here too; else as large as the tables",
    "holes/": "one object; closed rows of the table `holes` go after `backfill.holes_days`",
    "instruments/": "two objects an exchange",
    "catalog/": "one object a database",
    "health.json": "one object, replaced",
    "doctor/": "one object while `cryptomon doctor` runs",
    "restoring.json": "one object while `cryptomon restore` runs",
}


def rule_of(key: str) -> str | None:
    """What ends the growth of what is stored under such keys; None where nothing is known to."""
    found = [prefix for prefix in (*RULES, *_html_folders()) if key.startswith(prefix)]
    return RULES.get(max(found, key=len), RULES["reports/"]) if found else None


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
    days |= {f"exports/{name}": limit for name, limit in kept.tables_days.items()}
    gone = 0
    for prefix, limit in days.items():
        for folder in _day_folders(monitor.storage, prefix):
            if folder.rsplit("/", 1)[1].removeprefix("day=") < _oldest(now, limit):
                gone += _delete(monitor.storage, [one.key for one in monitor.storage.objects(folder)])
    for prefix in _html_folders():
        pages = [one.key for one in monitor.storage.objects(prefix.rstrip("/"))]
        old = [key for key in pages if (day := _DAY.search(key)) and day[0] < _oldest(now, kept.reports_days)]
        gone += _delete(monitor.storage, old)
    given_up = monitor.storage.objects(PARKED)
    until = now - timedelta(days=kept.quarantine_days)
    gone += _delete(monitor.storage, [one.key for one in given_up if one.modified_at < until])
    monitor.storage.remove_empty_folders([*days, "exports", INGEST])
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


def _oldest(now: datetime, limit: int) -> str:
    return f"{now - timedelta(days=limit):%Y-%m-%d}"


def _delete(storage: Storage, keys: list[str]) -> int:
    for key in keys:
        storage.delete(key)
    return len(keys)


def _html_folders() -> set[str]:
    """Folders that jobs of the schedule keep pages in."""
    return {"reports/"} | {f"{job.html.strip('/')}/" for job in load_schedule().values() if job.html}


def _day_folders(storage: Storage, prefix: str) -> Iterator[str]:
    """Folders below prefix that are named by a day, as 2026-01-31 or day=2026-01-31; nothing below a day is listed."""
    for name in storage.folders(prefix):
        if _DAY.fullmatch(name.removeprefix("day=")):
            yield f"{prefix}/{name}"
        else:
            yield from _day_folders(storage, f"{prefix}/{name}")
