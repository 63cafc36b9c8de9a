"""A monitor on AWS, as dev.yaml says, on loopback: stacks deployed to moto, jobs as containers run them, roles enforced.

Athena is a double that runs what it is asked over the same tables; the exchange is the simulated one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import aws_models
import boto3
import pytest
import requests
import sqlglot
import yaml
from athena_server import AthenaServer
from deltalake import DeltaTable
from sqlglot import exp
from typer.testing import CliRunner

from cryptomon_lib.aws import clients
from cryptomon_lib.aws.pipelines import command, environ
from cryptomon_lib.cli import app
from cryptomon_lib.config import load_settings
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.schedule import load_schedule
from cryptomon_lib.simulator import Simulator

pytestmark = pytest.mark.s3

PROJECT = Path(__file__).parent.parent
REGION = "eu-central-1"
BUCKET = "cryptomon-dev"
# one that fires as soon as there is a price
RULES = {
    "rules": {
        "priced": {
            "view": "latest",
            "condition": "price > 0",
            "markets": "kraken:BTC-USD",
            "severity": "critical",
        }
    }
}


class Athena(AthenaServer):
    """As Athena, it sees at each query what the Delta tables are at that moment."""

    def __init__(self, *given):
        super().__init__(*given)
        self.places, self.versions, self.reads = {}, {}, {}

    def _execute(self, name, one):
        text = one.request["QueryString"]
        (tree,) = sqlglot.parse(text, read="athena")
        if isinstance(tree, exp.Create) and tree.args.get("kind") == "VIEW":
            self.reads[tree.this.name] = {table.name for table in tree.expression.find_all(exp.Table)}
        elif isinstance(tree, exp.Query):
            self._look_again({table.name for table in tree.find_all(exp.Table)}, set())
        super()._execute(name, one)

    def _look_again(self, names, seen):
        for name in names - seen:
            seen.add(name)
            self._look_again(self.reads.get(name, set()), seen)
            if name in self.places:
                table = DeltaTable(self.places[name], storage_options=self.options)
                if self.versions.get(name) != table.version():
                    self.versions[name], stored = table.version(), table.to_pyarrow_table()  # noqa: F841
                    self.duck.execute(f'create or replace table "{name}" as select * from stored')

    def _table(self, tree):
        super()._table(tree)
        if not isinstance(tree, exp.Drop):
            self.places[tree.this.name] = tree.find(exp.LocationProperty).this.name


@pytest.fixture(scope="module")
def world(_s3_server, tmp_path_factory):
    """Stacks deployed, a project's folder as a container has it, the exchange, and who may assume which role."""
    home = tmp_path_factory.mktemp("home")
    for folder in ("params", "notebooks", "scheduled"):
        shutil.copytree(PROJECT / folder, home / folder, ignore=shutil.ignore_patterns("mine"))
    (home / "params/alerts.yaml").write_text(yaml.safe_dump(RULES))
    requests.post(f"{_s3_server}/moto-api/reset", timeout=60)
    aws_models.register(_s3_server)
    clients.client.cache_clear()
    with Simulator() as simulator:
        here = SimpleNamespace(
            url=_s3_server, home=home, environ=_environ(_s3_server, home, simulator), arns={}
        )
        here.ask = lambda service: boto3.client(
            service,
            region_name=REGION,
            endpoint_url=_s3_server,
            aws_access_key_id="nobody",
            aws_secret_access_key="x",
        )
        with pytest.MonkeyPatch.context() as patch:
            _set(patch, here.environ)
            told = CliRunner().invoke(app, ["deploy", "-e", "dev", "--apply"])
            assert told.exit_code == 0, (told.output, told.exception)
            here.arns = dict(re.findall(r"^(\S+) +(\S+)$", told.output, re.M))
            receiver = {"kind": "sns", "topic_arn": here.arns["alerts.Alerts"], "endpoint_url": _s3_server}
            user = {"alerts": [{"severities": ["critical"]}], "receivers": {"topic": receiver}}
            (home / "params/receivers.yaml").write_text(yaml.safe_dump({"users": {"desk": user}}))
            here.queue = _subscribed(here)
            monitor = open_monitor("dev")
            here.athena = Athena(monitor.storage.fs, f"s3://{BUCKET}/athena-results", monitor.lake._options)
            here.environ["AWS_ENDPOINT_URL_ATHENA"] = here.athena.url
            here.keys = {role: keys_of(here, role) for role in ("Collector", "Runner", "Reader")}
        yield here
        here.athena.close()
    clients.client.cache_clear()
    requests.post(f"{_s3_server}/moto-api/reset", timeout=60)


@pytest.fixture
def there(world, monkeypatch):
    """The same, with the settings of its environment in this process."""
    _set(monkeypatch, world.environ)
    return world


def _environ(url, home, simulator):
    none = str(home / "none")
    return {
        "CRYPTOMON_HOME": str(home),
        "CRYPTOMON_ENDPOINT_URL": url,
        "CRYPTOMON_HOSTS": json.dumps(dict(simulator.hosts)),
        "CRYPTOMON_FETCH__PAUSE_S": "0",
        "CRYPTOMON_WATCHLIST": "BTC-USD",
        "CRYPTOMON_ATHENA__POLL_S": "0.01",
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_CONFIG_FILE": none,
        "AWS_SHARED_CREDENTIALS_FILE": none,
    } | environ(load_settings("dev"))


def _set(patch, values):
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3"):
        patch.delenv(name, raising=False)
    for name, value in values.items():
        patch.setenv(name, value)


def _subscribed(here):
    """A queue that has what is told through the topic of alerts."""
    sns, sqs = here.ask("sns"), here.ask("sqs")
    address = sqs.create_queue(QueueName="desk")["QueueUrl"]
    arn = f"arn:aws:sqs:{REGION}:{aws_models.ACCOUNT}:desk"
    sns.subscribe(TopicArn=here.arns["alerts.Alerts"], Protocol="sqs", Endpoint=arn)
    return address


def keys_of(here, role):
    """Credentials of one of the roles, as variables."""
    given = here.ask("sts").assume_role(RoleArn=here.arns[f"roles.{role}"], RoleSessionName="test")[
        "Credentials"
    ]
    return {
        "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
        "AWS_SESSION_TOKEN": given["SessionToken"],
    }


def said(*arguments):
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, (ran.output, ran.exception)
    return ran.output


def started(here, arguments, role, **own):
    """A container's process: this command line, these variables and no other, the role of its job."""
    variables = {"PATH": os.environ["PATH"], "HOME": str(here.home)} | here.environ | here.keys[role] | own
    return subprocess.Popen(
        [sys.executable, "-m", "cryptomon_lib.cli", *arguments],
        env=variables,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_containers_of_the_sampled_job_overlap_and_nothing_is_doubled(there, monkeypatch):
    """Deployed, set up, and the job's own command line twice at once, as the runner's role by dev.yaml."""
    for name, value in there.keys["Runner"].items():
        monkeypatch.setenv(name, value)
    with aws_models.enforced(there.url):
        said("set-up", "-e", "dev")
        run_overlapping(there)
        assert_nothing_doubled(there)


def run_overlapping(there):
    """The command line and variables of the pipeline's job, twice at once; only how often and how far apart is short."""
    settings, job = load_settings("dev"), load_schedule()["tick"]
    entry, *arguments = command("tick", job, settings)
    assert entry == "cryptomon"
    arguments[arguments.index("--samples") + 1] = "2"
    arguments[arguments.index("--every-s") + 1] = "5"
    # two machines share no locks and no budgets of hosts
    homes = [there.home, there.home.with_name(there.home.name + "-other")]
    shutil.copytree(homes[0], homes[1])
    running = [started(there, arguments, "Runner", CRYPTOMON_HOME=str(home)) for home in homes]
    told = [one.communicate(timeout=280)[0] for one in running]
    for one, says in zip(running, told, strict=True):
        assert one.returncode == 0, says
        assert re.search(r"[12] runs succeeded, 0 failed", says), says


def assert_nothing_doubled(there):
    """Each payload was stored once, and each of its rows is in the table once."""
    monitor = open_monitor("dev", flags={"engine": "duckdb"})
    assert not monitor.storage.objects("ingest") and not monitor.storage.objects("quarantine")
    ticks = (
        monitor.lake.open("ticks")
        .to_pyarrow_table(columns=["market_id", "collected_at", "source"])
        .to_pandas()
    )
    assert ticks["source"].nunique() == 3 and len(ticks) > 100
    assert not ticks.duplicated(["market_id", "collected_at"]).any()
    # a payload's rows have one time, so no source has more times than payloads
    polls = [one.key for one in monitor.storage.objects("archive") if "candle" not in one.key.lower()]
    assert ticks.groupby("source")["collected_at"].nunique().sum() <= len(polls)


def test_the_collector_fills_the_queue_and_can_do_nothing_else(there):
    with aws_models.enforced(there.url):
        done = started(there, ["run", "collect", "-e", "dev", "-p", "endpoint=tickers"], "Collector")
        says = done.communicate(timeout=200)[0]
        assert done.returncode == 0, says
        denied = started(there, ["run", "flatten", "-e", "dev"], "Collector")
        says = denied.communicate(timeout=200)[0]
    assert (denied.returncode != 0 and "AccessDenied" in says) or "Forbidden" in says, says
    queue = [one.key for one in open_monitor("dev").storage.objects("ingest")]
    assert len(queue) == 3 and all(key.endswith(".json.gz") for key in queue)


def test_every_scheduled_notebook_runs_as_a_plain_notebook_job():
    """SageMaker's notebook jobs and papermill put parameters after the first cell with this tag: there is one."""
    for job in load_schedule().values():
        for name in job.notebooks:
            notebook = json.loads((PROJECT / f"notebooks/{name}.ipynb").read_text())
            tagged = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
            assert len(tagged) == 1 and "environment = " in "".join(tagged[0]["source"]), name
            assert notebook["metadata"]["kernelspec"]["name"] == "python3", name
