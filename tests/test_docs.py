"""The README is held true: its commands parse, its links lead somewhere, its Python runs, its tables name what is there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cryptomon_lib import catalogue, cli, commands, dictionary, sql
from cryptomon_lib.engine import Engine
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.tables import TABLES

PROJECT = Path(__file__).parent.parent
DOCUMENTS = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").glob("*.md"))]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```console\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.startswith("cryptomon ")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_is_one_that_the_command_line_takes(command):
    words, taken = shlex.split(command)[1:], typer.main.get_command(cli.app)
    while hasattr(taken, "commands"):
        assert words[0] in taken.commands
        taken = taken.commands[words.pop(0)]

    taken.make_context("cryptomon", words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_link_leads_to_a_file_of_the_project(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_each_make_target_that_the_readme_names_is_one():
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.M))

    assert set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.M)) <= targets


def test_the_queries_of_the_readme_run(tmp_path):
    engine = Engine(open_monitor("local", flags={"root": str(tmp_path)}))

    for query in re.findall(r'cryptomon sql "(.*?)"', README):
        engine.query(query)


def test_the_python_of_the_readme_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={"PATH": "", "CRYPTOMON_ROOT": str(tmp_path)},
    )

    assert done.returncode == 0, done.stderr


def test_the_views_that_the_readme_tells_of_are_those_that_there_are():
    table = README[README.index("| view | one row per") : README.index("Two things to know")]
    told = set(
        re.findall(
            r"`([a-z_0-9]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line)
        )
    )
    described = set(re.findall(r"`([a-z_0-9]+)`", table))

    assert told <= sql.views().keys() | TABLES.keys()
    assert sql.views().keys() <= described


def test_the_exit_codes_of_the_readme_are_those_of_the_errors():
    from cryptomon_lib import errors

    told = {int(code) for code in re.findall(r"\b(\d+)\b", README.split("Exit codes:")[1].split("\n\n")[0])}
    meant = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.CryptomonError)
    }

    assert meant | {0, 130} == told


@pytest.mark.parametrize("written", [catalogue, dictionary, commands], ids=lambda module: module.PAGE)
def test_a_page_that_comes_from_code_is_what_make_docs_writes(written):
    kept = (PROJECT / written.PAGE).read_text(encoding="utf-8")

    assert kept == written.page(), f"{written.PAGE} is not what the code says: run `make docs`"
    assert "|  |  |  |" not in kept or written is not commands


def test_every_argument_and_option_says_what_it_is_for():
    for name, command in commands.commands():
        assert command.help, name
        assert [each.name for each in command.params if not each.help] == [], name
