"""`scheduled/schedule.yaml`: which job runs which notebooks when. Cron expressions are in UTC."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from croniter import CroniterBadCronError, CroniterBadDateError, croniter

from cryptomon_lib.config import Settings, check_variable, home, nearest, read_yaml
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.pings import Ping
from cryptomon_lib.receivers import User, load_users

_FILE = Path("scheduled") / "schedule.yaml"
# the name becomes that of a lock, a unit, a line of a crontab
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")
# a job that comes so often has no time to wait for another one
_OFTEN = timedelta(minutes=5)


class Retries(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often a notebook that failed is run again within the job's time limit, and after how many seconds."""

    times: Annotated[int, msgspec.Meta(ge=0, le=10)] = 0
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of the schedule. timeout_s: seconds until the whole run is ended.

    html: a folder under the root that what was executed also goes to, as <day>.html to read and to mail.
    ping: {start: …, success: …, fail: …}, each the name of an environment variable with an address to ask.
    catch_up: a time that passed while the machine was off or another run went on is run late (`once`, however many
    passed) or not (`none`). retries: of a notebook that failed. tell: users of params/receivers.yaml who hear when the
    job fails in spite of its retries, and when it works again.
    """

    notebooks: tuple[str, ...]
    cron: str = ""
    params: dict[str, Any] = {}
    timeout_s: Annotated[int, msgspec.Meta(ge=1)] = 1800
    ping: Ping | None = None
    html: str = ""
    catch_up: Literal["none", "once"] = "once"
    retries: Retries = Retries()
    tell: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[list[int] | None, ...]:
        """Minutes, hours, days of the month, months and weekdays (0 is Sunday) that it is due at; None is any."""
        return tuple(None if one == ["*"] else one for one in croniter.expand(self.cron)[0])


def load_schedule() -> Mapping[str, Job]:
    """All jobs by name.

    Raises ConfigError: names the job, the key, and what it has to be.
    """
    lines = read_yaml(home() / _FILE) or {}
    if not isinstance(lines, dict):
        raise ConfigError(
            "schedule.yaml has to be job: {cron: …, notebooks: […], params: {…}, timeout_s: …}."
        )
    return {name: _job(name, line) for name, line in lines.items()}


def schedule_changed_at() -> float:
    """When schedule.yaml was written last, in seconds; 0 where there is none."""
    path = home() / _FILE
    return path.stat().st_mtime if path.is_file() else 0.0


def scheduled_jobs() -> Mapping[str, Job]:
    """The jobs with a time of their own, by name, each user whom they tell being one of params/receivers.yaml.

    Raises ConfigError: schedule.yaml or receivers.yaml; a job tells a user that there is none of.
    """
    jobs = {name: job for name, job in load_schedule().items() if job.cron}
    users = load_users() if any(job.tell for job in jobs.values()) else {}
    for name, job in jobs.items():
        for user in job.tell:
            if user not in users:
                raise ConfigError(
                    f"schedule.yaml: {name}: tell: params/receivers.yaml has no user {user!r}.{nearest(user, users)}"
                )
    return jobs


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


def variables_named(
    settings: Settings, users: Iterable[User], jobs: Mapping[str, Job], *, trino: bool = True
) -> dict[str, str]:
    """The environment variables that params, receivers and schedule name, each with who names it.

    trino: those of Trino too, which only matter where it is asked.
    """
    named = {name: f"keys: {exchange}" for exchange, name in settings.keys.items()}
    for name, where in (
        (settings.api.keys, "api: keys"),
        (settings.trino.password_from if trino else "", "trino: password_from"),
        (settings.trino.token_from if trino else "", "trino: token_from"),
    ):
        named |= {name: where} if name else {}
    for user in users:
        for receiver, its in user.receivers.items():
            for key in ("url_env", "secret_env"):
                if name := getattr(its, key, None):
                    named[name] = f"params/receivers.yaml: {user.name}: {receiver}"
    for job, line in jobs.items():
        for key in ("start", "success", "fail") if line.ping else ():
            if name := getattr(line.ping, key):
                named[name] = f"schedule.yaml: {job}: ping"
    return named


def is_scheduled(notebook: str) -> bool:
    """Whether any job of the schedule runs a notebook."""
    return any(notebook in job.notebooks for job in load_schedule().values() if job.cron)


def next_due(job: Job, after: datetime) -> datetime:
    """When a job is due next, strictly after a moment (UTC)."""
    return croniter(job.cron, after.astimezone(UTC)).get_next(datetime)


def last_due(job: Job, until: datetime) -> datetime:
    """When a job was due last, at a moment (UTC) or before it."""
    return croniter(job.cron, until.astimezone(UTC) + timedelta(microseconds=1)).get_prev(datetime)


def is_frequent(job: Job) -> bool:
    """Whether a job comes every five minutes or more often: such a one waits for no other job."""
    first = next_due(job, datetime(2026, 1, 5, tzinfo=UTC))
    return next_due(job, first) - first <= _OFTEN


def _job(name: str, line: Any) -> Job:
    where = f"schedule.yaml: {name}"
    if not _NAME.fullmatch(str(name)):
        raise ConfigError(f"{where}: a job's name is made of letters, digits, - and _, and at most 41 long.")
    if isinstance(line, dict):
        _check_keys(line, Job, where)
        _check_keys(line.get("retries"), Retries, f"{where}: retries")
        _check_ping(line.get("ping"), where)
    try:
        job = msgspec.convert(line, Job)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}.") from error
    if job.cron:
        _check_cron(job.cron, where)
    return job


def _check_cron(cron: str, where: str) -> None:
    """Nothing, where croniter, cron daemons and systemd mean the same by it."""
    said = f"{where}: cron is {cron!r}"
    try:
        fields, nth = croniter.expand(cron)
    except (CroniterBadCronError, ValueError) as error:
        raise ConfigError(f"{said}, which is no cron expression: {error}.") from error
    if len(fields) != 5:
        raise ConfigError(
            f"{said}; it has to have five fields, minute to weekday: what comes more often than each minute is the "
            "parameter samples."
        )
    if nth or "l" in fields[2]:
        raise ConfigError(f"{said}; L and # are understood by croniter alone: name days or weekdays.")
    try:
        croniter(cron, datetime(2026, 1, 1, tzinfo=UTC)).get_next(datetime)
    except CroniterBadDateError as error:
        raise ConfigError(f"{said}, a date that never comes.") from error


def _check_keys(keys: Any, kind: type[msgspec.Struct], where: str) -> None:
    for key in keys if isinstance(keys, dict) else ():
        if key not in kind.__struct_fields__:
            raise ConfigError(f"{where}: unknown key {key}.{nearest(str(key), kind.__struct_fields__)}")


def _check_ping(ping: Any, where: str) -> None:
    _check_keys(ping, Ping, f"{where}: ping")
    for key, name in ping.items() if isinstance(ping, dict) else ():
        check_variable(name, f"{where}: ping: {key}")
