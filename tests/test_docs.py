"""What README and docs say is held true: examples run or parse, links lead somewhere, figures are those that were measured.

Each fenced block names its language. `text` is a drawing; all others are looked at, and run where that is cheap and
harms nothing. A line `<!-- not run: why -->` before a block leaves it out.
"""

import configparser
import json
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
import yaml

from cryptomon_lib import catalogue, cli, commands, dictionary, rule_tests, sql
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.config import load_settings
from cryptomon_lib.engine import Engine
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.receivers import load_users
from cryptomon_lib.rules import load_rules
from cryptomon_lib.schedule import load_schedule
from cryptomon_lib.tables import TABLES

PROJECT = Path(__file__).parent.parent
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
DOCUMENTS = [*PAGES, PROJECT / "CHANGELOG.md"]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")
LANGUAGES = {"console", "python", "py", "sql", "yaml", "json", "ini", "text"}
# programs of others that a page may name in a block of commands
OTHERS = {
    "docker",
    "git",
    "papermill",
    "export",
    "sudo",
    "aws",
    "cp",
    "tar",
    "curl",
    "crontab",
    "systemctl",
    "loginctl",
}
OTHERS |= {
    "journalctl",
    "source",
    "pip",
    "cd",
    "ls",
    "rm",
    "mv",
    "df",
    "python3",
    "duckdb",
    "date",
    "kill",
    "rsync",
}
# commands that are run as they stand, on a small root; of all others it is only seen that they are taken
RUN = {"duckdb", "export", "lint-sql", "metrics", "notify", "rules list", "rules test", "runs"}
RUN |= {"schedule list", "schedule print", "set-up", "settings", "sql", "status"}
ANY_EXIT = {"status": {0, 8}, "notify": {0, 7}}
_FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+) -->\s*\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.S | re.M,
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, line, language, text, and why it is not run."""

    page: str
    line: int
    language: str
    text: str
    why: str | None

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks_of(path):
    text = path.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        body = re.sub(f"^{found['indent']}", "", found["text"], flags=re.M)
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(path.name, line, found["language"], body, found["why"])


BLOCKS = [block for path in PAGES for block in blocks_of(path)]


def of_language(*languages):
    chosen = [block for block in BLOCKS if block.language in languages and block.why is None]
    return pytest.mark.parametrize("block", chosen, ids=str)


def lines_of(block):
    """Its command lines, those that go on with a backslash as one; without comments."""
    joined = re.sub(r"\\\n\s*", " ", block.text)
    return [
        line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]


def inline(path):
    """The code within sentences, without the blocks."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", path.read_text(encoding="utf-8")))


def taken(command):
    """The name of a command and its parsed values; what is no command or option raises."""
    words, one, name = shlex.split(command, comments=True)[1:], typer.main.get_command(cli.app), []
    while hasattr(one, "commands"):
        assert words and words[0] in one.commands, f"{command!r}: {' '.join(words[:1])} is no command"
        name.append(words[0])
        one = one.commands[words.pop(0)]
    return " ".join(name), one.make_context("cryptomon", words)


LINES = [
    (block, line)
    for block in BLOCKS
    if block.language == "console" and block.why is None
    for line in lines_of(block)
]
OURS = sorted({line for _, line in LINES if line.startswith("cryptomon ")})


# ---- blocks


def test_every_block_names_its_language_and_a_reason_where_it_is_left_out():
    assert len(BLOCKS) > 30
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == [], (
        f"languages are {sorted(LANGUAGES)}"
    )
    assert [str(block) for block in BLOCKS if block.why is not None and len(block.why) < 10] == []


@pytest.mark.parametrize(("block", "line"), LINES, ids=lambda one: str(one)[:70])
def test_a_line_of_commands_is_one_that_there_is(block, line):
    words = shlex.split(line, comments=True)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if words[0] == "cryptomon":
        taken(shlex.join(words))
    elif words[0] == "make":
        check_make(words[1:])
    else:
        assert words[0] in OTHERS, f"{block}: {words[0]} is neither ours nor named in OTHERS"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_command_within_a_sentence_is_one_that_there_is(path):
    for code in inline(path):
        whole = not re.search(r"[…|\[]|COMMAND", code)
        if code.startswith("make ") and whole:
            check_make(shlex.split(code)[1:])
        elif code.startswith("cryptomon ") and whole and "--help" not in code:
            words = code.split()[1:]
            one = typer.main.get_command(cli.app)
            while words and hasattr(one, "commands"):
                assert words[0] in one.commands, f"{path.name}: `{code}`"
                one = one.commands[words.pop(0)]
            options = {name for each in one.params for name in (*each.opts, *each.secondary_opts)}
            assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options, (
                f"{path.name}: `{code}`"
            )


def check_make(words):
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.M))
    environments = {path.stem for path in (PROJECT / "params").glob("*.yaml")}
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            assert name in ("PARAMS", "PYTHON") and (name != "PARAMS" or value in environments), word
        else:
            assert name in targets, f"make {name} is no target"


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A root with the newest 40 minutes of two simulated exchanges: ticks, and candles of two markets."""
    root = tmp_path_factory.mktemp("docs") / "root"
    begin = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=40)
    flags = {"root": str(root), "exchanges": ["kraken", "binance"], "watchlist": ["BTC-USD", "ETH-USDT"]}
    monitor = open_monitor("local", flags=flags)
    collect_payloads(monitor, endpoint="tickers", samples=41, as_of=begin)
    collect_payloads(monitor, endpoint="candles", as_of=begin + timedelta(minutes=40))
    flatten_payloads(monitor)
    return root


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the project's params and jobs, of which a test may change files; the rest is the project's own."""
    for name in ("params", "scheduled"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    for name in ("notebooks", "cryptomon_lib"):
        (tmp_path / name).symlink_to(PROJECT / name)
    monkeypatch.setenv("CRYPTOMON_HOME", str(tmp_path))
    return tmp_path


def runs_here(command):
    name, context = taken(command)
    # to set up means to ask a server
    return name in RUN and (name != "set-up" or context.params["dry_run"])


@pytest.mark.parametrize("command", [line for line in OURS if runs_here(line)])
def test_a_command_runs_as_it_stands(command, filled, tmp_path, monkeypatch, capsys):
    name, context = taken(command)
    on_s3 = context.params.get("environment") in ("dev", "staging", "prod")
    monkeypatch.setenv("CRYPTOMON_HOME", str(PROJECT))
    if not on_s3:
        monkeypatch.setenv("CRYPTOMON_ROOT", str(filled))
    monkeypatch.setenv("CRYPTOMON_ENVIRONMENT", "local")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    code = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    told = capsys.readouterr()
    assert code in ANY_EXIT.get(name, {0}), told.err
    assert told.out or told.err


@of_language("sql")
def test_a_query_runs(block, filled, tmp_path):
    if block.text.startswith("-- ") and "-- grain:" in block.text:
        path = tmp_path / "of_a_page.sql"
        path.write_text(block.text, encoding="utf-8")
        view = sql.read_view(path)
        block = Block(block.page, block.line, "sql", view.text, None)
    engine = Engine(open_monitor("local", flags={"root": str(filled)}))

    assert engine.query(block.text).column_names


@of_language("python")
def test_python_runs(block, filled, monkeypatch):
    monkeypatch.setenv("CRYPTOMON_ROOT", str(filled))
    monkeypatch.setenv("CRYPTOMON_HOME", str(PROJECT))

    exec(compile(block.text, str(block), "exec"), {})


@of_language("yaml")
def test_yaml_is_what_its_file_takes(block, project):
    keys = set(yaml.safe_load(block.text))
    if "rules" in keys:
        (project / "params" / "alerts.yaml").write_text(block.text, encoding="utf-8")
        assert load_rules()
    elif "users" in keys:
        (project / "params" / "receivers.yaml").write_text(block.text, encoding="utf-8")
        assert load_users()
    elif "tests" in keys:
        (project / "of_a_page.yaml").write_text(block.text, encoding="utf-8")
        assert [
            one.difference for one in rule_tests.run_rule_tests(project / "of_a_page.yaml") if not one.passed
        ] == []
    elif "environment" in keys:
        name = yaml.safe_load(block.text)["environment"]
        (project / "params" / f"{name}.yaml").write_text(block.text, encoding="utf-8")
        assert load_settings(name).environment == name
    else:
        (project / "scheduled" / "schedule.yaml").write_text(block.text, encoding="utf-8")
        assert load_schedule().keys() == keys


@of_language("json", "ini")
def test_other_forms_can_be_read(block):
    if block.language == "json":
        assert json.loads(block.text)
    else:
        parser = configparser.ConfigParser()
        parser.read_string(block.text)
        assert parser.sections()


# ---- links, figures, lists


def address(heading):
    """What a heading is reached by, as GitHub makes it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def addresses(path):
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    return {address(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_link_leads_to_a_file_of_the_project_and_a_heading_in_it(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"{path.name} links to {target}"
        if heading and file.suffix == ".md":
            assert heading in addresses(file), (
                f"{path.name} links to {target}, and {file.name} has no such heading"
            )


def test_each_page_of_docs_is_reached_from_the_readme():
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", README))

    assert {path.name for path in PAGES[1:]} <= linked


def test_the_figures_of_the_readme_s_answers_are_those_that_the_named_benchmark_gave():
    answers = README[README.index("## The questions") : README.index("## Look: the dashboard")]
    measured = (PROJECT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    told = 0
    for part in re.split(r"(?<=\.py`\))", answers):
        named = re.search(r"`((?:benchmarks|tests)/\w+\.py)`\)$", part)
        figures = re.findall(r"\*\*([\d.,]+)\*\*", part)
        if not named:
            assert figures == [], "a figure without the script that gave it"
            continue
        assert (PROJECT / named[1]).is_file()
        (section,) = [one for one in re.split(r"^## ", measured, flags=re.M) if f"`{named[1]}`" in one]
        for figure in figures:
            assert re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d]|[.,]\d)", section), (
                f"{figure} does not stand under {named[1]} in docs/benchmarks.md: say what was measured"
            )
            told += 1
    assert told >= 8


def test_the_views_that_analysts_are_told_of_are_those_that_there_are():
    page = (PROJECT / "docs" / "analyst.md").read_text(encoding="utf-8")
    told = set(
        re.findall(r"`([a-z_0-9]+)`", page[page.index("| question | ask") : page.index("Two things to know")])
    )

    assert told == sql.views(sql.FOLDER).keys() | {"holes"}


def test_the_exit_codes_that_operators_are_told_of_are_those_of_the_errors():
    from cryptomon_lib import errors

    page = (PROJECT / "docs" / "operator.md").read_text(encoding="utf-8")
    told = {int(code) for code in re.findall(r"\b(\d+)\b", page.split("## Exit codes")[1].split("\n\n")[1])}
    meant = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.CryptomonError)
    }

    assert meant | {0, 130} == told


# ---- pages that come from code


@pytest.mark.parametrize("written", [catalogue, dictionary, commands], ids=lambda module: module.PAGE)
def test_a_page_that_comes_from_code_is_what_make_docs_writes(written):
    kept = (PROJECT / written.PAGE).read_text(encoding="utf-8")

    assert kept == written.page(), f"{written.PAGE} is not what the code says: run `make docs`"


def test_a_notebook_says_of_each_table_that_it_writes_it_but_of_that_of_programs():
    assert [name for name, notebooks in dictionary.writers().items() if not notebooks] == ["alert_rules"]


@pytest.mark.parametrize("name", ["ticks", "candles", *sql.views(sql.FOLDER)])
def test_what_the_dictionary_says_is_never_null_is_not(name, filled):
    engine = Engine(open_monitor("local", flags={"root": str(filled)}))
    never = TABLES[name].never_null if name in ("ticks", "candles") else set(sql.views()[name].grain)
    rows = engine.query(f"select {', '.join(sorted(never))} from {name}")

    assert {column: rows[column].null_count for column in never if rows[column].null_count} == {}
    assert rows.num_rows or name not in ("ticks", "candles", "measures", "newest_ticks")


def test_every_argument_and_option_says_what_it_is_for():
    for name, command in commands.commands():
        assert command.help, name
        assert [each.name for each in command.params if not each.help] == [], name
