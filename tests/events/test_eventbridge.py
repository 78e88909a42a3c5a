"""EventBridge: events on a bus of moto, and their outcomes when AWS has trouble."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config  # type: ignore[import-untyped]

from actionengine import ConfigurationError
from actionengine.events.event import Event
from actionengine.events.publishers.cloudevents import from_cloudevent
from actionengine.events.publishers.eventbridge import MAX_BYTES, MAX_DETAIL_TYPE_LENGTH, EventBridgePublisher
from actionengine.events.publishers.port import PublishError, PublisherUnavailable
from tests.events.samples import EVENT, some_events
from tests.events.scripted_aws import Answer, ScriptedAWS, accept, fail_some, refuse, scripted_aws


@pytest.fixture(autouse=True)
def _credentials_that_are_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_DEFAULT_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    # Each worker collects these tests, and one runs them.
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def arrived(moto_url: str) -> Callable[[], list[dict[str, Any]]]:
    """Return the events on the bus `orders`, through a rule and a queue."""
    made = {name: boto3.client(name, endpoint_url=moto_url) for name in ("events", "sqs")}
    made["events"].create_event_bus(Name="orders")
    url = made["sqs"].create_queue(QueueName="all")["QueueUrl"]
    arn = made["sqs"].get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pattern = json.dumps({"source": ["actionengine"]})
    made["events"].put_rule(Name="all", EventBusName="orders", EventPattern=pattern)
    made["events"].put_targets(Rule="all", EventBusName="orders", Targets=[{"Id": "queue", "Arn": arn}])

    def receive() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while messages := made["sqs"].receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            found += [json.loads(message["Body"]) for message in messages]
        return found

    return receive


@pytest.fixture
def aws() -> Iterator[ScriptedAWS]:
    with scripted_aws() as aws:
        yield aws


def publisher_for(aws: ScriptedAWS, **options: Any) -> EventBridgePublisher:
    return EventBridgePublisher(endpoint_url=aws.url, **({"pause": 0} | options))


def impatient(aws: ScriptedAWS) -> Any:
    config = Config(read_timeout=0.2, connect_timeout=1, retries={"mode": "standard", "total_max_attempts": 1})
    return boto3.client("events", endpoint_url=aws.url, config=config)


def nth(entry: dict[str, Any]) -> int:
    return int(json.loads(entry["Detail"])["sequence"])


def positions(entries: list[dict[str, Any]]) -> list[int]:
    return [nth(entry) for entry in entries]


def test_events_arrive_as_cloudevents_of_their_type(moto_url: str, arrived: Callable[[], list[dict[str, Any]]]) -> None:
    events = some_events(23)
    publisher = EventBridgePublisher(bus="orders", endpoint_url=moto_url)
    publisher.start()

    assert not publisher.publish(events)

    found = arrived()
    # An answer that comes late, as on a busy machine, makes boto3 send again.
    assert {message["detail"]["id"] for message in found} == {str(event.id) for event in events}
    assert {message["detail-type"] for message in found} == {"job.booked"}
    assert {message["source"] for message in found} == {"actionengine"}
    by_id = {event.id: event for event in events}
    for message in found:
        read = from_cloudevent({}, json.dumps(message["detail"]))
        assert read._replace(data=EVENT.data) == by_id[read.id]
        assert read.payload == EVENT.payload


def test_a_bus_that_is_not_there_is_found_at_the_start(moto_url: str) -> None:
    with pytest.raises(PublisherUnavailable, match=r"'elsewhere'.*ResourceNotFoundException"):
        EventBridgePublisher(bus="elsewhere", endpoint_url=moto_url).start()


def test_ten_entries_go_out_in_a_request(aws: ScriptedAWS) -> None:
    assert not publisher_for(aws).publish(some_events(25))
    assert aws.sizes() == [10, 10, 5]


def test_no_request_has_more_bytes_than_aws_takes(aws: ScriptedAWS) -> None:
    assert not publisher_for(aws).publish(some_events(7, data=b'"%s"' % (b"x" * 100_000)))
    assert aws.sizes() == [2, 2, 2, 1]


def size_of(event: Event, aws: ScriptedAWS) -> int:
    publisher_for(aws).publish([event])
    entry = aws.requests.pop()[0]
    return 14 + sum(len(entry[name].encode()) for name in ("Source", "DetailType", "Detail"))


def test_an_event_over_the_size_of_aws_fails_alone(aws: ScriptedAWS) -> None:
    events = some_events(3)
    room = MAX_BYTES - size_of(events[1]._replace(data=b'""'), aws)
    fits = events[1]._replace(data=b'"%s"' % (b"x" * room))
    too_large = events[2]._replace(data=b'"%s"' % (b"x" * (room + 1)))

    failures = publisher_for(aws).publish([events[0], fits, too_large])

    assert list(failures) == [too_large.id]
    assert failures[too_large.id].retry is False
    assert str(failures[too_large.id]) == "the event has 262145 bytes; EventBridge takes 262144"
    assert aws.sizes() == [1, 1]


def test_a_type_that_is_too_long_fails_alone_and_for_good(aws: ScriptedAWS) -> None:
    fine = EVENT._replace(type="é" * MAX_DETAIL_TYPE_LENGTH)
    too_long = EVENT._replace(id="2", type="x" * (MAX_DETAIL_TYPE_LENGTH + 1))

    failures = publisher_for(aws).publish([fine, too_long])

    assert list(failures) == ["2"]
    assert failures["2"].retry is False
    assert "129 characters" in str(failures["2"])


@pytest.mark.parametrize("code", ["ThrottlingException", "InternalFailure", "InternalException", "ServiceUnavailable"])
def test_entries_that_fail_for_the_moment_are_tried_again_alone(aws: ScriptedAWS, code: str) -> None:
    aws.script = [
        fail_some(lambda entry: code if nth(entry) in (2, 5, 6) else None),
        fail_some(lambda entry: code if nth(entry) == 5 else None),
        accept,
    ]

    assert not publisher_for(aws).publish(some_events(10))

    assert [positions(entries) for entries in aws.requests] == [list(range(10)), [2, 5, 6], [5]]


def test_only_events_that_stay_throttled_count_as_unavailable(aws: ScriptedAWS) -> None:
    events = some_events(10)
    aws.script = [fail_some(lambda entry: "ThrottlingException" if nth(entry) == 3 else None)]

    failures = publisher_for(aws, tries=3).publish(events)

    assert list(failures) == [events[3].id]
    assert isinstance(failures[events[3].id], PublisherUnavailable)
    assert aws.sizes() == [10, 1, 1]


@pytest.mark.parametrize(("code", "retry"), [("MalformedDetail", False), ("InvalidArgument", False), ("Odd", True)])
def test_an_entry_that_aws_refuses_is_a_failure_of_that_event(aws: ScriptedAWS, code: str, retry: bool) -> None:
    events = some_events(4)
    aws.script = [fail_some(lambda entry: code if nth(entry) == 1 else None)]

    failures = publisher_for(aws).publish(events)

    assert list(failures) == [events[1].id]
    assert not isinstance(failures[events[1].id], PublisherUnavailable)
    assert failures[events[1].id].retry is retry
    assert code in str(failures[events[1].id])


def test_a_refused_request_is_sent_again_event_by_event(aws: ScriptedAWS) -> None:
    events = some_events(4)

    def particular(entries: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        return (refuse(400, "ValidationException") if 2 in positions(entries) else accept)(entries)

    aws.script = [particular]

    failures = publisher_for(aws).publish(events)

    assert list(failures) == [events[2].id]
    assert failures[events[2].id].retry is False
    assert not isinstance(failures[events[2].id], PublisherUnavailable)
    assert aws.sizes() == [4, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "answer",
    [
        refuse(400, "ThrottlingException"),
        refuse(500, "InternalFailure"),
        refuse(503, "ServiceUnavailable"),
        refuse(400, "AccessDeniedException"),
        refuse(400, "ExpiredTokenException"),
        refuse(400, "UnrecognizedClientException"),
        refuse(400, "ResourceNotFoundException"),
        lambda entries: (200, {}),
        fail_some(lambda entry: "ThrottlingException"),
    ],
)
def test_a_request_that_fails_as_a_whole_is_an_outage(aws: ScriptedAWS, answer: Answer) -> None:
    aws.script = [answer]

    with pytest.raises(PublisherUnavailable, match="EventBridge"):
        EventBridgePublisher(client=impatient(aws), pause=0).publish(some_events(3))


def test_an_outage_in_the_middle_leaves_what_has_been_delivered(aws: ScriptedAWS) -> None:
    events = some_events(25)
    aws.script = [accept, refuse(400, "ExpiredTokenException")]

    failures = publisher_for(aws).publish(events)

    assert set(failures) == {event.id for event in events[10:]}
    assert all(isinstance(failure, PublisherUnavailable) for failure in failures.values())
    assert aws.sizes() == [10, 10]


def test_an_outage_between_two_tries_keeps_delivered_events(aws: ScriptedAWS) -> None:
    events = some_events(3)
    aws.script = [
        fail_some(lambda entry: {1: "ThrottlingException", 2: "MalformedDetail"}.get(nth(entry))),
        refuse(400, "ExpiredTokenException"),
    ]

    failures = publisher_for(aws).publish(events)

    assert {id: type(failure) for id, failure in failures.items()} == {
        events[1].id: PublisherUnavailable,
        events[2].id: PublishError,
    }


def test_an_outage_while_sending_one_by_one_keeps_delivered_ones(aws: ScriptedAWS) -> None:
    events = some_events(3)
    aws.script = [refuse(400, "ValidationException"), accept, refuse(400, "ExpiredTokenException")]

    failures = publisher_for(aws).publish(events)

    assert list(failures) == [event.id for event in events[1:]]
    assert all(isinstance(failure, PublisherUnavailable) for failure in failures.values())


def test_an_endpoint_that_never_answers_is_an_outage(aws: ScriptedAWS) -> None:
    aws.script = [aws.hang]

    with pytest.raises(PublisherUnavailable, match=r"out of reach: ReadTimeoutError"):
        EventBridgePublisher(client=impatient(aws)).publish([EVENT])


def test_an_endpoint_that_is_not_there_is_an_outage() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        publisher = EventBridgePublisher(endpoint_url=f"http://127.0.0.1:{unused.getsockname()[1]}")

        with pytest.raises(PublisherUnavailable, match="EndpointConnectionError"):
            publisher.publish([EVENT])
        with pytest.raises(PublisherUnavailable, match="EndpointConnectionError"):
            publisher.start()


@pytest.mark.parametrize("missing", [("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("AWS_SECRET_ACCESS_KEY",)])
def test_without_credentials_nothing_can_be_published(
    aws: ScriptedAWS, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    for name in missing:
        monkeypatch.delenv(name)
    with pytest.raises((PublisherUnavailable, ConfigurationError), match=r"[Cc]redentials"):
        publisher_for(aws).start()
    assert not aws.requests


def test_the_start_does_not_mind_that_it_may_not_ask_for_the_bus(aws: ScriptedAWS) -> None:
    aws.script = [refuse(400, "AccessDeniedException"), accept]
    publisher = publisher_for(aws)

    publisher.start()

    assert not publisher.publish([EVENT])
    assert aws.targets == ["AWSEvents.DescribeEventBus", "AWSEvents.PutEvents"]


def test_the_start_minds_credentials_that_have_expired(aws: ScriptedAWS) -> None:
    aws.script = [refuse(400, "ExpiredTokenException")]
    with pytest.raises(PublisherUnavailable, match="ExpiredTokenException"):
        publisher_for(aws).start()


def test_half_characters_in_an_event_do_no_harm(aws: ScriptedAWS) -> None:
    event = EVENT._replace(type="odd\ud800", subject="a\ud800b\n")

    assert not publisher_for(aws).publish([event])

    assert from_cloudevent({}, aws.requests[0][0]["Detail"]) == event


def test_without_a_region_there_is_no_publisher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigurationError, match="AWS_DEFAULT_REGION"):
        EventBridgePublisher()


@pytest.mark.parametrize(
    "options",
    [
        {"bus": ""},
        {"source": "aws.orders"},
        {"source": ""},
        {"tries": 0},
        {"pause": -1},
        {"client": object(), "region": "eu-central-1"},
        {"endpoint_url": "nonsense"},
    ],
)
def test_options_that_cannot_be_used_are_a_mistake(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        EventBridgePublisher(**options)
