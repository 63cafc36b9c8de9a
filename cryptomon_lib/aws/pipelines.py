"""The jobs of the schedule as pipelines of SageMaker that EventBridge Scheduler starts: one template, made from them.

A job there takes minutes to start, so none can run each minute. What is due more often than hourly becomes an
hourly one that runs the job at each of its moments inside, begins before the hour and ends after it: whoever
polls a slot second finds it polled. Everything is made switched off.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

from cryptomon_lib.aws.stacks import Stack, name_of, stack_of
from cryptomon_lib.config import Settings
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.schedule import Job, next_due

CONCERN = "schedule"
ENABLED, DISABLED = "ENABLED", "DISABLED"
# a sampled job starts so long before the hour and goes on so long after it: starting takes 2 to 10 minutes
_LEAD, _OVERLAP = timedelta(minutes=10), timedelta(minutes=15)
_HOUR = timedelta(hours=1)
_START_S = 1800
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_PARAMETERS = ("Name", "Image", "Instance", "State", "RunnerRole", "PipelinesRole", "SchedulerRole")


def schedule_stack(jobs: Mapping[str, Job], settings: Settings, state: str = DISABLED) -> Stack:
    """The stack of all jobs that have a cron line. state: of its schedules, ENABLED or DISABLED.

    Raises ConfigError: a cron line that EventBridge cannot say.
    """
    return stack_of(
        settings,
        CONCERN,
        template(jobs, settings),
        Image=settings.aws.image,
        Instance=settings.aws.instance,
        State=state,
    )


def template(jobs: Mapping[str, Job], settings: Settings) -> str:
    """The template as JSON: the repository of the image, and for each job a pipeline and its schedule."""
    resources: dict[str, Any] = {
        "Repository": {
            "Type": "AWS::ECR::Repository",
            "Properties": {
                "RepositoryName": {"Ref": "Name"},
                # images are made anew from the code
                "EmptyOnDelete": True,
                "ImageScanningConfiguration": {"ScanOnPush": True},
                "LifecyclePolicy": {"LifecyclePolicyText": json.dumps(_newest_images(10))},
            },
        },
    }
    for name, job in jobs.items():
        if job.cron:
            resources |= _job(name, job, settings)
    made = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "cryptomon - the jobs of scheduled/schedule.yaml as pipelines of SageMaker, and when they start",
        "Parameters": {name: {"Type": "String"} for name in _PARAMETERS},
        "Conditions": {"OwnImage": {"Fn::Equals": [{"Ref": "Image"}, ""]}},
        "Resources": resources,
        "Outputs": {"Repository": {"Value": {"Fn::GetAtt": ["Repository", "RepositoryUri"]}}},
    }
    made["Parameters"]["State"]["AllowedValues"] = [ENABLED, DISABLED]
    return json.dumps(made, indent=1)


def command(name: str, job: Job, settings: Settings) -> list[str]:
    """What the container of a job is told to run, as it runs: `cryptomon` and its arguments."""
    where = ["--environment", settings.environment]
    every = _every(job)
    if every >= _HOUR:
        return ["cryptomon", "run", name, *where]
    seconds = int(every.total_seconds())
    samples = int((_HOUR + _OVERLAP).total_seconds()) // seconds
    return ["cryptomon", "sample", name, *where, "--samples", str(samples), "--every-s", str(seconds)]


def environ(settings: Settings) -> dict[str, str]:
    """Variables of a job's container beside those of its image."""
    region = settings.athena.region
    told = {"CRYPTOMON_LOG_LEVEL": "INFO", "CRYPTOMON_LOG_FORMAT": "json"}
    return {"AWS_REGION": region, "AWS_DEFAULT_REGION": region} | told


def expression(name: str, job: Job) -> str:
    """When EventBridge Scheduler starts a job (UTC).

    Raises ConfigError: cron says it, EventBridge cannot.
    """
    if _every(job) < _HOUR:
        return f"cron({60 - _LEAD.seconds // 60} * * * ? *)"
    parts = job.cron.split()
    if len(parts) != 5:
        raise ConfigError(f"schedule.yaml: {name}: {job.cron!r} has not five parts, as EventBridge needs.")
    minute, hour, day, month, weekday = parts
    if day != "*" and weekday != "*":
        raise ConfigError(
            f"schedule.yaml: {name}: {job.cron!r} names days of the month and of the week; EventBridge takes one of them."
        )
    if weekday == "*":
        return f"cron({minute} {hour} {day} {month} ? *)"
    named = re.sub(r"(?<![/\w])[0-7](?!\w)", lambda found: _DAYS[int(found[0])], weekday).upper()
    return f"cron({minute} {hour} ? {month} {named} *)"


def _every(job: Job) -> timedelta:
    """The shortest time between two moments of a job within a day."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    shortest, end = timedelta(days=1), at + timedelta(days=1)
    before = next_due(job, at)
    while before < end:
        after = next_due(job, before)
        shortest, before = min(shortest, after - before), after
    return shortest


def _job(name: str, job: Job, settings: Settings) -> dict[str, Any]:
    logical = "".join(part.capitalize() for part in re.split("[^A-Za-z0-9]+", name))
    own = name.replace("_", "-")
    return {
        f"{logical}Pipeline": {
            "Type": "AWS::SageMaker::Pipeline",
            "Properties": {
                "PipelineName": {"Fn::Sub": f"${{Name}}-{own}"},
                "PipelineDescription": f"{', '.join(job.notebooks)}: {job.cron} (UTC)",
                "RoleArn": {"Ref": "PipelinesRole"},
                "PipelineDefinition": {"PipelineDefinitionBody": _definition(name, job, settings)},
                "ParallelismConfiguration": {"MaxParallelExecutionSteps": 1},
            },
        },
        f"{logical}Schedule": {
            "Type": "AWS::Scheduler::Schedule",
            "Properties": {
                "Name": {"Fn::Sub": f"${{Name}}-{own}"},
                "Description": f"{name} of scheduled/schedule.yaml: {job.cron} (UTC)",
                "ScheduleExpression": expression(name, job),
                "ScheduleExpressionTimezone": "UTC",
                "FlexibleTimeWindow": {"Mode": "OFF"},
                "State": {"Ref": "State"},
                "Target": {
                    "Arn": {
                        "Fn::Sub": "arn:${AWS::Partition}:sagemaker:${AWS::Region}:${AWS::AccountId}:pipeline/"
                        + f"${{{logical}Pipeline}}"
                    },
                    "RoleArn": {"Ref": "SchedulerRole"},
                    # an hour that is missed is filled by the next one
                    "RetryPolicy": {"MaximumEventAgeInSeconds": 600, "MaximumRetryAttempts": 3},
                    "SageMakerPipelineParameters": {"PipelineParameterList": []},
                },
            },
        },
    }


def _definition(name: str, job: Job, settings: Settings) -> dict[str, Any]:
    """The pipeline's own language, in which CloudFormation fills in role and image."""
    entry, *arguments = command(name, job, settings)
    seconds = job.timeout_s if "sample" not in arguments[:1] else int((_HOUR + _OVERLAP).total_seconds())
    step = {
        "Name": name.replace("_", "-"),
        "Type": "Processing",
        "Arguments": {
            "ProcessingResources": {
                "ClusterConfig": {
                    "InstanceCount": 1,
                    "InstanceType": "${Instance}",
                    "VolumeSizeInGB": settings.aws.volume_gb,
                }
            },
            "AppSpecification": {
                "ImageUri": "${Uri}",
                "ContainerEntrypoint": [entry],
                "ContainerArguments": arguments,
            },
            "RoleArn": "${RunnerRole}",
            "Environment": environ(settings),
            "StoppingCondition": {"MaxRuntimeInSeconds": seconds + _START_S},
        },
        # no room for one more instance right now
        "RetryPolicies": [
            {
                "ExceptionType": ["SageMaker.CAPACITY_ERROR", "Step.THROTTLING", "Step.SERVICE_FAULT"],
                "IntervalSeconds": 30,
                "BackoffRate": 2.0,
                "MaxAttempts": 4,
            }
        ],
    }
    body = {"Version": "2020-12-01", "Metadata": {}, "Parameters": [], "Steps": [step]}
    own = "${AWS::AccountId}.dkr.ecr.${AWS::Region}.${AWS::URLSuffix}/${Repository}:" + version("cryptomon")
    uri = {"Fn::If": ["OwnImage", {"Fn::Sub": own}, {"Ref": "Image"}]}
    return {"Fn::Sub": [json.dumps(body), {"Uri": uri}]}


def _newest_images(count: int) -> dict[str, Any]:
    kept = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": count}
    rule = {
        "rulePriority": 1,
        "description": f"the newest {count}",
        "selection": kept,
        "action": {"type": "expire"},
    }
    return {"rules": [rule]}


def schedule_name(settings: Settings) -> str:
    """The name of the stack of the jobs."""
    return f"{name_of(settings)}-{CONCERN}"
