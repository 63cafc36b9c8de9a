"""Ways to a person or a program: log, file, apprise's services, a signed webhook, SNS.

Each sends one message once, or raises NotifyError. Secrets are read from the environment when a message is
sent and are taken out of whatever a library says about a failure.
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
import requests

from cryptomon_lib import config
from cryptomon_lib.discretion import discreet, scrubbed
from cryptomon_lib.errors import ConfigError, NotifyError
from cryptomon_lib.messages import alert_json
from cryptomon_lib.notices import Transition
from cryptomon_lib.receivers import Apprise, File, Log, Receiver, Sns, Webhook
from cryptomon_lib.storage import Storage

log = logging.getLogger(__name__)
told = logging.getLogger("cryptomon.notices")

NOTICES = "notices"
_CONNECT_S, _ANSWER_S = 5, 10
# worth another try; every other status below 500 says that this very message will never be taken
_LATER = {408, 409, 423, 425, 429}
# what SNS says of a message or a topic that no repetition mends
_NEVER = {
    "InvalidParameter",
    "InvalidParameterValue",
    "ParameterValueInvalid",
    "NotFound",
    "InvalidBatchEntryId",
}
_REASON_LENGTH = 300


class Message(msgspec.Struct, frozen=True):
    """One message to one receiver of one user; `id` is the same at every attempt."""

    id: str
    user: str
    receiver: str
    kind: str
    at: datetime
    title: str
    text: str
    transitions: tuple[Transition, ...] = ()
    more: int = 0
    environment: str = ""
    simulated: bool = False

    @property
    def json(self) -> dict[str, Any]:
        """The message for programs."""
        return {
            "id": self.id,
            "kind": self.kind,
            "user": self.user,
            "at": self.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "environment": self.environment,
            "simulated": self.simulated,
            "title": self.title,
            "text": self.text,
            "more": self.more,
            "alerts": [alert_json(one) for one in self.transitions],
        }


def send(
    storage: Storage,
    receiver: Receiver,
    message: Message,
    delivered: Sequence[str] = (),
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Send a message; comes back when the other side has taken it.

    delivered: parts that went through at an earlier attempt (SNS takes a message apart), not sent again.

    Raises NotifyError: it was not taken; `permanent` where no repetition would help.
    """
    try:
        match receiver:
            case Log():
                told.warning("%s: %s\n%s", message.user, message.title, message.text)
            case File():
                key = f"{NOTICES}/{message.user}/{message.at:%Y-%m-%d}/{message.id}.json"
                storage.put(key, json.dumps(message.json, indent=1, ensure_ascii=False).encode())
            case Apprise():
                _by_apprise(receiver, message)
            case Webhook():
                _post(receiver, message, clock())
            case Sns():
                _publish(receiver, message, delivered)
    except ConfigError as error:
        # an environment variable that is not set is mended by setting it: try again
        raise NotifyError(str(error)) from error


def signature(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """What the header webhook-signature carries: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.

    secret: `whsec_` and base64, else the key's own characters. Source: standardwebhooks.com.
    """
    key = secret.encode()
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error as error:
            raise ConfigError(
                "The key of a webhook's signature begins with whsec_, but no base64 follows."
            ) from error
    signed = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signed).decode()


def _post(receiver: Webhook, message: Message, now: datetime) -> None:
    url = receiver.url or config.secret(receiver.url_env)
    body = json.dumps(message.json, ensure_ascii=False).encode()
    timestamp = int(now.timestamp())
    headers = {
        "content-type": "application/json",
        "user-agent": "cryptomon",
        "webhook-id": message.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(config.secret(receiver.secret_env), message.id, timestamp, body),
    }
    try:
        # a signed message goes where the file says and nowhere else; of the answer only the status counts
        with discreet:
            answer = requests.post(
                url,
                data=body,
                headers=headers,
                timeout=(_CONNECT_S, _ANSWER_S),
                allow_redirects=False,
                stream=True,
            )
            answer.close()
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
    ):
        raise NotifyError(f"{receiver.url_env or 'url'} is no address of HTTP.", permanent=True) from None
    except (requests.RequestException, OSError) as error:
        # the library's own words repeat the address, which may be a secret
        raise NotifyError(f"no answer: {type(error).__name__}") from None
    if not 200 <= answer.status_code < 300:
        permanent = answer.status_code < 500 and answer.status_code not in _LATER
        raise NotifyError(f"answered HTTP {answer.status_code}", permanent=permanent)


def _by_apprise(receiver: Apprise, message: Message) -> None:
    apprise = _apprise()
    address = config.secret(receiver.url_env)
    with discreet as says:
        # async_mode: its own threads would outlive the time limit unseen, and log where we do not hear it
        service = apprise.Apprise(asset=apprise.AppriseAsset(app_id="cryptomon", async_mode=False))
        if not service.add(address):
            raise NotifyError(
                f"apprise knows no service by the address in {receiver.url_env}.", permanent=True
            )
        severity = {one.severity for one in message.transitions}
        taken = service.notify(
            title=message.title,
            body=f"{message.text}\n\nnotice {message.id}",
            notify_type="failure"
            if "critical" in severity
            else "warning"
            if "warning" in severity
            else "info",
            body_format="text",
        )
        # shortened only when it is clean: half a secret would not be recognised
        reason = scrubbed("; ".join(says.lines), [address])[:_REASON_LENGTH] or "apprise does not say why"
    if not taken:
        raise NotifyError(reason)


def _publish(receiver: Sns, message: Message, delivered: Sequence[str]) -> None:
    entries = [one for one in _entries(receiver, message) if one["MessageDeduplicationId"] not in delivered]
    went, topic = list(delivered), _topic(receiver.region, receiver.endpoint_url)
    faults = _aws_faults()
    for start in range(0, len(entries), 10):
        batch = entries[start : start + 10]
        ids = {str(number): one["MessageDeduplicationId"] for number, one in enumerate(batch)}
        plain = [_entry(receiver, number, one) for number, one in enumerate(batch)]
        try:
            answer = topic.publish_batch(TopicArn=receiver.topic_arn, PublishBatchRequestEntries=plain)
        except faults as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
            raise NotifyError(f"SNS: {code}", permanent=code in _NEVER, delivered=went) from error
        went += [ids[one["Id"]] for one in answer.get("Successful", [])]
        if failed := answer.get("Failed"):
            codes = ", ".join(sorted({one.get("Code", "unknown") for one in failed}))
            permanent = all(one.get("Code") in _NEVER for one in failed)
            raise NotifyError(f"SNS: {len(failed)} of {len(batch)} not taken: {codes}", permanent, went)


def _entries(receiver: Sns, message: Message) -> list[dict[str, Any]]:
    """One message a transition: who subscribes to the topic chooses by its attributes."""
    if not message.transitions:
        attributes = {"rule": "test", "severity": "info", "market": "none", "state": "test"}
        return [_sns_message(message, message.id, message.json, attributes)]
    made = []
    for one in message.transitions:
        attributes = {
            "rule": one.rule,
            "severity": one.severity,
            "state": one.state,
            "market": one.market_id,
            "exchange": one.place[0],
            "pair": one.place[1],
        }
        body = message.json | {"title": "", "text": "", "alerts": [alert_json(one)]}
        own = hashlib.sha256(f"{message.user}\n{message.receiver}\n{one.key}".encode()).hexdigest()[:32]
        made.append(_sns_message(message, own, body | {"id": own}, attributes))
    return made


def _sns_message(message: Message, id: str, body: dict, attributes: dict[str, str]) -> dict[str, Any]:
    subject = message.title.encode("ascii", "replace").decode()[:100]
    given = attributes | {"id": id, "kind": message.kind}
    return {
        "Message": json.dumps(body, ensure_ascii=False),
        "Subject": subject,
        "MessageDeduplicationId": id,
        "MessageGroupId": attributes["rule"],
        "MessageAttributes": {
            name: {"DataType": "String", "StringValue": value} for name, value in given.items() if value
        },
    }


def _entry(receiver: Sns, number: int, one: dict[str, Any]) -> dict[str, Any]:
    # only a topic that keeps order takes these two, and then sends an id once within five minutes
    ordered = receiver.topic_arn.endswith(".fifo")
    left_out = () if ordered else ("MessageDeduplicationId", "MessageGroupId")
    return {"Id": str(number)} | {name: value for name, value in one.items() if name not in left_out}


@cache
def _topic(region: str, endpoint_url: str | None):
    try:
        import botocore.config
        import botocore.session
    except ImportError as error:
        raise NotifyError("SNS needs botocore: pip install 'cryptomon[aws]'.") from error
    limits = botocore.config.Config(
        connect_timeout=_CONNECT_S, read_timeout=_ANSWER_S, retries={"total_max_attempts": 1}
    )
    return botocore.session.get_session().create_client(
        "sns", region_name=region, endpoint_url=endpoint_url, config=limits
    )


def _aws_faults() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError, OSError


@cache
def _apprise():
    try:
        import apprise
    except ImportError as error:
        raise NotifyError("kind apprise needs apprise: pip install 'cryptomon[notify]'.") from error
    # why something failed it says only where debugging is asked for
    logging.getLogger("apprise").setLevel(logging.DEBUG)
    return apprise
