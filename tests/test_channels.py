"""Each way to a receiver, on a real one: what arrives, what a failure says, and that no secret is in it."""

import base64
import hashlib
import hmac
import json
import logging
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from receiving import Hook, Mail, closing

from cryptomon_lib.channels import Message, send, signature
from cryptomon_lib.discretion import scrubbed
from cryptomon_lib.errors import NotifyError
from cryptomon_lib.notices import Transition
from cryptomon_lib.receivers import Apprise, File, Log, Sns, Webhook

PROJECT = Path(__file__).parent.parent
NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)


def message(*markets, kind="alert", rule="volume_3x", severity="warning"):
    told = tuple(
        Transition(NOON, f"alert-{market}", "firing", rule, f"kraken:kraken:{market}", severity, NOON)
        for market in markets or ("BTC-USD",)
    )
    return Message("id-1", "maria", "here", kind, NOON, "a title", "a text\nof two lines", told)


@pytest.fixture
def hook():
    with closing(Hook()) as server:
        yield server


@pytest.fixture
def mail():
    with closing(Mail()) as server:
        yield server


def test_the_log_has_the_title_and_the_text(local, caplog):
    with caplog.at_level(logging.WARNING, "cryptomon.notices"):
        send(local.storage, Log(), message())

    assert "maria: a title\na text" in caplog.text


def test_a_file_is_one_object_however_often_it_is_sent(monitor):
    send(monitor.storage, File(), message())
    send(monitor.storage, File(), message())

    (one,) = monitor.storage.objects("notices")
    assert one.key == "notices/maria/2026-07-27/id-1.json"
    assert json.loads(monitor.storage.get(one.key))["alerts"][0]["id"] == "alert-BTC-USD"


# ---- webhook


@pytest.fixture
def webhook(hook, monkeypatch):
    monkeypatch.setenv(
        "HOOK_KEY", "whsec_" + base64.b64encode(b"a key of thirty-two characters ...").decode()
    )
    return Webhook(url=hook.url, secret_env="HOOK_KEY")


def test_a_webhook_is_signed_over_id_time_and_body(local, hook, webhook):
    send(local.storage, webhook, message("BTC-USD", "ETH-USD"))

    ((headers, body),) = hook.received
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(b"a key of thirty-two characters ...", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    assert headers["webhook-id"] == "id-1"
    assert abs(int(headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60
    assert [one["market_id"] for one in json.loads(body)["alerts"]] == [
        "kraken:kraken:BTC-USD",
        "kraken:kraken:ETH-USD",
    ]


def test_the_verification_that_the_documentation_shows_takes_it_and_nothing_else(local, hook, webhook):
    (code,) = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "notices.md").read_text(), re.S)
    shown = {}
    exec(code, shown)
    send(local.storage, webhook, message())
    ((headers, body),) = hook.received
    secret = os.environ["HOOK_KEY"]

    assert shown["verified"](headers, body, secret)
    assert not shown["verified"](headers, body + b" ", secret)
    assert not shown["verified"](headers | {"webhook-id": "id-2"}, body, secret)
    assert not shown["verified"](headers | {"webhook-timestamp": "1600000000"}, body, secret)


def test_the_signature_is_that_of_the_published_example():
    # the test vector of standardwebhooks.com
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'

    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize(
    ("answer", "permanent"),
    [(500, False), (503, False), (429, False), (408, False), (400, True), (410, True), (302, True)],
)
def test_a_refusal_is_told_and_only_some_are_worth_another_try(local, hook, webhook, answer, permanent):
    hook.answers = [answer]

    with pytest.raises(NotifyError, match=f"HTTP {answer}") as raised:
        send(local.storage, webhook, message())
    assert raised.value.permanent is permanent and hook.received == []


def test_a_webhook_that_nobody_listens_at_is_told_without_its_address(local, monkeypatch):
    monkeypatch.setenv("HOOK_KEY", "key")
    monkeypatch.setenv("HOOK_URL", "http://127.0.0.1:1/hunter2")

    with pytest.raises(NotifyError) as raised:
        send(local.storage, Webhook(url_env="HOOK_URL", secret_env="HOOK_KEY"), message())
    assert str(raised.value) == "no answer: ConnectionError" and not raised.value.permanent


def test_a_variable_that_is_not_set_is_named_and_tried_again(local, hook):
    with pytest.raises(NotifyError, match="HOOK_KEY is not set") as raised:
        send(local.storage, Webhook(url=hook.url, secret_env="HOOK_KEY"), message())
    assert not raised.value.permanent


@pytest.mark.parametrize("address", ["hunter2", "ftp://hunter2/x", "http://"])
def test_an_address_that_is_none_is_parked_and_not_repeated(local, monkeypatch, address):
    monkeypatch.setenv("HOOK_KEY", "key")
    monkeypatch.setenv("HOOK_URL", address)

    with pytest.raises(NotifyError, match="HOOK_URL is no address") as raised:
        send(local.storage, Webhook(url_env="HOOK_URL", secret_env="HOOK_KEY"), message())
    assert raised.value.permanent and "hunter2" not in str(raised.value)


def test_a_secret_address_is_in_no_log_even_when_libraries_tell_all(local, hook, monkeypatch, caplog):
    monkeypatch.setenv("HOOK_KEY", "key")
    monkeypatch.setenv("HOOK_URL", f"{hook.url}/hunter2")

    with caplog.at_level(logging.DEBUG):
        send(local.storage, Webhook(url_env="HOOK_URL", secret_env="HOOK_KEY"), message())
    assert hook.calls == 1 and "hunter2" not in caplog.text


# ---- mail, by apprise


@pytest.fixture
def mailbox(mail, monkeypatch):
    monkeypatch.setenv(
        "MARIA_MAIL", f"mailto://127.0.0.1:{mail.port}?from=monitor@example.org&to=maria@example.org"
    )
    return Apprise(url_env="MARIA_MAIL")


def test_a_mail_arrives_with_title_text_and_id(local, mail, mailbox):
    send(local.storage, mailbox, message())

    (received,) = mail.received
    assert "Subject: a title" in received and "maria@example.org" in received
    assert "a text" in received and "of two lines" in received and "notice id-1" in received


def test_a_mail_that_is_refused_is_told_with_the_servers_words(local, mail, mailbox):
    mail.answers = ["451 greylisted, come again"]

    with pytest.raises(NotifyError, match="greylisted") as raised:
        send(local.storage, mailbox, message())
    assert not raised.value.permanent and mail.received == []
    send(local.storage, mailbox, message())
    assert len(mail.received) == 1


def test_an_address_that_apprise_does_not_know_is_parked_and_not_repeated(local, monkeypatch, caplog, capfd):
    monkeypatch.setenv("MARIA_MAIL", "carrierpigeon://maria:hunter2@example.org")

    with caplog.at_level(logging.DEBUG), pytest.raises(NotifyError, match="MARIA_MAIL") as raised:
        send(local.storage, Apprise(url_env="MARIA_MAIL"), message())
    assert raised.value.permanent
    assert "hunter2" not in caplog.text + str(raised.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "address",
    [
        "mailto://maria:hunter2@127.0.0.1:1?from=a@example.org&to=maria@example.org",
        "jsons://127.0.0.1:1/hunter2",
        "json://hunter2:hunter2@127.0.0.1:1/",
    ],
)
def test_a_failure_of_a_service_says_no_secret_in_error_log_or_output(
    local, monkeypatch, caplog, capfd, address
):
    monkeypatch.setenv("MARIA_MAIL", address)

    with caplog.at_level(logging.DEBUG), pytest.raises(NotifyError) as raised:
        send(local.storage, Apprise(url_env="MARIA_MAIL"), message())
    assert str(raised.value)
    assert "hunter2" not in caplog.text + str(raised.value) + "".join(capfd.readouterr())


def test_what_a_library_says_loses_every_piece_of_the_address():
    says = scrubbed(
        "535 user MARIA bad p@ss for smtp.example.org at tok%2Fen",
        ["mailto://maria:p%40ss@smtp.example.org/tok%2Fen"],
    )

    assert says == "535 user *** bad *** for *** at ***"


# ---- SNS


@pytest.fixture
def topic(s3):
    """A topic on the loopback AWS, and a queue that takes only what its filter policy lets through."""
    session = pytest.importorskip("boto3").Session(region_name="us-east-1")
    sns, sqs = (session.client(name, endpoint_url=s3.endpoint_url) for name in ("sns", "sqs"))

    def made(name, policy=None, fifo=False):
        ending = ".fifo" if fifo else ""
        attributes = {"FifoTopic": "true"} if fifo else {}
        arn = sns.create_topic(Name=f"{name}{ending}", Attributes=attributes)["TopicArn"]
        address = sqs.create_queue(
            QueueName=f"{name}{ending}", Attributes={"FifoQueue": "true"} if fifo else {}
        )["QueueUrl"]
        queue_arn = f"arn:aws:sqs:us-east-1:123456789012:{name}{ending}"
        subscription = {"FilterPolicy": json.dumps(policy)} if policy else {}
        sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue_arn, Attributes=subscription)

        def taken():
            found = []
            while more := sqs.receive_message(QueueUrl=address, MaxNumberOfMessages=10).get("Messages", []):
                for one in more:
                    sqs.delete_message(QueueUrl=address, ReceiptHandle=one["ReceiptHandle"])
                    found.append(json.loads(one["Body"]))
            return found

        return Sns(topic_arn=arn, endpoint_url=s3.endpoint_url), taken

    return made


@pytest.mark.s3
def test_sns_gets_one_message_a_transition_and_a_subscriber_filters_by_rule_severity_and_market(local, topic):
    policy = {
        "rule": ["volume_3x"],
        "severity": ["critical"],
        "market": [{"prefix": "kraken:"}],
        "pair": ["C3-USD"],
    }
    receiver, taken = topic("alerts-filtered", policy)

    send(local.storage, receiver, message(*(f"C{number}-USD" for number in range(23)), severity="critical"))
    send(local.storage, receiver, message("C3-USD", severity="warning"))
    send(local.storage, receiver, message("C3-USD", severity="critical", rule="price_3x"))

    (one,) = taken()
    alerts = json.loads(one["Message"])["alerts"]
    assert [alert["market_id"] for alert in alerts] == ["kraken:kraken:C3-USD"]
    assert one["MessageAttributes"]["severity"]["Value"] == "critical"


@pytest.mark.s3
def test_sns_leaves_out_what_an_earlier_attempt_delivered(local, topic):
    receiver, taken = topic("alerts-again")
    send(local.storage, receiver, message("A-USD", "B-USD", "C-USD"))
    first = taken()
    assert len(first) == 3

    ids = [json.loads(one["Message"])["id"] for one in first]
    send(local.storage, receiver, message("A-USD", "B-USD", "C-USD"), delivered=ids[:2])
    (again,) = taken()
    # the same id at every attempt
    assert json.loads(again["Message"])["id"] == ids[2]


@pytest.mark.s3
def test_a_topic_that_is_not_there_is_parked(local, topic):
    receiver, _ = topic("alerts-gone")
    gone = Sns(topic_arn=receiver.topic_arn.replace("gone", "never"), endpoint_url=receiver.endpoint_url)

    with pytest.raises(NotifyError, match="NotFound") as raised:
        send(local.storage, gone, message())
    assert raised.value.permanent


@pytest.mark.s3
def test_a_topic_that_keeps_order_sends_an_id_once(local, topic):
    receiver, taken = topic("alerts-ordered", fifo=True)
    send(local.storage, receiver, message("A-USD"))
    send(local.storage, receiver, message("A-USD"))

    found = taken()
    assert 1 <= len(found) <= 2
    assert len({json.loads(one["Message"])["id"] for one in found}) == 1


def test_sns_that_nobody_listens_at_is_tried_again(local, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    away = Sns(topic_arn="arn:aws:sns:eu-central-1:123456789012:alerts", endpoint_url="http://127.0.0.1:1")

    with pytest.raises(NotifyError, match="SNS: EndpointConnectionError") as raised:
        send(local.storage, away, message())
    assert not raised.value.permanent
