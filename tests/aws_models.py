"""What moto's CloudFormation does not make, passed on to moto's own services; botocore checks every parameter.

`register(url)` before the first stack is made. Real CloudFormation makes the same calls.
"""

import json
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache

import boto3
import pytest
import requests
from moto.cloudformation import parsing
from moto.cloudformation.responses import CloudFormationResponse
from moto.core.common_models import CloudFormationModel
from moto.core.responses import ActionResult
from moto.iam.access_control import CreateAccessKeyFailure, IAMRequestBase, create_access_key
from moto.s3.models import FakeBucket, FakeKey

ACCOUNT = "123456789012"
_KEYS = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing"}
_place = {"url": None}
# of buckets, by name
policies = {}
# moto keeps its models by the second part of their module's name
_AS = "tests.aws_models"


def register(url):
    """Stacks of the server at this address have these types from now on."""
    _place["url"] = url
    ask.cache_clear()
    # an object that is replaced while another reads it is closed under the reader, which S3 never does
    FakeKey.dispose = lambda key, garbage=False: None
    CloudFormationResponse.update_termination_protection = _update_termination_protection
    for cached in (parsing.get_model_list, parsing.get_model_map, parsing.get_name_type_map):
        cached.cache_clear()


@cache
def ask(service, region, url=None):
    """A client of the server."""
    return boto3.client(service, region_name=region, endpoint_url=url or _place["url"], **_KEYS)


def _update_termination_protection(response):
    """Moto minds it, but has no call that changes it."""
    stack = response.cloudformation_backend.get_stack(response._get_param("StackName"))
    stack.enable_termination_protection = response._get_param("EnableTerminationProtection") in (True, "true")
    return ActionResult({"StackId": stack.stack_id})


class Passed:
    """One resource: its type, the property with its name, and the calls that make and remove it."""

    service, type, named_by = "", "", None

    def __init__(self, name, given):
        self.physical_resource_id, self.given = name, given

    def make(self, service, name, given):
        raise NotImplementedError

    def change(self, service, name, given):
        self.make(service, name, given)

    def take_away(self, service, name):
        raise NotImplementedError

    @classmethod
    def cloudformation_name_type(cls):
        return cls.named_by

    @classmethod
    def cloudformation_type(cls):
        return cls.type

    @classmethod
    def has_cfn_attr(cls, attr):
        return False

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name, cloudformation_json, account_id, region_name, **_
    ):
        made = cls(resource_name, cloudformation_json["Properties"])
        made.make(ask(cls.service, region_name), resource_name, made.given)
        return made

    @classmethod
    def update_from_cloudformation_json(
        cls, original_resource, new_resource_name, cloudformation_json, account_id, region_name
    ):
        given = cloudformation_json["Properties"]
        original_resource.change(ask(cls.service, region_name), original_resource.physical_resource_id, given)
        original_resource.given = given
        return original_resource

    def delete(self, account_id, region_name):
        self.take_away(ask(self.service, region_name), self.physical_resource_id)


def _rule(one):
    expiration = {"Days": one["ExpirationInDays"]} if "ExpirationInDays" in one else {}
    expiration |= {"ExpiredObjectDeleteMarker": True} if one.get("ExpiredObjectDeleteMarker") else {}
    passed = ("Status", "NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload")
    return (
        {"ID": one["Id"], "Filter": {"Prefix": one.get("Prefix", "")}}
        | {name: one[name] for name in passed if name in one}
        | ({"Expiration": expiration} if expiration else {})
    )


class Bucket(Passed, CloudFormationModel):
    __module__ = _AS
    service, type, named_by = "s3", "AWS::S3::Bucket", "BucketName"

    def make(self, service, name, given):
        service.create_bucket(
            Bucket=name, CreateBucketConfiguration={"LocationConstraint": service.meta.region_name}
        )
        self.change(service, name, given)

    def change(self, service, name, given):
        service.put_public_access_block(
            Bucket=name, PublicAccessBlockConfiguration=given["PublicAccessBlockConfiguration"]
        )
        service.put_bucket_ownership_controls(Bucket=name, OwnershipControls=given["OwnershipControls"])
        service.put_bucket_versioning(Bucket=name, VersioningConfiguration=given["VersioningConfiguration"])
        rules = given["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        encrypted = [
            {"ApplyServerSideEncryptionByDefault": one["ServerSideEncryptionByDefault"]} for one in rules
        ]
        service.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": encrypted})
        kept = {"Rules": [_rule(one) for one in given["LifecycleConfiguration"]["Rules"]]}
        service.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration=kept)

    def take_away(self, service, name):
        """It is retained: moto knows only one of the two words for that."""

    @classmethod
    def has_cfn_attr(cls, attr):
        return attr == "Arn"

    def get_cfn_attribute(self, attribute_name):
        return f"arn:aws:s3:::{self.physical_resource_id}"


class BucketPolicy(Passed, CloudFormationModel):
    __module__ = _AS
    service, type, named_by = "s3", "AWS::S3::BucketPolicy", "Bucket"

    def make(self, service, name, given):
        """Kept here: moto's S3 minds no condition of a policy, so one that denies what is not TLS denies everything."""
        policies[name] = given["PolicyDocument"]

    def take_away(self, service, name):
        del policies[name]


class Database(Passed, CloudFormationModel):
    __module__ = _AS
    service, type = "glue", "AWS::Glue::Database"

    def make(self, service, name, given):
        service.create_database(DatabaseInput=given["DatabaseInput"])
        self.physical_resource_id = given["DatabaseInput"]["Name"]

    def take_away(self, service, name):
        service.delete_database(Name=name)


class WorkGroup(Passed, CloudFormationModel):
    __module__ = _AS
    service, type, named_by = "athena", "AWS::Athena::WorkGroup", "Name"

    def make(self, service, name, given):
        service.create_work_group(
            Name=name, Description=given["Description"], Configuration=given["WorkGroupConfiguration"]
        )

    def change(self, service, name, given):
        service.update_work_group(WorkGroup=name, Description=given["Description"])

    def take_away(self, service, name):
        service.delete_work_group(WorkGroup=name, RecursiveDeleteOption=True)


class TopicPolicy(Passed, CloudFormationModel):
    __module__ = _AS
    service, type = "sns", "AWS::SNS::TopicPolicy"

    def make(self, service, name, given):
        for topic in given["Topics"]:
            policy = json.dumps(given["PolicyDocument"])
            service.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy)

    def take_away(self, service, name):
        """It goes with its topic."""


class Subscription(Passed, CloudFormationModel):
    __module__ = _AS
    service, type = "sns", "AWS::SNS::Subscription"

    def make(self, service, name, given):
        self.physical_resource_id = service.subscribe(**given)["SubscriptionArn"]

    def take_away(self, service, name):
        service.unsubscribe(SubscriptionArn=name)


class Alarm(Passed, CloudFormationModel):
    __module__ = _AS
    service, type, named_by = "cloudwatch", "AWS::CloudWatch::Alarm", "AlarmName"

    def make(self, service, name, given):
        service.put_metric_alarm(**given | {"ActionsEnabled": given["ActionsEnabled"] == "true"})

    def take_away(self, service, name):
        service.delete_alarms(AlarmNames=[name])


class Budget(Passed, CloudFormationModel):
    __module__ = _AS
    service, type = "budgets", "AWS::Budgets::Budget"

    def make(self, service, name, given):
        given = json.loads(json.dumps(given))
        given["Budget"]["BudgetLimit"]["Amount"] = str(given["Budget"]["BudgetLimit"]["Amount"])
        service.create_budget(AccountId=ACCOUNT, **given)
        self.physical_resource_id = given["Budget"]["BudgetName"]

    def change(self, service, name, given):
        self.take_away(service, name)
        self.make(service, name, given)

    def take_away(self, service, name):
        service.delete_budget(AccountId=ACCOUNT, BudgetName=name)


class Pipeline(Passed, CloudFormationModel):
    __module__ = _AS
    service, type, named_by = "sagemaker", "AWS::SageMaker::Pipeline", "PipelineName"

    def make(self, service, name, given):
        service.create_pipeline(ClientRequestToken="0" * 32, **self.asked(given))

    def change(self, service, name, given):
        changed = self.asked(given)
        service.update_pipeline(**{key: value for key, value in changed.items() if key != "Tags"})

    def asked(self, given):
        body = given["PipelineDefinition"]["PipelineDefinitionBody"]
        own = {key: value for key, value in given.items() if key != "PipelineDefinition"}
        return own | {"PipelineDefinition": body}

    def take_away(self, service, name):
        service.delete_pipeline(PipelineName=name, ClientRequestToken="0" * 32)


class Schedule(Passed, CloudFormationModel):
    __module__ = _AS
    service, type, named_by = "scheduler", "AWS::Scheduler::Schedule", "Name"

    def make(self, service, name, given):
        service.create_schedule(**given)

    def change(self, service, name, given):
        service.update_schedule(**given)

    def take_away(self, service, name):
        service.delete_schedule(Name=name)


assert FakeBucket.cloudformation_type() == Bucket.type


# what a policy calls it; moto takes the name of the call
_CALLED = {
    "s3:HeadBucket": "s3:ListBucket",
    "s3:ListBuckets": "s3:ListAllMyBuckets",
    "sns:PublishBatch": "sns:Publish",
    "monitoring:PutMetricData": "cloudwatch:PutMetricData",
}


@contextmanager
def enforced(url):
    """Whoever asks needs a policy that lets them, by action, resource and condition; gives what was refused meanwhile.

    Moto itself knows the resource of S3's calls alone and minds no condition; who signs how it is not asked here.
    """
    refused = []

    def check(request, resource):
        action = _CALLED.get(request._action, request._action)
        if action == "sts:GetCallerIdentity":
            return
        given = _given(request)
        resource = given.get("TopicArn", resource)
        context = {"cloudwatch:namespace": given.get("Namespace")}
        if not permitted(policies_of(request._access_key), action, resource, context):
            refused.append((action, resource))
            request._raise_access_denied()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IAMRequestBase, "check_action_permitted", check)
        patch.setattr(IAMRequestBase, "check_signature", lambda request: None)
        patch.setitem(_place, "refused", refused)
        requests.post(f"{url}/moto-api/reset-auth", data="0", timeout=60)
        try:
            yield refused
        finally:
            requests.post(f"{url}/moto-api/reset-auth", data="inf", timeout=60)


def is_permitted(headers, action, *resources):
    """Whether who signed a request to another server may do that with all of these resources; anybody, where nothing is
    enforced."""
    if "refused" not in _place:
        return True
    try:
        key = create_access_key(ACCOUNT, "aws", keys_in(headers)["key"], headers)
    except CreateAccessKeyFailure:
        return False
    denied = [one for one in resources if not permitted(policies_of(key), action, one, {})]
    _place["refused"].extend((action, one) for one in denied)
    return not denied


def keys_in(headers):
    """The credentials of a signed request, as s3fs takes them; the secret is never in it, and nobody checks it here."""
    key = headers["Authorization"].partition("Credential=")[2].partition("/")[0]
    return {"key": key, "secret": "unknown", "token": headers.get("X-Amz-Security-Token")}


def policies_of(access_key):
    """Documents of the policies that one of moto's keys of access has."""
    # those that come with a stack it keeps as values, others as text
    found = [
        one.get("policy_document", one) if isinstance(one, dict) else one
        for one in access_key.collect_policies()
    ]
    return [json.loads(one) if isinstance(one, str) else one for one in found]


def permitted(policies, action, resource, context):
    """What IAM says: one statement has to allow it, none may deny it."""
    effects = {
        one["Effect"]
        for policy in policies
        for one in policy["Statement"]
        if _fits(one["Action"], action)
        and _fits(one["Resource"], resource)
        and _holds(one.get("Condition", {}), context)
    }
    return effects == {"Allow"}


def _fits(patterns, value):
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def _holds(conditions, context):
    # another operator has to be written here before a template may have it
    assert conditions.keys() <= {"StringEquals"}, f"{conditions}: not known how to decide that"
    wanted = conditions.get("StringEquals", {})
    return all(
        context.get(key) in ([value] if isinstance(value, str) else value) for key, value in wanted.items()
    )


def _given(request):
    """Parameters of a call, in whichever form it has them; S3's are in its address."""
    if request._service == "s3":
        return {}
    if request._body.startswith(b"{"):
        return json.loads(request._body)
    return {name: value[0] for name, value in request._data.items() if isinstance(value, list) and value}
