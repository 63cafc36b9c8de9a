"""A monitor on AWS, as dev.yaml says, on loopback: stacks deployed to moto, jobs as containers run them, roles enforced.

Athena is a double that runs what it is asked over the same tables; the exchange is the simulated one.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import aws_models
import boto3
import fsspec
import pytest
import requests
import sqlglot
import yaml
from athena_server import AthenaServer, Refused
from botocore.exceptions import ClientError
from deltalake import DeltaTable
from sqlglot import exp
from typer.testing import CliRunner

from cryptomon_lib.aws import clients
from cryptomon_lib.aws.pipelines import command, environ
from cryptomon_lib.aws.watch import publish_metrics
from cryptomon_lib.catalog import set_up_catalog
from cryptomon_lib.cli import app
from cryptomon_lib.config import load_settings
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import ConfigError, CryptomonError, StorageError, Unhealthy
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.run import Kernels, run_job
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
            "markets": ["kraken:BTC-USD", "coinbase:BTC-USD"],
            "severity": "critical",
        }
    }
}


class Athena(AthenaServer):
    """As Athena: at each query it sees what the Delta tables are then, and does all it does as who asks.

    That one has to be let in by his role's policies, to Athena, to the catalog, and to the bucket.
    """

    def __init__(self, settings, *given):
        super().__init__(*given)
        self.places, self.versions, self.reads = {}, {}, {}
        where = f"{settings.athena.region}:{aws_models.ACCOUNT}"
        self.workgroup = f"arn:aws:athena:{where}:workgroup/{settings.athena.workgroup}"
        database = settings.athena.database
        self.catalog = [f"arn:aws:glue:{where}:{one}" for one in ("catalog", f"database/{database}")]
        self.table = f"arn:aws:glue:{where}:table/{database}/"
        self.place = self.options

    def _answer(self, handler, action, body):
        super()._answer(handler, action, body | {"asker": dict(handler.headers)})

    def StartQueryExecution(self, body):
        if not aws_models.is_permitted(body["asker"], "athena:StartQueryExecution", self.workgroup):
            raise Refused("You are not authorized to perform: athena:StartQueryExecution on the resource.")
        return super().StartQueryExecution(body)

    def GetQueryResults(self, body):
        if not aws_models.is_permitted(body["asker"], "athena:GetQueryResults", self.workgroup):
            raise Refused("You are not authorized to perform: athena:GetQueryResults on the resource.")
        return super().GetQueryResults(body)

    def _execute(self, name, one):
        asker = one.request["asker"]
        keys = aws_models.keys_in(asker)
        self.fs = fsspec.filesystem(
            "s3", endpoint_url=self.place["endpoint"], use_listings_cache=False, **keys
        )
        self.options = self.place | {
            "aws_access_key_id": keys["key"],
            "aws_secret_access_key": keys["secret"],
            "aws_session_token": keys["token"] or "",
        }
        (tree,) = sqlglot.parse(one.request["QueryString"], read="athena")
        action, names = "glue:GetTable", {table.name for table in tree.find_all(exp.Table)}
        if isinstance(tree, exp.Create | exp.Drop):
            kind = tree.args.get("kind")
            of = "Database" if kind in ("DATABASE", "SCHEMA") else "Table"
            action = f"glue:{'Delete' if isinstance(tree, exp.Drop) else 'Create'}{of}"
            if of == "Database":
                names = set()
        if not aws_models.is_permitted(
            asker, action, *self.catalog, *(self.table + table for table in names)
        ):
            raise Refused(
                f"Insufficient permissions to execute the query: not authorized to perform: {action}"
            )
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
            here.queues = {
                name: _subscribed(here, name, policy)
                for name, policy in (
                    ("desk", {"severity": ["critical"], "exchange": ["kraken"]}),
                    ("others", {"exchange": ["coinbase"]}),
                )
            }
            monitor = open_monitor("dev")
            here.athena = Athena(
                monitor.settings, None, f"s3://{BUCKET}/athena-results", monitor.lake._options
            )
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


def _subscribed(here, name, policy):
    """A queue that has what is told through the topic of alerts and fits the filter policy."""
    sns, sqs = here.ask("sns"), here.ask("sqs")
    address = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = f"arn:aws:sqs:{REGION}:{aws_models.ACCOUNT}:{name}"
    chosen = {"FilterPolicy": json.dumps(policy)}
    sns.subscribe(TopicArn=here.arns["alerts.Alerts"], Protocol="sqs", Endpoint=arn, Attributes=chosen)
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


def started(here, arguments, role, output=subprocess.PIPE, **own):
    """A container's process: this command line, these variables and no other, the role of its job."""
    variables = {"PATH": os.environ["PATH"], "HOME": str(here.home)} | here.environ | here.keys[role] | own
    return subprocess.Popen(
        [sys.executable, "-m", "cryptomon_lib.cli", *arguments],
        env=variables,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def serving(here, *arguments, alive, **own):
    """The address of a server that this command line starts, as the role Reader, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", here.home / f"{arguments[0]}.log"
    with log.open("w") as output:
        command = [*arguments, "--environment", "dev", "--port", str(port)]
        process = started(here, command, "Reader", output, CRYPTOMON_LOG="WARNING", **own)
    try:
        for _ in range(1200):
            with suppress(requests.RequestException):
                requests.get(url + alive, timeout=60).raise_for_status()
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def as_role(here, monkeypatch, role):
    """This process has the credentials of a role, and no client of another's."""
    clients.client.cache_clear()
    for name, value in here.keys[role].items():
        monkeypatch.setenv(name, value)


def client_of(service, here):
    """A client with the credentials that this process has now; boto3's own session would keep the first ones."""
    return boto3.Session().client(service, region_name=REGION, endpoint_url=here.url)


@pytest.fixture(scope="module")
def ticked(world):
    """Set up, and the job's own command line twice at once, as the runner's role by dev.yaml."""
    with pytest.MonkeyPatch.context() as patch, aws_models.enforced(world.url) as refused:
        _set(patch, world.environ)
        as_role(world, patch, "Runner")
        said("set-up", "-e", "dev")
        run_overlapping(world)
    assert not refused
    return world


# in the order of a monitor's life: each finds what those before it left


@pytest.fixture
def lived(ticked, there):
    """A monitor that ticked, and its settings in this process."""
    return there


def test_two_containers_of_the_sampled_job_overlap_and_nothing_is_doubled(lived):
    assert_nothing_doubled(open_monitor("dev", flags={"engine": "duckdb"}))


def test_an_alert_comes_to_the_queues_whose_filter_it_fits(lived):
    """One message a transition, chosen by its attributes: severity and exchange."""
    for queue, exchange in (("desk", "kraken"), ("others", "coinbase")):
        found = lived.ask("sqs").receive_message(QueueUrl=lived.queues[queue], MaxNumberOfMessages=10)
        bodies = [json.loads(message["Body"]) for message in found["Messages"]]
        given = [{name: one["Value"] for name, one in body["MessageAttributes"].items()} for body in bodies]
        assert {(one["rule"], one["severity"], one["exchange"]) for one in given} == {
            ("priced", "critical", exchange)
        }
        assert {one["state"] for one in given} == {"firing"}
        # told once, though two machines evaluated the same minutes
        assert len({one["id"] for one in given}) == len(given) == 1
        (told,) = [json.loads(body["Message"]) for body in bodies]
        assert told["environment"] == "dev" and told["id"] == given[0]["id"]
        assert told["alerts"][0]["market_id"].startswith(f"{exchange}:")


def test_athena_was_asked_in_its_own_workgroup_and_database(lived):
    asked = [one.request for one in lived.athena.executions.values()]
    assert len(asked) > 20
    assert {one["WorkGroup"] for one in asked} == {"cryptomon-dev"}
    assert {one["QueryExecutionContext"]["Database"] for one in asked} == {"cryptomon_dev"}


def test_the_collector_fills_the_queue_and_can_do_nothing_else(lived, monkeypatch):
    with aws_models.enforced(lived.url) as refused:
        done = started(
            lived, ["run", "collect", "-e", "dev", "-p", "endpoint=tickers", "-p", "every_s=1"], "Collector"
        )
        says = done.communicate(timeout=280)[0]
        assert done.returncode == 0 and not refused, says
    queue = [one.key for one in open_monitor("dev").storage.objects("ingest")]
    assert len(queue) == 3 and all(key.endswith(".json.gz") for key in queue)
    as_role(lived, monkeypatch, "Collector")
    monitor = open_monitor("dev")
    with aws_models.enforced(lived.url) as refused:
        with pytest.raises(StorageError, match=r"Cannot open .*/tables/ticks"):
            monitor.lake.open("ticks")
        with pytest.raises(StorageError, match="Cannot delete"):
            monitor.storage.delete(queue[0])
        with pytest.raises(StorageError, match="Cannot write"):
            monitor.storage.put("tables/ticks/mine", b"")
        with pytest.raises(ConfigError, match="Athena lets nobody in"):
            Engine(monitor).query("select * from latest")
    assert {action for action, _ in refused} == {
        "s3:GetObject", "s3:DeleteObject", "s3:PutObject", "athena:StartQueryExecution",
    }  # fmt: skip


def test_what_was_collected_is_flattened_compacted_and_checked_and_cloudwatch_has_the_numbers(
    lived, monkeypatch
):
    """The hour's files become one for each source, no row is lost, and what alarms listen to is there."""
    as_role(lived, monkeypatch, "Runner")
    monitor, kernels = open_monitor("dev"), Kernels(keep=True)
    later = (datetime.now(UTC) + timedelta(hours=1)).replace(minute=10).isoformat()
    with aws_models.enforced(lived.url) as refused:
        try:
            run_job(monitor, "flatten", kernels=kernels)
            before = monitor.lake.files("ticks")
            (record,) = run_job(monitor, "compact", {"as_of": later}, kernels)
            # the candles of a minute's life are not those of a day
            with suppress(Unhealthy):
                run_job(monitor, "health", kernels=kernels)
        finally:
            kernels.close()
        after = monitor.lake.files("ticks")
    assert not refused and record["status"] == "succeeded"
    assert sum(one.rows for one in after) == sum(one.rows for one in before)
    assert len(after) < len(before)
    assert_nothing_doubled(monitor)
    metrics = lived.ask("cloudwatch").list_metrics(Namespace="cryptomon")["Metrics"]
    assert {"oldest_s", "critical_findings"} <= {metric["MetricName"] for metric in metrics}
    assert all(metric["Dimensions"] == [{"Name": "environment", "Value": "dev"}] for metric in metrics)


def test_status_tells_it_as_who_may_only_read(lived, monkeypatch):
    as_role(lived, monkeypatch, "Reader")
    with aws_models.enforced(lived.url) as refused:
        ran = CliRunner().invoke(app, ["status", "-e", "dev", "--json"])
    told = json.loads(ran.stdout)
    assert not refused and ran.exit_code in (0, 8), ran.output
    parts = told["parts"]
    assert parts["ticks"].keys() == {"kraken", "coinbase", "binance"}
    assert parts["alerts"]["firing"] == 2 and parts["alerts"]["parked"] == 0
    assert parts["storage"]["ticks"]["rows"] > 100
    assert {"10_collect", "20_flatten", "30_metrics", "40_alerts"} <= parts["runs"].keys()


# ---- who may only read


def test_the_api_works_as_the_reader_on_athena(lived):
    """Its routes, by a process of its own over HTTP; nothing is refused, so nothing is written."""
    given = {"market": "kraken:BTC-USD", "measure": "price"}
    with aws_models.enforced(lived.url) as refused, serving(lived, "api", alive="/openapi.json") as url:
        document = requests.get(f"{url}/openapi.json", timeout=60).json()["paths"]
        # of the views, which all are read alike, three
        views = [path for path in document if "/views/" in path][::12]
        asked = {path: document[path] for path in document if "/views/" not in path or path in views}
        for path, methods in asked.items():
            needed = {
                one["name"]: given[one["name"]] for one in methods["get"]["parameters"] if one["required"]
            }
            found = requests.get(url + path, params=needed, timeout=120)
            # on a busy machine the newest minute may be old
            assert found.status_code in ((200, 503) if path == "/v1/health" else (200,)), (path, found.text)
        rows = requests.get(f"{url}/v1/latest", timeout=60).json()["rows"]
        metrics = requests.get(f"{url}/metrics", timeout=120)
    assert not refused
    assert len(asked) > 8 and len(views) > 1 and len(rows) > 50
    assert metrics.status_code == 200 and "cryptomon_" in metrics.text
    assert len(lived.athena.executions) > len(asked)


def test_the_dashboard_works_as_the_reader_on_files(lived):
    """Every question of its page, the page by its kernel, a run's notebook; nothing is refused, so nothing is written."""
    eth, now = "kraken:ETH-USD", f"{time.time() * 1000:.0f}"
    questions = {
        "status": {}, "overview": {}, "table": {}, "alerts": {}, "operations": {},
        "market": {"market": "kraken:BTC-USD", "compare": eth},
        "moment": {"market": eth, "measure": "price", "at": now},
        "threshold": {"market": eth, "measure": "price", "threshold": "2"},
    }  # fmt: skip
    with (
        aws_models.enforced(lived.url) as refused,
        serving(lived, "dashboard", alive="/cryptomon/alive", CRYPTOMON_ENGINE="duckdb") as url,
    ):
        said = {}
        for question, asked in questions.items():
            found = requests.get(f"{url}/cryptomon/data/{question}", params=asked, timeout=120)
            assert found.status_code == 200, (question, found.text)
            said[question] = found.json()
        health = requests.get(f"{url}/health", timeout=120)
        kept = next(one for one in said["operations"]["runs"] if one["kept"])
        notebook = requests.get(f"{url}/cryptomon/run/{kept['run_id']}", timeout=60)
    assert not refused
    assert len(said["status"]["sources"]) == 3 and said["overview"]["markets"] > 50
    assert len(said["table"]["columns"]["market_id"]) == said["overview"]["markets"]
    assert said["market"]["market"]["market"] == "BTC-USD" and len(said["alerts"]["firing"]) == 2
    assert health.status_code == 200 and health.json()["healthy"], health.text
    assert notebook.status_code == 200 and "is not kept" not in notebook.text


def test_whatever_the_reader_writes_is_refused(lived, monkeypatch):
    as_role(lived, monkeypatch, "Reader")
    monitor = open_monitor("dev")
    runs = monitor.storage.objects("runs")
    tries = {
        "s3:PutObject": lambda: monitor.storage.put("tables/ticks/mine", b""),
        "s3:PutObject, new": lambda: monitor.storage.create("ingest/mine", b""),
        "s3:DeleteObject": lambda: monitor.storage.delete(runs[0].key),
        "s3:PutObject, moved": lambda: monitor.storage.move(runs[0].key, "archive/mine"),
        "s3:PutObject, a commit": lambda: monitor.lake.swap(
            "ticks", monitor.lake.open("ticks"), [], [monitor.lake.actions(monitor.lake.open("ticks"))["path"][0].as_py()]
        ),
        "glue:CreateDatabase": lambda: set_up_catalog(monitor, again=True),
        "sns:Publish": lambda: client_of("sns", lived).publish(TopicArn=lived.arns["alerts.Alerts"], Message="mine"),
    }  # fmt: skip
    before = names(lived)
    for action, attempt in tries.items():
        with aws_models.enforced(lived.url) as refused, pytest.raises((CryptomonError, ClientError)):
            attempt()
        assert action.partition(",")[0] in {one for one, _ in refused}, (action, refused)
    with aws_models.enforced(lived.url) as refused:
        assert not publish_metrics(monitor, oldest_s=1.0)
    assert refused == [("cloudwatch:PutMetricData", "*")]
    assert names(lived) == before


def names(here):
    """Of all objects in the bucket but results of queries, which who asks may write."""
    pages = here.ask("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = {one["Key"] for page in pages for one in page["Contents"]}
    return {key for key in keys if not key.startswith("athena-results/")}


def test_the_runner_tells_cloudwatch_in_no_other_namespace(lived, monkeypatch):
    as_role(lived, monkeypatch, "Runner")
    told = client_of("cloudwatch", lived).put_metric_data
    data = [{"MetricName": "mine", "Value": 1.0}]
    with aws_models.enforced(lived.url):
        told(Namespace="cryptomon", MetricData=data)
        with pytest.raises(ClientError, match="not authorized to perform: monitoring:PutMetricData"):
            told(Namespace="others", MetricData=data)


# ---- parts of it


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


def assert_nothing_doubled(monitor):
    """Each payload was stored once, and each of its rows is in the table once."""
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


def test_a_metric_that_is_not_told_fails_no_run(lived, monkeypatch):
    assert not publish_metrics(open_monitor("dev", flags={"aws": {"metrics": False}}), oldest_s=1.0)
    assert not publish_metrics(open_monitor("dev"), oldest_s=None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(clients, "_ATTEMPTS", 1)
    clients.client.cache_clear()
    assert not publish_metrics(open_monitor("dev"), oldest_s=1.0)
    clients.client.cache_clear()


def test_every_scheduled_notebook_runs_as_a_plain_notebook_job():
    """SageMaker's notebook jobs and papermill put parameters after the first cell with this tag: there is one."""
    for job in load_schedule().values():
        for name in job.notebooks:
            notebook = json.loads((PROJECT / f"notebooks/{name}.ipynb").read_text())
            tagged = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
            assert len(tagged) == 1 and "environment = " in "".join(tagged[0]["source"]), name
            assert notebook["metadata"]["kernelspec"]["name"] == "python3", name


def test_destroy_leaves_the_data_until_its_bucket_is_named(lived):
    """The last of its life."""
    before = [one.key for one in open_monitor("dev").storage.objects("tables")]
    assert "5 stacks removed" in said("deploy", "-e", "dev", "--destroy", "--confirm", "dev")
    assert [one.key for one in open_monitor("dev").storage.objects("tables")] == before and len(before) > 10
    told = said("deploy", "-e", "dev", "--destroy", "--confirm", "dev", "--delete-data", BUCKET)
    assert "1 stack removed" in told and "objects and versions deleted" in told
    assert not lived.ask("s3").list_buckets()["Buckets"]
