"""The stacks of an environment: one template of CloudFormation a concern, and the values of its parameters.

Pure: made from settings and files, nothing is asked. Everything is named after the environment, so that several
stand in one account and know nothing of each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from cryptomon_lib.config import Settings
from cryptomon_lib.errors import ConfigError

# in the order in which they need each other; `schedule` is made from the jobs, and stands between the last two
CONCERNS = ("storage", "analytics", "alerts", "roles", "watch")
# what is in here outlives all others
STORAGE = "storage"
_RESULTS = "athena-results/"


@dataclass(frozen=True)
class Output:
    """A value that is known once another stack is made: its output of that name."""

    concern: str
    name: str


@dataclass(frozen=True)
class Stack:
    """One stack: its name, its template as text, and the values of the template's parameters."""

    concern: str
    name: str
    template: str
    parameters: Mapping[str, str | Output]

    @property
    def resources(self) -> dict[str, str]:
        """What it is made of with these parameters: type by logical name."""
        template = parsed(self.template)
        conditions = template.get("Conditions", {})
        return {
            name: one["Type"]
            for name, one in template["Resources"].items()
            if "Condition" not in one or self._holds(conditions[one["Condition"]])
        }

    def _holds(self, condition: Mapping[str, Any]) -> bool:
        ((kind, given),) = condition.items()
        if kind == "Fn::Not":
            return not self._holds(given[0])
        if kind == "Fn::Equals":
            one, other = (
                self.parameters[side["Ref"]] if isinstance(side, Mapping) else side for side in given
            )
            return one == other
        raise ValueError(f"{self.name}: a condition {kind} is not read here: add it.")


class _Loader(yaml.SafeLoader):
    """YAML as CloudFormation writes it: !Ref and !Sub stand for dictionaries."""


def _short_form(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        return {name: value.split(".", 1) if tag == "GetAtt" else value}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _short_form)


def parsed(template: str) -> dict[str, Any]:
    """A template as a value, short forms as the long ones."""
    return yaml.load(template, Loader=_Loader)


def template_of(concern: str) -> str:
    """The text of a delivered template."""
    return (files("cryptomon_lib.aws") / "templates" / f"{concern}.yaml").read_text(encoding="utf-8")


def name_of(settings: Settings) -> str:
    """What stands in front of all names of the environment."""
    return settings.aws.name or f"cryptomon-{settings.environment}"


def bucket_of(settings: Settings) -> tuple[str, str]:
    """The root's bucket, and the prefix of its keys: empty, or with a slash at its end.

    Raises ConfigError: the root is not on S3.
    """
    if not settings.root.startswith("s3://"):
        raise ConfigError(
            f"root of {settings.environment} is {settings.root}: only what is on S3 has stacks; name s3://bucket/prefix."
        )
    bucket, _, prefix = settings.root.removeprefix("s3://").strip("/").partition("/")
    return bucket, f"{prefix}/" if prefix else ""


def tags_of(settings: Settings) -> dict[str, str]:
    """Tags of everything that is made; the budget counts by the first."""
    return {"cryptomon": settings.environment, "project": "cryptomon"}


def values(settings: Settings) -> dict[str, str | Output]:
    """Values of all parameters of all templates, by name."""
    bucket, prefix = bucket_of(settings)
    kept = settings.retention

    def expires(days: int) -> str:
        # the jobs come first, so that what they tell of it is true
        return str(max(1, days) + 1)

    return {
        "Name": name_of(settings),
        "Environment": settings.environment,
        "Bucket": bucket,
        "Prefix": prefix,
        "Results": _results(settings, bucket),
        "Versioning": "Enabled" if settings.aws.versioned else "Suspended",
        "KeptVersionsDays": str(settings.aws.versions_days),
        "ArchiveDays": expires(kept.archive_days),
        "QuarantineDays": expires(kept.quarantine_days),
        "RunsDays": expires(kept.runs_days),
        "Database": settings.athena.database,
        "Workgroup": settings.athena.workgroup,
        "ScanBytesMax": str(max(settings.athena.scan_bytes_max, 10_000_000)),
        "AlarmMail": settings.aws.alarm_mail,
        "Alarms": str(settings.aws.alarms).lower(),
        "StaleSeconds": f"{settings.health.dead_s:g}",
        "BudgetUsd": str(settings.aws.budget_usd),
        "Alerts": Output("alerts", "Alerts"),
        "Operations": Output("alerts", "Operations"),
        "Key": Output("alerts", "Key"),
        "RunnerRole": Output("roles", "Runner"),
        "PipelinesRole": Output("roles", "Pipelines"),
        "SchedulerRole": Output("roles", "Scheduler"),
    }


def stack_of(settings: Settings, concern: str, template: str | None = None, **own: str) -> Stack:
    """The stack of one concern; template: its text, where none is delivered. own: parameters of its alone."""
    text = template_of(concern) if template is None else template
    known = values(settings) | own
    wanted = parsed(text).get("Parameters", {})
    return Stack(concern, f"{name_of(settings)}-{concern}", text, {name: known[name] for name in wanted})


def stacks_of(settings: Settings, schedule: Stack | None = None) -> list[Stack]:
    """All stacks of an environment, each after those that it needs. schedule: that of the jobs.

    Raises ConfigError: the root is not on S3.
    """
    made = [stack_of(settings, concern) for concern in CONCERNS]
    return made if schedule is None else [*made[:-1], schedule, made[-1]]


def _results(settings: Settings, bucket: str) -> str:
    output = settings.athena.output
    if not output:
        return _RESULTS
    own = f"s3://{bucket}/"
    if not output.startswith(own):
        raise ConfigError(
            f"athena.output is {output}: the workgroup keeps results in the bucket of root, {own}…; leave it empty."
        )
    return output.removeprefix(own).strip("/") + "/"
