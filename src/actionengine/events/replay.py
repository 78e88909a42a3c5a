"""A tenant's events from the event log: once through (`replay`), or from then on (`follow`)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from actionengine.context import Tenant
from actionengine.errors import ConfigurationError
from actionengine.event_types import EventType, by_type
from actionengine.events.event import Event
from actionengine.storage.port import Storage

EventTypes = Mapping[str, EventType] | Iterable[EventType]


def replay(
    storage: Storage,
    tenant: Tenant,
    *,
    types: Iterable[str] | None = None,
    after: int | None = None,
    event_types: EventTypes | None = None,
    batch_size: int = 500,
) -> Iterator[Event]:
    """A tenant's events in commit order, up to the newest.

    Args:
        storage: where they are: `engine.storage`.
        tenant: whose they are.
        types: the types to give; None gives all.
        after: the `position` of the event to go on after; None begins with the first.
        event_types: declarations, such as `engine.event_types`: payloads of these types come in their newest version.
        batch_size: events that are read at once, 1000 at most.

    Raises:
        ConfigurationError: for arguments that are none, at once.
        EventVersionError: at an event that cannot be upcast.
        StorageUnavailable: while reading. Go on after the last event's `position`.
    """
    return _replay(storage, tenant, _Reading(types, after, event_types, batch_size))


def replay_async(
    storage: Storage,
    tenant: Tenant,
    *,
    types: Iterable[str] | None = None,
    after: int | None = None,
    event_types: EventTypes | None = None,
    batch_size: int = 500,
) -> AsyncIterator[Event]:
    """The same under an event loop."""
    return _replay_async(storage, tenant, _Reading(types, after, event_types, batch_size))


def follow(
    storage: Storage,
    tenant: Tenant,
    *,
    types: Iterable[str] | None = None,
    after: int | None = None,
    event_types: EventTypes | None = None,
    batch_size: int = 500,
    poll_interval: float = 0.5,
    stop: threading.Event | None = None,
) -> Iterator[Event]:
    """A tenant's events in commit order, and then new ones as they come: what server-sent events are made of.

    Arguments and errors are those of `replay`. The storage is asked for new events each `poll_interval` seconds. It
    ends when `stop` is set, or when nobody goes on with it.
    """
    reading = _Reading(types, after, event_types, batch_size)
    return _follow(storage, tenant, reading, _validate_interval(poll_interval), stop or threading.Event())


def follow_async(
    storage: Storage,
    tenant: Tenant,
    *,
    types: Iterable[str] | None = None,
    after: int | None = None,
    event_types: EventTypes | None = None,
    batch_size: int = 500,
    poll_interval: float = 0.5,
) -> AsyncIterator[Event]:
    """The same under an event loop. It ends with the task, or when nobody goes on with it."""
    reading = _Reading(types, after, event_types, batch_size)
    return _follow_async(storage, tenant, reading, _validate_interval(poll_interval))


class _Reading:
    """Where a reader is, and what it asks for."""

    def __init__(
        self, types: Iterable[str] | None, after: int | None, event_types: EventTypes | None, batch_size: int
    ) -> None:
        if after is not None and (not isinstance(after, int) or isinstance(after, bool) or after < 0):
            raise ConfigurationError(f"`after` is the position of an event, not {after!r}")
        self.position = after or 0
        self._types = type_names(types)
        self._declared = event_types if isinstance(event_types, Mapping) else by_type(event_types or ())
        self._batch_size = validate_batch_size(batch_size)

    def options(self) -> dict[str, Any]:
        """What to ask the storage for."""
        return {"after": self.position, "limit": self._batch_size, "types": self._types}

    def events(self, page: Iterable[Any]) -> Iterator[Event]:
        """The events of a page; the reader has passed each that was given."""
        for position, row in page:
            event = Event.of(position, row, self._declared)
            self.position = position
            yield event


def _replay(storage: Storage, tenant: Tenant, reading: _Reading) -> Iterator[Event]:
    while page := storage.read_events(tenant, **reading.options()):
        yield from reading.events(page)


async def _replay_async(storage: Storage, tenant: Tenant, reading: _Reading) -> AsyncIterator[Event]:
    while page := await storage.read_events_async(tenant, **reading.options()):
        for event in reading.events(page):
            yield event


def _follow(
    storage: Storage, tenant: Tenant, reading: _Reading, poll_interval: float, stop: threading.Event
) -> Iterator[Event]:
    while not stop.is_set():
        asked = time.monotonic()
        for event in _replay(storage, tenant, reading):
            yield event
            if stop.is_set():
                return
        stop.wait(max(0.0, asked + poll_interval - time.monotonic()))


async def _follow_async(
    storage: Storage, tenant: Tenant, reading: _Reading, poll_interval: float
) -> AsyncIterator[Event]:
    while True:
        asked = time.monotonic()
        async for event in _replay_async(storage, tenant, reading):
            yield event
        await asyncio.sleep(max(0.0, asked + poll_interval - time.monotonic()))


def type_names(types: Iterable[str] | None) -> Sequence[str] | None:
    """Names of event types, each once; None for all. Raises `ConfigurationError` for what is none."""
    if types is None:
        return None
    if isinstance(types, str):
        raise ConfigurationError(f"`types` is a collection of names, not the text {types!r}")
    names = tuple(dict.fromkeys(types))
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"`types` has names of event types in it, and {name!r} is none")
    return names


def validate_batch_size(size: int) -> int:
    """A number of events that a storage gives at once. Raises `ConfigurationError`."""
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 1000:
        raise ConfigurationError(f"batch_size is a number from 1 to 1000, not {size!r}")
    return size


def _validate_interval(seconds: float) -> float:
    if not seconds > 0:
        raise ConfigurationError(f"poll_interval is a number of seconds above 0, not {seconds!r}")
    return seconds
