"""The user's crontab: one block between two marks, generated from the schedule; all other lines stay as they are.

By default the block keeps one resident runner alive, asked for each minute; `each_job` gives a line a job. Written
for Debian's cron: it reads times in the zone of the host, a % ends a command, a command has at most 998 letters.
"""

import re
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptomon_lib.config import Settings, home
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.resident import end_other, forget
from cryptomon_lib.schedule import Job, is_frequent
from cryptomon_lib.scheduling import host

# a job ends itself by its time limit; what hangs so that it cannot is ended so much later, and killed after that
_GRACE_S, _KILL_S = 60, 30
_COMMAND_MAX = 998
_DAEMON = Path("/run/crond.pid")
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def render(jobs: Mapping[str, Job], settings: Settings, *, each_job: bool = False) -> dict[str, str]:
    """The block of the crontab, and the environment file without its values, by name.

    Raises ConfigError: a line that cron would understand otherwise.
    """
    return {
        "crontab": _block(jobs, settings, each_job),
        host.environment_file(settings).name: host.shown_environment(jobs, settings),
    }


def install(jobs: Mapping[str, Job], settings: Settings, *, each_job: bool = False) -> list[str]:
    """Put the block into the user's crontab, in place of an earlier one; what to tell.

    Raises ConfigError: there is no crontab command, or it refuses.
    """
    crontab, block = _crontab(), _block(jobs, settings, each_job)
    told = host.write_environment(jobs, settings)
    _logs(settings).parent.mkdir(parents=True, exist_ok=True)
    kept = _without_block(_read(crontab), settings)
    host.said_by([crontab, "-"], kept + block)
    if end_other(settings):
        told.append("The runner was ended; cron starts it anew within a minute.")
    told.append(f"crontab: {sum(line[0] in '*0123456789' for line in block.splitlines())} lines of ours")
    late = [name for name, job in jobs.items() if each_job and job.catch_up == "once"]
    if late:
        told.append(
            f"Cron runs nothing late: {', '.join(late)} would catch up, which the runner (no --each-job) and systemd do."
        )
    if not _daemon_runs():
        told.append(
            "No cron daemon runs here (no process of /run/crond.pid): start it, as root: service cron start"
        )
    return told


def remove(settings: Settings) -> list[str]:
    """Take the block out of the user's crontab, end the runner, and remove what was written; what to tell."""
    crontab = _crontab()
    before = _read(crontab)
    kept = _without_block(before, settings)
    if kept != before:
        host.said_by([crontab, "-"], kept) if kept.strip() else host.said_by([crontab, "-r"])
    ended = end_other(settings)
    forget(settings)
    for path in host.folder().glob(f"{settings.environment}[.-]*"):
        if path == host.environment_file(settings) or path.suffix in (".cron", ".log") or path.suffix == ".1":
            path.unlink(missing_ok=True)
    told = ["crontab: the block is gone" if kept != before else "crontab: there was no block of ours"]
    return [*told, *(["The runner was ended."] if ended else [])]


def line_of(job: Job) -> str:
    """A job's times in the words of a crontab, with neither names nor steps in its days."""
    return " ".join(
        _field(values, *bounds, step=index not in (2, 4))
        for index, (values, bounds) in enumerate(zip(job.fields, _RANGES, strict=True))
    )


def _block(jobs: Mapping[str, Job], settings: Settings, each_job: bool) -> str:
    if each_job:
        _check_zone(jobs)
        lines = [f"{line_of(job)} {_run(name, job, settings)}" for name, job in jobs.items()]
    else:
        stay = [*_locked(settings, "runner"), *host.command(settings, "schedule", "follow")]
        lines = [f"* * * * * {_command(stay, settings)}"]
    log = shlex.quote(str(_logs(settings)))
    # the writers append, so they go on at the beginning of what was emptied
    lines.append(f"3 3 * * * {_escaped(f'test ! -s {log} || {{ cp {log} {log}.1 && : > {log}; }}')}")
    return "\n".join([_begin(settings), "SHELL=/bin/sh", *lines, _end(settings), ""])


def _run(name: str, job: Job, settings: Settings) -> str:
    patience = ["--kill-after", str(_KILL_S), str(job.timeout_s + _GRACE_S)]
    nice = [] if is_frequent(job) else [_tool("nice"), "-n", "10"]
    words = [*_locked(settings, name), *nice, _tool("timeout"), *patience]
    return _command([*words, *host.command(settings, "run", name)], settings)


def _locked(settings: Settings, name: str) -> list[str]:
    """Nothing is started, not even Python, while the one before runs."""
    lock = host.folder() / f"{settings.environment}-{name}.cron"
    return [_tool("flock"), "--nonblock", "--conflict-exit-code", "75", str(lock)]


def _command(words: Sequence[str], settings: Settings) -> str:
    environment, log = (shlex.quote(str(path)) for path in (host.environment_file(settings), _logs(settings)))
    return _escaped(f"set -a; . {environment}; exec {shlex.join(words)} >> {log} 2>&1")


def _escaped(command: str) -> str:
    escaped = command.replace("%", "\\%")
    if len(escaped) > _COMMAND_MAX:
        raise ConfigError(
            f"A line of the crontab has {len(escaped)} letters, cron takes {_COMMAND_MAX}: move to a shorter path."
        )
    return escaped


def _field(values: list[int] | None, low: int, high: int, *, step: bool) -> str:
    """Values as a cron field; `*/n` where they are that, except of days: there a star changes what cron means."""
    if values is None:
        return "*"
    for width in range(2, 31) if step and len(values) > 2 else ():
        if values == list(range(low, high + 1, width)):
            return f"*/{width}"
    return ",".join(map(str, values))


def _check_zone(jobs: Mapping[str, Job]) -> None:
    """Cron reads times in the zone of the host, the schedule is in UTC: they agree, or the times do not matter."""
    if time.timezone == 0 and not time.daylight:
        return
    offsets = {time.timezone, time.altzone if time.daylight else time.timezone}
    by_hour = all(offset % 3600 == 0 for offset in offsets)
    for name, job in jobs.items():
        if any(values is not None for values in job.fields[1 if by_hour else 0 :]):
            raise ConfigError(
                f"schedule.yaml: {name}: {job.cron!r} is meant in UTC, and cron on this host reads times in "
                f"{'/'.join(dict.fromkeys(time.tzname))}. Leave --each-job out (the runner knows UTC), take --target "
                "systemd, or set the host to UTC (timedatectl set-timezone UTC, then restart cron)."
            )


def _without_block(text: str, settings: Settings) -> str:
    begin, end = _begin(settings), _end(settings)
    lines = text.splitlines()
    if begin not in lines:
        return text if not text or text.endswith("\n") else text + "\n"
    if end not in lines[lines.index(begin) :]:
        raise ConfigError(f"The crontab has the line {begin!r} and no {end!r}: mend it by crontab -e.")
    first, last = lines.index(begin), lines.index(end)
    return "".join(f"{line}\n" for line in [*lines[:first], *lines[last + 1 :]])


def _begin(settings: Settings) -> str:
    return (
        f"# >>> cryptomon {settings.environment} of {home()}: generated from scheduled/schedule.yaml. Do not edit; "
        "keep lines of your own above it"
    )


def _end(settings: Settings) -> str:
    return f"# <<< cryptomon {settings.environment} of {home()}"


def _read(crontab: str) -> str:
    """The user's crontab as it is; crontab ends with 1 where there is none."""
    text = host.said_by([crontab, "-l"], allowed=(0, 1))
    # some versions show the three lines that they put above
    return re.sub(r"\A# DO NOT EDIT THIS FILE[^\n]*\n(?:# \([^\n]*\n){1,2}", "", text)


def _crontab() -> str:
    found = shutil.which("crontab")
    if found is None:
        raise ConfigError(
            "There is no command crontab here: install Debian's package cron, or take --target systemd; "
            "`cryptomon schedule print --target cron` shows the lines."
        )
    return found


def _tool(name: str) -> str:
    return shutil.which(name) or f"/usr/bin/{name}"


def _logs(settings: Settings) -> Path:
    return host.folder() / f"{settings.environment}.log"


def _daemon_runs() -> bool:
    try:
        return Path(f"/proc/{int(_DAEMON.read_text())}").exists()
    except (OSError, ValueError):
        return False
