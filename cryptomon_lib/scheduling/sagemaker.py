"""The schedule on SageMaker: pipelines that EventBridge Scheduler starts, in one stack of CloudFormation.

`cryptomon deploy` makes the stack with its schedules switched off; `install` switches them on, `remove` takes
the stack away.
"""

import json
from collections.abc import Mapping

from cryptomon_lib.aws.deploy import UNCHANGED, Account, apply, destroy
from cryptomon_lib.aws.pipelines import ENABLED, schedule_stack
from cryptomon_lib.aws.stacks import parsed
from cryptomon_lib.config import Settings
from cryptomon_lib.schedule import Job


def render(jobs: Mapping[str, Job], settings: Settings) -> dict[str, str]:
    """The template, and of each job the definition of its pipeline, by the names of files.

    Raises ConfigError: a cron line that EventBridge cannot say, or a root that is not on S3.
    """
    stack = schedule_stack(jobs, settings, ENABLED)
    made = {f"{stack.name}.json": stack.template + "\n"}
    for one in parsed(stack.template)["Resources"].values():
        if one["Type"] == "AWS::SageMaker::Pipeline":
            name = one["Properties"]["PipelineName"]["Fn::Sub"].replace("${Name}-", "")
            body, _ = one["Properties"]["PipelineDefinition"]["PipelineDefinitionBody"]["Fn::Sub"]
            made[f"pipelines/{name}.json"] = json.dumps(json.loads(body), indent=1) + "\n"
    return made


def install(jobs: Mapping[str, Job], settings: Settings) -> list[str]:
    """Make the stack with its schedules switched on, or switch them on; lines to tell.

    Raises DeployError: the other stacks are not there yet, or this one failed.
    """
    told: list[str] = []
    (done,) = apply(Account(settings), [schedule_stack(jobs, settings, ENABLED)], told.append)
    if done.action == UNCHANGED:
        told.append(f"{done.stack.name}: the schedules are switched on already")
    else:
        told.append(f"{done.stack.name}: the schedules are switched on; `cryptomon runs` shows what they do")
    return told


def remove(settings: Settings) -> list[str]:
    """Take the stack away; runs under way end by themselves. Lines to tell.

    Raises DeployError: it could not be removed.
    """
    told: list[str] = []
    if not destroy(Account(settings), [schedule_stack({}, settings)], told=told.append):
        told.append(f"{schedule_stack({}, settings).name}: there is none")
    return told
