"""Whether everything is there that a run needs, and what to do where it is not.

A check is one function below, marked `@check`: it is given a `Visit` and yields what it found. Each runs in a thread
of its own, so that one which fails or hangs stops no other, and all of them together take a bounded time. Values of
secrets are never read into what is told: only whether the environment variable of that name is set.
"""

import importlib.metadata
import json
import os
import platform
import queue
import re
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from packaging.requirements import InvalidRequirement, Requirement

from cryptomon_lib import config, exchanges
from cryptomon_lib.config import Settings, home, variables
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CryptomonError, StorageError, Unhealthy
from cryptomon_lib.lint import lint_file
from cryptomon_lib.monitor import Monitor, open_monitor
from cryptomon_lib.receivers import load_users
from cryptomon_lib.rules import load_rules
from cryptomon_lib.schedule import load_schedule, variables_named
from cryptomon_lib.sql import folders

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
_ORDER = (PROBLEM, WARNING, NOTE, OK)
_HTTP_S = (4, 6)
# a signature is refused by AWS when clocks differ by more than 15 minutes; a tick is a minute
_SKEW_S, _SKEW_MAX_S = 5, 60
_FILES_MIN = 1024
_INODES_MIN = 100_000
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Found:
    """What a check found: of what, how bad (ok, note, warning, problem), and what to do."""

    check: str
    subject: str
    state: str
    says: str
    do: str = ""


@dataclass
class Examination:
    """Everything that was found, and how long each check took."""

    found: list[Found] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0, or that of Unhealthy where something is a problem."""
        return Unhealthy.exit_code if any(one.state == PROBLEM for one in self.found) else 0

    @property
    def sorted(self) -> list[Found]:
        """The worst first."""
        return sorted(self.found, key=lambda one: (_ORDER.index(one.state), one.check, one.subject))

    def as_json(self) -> str:
        """{exit_code, seconds, found: [{check, subject, state, says, do}]}."""
        told = {
            "exit_code": self.exit_code,
            "seconds": self.seconds,
            "found": [vars(one) for one in self.sorted],
        }
        return json.dumps(told, indent=1, ensure_ascii=False)


@dataclass(frozen=True)
class Visit:
    """What a check is given. settings, monitor: None where the params cannot be read, which is a finding of its own."""

    environment: str
    settings: Settings | None
    monitor: Monitor | None


Says = tuple[str, str, str, str] | tuple[str, str, str]
_CHECKS: dict[str, tuple[Callable[[Visit], Iterable[Says]], bool]] = {}


def check(*, of_settings: bool = True) -> Callable:
    """Makes a function a check of its own name, left out where it needs settings that cannot be read."""

    def marked(function: Callable) -> Callable:
        _CHECKS[function.__name__] = (function, of_settings)
        return function

    return marked


def checks() -> dict[str, str]:
    """Every check by name, with what it looks at."""
    return {name: (function.__doc__ or "").strip() for name, (function, _) in _CHECKS.items()}


def examine(environment: str, seconds: float = 30) -> Examination:
    """Make every check; what does not answer within so many seconds is told as that."""
    settings = monitor = None
    # the check of the params says what is wrong with them
    with suppress(CryptomonError):
        monitor = open_monitor(environment)
        settings = monitor.settings
    visit = Visit(environment, settings, monitor)
    due = {name: one for name, (one, needs) in _CHECKS.items() if settings is not None or not needs}
    done: queue.Queue = queue.Queue()
    for name, function in due.items():
        # ends with the process: whoever hangs in a socket must not keep the command from ending
        threading.Thread(target=_made, args=(name, function, visit, done), daemon=True).start()
    made, ends = Examination(), time.monotonic() + seconds
    waiting = set(due)
    while waiting:
        try:
            name, found, took = done.get(timeout=max(0.0, ends - time.monotonic()))
        except queue.Empty:
            break
        waiting.discard(name)
        made.found += found
        made.seconds[name] = took
    for name in sorted(waiting):
        says = f"no answer within {seconds:.0f} s"
        made.found.append(
            Found(name, "the check itself", PROBLEM, says, "look at network and disk; --seconds")
        )
    for name in sorted(_CHECKS.keys() - due.keys()):
        made.found.append(
            Found(name, "the check itself", NOTE, "not made: params cannot be read", "mend params first")
        )
    return made


def _made(name: str, function: Callable, visit: Visit, done: queue.Queue) -> None:
    began, found = time.monotonic(), []
    try:
        for subject, state, says, *do in function(visit):
            found.append(Found(name, subject, state, says, *do))
    except CryptomonError as error:
        found.append(Found(name, "the check itself", PROBLEM, str(error), "the message says it"))
    except Exception as error:  # noqa: BLE001  whatever a library raises is this check's finding and stops no other
        says = f"could not be made: {type(error).__name__}: {error}"[:300]
        found.append(
            Found(name, "the check itself", PROBLEM, says, "CRYPTOMON_LOG_LEVEL=DEBUG cryptomon doctor")
        )
    done.put((name, found, round(time.monotonic() - began, 2)))


# ---- what stands in files


@check(of_settings=False)
def params(visit: Visit) -> Iterator[Says]:
    """All files of params/ can be read, with no key that is not known."""
    for name in sorted({visit.environment, *_environments()}):
        try:
            config.load_settings(name)
            yield f"{name}.yaml", OK, "can be read"
        except CryptomonError as error:
            # another environment's file stops no run of this one
            state = PROBLEM if name == visit.environment else WARNING
            yield f"{name}.yaml", state, str(error), "mend the key that is named"


@check(of_settings=False)
def rules(visit: Visit) -> Iterator[Says]:
    """Alert rules, receivers and the schedule are valid, and fit together."""
    named: dict = {}
    try:
        loaded = load_rules()
        named = {rule.name: getattr(rule, "receivers", ()) or () for rule in loaded}
        yield "alerts.yaml", OK, f"{len(loaded)} rules"
    except CryptomonError as error:
        yield "alerts.yaml", PROBLEM, str(error), "mend the rule; cryptomon rules test"
    try:
        # a subscription may name a rule of the table alert_rules, which is not looked into here
        users = load_users(visit.environment, named or None, lambda pattern: True)
        state = OK if users else WARNING
        yield "receivers.yaml", state, f"{len(users)} users are told", "" if users else "name one who is told"
    except CryptomonError as error:
        yield "receivers.yaml", PROBLEM, str(error), "mend the user; docs/notices.md"
    try:
        yield "schedule.yaml", OK, f"{len(load_schedule())} jobs"
    except CryptomonError as error:
        yield "schedule.yaml", PROBLEM, str(error), "mend the job; cryptomon schedule list"


@check(of_settings=False)
def views(visit: Visit) -> Iterator[Says]:
    """View files mean the same on all engines."""
    paths = [path for folder in folders() for path in sorted(folder.glob("*.sql"))]
    wrong = [str(one) for path in paths for one in lint_file(path)]
    if not wrong:
        yield "views", OK, f"{len(paths)} files"
    for says in wrong[:5]:
        yield "views", WARNING, says, "cryptomon lint-sql"


@check()
def credentials(visit: Visit) -> Iterator[Says]:
    """Every environment variable that params name is set; no value is looked at."""
    named = _named(visit)
    have = variables((), named).keys()
    for name, why in sorted(named.items()):
        if name in have:
            yield name, OK, f"is set ({why})"
        else:
            yield name, PROBLEM, f"is not set ({why})", f"export {name}, or take it out of {why}"
    if not named:
        yield "params", OK, "name no secret"
    if visit.monitor.storage.is_s3:
        yield _aws()


@check(of_settings=False)
def versions(visit: Visit) -> Iterator[Says]:
    """Python is new enough, and the packages are those of the lock file."""
    yield "Python", OK, platform.python_version()
    lock = home() / "requirements.lock"
    if not lock.is_file():
        yield "packages", NOTE, "no requirements.lock here to compare with"
        return
    other = list(_differing(lock))
    if not other:
        yield "packages", OK, "as in requirements.lock"
    else:
        more = f" and {len(other) - 6} more" if len(other) > 6 else ""
        says = f"not as in requirements.lock: {', '.join(other[:6])}{more}"
        yield "packages", WARNING, says, "rm -f .venv/.ready && make .venv/.ready"


@check(of_settings=False)
def kernel(visit: Visit) -> Iterator[Says]:
    """There is a Jupyter kernel that notebooks can run in."""
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        yield "python3", PROBLEM, "no such kernel", "python -m ipykernel install --sys-prefix"
        return
    program = spec.argv[0]
    if shutil.which(program) is None:
        says = f"its program {program} is not there"
        yield "python3", PROBLEM, says, "python -m ipykernel install --sys-prefix"
    else:
        yield "python3", OK, spec.display_name


# ---- this machine


@check()
def root(visit: Visit) -> Iterator[Says]:
    """The root can be written, created once, read, listed and deleted, by one small object."""
    storage, key = visit.monitor.storage, f"doctor/{uuid.uuid4().hex}"
    began = time.monotonic()
    try:
        first, second = storage.create(key, b"a"), storage.create(key, b"b")
        there, listed = storage.get(key), [one.key for one in storage.objects("doctor")]
        storage.put(key, b"c")
        put = storage.get(key)
    except StorageError as error:
        yield storage.root, PROBLEM, str(error), "rights to put, get, list and delete below the root"
        return
    finally:
        with suppress(StorageError, OSError):
            storage.delete(key)
            if not storage.is_s3:
                Path(storage.path("doctor")).rmdir()
    took = f"{time.monotonic() - began:.2f} s"
    if (first, second, there, put) != (True, False, b"a", b"c") or key not in listed:
        says = "an object that was there was written over, or not seen at once"
        do = "a store with conditional writes (If-None-Match) and consistent listings, as AWS S3"
        yield storage.root, PROBLEM, says, do
    else:
        yield storage.root, OK, f"put, create once, get, list, delete in {took}"


@check()
def disk(visit: Visit) -> Iterator[Says]:
    """Space and inodes are left where data, locks and temporary files go, and all can be written."""
    places = {"home": home() / ".cryptomon", "temporary files": Path(tempfile.gettempdir())}
    if not visit.monitor.storage.is_s3:
        places["root"] = Path(visit.settings.root)
    low = visit.settings.health.disk_free_gb
    for name, wanted in places.items():
        place = wanted
        while not place.exists():
            place = place.parent
        about, free_gb = os.statvfs(place), shutil.disk_usage(place).free / 1e9
        says = f"{wanted}: {free_gb:,.1f} GB free"
        if not os.access(place, os.W_OK):
            yield (
                name,
                PROBLEM,
                f"{place} cannot be written",
                "give this user the right, or name another place",
            )
        elif free_gb < low / 5:
            yield name, PROBLEM, says, "make space, or lower retention in params"
        elif free_gb < low:
            yield name, WARNING, says, "make space, or lower retention in params"
        elif about.f_files and about.f_favail < _INODES_MIN:
            yield (
                name,
                WARNING,
                f"{says}, but only {about.f_favail:,} inodes",
                "fewer small files: archive_days",
            )
        else:
            yield name, OK, says


@check(of_settings=False)
def limits(visit: Visit) -> Iterator[Says]:
    """This process may open enough files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _FILES_MIN:
        yield "open files", WARNING, f"{soft:,} at most", f"ulimit -n {4 * _FILES_MIN}"
    else:
        yield "open files", OK, f"{soft:,} at most"


@check(of_settings=False)
def clock(visit: Visit) -> Iterator[Says]:
    """The machine's clock is kept by NTP, as far as that is told."""
    known = _ntp()
    if known is None:
        yield "NTP", NOTE, "its state is not known here; the exchanges' clocks are compared below"
    elif known:
        yield "NTP", OK, "synchronised"
    else:
        yield "NTP", WARNING, "not synchronised", "timedatectl set-ntp true, or the host's own service"


@check()
def ports(visit: Visit) -> Iterator[Says]:
    """The ports of dashboard and API are free."""
    for name, port in (("dashboard", visit.settings.dashboard.port), ("api", visit.settings.api.port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                yield name, OK, f"port {port} is free"
            except OSError:
                do = f"none if it is ours; else --port, or {name}.port in params"
                yield name, NOTE, f"port {port} is taken", do


def find_chromium() -> str | None:
    """Where a Chromium is on this machine, by the names that packages give it; None where there is none."""
    return next((path for name in _CHROMIUM if (path := shutil.which(name))), None)


@check(of_settings=False)
def chromium(visit: Visit) -> Iterator[Says]:
    """A Chromium for the browser tests; nothing else needs one."""
    found = find_chromium()
    if found:
        yield "Chromium", OK, Path(found).name
    else:
        yield "Chromium", NOTE, "none found: make test leaves the browser tests out", "optional"


# ---- what is elsewhere


@check()
def hosts(visit: Visit) -> Iterator[Says]:
    """The exchanges answer, and their clocks agree with ours."""
    names = visit.settings.exchanges
    with ThreadPoolExecutor(max(1, len(names))) as pool:
        yield from pool.map(lambda name: _exchange(visit.settings, name), names)


@check()
def store_clock(visit: Visit) -> Iterator[Says]:
    """The clock of S3 agrees with ours: a signature of another time is refused."""
    if not visit.monitor.storage.is_s3:
        yield "S3", OK, "the root is a folder"
        return
    address = visit.settings.endpoint_url or f"https://s3.{visit.settings.athena.region}.amazonaws.com"
    yield _reached("S3", address, "endpoint_url in params; network, proxy")


@check()
def engine(visit: Visit) -> Iterator[Says]:
    """The engine of the params answers, and may do what it has to."""
    name = visit.settings.engine
    if name == "athena":
        yield from _athena(visit.settings)
        return
    try:
        asked = Engine(visit.monitor)
        try:
            asked.query("select 1 as one")
        finally:
            asked.close()
    except CryptomonError as error:
        yield name, PROBLEM, str(error), f"{name}: in params"
        return
    yield name, OK, "answers"


# ---- inside


def _environments() -> list[str]:
    try:
        return config.environments()
    except CryptomonError:
        # a file that cannot be read hides which others there are
        skipped = ("base", "alerts", "receivers")
        return sorted(path.stem for path in (home() / "params").glob("*.yaml") if path.stem not in skipped)


def _named(visit: Visit) -> dict[str, str]:
    """Environment variables that params name, and where; what cannot be read is another check's finding."""
    users, jobs = {}, {}
    with suppress(CryptomonError):
        users = load_users(visit.environment)
    with suppress(CryptomonError):
        jobs = load_schedule()
    return variables_named(visit.settings, users.values(), jobs, trino=visit.settings.engine == "trino")


def _aws() -> Says:
    try:
        import botocore.session
    except ImportError:
        return "AWS", PROBLEM, "botocore is not installed", "pip install 'cryptomon[aws]'"
    found = botocore.session.get_session().get_credentials()
    if found is None:
        return "AWS", PROBLEM, "no credentials", "AWS_PROFILE, or a role of the machine"
    return "AWS", OK, f"credentials by {found.method}"


def _differing(lock: Path) -> Iterator[str]:
    for line in lock.read_text(encoding="utf-8").splitlines():
        text = line.partition("\\")[0].strip()
        if not re.match(r"[A-Za-z0-9]", text):
            continue
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            have = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            # an extra that is not installed here
            continue
        if not wanted.specifier.contains(have, prereleases=True):
            yield f"{wanted.name} {have} ({wanted.specifier})"


def _ntp() -> bool | None:
    """Whether the clock is synchronised; None where nobody tells."""
    if Path("/run/systemd/timesync/synchronized").exists():
        return True
    program = shutil.which("timedatectl")
    if program is None:
        return None
    try:
        asked = [program, "show", "--property=NTPSynchronized", "--value"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"yes": True, "no": False}.get(said)


def _exchange(settings: Settings, name: str) -> Says:
    own = settings.hosts.get(name)
    try:
        address = own or f"https://{exchanges.get(name).HOST}"
    except CryptomonError as error:
        return name, PROBLEM, str(error), "exchanges in params"
    found = _reached(name, address, "network, firewall, proxy; a country that is not served")
    if settings.simulated and found[1] == PROBLEM:
        says = f"no simulated exchange at {address}"
        return name, NOTE, says, "none: a run starts one by itself; make run, cryptomon simulate"
    return found


def _reached(name: str, address: str, do: str) -> Says:
    """Whether anybody answers HTTP there, whatever the answer, and how far the clocks are apart."""
    try:
        answer = requests.get(address, timeout=_HTTP_S, allow_redirects=False, stream=True)
        answer.close()
    except requests.RequestException as error:
        return name, PROBLEM, f"{address} does not answer: {type(error).__name__}", do
    says = f"answers in {answer.elapsed.total_seconds() * 1000:.0f} ms"
    try:
        theirs = parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        return name, OK, says
    # the header has whole seconds, and the answer was on its way
    ahead = (theirs.astimezone(UTC) - datetime.now(UTC)).total_seconds() + 0.5
    if abs(ahead) > _SKEW_S + answer.elapsed.total_seconds():
        state = PROBLEM if abs(ahead) > _SKEW_MAX_S else WARNING
        return name, state, f"{says}, its clock is {ahead:+.0f} s from ours", "NTP on this machine"
    return name, OK, f"{says}, clocks within {_SKEW_S} s"


def _athena(settings: Settings) -> Iterator[Says]:
    from cryptomon_lib.aws.clients import asked, client

    region, workgroup, database = (
        settings.athena.region,
        settings.athena.workgroup,
        settings.athena.database,
    )
    do = f"cryptomon deploy -e {settings.environment}; rights of athena and glue"
    try:
        with asked(f"see the workgroup {workgroup}"):
            client("athena", region).get_work_group(WorkGroup=workgroup)
        yield f"workgroup {workgroup}", OK, "is there"
    except CryptomonError as error:
        yield f"workgroup {workgroup}", PROBLEM, str(error), do
    try:
        with asked(f"see the database {database}"):
            client("glue", region).get_database(Name=database)
        yield f"database {database}", OK, "is there"
    except CryptomonError as error:
        yield f"database {database}", PROBLEM, str(error), f"cryptomon set-up -e {settings.environment}"
