"""`scheduled/schedule.yaml`: which job runs which notebooks when. Cron expressions are in UTC."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from croniter import CroniterBadCronError, croniter

from cryptomon_lib.config import check_variable, home, nearest, read_yaml
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.pings import Ping


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of the schedule. timeout_s: seconds until the whole run is ended.

    html: a folder under the root that what was executed also goes to, as <day>.html to read and to mail.
    ping: {start: …, success: …, fail: …}, each the name of an environment variable with an address to ask.
    """

    notebooks: tuple[str, ...]
    cron: str = ""
    params: dict[str, Any] = {}
    timeout_s: Annotated[int, msgspec.Meta(ge=1)] = 1800
    ping: Ping | None = None
    html: str = ""


def load_schedule() -> Mapping[str, Job]:
    """All jobs by name.

    Raises ConfigError: names the job, the key, and what it has to be.
    """
    lines = read_yaml(home() / "scheduled" / "schedule.yaml") or {}
    if not isinstance(lines, dict):
        raise ConfigError(
            "schedule.yaml has to be job: {cron: …, notebooks: […], params: {…}, timeout_s: …}."
        )
    return {name: _job(name, line) for name, line in lines.items()}


def job_named(name: str) -> Job:
    """The job of that name; a notebook's name (collect, 10_collect) is a job of that notebook alone.

    Raises ConfigError: neither a job nor a notebook.
    """
    jobs = load_schedule()
    if name in jobs:
        return jobs[name]
    stems = [
        path.stem
        for path in sorted((home() / "notebooks").rglob("*.ipynb"))
        if "-checkpoint" not in path.stem
    ]
    for stem in stems:
        if name in (stem, stem.partition("_")[2]):
            return Job(notebooks=(stem,))
    raise ConfigError(f"No job and no notebook is called {name!r}.{nearest(name, [*jobs, *stems])}")


def notebook_path(stem: str) -> Path:
    """The notebook of that name, one of an analyst's own under notebooks/mine included.

    Raises ConfigError: there is none.
    """
    folder = home() / "notebooks"
    for path in (folder / f"{stem}.ipynb", folder / "mine" / f"{stem}.ipynb"):
        if path.is_file():
            return path
    raise ConfigError(f"No notebook notebooks/{stem}.ipynb, nor under notebooks/mine.")


def is_scheduled(notebook: str) -> bool:
    """Whether any job of the schedule runs a notebook."""
    return any(notebook in job.notebooks for job in load_schedule().values() if job.cron)


def next_due(job: Job, after: datetime) -> datetime:
    """When a job is due next, strictly after a moment (UTC)."""
    return croniter(job.cron, after.astimezone(UTC)).get_next(datetime)


def _job(name: str, line: Any) -> Job:
    where = f"schedule.yaml: {name}"
    if isinstance(line, dict):
        for key in line:
            if key not in Job.__struct_fields__:
                raise ConfigError(f"{where}: unknown key {key}.{nearest(str(key), Job.__struct_fields__)}")
        _check_ping(line.get("ping"), where)
    try:
        job = msgspec.convert(line, Job)
        croniter(job.cron)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}.") from error
    except (CroniterBadCronError, ValueError) as error:
        raise ConfigError(
            f"{where}: cron is {line['cron']!r}, which is no cron expression: {error}."
        ) from error
    return job


def _check_ping(ping: Any, where: str) -> None:
    for key, name in ping.items() if isinstance(ping, dict) else ():
        if key not in Ping.__struct_fields__:
            raise ConfigError(f"{where}: ping: unknown key {key}.{nearest(str(key), Ping.__struct_fields__)}")
        check_variable(name, f"{where}: ping: {key}")
