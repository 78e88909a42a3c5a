"""The dialects of brokers: the arguments of a message, and the meaning of errors."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from actionengine.errors import ConfigurationError
from actionengine.events.event import Event
from actionengine.events.publishers.cloudevents import AMQP_PREFIX, HTTP_PREFIX, KAFKA_PREFIX
from actionengine.events.publishers.port import PublishError, PublisherUnavailable

_MAX_NAME_LENGTH = 249
_unfit = re.compile(r"[^A-Za-z0-9._-]").sub

Arguments = dict[str, Any]
"""The arguments of `broker.publish`, besides the message and its destination."""


class NoDestination(PublisherUnavailable):
    """The broker works, but has no destination for this event: correct the broker's setup, or the destination."""


class ErrorKind(Protocol):
    """The meaning of an exception of a broker's client, for an event of `size` bytes."""

    def __call__(self, error: Exception, size: int) -> PublishError:
        """Return the reason why the event was not delivered."""


def _nothing(*_: Any) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of broker.

    `destination` is the argument of `broker.publish` for the destination; `prefix` begins the headers of a CloudEvent.
    `complete` returns the broker's own arguments for an event, from its headers and the timeout (seconds). `refusal`
    returns the reason why a message (body, arguments) must not be sent, or None; `unconfirmed_reason` the reason why
    the answer of `broker.publish` is no acknowledgement, or None. If the broker may give no answer, `settle` waits
    (seconds) until the sent messages have arrived. `lost` returns whether the publisher has to reconnect; it is None if
    the client reconnects by itself.
    """

    name: str
    destination: str
    prefix: str
    complete: Callable[[Event, dict[str, str], float], Arguments]
    meaning: ErrorKind
    refusal: Callable[[Any, bytes, Arguments], str | None] = _nothing
    unconfirmed_reason: Callable[[Any], str | None] = _nothing
    settle: Callable[[Any, float], Awaitable[None]] | None = None
    lost: Callable[[Any], bool] | None = None


def dialect_of(broker: Any) -> Dialect:
    """Return the dialect of a FastStream broker. Raise `ConfigurationError` for anything else."""
    for kind in type(broker).__mro__:
        package = ".".join(kind.__module__.split(".")[:2])
        if package in _DIALECTS:
            return _DIALECTS[package]
    given = f"{type(broker).__module__}.{type(broker).__name__}"
    raise ConfigurationError(
        f"a BrokerPublisher needs a broker of faststream.nats, .kafka, .rabbit or .redis, not {given}"
    )


def name_for(type: str) -> str:
    """Return a destination for an event type that every broker accepts: dots, hyphens, ASCII letters and digits."""
    parts = _unfit("_", f"actionengine.{type}").split(".")
    return ".".join(part or "_" for part in parts)[:_MAX_NAME_LENGTH]


def _unavailable(broker: str, error: Exception) -> PublisherUnavailable:
    return PublisherUnavailable(f"{broker}: {type(error).__name__}: {error}")


def _of_the_event(error: Exception) -> PublishError:
    return error if isinstance(error, PublishError) else PublishError(f"{type(error).__name__}: {error}")


def _too_large(broker: str, size: int, error: object) -> PublishError:
    return PublishError(f"{broker} does not take a message of {size} bytes: {error}", retry=False)


def _for_nats(event: Event, headers: dict[str, str], timeout: float) -> Arguments:
    return {"headers": headers | {"Nats-Msg-Id": event.id}, "timeout": timeout}


async def _flush_nats(broker: Any, seconds: float) -> None:
    """Wait for all messages: one without a stream has no answer, but the server reads in order, and answers this."""
    await broker.connection.flush(seconds)


def _nats_lost(broker: Any) -> bool:
    return not broker.connection.is_connected


def _over_max_payload(broker: Any, body: bytes, arguments: Arguments) -> str | None:
    """Return the reason to refuse a message that is too large with its headers, on which the server would close the
    connection: the client counts the body only."""
    sent: Mapping[str, str] = {
        "content-type": "",
        "correlation_id": arguments.get("correlation_id", ""),
        "Nats-Expected-Stream": arguments.get("stream") or "",
        **arguments["headers"],
    }
    headers = len("NATS/1.0\r\n\r\n") + sum(len(f"{name}: {value}\r\n".encode()) for name, value in sent.items())
    limit = broker.connection.max_payload
    if headers + len(body) <= limit:
        return None
    return f"NATS takes messages of at most {limit} bytes, not of {headers + len(body)} (of these {headers} headers)"


_NATS_TOO_LARGE = 10054
"""JetStream's code for a message over the stream's `max_msg_size`."""
_NATS_OTHER_STREAM = 10060


def _nats(error: Exception, size: int) -> PublishError:
    from nats import errors
    from nats.js import errors as jetstream

    if isinstance(error, errors.MaxPayloadError):
        return _too_large("NATS", size, error)
    if isinstance(error, jetstream.APIError) and error.err_code == _NATS_TOO_LARGE:
        return _too_large("JetStream", size, error)
    if isinstance(error, errors.BadSubjectError | errors.BadHeaderError):
        return PublishError(f"NATS: {error}", retry=False)
    if isinstance(error, jetstream.NoStreamResponseError):
        return NoDestination("JetStream: no stream takes the subject: make one, or correct the destination")
    if isinstance(error, jetstream.APIError) and error.err_code == _NATS_OTHER_STREAM:
        return NoDestination(f"JetStream: another stream than the one asked for takes the subject: {error}")
    if isinstance(error, jetstream.BadRequestError):
        return PublishError(f"JetStream: {error}")
    return _unavailable("NATS", error) if isinstance(error, errors.Error | OSError) else _of_the_event(error)


def _for_kafka(event: Event, headers: dict[str, str], timeout: float) -> Arguments:
    key = None if event.subject is None else f"{event.tenant_id}/{event.subject}".encode("utf-8", "replace")
    return {"headers": headers, "key": key}


def _kafka(error: Exception, size: int) -> PublishError:
    from aiokafka import errors  # type: ignore[import-untyped]

    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordTooLargeError | errors.RecordListTooLargeError):
        return _too_large("Kafka", size, error)
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return NoDestination(f"Kafka: {error}")
    if isinstance(error, errors.InvalidTopicError):
        return PublishError(f"Kafka: {error}", retry=False)
    if isinstance(error, errors.InvalidTimestampError | errors.PolicyViolationError | errors.IllegalArgumentError):
        return _of_the_event(error)
    return _unavailable("Kafka", error) if isinstance(error, errors.KafkaError | OSError) else _of_the_event(error)


def _for_rabbit(event: Event, headers: dict[str, str], timeout: float) -> Arguments:
    content_type = headers.pop("content-type")
    return {
        "headers": headers,
        "content_type": content_type,
        "message_id": event.id,
        "persist": True,
        "timeout": timeout,
    }


def _unrouted(confirmation: Any) -> str | None:
    returned = getattr(confirmation, "delivery", confirmation)
    if type(returned).__name__ != "Return":
        return None
    return "RabbitMQ: no queue takes the message: declare and bind one, or publish with mandatory=False"


def _rabbit(error: Exception, size: int) -> PublishError:
    from aiormq import exceptions

    if isinstance(error, exceptions.ChannelPreconditionFailed) and f"size {size} " in str(error):
        # It closes the channel: other messages fail with the same exception, and their size differs.
        return _too_large("RabbitMQ", size, error)
    if isinstance(error, exceptions.ChannelNotFoundEntity | exceptions.PublishError):
        return NoDestination(f"RabbitMQ: {error}")
    ours = (exceptions.AMQPError, exceptions.ChannelInvalidStateError, OSError)
    return _unavailable("RabbitMQ", error) if isinstance(error, ours) else _of_the_event(error)


def _for_redis(event: Event, headers: dict[str, str], timeout: float) -> Arguments:
    return {"headers": headers}


_REDIS_OWN_TROUBLE = ("NOAUTH", "WRONGPASS", "NOPERM", "MISCONF", "LOADING", "NOREPLICAS", "BUSY", "OOM", "READONLY")


def _redis(error: Exception, size: int) -> PublishError:
    from redis import exceptions

    if isinstance(error, exceptions.DataError):
        return _of_the_event(error)
    reaches = not isinstance(error, exceptions.ClusterError | exceptions.OutOfMemoryError | exceptions.ReadOnlyError)
    if isinstance(error, exceptions.ResponseError) and reaches and not str(error).startswith(_REDIS_OWN_TROUBLE):
        return _of_the_event(error)
    ours = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
    return _unavailable("Redis", error) if isinstance(error, ours) else _of_the_event(error)


_DIALECTS: Mapping[str, Dialect] = {
    "faststream.nats": Dialect(
        "NATS", "subject", HTTP_PREFIX, _for_nats, _nats, refusal=_over_max_payload, settle=_flush_nats, lost=_nats_lost
    ),
    "faststream.kafka": Dialect("Kafka", "topic", KAFKA_PREFIX, _for_kafka, _kafka),
    "faststream.rabbit": Dialect(
        "RabbitMQ", "routing_key", AMQP_PREFIX, _for_rabbit, _rabbit, unconfirmed_reason=_unrouted
    ),
    "faststream.redis": Dialect("Redis", "stream", HTTP_PREFIX, _for_redis, _redis),
}
