"""`BrokerPublisher`: events to NATS, Kafka, RabbitMQ and Redis, through a FastStream broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, TypeGuard

from actionengine.errors import ConfigurationError
from actionengine.events.event import Event
from actionengine.events.publishers.cloudevents import to_binary, to_structured, validate_source
from actionengine.events.publishers.dialects import NoDestination, dialect_of, name_for
from actionengine.events.publishers.port import Failures, PublishError, PublisherUnavailable

_log = logging.getLogger("actionengine")
_STOP_TIMEOUT = 2.0
"""Seconds that a broken connection has to close."""


class BrokerPublisher:
    """Publishes each event as one CloudEvent, all of a call at once, and waits for each acknowledgement.

    The publisher starts and stops the broker, and restarts it after an outage: give it a broker of its own, without
    subscribers.

    The meaning of an acknowledgement depends on the broker:

    - NATS with the option `stream`: JetStream has stored the event. It drops an event that it has already stored within
      the stream's duplicate window, since the header `Nats-Msg-Id` is the event's id. Without `stream`: the server has
      read the event, and its current subscribers get it.
    - Kafka: the partition's leader, or all replicas, have it, depending on `acks` of the broker. The key is tenant and
      subject, so that events of a subject stay in their order.
    - RabbitMQ: the queues have it, on disk if they are durable. A message that no queue takes is not delivered:
      `PublisherUnavailable`, unless `mandatory=False` is among the options.
    - Redis: it is in the stream (`XADD`), or with `to="list"` in the list. With `to="channel"` its current subscribers
      get it, and it is not stored. FastStream wraps body and headers in an envelope of its own.

    An event without a timely acknowledgement may have arrived nevertheless, and arrives again with the next attempt.

    Args:
        broker: a broker of FastStream 0.7.
        destination: the subject, topic, routing key or stream, or a function of the event that returns it; by default
            `actionengine.` and the event's type, with underscores for characters that a broker refuses in a name.
        mode: `"structured"`, all in the body, or `"binary"`, attributes as headers and the payload as the body.
        source: the `source` of the CloudEvents, a URI reference.
        publish_timeout: seconds that an event may take.
        connect_timeout: seconds that a start may take.
        options: further arguments for `broker.publish` (`stream="EVENTS"` of NATS, `exchange=…` of RabbitMQ), or a
            function of the event that returns them.
        to: the argument of `broker.publish` that takes the destination, if it is not the usual one.

    Raises:
        ConfigurationError: for a broker that is not one of FastStream's, and for other values that cannot be used.
    """

    def __init__(
        self,
        broker: Any,
        destination: str | Callable[[Event], str] | None = None,
        *,
        mode: Literal["structured", "binary"] = "structured",
        source: str = "actionengine",
        publish_timeout: float = 5.0,
        connect_timeout: float = 10.0,
        options: Mapping[str, Any] | Callable[[Event], Mapping[str, Any]] | None = None,
        to: str | None = None,
    ) -> None:
        self._dialect = dialect_of(broker)
        if mode not in ("structured", "binary"):
            raise ConfigurationError(f"mode must be 'structured' or 'binary', not {mode!r}")
        if destination == "" or not isinstance(destination, str | Callable | None):
            raise ConfigurationError(f"destination must be a text or a function of an event, not {destination!r}")
        if publish_timeout <= 0 or connect_timeout <= 0:
            raise ConfigurationError(
                f"timeouts must be above 0 seconds, not {publish_timeout!r} and {connect_timeout!r}"
            )
        self._broker = broker
        self._destination = destination
        self._mode = mode
        self._source = validate_source(source)
        self._publish_timeout = publish_timeout
        self._connect_timeout = connect_timeout
        self._options = options or {}
        self._to = to or self._dialect.destination
        self._is_started = False
        self._starting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"BrokerPublisher({self._dialect.name})"

    async def start(self) -> None:
        """Connect. Raise `PublisherUnavailable` if that fails, or takes longer than `connect_timeout`."""
        async with self._starting:
            if not self._is_usable():
                await self._connect()

    async def stop(self) -> None:
        """Disconnect. Never raises."""
        async with self._starting:
            await self._disconnect()

    async def publish(self, events: Sequence[Event]) -> Failures:
        """Publish events, in any order. Raise `PublisherUnavailable` if the broker is out of reach, or has taken
        none."""
        if not self._is_usable():
            await self.start()
        outcomes = await asyncio.gather(*(self._outcome(event) for event in events))
        if None in outcomes and self._dialect.settle is not None:
            reason = await self._unsettled(self._dialect.settle)
            outcomes = [reason if outcome is None else outcome for outcome in outcomes]
        outages = [outcome for outcome in outcomes if _is_outage(outcome)]
        if outages and len(outages) == len(outcomes):
            raise outages[0]
        pairs = zip(events, outcomes, strict=True)
        return {event.id: outcome for event, outcome in pairs if isinstance(outcome, PublishError)}

    def _is_usable(self) -> bool:
        return self._is_started and not (self._dialect.lost is not None and self._dialect.lost(self._broker))

    async def _outcome(self, event: Event) -> object:
        """Return the broker's answer, or a `PublishError` if the event was not delivered."""
        size = 0
        try:
            body, arguments = self._message(event)
            size = len(body)
            refusal = self._dialect.refusal(self._broker, body, arguments)
            if refusal is not None:
                return PublishError(refusal, retry=False)
            async with asyncio.timeout(self._publish_timeout):
                answer: object = await self._broker.publish(body, **arguments)
        except TimeoutError:
            return self._timed_out()
        except Exception as error:
            return self._dialect.meaning(error, size)
        doubt = self._dialect.unconfirmed_reason(answer)
        return answer if doubt is None else NoDestination(doubt)

    def _message(self, event: Event) -> tuple[bytes, dict[str, Any]]:
        if self._mode == "structured":
            headers, body = to_structured(event, self._source)
        else:
            headers, body = to_binary(event, self._source, self._dialect.prefix)
        arguments = self._dialect.complete(event, headers, self._publish_timeout)
        arguments["correlation_id"] = event.action_id
        arguments[self._to] = self._destination_of(event)
        options = self._options(event) if callable(self._options) else self._options
        if "headers" in options:
            options = {**options, "headers": {**arguments["headers"], **options["headers"]}}
        return body, {**arguments, **options}

    def _destination_of(self, event: Event) -> str:
        if self._destination is None:
            return name_for(event.type)
        return self._destination if isinstance(self._destination, str) else self._destination(event)

    async def _unsettled(self, settle: Callable[[Any, float], Awaitable[None]]) -> PublishError | None:
        """Return the reason why events without an answer may not have arrived; None if they have."""
        try:
            await settle(self._broker, self._publish_timeout)
        except TimeoutError:
            return self._timed_out()
        except Exception as error:
            return self._dialect.meaning(error, 0)
        return None

    def _timed_out(self) -> PublisherUnavailable:
        if self._dialect.lost is not None:
            # The client would wait for minutes for a server that has vanished.
            self._is_started = False
        return PublisherUnavailable(
            f"{self._dialect.name} has not acknowledged the event within {self._publish_timeout:g} seconds"
        )

    async def _connect(self) -> None:
        await self._disconnect()
        try:
            await _within(self._connect_timeout, self._broker.start())
        except TimeoutError:
            message = f"{self._dialect.name} did not answer within {self._connect_timeout:g} seconds"
            raise PublisherUnavailable(message) from None
        except Exception as error:
            message = f"{self._dialect.name} is out of reach: {type(error).__name__}: {error}"
            raise PublisherUnavailable(message) from error
        self._is_started = True

    async def _disconnect(self) -> None:
        """Close the connection in any state, so that another one can be made."""
        was_usable, self._is_started = self._is_usable(), False
        connection = self._broker._connection
        if connection is None:
            return
        try:
            if self._dialect.lost is not None and not was_usable:
                # Otherwise stopping waits for the messages that are still being sent.
                await _within(_STOP_TIMEOUT, connection.close())
            await _within(_STOP_TIMEOUT, self._broker.stop())
        except Exception as error:
            _log.debug("%s: stopping the broker: %s: %s", self._dialect.name, type(error).__name__, error)
        # FastStream keeps a connection that it could not stop, and would use it again.
        self._broker._connection = None


async def _within(seconds: float, coroutine: Coroutine[Any, Any, object]) -> None:
    """Wait for a coroutine, but not longer than this, even if a client ignores its cancellation. Raise `TimeoutError`,
    and what the coroutine raises."""
    task = asyncio.ensure_future(coroutine)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    if not task.done():
        raise TimeoutError
    task.result()


def _is_outage(outcome: object) -> TypeGuard[PublisherUnavailable]:
    return isinstance(outcome, PublisherUnavailable) and not isinstance(outcome, NoDestination)
