"""Containers, without an engine: what is copied is there, what is left is needed, and who may write where."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from cryptomon_lib.cli import app

PROJECT = Path(__file__).parent.parent
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
SERVICES = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]
OURS = ("runner", "dashboard", "api")


def test_everything_that_is_copied_is_in_the_repository_and_not_ignored():
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True).stdout.split(
        "\n"
    )
    ignored = (PROJECT / ".dockerignore").read_text().split("\n")
    copies = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
    sources = [source for line in copies for source in line.split()[:-1]]

    assert len(sources) >= 8
    for source in sources:
        assert any(name == source or name.startswith(f"{source}/") for name in tracked), source
        assert f"!{source}" in ignored, f"{source} is copied, but .dockerignore leaves it out"


def test_the_image_runs_as_nobody_special_and_writes_where_its_user_may():
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.M)
    assert "CRYPTOMON_HOME=/opt/cryptomon" in last and 'ENTRYPOINT ["cryptomon"]' in last
    # locks and budgets of hosts are kept beside the project
    assert "ln -s /var/lib/cryptomon /opt/cryptomon/.cryptomon" in last
    assert "chown cryptomon:cryptomon /var/lib/cryptomon" in last


def test_what_is_not_needed_are_the_tools_and_nothing_that_runs():
    told = subprocess.run(
        [sys.executable, "scripts/not_needed.py", "aws", "notify", "trino"],
        cwd=PROJECT, capture_output=True, text=True, check=True, timeout=120,
    ).stdout.split()  # fmt: skip
    assert {"pytest", "moto", "ruff", "cfn-lint", "playwright", "polars", "schemathesis"} <= set(told)
    assert not {
        "deltalake",
        "duckdb",
        "s3fs",
        "botocore",
        "pyathena",
        "voila",
        "apprise",
        "trino",
        "pip",
    } & set(told)
    assert not {"cryptomon", "ipykernel", "jupyterlab", "papermill", "uvicorn", "fastapi"} & set(told)


@pytest.mark.parametrize("name", OURS)
def test_a_service_has_a_command_that_there_is_and_a_root_that_is_read_only(name):
    service = SERVICES[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    words = shlex.split(" ".join(re.sub(r"\$\{\w+:-(\w+)\}", r"\1", word) for word in service["command"]))
    command = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    # every option is one of the command
    command.make_context(name, words)


def test_who_only_reads_has_the_data_read_only_and_other_credentials():
    for name in ("dashboard", "api"):
        assert SERVICES[name]["volumes"] == ["data:/data:ro"]
        assert ".env.runner" not in str(SERVICES[name]["env_file"])
        assert any(mount.startswith("/var/lib/cryptomon:") for mount in SERVICES[name]["tmpfs"])
    assert ".env.reader" not in str(SERVICES["runner"]["env_file"])


def test_only_the_proxy_is_reached_from_outside_and_it_asks_for_a_login_first():
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]
    proxy = (PROJECT / "Caddyfile").read_text()
    assert proxy.index("basic_auth") < proxy.index("reverse_proxy")
    ports = dict(re.findall(r"reverse_proxy (\w+):(\d+)", proxy))
    for name, port in ports.items():
        assert port in SERVICES[name]["command"]
    assert set(ports) == {"dashboard", "api"}


def test_no_secret_is_in_what_is_committed():
    for line in (PROJECT / ".env.example").read_text().splitlines():
        assert line.startswith("#") or not re.match(r"\w*(KEY|SECRET|TOKEN|HASH)\w*=.+", line), line
    ignored = (PROJECT / ".gitignore").read_text().split()
    assert ".env" in ignored and ".env.runner" in ignored and ".env.reader" in ignored
