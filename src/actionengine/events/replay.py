"""Readers of a tenant's event log: `replay` ends with the newest event, `follow` waits for new ones."""

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
    """Yield a tenant's events in commit order, up to the newest.

    Args:
        storage: the storage of the events: `engine.storage`.
        tenant: the tenant of the events.
        types: the types to yield; None means all.
        after: the `position` of the last event to leave out; None begins with the first event.
        event_types: declarations, such as `engine.event_types`: payloads of these types come in their newest version.
        batch_size: the number of events that are read at once, 1000 at most.

    Raises:
        ConfigurationError: immediately, for an argument that cannot be used.
        EventVersionError: at an event that cannot be upcast.
        StorageUnavailable: while reading. Continue with `after`, the last event's `position`.
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
    """Do the same under an event loop."""
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
    """Yield a tenant's events in commit order, and then new ones as they are committed, for example for server-sent
    events.

    Arguments and errors are those of `replay`. The storage is asked for new events every `poll_interval` seconds. The
    iterator ends when `stop` is set, or when it is closed.
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
    """Do the same under an event loop. The iterator ends with the task, or when it is closed."""
    reading = _Reading(types, after, event_types, batch_size)
    return _follow_async(storage, tenant, reading, _validate_interval(poll_interval))


class _Reading:
    """The position of a reader, and the arguments of its queries."""

    def __init__(
        self, types: Iterable[str] | None, after: int | None, event_types: EventTypes | None, batch_size: int
    ) -> None:
        if after is not None and (not isinstance(after, int) or isinstance(after, bool) or after < 0):
            raise ConfigurationError(f"`after` must be the position of an event, a number from 0 on, not {after!r}")
        self.position = after or 0
        self._types = type_names(types)
        self._declared = event_types if isinstance(event_types, Mapping) else by_type(event_types or ())
        self._batch_size = validate_batch_size(batch_size)

    def options(self) -> dict[str, Any]:
        """Return the arguments of the next query."""
        return {"after": self.position, "limit": self._batch_size, "types": self._types}

    def events(self, page: Iterable[Any]) -> Iterator[Event]:
        """Yield the events of a page, and move the position after each."""
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
    """Return the names of event types, each once; None for all. Raise `ConfigurationError` for an unusable name."""
    if types is None:
        return None
    if isinstance(types, str):
        raise ConfigurationError(f"`types` must be a collection of names, not the text {types!r}: write [{types!r}]")
    names = tuple(dict.fromkeys(types))
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"`types` must contain names of event types, not {name!r}")
    return names


def validate_batch_size(size: int) -> int:
    """Return the number of events in a batch. Raise `ConfigurationError` for one that is not from 1 to 1000."""
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 1000:
        raise ConfigurationError(f"batch_size must be a number from 1 to 1000, not {size!r}")
    return size


def _validate_interval(seconds: float) -> float:
    if not seconds > 0:
        raise ConfigurationError(f"poll_interval must be a number of seconds above 0, not {seconds!r}")
    return seconds
