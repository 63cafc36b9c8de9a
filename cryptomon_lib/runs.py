"""The records of runs, read back: what ran when, for how long, and how it ended."""

import itertools
import json
import os
import re
import socket
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptomon_lib.monitor import Monitor

RUNS = "runs"
_RECORD = re.compile(r"\d{8}T\d{6}Z-(?P<notebook>.+)-[0-9a-f]{6}\.json")
# of each notebook so many of its newest records are read, and so many in all
_NEWEST, _READ_MAX = 3, 100


def load_runs(monitor: Monitor, days: int = 2, count: int | None = None) -> list[dict[str, Any]]:
    """The records of the last days, newest first; status `killed` where a record was never closed.

    count: only the newest so many. `kept` says whether the executed notebook is beside the record.
    """
    today = datetime.now(UTC)
    keys: list[str] = []
    for back in range(days):
        day = f"{today - timedelta(days=back):%Y-%m-%d}"
        # a run's id begins with its time
        keys += sorted((one.key for one in monitor.storage.objects(f"{RUNS}/{day}")), reverse=True)
    notebooks = {key.removesuffix(".ipynb") for key in keys if key.endswith(".ipynb")}
    records = [
        _record(monitor, key, today) | {"kept": key.removesuffix(".json") in notebooks}
        for key in [key for key in keys if key.endswith(".json")][:count]
    ]
    return sorted(records, key=lambda record: record["started_at"], reverse=True)


def together(records: Iterable[Mapping[str, Any]]) -> tuple[float, dict[str, Any]]:
    """Of the records of a job's notebooks how long they took in all (s), and their facts."""
    records = list(records)
    facts = {name: value for record in records for name, value in record["facts"].items()}
    return sum(record["duration_s"] for record in records), facts


def _is_over(record: Mapping[str, Any], started: datetime, now: datetime) -> bool:
    if record["host"] != socket.gethostname():
        return now - started > timedelta(hours=2)
    try:
        os.kill(record["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@dataclass(frozen=True)
class Ran:
    """How a notebook runs: its newest record, when it last succeeded, and how many of its runs of 24 h did not.

    failures: at least so many; `more` where there were more of them than were read. succeeded_at: None where no
    success was found.
    """

    newest: Mapping[str, Any]
    succeeded_at: datetime | None
    failures: int
    more: bool


def newest_of_each(monitor: Monitor, now: datetime) -> dict[str, Ran]:
    """Of each notebook that ran within the last day or two, how it runs; by two listings and few records.

    Of the successes of an hour one notebook is kept and of the others all, so beside the newest records only those
    whose notebook is kept can tell of a failure.
    """
    keys: list[str] = []
    for back in (1, 0):
        day = f"{now - timedelta(days=back):%Y-%m-%d}"
        keys += [one.key for one in monitor.storage.objects(f"{RUNS}/{day}")]
    kept = {key.removesuffix(".ipynb") for key in keys if key.endswith(".ipynb")}
    by_notebook: dict[str, list[str]] = {}
    # a run's id begins with its time
    for key in sorted(keys, key=lambda key: key.rsplit("/", 1)[1], reverse=True):
        if match := _RECORD.fullmatch(key.rsplit("/", 1)[1]):
            by_notebook.setdefault(match["notebook"], []).append(key)
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda records: _ran(monitor, records, kept, now), by_notebook.values())
        return dict(sorted(zip(by_notebook, found, strict=True)))


def _ran(monitor: Monitor, keys: list[str], kept: set[str], now: datetime) -> Ran:
    telling = [key for index, key in enumerate(keys) if index < _NEWEST or key.removesuffix(".json") in kept]
    records = [_record(monitor, key, now) for key in telling[:_READ_MAX]]
    day_ago = (now - timedelta(days=1)).isoformat()
    failed = [
        one
        for one in records
        if one["status"] not in ("succeeded", "running") and one["started_at"] >= day_ago
    ]
    # the success before some failures may have no notebook any more
    read = set(telling)
    others = [key for key in keys if key not in read][: max(0, _READ_MAX - len(records))]
    ends = itertools.chain(records, (_record(monitor, key, now) for key in others))
    newest_end = next((one["ended_at"] for one in ends if one["status"] == "succeeded"), None)
    return Ran(
        records[0],
        datetime.fromisoformat(newest_end) if newest_end else None,
        len(failed),
        len(telling) > _READ_MAX,
    )


def _record(monitor: Monitor, key: str, now: datetime) -> dict[str, Any]:
    record = json.loads(monitor.storage.get(key))
    started = datetime.fromisoformat(record["started_at"])
    if record["status"] == "running" and _is_over(record, started, now):
        record["status"] = "killed"
    return record
