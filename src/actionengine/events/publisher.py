"""The port of publishers, and the two that need no broker: a callback, and several publishers as one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from actionengine.errors import ConfigurationError
from actionengine.events.event import Event
from actionengine.plan import is_async


class PublishError(Exception):
    """An event could not be delivered, for a reason of its own.

    It counts as one of the event's attempts. With `retry=False` no other attempt can succeed: the event becomes a dead
    letter at once.
    """

    def __init__(self, reason: str, *, retry: bool = True) -> None:
        super().__init__(reason)
        self.retry = retry


class PublisherUnavailable(PublishError):
    """Nothing can be delivered at the moment: the broker is out of reach, throttles, or refuses our credentials.

    It counts against no event. The relay waits and tries again, until the broker is back.
    """


Failures = Mapping[str, PublishError]
"""Why events were not delivered, by event id; whatever is not in it was."""


class Publisher(Protocol):
    """Where events go.

    `publish` may be a `def` (the relay runs it in a thread) or an `async def`. It gets events of which no two are about
    the same subject of the same tenant, so that they may go out in any order and at once. It returns None, or the
    failures; what it raises holds for all the events it was given. It is bounded by the relay's `publish_timeout`.

    Where a publisher has a `batch_size`, it gets no more events than that in a call (100 without); where it has a
    `concurrency`, so many calls are made at once (one without).

    Two more methods are called where a publisher has them, `def` or `async def`: `start()` before the first event, and
    again after it has failed; and `stop()` at the end.
    """

    def publish(self, events: Sequence[Event]) -> Failures | Awaitable[Failures | None] | None:
        """Deliver events."""


class CallbackPublisher:
    """Calls a function, `def` or `async def`, for one event at a time; for `concurrency` events at once, where it may.

    What it raises is a failed attempt of that event; it may raise `PublishError` and `PublisherUnavailable` itself. The
    relay's `publish_timeout` bounds each call.
    """

    batch_size = 1

    def __init__(self, function: Callable[[Event], Any], *, concurrency: int = 1) -> None:
        if not callable(function):
            raise ConfigurationError(f"a callback is a function of an event, not {function!r}")
        self.concurrency = concurrency
        self._function = function
        self.publish = self._publish_async if is_async(function) else self._publish

    def _publish(self, events: Sequence[Event]) -> None:
        for event in events:
            self._function(event)

    async def _publish_async(self, events: Sequence[Event]) -> None:
        for event in events:
            await self._function(event)


def as_publish_error(error: Exception) -> Exception:
    """What a publisher or a callback has raised, as a `PublishError`: one of its own as it is, a lost or refused
    connection as `PublisherUnavailable`. A `TimeoutError` stays one: whose fault it is depends."""
    if isinstance(error, PublishError | TimeoutError):
        return error
    reason = f"{type(error).__name__}: {told(error)}"
    return PublisherUnavailable(reason) if isinstance(error, ConnectionError) else PublishError(reason)


def told(error: BaseException) -> str:
    """The text of an exception, also of one that cannot say it."""
    try:
        return str(error)
    except Exception as worse:
        return f"its text raised {type(worse).__name__}"
