"""The runbook knows every exit code, every check and every section that it refers to."""

import re
from pathlib import Path

import pytest

from cryptomon_lib import doctor, errors, health

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "runbook.md").read_text()
# beside those of errors: done, and what a signal makes of a run (128 and its number)
SIGNALLED = {0, 130, 143}


def section(title):
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_cells(title):
    return re.findall(r"^\| `?([\w]+)`? \|", section(title), re.M)


def test_every_exit_code_has_its_line():
    codes = {one.exit_code for one in vars(errors).values() if hasattr(one, "exit_code")}
    told = [int(cell) for cell in first_cells("A run ended with an exit code") if cell.isdigit()]
    assert sorted(told) == sorted(codes | SIGNALLED)


@pytest.mark.parametrize(
    ("title", "checks"),
    [("Health found something", health.checks()), ("Doctor found something", doctor.checks())],
)
def test_every_check_has_its_line(title, checks):
    assert [cell for cell in first_cells(title) if cell != "check"] == list(checks)


@pytest.mark.parametrize("name", ["runbook.md", "upgrading.md"])
def test_what_it_refers_to_is_there(name):
    for place, anchor in re.findall(r"\]\(([\w.]*)#([\w-]+)\)", (DOCS / name).read_text()):
        titles = re.findall(r"^#+ (.+)$", (DOCS / (place or name)).read_text(), re.M)
        slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert anchor in slugs, (place, anchor)


def test_every_key_it_names_is_a_setting():
    keys = set(re.findall(r"`((?:health|retention|athena|duckdb|notify|api|limits)\.\w+)", TEXT))
    params = (DOCS.parent / "params/base.yaml").read_text()
    from cryptomon_lib.config import load_settings

    settings = load_settings("local")
    for key in keys:
        group, name = key.split(".")
        assert hasattr(getattr(settings, group), name) or name in params, key
    assert len(keys) > 8
