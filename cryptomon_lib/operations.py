"""What an operator looks at: runs, quarantine, storage by day. Reads names and logs, never the data itself."""

import json
import re
from collections import Counter
from typing import Any

from cryptomon_lib.errors import StorageError
from cryptomon_lib.exchanges import source_of
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.payloads import QUARANTINE
from cryptomon_lib.runs import RUNS, load_runs
from cryptomon_lib.tables import TABLES

RUN_ID = re.compile(r"\d{8}T\d{6}Z-[A-Za-z0-9_.-]{1,80}")
_TOLD = ("run_id", "job", "notebook", "started_at", "duration_s", "status", "reason", "facts", "kept")


def newest_runs(monitor: Monitor, count: int = 120) -> list[dict[str, Any]]:
    """The newest runs of two days: run_id, job, notebook, started_at, duration_s, status, reason, facts, kept."""
    return [{name: one.get(name) for name in _TOLD} for one in load_runs(monitor, 2, count)]


def executed_notebook(monitor: Monitor, run_id: str) -> bytes:
    """The executed notebook of a run, as .ipynb.

    Raises StorageError: it is not kept, or that is no run's id.
    """
    if not RUN_ID.fullmatch(run_id):
        raise StorageError(f"{run_id[:60]!r} is no run's id.")
    day = f"{run_id[:4]}-{run_id[4:6]}-{run_id[6:8]}"
    return monitor.storage.get(f"{RUNS}/{day}/{run_id}.ipynb")


def quarantine_by_source(monitor: Monitor) -> list[dict[str, Any]]:
    """One row per exchange with payloads in quarantine: source, payloads, newest_at (ISO), reason of the newest."""
    found: dict[str, list] = {}
    for one in monitor.storage.objects(QUARANTINE):
        if one.key.endswith(".json.gz"):
            found.setdefault(one.key.split("/")[1], []).append(one)
    rows = []
    for host, objects in sorted(found.items()):
        newest = max(objects, key=lambda one: one.modified_at)
        key = f"{newest.key}.reason.json"
        reason = json.loads(monitor.storage.get(key))["reason"] if monitor.storage.exists(key) else ""
        rows.append(
            {
                "source": source_of(host),
                "payloads": len(objects),
                "newest_at": newest.modified_at.isoformat(timespec="seconds"),
                "reason": reason[:300],
            }
        )
    return rows


def storage_by_day(monitor: Monitor, days: int = 31) -> tuple[list[str], list[tuple[str, list[float]]]]:
    """Days, and per table that holds anything its megabytes of each: what the tables' logs say of their files."""
    sizes: dict[str, Counter] = {}
    for name, table in TABLES.items():
        if "day" in table.partition_by:
            for file in monitor.lake.files(name):
                sizes.setdefault(name, Counter())[file.partition["day"]] += file.size / 1e6
    shown = sorted({day for table in sizes.values() for day in table})[-days:]
    return shown, [(name, [round(table[day], 3) for day in shown]) for name, table in sizes.items()]
