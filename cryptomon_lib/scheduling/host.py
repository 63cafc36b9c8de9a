"""What cron and systemd are given alike: the command, and the environment that it needs, in a file of mode 0600.

Generated files name that file; what it holds is never printed.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cryptomon_lib import config
from cryptomon_lib.config import Settings, home
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.receivers import load_users
from cryptomon_lib.schedule import Job, variables_named
from cryptomon_lib.storage import write_whole

# beside settings and AWS: whoever is behind a proxy needs it in the schedule too
_PREFIXES = (config.PREFIX, "AWS_")
_NAMES = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE",
)  # fmt: skip
# of the shell that installs, not of the schedule
_NOT_KEPT = {"CRYPTOMON_HOME", "CRYPTOMON_ENVIRONMENT", "CRYPTOMON_CAPTURES", "CRYPTOMON_SERVED"}
_LINE = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"', re.S)
_COMMAND_S = 60


def folder() -> Path:
    """Where environment files, locks and logs of schedules are: .cryptomon/schedule of the project."""
    path = home() / ".cryptomon" / "schedule"
    if re.search(r"[\x00-\x1f]", str(path)):
        raise ConfigError(
            f"{str(path)!r}: a folder with a line break in its name cannot be scheduled; move it."
        )
    return path


def environment_file(settings: Settings) -> Path:
    """The environment file of an environment's schedule."""
    return folder() / f"{settings.environment}.env"


def command(settings: Settings, *words: str) -> list[str]:
    """`cryptomon …` with absolute paths, as it runs from any folder."""
    # -P: what lies in the folder that it is started from is not imported
    return [sys.executable, "-P", "-m", "cryptomon_lib.cli", *words, "--environment", settings.environment]


def secrets(jobs: Mapping[str, Job], settings: Settings) -> dict[str, str]:
    """The environment variables that an environment's runs need, each with who names it."""
    return variables_named(settings, load_users(settings.environment).values(), jobs)


def shown_environment(jobs: Mapping[str, Job], settings: Settings) -> str:
    """The environment file without a value that may be secret: what `print` shows."""
    names = dict.fromkeys([*_set_now(jobs, settings), *secrets(jobs, settings)])
    lines = ["# mode 0600; values come from the shell that installs", f"CRYPTOMON_HOME={quoted(str(home()))}"]
    return "\n".join([*lines, *(f"{name}=…" for name in names)]) + "\n"


def write_environment(jobs: Mapping[str, Job], settings: Settings) -> list[str]:
    """Write the environment file; what to tell.

    What the shell does not set now keeps the value that it had, so a schedule is installed again from any shell.
    """
    path = environment_file(settings)
    values = _kept(path) | _set_now(jobs, settings) | {"CRYPTOMON_HOME": str(home())}
    # its owner alone can read it
    write_whole(path, "".join(f"{name}={quoted(value)}\n" for name, value in sorted(values.items())).encode())
    told = [f"{path}: mode 0600, {', '.join(sorted(values))}"]
    told += [
        f"Not set: {name}, named by {where}. Export it and install again, or write it into that file."
        for name, where in secrets(jobs, settings).items()
        if name not in values
    ]
    if "AWS_SESSION_TOKEN" in values:
        told.append(
            "AWS_SESSION_TOKEN is of credentials that end within hours: use a profile, a role, or keys of a user."
        )
    return told


def quoted(value: str) -> str:
    """A value as a shell and systemd's EnvironmentFile both read it."""
    return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'


def said_by(words: Sequence[str], given: str | None = None, allowed: Iterable[int] = (0,)) -> str:
    """What a command of the system prints.

    Raises ConfigError: it cannot be run, or ends with another code; with its own words.
    """
    try:
        done = subprocess.run(
            words, input=given, capture_output=True, text=True, timeout=_COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{' '.join(words)}: {error}") from error
    if done.returncode not in allowed:
        raise ConfigError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _set_now(jobs: Mapping[str, Job], settings: Settings) -> dict[str, str]:
    found = config.variables(_PREFIXES, [*_NAMES, *secrets(jobs, settings)])
    values = {name: value for name, value in found.items() if name not in _NOT_KEPT}
    for name, value in values.items():
        if re.search(r"[\x00-\x08\x0b-\x1f]", value):
            raise ConfigError(
                f"{name} has a control character in its value, which no environment file holds."
            )
    return values


def _kept(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    return {name: re.sub(r"\\(.)", r"\1", value, flags=re.S) for name, value in _LINE.findall(text)}
