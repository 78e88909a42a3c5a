"""The port of publishers, their failures, and the publisher that calls a function."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from returns.result import Failure

from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from actionengine.events.event import Event
from actionengine.pipeline.plan import is_async


class PublishError(Exception):
    """A failed attempt to deliver an event, for a reason of the event's own.

    It counts as one of the event's attempts. With `retry=False` no other attempt can succeed: the event becomes a dead
    letter immediately.
    """

    def __init__(self, reason: str, *, retry: bool = True) -> None:
        super().__init__(reason)
        self.retry = retry


class PublisherUnavailable(PublishError):
    """A failure of the broker, which cannot be reached, throttles, or refuses the credentials.

    It counts against no event. The relay waits and tries again, until the broker is available.
    """


Failures = Mapping[str, PublishError]
"""The reasons why events were not delivered, by event id; all other events were delivered."""


class Publisher(Protocol):
    """A destination of events.

    `publish` may be a `def` (the relay runs it in a thread) or an `async def`. No two of its events are about the same
    subject of the same tenant, so that it may send them in any order and at once. It returns None, or the failures; an
    error that it raises counts for all its events. The relay's `publish_timeout` bounds each call.

    These attributes are optional: `batch_size`, the most events of one call (100 by default); `concurrency`, the number
    of calls at once (1 by default); and `queues`, for a publisher that takes events from other queues of the outbox
    than the host's: a publisher for each of them, by name.

    These methods are optional, `def` or `async def`: `start()`, which is called before the first event, and again after
    a failure; and `stop()`, which is called at the end.
    """

    def publish(self, events: Sequence[Event]) -> Failures | Awaitable[Failures | None] | None:
        """Deliver events."""


class CallbackPublisher:
    """Calls a function, `def` or `async def`, with each event, for `concurrency` events at once.

    An error that it raises is a failed attempt of that event; it may raise `PublishError` and `PublisherUnavailable`. A
    `Failure` that it returns, for example an inbox's or an engine's, is one too: an error that no other attempt can
    avoid (`invalid_input`, `forbidden`, …) makes a dead letter immediately, and `unavailable` counts against no event.
    The relay's `publish_timeout` bounds each call.
    """

    batch_size = 1

    def __init__(self, function: Callable[[Event], Any], *, concurrency: int = 1) -> None:
        if not callable(function):
            raise ConfigurationError(f"a callback must be a function of an event, not {function!r}")
        self.concurrency = concurrency
        self._function = function
        self.publish = self._publish_async if is_async(function) else self._publish

    def _publish(self, events: Sequence[Event]) -> Awaitable[None] | None:
        for number, event in enumerate(events, 1):
            returned = self._function(event)
            if inspect.isawaitable(returned):
                return self._await_and_continue(returned, events[number:])
            _check_returned(returned)
        return None

    async def _publish_async(self, events: Sequence[Event]) -> None:
        for event in events:
            returned = self._function(event)
            _check_returned(await returned if inspect.isawaitable(returned) else returned)

    async def _await_and_continue(self, returned: Awaitable[Any], rest: Sequence[Event]) -> None:
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
"""Codes of errors that every other attempt would have too."""


class ConnectionLost(PublisherUnavailable):
    """A connection that was lost or refused, because the broker is down or because of a message."""


def failed_action(error: ActionError, name: str = "") -> PublishError | None:
    """Return the failure of an event whose action has failed; None for an action that waits for an approval, since the
    approval holds the event."""
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
    """Return the failures in the answer of `publish`, or the error of an unusable answer."""
    if answer is None:
        return {}
    if not isinstance(answer, Mapping):
        return PublishError(
            f"publish() returned a {type(answer).__name__}: it has to return None, or a mapping of event ids to "
            f"PublishErrors"
        )
    unknown = answer.keys() - {event.id for event in events}
    if unknown:
        return PublishError(
            f"publish() returned a failure for {next(iter(unknown))!r}, which is not the id of one of its events"
        )
    return answer


def as_publish_error(error: Exception) -> Exception:
    """Return an error of a publisher or a callback as a `PublishError`; a lost or refused connection as
    `ConnectionLost`. A `TimeoutError` stays one, since it does not tell which event is at fault."""
    if isinstance(error, PublishError | TimeoutError):
        return error
    reason = f"{type(error).__name__}: {error_text(error)}"
    return ConnectionLost(reason) if isinstance(error, ConnectionError) else PublishError(reason)


def error_text(error: BaseException) -> str:
    """Return the text of an exception, even if its `__str__` raises."""
    try:
        return str(error)
    except Exception as worse:
        return f"its text raised {type(worse).__name__}"
