"""Brokers: a real NATS server with JetStream, with and without faults; Kafka, RabbitMQ and Redis in memory."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import aiokafka.errors  # type: ignore[import-untyped]
import aiormq.exceptions
import nats
import nats.errors
import nats.js.errors
import pytest
import redis.exceptions
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from examples.embedded_nats import EmbeddedNats, embedded_nats
from faststream.kafka import KafkaBroker, KafkaMessage, TestKafkaBroker
from faststream.nats import NatsBroker
from faststream.rabbit import RabbitBroker, RabbitMessage, TestRabbitBroker
from faststream.redis import RedisBroker, RedisStreamMessage, TestRedisBroker
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from pamqp import commands as spec
from pamqp.header import ContentHeader

from actionengine import ConfigurationError
from actionengine.events.event import Event
from actionengine.events.publishers.addresses import publisher_from_address
from actionengine.events.publishers.brokers import BrokerPublisher
from actionengine.events.publishers.cloudevents import from_cloudevent
from actionengine.events.publishers.dialects import NoDestination, dialect_of, name_for
from actionengine.events.publishers.port import Failures, PublishError, PublisherUnavailable
from tests.events.samples import EVENT, some_events

# The NATS client forgets its socket where a connection could not be made, or was lost.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _forgotten_sockets_are_closed_here_and_not_in_other_tests() -> Iterator[None]:
    yield
    gc.collect()


QUICK = "publish_timeout=0.5&connect_timeout=2"


async def make_stream(url: str, **options: Any) -> None:
    client = await nats.connect(url, connect_timeout=30)
    await client.jetstream(timeout=30).add_stream(name="EVENTS", subjects=["actionengine.>", "other"], **options)
    await client.close()


async def stored(url: str) -> list[Msg]:
    """Return the messages of the stream, oldest first."""
    client = await nats.connect(url, connect_timeout=30)
    jetstream: JetStreamContext = client.jetstream(timeout=30)
    count = (await jetstream.stream_info("EVENTS")).state.messages
    subscription = await jetstream.pull_subscribe("", stream="EVENTS")
    found: list[Msg] = []
    while len(found) < count:
        found += await subscription.fetch(count - len(found), timeout=30)
    await client.close()
    return found


async def until_delivered(publisher: Any, events: Sequence[Event]) -> None:
    """Publish events again and again, as a relay does, until they are delivered."""
    async with asyncio.timeout(90):
        while True:
            try:
                if not await publisher.publish(events):
                    return
            except PublisherUnavailable:
                await asyncio.sleep(0.05)


def run_with(address: str, test: Callable[[Any], Awaitable[None]]) -> None:
    """Run a test with a publisher that is stopped afterwards."""

    async def run() -> None:
        publisher: Any = publisher_from_address(address)
        try:
            await test(publisher)
        finally:
            await publisher.stop()

    asyncio.run(run())


def headers_of(message: Msg) -> dict[str, str]:
    return dict(message.headers or {})


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_jetstream_stores_a_cloudevent_that_comes_back_unchanged(nats_server: EmbeddedNats, mode: str) -> None:
    events = [*some_events(40), EVENT._replace(type="job\nbooked*", subject='né"\n%', actor_id=None)]

    async def test(publisher: Any) -> None:
        await make_stream(nats_server.url)
        await publisher.start()
        assert not await publisher.publish(events)
        messages = await stored(nats_server.url)

        assert {message.subject for message in messages} == {"actionengine.job.booked", "actionengine.job_booked_"}
        by_id = {event.id: event for event in events}
        for message in messages:
            envelope = http.HTTPMessage(headers_of(message), message.data)
            read = http.from_http(envelope, JSONFormat(), CloudEvent)
            assert read.get_data() == EVENT.payload
            assert from_cloudevent(headers_of(message), message.data) == by_id.pop(read.get_id())
        assert not by_id

    run_with(f"{nats_server.url}?stream=EVENTS&mode={mode}", test)


def test_jetstream_keeps_an_event_that_is_published_twice_once(nats_server: EmbeddedNats) -> None:
    events = some_events(3)

    async def test(publisher: Any) -> None:
        await make_stream(nats_server.url)
        for _ in range(3):
            assert not await publisher.publish(events)
        assert sorted(headers_of(message)["Nats-Msg-Id"] for message in await stored(nats_server.url)) == sorted(
            event.id for event in events
        )

    run_with(f"{nats_server.url}?stream=EVENTS", test)


@pytest.mark.parametrize("size", [600_000, 1_048_576 - 500, 5_000_000])
def test_an_event_that_is_too_large_fails_alone_and_for_good(nats_server: EmbeddedNats, size: int) -> None:
    fine, too_large = some_events(2)
    too_large = too_large._replace(data=json.dumps("x" * size).encode())

    async def test(publisher: Any) -> None:
        await make_stream(nats_server.url, max_msg_size=500_000)
        failures: Failures = await publisher.publish([too_large, fine])

        assert list(failures) == [too_large.id]
        assert failures[too_large.id].retry is False
        assert not isinstance(failures[too_large.id], PublisherUnavailable)
        assert not await publisher.publish(some_events(1))
        assert len(await stored(nats_server.url)) == 2

    run_with(f"{nats_server.url}?stream=EVENTS", test)


def test_a_restarted_server_gets_the_remaining_events(nats_server: EmbeddedNats) -> None:
    before, after = some_events(5), some_events(5)

    async def test(publisher: Any) -> None:
        await make_stream(nats_server.url)
        await until_delivered(publisher, before)
        nats_server.stop()
        for _ in range(2):
            with pytest.raises(PublisherUnavailable):
                await publisher.publish(after)
        with pytest.raises(PublisherUnavailable, match="out of reach"):
            await publisher.start()
        nats_server.start()
        await until_delivered(publisher, after)
        found = sorted(headers_of(message)["Nats-Msg-Id"] for message in await stored(nats_server.url))
        assert found == sorted(event.id for event in before + after)

    run_with(f"{nats_server.url}?stream=EVENTS&{QUICK}", test)


def test_a_broker_of_the_hosts_own_making_recovers_too(nats_server: EmbeddedNats) -> None:
    async def test() -> None:
        await make_stream(nats_server.url)
        broker = NatsBroker(nats_server.url)
        publisher = BrokerPublisher(broker, options={"stream": "EVENTS"}, publish_timeout=0.5, connect_timeout=0.5)
        await until_delivered(publisher, some_events(1))
        nats_server.stop()
        for _ in range(2):
            with pytest.raises(PublisherUnavailable):
                await publisher.publish(some_events(1))
        nats_server.start()
        await until_delivered(publisher, some_events(1))
        await publisher.stop()

    asyncio.run(test())


def test_a_frozen_server_is_waited_for_until_the_timeout(nats_server: EmbeddedNats) -> None:
    events = some_events(3)

    async def test(publisher: Any) -> None:
        await make_stream(nats_server.url)
        await publisher.start()
        nats_server.freeze()
        with pytest.raises(PublisherUnavailable, match=r"not acknowledged the event within 0\.5 seconds"):
            await publisher.publish(events)
        with pytest.raises(PublisherUnavailable, match="did not answer within 2 seconds"):
            await publisher.publish(events)
        nats_server.thaw()
        await until_delivered(publisher, events)
        assert len(await stored(nats_server.url)) == 3

    run_with(f"{nats_server.url}?stream=EVENTS&{QUICK}", test)


def test_a_publisher_can_be_stopped_while_the_server_is_frozen(nats_server: EmbeddedNats) -> None:
    async def test(publisher: Any) -> None:
        await publisher.start()
        nats_server.freeze()
        await publisher.stop()
        nats_server.thaw()
        await until_delivered(publisher, some_events(1))

    run_with(f"{nats_server.url}?{QUICK}", test)


@pytest.mark.parametrize("query", ["stream=EVENTS&destination=nowhere", "stream=MISSING"])
def test_events_without_their_stream_hold_up_no_others(nats_server: EmbeddedNats, query: str) -> None:
    events = some_events(2)

    async def test(publisher: Any) -> None:
        await make_stream(nats_server.url)
        failures: Failures = await publisher.publish(events)

        assert {type(failure) for failure in failures.values()} == {NoDestination}
        assert isinstance(failures[events[0].id], PublisherUnavailable)

    run_with(f"{nats_server.url}?{query}", test)


def test_without_a_stream_those_who_listen_get_the_events(nats_server: EmbeddedNats) -> None:
    events = some_events(20)

    async def test(publisher: Any) -> None:
        client = await nats.connect(nats_server.url, connect_timeout=30)
        subscription = await client.subscribe("jobs")
        await client.flush()
        assert not await publisher.publish(events)
        found = [await subscription.next_msg(30) for _ in events]
        assert {from_cloudevent(headers_of(message), message.data) for message in found} == set(events)
        await client.close()
        nats_server.freeze()
        with pytest.raises(PublisherUnavailable, match="not acknowledged"):
            await publisher.publish(events)

    run_with(f"{nats_server.url}?destination=jobs&publish_timeout=2", test)


@pytest.mark.parametrize("user", ["", "ann:wrong@"])
def test_credentials_that_are_refused_are_no_fault_of_the_event(user: str) -> None:
    with embedded_nats("--user", "ann", "--pass", "secret") as server:

        async def test(publisher: Any) -> None:
            with pytest.raises(PublisherUnavailable, match="Authorization Violation") as caught:
                await publisher.publish([EVENT])
            assert "wrong" not in str(caught.value)

        run_with(f"{server.url.replace('//', f'//{user}')}?{QUICK}", test)

        async def allowed(publisher: Any) -> None:
            assert not await publisher.publish([EVENT])

        run_with(server.url.replace("//", "//ann:secret@"), allowed)


def test_a_destination_and_options_may_be_functions_of_the_event(nats_server: EmbeddedNats) -> None:
    def subject(event: Event) -> str:
        if event.position == 1:
            raise LookupError("nowhere to go")
        return "bad subject" if event.position == 2 else f"actionengine.{event.tenant_id}"

    events = some_events(3)

    async def test() -> None:
        await make_stream(nats_server.url)
        publisher = BrokerPublisher(
            NatsBroker(nats_server.url),
            subject,
            options=lambda event: {"stream": "EVENTS", "headers": {"Position": str(event.position)}},
        )
        failures = await publisher.publish(events)
        await publisher.stop()

        assert str(failures[events[1].id]) == "LookupError: nowhere to go"
        assert failures[events[1].id].retry is True
        assert "invalid subject" in str(failures[events[2].id])
        (message,) = await stored(nats_server.url)
        assert message.subject == f"actionengine.{EVENT.tenant_id}"
        assert headers_of(message)["Position"] == "0"
        assert from_cloudevent(headers_of(message), message.data) == events[0]

    asyncio.run(test())


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_kafka_gets_cloudevents_with_a_key_of_tenant_and_subject(mode: Any) -> None:
    events = [
        EVENT._replace(action_id="1"),
        EVENT._replace(id="2", action_id="2", subject=None),
        EVENT._replace(id="3", action_id="3", subject="né\n%"),
    ]
    found: list[KafkaMessage] = []

    async def test() -> None:
        broker = KafkaBroker()

        @broker.subscriber("actionengine.job.booked")
        async def seen(message: KafkaMessage) -> None:
            found.append(message)

        async with TestKafkaBroker(broker):
            publisher = BrokerPublisher(broker, mode=mode)
            await publisher.start()
            assert not await publisher.publish(events)
            await publisher.stop()

    asyncio.run(test())
    found.sort(key=lambda message: message.headers["correlation_id"])
    read = [from_cloudevent(message.headers, message.body) for message in found]
    keys = [message.raw_message.key for message in found]  # type: ignore[union-attr]
    assert read == events
    assert keys == [f"{EVENT.tenant_id}/job/17".encode(), b"", f"{EVENT.tenant_id}/né\n%".encode()]
    assert ("ce_type" in found[0].headers) is (mode == "binary")


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_rabbitmq_gets_persistent_cloudevents(mode: Any) -> None:
    events = [EVENT, EVENT._replace(id="3", subject="né\n%")]
    found: list[RabbitMessage] = []

    async def test() -> None:
        broker = RabbitBroker()

        @broker.subscriber("actionengine.job.booked")
        async def seen(message: RabbitMessage) -> None:
            found.append(message)

        async with TestRabbitBroker(broker):
            publisher = BrokerPublisher(broker, mode=mode)
            await publisher.start()
            assert not await publisher.publish(events)
            await publisher.stop()

    asyncio.run(test())
    read = [from_cloudevent(m.headers | {"content-type": m.content_type or ""}, m.body) for m in found]
    assert sorted(read, key=lambda event: event.id) == events
    assert sorted(message.message_id or "" for message in found) == [event.id for event in events]
    assert dialect_of(RabbitBroker()).complete(EVENT, {"content-type": ""}, 1)["persist"] is True
    assert ("cloudEvents_type" in found[0].headers) is (mode == "binary")


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_redis_gets_cloudevents_in_streams(mode: Any) -> None:
    events = [EVENT, EVENT._replace(id="3", subject="né\n%", type="job.booked")]
    found: list[RedisStreamMessage] = []

    async def test() -> None:
        broker = RedisBroker()

        @broker.subscriber(stream="actionengine.job.booked")
        async def seen(message: RedisStreamMessage) -> None:
            found.append(message)

        async with TestRedisBroker(broker):
            publisher = BrokerPublisher(broker, mode=mode)
            await publisher.start()
            assert not await publisher.publish(events)
            await publisher.stop()

    asyncio.run(test())
    read = [from_cloudevent(message.headers, message.body) for message in found]
    assert sorted(read, key=lambda event: event.id) == events


RETURNED: Any = DeliveredMessage(spec.Basic.Return(), ContentHeader(), b"", Channel)  # type: ignore[arg-type]


def test_a_message_that_rabbitmq_gives_back_is_not_delivered() -> None:
    doubt = dialect_of(RabbitBroker()).unconfirmed_reason

    assert "no queue takes the message" in str(doubt(RETURNED))
    assert doubt(spec.Basic.Ack()) is None


def too_large_for_rabbit(size: int) -> Exception:
    reason = f"PRECONDITION_FAILED - message size {size} is larger than configured max size 10"
    return aiormq.exceptions.ChannelPreconditionFailed(reason)


@pytest.mark.parametrize(
    ("broker", "error", "kind", "retry"),
    [
        (NatsBroker(), nats.errors.MaxPayloadError(), PublishError, False),
        (NatsBroker(), nats.errors.BadSubjectError(), PublishError, False),
        (NatsBroker(), nats.errors.ConnectionClosedError(), PublisherUnavailable, True),
        (NatsBroker(), nats.errors.OutboundBufferLimitError(), PublisherUnavailable, True),
        (NatsBroker(), nats.errors.NoRespondersError(), PublisherUnavailable, True),
        (NatsBroker(), nats.js.errors.NoStreamResponseError(), NoDestination, True),
        (NatsBroker(), nats.js.errors.ServiceUnavailableError(code=503), PublisherUnavailable, True),
        (NatsBroker(), nats.js.errors.BadRequestError(code=400, err_code=10071), PublishError, True),
        (NatsBroker(), nats.js.errors.BadRequestError(code=400, err_code=10060), NoDestination, True),
        (NatsBroker(), ConnectionResetError(), PublisherUnavailable, True),
        (NatsBroker(), KeyError("of the host"), PublishError, True),
        (KafkaBroker(), aiokafka.errors.MessageSizeTooLargeError(), PublishError, False),
        (KafkaBroker(), aiokafka.errors.RecordListTooLargeError(), PublishError, False),
        (KafkaBroker(), aiokafka.errors.InvalidTopicError(), PublishError, False),
        (KafkaBroker(), aiokafka.errors.InvalidTimestampError(), PublishError, True),
        (KafkaBroker(), aiokafka.errors.UnknownTopicOrPartitionError(), NoDestination, True),
        (KafkaBroker(), aiokafka.errors.KafkaConnectionError(), PublisherUnavailable, True),
        (KafkaBroker(), aiokafka.errors.TopicAuthorizationFailedError(), PublisherUnavailable, True),
        (KafkaBroker(), KeyError("of the host"), PublishError, True),
        (RabbitBroker(), too_large_for_rabbit(1000), PublishError, False),
        (RabbitBroker(), too_large_for_rabbit(5000), PublisherUnavailable, True),
        (RabbitBroker(), aiormq.exceptions.ChannelNotFoundEntity("no exchange"), NoDestination, True),
        (RabbitBroker(), aiormq.exceptions.PublishError(RETURNED, RETURNED.delivery), NoDestination, True),
        (RabbitBroker(), aiormq.exceptions.AMQPConnectionError("gone"), PublisherUnavailable, True),
        (RabbitBroker(), aiormq.exceptions.ChannelInvalidStateError("closed"), PublisherUnavailable, True),
        (RabbitBroker(), KeyError("of the host"), PublishError, True),
        (RedisBroker(), redis.exceptions.ConnectionError("gone"), PublisherUnavailable, True),
        (RedisBroker(), redis.exceptions.AuthenticationError("no"), PublisherUnavailable, True),
        (RedisBroker(), redis.exceptions.OutOfMemoryError("full"), PublisherUnavailable, True),
        (RedisBroker(), redis.exceptions.ResponseError("MISCONF disk"), PublisherUnavailable, True),
        (RedisBroker(), redis.exceptions.ResponseError("WRONGTYPE of the key"), PublishError, True),
        (RedisBroker(), redis.exceptions.DataError("odd"), PublishError, True),
        (RedisBroker(), KeyError("of the host"), PublishError, True),
    ],
    ids=lambda value: getattr(value, "__name__", None) or type(value).__name__,
)
def test_what_an_error_of_a_client_means(broker: Any, error: Exception, kind: type[PublishError], retry: bool) -> None:
    found = dialect_of(broker).meaning(error, 1000)

    assert type(found) is kind
    assert found.retry is retry


@pytest.mark.parametrize(
    ("type", "name"),
    [
        ("job.booked", "actionengine.job.booked"),
        ("job..booked", "actionengine.job._.booked"),
        ("job booked*>", "actionengine.job_booked__"),
        ("büro/1", "actionengine.b_ro_1"),
        (".", "actionengine._._"),
    ],
)
def test_a_type_becomes_a_destination_that_every_broker_takes(type: str, name: str) -> None:
    assert name_for(type) == name


def test_a_destination_is_never_too_long() -> None:
    assert len(name_for("x" * 1000)) == 249


@pytest.mark.parametrize(
    "options",
    [{"mode": "avro"}, {"destination": ""}, {"destination": 7}, {"publish_timeout": 0}, {"source": "two words"}],
)
def test_options_that_cannot_be_used_are_a_mistake(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        BrokerPublisher(NatsBroker(), **options)


def test_what_is_no_broker_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match=r"faststream\.nats, \.kafka, \.rabbit or \.redis, not builtins\.str"):
        BrokerPublisher("nats://localhost")
