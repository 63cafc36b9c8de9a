"""The records of runs, read back: what ran when, for how long, and how it ended."""

import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptomon_lib.monitor import Monitor

RUNS = "runs"


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
    records = []
    for key in [key for key in keys if key.endswith(".json")][:count]:
        record = json.loads(monitor.storage.get(key))
        started = datetime.fromisoformat(record["started_at"])
        if record["status"] == "running" and _is_over(record, started, today):
            record["status"] = "killed"
        records.append(record | {"kept": key.removesuffix(".json") in notebooks})
    return sorted(records, key=lambda record: record["started_at"], reverse=True)


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
