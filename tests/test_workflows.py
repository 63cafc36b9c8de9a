"""Continuous integration for whoever has the project: what the workflows run is there, and no secret stands in them."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

PROJECT = Path(__file__).parent.parent
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")


def read(name):
    # `on` is a truth value to YAML 1.1, and the key that matters to GitHub
    return yaml.load((PROJECT / ".github" / "workflows" / f"{name}.yml").read_text(), Loader=yaml.BaseLoader)


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_there_is_within_its_rights_and_its_time(path):
    workflow = read(path.stem)
    assert {"name", "on", "permissions", "concurrency", "jobs"} == set(workflow)
    assert workflow["permissions"]["contents"] == "read"
    for job in workflow["jobs"].values():
        assert int(job["timeout-minutes"]) <= 60
    for step in steps(workflow):
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1"))
        # what is typed in goes by the environment: as text it could be a command
        assert "inputs." not in step.get("run", "")
        for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
            assert re.search(rf"^{target}: ", MAKEFILE, re.M), f"{path.name}: make {target} is no target"
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"AKIA|aws_secret|(?i:password|token):", text.replace("id-token:", ""))


def test_each_push_is_tested_on_the_oldest_and_the_newest_python_with_a_browser():
    workflow = read("test")
    (job,) = workflow["jobs"].values()
    pyproject = (PROJECT / "pyproject.toml").read_text()
    known = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', pyproject)
    runs = [step.get("run", "") for step in job["steps"]]

    assert set(workflow["on"]) == {"push", "pull_request"}
    assert job["strategy"]["matrix"]["python"] == [known[0], known[-1]]
    assert "make test" in runs and any("chromium" in line for line in runs)
    assert any(line.startswith("make docs && git diff --exit-code") for line in runs)


def test_staging_is_by_hand_on_environments_that_there_are_with_credentials_for_an_hour():
    workflow = read("staging")
    (job,) = workflow["jobs"].values()
    choice = workflow["on"]["workflow_dispatch"]["inputs"]["params"]
    aws = next(step for step in job["steps"] if "aws-actions" in step.get("uses", ""))

    assert set(workflow["on"]) == {"workflow_dispatch"}
    assert all((PROJECT / "params" / f"{name}.yaml").is_file() for name in choice["options"])
    assert choice["default"] in choice["options"] and "prod" not in choice["options"]
    assert workflow["permissions"]["id-token"] == "write" and job["environment"] == "${{ inputs.params }}"
    assert set(aws["with"]) == {"role-to-assume", "aws-region"}
    assert any(shlex.split(step.get("run", ""))[:2] == ["make", "notebooks-on"] for step in job["steps"])


def test_the_notebooks_of_an_environment_are_the_jobs_with_that_environment_given(tmp_path):
    done = subprocess.run(
        [sys.executable, "scripts/notebooks_for.py", "staging", str(tmp_path / "copies")],
        cwd=PROJECT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    copies = {path.name: nbformat.read(path, as_version=4) for path in (tmp_path / "copies").iterdir()}
    originals = {path.name for path in (PROJECT / "notebooks").glob("*.ipynb")}

    assert copies.keys() == {name for name in originals if not name.startswith("0")}
    for name, notebook in copies.items():
        nbformat.validate(notebook)
        (given,) = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
        values = {one.targets[0].id: ast.literal_eval(one.value) for one in ast.parse(given.source).body}
        assert values.pop("environment") == "staging", name
        assert set(values) <= {"seconds"}, name


def test_an_environment_that_there_is_not_is_said_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "scripts/notebooks_for.py", "stagin", str(tmp_path / "copies")],
        cwd=PROJECT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0 and "Did you mean staging" in done.stderr
    assert not (tmp_path / "copies").exists()
