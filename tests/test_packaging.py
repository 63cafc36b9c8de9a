"""What the two commands stand on: dependencies agree everywhere, and nothing names a host or a machine."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
TRACKED = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True).stdout.split("\n")


def named(requirement: str) -> tuple[str, str]:
    """Name and bounds of `name[extra]>=1,<2  # why`."""
    name, bounds = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*([^#;]*)", requirement).groups()
    return name.lower().replace("_", "-"), bounds.replace(" ", "")


def test_environment_yml_has_the_names_and_bounds_of_pyproject():
    lines = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    conda = dict(named(line) for line in lines if isinstance(line, str))
    pip = next(line["pip"] for line in lines if isinstance(line, dict))
    wanted = dict(named(line) for line in PYPROJECT["dependencies"])

    assert conda.pop("python") == PYPROJECT["requires-python"].replace(" ", "")
    conda.pop("pip")
    assert pip == ["--editable .[dev]"]
    assert {name: wanted.get(name) for name in conda} == conda


def test_the_lock_names_every_dependency_within_its_bounds_with_hashes_and_without_addresses():
    lock = (PROJECT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", lock, re.M))
    extras = [line for name in ("aws", "notify", "dev") for line in PYPROJECT["optional-dependencies"][name]]

    for requirement in [*PYPROJECT["dependencies"], *extras]:
        name, bounds = named(requirement)
        if name == "cryptomon":
            continue
        assert name in locked, f"{name} is not in requirements.lock: run `make lock`"
        for operator, limit in re.findall(r"(>=|<)([\d.]+)", bounds):
            have = [int(part) for part in re.findall(r"\d+", locked[name])]
            asked = [int(part) for part in limit.split(".")]
            assert (have >= asked) if operator == ">=" else (have < asked), (
                f"{name} {locked[name]} is not {bounds}"
            )
    assert "://" not in lock
    assert lock.count("--hash=sha256:") >= len(locked)


def test_every_dependency_says_what_it_is_for():
    text = (PROJECT / "pyproject.toml").read_text()
    block = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    lines = [line for line in block.splitlines() if line.strip().startswith('"') and "cryptomon[" not in line]

    assert lines and all("# " in line for line in lines)


@pytest.mark.parametrize("name", [name for name in TRACKED if name and (PROJECT / name).is_file()])
def test_no_tracked_file_names_this_machine(name):
    try:
        text = (PROJECT / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return  # a picture

    assert str(PROJECT.parent) + "/" not in text and str(Path.home()) + "/" not in text


def test_the_make_targets_are_all_told_by_make_help():
    told = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    makefile = (PROJECT / "Makefile").read_text()
    targets = re.findall(r"^([a-z][a-z-]*):", makefile, re.M)
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()

    assert {"run", "test", "lab", "dashboard", "bench", "test-trino"} <= set(targets)
    # a folder or file of a target's name would make it "up to date"
    assert sorted(targets) == sorted(phony)
    for target in targets:
        assert re.search(rf"^  {target} ", told, re.M), f"make help does not tell {target}"


def test_the_public_names_are_what_they_say():
    import cryptomon_lib

    for name in cryptomon_lib.__all__:
        assert getattr(cryptomon_lib, name).__doc__, name
    with pytest.raises(AttributeError):
        cryptomon_lib.nothing_of_that_name  # noqa: B018
