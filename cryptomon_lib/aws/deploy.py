"""Stacks made, changed and removed by CloudFormation: what would change, first; then that it has, or why not.

Owns that nothing is done where nothing changed, that a stack which failed says which of its parts did and why,
and that data is deleted only by whoever names its bucket.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cryptomon_lib.aws.clients import asked, client
from cryptomon_lib.aws.stacks import STORAGE, Output, Stack, bucket_of, name_of, tags_of
from cryptomon_lib.config import Settings
from cryptomon_lib.errors import ConfigError, DeployError

log = logging.getLogger(__name__)

CREATE, UPDATE, UNCHANGED, ANEW, BLOCKED = "create", "update", "unchanged", "create anew", "blocked"
_NO_CHANGE = ("didn't contain changes", "No updates are to be performed")
# a creation that failed, or was only ever looked at: nothing is in it, and nothing can be made of it
_EMPTY = ("ROLLBACK_COMPLETE", "REVIEW_IN_PROGRESS", "ROLLBACK_FAILED", "CREATE_FAILED")
_POLL_S, _TIMEOUT_S = 2.0, 1800.0
_PER_CALL = 1000

Told = Callable[[str], None]


@dataclass(frozen=True)
class Planned:
    """What would become of a stack. changes: (Add, Modify, Remove, or Replace; logical name; type)."""

    stack: Stack
    action: str
    changes: Sequence[tuple[str, str, str]] = ()
    says: str = ""


@dataclass(frozen=True)
class Account:
    """The CloudFormation of a region. poll_s: seconds between two looks at a stack."""

    settings: Settings
    poll_s: float = _POLL_S
    timeout_s: float = _TIMEOUT_S
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def cloudformation(self) -> Any:
        """Its client."""
        return client("cloudformation", self.settings.athena.region)

    def described(self, name: str) -> dict[str, Any] | None:
        """A stack as it is now, by name or id; None where there is none."""
        with asked(f"look at the stack {name}"):
            try:
                (found,) = self.cloudformation.describe_stacks(StackName=name)["Stacks"]
            except self.cloudformation.exceptions.ClientError as error:
                if "does not exist" in str(error):
                    return None
                raise
        return found

    def output(self, wanted: Output) -> str | None:
        """The value of another stack's output; None where it is not made yet."""
        if wanted.concern not in self.outputs:
            found = self.described(f"{name_of(self.settings)}-{wanted.concern}")
            if found is None:
                return None
            self.outputs[wanted.concern] = _outputs(found)
        return self.outputs[wanted.concern].get(wanted.name)


def plan(account: Account, stacks: Sequence[Stack]) -> list[Planned]:
    """What `apply` would do with each stack; changes nothing.

    Raises ConfigError: credentials, rights, region. DeployError: AWS cannot be asked.
    """
    return [_planned(account, stack) for stack in stacks]


def apply(account: Account, stacks: Sequence[Stack], told: Told = lambda line: None) -> list[Planned]:
    """Make or change each stack, in order, waiting for it; what was done. Nothing is done where nothing changed.

    Raises DeployError: a stack failed, with the parts that did and why; those after it are left as they are.
    """
    done = []
    for stack in stacks:
        planned = _planned(account, stack)
        if planned.action == BLOCKED:
            raise DeployError(f"{stack.name}: {planned.says}")
        told(f"{stack.name}: {planned.action}")
        if planned.action == ANEW:
            _remove(account, stack.name, told)
        if planned.action in (CREATE, ANEW):
            _create(account, stack, told)
        elif planned.action == UPDATE:
            _update(account, stack, told)
        account.outputs.pop(stack.concern, None)
        done.append(planned)
    return done


def destroy(
    account: Account,
    stacks: Sequence[Stack],
    delete_data: str | None = None,
    told: Told = lambda line: None,
) -> list[str]:
    """Remove the stacks, last first; the names of those that went. The one with the bucket stays with its data.

    delete_data: the name of the bucket whose data goes, too, with its stack.

    Raises ConfigError: it is another bucket's name, before anything is removed. DeployError: a stack failed.
    """
    bucket, _ = bucket_of(account.settings)
    if delete_data is not None and delete_data != bucket:
        raise ConfigError(
            f"The data of {account.settings.environment} is in {bucket}, not in {delete_data}: nothing was removed."
        )
    gone = []
    for stack in reversed(stacks):
        if stack.concern == STORAGE:
            if delete_data is None:
                told(f"{stack.name}: stays, with the data in {bucket}; --delete-data {bucket} removes both")
                continue
            _unprotect(account, stack.name)
        if _remove(account, stack.name, told):
            gone.append(stack.name)
    if delete_data is not None:
        told(f"{bucket}: {delete_bucket(account.settings, bucket):,} objects and versions deleted")
    return gone


def delete_bucket(settings: Settings, bucket: str) -> int:
    """Delete a bucket with everything in it, old versions too; how many objects and versions that were."""
    s3, count = client("s3", settings.athena.region, settings.endpoint_url), 0
    with asked(f"delete the bucket {bucket}"):
        if not _is_there(s3, bucket):
            return 0
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, MaxKeys=_PER_CALL):
            found = [
                {"Key": one["Key"], "VersionId": one["VersionId"]}
                for one in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            ]
            if found:
                answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": found, "Quiet": True})
                if failed := answer.get("Errors"):
                    raise DeployError(
                        f"{bucket}: {len(failed)} objects cannot be deleted, as {failed[0]['Key']}: "
                        f"{failed[0].get('Code')}. Run it again."
                    )
                count += len(found)
        s3.delete_bucket(Bucket=bucket)
    return count


def outputs(account: Account, stacks: Sequence[Stack]) -> dict[str, str]:
    """What the stacks that are there give: `<concern>.<name>` and its value."""
    found = {one.concern: account.described(one.name) for one in stacks}
    return {
        f"{concern}.{name}": value
        for concern, one in found.items()
        if one
        for name, value in _outputs(one).items()
    }


def as_switched(account: Account, stacks: Sequence[Stack]) -> list[Stack]:
    """The same stacks, the schedules switched as they are there: who switched them on finds them on after a deploy."""
    return [
        replace(stack, parameters={**stack.parameters, "State": _state(account, stack)})
        if "State" in stack.parameters
        else stack
        for stack in stacks
    ]


def _state(account: Account, stack: Stack) -> str:
    found = account.described(stack.name) or {}
    have = {one["ParameterKey"]: one["ParameterValue"] for one in found.get("Parameters", [])}
    return have.get("State", stack.parameters["State"])


# ---- inside


def _planned(account: Account, stack: Stack) -> Planned:
    found = account.described(stack.name)
    added = [("Add", name, kind) for name, kind in stack.resources.items()]
    if found is None:
        if says := _taken(account, stack):
            return Planned(stack, BLOCKED, (), says)
        return Planned(stack, CREATE, added)
    status = found["StackStatus"]
    if status in _EMPTY:
        why = _reasons(account, found["StackId"])
        return Planned(stack, ANEW, added, f"an earlier creation failed ({status}){why}")
    if status.endswith("_IN_PROGRESS"):
        return Planned(stack, BLOCKED, (), f"it is {status}: somebody else is at it; wait, then plan again.")
    if status.endswith("_FAILED"):
        return Planned(
            stack,
            BLOCKED,
            (),
            f"it is {status}{_reasons(account, found['StackId'])} In the console of CloudFormation, continue the rollback "
            "(or delete the stack), then plan again.",
        )
    given = _parameters(account, stack)
    if given is None:
        return Planned(stack, UPDATE, (), "what it needs of another stack is known once that is made")
    if _same(account, stack, found, given):
        return Planned(stack, UNCHANGED)
    with _change_set(account, stack, given) as changes:
        if not changes.any:
            return Planned(stack, UNCHANGED)
        return Planned(stack, UPDATE, changes.listed, _differences(found, given))


def _taken(account: Account, stack: Stack) -> str:
    """Why a bucket cannot be made by a stack: it is there already."""
    if stack.concern != STORAGE:
        return ""
    bucket, _ = bucket_of(account.settings)
    s3 = client("s3", account.settings.athena.region, account.settings.endpoint_url)
    with asked(f"look for the bucket {bucket}"):
        try:
            if not _is_there(s3, bucket):
                return ""
        except s3.exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("403", "AccessDenied"):
                return f"the bucket {bucket} is somebody else's: names of buckets are the world's; choose another root."
            raise
    return (
        f"the bucket {bucket} is there, without a stack. Import it (CloudFormation, Create stack, With existing "
        "resources, and the template that --write gives), delete it, or choose another root."
    )


def _is_there(s3: Any, bucket: str) -> bool:
    try:
        s3.head_bucket(Bucket=bucket)
    except s3.exceptions.ClientError as error:
        if error.response.get("Error", {}).get("Code") in ("404", "NoSuchBucket"):
            return False
        raise
    return True


def _same(account: Account, stack: Stack, found: dict, given: list[dict[str, str]]) -> bool:
    have = {one["ParameterKey"]: one.get("ParameterValue", "") for one in found.get("Parameters", [])}
    want = {one["ParameterKey"]: one["ParameterValue"] for one in given}
    tags = {one["Key"]: one["Value"] for one in found.get("Tags", [])}
    if have != want or tags != tags_of(account.settings):
        return False
    with asked(f"read the template of {stack.name}"):
        body = account.cloudformation.get_template(StackName=stack.name)["TemplateBody"]
    # what is JSON comes back as a value
    return (body == stack.template) if isinstance(body, str) else (body == _json(stack.template))


def _differences(found: dict, given: list[dict[str, str]]) -> str:
    """Which parameters have another value than before, with both."""
    have = {one["ParameterKey"]: one.get("ParameterValue", "") for one in found.get("Parameters", [])}
    want = {one["ParameterKey"]: one["ParameterValue"] for one in given}
    return ", ".join(
        f"{name} {have.get(name) or '(empty)'} -> {value or '(empty)'}"
        for name, value in want.items()
        if have.get(name) != value
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _parameters(account: Account, stack: Stack) -> list[dict[str, str]] | None:
    """Values of the parameters; None where one is not known yet."""
    known = {
        name: account.output(value) if isinstance(value, Output) else value
        for name, value in stack.parameters.items()
    }
    if None in known.values():
        return None
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in known.items()]


def _given(account: Account, stack: Stack) -> dict[str, Any]:
    parameters = _parameters(account, stack)
    if parameters is None:
        needed = sorted({one.concern for one in stack.parameters.values() if isinstance(one, Output)})
        raise DeployError(
            f"{stack.name} needs what {', '.join(needed)} give: run `cryptomon deploy --apply`."
        )
    return _request(account, stack, parameters)


def _request(account: Account, stack: Stack, parameters: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "StackName": stack.name,
        "TemplateBody": stack.template,
        "Parameters": parameters,
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
        "Tags": [{"Key": key, "Value": value} for key, value in tags_of(account.settings).items()],
    }


def _create(account: Account, stack: Stack, told: Told) -> None:
    # what fails is taken away again, so that the next try begins from nothing
    request = _given(account, stack) | {
        "OnFailure": "DELETE",
        "EnableTerminationProtection": stack.concern == STORAGE,
    }
    with asked(f"make the stack {stack.name}"):
        stack_id = account.cloudformation.create_stack(**request)["StackId"]
    _follow(account, stack.name, stack_id, "CREATE_COMPLETE", told, set())


def _update(account: Account, stack: Stack, told: Told) -> None:
    request = _given(account, stack)
    stack_id = account.described(stack.name)["StackId"]
    seen = _happened(account, stack_id)
    with asked(f"change the stack {stack.name}"):
        try:
            account.cloudformation.update_stack(**request)
        except account.cloudformation.exceptions.ClientError as error:
            if any(says in str(error) for says in _NO_CHANGE):
                return
            raise
    _follow(account, stack.name, stack_id, "UPDATE_COMPLETE", told, seen)


def _remove(account: Account, name: str, told: Told) -> bool:
    """Remove a stack and wait; False where there is none."""
    found = account.described(name)
    if found is None:
        return False
    told(f"{name}: remove")
    seen = _happened(account, found["StackId"])
    with asked(f"remove the stack {name}"):
        account.cloudformation.delete_stack(StackName=name)
    _follow(account, name, found["StackId"], "DELETE_COMPLETE", told, seen)
    return True


def _unprotect(account: Account, name: str) -> None:
    if account.described(name) is not None:
        with asked(f"let the stack {name} be removed"):
            account.cloudformation.update_termination_protection(
                StackName=name, EnableTerminationProtection=False
            )


def _follow(account: Account, name: str, stack_id: str, wanted: str, told: Told, seen: set[str]) -> None:
    """Wait until a stack is done, telling what happens to its parts. seen: ids of what had happened before.

    Raises DeployError: it ended otherwise, or takes too long.
    """
    until = time.monotonic() + account.timeout_s
    while True:
        found = account.described(stack_id)
        status = found["StackStatus"] if found else "DELETE_COMPLETE"
        for event in _events(account, stack_id):
            if event["EventId"] not in seen:
                told(f"  {_shown(event)}")
                seen.add(event["EventId"])
        if status == wanted:
            return
        # the old parts of what was replaced are taken away after the end
        over = not status.endswith("_IN_PROGRESS") or (
            wanted == "UPDATE_COMPLETE" and status == "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
        )
        if over and status.startswith(wanted):
            return
        if over:
            raise DeployError(f"{name} is {status}{_reasons(account, stack_id)}")
        if time.monotonic() > until:
            raise DeployError(
                f"{name} is still {status} after {account.timeout_s:.0f} s; `cryptomon deploy` says how it goes on."
            )
        time.sleep(account.poll_s)


def _events(account: Account, stack_id: str) -> list[dict[str, Any]]:
    """What happened to a stack, oldest first."""
    with asked("read what happened to a stack"):
        pages = account.cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id)
        return [event for page in pages for event in page["StackEvents"]][::-1]


def _happened(account: Account, stack_id: str) -> set[str]:
    return {event["EventId"] for event in _events(account, stack_id)}


def _shown(event: Mapping[str, Any]) -> str:
    reason = f": {event['ResourceStatusReason']}" if event.get("ResourceStatusReason") else ""
    return f"{event['LogicalResourceId']} ({event['ResourceType']}) {event['ResourceStatus']}{reason}"


def _reasons(account: Account, stack_id: str) -> str:
    """The parts of a stack that failed, of the newest attempt, and why; those only given up for another say nothing."""
    failed = []
    for event in _events(account, stack_id):
        if event["PhysicalResourceId"] == stack_id and event["ResourceStatus"].endswith("_IN_PROGRESS"):
            if event.get("ResourceStatusReason") == "User Initiated":
                failed = []
        elif event["ResourceStatus"].endswith("_FAILED") and "cancelled" not in event.get(
            "ResourceStatusReason", ""
        ):
            failed.append(_shown(event))
    return ": " + "; ".join(failed) + "." if failed else "."


def _outputs(found: Mapping[str, Any]) -> dict[str, str]:
    return {one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", [])}


class _change_set:
    """A change set that is looked at and deleted again."""

    def __init__(self, account: Account, stack: Stack, parameters: list[dict[str, str]]):
        self.account, self.stack, self.parameters = account, stack, parameters
        self.any, self.listed = True, []

    def __enter__(self) -> "_change_set":
        cloudformation = self.account.cloudformation
        name = f"plan-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        with asked(f"plan changes of {self.stack.name}"):
            self.id = cloudformation.create_change_set(
                **_request(self.account, self.stack, self.parameters),
                ChangeSetName=name,
                ChangeSetType="UPDATE",
            )["Id"]
            found = self._waited(cloudformation)
        if found["Status"] == "FAILED":
            self.any = not any(says in found.get("StatusReason", "") for says in _NO_CHANGE)
            if self.any:
                self.__exit__()
                raise DeployError(f"{self.stack.name}: no plan can be made: {found.get('StatusReason')}")
        self.listed = list(_listed(found))
        return self

    def _waited(self, cloudformation: Any) -> dict[str, Any]:
        until = time.monotonic() + self.account.timeout_s
        while True:
            found = cloudformation.describe_change_set(ChangeSetName=self.id, StackName=self.stack.name)
            if found["Status"] not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
                return found
            if time.monotonic() > until:
                raise DeployError(f"{self.stack.name}: no plan after {self.account.timeout_s:.0f} s.")
            time.sleep(self.account.poll_s)

    def __exit__(self, *raised: object) -> None:
        with asked("forget a plan"):
            self.account.cloudformation.delete_change_set(ChangeSetName=self.id, StackName=self.stack.name)


def _listed(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for change in found.get("Changes", []):
        one = change["ResourceChange"]
        action = "Replace" if one.get("Replacement") == "True" else one["Action"]
        yield action, one["LogicalResourceId"], one["ResourceType"]
