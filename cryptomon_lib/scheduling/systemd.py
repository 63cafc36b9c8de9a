"""Units for systemd: by default one service, the resident runner; `each_job` gives a service and a timer a job.

For root they are the system's, run by the owner of the project's folder; for anybody else the user's own. Every
unit may write to the data, to .cryptomon and to a temporary folder of its own, and to nothing else.
"""

import os
import pwd
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from cryptomon_lib.config import Settings, home, variables
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.resident import end_other, forget
from cryptomon_lib.schedule import Job, is_frequent
from cryptomon_lib.scheduling import host

_SYSTEM = Path("/etc/systemd/system")
# there while systemd runs the machine: sd_booted(3)
_BOOTED = Path("/run/systemd/system")
_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_GRACE_S, _STOP_S = 60, 60
# what a user's own service manager can do too
_HARDENED = """\
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0027
"""
_HARDENED_SYSTEM = """\
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
CapabilityBoundingSet=
RemoveIPC=yes
"""


def render(jobs: Mapping[str, Job], settings: Settings, *, each_job: bool = False) -> dict[str, str]:
    """The units, and the environment file without its values, by name."""
    shown = {host.environment_file(settings).name: host.shown_environment(jobs, settings)}
    return _units(jobs, settings, each_job) | shown


def install(jobs: Mapping[str, Job], settings: Settings, *, each_job: bool = False) -> list[str]:
    """Write the units in place of earlier ones, enable and start them; what to tell.

    Raises ConfigError: systemd does not run here, or refuses; units of that name are another project's.
    """
    _check_booted()
    units = _units(jobs, settings, each_job)
    old = _installed(settings)
    told = host.write_environment(jobs, settings)
    if "://" not in settings.root:
        # what a unit may write to has to be there before it starts
        Path(settings.root).mkdir(parents=True, exist_ok=True)
    gone = [path for path in old if path.name not in units]
    _disable(gone)
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in units.items():
        (folder / name).write_text(text, encoding="utf-8")
        told.append(str(folder / name))
    host.said_by([*_systemctl(), "daemon-reload"])
    begun = [name for name in units if name.endswith(".timer")] or list(units)
    host.said_by([*_systemctl(), "enable", *begun])
    # restart: an environment that changed is read anew
    host.said_by([*_systemctl(), "restart", *begun])
    if not _is_system():
        told.append("Units of a user end when the user logs out, unless: loginctl enable-linger")
    return told


def remove(settings: Settings) -> list[str]:
    """Stop, disable and remove the units of an environment, and what was written beside them; what to tell."""
    units = _installed(settings)
    if units:
        _check_booted()
        _disable(units)
        host.said_by([*_systemctl(), "daemon-reload"])
    end_other(settings)
    forget(settings)
    host.environment_file(settings).unlink(missing_ok=True)
    return [f"{path}: gone" for path in units] or ["There were no units of ours."]


def calendar_of(job: Job) -> list[str]:
    """A job's times as OnCalendar has them, in UTC; two where a day is one of the month or one of the week."""
    minutes, hours, days, months, weekdays = job.fields
    clock = f"{_listed(hours)}:{_listed(minutes)}:00 UTC"
    week = ",".join(_DAYS[day] for day in weekdays) + " " if weekdays else ""
    if days and weekdays:
        return [f"*-{_listed(months)}-{_listed(days)} {clock}", f"{week}*-{_listed(months)}-* {clock}"]
    return [f"{week}*-{_listed(months)}-{_listed(days)} {clock}"]


def _units(jobs: Mapping[str, Job], settings: Settings, each_job: bool) -> dict[str, str]:
    if not each_job:
        return {f"{_name(settings)}.service": _runner(settings)}
    units = {}
    for name, job in jobs.items():
        units[f"{_name(settings)}-{name}.service"] = _service(name, job, settings)
        units[f"{_name(settings)}-{name}.timer"] = _timer(name, job, settings)
    return units


def _runner(settings: Settings) -> str:
    name = _name(settings)
    wanted_by = "multi-user.target" if _is_system() else "default.target"
    return "\n".join(
        [
            _head(settings, "the resident runner of all jobs") + "StartLimitIntervalSec=0\n",
            "[Service]",
            "Type=exec",
            f"ExecStart={_exec(host.command(settings, 'schedule', 'follow'))}",
            "Restart=always",
            "RestartSec=5",
            "# settings that cannot be used, or another runner there: no repetition mends that",
            "RestartPreventExitStatus=2 75",
            "KillMode=mixed",
            f"TimeoutStopSec={_STOP_S}",
            "# a kernel that took too much memory fails its run, not the runner",
            "OOMPolicy=continue",
            _surroundings(settings, name),
            f"[Install]\nWantedBy={wanted_by}\n",
        ]
    )


def _service(name: str, job: Job, settings: Settings) -> str:
    lines = [
        _head(settings, f"job {name}"),
        "[Service]",
        "Type=oneshot",
        f"ExecStart={_exec(host.command(settings, 'run', name))}",
        f"TimeoutStartSec={job.timeout_s + _GRACE_S}",
        "KillMode=mixed",
        f"TimeoutStopSec={_STOP_S}",
        "# another run of it goes on already, begun by hand",
        "SuccessExitStatus=75",
        "OOMPolicy=continue",
    ]
    lines += [] if is_frequent(job) else ["Nice=10"]
    return "\n".join([*lines, _surroundings(settings, f"{_name(settings)}-{name}")])


def _timer(name: str, job: Job, settings: Settings) -> str:
    return "\n".join(
        [
            f"{_mark()}\n[Unit]\nDescription=cryptomon {settings.environment}: when job {name} is due\n",
            "[Timer]",
            *(f"OnCalendar={one}" for one in calendar_of(job)),
            "AccuracySec=1s",
            f"Persistent={'yes' if job.catch_up == 'once' else 'no'}",
            "\n[Install]\nWantedBy=timers.target\n",
        ]
    )


def _head(settings: Settings, what: str) -> str:
    network = "Wants=network-online.target\nAfter=network-online.target\n" if _is_system() else ""
    return f"{_mark()}\n[Unit]\nDescription=cryptomon {settings.environment}: {what}\n{network}"


def _surroundings(settings: Settings, name: str) -> str:
    """Who runs it, where, with which environment, and what it may touch."""
    owner = f"User={pwd.getpwuid(home().stat().st_uid).pw_name}\n" if _is_system() else ""
    writes = [home() / ".cryptomon", home() / settings.fetch.budgets]
    writes += [Path(settings.root)] if "://" not in settings.root else []
    paths = dict.fromkeys(_quoted(f"-{path}") for path in writes)
    # kernels keep sockets and histories somewhere: not in the home folder
    own = "".join(
        f"Environment={variable}=%t/{name}{below}\n"
        for variable, below in (
            ("JUPYTER_RUNTIME_DIR", ""),
            ("IPYTHONDIR", "/ipython"),
            ("MPLCONFIGDIR", "/matplotlib"),
        )
    )
    system = f"{_HARDENED_SYSTEM}ReadWritePaths={' '.join(paths)}\n" if _is_system() else ""
    return (
        f"{owner}WorkingDirectory={_percent(str(home()))}\n"
        f"EnvironmentFile={_percent(str(host.environment_file(settings)))}\n"
        f"RuntimeDirectory={name}\nRuntimeDirectoryMode=0700\n{own}{_HARDENED}{system}"
    )


def _mark() -> str:
    return f"# Generated from scheduled/schedule.yaml of {home()}: do not edit, `cryptomon schedule install` writes it anew."


def _name(settings: Settings) -> str:
    return f"cryptomon-{settings.environment}"


def _installed(settings: Settings) -> list[Path]:
    """The units of this environment that stand in systemd's folder.

    Raises ConfigError: they are another project's.
    """
    folder = _folder()
    if not folder.is_dir():
        return []
    named = re.compile(rf"{re.escape(_name(settings))}(-[A-Za-z0-9_-]+)?\.(service|timer)")
    found = [path for path in sorted(folder.iterdir()) if named.fullmatch(path.name) and path.is_file()]
    marks = {path: path.read_text(encoding="utf-8").splitlines()[:1] for path in found}
    # an environment's name may begin with another's: dev and dev-2
    units = [
        path
        for path, mark in marks.items()
        if f"Description=cryptomon {settings.environment}:" in path.read_text()
    ]
    for path in units:
        if marks[path] != [_mark()]:
            raise ConfigError(
                f"{path} is another project's of the same environment's name: remove it there first "
                "(cryptomon schedule remove --target systemd)."
            )
    return units


def _disable(units: list[Path]) -> None:
    timers_first = sorted(units, key=lambda path: path.suffix != ".timer")
    if timers_first:
        host.said_by([*_systemctl(), "disable", "--now", *(path.name for path in timers_first)])
    for path in units:
        path.unlink()


def _check_booted() -> None:
    if shutil.which("systemctl") is None or not _BOOTED.is_dir():
        raise ConfigError(
            "systemd does not run this machine (no /run/systemd/system): take --target cron, or write the units to a folder "
            "by `cryptomon schedule print --target systemd --output FOLDER`."
        )


def _systemctl() -> list[str]:
    return [shutil.which("systemctl") or "systemctl", *([] if _is_system() else ["--user"])]


def _folder() -> Path:
    if _is_system():
        return _SYSTEM
    configured = variables((), ["XDG_CONFIG_HOME"]).get("XDG_CONFIG_HOME")
    return (Path(configured) if configured else Path.home() / ".config") / "systemd" / "user"


def _is_system() -> bool:
    return os.geteuid() == 0


def _listed(values: list[int] | None) -> str:
    return "*" if values is None else ",".join(f"{value:02}" for value in values)


def _exec(words: list[str]) -> str:
    return " ".join(_quoted(word).replace("$", "$$") for word in words)


def _quoted(word: str) -> str:
    word = _percent(word)
    if re.fullmatch(r"[A-Za-z0-9_./:=%+@,-]+", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _percent(text: str) -> str:
    return text.replace("%", "%%")
