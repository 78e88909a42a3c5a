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

from actionengine import Engine, Event, RequestContext, StorageUnavailable, replay, replay_async
from actionengine.events.publishers.cloudevents import to_structured
from examples.field_service.services.events.watch import Watch
from examples.field_service.transport import Headers

HEARTBEAT_INTERVAL = 15.0
"""Seconds of silence after which a sign of life is sent: a client that is gone is noticed by writing to it."""

MEDIA_TYPE = "text/event-stream"
NO_BUFFERING = {"cache-control": "no-store", "x-accel-buffering": "no"}

_POLL_INTERVAL = 0.5


def watch_of(query: Mapping[str, str], headers: Headers) -> dict[str, Any]:
    """Return the payload for `events.watch` of a request for the feed."""
    asked: dict[str, Any] = {}
    if types := query.get("types"):
        asked["types"] = types.split(",")
    if position := headers.get("last-event-id"):
        asked["after"] = position
    return asked


def feed(
    engine: Engine,
    context: RequestContext,
    watch: Watch,
    stopping: threading.Event,
    heartbeat: float = HEARTBEAT_INTERVAL,
) -> Iterator[bytes]:
    """Yield messages until `stopping` is set, or until the storage is out of reach: then the client reconnects."""
    listener = _Listener(engine, context, watch, heartbeat)
    yield listener.beat()
    with suppress(StorageUnavailable):
        while not stopping.is_set():
            for event in replay(*listener.whose, **listener.next()):
                yield listener.message(event)
            if listener.is_due():
                yield listener.beat()
            stopping.wait(min(_POLL_INTERVAL, heartbeat))


async def feed_async(
    engine: Engine,
    context: RequestContext,
    watch: Watch,
    stopping: asyncio.Event,
    heartbeat: float = HEARTBEAT_INTERVAL,
) -> AsyncIterator[bytes]:
    """Yield the same messages under an event loop."""
    listener = _Listener(engine, context, watch, heartbeat)
    yield listener.beat()
    with suppress(StorageUnavailable):
        while not stopping.is_set():
            async for event in replay_async(*listener.whose, **listener.next()):
                yield listener.message(event)
            if listener.is_due():
                yield listener.beat()
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), min(_POLL_INTERVAL, heartbeat))


class _Listener:
    """The last event of a client, and the time of the last message to it."""

    def __init__(self, engine: Engine, context: RequestContext, watch: Watch, heartbeat: float) -> None:
        assert context.tenant is not None  # the pipeline has checked that
        self.whose = engine.storage, context.tenant
        self._position = watch.after
        self._types = watch.types
        self._event_types = engine.event_types
        self._heartbeat = heartbeat
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
