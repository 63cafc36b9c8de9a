"""Everything that a run needs is looked at, one by one; what is wrong is named with what to do, and no secret is shown."""

import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cryptomon_lib import cli, doctor
from cryptomon_lib.config import export
from cryptomon_lib.doctor import NOTE, OK, PROBLEM, WARNING, examine
from cryptomon_lib.storage import Storage

PROJECT = Path(__file__).parent.parent
SECRET = "s3cr3t-value-of-a-key"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project of its own, whose params a test may spoil."""
    folder = tmp_path / "home"
    for name in ("params", "scheduled", "notebooks"):
        shutil.copytree(PROJECT / name, folder / name)
    monkeypatch.setenv("CRYPTOMON_HOME", str(folder))
    monkeypatch.setenv("CRYPTOMON_ROOT", str(tmp_path / "root"))
    return folder


@pytest.fixture
def server():
    """Serves HTTP on loopback: `server(date=…)` with that Date header, `server(hangs=True)` without an answer."""
    servers, ends = [], threading.Event()

    def serve(date=None, hangs=False):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if hangs:
                    ends.wait(60)
                self.send_response_only(404)
                if date:
                    self.send_header("Date", date)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(made)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{made.server_port}"

    yield serve
    ends.set()
    for one in servers:
        one.shutdown()
        one.server_close()


def of(made, check):
    return {one.subject: one for one in made.found if one.check == check}


def test_a_project_as_it_is_delivered_has_no_problem(home):
    made = examine("local", 60)

    assert [one for one in made.found if one.state == PROBLEM] == []
    assert made.exit_code == 0
    assert made.seconds.keys() == doctor.checks().keys()
    # what is found wrong says what to do
    assert all(one.do for one in made.found if one.state in (WARNING, PROBLEM))
    assert not (home.parent / "root" / "doctor").exists()


def test_a_key_that_is_not_known_is_named_and_what_needs_params_is_left_out(home):
    with (home / "params" / "local.yaml").open("a") as file:
        file.write("\nfetsh: {attempts: 2}\n")

    made = examine("local", 60)

    assert made.exit_code == 8
    assert "unknown key fetsh" in of(made, "params")["local.yaml"].says
    assert of(made, "root")["the check itself"].state == NOTE
    assert of(made, "versions")["Python"].state == OK


def test_another_environment_that_is_broken_is_a_warning(home):
    (home / "params" / "prod.yaml").write_text("environment: prod\nroot: [no")

    made = examine("local", 60)

    assert made.exit_code == 0 and of(made, "params")["prod.yaml"].state == WARNING


def test_rules_receivers_and_schedule_that_cannot_be_used_are_told_each(home):
    (home / "params" / "alerts.yaml").write_text("rules: {high: {measure: price, times: many}}")
    (home / "params" / "receivers.yaml").write_text("users: {ann: {receivers: {a: {kind: pigeon}}}}")
    (home / "scheduled" / "schedule.yaml").write_text('tick: {cron: "soon", notebooks: [10_collect]}')

    found = of(examine("local", 60), "rules")

    assert {name: one.state for name, one in found.items()} == dict.fromkeys(
        ("alerts.yaml", "receivers.yaml", "schedule.yaml"), PROBLEM
    )


def test_a_secret_is_looked_for_by_name_and_its_value_is_never_told(home, monkeypatch):
    export({"keys": {"coingecko": "COINGECKO_TEST_KEY", "kraken": "KRAKEN_TEST_KEY"}})
    monkeypatch.setenv("COINGECKO_TEST_KEY", SECRET)

    made = examine("local", 60)

    found = of(made, "credentials")
    assert found["COINGECKO_TEST_KEY"].state == OK and found["KRAKEN_TEST_KEY"].state == PROBLEM
    assert "export KRAKEN_TEST_KEY" in found["KRAKEN_TEST_KEY"].do
    assert SECRET not in made.as_json()


def test_hosts_that_hang_or_are_not_there_or_keep_another_time_are_told(home, server):
    hosts = {
        "kraken": server(hangs=True),
        "coinbase": "http://127.0.0.1:1",
        "binance": server(date="Mon, 01 Jan 2024 00:00:00 GMT"),
        "okx": server(),
    }
    export({"hosts": hosts, "simulated": False, "exchanges": [*hosts]})

    found = of(examine("local", 60), "hosts")

    states = {name: one.state for name, one in found.items()}
    assert states == {"kraken": PROBLEM, "coinbase": PROBLEM, "binance": PROBLEM, "okx": OK}
    assert "does not answer: ReadTimeout" in found["kraken"].says
    assert "its clock is" in found["binance"].says


def test_one_check_that_fails_or_hangs_stops_no_other_and_the_whole_is_bounded(home, monkeypatch):
    def hangs(visit):
        time.sleep(600)
        yield "never", OK, ""

    def fails(visit):
        raise ZeroDivisionError("1/0")

    monkeypatch.setattr(
        doctor, "_CHECKS", {"clock": doctor._CHECKS["clock"], "slow": (hangs, False), "bad": (fails, False)}
    )
    began = time.monotonic()

    made = examine("local", 5)

    assert time.monotonic() - began < 60
    assert of(made, "slow")["the check itself"].says == "no answer within 5 s"
    assert "ZeroDivisionError: 1/0" in of(made, "bad")["the check itself"].says
    assert of(made, "clock") and made.exit_code == 8


@pytest.mark.s3
def test_a_bucket_is_tried_and_left_as_it_was(home, s3):
    export({"root": s3.root, "endpoint_url": s3.endpoint_url})

    made = examine("local", 60)

    assert of(made, "root")[s3.root].state == OK
    assert of(made, "store_clock")["S3"].state == OK
    assert of(made, "credentials")["AWS"].says == "credentials by env"
    assert "nothing" not in json.dumps([one.says for one in of(made, "credentials").values()])
    assert Storage(s3.root, s3.endpoint_url).objects("doctor") == []


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_a_problem(home, s3):
    export({"root": "s3://no-such-bucket-at-all/x", "endpoint_url": s3.endpoint_url})

    found = of(examine("local", 60), "root")["s3://no-such-bucket-at-all/x"]

    assert found.state == PROBLEM and found.do


def test_a_store_that_writes_over_what_is_there_is_a_problem(home, monkeypatch):
    monkeypatch.setattr(Storage, "create", lambda self, key, body: self.put(key, body) or True)

    (found,) = of(examine("local", 60), "root").values()

    assert found.state == PROBLEM and "If-None-Match" in found.do


@pytest.mark.s3
def test_athena_is_asked_for_its_workgroup_and_its_database(home, s3, _s3_server):
    import boto3

    boto3.client("athena", region_name="eu-central-1", endpoint_url=_s3_server).create_work_group(
        Name="doctor-there"
    )
    athena = {"workgroup": "doctor-there", "database": "not_there"}
    export({"root": s3.root, "endpoint_url": s3.endpoint_url, "engine": "athena", "athena": athena})

    found = of(examine("local", 60), "engine")

    assert found["workgroup doctor-there"].state == OK
    assert found["database not_there"].state == PROBLEM and "set-up" in found["database not_there"].do


def test_the_command_prints_a_table_or_json(home):
    told = CliRunner().invoke(cli.app, ["doctor", "--json"])

    assert told.exit_code == 0
    assert {"check", "subject", "state", "says", "do"} <= json.loads(told.stdout)["found"][0].keys()
