"""`Fanout`: several publishers as one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from actionengine.errors import ConfigurationError
from actionengine.events.event import Event
from actionengine.events.publishers.port import (
    Failures,
    Publisher,
    PublishError,
    PublisherUnavailable,
    as_publish_error,
    validate_answer,
)
from actionengine.events.user_calls import call_out
from actionengine.storage.outbox import EVENTS

_BATCH_SIZE = 100
"""Events in one call of a publisher without a `batch_size`."""


class Fanout:
    """Delivers each event to all of several publishers, its members.

    An event is delivered when each member has it. If a call has delivered none because a member was unavailable, the
    relay waits. The fanout remembers the members that have an event already, so that a further attempt repeats nothing.
    It remembers them in memory, so that events may be repeated after a restart.

    Each member gets batches of its own `batch_size`, with its own `concurrency`; a `def publish` runs in a thread.

    Args:
        publishers: one or more publishers.
        remember: the number of remembered events; the oldest are forgotten first.

    Raises:
        ConfigurationError: without a publisher, or for an object without `publish`.
    """

    def __init__(self, *publishers: Publisher, remember: int = 10_000) -> None:
        if not publishers:
            raise ConfigurationError("a Fanout needs one publisher or more")
        self._members = [_Member(publisher) for publisher in publishers]
        self.publishers = publishers
        self.remember = remember
        self._had: OrderedDict[str, set[_Member]] = OrderedDict()
        self.batch_size = max(member.batch_size for member in self._members)
        self.concurrency = max(member.concurrency for member in self._members)

    async def start(self) -> None:
        """Start the members that are not started yet. Raise the error of the first one that fails."""
        await _all([member.start() for member in self._members])

    async def stop(self) -> None:
        """Stop all members. Raise the error of the first one that fails."""
        await _all([member.stop() for member in self._members])

    async def publish(self, events: Sequence[Event]) -> Failures:
        """Publish events to all members that do not have them yet."""
        failures: dict[str, dict[_Member, PublishError]] = {}
        await _all([self._publish_to(member, events, failures) for member in self._members])
        for event in events:
            if event.id not in failures:
                self._had.pop(event.id, None)
        reported = {
            id: combined([failed[member] for member in self._members if member in failed])
            for id, failed in failures.items()
        }
        if len(reported) == len(events) and all(
            isinstance(failure, PublisherUnavailable) for failure in reported.values()
        ):
            # Every event failed: the relay waits instead of trying one event after the other.
            raise PublisherUnavailable(next(iter(reported.values())).args[0])
        return reported

    async def _publish_to(
        self, member: _Member, events: Sequence[Event], failures: dict[str, dict[_Member, PublishError]]
    ) -> None:
        wanted = [event for event in events if member not in self._had.get(event.id, ())]
        await _all([self._give_batch(member, batch, failures) for batch in _batches(wanted, member.batch_size)])

    async def _give_batch(
        self, member: _Member, batch: Sequence[Event], failures: dict[str, dict[_Member, PublishError]]
    ) -> None:
        failed = await member.publish(batch)
        for event in batch:
            failure = failed.get(event.id)
            if failure is None:
                self._record(event, member)
            else:
                failures.setdefault(event.id, {})[member] = failure

    def _record(self, event: Event, member: _Member) -> None:
        self._had.setdefault(event.id, set()).add(member)
        while len(self._had) > self.remember:
            self._had.popitem(last=False)


class _Nobody:
    """A publisher for events that no other publisher takes."""

    name = "nobody"

    def publish(self, events: Sequence[Event]) -> None:
        """Do nothing."""


nobody = _Nobody()


def by_queue(publisher: Publisher) -> dict[str, Publisher]:
    """Return the publisher of each queue of the outbox that a publisher takes from.

    A publisher with `queues` takes none from the host's queue: each of these queues has a publisher of its own. A
    `Fanout` is split into the members of each queue.
    """
    if not isinstance(publisher, Fanout):
        queues: Mapping[str, Publisher] | None = getattr(publisher, "queues", None)
        return {EVENTS: publisher} if queues is None else dict(queues)
    members: dict[str, list[Publisher]] = {}
    for member in publisher.publishers:
        for queue, part in by_queue(member).items():
            members.setdefault(queue, []).append(part)
    if list(members) == [EVENTS]:
        return {EVENTS: publisher}
    return {
        queue: parts[0] if len(parts) == 1 else Fanout(*parts, remember=publisher.remember)
        for queue, parts in members.items()
    }


class _Member:
    """A publisher of a fanout."""

    def __init__(self, publisher: Any) -> None:
        if not callable(getattr(publisher, "publish", None)):
            raise ConfigurationError(f"a Fanout needs publishers, and {publisher!r} has no publish(events)")
        self.batch_size: int = getattr(publisher, "batch_size", _BATCH_SIZE)
        self.concurrency: int = getattr(publisher, "concurrency", 1)
        self._publisher = publisher
        self._is_started = False
        self._gate: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    async def start(self) -> None:
        start = getattr(self._publisher, "start", None)
        if start is not None and not self._is_started:
            await call_out(start)
        self._is_started = True

    async def stop(self) -> None:
        self._is_started = False
        stop = getattr(self._publisher, "stop", None)
        if stop is not None:
            await call_out(stop)

    async def publish(self, batch: Sequence[Event]) -> Failures:
        """Return the failures of these events."""
        failures = await self._publish(batch)
        if isinstance(failures, PublishError) and not isinstance(failures, PublisherUnavailable) and len(batch) > 1:
            # The error does not tell which event is at fault.
            return {id: failure for event in batch for id, failure in (await self.publish([event])).items()}
        if isinstance(failures, PublishError):
            failures = {event.id: failures for event in batch}
        if any(isinstance(failure, PublisherUnavailable) for failure in failures.values()):
            self._is_started = False
        return failures

    async def _publish(self, batch: Sequence[Event]) -> Failures | PublishError:
        try:
            async with self._turn():
                answer = await call_out(self._publisher.publish, batch)
        except TimeoutError as error:
            return PublisherUnavailable(f"TimeoutError: {error}")
        except Exception as error:
            blamed = as_publish_error(error)
            assert isinstance(blamed, PublishError)
            return blamed
        return validate_answer(answer, batch)

    def _turn(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._gate is None or self._gate[0] is not loop:
            self._gate = loop, asyncio.Semaphore(self.concurrency)
        return self._gate[1]


def combined(failures: Sequence[PublishError]) -> PublishError:
    """Return several failures of one event as one: unavailable if one is, tried again if one may succeed."""
    if len(failures) == 1:
        return failures[0]
    reasons = "; ".join(map(str, failures))
    if any(isinstance(failure, PublisherUnavailable) for failure in failures):
        return PublisherUnavailable(reasons)
    return PublishError(reasons, retry=any(failure.retry for failure in failures))


async def _all(coroutines: Sequence[Any]) -> None:
    """Run all of them at once, to their ends; then raise the error of the first one that failed."""
    if len(coroutines) == 1:
        await coroutines[0]
        return
    for outcome in await asyncio.gather(*coroutines, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _batches(events: Sequence[Event], size: int) -> Iterator[Sequence[Event]]:
    for start in range(0, len(events), size):
        yield events[start : start + size]
