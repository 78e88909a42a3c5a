"""The port of publishers, what their failures are, and the publisher that calls a function."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from returns.result import Failure

from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from actionengine.events.event import Event
from actionengine.pipeline.plan import is_async


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

    A publisher that takes events from other queues of the outbox than the host's has `queues`: a publisher for each of
    them, by name.

    Two more methods are called where a publisher has them, `def` or `async def`: `start()` before the first event, and
    again after it has failed; and `stop()` at the end.
    """

    def publish(self, events: Sequence[Event]) -> Failures | Awaitable[Failures | None] | None:
        """Deliver events."""


class CallbackPublisher:
    """Calls a function, `def` or `async def`, for one event at a time; for `concurrency` events at once, where it may.

    What it raises is a failed attempt of that event; it may raise `PublishError` and `PublisherUnavailable` itself. A
    `Failure` that it returns, such as an inbox's or an engine's, is one too: what no other attempt can mend
    (`invalid_input`, `forbidden`, …) makes a dead letter at once, and `unavailable` counts against no event. The
    relay's `publish_timeout` bounds each call.
    """

    batch_size = 1

    def __init__(self, function: Callable[[Event], Any], *, concurrency: int = 1) -> None:
        if not callable(function):
            raise ConfigurationError(f"a callback is a function of an event, not {function!r}")
        self.concurrency = concurrency
        self._function = function
        self.publish = self._publish_async if is_async(function) else self._publish

    def _publish(self, events: Sequence[Event]) -> Awaitable[None] | None:
        for number, event in enumerate(events, 1):
            returned = self._function(event)
            if inspect.isawaitable(returned):
                return self._go_on(returned, events[number:])
            _check_returned(returned)
        return None

    async def _publish_async(self, events: Sequence[Event]) -> None:
        for event in events:
            returned = self._function(event)
            _check_returned(await returned if inspect.isawaitable(returned) else returned)

    async def _go_on(self, returned: Awaitable[Any], rest: Sequence[Event]) -> None:
        _check_returned(await returned)
        await self._publish_async(rest)


_FINAL = frozenset(
    {
        ErrorCode.INVALID_INPUT,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.UNPROCESSABLE,
        ErrorCode.HOOK_FAILED,
        ErrorCode.IDEMPOTENCY_MISMATCH,
    }
)
"""What no other attempt can mend."""


class ConnectionLost(PublisherUnavailable):
    """A connection was lost or refused: for want of a broker, or because of what was sent."""


def failed_action(error: ActionError, name: str = "") -> PublishError | None:
    """What the failure of an action means for the event that it was for; None where it counts as delivered: an approval
    that is waited for holds it."""
    if error.code is ErrorCode.APPROVAL_REQUIRED:
        return None
    reason = f"{name}{': ' if name else ''}{error.code}: {error}"
    if error.code is ErrorCode.UNAVAILABLE:
        return PublisherUnavailable(reason)
    return PublishError(reason, retry=error.code not in _FINAL)


def _check_returned(returned: Any) -> None:
    if isinstance(returned, Failure):
        error = returned.failure()
        failed = failed_action(error) if isinstance(error, ActionError) else PublishError(str(error))
        if failed is not None:
            raise failed


def validate_answer(answer: Any, events: Sequence[Event]) -> Failures | PublishError:
    """What `publish` has answered, where it may answer so; otherwise what is wrong with it."""
    if answer is None:
        return {}
    if not isinstance(answer, Mapping):
        return PublishError(
            f"publish() returned a {type(answer).__name__}: it has to return None, or a mapping of event ids to "
            f"PublishErrors"
        )
    unknown = answer.keys() - {event.id for event in events}
    if unknown:
        return PublishError(f"publish() returned a failure for {next(iter(unknown))!r}, which is no id of its events")
    return answer


def as_publish_error(error: Exception) -> Exception:
    """What a publisher or a callback has raised, as a `PublishError`: one of its own as it is, a lost or refused
    connection as `PublisherUnavailable`. A `TimeoutError` stays one: whose fault it is depends."""
    if isinstance(error, PublishError | TimeoutError):
        return error
    reason = f"{type(error).__name__}: {error_text(error)}"
    return ConnectionLost(reason) if isinstance(error, ConnectionError) else PublishError(reason)


def error_text(error: BaseException) -> str:
    """The text of an exception, also of one that cannot say it."""
    try:
        return str(error)
    except Exception as worse:
        return f"its text raised {type(worse).__name__}"
