"""The command line as its users type it: output, messages, exit codes."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from cryptomon_lib import cli

PROJECT = Path(__file__).parent.parent


def cryptomon(*words: str, timeout: float = 60, **environ: str) -> subprocess.CompletedProcess:
    import os

    return subprocess.run(
        [sys.executable, "-m", "cryptomon_lib.cli", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=dict(os.environ) | environ,
        cwd=PROJECT,
    )


def test_help_lists_the_commands():
    done = cryptomon("--help")

    assert done.returncode == 0
    for command in (
        "up",
        "run",
        "runs",
        "sql",
        "set-up",
        "reflatten",
        "simulate",
        "dashboard",
        "settings",
        "schedule",
    ):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("run", "colect"), 2, "Did you mean 10_collect"),
        (("run", "collect", "-p", "sampels=1"), 2, "Did you mean samples"),
        (("run", "collect", "-p", "samples=inf"), 2, "samples"),
        (("run", "collect", "-p", "samples"), 2, "no name=value"),
        (("run", "collect", "-e", "lokal"), 2, "Did you mean local"),
        (("run", "collect", "--set", "fetch.atempts=2"), 2, "Did you mean attempts"),
        (("sql", "select nothing from ticks"), 6, "nothing"),
        (("sql", "select * from tiks"), 6, "Known:"),
        (("sql", "drop table ticks"), 6, "nothing but a query"),
        (("set-up", "--dry-run", "--set", "engine=athena"), 2, "reads nothing but s3://"),
        (("export", "--table", "tick"), 2, "Did you mean ticks"),
        (("reflatten", "--exchange", "krakn"), 2, "Did you mean kraken"),
        (("simulate", "--fault", "no json"), 2, "not JSON"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do_and_a_documented_exit_code(
    tmp_path, monkeypatch, capsys, words, code, says
):
    monkeypatch.setenv("CRYPTOMON_ROOT", str(tmp_path))
    # a flag holds for the process and what it starts, so this process is given its environment back
    monkeypatch.setenv("CRYPTOMON_ENVIRONMENT", "local")
    monkeypatch.setattr(sys, "argv", ["cryptomon", *words])

    with pytest.raises(SystemExit) as ended:
        cli.main()

    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (code, "")
    assert err.startswith("cryptomon: ") and says in err


def test_a_flag_wins_over_the_environment_and_the_environment_over_the_file():
    assert "attempts: 4" in cryptomon("settings").stdout
    assert "attempts: 3" in cryptomon("settings", CRYPTOMON_FETCH__ATTEMPTS="3").stdout
    assert (
        "attempts: 2"
        in cryptomon("settings", "--set", "fetch.attempts=2", CRYPTOMON_FETCH__ATTEMPTS="3").stdout
    )


def test_sql_prints_rows_and_csv_prints_all_of_them(tmp_path):
    table = cryptomon("sql", "select 1 as one, 'x' as name", CRYPTOMON_ROOT=str(tmp_path))
    csv = cryptomon("sql", "select 1 as one, 'x' as name", "--csv", CRYPTOMON_ROOT=str(tmp_path))

    assert "one" in table.stdout and "1 rows" in table.stderr
    assert csv.stdout.splitlines() == ['"one","name"', '1,"x"']


def test_simulate_says_where_it_listens_and_ends_cleanly_on_a_signal():
    process = subprocess.Popen(
        [sys.executable, "-m", "cryptomon_lib.cli", "simulate", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    address = dict(process.stdout.readline().split() for _ in range(4))["kraken"]

    with urllib.request.urlopen(f"{address}/0/public/Ticker?assetVersion=1", timeout=60) as answer:
        assert len(json.load(answer)["result"]) > 50
    process.terminate()

    assert process.wait(60) == 0


@pytest.mark.notebook
def test_a_tick_on_the_command_line_tells_each_notebook_and_runs_lists_them(tmp_path):
    done = cryptomon("run", "tick", CRYPTOMON_ROOT=str(tmp_path), timeout=180)
    listed = cryptomon("runs", CRYPTOMON_ROOT=str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert "10_collect succeeded" in done.stdout and "20_flatten succeeded" in done.stdout
    assert listed.stdout.count("succeeded") == 4
