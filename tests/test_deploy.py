"""`cryptomon deploy`: templates by cfn-lint, and every stack made, changed and removed in moto over HTTP."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import aws_models
import boto3
import msgspec
import pytest
import requests
import yaml
from typer.testing import CliRunner

from cryptomon_lib.aws import clients, deploy, stacks
from cryptomon_lib.aws.pipelines import command, expression, schedule_stack, template
from cryptomon_lib.cli import app
from cryptomon_lib.config import load_settings
from cryptomon_lib.errors import ConfigError, CryptomonError, DeployError
from cryptomon_lib.schedule import Job, load_schedule
from cryptomon_lib.scheduling import sagemaker

PROJECT = Path(__file__).parent.parent
REGION = "eu-central-1"
ENVIRONMENTS = ("dev", "staging", "prod")


def settings_of(environment="dev", **flags):
    return load_settings(environment, flags=flags)


def wanted(settings, **jobs):
    return stacks.stacks_of(settings, schedule_stack(jobs or load_schedule(), settings))


@pytest.fixture
def aws(_s3_server, monkeypatch, tmp_path):
    """An empty account on loopback: clients of it, and a settled deploy."""
    requests.post(f"{_s3_server}/moto-api/reset", timeout=60)
    aws_models.register(_s3_server)
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_ATHENA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": _s3_server,
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    yield SimpleNamespace(
        url=_s3_server, ask=lambda service: boto3.client(service, region_name=REGION, endpoint_url=_s3_server)
    )
    requests.post(f"{_s3_server}/moto-api/reset", timeout=60)


@pytest.fixture(autouse=True, scope="module")
def _own_clients():
    """Clients remember where AWS is: none of before, none for after."""
    clients.client.cache_clear()
    yield
    clients.client.cache_clear()


def account(settings):
    return deploy.Account(settings, poll_s=0.01, timeout_s=120)


def cryptomon(*arguments, code=0, **environ):
    ran = subprocess.run(
        [sys.executable, "-m", "cryptomon_lib.cli", *arguments],
        env=os.environ | environ,
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == code, f"{arguments} ended with {ran.returncode}: {ran.stdout}\n{ran.stderr}"
    return ran.stdout + ran.stderr


def said(*arguments):
    """What the command says, in this process: with its error, where it raises one."""
    ran = CliRunner().invoke(app, arguments)
    assert ran.exception is None or isinstance(ran.exception, CryptomonError), ran.exception
    return f"{ran.output}{ran.exception or ''}"


# ---- the templates by themselves


def test_every_template_passes_cfn_lint(tmp_path):
    (tmp_path / "schedule.json").write_text(template(load_schedule(), settings_of()))
    linter = Path(sys.executable).with_name("cfn-lint")
    files = [*(PROJECT / "cryptomon_lib/aws/templates").glob("*.yaml"), *tmp_path.glob("*.json")]
    told = subprocess.run(
        [linter, "--regions", REGION, "--", *files], capture_output=True, text=True, timeout=240
    )

    assert told.returncode == 0, told.stdout + told.stderr
    assert {path.stem for path in files} == {*stacks.CONCERNS, "schedule"}


def test_environments_share_no_name():
    """Two environments in one account: no parameter that names something, and no stack, is the same."""
    made = {one: wanted(settings_of(one)) for one in ENVIRONMENTS}
    names = {one: {stack.name for stack in own} for one, own in made.items()}
    given = {
        one: {
            value
            for stack in own
            for name, value in stack.parameters.items()
            if name in ("Name", "Bucket", "Database", "Workgroup", "Environment")
        }
        for one, own in made.items()
    }
    for one, other in (("dev", "staging"), ("staging", "prod"), ("dev", "prod")):
        assert not names[one] & names[other] and not given[one] & given[other]


def test_every_name_in_a_template_comes_from_a_parameter():
    """A name that is written out would be the same in all environments."""
    for stack in wanted(settings_of("dev")):
        found = stacks.parsed(stack.template)
        for logical, one in found["Resources"].items():
            for key, value in one["Properties"].items():
                if key.endswith("Name") and key not in ("MetricName", "PolicyName"):
                    assert not isinstance(value, str), f"{stack.concern}: {logical}.{key} is {value}"


def test_no_statement_of_a_role_is_wider_than_its_environment():
    roles = stacks.parsed(stacks.template_of("roles"))["Resources"]
    wide = []
    for name, role in roles.items():
        for policy in role["Properties"].get("Policies", []):
            for one in policy["PolicyDocument"]["Statement"]:
                actions = [one["Action"]] if isinstance(one["Action"], str) else one["Action"]
                assert not [action for action in actions if "*" in action], f"{name}: {actions}"
                if one["Resource"] == "*" and "Condition" not in one:
                    wide.append((name, *actions))
    # a login to the registry is not of a repository
    assert wide == [("Runner", "ecr:GetAuthorizationToken")]


def test_a_root_that_is_not_on_s3_has_no_stacks():
    with pytest.raises(ConfigError, match="only what is on S3 has stacks"):
        wanted(settings_of("live"))


def test_results_stay_in_the_bucket():
    assert stacks.values(settings_of(athena={"output": "s3://cryptomon-dev/asked"}))["Results"] == "asked/"
    with pytest.raises(ConfigError, match="leave it empty"):
        wanted(settings_of(athena={"output": "s3://elsewhere/asked"}))


def test_a_dry_run_needs_no_account_and_asks_nobody(tmp_path):
    """Nothing listens at the endpoint, and there are no credentials."""
    environ = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    told = cryptomon("deploy", "-e", "dev", "--dry-run", "--write", str(tmp_path / "out"), **environ)

    settings = settings_of()
    parts = sum(len(stack.resources) for stack in wanted(settings_of()))
    assert (
        f"6 stacks of {parts} parts" in told
        and "AlarmMail = (empty)" in told
        and "OperationsMail" not in told
    )
    for stack in wanted(settings):
        assert stack.name in told
        for name, kind in stack.resources.items():
            assert re.search(rf"^  {name} +{kind}$", told, re.M), name
        (written,) = (tmp_path / "out").glob(f"{stack.name}.*")
        assert written.read_text() == stack.template


# ---- made, changed, removed


def test_deploy_makes_everything_once_and_destroy_leaves_the_data(aws):
    """As an operator does it: plan, apply, apply again, destroy."""
    planned = said("deploy", "-e", "dev")
    assert "6 of 6 stacks to change" in planned and "Add      Freshness" in planned
    assert not aws.ask("cloudformation").list_stacks()["StackSummaries"]

    # a mail that nobody named is not subscribed
    assert "OperationsMail" not in planned

    told = cryptomon("deploy", "-e", "dev", "--apply")
    assert "6 of 6 stacks changed" in told and "to change" not in told
    assert f"arn:aws:sns:{REGION}:123456789012:cryptomon-dev-alerts" in told
    assert "Nothing to change." in cryptomon("deploy", "-e", "dev", "--apply")
    assert "Nothing to change." in said("deploy", "-e", "dev")
    assert_made(aws)

    aws.ask("s3").put_object(Bucket="cryptomon-dev", Key="monitor/tables/ticks/a", Body=b"precious")
    assert "add --confirm dev" in said("deploy", "-e", "dev", "--destroy")
    assert "nothing was removed" in said("deploy", "-e", "dev", "--destroy", "--confirm", "prod")
    assert "go with --destroy" in said("deploy", "-e", "dev", "--delete-data", "cryptomon-dev")
    told = cryptomon("deploy", "-e", "dev", "--destroy", "--confirm", "dev")
    assert "5 stacks removed" in told and "--delete-data cryptomon-dev removes both" in told
    kept = aws.ask("s3").get_object(Bucket="cryptomon-dev", Key="monitor/tables/ticks/a")
    assert kept["Body"].read() == b"precious"
    assert not aws.ask("glue").get_databases()["DatabaseList"]
    assert not aws.ask("scheduler").list_schedules()["Schedules"]
    assert not aws.ask("iam").list_roles()["Roles"]
    assert "Nothing to remove" in said("deploy", "-e", "dev", "--destroy", "--confirm", "dev")
    # it is found again
    assert "5 of 6 stacks to change" in said("deploy", "-e", "dev")


def test_data_goes_only_with_the_name_of_its_bucket(aws):
    settings = settings_of("prod")
    own = wanted(settings)[:1]
    assert not aws.ask("s3").list_buckets()["Buckets"]
    deploy.apply(account(settings), own)
    s3 = aws.ask("s3")
    for body in (b"old", b"new"):
        s3.put_object(Bucket="cryptomon-prod", Key="monitor/tables/ticks/a", Body=body)
    s3.delete_object(Bucket="cryptomon-prod", Key="monitor/tables/ticks/a")

    with pytest.raises(ConfigError, match="is in cryptomon-prod, not in cryptomon-dev: nothing was removed"):
        deploy.destroy(account(settings), own, "cryptomon-dev")
    assert len(s3.list_object_versions(Bucket="cryptomon-prod")["Versions"]) == 2
    told = []
    assert deploy.destroy(account(settings), own, "cryptomon-prod", told.append) == ["cryptomon-prod-storage"]
    # two versions and the mark of the deletion
    assert "cryptomon-prod: 3 objects and versions deleted" in told
    assert not s3.list_buckets()["Buckets"]
    assert deploy.destroy(account(settings), own, "cryptomon-prod") == []


def assert_made(aws):
    """What moto's services say is there, beside the templates."""
    s3 = aws.ask("s3")
    block = s3.get_public_access_block(Bucket="cryptomon-dev")["PublicAccessBlockConfiguration"]
    assert all(block.values()) and len(block) == 4
    (policy,) = aws_models.policies["cryptomon-dev"]["Statement"]
    assert policy["Condition"] == {"Bool": {"aws:SecureTransport": "false"}} and policy["Effect"] == "Deny"
    rules = {one["ID"]: one for one in s3.get_bucket_lifecycle_configuration(Bucket="cryptomon-dev")["Rules"]}
    assert rules["archive"]["Filter"]["Prefix"] == "monitor/archive/"
    assert [rules[name]["Expiration"]["Days"] for name in ("archive", "quarantine", "runs")] == [31, 91, 31]
    # nothing that is data is ever let go of by the bucket
    assert not [
        one
        for one in rules.values()
        if "Days" in one.get("Expiration", {}) and "tables" in str(one["Filter"])
    ]

    group = aws.ask("athena").get_work_group(WorkGroup="cryptomon-dev")["WorkGroup"]["Configuration"]
    assert group["EnforceWorkGroupConfiguration"] and group["PublishCloudWatchMetricsEnabled"]
    assert group["BytesScannedCutoffPerQuery"] == settings_of().athena.scan_bytes_max
    assert group["ResultConfiguration"]["OutputLocation"] == "s3://cryptomon-dev/athena-results/"
    assert aws.ask("glue").get_database(Name="cryptomon_dev")

    schedules = aws.ask("scheduler")
    found = [schedules.get_schedule(Name=one["Name"]) for one in schedules.list_schedules()["Schedules"]]
    assert {one["Name"] for one in found} == {
        f"cryptomon-dev-{name}" for name, job in load_schedule().items() if job.cron
    }
    assert {one["State"] for one in found} == {"DISABLED"}
    pipelines = aws.ask("sagemaker")
    for one in found:
        name = one["Target"]["Arn"].rpartition("/")[2]
        pipeline = pipelines.describe_pipeline(PipelineName=name)
        (step,) = json.loads(pipeline["PipelineDefinition"])["Steps"]
        assert pipeline["RoleArn"].endswith("role/cryptomon-dev-pipelines")
        assert step["Arguments"]["RoleArn"].endswith("role/cryptomon-dev-runner")
        assert step["Arguments"]["AppSpecification"]["ImageUri"].startswith(
            "123456789012.dkr.ecr.eu-central-1."
        )
        assert "${" not in json.dumps(step)

    alarms = {one["AlarmName"]: one for one in aws.ask("cloudwatch").describe_alarms()["MetricAlarms"]}
    fresh = alarms["cryptomon-dev-freshness"]
    assert fresh["TreatMissingData"] == "breaching" and fresh["Threshold"] == settings_of().health.dead_s
    budget = aws.ask("budgets").describe_budget(AccountId="123456789012", BudgetName="cryptomon-dev")[
        "Budget"
    ]
    assert float(budget["BudgetLimit"]["Amount"]) == settings_of().aws.budget_usd


def test_a_setting_that_changed_is_planned_then_made(aws):
    before, after = settings_of(), settings_of(aws={"alarms": False, "budget_usd": 77})

    def own(settings):
        return [one for one in wanted(settings) if one.concern in ("analytics", "alerts", "watch")]

    deploy.apply(account(before), own(before))
    planned = {one.stack.concern: one for one in deploy.plan(account(after), own(after))}
    assert {name for name, one in planned.items() if one.action != deploy.UNCHANGED} == {"watch"}
    assert planned["watch"].says == "Alarms true -> false, BudgetUsd 30 -> 77"
    cloudwatch = aws.ask("cloudwatch")
    assert all(one["ActionsEnabled"] for one in cloudwatch.describe_alarms()["MetricAlarms"])

    deploy.apply(account(after), own(after))
    assert not any(one["ActionsEnabled"] for one in cloudwatch.describe_alarms()["MetricAlarms"])
    assert {one.action for one in deploy.plan(account(after), own(after))} == {deploy.UNCHANGED}


def test_schedules_that_were_switched_on_stay_on_at_the_next_deploy(aws):
    settings, jobs = settings_of(), load_schedule()
    own = [one for one in wanted(settings) if one.concern in ("alerts", "roles", "schedule")]
    deploy.apply(account(settings), own)
    sagemaker.install(jobs, settings)

    def states():
        found = aws.ask("scheduler").list_schedules()["Schedules"]
        return {one["State"] for one in found}

    assert states() == {"ENABLED"}
    assert "switched on already" in " ".join(sagemaker.install(jobs, settings))
    kept = deploy.as_switched(account(settings), own)
    assert {one.action for one in deploy.apply(account(settings), kept)} == {deploy.UNCHANGED}
    assert states() == {"ENABLED"}
    assert sagemaker.remove(settings) == [
        "cryptomon-dev-schedule: remove",
        "  cryptomon-dev-schedule (AWS::CloudFormation::Stack) DELETE_IN_PROGRESS: User Initiated",
        "  cryptomon-dev-schedule (AWS::CloudFormation::Stack) DELETE_COMPLETE",
    ]
    assert states() == set()
    assert "there is none" in " ".join(sagemaker.remove(settings))


# ---- what goes wrong


def test_a_bucket_that_is_there_without_a_stack_is_told_before_anything_is_made(aws):
    aws.ask("s3").create_bucket(
        Bucket="cryptomon-dev", CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    settings = settings_of()

    assert next(one.action for one in deploy.plan(account(settings), wanted(settings))) == deploy.BLOCKED
    with pytest.raises(DeployError, match="the bucket cryptomon-dev is there, without a stack"):
        deploy.apply(account(settings), wanted(settings))
    assert not aws.ask("cloudformation").list_stacks()["StackSummaries"]


def failing(monkeypatch, status):
    """Stacks of moto fail as real ones do: one part with a reason, the others given up for it."""
    from moto.cloudformation import models

    def event(stack, name, kind, state, reason):
        stack.events.append(models.Event(stack.stack_id, stack.name, name, name, kind, state, reason, None))

    def create_resources(stack):
        event(stack, "Queries", "AWS::Athena::WorkGroup", "CREATE_FAILED", "Resource creation cancelled")
        event(stack, "Catalog", "AWS::Glue::Database", "CREATE_FAILED", "no such account")
        stack.status = status

    monkeypatch.setattr(models.Stack, "create_resources", create_resources)


def test_a_stack_that_fails_names_the_part_and_its_reason(aws, monkeypatch):
    failing(monkeypatch, "DELETE_FAILED")
    settings, told = settings_of(), []

    with pytest.raises(DeployError) as raised:
        deploy.apply(account(settings), wanted(settings)[1:2], told.append)
    assert str(raised.value) == (
        "cryptomon-dev-analytics is DELETE_FAILED: Catalog (AWS::Glue::Database) CREATE_FAILED: no such account."
    )
    assert any("Catalog (AWS::Glue::Database) CREATE_FAILED: no such account" in line for line in told)
    with pytest.raises(DeployError, match="continue the rollback"):
        deploy.apply(account(settings), wanted(settings)[1:2])


def test_what_an_earlier_failure_left_is_made_anew(aws, monkeypatch):
    settings = settings_of()
    with monkeypatch.context() as patch:
        failing(patch, "ROLLBACK_COMPLETE")
        with pytest.raises(DeployError, match="is ROLLBACK_COMPLETE: Catalog"):
            deploy.apply(account(settings), wanted(settings)[1:2])

    (planned,) = deploy.plan(account(settings), wanted(settings)[1:2])
    assert planned.action == deploy.ANEW and "no such account" in planned.says
    deploy.apply(account(settings), wanted(settings)[1:2])
    assert aws.ask("glue").get_database(Name="cryptomon_dev")


def test_a_stack_that_somebody_else_is_at_is_left_alone(aws, monkeypatch):
    failing(monkeypatch, "CREATE_IN_PROGRESS")
    settings = settings_of()
    slow = deploy.Account(settings, poll_s=0.01, timeout_s=0.05)
    with pytest.raises(DeployError, match="is still CREATE_IN_PROGRESS after 0 s"):
        deploy.apply(slow, wanted(settings)[1:2])
    with pytest.raises(DeployError, match="somebody else is at it"):
        deploy.apply(account(settings), wanted(settings)[1:2])


def test_without_credentials_or_region_it_says_what_to_set(aws):
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    assert "No AWS credentials to look at the stack" in cryptomon("deploy", "-e", "dev", code=2, **none)
    told = cryptomon("deploy", "-e", "dev", code=2, CRYPTOMON_ATHENA__REGION="''")
    assert "athena.region in params is empty" in told


def test_rights_that_are_lacking_are_named(aws):
    """Moto refuses who has no policy."""
    user = aws.ask("iam")
    user.create_user(UserName="stranger")
    key = user.create_access_key(UserName="stranger")["AccessKey"]
    requests.post(f"{aws.url}/moto-api/reset-auth", data="0", timeout=60)
    try:
        told = cryptomon(
            "deploy", "-e", "dev", code=2,
            AWS_ACCESS_KEY_ID=key["AccessKeyId"], AWS_SECRET_ACCESS_KEY=key["SecretAccessKey"],
        )  # fmt: skip
    finally:
        requests.post(f"{aws.url}/moto-api/reset-auth", data="inf", timeout=60)
    assert "These credentials may not look at the stack" in told and "cloudformation:DescribeStacks" in told


def test_what_answers_in_place_of_aws_is_told_in_a_line():
    """A proxy's own page, with any status."""

    class Page(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(500)
            self.end_headers()
            self.wfile.write(b"<!doctype html>\n<html lang=en>\n<title>Blocked</title>")

        def log_message(self, *said):
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environ = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_MAX_ATTEMPTS": "1",
        }
        told = cryptomon("deploy", "-e", "dev", code=9, **environ)
        server.shutdown()

    assert told.startswith("cryptomon: What answered when it was asked to look at the stack cryptomon-dev-")
    assert "Traceback" not in told and len(told.splitlines()) == 1


def test_nobody_at_aws_is_told(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(clients, "_ATTEMPTS", 1)
    clients.client.cache_clear()
    with pytest.raises(DeployError, match="could not be asked to look at the stack"):
        deploy.plan(account(settings_of()), wanted(settings_of()))
    clients.client.cache_clear()


# ---- the jobs as pipelines


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("* * * * *", "cron(50 * * * ? *)"),
        ("*/5 * * * *", "cron(50 * * * ? *)"),
        ("17 * * * *", "cron(17 * * * ? *)"),
        ("12 0 * * *", "cron(12 0 * * ? *)"),
        ("0 6 * * 1-5", "cron(0 6 ? * MON-FRI *)"),
        ("0 6 * * 0", "cron(0 6 ? * SUN *)"),
        ("0 6 * * mon,7", "cron(0 6 ? * MON,SUN *)"),
        ("0 6 1 * *", "cron(0 6 1 * ? *)"),
    ],
)
def test_a_cron_line_is_said_as_eventbridge_does(cron, said):
    """Its weekdays begin with 1 for Sunday: names leave no doubt."""
    assert expression("job", Job(notebooks=("a",), cron=cron)) == said


def test_a_cron_line_that_eventbridge_cannot_say_is_told():
    with pytest.raises(ConfigError, match="takes one of them"):
        expression("job", Job(notebooks=("a",), cron="0 6 1 * 1"))


def test_a_job_of_each_minute_runs_each_minute_inside_an_hourly_one():
    settings = settings_of()
    tick = command("tick", Job(notebooks=("a",), cron="* * * * *"), settings)
    assert " ".join(tick) == "cryptomon sample tick --environment dev --samples 75 --every-s 60"
    report = command("report", Job(notebooks=("a",), cron="12 0 * * *"), settings)
    assert " ".join(report) == "cryptomon run report --environment dev"


def test_render_gives_the_template_and_each_pipeline():
    settings, jobs = settings_of(), load_schedule()
    made = sagemaker.render(jobs, settings)
    assert set(made) == {"cryptomon-dev-schedule.json", *(f"pipelines/{name}.json" for name in jobs)}
    (step,) = json.loads(made["pipelines/tick.json"])["Steps"]
    assert step["Arguments"]["AppSpecification"]["ContainerEntrypoint"] == ["cryptomon"]
    assert step["Arguments"]["StoppingCondition"]["MaxRuntimeInSeconds"] > 75 * 60


def test_the_params_of_aws_name_no_account():
    for environment in ENVIRONMENTS:
        text = yaml.safe_dump(msgspec.to_builtins(settings_of(environment)))
        assert not re.search(r":\d{12}:|\b\d{12}\.", text)
