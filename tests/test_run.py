"""Runs: what is refused before a kernel starts, what is kept after, and what signals, limits and kills do."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import pytest

from cryptomon_lib import run
from cryptomon_lib.errors import AlreadyRunning, NotebookFailed, ParameterError, RunTimeout
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.run import Kernels, checked_parameters, declared_parameters, run_job
from cryptomon_lib.runs import load_runs

pytestmark = pytest.mark.notebook
PROJECT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own: params, schedule, and notebooks written with `write`."""
    home = tmp_path / "home"
    for folder in ("params", "scheduled", "notebooks"):
        (home / folder).mkdir(parents=True)
    for name in ("base.yaml", "local.yaml"):
        (home / "params" / name).write_text((PROJECT / "params" / name).read_text())
    (home / "scheduled" / "schedule.yaml").write_text(
        "both: {cron: '* * * * *', notebooks: [10_first, 20_second]}\n"
    )
    monkeypatch.setenv("CRYPTOMON_HOME", str(home))
    monkeypatch.setenv("CRYPTOMON_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    return home


@pytest.fixture(scope="module")
def kernels():
    kept = Kernels(keep=True)
    yield kept
    kept.close()


def write(home: Path, stem: str, *cells: str, parameters: str = 'environment = "local"\ncount = 3') -> Path:
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    notebook.cells = [
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *(nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in cells),
    ]
    path = home / "notebooks" / f"{stem}.ipynb"
    nbformat.write(notebook, path)
    return path


def start(job: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "cryptomon_lib.cli", "run", job]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def has_begun(home: Path) -> int | None:
    """The kernel's process id, once the slow cell of the notebook runs."""
    marker = home / "pid"
    return int(marker.read_text()) if marker.exists() and marker.read_text() else None


SLOW = """
    import os, pathlib, time
    pathlib.Path(os.environ["CRYPTOMON_HOME"], "pid").write_text(str(os.getpid()))
    time.sleep(120)
"""


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_the_parameters_of_a_notebook_are_those_of_its_tagged_cell(project):
    path = write(project, "10_first", parameters='environment = "local"\ncount = 3  # unit\nnames = []')

    assert declared_parameters(path) == {"environment": "local", "count": 3, "names": []}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"cuont": 1}, "Did you mean count"),
        ({"count; import os": 1}, "declares no parameter"),
        ({"count": float("inf")}, "finite"),
        ({"count": ".nan"}, "finite"),
        ({"count": "three"}, "has to be a int"),
        ({"count": "1.5"}, "has to be a int"),
        ({"count": True}, "has to be a int"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_before_a_kernel_starts(project, values, says):
    path = write(project, "10_first")

    with pytest.raises(ParameterError, match=says):
        checked_parameters(path, values)


def test_text_is_read_as_the_type_of_the_declared_default(project):
    path = write(
        project, "10_first", parameters='name = ""\ncount = 3\nshare = 0.5\nnames = []\nchecked = False'
    )
    given = {"name": "0012", "count": "4", "share": "1", "names": "[a, b]", "checked": "true"}

    assert checked_parameters(path, given) == {
        "name": "0012",
        "count": 4,
        "share": 1.0,
        "names": ["a", "b"],
        "checked": True,
    }


def test_a_run_keeps_its_executed_notebook_and_a_record_with_the_facts_that_it_showed(project, kernels):
    write(project, "10_first", "from cryptomon_lib import Facts", "Facts(rows=count, name='a<b')")
    monitor = open_monitor("local")

    (record,) = run_job(monitor, "first", {"count": "7"}, kernels)

    assert record["status"] == "succeeded"
    assert record["facts"] == {"rows": 7, "name": "a<b"}
    assert record["parameters"] == {"environment": "local", "count": 7}
    (kept,) = load_runs(monitor)
    assert kept == record | {"kept": True}
    copy = nbformat.reads(
        monitor.storage.get(f"runs/{record['started_at'][:10]}/{record['run_id']}.ipynb").decode(), 4
    )
    assert "rows: 7" in copy.cells[-1].outputs[0]["data"]["text/plain"]


def test_the_record_is_there_before_the_notebook_begins(project):
    write(
        project,
        "10_first",
        """
        from cryptomon_lib import Facts, open_monitor
        from cryptomon_lib.runs import load_runs
        Facts(status=load_runs(open_monitor("local"))[0]["status"])
        """,
    )

    # a kernel of its own: it has the environment that the project is named in
    (record,) = run_job(open_monitor("local"), "first")

    assert record["facts"]["status"] == "running"


def test_a_kept_kernel_begins_each_notebook_with_a_clean_namespace(project, kernels):
    write(project, "10_first", "left_behind = 1")
    write(project, "20_second", "assert 'left_behind' not in globals(), 'it leaked'", "count")
    monitor = open_monitor("local")

    run_job(monitor, "first", kernels=kernels)

    assert run_job(monitor, "second", kernels=kernels)[0]["status"] == "succeeded"


def test_a_job_runs_its_notebooks_in_order_and_gives_each_the_parameters_it_declares(project, kernels):
    write(project, "10_first", "from cryptomon_lib import Facts; Facts(first=count)")
    write(project, "20_second", "from cryptomon_lib import Facts; Facts(second=size)", parameters="size = 1")

    records = run_job(open_monitor("local"), "both", {"count": 5, "size": 6}, kernels)

    assert [record["facts"] for record in records] == [{"first": 5}, {"second": 6}]


def test_a_cell_that_raises_fails_the_run_and_its_notebook_shows_where(project, kernels):
    write(project, "10_first", "1 / 0", "count")
    monitor = open_monitor("local")

    with pytest.raises(NotebookFailed, match="ZeroDivisionError"):
        run_job(monitor, "first", kernels=kernels)

    (record,) = load_runs(monitor)
    assert record["status"] == "failed" and "ZeroDivisionError" in record["reason"]
    copy = monitor.storage.get(f"runs/{record['started_at'][:10]}/{record['run_id']}.ipynb").decode()
    assert "ZeroDivisionError" in copy


def test_an_error_of_ours_in_a_notebook_ends_with_that_errors_exit_code(project, kernels):
    write(
        project,
        "10_first",
        "from cryptomon_lib.errors import CollectError",
        "raise CollectError('nobody answered')",
    )

    with pytest.raises(NotebookFailed, match="nobody answered") as caught:
        run_job(open_monitor("local"), "first", kernels=kernels)

    assert caught.value.exit_code == 4


def test_a_failed_run_is_kept_and_of_the_successes_of_an_hour_only_the_newest(project, kernels):
    write(project, "10_first", "assert count < 9")
    monitor = open_monitor("local")
    while datetime.now(UTC).minute == 59 and datetime.now(UTC).second > 40:
        time.sleep(1)  # an hour that ends between the runs would rightly keep two

    for count in (1, 9, 2, 3):
        try:
            run_job(monitor, "first", {"count": count}, kernels)
        except NotebookFailed:
            assert count == 9

    notebooks = [one.key for one in monitor.storage.objects("runs") if one.key.endswith(".ipynb")]
    by_id = {record["run_id"]: record for record in load_runs(monitor)}
    kept = [by_id[Path(key).stem] for key in notebooks]
    assert sorted(record["parameters"]["count"] for record in kept) == [3, 9]
    assert len(by_id) == 4


def test_a_process_looks_once_for_what_it_kept_and_then_knows(place, monkeypatch):
    monkeypatch.setattr(run, "_newest", {})
    flags = {"root": place.root, "endpoint_url": place.endpoint_url}
    monitor = open_monitor("local", flags=flags)
    looks, plain = [], type(monitor.storage).named
    monkeypatch.setattr(
        type(monitor.storage), "named", lambda *given: looks.append(given[2]) or plain(*given)
    )

    def succeeded(at, notebook="10_first"):
        record = {"run_id": f"{at}Z-{notebook}-abcdef", "notebook": notebook, "status": "succeeded"}
        record["started_at"] = f"{at[:4]}-{at[4:6]}-{at[6:8]}T{at[9:11]}:{at[11:13]}:00+00:00"
        monitor.storage.put(run._key(record, "ipynb"), b"{}")
        run._keep_record(monitor, record)
        run._keep_one_an_hour(monitor, record)

    # two were kept by other processes: one in this hour
    for at in ("20260301T045900", "20260301T050100"):
        monkeypatch.setattr(run, "_newest", {})
        succeeded(at)
    succeeded("20260301T050100", "20_second")
    monkeypatch.setattr(run, "_newest", {})
    looks.clear()
    for minute in range(2, 60):
        succeeded(f"20260301T05{minute:02}00")
    succeeded("20260301T060000")

    kept = [
        one.key.rsplit("/", 1)[1][:22] for one in monitor.storage.objects("runs") if one.key.endswith("ipynb")
    ]
    assert kept == [
        "20260301T045900Z-10_fi",
        "20260301T050100Z-20_se",
        "20260301T055900Z-10_fi",
        "20260301T060000Z-10_fi",
    ]
    assert looks == ["20260301T05"]


def test_a_cell_that_takes_too_long_ends_the_run(project, monkeypatch):
    monkeypatch.setenv("CRYPTOMON_LIMITS__CELL_TIMEOUT_S", "2")
    write(project, "10_first", "import time; time.sleep(60)")
    monitor = open_monitor("local")

    with pytest.raises(RunTimeout, match="cell_timeout_s"):
        run_job(monitor, "first")

    assert load_runs(monitor)[0]["status"] == "timeout"


def test_a_run_that_takes_too_long_in_all_ends(project, monkeypatch):
    monkeypatch.setenv("CRYPTOMON_LIMITS__RUN_TIMEOUT_S", "6")
    write(project, "10_first", *["import time; time.sleep(3)"] * 30)
    monitor = open_monitor("local")

    with pytest.raises(RunTimeout, match="run_timeout_s"):
        run_job(monitor, "first")

    assert load_runs(monitor)[0]["status"] == "timeout"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_finalizer_swallows_comes_again(monkeypatch):
    monkeypatch.setattr(run, "_ASKED_AGAIN_S", 0.05)

    class Careless:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(100))

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(run.Stopped) as caught, run.signals():
        Careless()
        time.sleep(20)
    assert caught.value.number == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_kernel_that_dies_while_it_starts_fails_its_run_and_is_tried_again(project, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "dead"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-c", "raise SystemExit(1)", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "dead", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    path = write(project, "10_first", "x = 1")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["kernelspec"] = {"name": "dead", "display_name": "dead", "language": "python"}
    nbformat.write(notebook, path)
    (project / "scheduled" / "schedule.yaml").write_text(
        "both: {cron: '* * * * *', notebooks: [10_first], retries: {times: 1, wait_s: 0}}\n"
    )
    monitor = open_monitor("local")
    with pytest.raises(NotebookFailed, match="did not start: Kernel died"):
        run_job(monitor, "both")
    assert [(one["status"], one["attempt"]) for one in load_runs(monitor)] == [("failed", 2), ("failed", 1)]


def test_a_signal_in_a_callback_of_asyncio_is_not_swallowed():
    async def main():
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        await asyncio.sleep(20)

    with pytest.raises(run.Stopped), run.signals():
        asyncio.run(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_notebook_and_kernel_and_closes_the_record(project, number):
    write(project, "10_first", SLOW)
    process = start("first")
    kernel = wait_until(lambda: has_begun(project))

    process.send_signal(number)
    _, said = process.communicate(timeout=90)

    assert process.returncode == 128 + number
    assert number.name in said
    (record,) = load_runs(open_monitor("local"))
    assert record["status"] == "stopped" and record["ended_at"]
    wait_until(lambda: not is_alive(kernel), 10)


def test_two_runs_of_a_job_never_overlap_and_a_killed_one_frees_its_lock(project, kernels):
    write(project, "10_first", SLOW)
    process = start("first")
    kernel = wait_until(lambda: has_begun(project))
    monitor = open_monitor("local")

    with pytest.raises(AlreadyRunning, match="first"):
        run_job(monitor, "first", kernels=kernels)
    with pytest.raises(AlreadyRunning):
        run_job(monitor, "both", kernels=kernels) if write(project, "20_second", "1") else None

    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    assert load_runs(monitor)[0]["status"] == "killed"
    wait_until(lambda: not is_alive(kernel), 30)
    write(project, "10_first", "count")
    assert run_job(monitor, "first", kernels=kernels)[0]["status"] == "succeeded"


def test_a_kernel_that_dies_fails_the_run_and_the_next_one_gets_a_new_kernel(project, kernels):
    write(project, "10_first", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monitor = open_monitor("local")

    with pytest.raises(NotebookFailed, match="died"):
        run_job(monitor, "first", kernels=kernels)

    write(project, "10_first", "count")
    assert run_job(monitor, "first", kernels=kernels)[0]["status"] == "succeeded"


def test_exit_in_a_cell_is_no_success_that_skips_the_rest(project, kernels):
    write(project, "10_first", "import sys; sys.exit(0)", "open('never', 'w')")

    with pytest.raises(NotebookFailed):
        run_job(open_monitor("local"), "first", kernels=kernels)


def test_a_plain_papermill_command_works_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for stem, wanted in (("10_collect", "stored"), ("20_flatten", "rows")):
        command = [
            sys.executable, "-m", "papermill", str(PROJECT / "notebooks" / f"{stem}.ipynb"), "out.ipynb",
            "-f", str(PROJECT / "params" / "local.yaml"), "-p", "root", str(tmp_path / "root"),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        cells = json.loads(Path("out.ipynb").read_text())["cells"]
        facts = next(
            out["data"] for cell in reversed(cells) for out in cell.get("outputs", []) if "data" in out
        )
        assert facts["application/vnd.cryptomon.facts+json"][wanted] > 0


# ---- retries, and who is told


def failing(home: Path, times: int, error: str = "StorageError") -> str:
    """A cell that fails so often, and counts its attempts in the file `attempts`."""
    return f"""
        from pathlib import Path
        from cryptomon_lib import errors
        path = Path({str(home / "attempts")!r})
        done = int(path.read_text()) if path.exists() else 0
        path.write_text(str(done + 1))
        if done < {times}:
            raise errors.{error}("the store is away")
    """


@pytest.fixture
def told(project):
    """Schedules the job `first` with users who are told, and reads the notices that each got, in order."""
    for name in ("alerts.yaml", "receivers.yaml"):
        (project / "params" / name).write_text((PROJECT / "params" / name).read_text())
    # no rule of theirs is meant, no severity either: the schedule names them
    (project / "params" / "receivers.yaml").write_text(
        "users:\n"
        "    maria: {receivers: {file: {kind: file}}, alerts: [{severities: [info]}]}\n"
        "    others: {receivers: {file: {kind: file}}}\n"
    )

    def schedule(keys):
        (project / "scheduled" / "schedule.yaml").write_text(
            f"first: {{cron: '* * * * *', notebooks: [10_first, 20_second], tell: [maria], {keys}}}\n"
        )
        write(project, "20_second", "count")

    def read(user):
        storage = open_monitor("local").storage
        return [json.loads(storage.get(one.key)) for one in storage.objects(f"notices/{user}")]

    schedule.read = read
    return schedule


def test_what_failed_is_tried_again_and_what_succeeded_before_it_is_not(project, kernels, told):
    told("retries: {times: 2, wait_s: 0}")
    write(project, "10_first", "count")
    write(project, "20_second", failing(project, 2))
    monitor = open_monitor("local")

    records = run_job(monitor, "first", kernels=kernels)

    assert [(one["notebook"], one["attempt"]) for one in records] == [("10_first", 1), ("20_second", 3)]
    assert sorted(one["status"] for one in load_runs(monitor)) == [
        "failed",
        "failed",
        "succeeded",
        "succeeded",
    ]
    assert told.read("maria") == []


@pytest.mark.parametrize("error", ["ConfigError", "AccountingError", "Unhealthy"])
def test_what_another_attempt_would_not_mend_is_not_tried_again(project, kernels, told, error):
    told("retries: {times: 5, wait_s: 0}")
    write(project, "10_first", failing(project, 1, error))

    with pytest.raises(NotebookFailed, match="the store is away"):
        run_job(open_monitor("local"), "first", kernels=kernels)

    assert (project / "attempts").read_text() == "1"


def test_retries_stay_within_the_time_limit(project, kernels, told):
    told("retries: {times: 5, wait_s: 100}, timeout_s: 90")
    write(project, "10_first", failing(project, 9))
    began = time.monotonic()

    with pytest.raises(NotebookFailed, match="the store is away"):
        run_job(open_monitor("local"), "first", kernels=kernels)

    assert time.monotonic() - began < 60 and (project / "attempts").read_text() == "1"


def test_a_job_that_fails_is_told_once_to_whom_it_names_and_once_that_it_works_again(project, kernels, told):
    told("retries: {times: 1, wait_s: 0}")
    write(project, "10_first", failing(project, 6))
    monitor = open_monitor("local")

    for _ in range(3):
        with pytest.raises(NotebookFailed):
            run_job(monitor, "first", kernels=kernels)
    (began,) = told.read("maria")
    for _ in range(3):
        run_job(monitor, "first", kernels=kernels)

    assert began["title"] == "[simulated data] critical: job_failed on cryptomon:first"
    assert "the job first failed: NotebookFailed: 10_first.ipynb, cell 3: StorageError" in began["text"]
    first, second = sorted(told.read("maria"), key=lambda one: one["at"])
    assert first == began and second["title"] == "[simulated data] over: job_failed on cryptomon:first"
    assert [one["alerts"][0]["id"] for one in (first, second)] == [began["alerts"][0]["id"]] * 2
    assert told.read("others") == []
    # and the next time it fails is news again
    write(project, "10_first", "1 / 0")
    with pytest.raises(NotebookFailed):
        run_job(monitor, "first", kernels=kernels)
    assert len(told.read("maria")) == 3


def test_a_job_that_cannot_even_begin_is_told_and_one_that_somebody_tries_by_hand_is_not(
    project, kernels, told
):
    told("params: {cuont: 3}")
    write(project, "10_first", "count")
    monitor = open_monitor("local")

    with pytest.raises(ParameterError, match="Did you mean count"):
        run_job(monitor, "first", {"count": 4}, kernels)
    assert told.read("maria") == []
    with pytest.raises(ParameterError, match="Did you mean count"):
        run_job(monitor, "first", kernels=kernels)

    (notice,) = told.read("maria")
    assert "ParameterError" in notice["text"]


def test_a_job_that_is_left_to_another_run_or_stopped_while_it_waits_is_no_failure(project, told):
    told("retries: {times: 5, wait_s: 60}")
    write(project, "10_first", failing(project, 9))
    process = start("first")
    wait_until(lambda: any(one["status"] == "failed" for one in load_runs(open_monitor("local"))))

    with pytest.raises(AlreadyRunning):
        run_job(open_monitor("local"), "first")
    process.send_signal(signal.SIGTERM)

    assert process.wait(60) == 143
    assert told.read("maria") == []


def test_a_clock_that_is_set_forward_takes_no_time_from_a_run(project, kernels, monkeypatch):
    write(project, "10_first", "import time; time.sleep(1)")
    write(project, "20_second", "count")

    class Jumping(datetime):
        began = time.monotonic()

        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=3 if time.monotonic() - cls.began > 0.5 else 0)

    monkeypatch.setattr(run, "datetime", Jumping)

    records = run_job(open_monitor("local"), "both", kernels=kernels)

    assert [one["status"] for one in records] == ["succeeded", "succeeded"]


def test_runs_that_begin_in_the_same_moment_and_folder_have_kernels_of_their_own(
    project, tmp_path, monkeypatch
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    stems = [f"1{number}_same" for number in range(4)]
    for stem in stems:
        write(project, stem, f"assert __import__('os').getpid()\nsaid = {stem!r}", "said")
    before = set(tmp_path.iterdir())

    processes = [start(stem) for stem in stems]
    said = [process.communicate(timeout=200) for process in processes]

    assert [process.returncode for process in processes] == [0] * 4, said
    assert not any("Invalid Signature" in errors for _, errors in said)
    # no socket where they were started, and none left behind
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "root"}
    assert not list((tmp_path / "temporary").iterdir())
