"""Runs: a notebook executed through papermill, its copy kept, one record opened before and closed after.

Owns the checks before a kernel starts, the locks, the time limits, what a signal does, and the kernel that
is kept warm between runs. A record that was never closed is a run that was killed.
"""

import ast
import json
import logging
import math
import os
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from filelock import FileLock, Timeout
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from cryptomon_lib import errors, logs
from cryptomon_lib.config import home, nearest, root_id
from cryptomon_lib.errors import (
    AccountingError,
    AlreadyRunning,
    ConfigError,
    CryptomonError,
    NotebookFailed,
    ParameterError,
    RunError,
    RunStopped,
    RunTimeout,
    Unhealthy,
)
from cryptomon_lib.facts import facts_of
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.notify import tell_failed, tell_works, watch
from cryptomon_lib.pings import pinged
from cryptomon_lib.readable import readable
from cryptomon_lib.retention import expire_daily
from cryptomon_lib.runs import RUNS
from cryptomon_lib.schedule import Job, Retries, is_scheduled, job_named, notebook_path

log = logging.getLogger(__name__)

# the notebook that evaluates alerts
ALERTS = "40_alerts"
# a kernel that is kept is replaced now and then: whatever leaks in it has an end
_RUNS_PER_KERNEL = 120
_ASKED_AGAIN_S = 5
# the name of a socket has at most 103 letters (macOS)
_SOCKET_FOLDER_MAX = 70
# what another attempt gives again: settings and parameters, a payload's form, the state of the data
_LASTING = {kind.exit_code for kind in (ConfigError, ParameterError, AccountingError, Unhealthy)}
# `%reset` would do, but it collects garbage each time: a tenth of a second a notebook
_CLEAN = """(lambda ip: (
    ip.user_ns["_oh"].clear(),
    [ip.user_ns.pop(name) for name in set(ip.user_ns) - set(ip.user_ns_hidden)],
    setattr(ip, "execution_count", 1),
))(get_ipython())"""
_ENGINE = "cryptomon"
# of each root and notebook, where the newest success of this process is kept
_newest: dict[tuple[str, str | None, str], str] = {}


class Stopped(KeyboardInterrupt):
    """A signal asked for the end; no `except Exception` on the way keeps it, and asyncio lets it through.

    answered: set by whoever catches it; until then the signal comes again, see `signals`.
    """

    def __init__(self, number: int, answered: threading.Event | None = None):
        super().__init__(number)
        self.number = number
        self.answered = answered or threading.Event()


def run_job(
    monitor: Monitor,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    kernels: "Kernels | None" = None,
) -> list[dict[str, Any]]:
    """Execute a job's notebooks in order; their records.

    name: a job of the schedule, or a notebook (collect, 10_collect). parameters: by name, for those of the
    notebooks that declare them; text is read as the type of the declared default.

    A notebook that failed for a reason that may pass is run again as the job's retries say; what succeeded before it
    is not. The users whom the job tells hear when it fails for good and when it works again, except of a run with
    parameters of its own, which somebody tries by hand.

    Raises ParameterError: a notebook's parameters, before a kernel starts. AlreadyRunning: another run of the
    job or of one of its notebooks. NotebookFailed, RunTimeout, RunStopped: the notebook and its record say more.
    """
    with logs.about(job=name):
        return _run_job(monitor, name, parameters, kernels)


def _run_job(
    monitor: Monitor, name: str, parameters: Mapping[str, Any] | None, kernels: "Kernels | None"
) -> list[dict[str, Any]]:
    job = job_named(name)
    own = kernels or Kernels(keep=False)
    try:
        with _heard(monitor, name, () if parameters else job.tell):
            paths = [notebook_path(stem) for stem in job.notebooks]
            plans = _plans(paths, dict(job.params) | dict(parameters or {}), monitor.settings.environment)
            # the clock of the machine may be set meanwhile
            deadline = time.monotonic() + min(job.timeout_s, monitor.settings.limits.run_timeout_s)
            with _locks(monitor, {name, *job.notebooks}), pinged(job.ping), _watched(monitor, job):
                todo = list(zip(paths, plans, strict=True))
                records = _run_notebooks(monitor, name, job.retries, todo, deadline, own)
            for record in records if job.html else ():
                _keep_html(monitor, job, record)
        expire_daily(monitor)
        return records
    finally:
        if kernels is None:
            own.close()
        _expose(monitor)


def _expose(monitor: Monitor) -> None:
    """Tell Prometheus how it is after a run, however that ended, where the params name a file; this fails no run."""
    if not monitor.settings.metrics_file:
        return
    from cryptomon_lib.prometheus import write_textfile

    try:
        write_textfile(monitor, home() / monitor.settings.metrics_file)
    except CryptomonError as error:
        log.warning("metrics_file: %s", error)


def _run_notebooks(
    monitor: Monitor,
    job: str,
    retries: Retries,
    todo: Sequence[tuple[Path, dict[str, Any]]],
    deadline: float,
    kernels: "Kernels",
) -> list[dict[str, Any]]:
    records, attempt = [], 1
    while len(records) < len(todo):
        path, values = todo[len(records)]
        try:
            records.append(_run_notebook(monitor, job, path, values, deadline, kernels, attempt))
        except CryptomonError as error:
            if attempt > retries.times or not _may_pass(error) or not _waited(retries.wait_s, deadline):
                raise
            attempt += 1
            log.warning("%s: %s; attempt %d of %d", job, error, attempt, retries.times + 1)
    return records


def _may_pass(error: CryptomonError) -> bool:
    return not isinstance(error, RunStopped | AlreadyRunning) and error.exit_code not in _LASTING


def _waited(seconds: float, deadline: float) -> bool:
    """Wait for the next attempt; False, at once, where the time limit leaves none."""
    if time.monotonic() + seconds >= deadline:
        return False
    try:
        time.sleep(seconds)
    except Stopped as stop:
        raise _stopped("between two attempts", stop) from stop
    return True


def _stopped(where: str, stop: Stopped) -> RunStopped:
    stop.answered.set()
    failure = RunStopped(f"{where}: ended by {signal.Signals(stop.number).name}.")
    failure.exit_code = 128 + stop.number
    return failure


@contextmanager
def _heard(monitor: Monitor, name: str, users: Sequence[str]) -> Iterator[None]:
    """Users hear when the job fails, and when it works again; that they cannot be told fails no run."""
    try:
        yield
    except Exception as error:
        # one that was stopped, or left to another run, says nothing of the job
        if users and not isinstance(error, RunStopped | AlreadyRunning):
            reason = f"{type(error).__name__}: {error}"
            _tell(name, lambda: tell_failed(monitor, name, reason, users))
        raise
    if users:
        _tell(name, lambda: tell_works(monitor, name))


def _tell(name: str, tell: Callable[[], None]) -> None:
    try:
        tell()
    except CryptomonError as error:
        log.warning("%s: users could not be told how it went: %s", name, error)


def _keep_html(monitor: Monitor, job: Job, record: Mapping[str, Any]) -> None:
    """The executed notebook as a page to read and to mail, by the day that it tells of."""
    day = record["facts"].get("day") or record["started_at"][:10]
    page = readable(monitor.storage.get(_key(record, "ipynb")), code=False)
    monitor.storage.put(f"{job.html.strip('/')}/{day}.html", page.encode())


@contextmanager
def _watched(monitor: Monitor, job: Job) -> Iterator[None]:
    """Every job looks at its end, however it ends, whether alerts are still evaluated; this fails no run."""
    try:
        yield
    except Stopped:
        raise
    except BaseException:
        _watch(monitor)
        raise
    _watch(monitor)


def _watch(monitor: Monitor) -> None:
    try:
        if is_scheduled(ALERTS):
            watch(monitor)
    except CryptomonError as error:
        log.warning("whether alerts are evaluated could not be seen: %s", error)


def declared_parameters(path: Path) -> dict[str, Any]:
    """Names and defaults of a notebook's cell tagged `parameters`.

    Raises ParameterError: there is no such cell, or a default is no plain value.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if not cells:
        raise ParameterError(
            f"{path.name} has no cell tagged 'parameters'; add one, its defaults run offline."
        )
    declared = {}
    for statement in ast.parse(cells[0].source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    declared[name] = ast.literal_eval(value)
                except ValueError as error:
                    raise ParameterError(
                        f"{path.name}: the default of {name} has to be a plain value."
                    ) from error
    return declared


def checked_parameters(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a notebook may be given them: declared names, finite, of the type of the default.

    Raises ParameterError: names the notebook, the parameter, and the nearest declared one.
    """
    declared = declared_parameters(path)
    checked = {}
    for name, value in values.items():
        # names are pasted into the notebook as code
        if not name.isidentifier() or name not in declared:
            raise ParameterError(f"{path.name} declares no parameter {name!r}.{nearest(name, declared)}")
        checked[name] = _typed(path, name, value, declared[name])
    return checked


class Kernels:
    """Where notebooks run: a new kernel each, or one kept warm and cleaned between notebooks.

    environ: added to the environment that kernels start with.
    """

    def __init__(self, keep: bool, environ: Mapping[str, str] | None = None):
        self.keep = keep
        self._environ = dict(os.environ) | dict(environ or {})
        self._client: PapermillNotebookClient | None = None
        self._manager = self._connection = None
        self._sockets: tempfile.TemporaryDirectory | None = None
        self._runs = 0
        self.notebook: nbformat.NotebookNode | None = None

    def execute(self, path: Path, output: Path, parameters: Mapping[str, Any], cell_timeout_s: int) -> None:
        """Execute a notebook through papermill; the executed copy is at output, and in `notebook` however it ends."""
        kernels = self

        class _Engine(NBClientEngine):
            @classmethod
            def execute_managed_notebook(cls, nb_man, kernel_name, **options):
                kernels.notebook = nb_man.nb
                kernels._execute(nb_man, kernel_name, options.get("execution_timeout"))

        papermill_engines.register(_ENGINE, _Engine)
        self.notebook = None
        papermill.execute_notebook(
            path,
            output,
            parameters=dict(parameters),
            engine_name=_ENGINE,
            cwd=home(),
            progress_bar=False,
            request_save_on_cell_execute=False,
            execution_timeout=cell_timeout_s,
        )

    def kill(self) -> None:
        """End the kernel at once; what runs in it fails."""
        if self._manager is not None and self._manager.provisioner is not None:
            with suppress(ProcessLookupError, AttributeError):
                # from another thread or a signal handler: no event loop is used, only the process ended
                self._manager.provisioner.process.kill()

    def close(self) -> None:
        """Let the kernel go, if there is one."""
        if self._client is not None and self._manager is not None:
            self._client.km, self._client.kc = self._manager, self._connection
            with suppress(RuntimeError, OSError):
                self._client._cleanup_kernel()
        if self._sockets is not None:
            self._sockets.cleanup()
        self._client = self._manager = self._connection = self._sockets = None
        self._runs = 0

    def _create_manager(self, client: PapermillNotebookClient) -> None:
        """Have the kernel be talked to by sockets of the file system: no port that others of the machine could use.

        Without a folder they would be numbered files where this process was started, and two processes that start
        there in the same moment would take the same numbers.
        """
        folder = tempfile.gettempdir()
        self._sockets = tempfile.TemporaryDirectory(
            prefix="cryptomon-",
            dir=folder if len(folder) <= _SOCKET_FOLDER_MAX else "/tmp",
            ignore_cleanup_errors=True,
        )
        manager = client.create_kernel_manager()
        manager.transport = "ipc"
        manager.connection_file = str(Path(self._sockets.name) / "kernel.json")

    def _execute(self, nb_man, kernel_name: str, timeout_s: int | None) -> None:
        client = PapermillNotebookClient(
            nb_man,
            km=self._manager,
            kernel_name=kernel_name,
            timeout=timeout_s,
            stderr_file=logs.Relay(),
            on_notebook_start=lambda notebook: _tell_kernel(client, logs.kernel_code()),
        )
        client.shutdown_kernel = "immediate"
        # the connection is kept too: a new one waits a fixed fifth of a second
        client.kc = self._connection
        if client.km is None:
            self._create_manager(client)
        self._client, self._manager = client, client.km
        good = False
        try:
            if client.kc is not None:
                _tell_kernel(client, f"{_CLEAN}\n{logs.kernel_code()}")
            client.execute(env=self._environ, cleanup_kc=False)
            self._connection = client.kc
            self._runs += 1
            good = not _raised(nb_man.nb)
        finally:
            self._connection = client.kc
            if not (good and self.keep and self._runs < _RUNS_PER_KERNEL):
                self.close()


def _tell_kernel(client: PapermillNotebookClient, code: str) -> None:
    """Have the kernel do what is no part of the notebook, before the cells; it may be of another language."""
    client.kc.execute(code, silent=True, store_history=False, stop_on_error=False)


@contextmanager
def signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise Stopped while this is open.

    What is raised inside a finalizer or a library's callback is swallowed there, so the signal is given again
    every few seconds until somebody answered it.
    """
    answered, asked, giving = threading.Event(), threading.Event(), threading.Lock()

    def again(number: int) -> None:
        while not answered.wait(_ASKED_AGAIN_S):
            with giving:
                if not answered.is_set():
                    os.kill(os.getpid(), number)

    def stop(number, frame):
        # one that comes while the first is being answered would tear up the answer
        if answered.is_set():
            return
        if not asked.is_set():
            asked.set()
            threading.Thread(target=again, args=(number,), name="asked-again", daemon=True).start()
        raise Stopped(number, answered)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        with giving:
            answered.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _plans(paths: Sequence[Path], values: dict[str, Any], environment: str) -> list[dict[str, Any]]:
    """The parameters of each notebook; a name that none declares is refused."""
    declared = [declared_parameters(path) for path in paths]
    everywhere = {name for names in declared for name in names}
    for name in values:
        if name not in everywhere:
            checked_parameters(paths[0], {name: values[name]})
    mine = [{name: value for name, value in values.items() if name in names} for names in declared]
    mine = [
        {"environment": environment} | one if "environment" in names else one
        for one, names in zip(mine, declared, strict=True)
    ]
    return [checked_parameters(path, one) for path, one in zip(paths, mine, strict=True)]


def _typed(path: Path, name: str, value: Any, default: Any) -> Any:
    kind = type(default)
    if isinstance(value, str) and not isinstance(default, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ParameterError(f"{path.name}: {name}={value!r} is no {kind.__name__}.") from error
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not _finite(value):
        raise ParameterError(f"{path.name}: {name} is {value}; it has to be finite.")
    if default is not None and type(value) is not kind:
        raise ParameterError(
            f"{path.name}: {name} is {value!r}; it has to be a {kind.__name__}, as {default!r} is."
        )
    return value


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def locked(monitor: Monitor, name: str) -> AbstractContextManager:
    """Holds a job's lock on this root while it is open.

    Raises AlreadyRunning: another run holds it.
    """
    return _locks(monitor, {name})


@contextmanager
def _locks(monitor: Monitor, names: set[str]) -> Iterator[None]:
    """Hold the locks of these jobs on this root; the kernel of the machine frees them however we end."""
    folder = home() / ".cryptomon" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    root = root_id(monitor.settings.root)
    with ExitStack() as held:
        for name in sorted(names):
            try:
                held.enter_context(FileLock(folder / f"{root}-{name}.lock").acquire(timeout=0))
            except Timeout as error:
                raise AlreadyRunning(
                    f"{name} is running already on {monitor.settings.root}; wait for it, or look for its process."
                ) from error
        yield


def _run_notebook(
    monitor: Monitor,
    job: str,
    path: Path,
    parameters: dict[str, Any],
    deadline: float,
    kernels: Kernels,
    attempt: int,
) -> dict[str, Any]:
    record, began = _opened(monitor, job, path, parameters) | {"attempt": attempt}, time.monotonic()
    _keep_record(monitor, record)
    failure: RunError | None = None
    with logs.about(run_id=record["run_id"]), tempfile.TemporaryDirectory(prefix="cryptomon-") as folder:
        output = Path(folder) / path.name
        try:
            failure = _execute(monitor, path, output, parameters, deadline, kernels)
        finally:
            # also when something unforeseen comes by: the record says so, and the kernel ends
            if failure is not None or record["status"] != "running":
                kernels.close()
            _close(monitor, record, time.monotonic() - began, failure, kernels.notebook, output)
        _log(record)
    if failure is not None:
        raise failure
    return record


def _log(record: Mapping[str, Any]) -> None:
    names = ("notebook", "status", "duration_s", "facts")
    log.info("%s %s in %.1f s %s", *map(record.get, names), extra={name: record[name] for name in names})


def _execute(
    monitor: Monitor, path: Path, output: Path, parameters: dict, deadline: float, kernels: Kernels
) -> RunError | None:
    """Run the notebook; what was wrong with it, or None."""
    left_s = deadline - time.monotonic()
    late = threading.Event()

    def end() -> None:
        late.set()
        kernels.kill()

    timer = threading.Timer(max(left_s, 0.01), end)
    timer.daemon = True
    timer.start()
    try:
        kernels.execute(path, output, parameters, monitor.settings.limits.cell_timeout_s)
        if _raised(kernels.notebook):
            # papermill takes sys.exit(0) for an end that was meant, and skips what is left
            return NotebookFailed(
                f"{path.name}: a cell called exit, what follows never ran; raise an error instead."
            )
    except PapermillExecutionError as error:
        failure = NotebookFailed(f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}")
        failure.exit_code = getattr(getattr(errors, error.ename, None), "exit_code", NotebookFailed.exit_code)
        return failure
    except CellTimeoutError:
        return RunTimeout(
            f"{path.name}: a cell took longer than {monitor.settings.limits.cell_timeout_s} s (cell_timeout_s)."
        )
    except DeadKernelError:
        if late.is_set():
            return RunTimeout(
                f"{path.name}: the run took longer than it may; see timeout_s and run_timeout_s."
            )
        return NotebookFailed(f"{path.name}: its kernel died; out of memory, or ended from outside.")
    except RuntimeError as error:
        # jupyter_client has no class of its own for a kernel that dies, or says nothing, while it starts
        if not str(error).startswith("Kernel "):
            raise
        return NotebookFailed(f"{path.name}: its kernel did not start: {error}.")
    except Stopped as stop:
        return _stopped(path.name, stop)
    finally:
        timer.cancel()
    return None


def _raised(notebook) -> bool:
    return any(cell.metadata.get("papermill", {}).get("exception") is True for cell in notebook.cells)


def _opened(monitor: Monitor, job: str, path: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "run_id": f"{now:%Y%m%dT%H%M%SZ}-{path.stem}-{uuid.uuid4().hex[:6]}",
        "job": job,
        "notebook": path.stem,
        "environment": monitor.settings.environment,
        "simulated": monitor.settings.simulated,
        "parameters": parameters,
        "version": version("cryptomon"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started_at": now.isoformat(timespec="milliseconds"),
        "ended_at": None,
        "duration_s": None,
        "status": "running",
        "reason": None,
        "facts": {},
    }


def _close(
    monitor: Monitor, record: dict, took_s: float, failure: RunError | None, notebook, output: Path
) -> None:
    ended = datetime.now(UTC)
    status = {RunTimeout: "timeout", RunStopped: "stopped", NotebookFailed: "failed"}.get(
        type(failure), "succeeded"
    )
    if failure is None and not output.exists():
        status, failure = "failed", NotebookFailed("the run ended before the notebook did")
    executed = nbformat.read(output, as_version=4) if output.exists() else notebook
    record |= {
        "ended_at": ended.isoformat(timespec="milliseconds"),
        "duration_s": round(took_s, 3),
        "status": status,
        "reason": str(failure) if failure else None,
        "facts": facts_of(executed) if executed is not None else {},
    }
    if executed is not None:
        _mark_unrun(executed, status)
        monitor.storage.put(_key(record, "ipynb"), nbformat.writes(executed).encode())
    _keep_record(monitor, record)
    if status == "succeeded":
        _keep_one_an_hour(monitor, record)


def _mark_unrun(notebook, status: str) -> None:
    # papermill calls what never ran "completed"
    if status == "succeeded":
        return
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.get("execution_count") is None and "papermill" in cell.metadata:
            cell.metadata.papermill["status"] = "pending"


def _keep_record(monitor: Monitor, record: dict) -> None:
    monitor.storage.put(_key(record, "json"), json.dumps(record, indent=1, default=str).encode())


def _key(record: Mapping[str, Any], ending: str) -> str:
    return f"{RUNS}/{record['started_at'][:10]}/{record['run_id']}.{ending}"


def _keep_one_an_hour(monitor: Monitor, record: Mapping[str, Any]) -> None:
    """Of the successes of one hour only the newest notebook stays; failures and all records stay.

    A process knows which one it kept last; only its first run looks, at the names of that hour.
    """
    folder, hour, mine = f"{RUNS}/{record['started_at'][:10]}", record["run_id"][:11], _key(record, "ipynb")
    of = (monitor.storage.root, monitor.storage.endpoint_url, record["notebook"])
    if of in _newest:
        older = [_newest[of]]
    else:
        older = [
            key
            for key in monitor.storage.named(folder, hour)
            if f"-{record['notebook']}-" in key and key.endswith(".ipynb") and _succeeded(monitor, key)
        ]
    for key in older:
        if key.startswith(f"{folder}/{hour}") and key != mine:
            monitor.storage.delete(key)
    _newest[of] = mine


def _succeeded(monitor: Monitor, notebook_key: str) -> bool:
    key = notebook_key.removesuffix("ipynb") + "json"
    return monitor.storage.exists(key) and json.loads(monitor.storage.get(key))["status"] == "succeeded"
