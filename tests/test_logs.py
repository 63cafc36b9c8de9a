"""Log lines: their form in real processes, what they say of their run, and that no secret stands in them."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import requests

from cryptomon_lib import cli, config, dashboard_server, logs
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.progress import progress_bar
from cryptomon_lib.run import Kernels, Stopped, run_job

PROJECT = Path(__file__).parent.parent
SECRET = "https://hooks.example.org/services/T0123456789/s3cret%2Fw0rd"


def command(*words, **environ):
    return subprocess.Popen(
        [sys.executable, "-m", "cryptomon_lib.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ) | {"CRYPTOMON_LOG_FORMAT": "json"} | environ,
        cwd=PROJECT,
    )


def lines_of(text):
    """The lines as objects, each with what every line has."""
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        assert list(one)[:4] == ["time", "level", "logger", "message"]
        assert abs(datetime.fromisoformat(one["time"]) - datetime.now(UTC)) < timedelta(minutes=10)
        assert one["time"].endswith("Z") and one["level"] in logging.getLevelNamesMapping()
    return found


@pytest.fixture
def written(monkeypatch, capsys):
    """Sets up the log as the environment says and gives what is written by what is done."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    for name in ("excepthook",):
        monkeypatch.setattr(sys, name, getattr(sys, name))
        monkeypatch.setattr(logs.threading, name, getattr(logs.threading, name))
    monkeypatch.setattr(config, "_hidden", set())

    def write(form, act, level="INFO"):
        monkeypatch.setenv("CRYPTOMON_LOG_FORMAT", form)
        monkeypatch.setenv("CRYPTOMON_LOG_LEVEL", level)
        logs.set_up()
        act()
        return capsys.readouterr().err

    def again(act):
        act()
        return capsys.readouterr().err

    write.again = again
    yield write
    logging.captureWarnings(False)
    logs._about.clear()


def fail():
    try:
        raise ValueError("first\n2026-01-01T00:00:00.000Z ERROR forged: line")
    except ValueError:
        logging.getLogger("a.b").exception("it broke: %s", "é\u2028x")


# ---- the form


def test_a_record_is_one_object_with_its_exception_as_text(written):
    (one,) = lines_of(written("json", fail))

    assert (one["level"], one["logger"], one["message"]) == ("ERROR", "a.b", "it broke: é\u2028x")
    assert one["exception"].startswith("Traceback") and "ValueError: first\n" in one["exception"]


def test_as_text_no_part_of_a_record_looks_like_another_record(written):
    first, *others = written("text", fail).splitlines()

    assert logs._LINE.match(first) and "ERROR a.b: it broke" in first
    assert len(others) > 3 and all(line.startswith("    ") for line in others)


def test_a_line_says_what_it_is_about_and_what_it_was_given(written):
    def act():
        with logs.about(job="tick", run_id="r1"):
            logging.getLogger("a").info("in", extra={"rows": 3, "color_message": "red"})
        logging.getLogger("a").info("out")

    inside, outside = lines_of(written("json", act))

    assert (inside["job"], inside["run_id"], inside["rows"]) == ("tick", "r1", 3)
    assert "color_message" not in inside and "job" not in outside


def test_the_level_is_that_of_the_environment_and_what_a_process_says_comes_at_any(written):
    def act():
        logging.getLogger("a").warning("not this")
        logs.said.info("this")

    assert [one["message"] for one in lines_of(written("json", act, level="error"))] == ["this"]


def test_libraries_that_write_signed_headers_are_never_at_debug(written):
    def act():
        logging.getLogger("botocore.auth").debug("X-Amz-Security-Token: IQoJb3")
        logging.getLogger("mine").debug("seen")

    assert [one["message"] for one in lines_of(written("json", act, level="DEBUG"))] == ["seen"]


def test_warnings_and_what_nobody_foresaw_are_lines_too(written):
    import warnings

    def act():
        warnings.warn("old", DeprecationWarning, stacklevel=2)
        sys.excepthook(KeyError, KeyError("gone"), None)

    warned, broken = lines_of(written("json", act))

    assert warned["logger"] == "py.warnings" and "old" in warned["message"]
    assert broken["level"] == "CRITICAL" and "gone" in broken["message"]


def test_a_line_goes_to_what_standard_error_is_by_then(written, monkeypatch):
    first = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", first)
        written("text", lambda: logging.getLogger("a").info("one"))
    first.close()

    told = written.again(lambda: logging.getLogger("a").info("two"))

    assert "INFO a: two" in told and "Logging error" not in told


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("CRYPTOMON_LOG_FORMAT", "xml", "text, json"), ("CRYPTOMON_LOG_LEVEL", "loud", "DEBUG, INFO, WARNING")],
)
def test_another_form_or_level_is_refused(monkeypatch, name, value, says):
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError, match=says):
        logs.set_up()


def test_neither_is_taken_for_a_setting(monkeypatch):
    monkeypatch.setenv("CRYPTOMON_LOG_FORMAT", "json")
    monkeypatch.setenv("CRYPTOMON_LOG_LEVEL", "INFO")

    assert config.load_settings("local").environment == "local"


# ---- secrets


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_secret_that_was_read_stands_in_no_line_however_it_is_written(written, monkeypatch, form):
    monkeypatch.setenv("MY_HOOK", SECRET)
    monkeypatch.setenv("MY_KEY", 'pass"word\\1')
    monkeypatch.setenv("AWS_SESSION_TOKEN", "IQoJb3JpZ2lu")

    def act():
        config.secret("MY_HOOK"), config.secret("MY_KEY")
        log = logging.getLogger("a")
        log.info("POST /services/T0123456789/s3cret%%2Fw0rd to %s", SECRET, extra={"deep": {"x": [SECRET]}})
        log.info('the key pass"word\\1 and IQoJb3JpZ2lu')
        try:
            raise OSError(f"cannot reach {SECRET}")
        except OSError:
            log.exception("failed, https://hooks.example.org answers")

    text = written(form, act)

    for secret in ("T0123456789", "s3cret", "word\\1", "IQoJb3"):
        assert secret not in text
    assert text.count("***") >= 5 and "https://hooks.example.org answers" in text
    assert form == "text" or len(lines_of(text)) == 3


def test_keys_of_the_api_are_hidden_one_by_one(written, monkeypatch):
    from cryptomon_lib.api import _keys

    monkeypatch.setenv("API_KEYS", "desk=aaaaaaa,risk=bbbbbbb")

    assert "bbbbbbb" not in written(
        "json", lambda: (_keys("API_KEYS"), logging.getLogger("a").info("bbbbbbb"))
    )


# ---- processes


def test_an_error_of_a_command_is_one_line_with_its_exit_code():
    process = command("run", "colect")
    output, errors = process.communicate(timeout=120)

    (one,) = lines_of(errors)
    assert process.returncode == 2 and output == ""
    assert (one["level"], one["error"], one["exit_code"]) == ("ERROR", "ConfigError", 2)
    assert "Did you mean 10_collect" in one["message"]


@pytest.mark.parametrize(
    ("words", "says", "error"),
    [
        ([], "Missing command. Try: cryptomon --help", "NoArgsIsHelpError"),
        (["schedule"], "Missing command. Try: cryptomon schedule --help", "NoArgsIsHelpError"),
        (["colect"], "No such command 'colect'.", "UsageError"),
        (["run"], "Missing argument 'job'. Try: cryptomon run --help", "MissingParameter"),
        (["run", "tick", "--fast"], "No such option: --fast", "NoSuchOption"),
        (["backup", "x", "--keep", "0"], "Invalid value for '--keep'", "BadParameter"),
        (["schedule", "print", "--target", "at"], "Invalid value for '--target'", "BadParameter"),
    ],
)
def test_a_wrong_call_is_one_line_like_all_others(words, says, error, written, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cryptomon", *words])
    codes = []

    def call():
        with pytest.raises(SystemExit) as ended:
            cli.main()
        codes.append(ended.value.code)

    (one,) = lines_of(written("json", call))
    assert one["message"].startswith(says) and one["level"] == "ERROR"
    assert codes == [2] and (one["error"], one["exit_code"]) == (error, 2)
    # as text it is typer's own, usage and all
    assert "Usage: cryptomon" in written("text", call) and codes == [2, 2]


def test_help_is_what_was_asked_for_in_either_form(written, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cryptomon", "run", "--help"])

    def call():
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0

    for form in ("json", "text"):
        monkeypatch.setenv("CRYPTOMON_LOG_FORMAT", form)
        call()
        said = capsys.readouterr()
        assert said.out.startswith("Usage: cryptomon run") and said.err == ""


def test_what_a_command_says_beside_its_answer_is_such_a_line_too(tmp_path):
    process = command("sql", "select 1 as one", "--set", f"root={tmp_path / 'root'}")
    output, errors = process.communicate(timeout=120)

    (one,) = lines_of(errors)
    assert one["message"].startswith("1 rows in ") and one["level"] == "INFO" and "one" in output


def test_a_bar_is_one_line_at_its_end(written):
    def act():
        with progress_bar("candles") as told:
            told(1, 7)
            told(7, 7)

    (one,) = lines_of(written("json", act, level="ERROR"))
    assert one["message"] == "candles: 7 of 7 calls, 0 s"
    assert "7/7" in written("text", act)


def test_the_whole_monitor_says_such_lines_in_place_of_what_is_for_a_terminal(written, monkeypatch):
    from cryptomon_lib import up

    consoles = []
    real = SimpleNamespace(simulated=False, environment="local", root="x")
    monkeypatch.setattr(up, "load_settings", lambda environment: real)
    monkeypatch.setattr(up, "open_monitor", lambda environment: SimpleNamespace(settings=real))

    def no_dashboard(settings, console):
        consoles.append(console)
        console.print("dashboard  [bold]here[/]")
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(up, "_dashboard", no_dashboard)
    lines = lines_of(written("json", lambda: up.up("local")))

    said = [one["message"] for one in lines]
    assert said[-3:] == ["dashboard  here", "Ending …", "Ended: nothing is left running."]
    assert consoles[0].quiet


def test_a_form_that_there_is_not_is_told_as_text():
    process = command("settings", CRYPTOMON_LOG_FORMAT="xml")

    assert process.communicate(timeout=120)[1].startswith("cryptomon: CRYPTOMON_LOG_FORMAT is 'xml'")
    assert process.returncode == 2


KERNEL = """
    import logging, os, sys
    from cryptomon_lib import config
    config.secret("MY_HOOK")
    print("no log line", file=sys.stderr)
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("mine").exception("in the kernel, %s", os.environ["MY_HOOK"])
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one notebook, whose cell writes to the log."""
    for folder in ("params", "scheduled", "notebooks"):
        (tmp_path / folder).mkdir()
    for name in ("base.yaml", "local.yaml"):
        (tmp_path / "params" / name).write_text((PROJECT / "params" / name).read_text())
    (tmp_path / "scheduled" / "schedule.yaml").write_text("{}\n")
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    notebook.cells = [
        nbformat.v4.new_code_cell("environment = 'local'", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(textwrap.dedent(KERNEL)),
    ]
    nbformat.write(notebook, tmp_path / "notebooks" / "10_first.ipynb")
    monkeypatch.setenv("CRYPTOMON_HOME", str(tmp_path))
    monkeypatch.setenv("CRYPTOMON_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("MY_HOOK", SECRET)
    return tmp_path


@pytest.mark.notebook
@pytest.mark.parametrize("form", ["json", "text"])
def test_what_a_kernel_writes_comes_out_of_the_runner_about_its_run(written, project, form):
    kernels, found = Kernels(keep=True), []

    def twice():
        # the second time in a warm kernel
        found.extend(run_job(config_monitor(), "10_first", kernels=kernels)[0] for _ in range(2))

    # a process gives its kernels the environment that it has
    os.environ["CRYPTOMON_LOG_FORMAT"], os.environ["CRYPTOMON_LOG_LEVEL"] = form, "WARNING"
    kernels = Kernels(keep=True)
    text = written(form, twice, level="WARNING")
    kernels.close()

    assert "no log line" not in text and "s3cret" not in text
    if form == "text":
        assert text.count("ERROR mine: in the kernel, ***") == 2
        assert text.count("    ZeroDivisionError") == 2
        return
    lines = lines_of(text)
    assert [one["run_id"] for one in lines] == [record["run_id"] for record in found]
    assert {one["job"] for one in lines} == {"10_first"}
    assert all("ZeroDivisionError" in one["exception"] for one in lines)


def config_monitor():
    from cryptomon_lib.monitor import open_monitor

    return open_monitor("local")


def answers(url, process, **asked):
    """What a server that begins answers at last."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        try:
            return requests.get(url, timeout=30, **asked)
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError(process.communicate()[1])


def free_port():
    from cryptomon_lib.dashboard_server import free_port

    return free_port(0)


def ended(process):
    process.send_signal(signal.SIGTERM)
    return lines_of(process.communicate(timeout=120)[1])


def test_the_api_writes_its_own_and_the_servers_lines_alike(tmp_path):
    port = free_port()
    environ = {"CRYPTOMON_ROOT": str(tmp_path), "CRYPTOMON_LOG_LEVEL": "INFO", "MY_KEYS": "desk=s3cretkey"}
    process = command("api", "--port", str(port), "--set", "api.keys=MY_KEYS", **environ)
    url = f"http://127.0.0.1:{port}/v1/views/nothing"
    assert answers(url, process, headers={"X-Api-Key": "s3cretkey"}).status_code == 404

    lines = ended(process)

    asked = next(one for one in lines if one["logger"] == "uvicorn.access")
    assert (asked["method"], asked["path"], asked["status"]) == ("GET", "/v1/views/nothing", 404)
    assert any(one["logger"] == "uvicorn.error" for one in lines)
    assert lines[0]["message"] == f"http://127.0.0.1:{port}/docs"
    assert "s3cretkey" not in json.dumps(lines)


@pytest.mark.notebook
def test_the_dashboards_server_writes_such_lines_without_its_token(tmp_path):
    port = free_port()
    environ = {"CRYPTOMON_ROOT": str(tmp_path), "CRYPTOMON_LOG_LEVEL": "INFO", "MY_TOKEN": "t0ken-of-viewers"}
    process = command("dashboard", "--port", str(port), "--token", "MY_TOKEN", **environ)
    alive = f"http://127.0.0.1:{port}/cryptomon/alive?token=t0ken-of-viewers"
    assert answers(alive, process).status_code == 200

    lines = ended(process)

    assert any("/cryptomon/alive" in one["message"] for one in lines)
    assert any(one["message"].startswith("serving local at") for one in lines)
    assert "t0ken-of-viewers" not in json.dumps(lines)


@pytest.mark.notebook
@pytest.mark.parametrize("form", ["json", "text"])
def test_what_the_dashboards_kernel_writes_comes_out_of_its_server(project, tmp_path, monkeypatch, form):
    monkeypatch.setenv("CRYPTOMON_LOG_FORMAT", form)
    monkeypatch.setenv("CRYPTOMON_DASHBOARD__PORT", "0")
    log = tmp_path / "server.log"
    with (
        log.open("w") as output,
        dashboard_server.start(
            "local", 0, notebook=project / "notebooks" / "10_first.ipynb", output=output
        ) as server,
    ):
        server.wait_ready()
        page = requests.get(server.url, timeout=120)
    text = log.read_text()

    # it ended at once after its first page, while it still warmed up
    assert page.status_code == 200 and "terminate called" not in text
    assert "no log line" not in text and "s3cret" not in text + page.text
    if form == "text":
        assert text.count("ERROR mine: in the kernel, ***") == 1 and text.count("    ZeroDivisionError") == 1
        return
    (one,) = [one for one in lines_of(text) if one["logger"] == "mine"]
    assert one["message"] == "in the kernel, ***" and "ZeroDivisionError" in one["exception"]


def test_the_resident_runner_says_in_such_lines_how_jobs_went(written, monkeypatch):
    from cryptomon_lib import resident

    monkeypatch.setattr(resident.Runner, "follow", lambda self, _: self._told("[red]Broken[/] it \\[is]"))
    told = []
    act = lambda: resident.follow("local", Kernels(keep=False), told=told.append)  # noqa: E731

    (one,) = lines_of(written("json", act, level="CRITICAL"))

    assert (one["level"], one["message"], one["logger"]) == ("ERROR", "Broken it [is]", "cryptomon.says")
    assert told == [] and written("text", act) == "" and told[0].endswith("[red]Broken[/] it \\[is]")
