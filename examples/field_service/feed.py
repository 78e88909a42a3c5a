"""The live feed: a tenant's events as server-sent events, while a client listens.

The id of each message is the event's position. A client that reconnects sends the last id in `Last-Event-ID` (browsers
do so by themselves) and continues there, without a gap or a duplicate.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from typing import Any

from returns.result import Failure, Result

from actionengine import ActionError, Engine, Event, RequestContext, StorageUnavailable, replay, replay_async
from actionengine.events.publishers.cloudevents import to_structured
from examples.field_service.gateway import GatewayHeaders
from examples.field_service.services.events.watch import Watch

HEARTBEAT_INTERVAL = 15.0
"""Seconds of silence after which a sign of life is sent: a client that is gone is noticed by writing to it."""

FEED_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}
"""No cache stores a feed, and no proxy buffers it."""

_POLL_INTERVAL = 0.5


def asked_of(query: Mapping[str, str], headers: GatewayHeaders) -> dict[str, Any]:
    """Return the payload of `events.watch` for a request."""
    asked: dict[str, Any] = {}
    if types := query.get("types"):
        asked["types"] = types.split(",")
    if position := headers.get("last-event-id"):
        asked["after"] = position
    return asked


def open_feed(
    engine: Engine,
    context: RequestContext,
    asked: Mapping[str, Any],
    stopping: threading.Event,
    heartbeat: float = HEARTBEAT_INTERVAL,
) -> Iterator[bytes]:
    """Return the messages of a feed. Raises the `ActionError` of `events.watch`, which checks the permission."""
    watch = engine.execute_action("events", "watch", asked, context)
    return feed(_listener(engine, context, watch, heartbeat), stopping)


async def open_feed_async(
    engine: Engine,
    context: RequestContext,
    asked: Mapping[str, Any],
    stopping: asyncio.Event,
    heartbeat: float = HEARTBEAT_INTERVAL,
) -> AsyncIterator[bytes]:
    """Return the same messages under an event loop."""
    watch = await engine.execute_action_async("events", "watch", asked, context)
    return feed_async(_listener(engine, context, watch, heartbeat), stopping)


def feed(listener: "_Listener", stopping: threading.Event) -> Iterator[bytes]:
    """Yield messages until `stopping` is set, or until the storage is out of reach: then the client reconnects."""
    yield listener.beat()
    with suppress(StorageUnavailable):
        while not stopping.is_set():
            for event in replay(*listener.whose, **listener.next()):
                yield listener.message(event)
            if listener.is_due():
                yield listener.beat()
            stopping.wait(listener.pause)


async def feed_async(listener: "_Listener", stopping: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield the same messages under an event loop."""
    yield listener.beat()
    with suppress(StorageUnavailable):
        while not stopping.is_set():
            async for event in replay_async(*listener.whose, **listener.next()):
                yield listener.message(event)
            if listener.is_due():
                yield listener.beat()
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), listener.pause)


def _listener(
    engine: Engine, context: RequestContext, watch: Result[Watch, ActionError], heartbeat: float
) -> "_Listener":
    if isinstance(watch, Failure):
        raise watch.failure()
    return _Listener(engine, context, watch.unwrap(), heartbeat)


class _Listener:
    """The last event of a client, and the time of the last message to it."""

    def __init__(self, engine: Engine, context: RequestContext, watch: Watch, heartbeat: float) -> None:
        assert context.tenant is not None  # the pipeline has checked that
        self.whose = engine.storage, context.tenant
        self._position = watch.after
        self._types = watch.types
        self._event_types = engine.event_types
        self._heartbeat = heartbeat
        self.pause = min(_POLL_INTERVAL, heartbeat)
        self._sent_at = 0.0

    def next(self) -> dict[str, Any]:
        """Return the arguments of the next look."""
        return {"types": self._types, "after": self._position, "event_types": self._event_types}

    def message(self, event: Event) -> bytes:
        """Return the message of an event: a CloudEvent."""
        self._position, self._sent_at = event.position, time.monotonic()
        _, document = to_structured(event, "field-service")
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.position, event.type.encode(), document)

    def is_due(self) -> bool:
        """Return whether the client needs a comment, after a long silence."""
        return time.monotonic() - self._sent_at >= self._heartbeat

    def beat(self) -> bytes:
        """Return a comment, which clients ignore."""
        self._sent_at = time.monotonic()
        return b": still here\n\n"
