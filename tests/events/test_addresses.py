"""Publishers by address, and the errors of wrong addresses."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from actionengine import ConfigurationError
from actionengine.events.publishers.addresses import _redact_address, publisher_from_address
from actionengine.events.publishers.brokers import BrokerPublisher
from actionengine.events.publishers.cloudevents import from_cloudevent
from actionengine.events.publishers.eventbridge import EventBridgePublisher
from actionengine.events.publishers.port import CallbackPublisher
from actionengine.events.publishers.stdout import StdoutPublisher
from tests.events.samples import EVENT, some_events

HERE = "tests.events.test_addresses"

ready_made = CallbackPublisher(print)
not_one = object()
number = 7


def make() -> CallbackPublisher:
    return ready_made


def fail() -> None:
    raise RuntimeError("no luck")


class Made:
    def publish(self, events: Any) -> None:
        return None


@pytest.mark.parametrize(
    ("address", "kind", "shows"),
    [
        ("nats://localhost:4222?stream=EVENTS&mode=binary&destination=x&publish_timeout=2", BrokerPublisher, "NATS"),
        ("nats://ann:secret@one:4222,two:4222", BrokerPublisher, "NATS"),
        ("kafka://one:9092,two:9092?source=https://example.com", BrokerPublisher, "Kafka"),
        ("amqp://ann:secret@localhost/vhost?exchange=events", BrokerPublisher, "RabbitMQ"),
        ("redis://:secret@localhost:6379/3?to=list", BrokerPublisher, "Redis"),
        ("eventbridge://orders?region=eu-central-1&endpoint_url=http://127.0.0.1:1", EventBridgePublisher, "'orders'"),
        ("eventbridge:?region=eu-central-1", EventBridgePublisher, "'default'"),
        (
            "eventbridge://arn:aws:events:eu-central-1:123456789012:event-bus/orders?region=eu-central-1",
            EventBridgePublisher,
            "'arn:aws:events:eu-central-1:123456789012:event-bus/orders'",
        ),
        ("stdout:", StdoutPublisher, ""),
        (f"{HERE}:ready_made", CallbackPublisher, ""),
        (f"{HERE}:make", CallbackPublisher, ""),
        (f"{HERE}:Made", Made, ""),
    ],
)
def test_an_address_names_a_publisher(address: str, kind: type, shows: str) -> None:
    publisher = publisher_from_address(address)

    assert type(publisher) is kind
    assert shows in repr(publisher)
    assert "secret" not in repr(publisher)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "names no publisher"),
        ("carrier-pigeon://roof", "names no publisher"),
        ("http://ann:secret@example.com", "names no publisher"),
        ("ann:secret@nats", "names no publisher"),
        ("nats:", "names no host"),
        ("nats://ann:secret@", "names no host"),
        ("nats://one,,two", "names no host"),
        ("nats://ann:secret@host?strem=EVENTS", "does not take strem"),
        ("nats://ann:secret@host?publish_timeout=soon", "a number of seconds, not 'soon'"),
        ("nats://ann:secret@host?publish_timeout=0", "above 0"),
        ("nats://ann:secret@host?mode=avro", "'structured' or 'binary'"),
        ("nats://ann:secret@[host", "is not an address"),
        ("kafka://ann:secret@host", "a Kafka address takes no user"),
        ("redis://:secret@host?to=moon", "stream, list or channel"),
        ("eventbridge://bus?stream=x", "does not take stream"),
        ("stdout:?mode=binary", "does not take mode"),
        ("no_such_module:thing", "there is no module 'no_such_module'"),
        (f"{HERE}:missing", "has no missing"),
        (f"{HERE}:number", "int has no publish"),
        (f"{HERE}:not_one", "object has no publish"),
        (f"{HERE}:fail", "RuntimeError: no luck"),
    ],
)
def test_a_wrong_address_says_why_and_keeps_the_password(address: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        publisher_from_address(address)

    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "module", "advice"),
    [
        ("nats://localhost", "faststream.nats", r"'actionengine\[brokers\]' 'faststream\[nats\]'"),
        ("eventbridge://bus", "boto3", r"'actionengine\[eventbridge\]'"),
    ],
)
def test_what_is_not_installed_is_told_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, address: str, module: str, advice: str
) -> None:
    monkeypatch.delitem(sys.modules, "actionengine.events.publishers.eventbridge", raising=False)
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ConfigurationError, match=f"pip install {advice}"):
        publisher_from_address(address)


def test_a_password_is_left_out_wherever_an_address_is_shown() -> None:
    assert _redact_address("nats://ann:p@ss/word@host:4222?stream=x") == "nats://***@host:4222?stream=x"


def test_the_standard_output_gets_a_line_for_each_event() -> None:
    stream = io.BytesIO()
    events = [*some_events(2), EVENT._replace(data=b'{"a":\n "b\\n"}', subject="x\ny")]

    StdoutPublisher(stream=stream).publish(events)

    lines = stream.getvalue().splitlines()
    read = [from_cloudevent({}, line) for line in lines]
    assert [event.id for event in read] == [event.id for event in events]
    assert read[2].payload == {"a": "b\n"}


def test_the_standard_output_is_the_one_of_the_moment(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    publisher_from_address("stdout:").publish([EVENT])

    assert from_cloudevent({}, capfdbinary.readouterr().out) == EVENT
