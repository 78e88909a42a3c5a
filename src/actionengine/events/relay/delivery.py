"""The delivery of one batch: which events are published together, which of them a failure counts against, and when
they are retried.

A wave has at most one event of each subject, so that the order of a subject is kept although a wave goes out at once.
Events that have failed before are published alone, so that an event which no publisher can take fails alone.

A call that does not end does not tell which of its events is at fault. They are postponed. The call counts against an
event only if that was published alone and others were delivered since; otherwise the publisher counts as unavailable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actionengine.concurrency.backoff import delay, equal_jitter
from actionengine.errors import storable_text
from actionengine.event_types import EventType, EventVersionError
from actionengine.events.event import Event
from actionengine.events.publishers.port import (
    ConnectionLost,
    Failures,
    Publisher,
    PublishError,
    PublisherUnavailable,
    as_publish_error,
    error_text,
    validate_answer,
)
from actionengine.events.user_calls import call_out
from actionengine.masking.redaction import redact
from actionengine.storage.outbox import FailedDelivery, PendingEvent

Subject = tuple[int, str]
"""A tenant's id as a number, which hashes faster, and a subject; or the id of an event that has none."""

Item = tuple[PendingEvent, Event]

_MAX_REMEMBERED = 10_000
"""Events whose uncounted failures are remembered."""

_MAX_HANGS = 10
"""Calls with an event alone that may hang before they count against it, even if nothing else was delivered."""

_MAX_UNCOUNTED_INTERVAL = 30.0
"""Longest wait in seconds after an attempt that is not counted."""

_MAX_REASON_LENGTH = 2000
"""Characters of a dead letter's reason."""


@dataclass(slots=True)
class Delivery:
    """The outcome of a batch. `outage` is the reason why the publisher could take no more events; an event in neither
    list was not published."""

    delivered: list[Item] = field(default_factory=list)
    failed: list[FailedDelivery] = field(default_factory=list)
    outage: PublishError | None = None


class Retries:
    """The schedule of further attempts. Times are in seconds."""

    def __init__(self, max_attempts: int, first: float, longest: float) -> None:
        self._max_attempts = max_attempts
        self._first = first
        self._longest = longest

    def after(self, attempts: int) -> float:
        """Return the pause after this number of failed attempts."""
        return equal_jitter(delay(attempts, self._first, self._longest))

    def failed(self, pending: PendingEvent, error: PublishError, postponed: int = 0) -> FailedDelivery:
        """Return a failed attempt with the time of the next one, or a dead letter. `postponed` is the number of earlier
        attempts that were not counted."""
        reason = storable_reason(error)
        if isinstance(error, PublisherUnavailable):
            pause = min(_MAX_UNCOUNTED_INTERVAL, self.after(pending.attempts + postponed + 1))
            return FailedDelivery(pending, reason, pause, counts=False)
        attempts = pending.attempts + 1
        is_last = not getattr(error, "retry", True) or attempts >= self._max_attempts
        return FailedDelivery(pending, reason, None if is_last else self.after(attempts))


class Deliverer:
    """Delivers batches of events to a publisher, in the publisher's event loop."""

    def __init__(
        self, publisher: Publisher, timeout: float, retries: Retries, event_types: Mapping[str, EventType]
    ) -> None:
        self._publisher = publisher
        self._timeout = timeout
        self._retries = retries
        self._event_types = event_types
        self._delivered = 0
        self._hangs: dict[str, int] = {}
        self._hung_at: dict[str, int] = {}
        self._postponed: dict[str, int] = {}

    @property
    def suspects(self) -> int:
        """The number of events whose calls hung or lost the connection."""
        return len(self._hangs)

    async def deliver(self, batch: Sequence[PendingEvent], can_continue: Callable[[], Awaitable[bool]]) -> Delivery:
        """Publish a batch until an outage, or until `can_continue`, which is called before each call, says no."""
        delivery = Delivery()
        held: set[Subject] = set()
        for wave in _waves(batch):
            items: list[Item] = []
            for pending in wave:
                if held and _subject(pending) in held:
                    continue
                try:
                    items.append((pending, Event.of(pending.position, pending.event, self._event_types)))
                except EventVersionError as error:
                    delivery.failed.append(self._failed(pending, PublishError(str(error))))
            before = len(delivery.delivered)
            await self._deliver_wave(items, delivery, can_continue)
            if len(delivery.delivered) - before < len(wave):
                arrived = {event.id for _, event in delivery.delivered[before:]}
                held.update(_subject(pending) for pending in wave if pending.event.id not in arrived)
            if delivery.outage is not None:
                break
        return delivery

    async def _deliver_wave(
        self, items: Sequence[Item], delivery: Delivery, can_continue: Callable[[], Awaitable[bool]]
    ) -> None:
        calls = self._calls(items)
        at_once = max(1, getattr(self._publisher, "concurrency", 1))
        while calls and delivery.outage is None and await can_continue():
            group, calls = calls[:at_once], calls[at_once:]
            answers = await self._publish_group(group)
            # Deliveries first: the meaning of a call that hung depends on them.
            for published, answer in sorted(zip(group, answers, strict=True), key=lambda pair: _is_timeout(pair[1])):
                if len(published) > 1 and _names_events(answer):
                    calls += [[item] for item in published]
                else:
                    self._record(published, answer, delivery)

    def _calls(self, items: Sequence[Item]) -> list[list[Item]]:
        """Return the events of each call, first those that have not failed before."""
        size = max(1, getattr(self._publisher, "batch_size", 100))
        fine = [item for item in items if not item[0].attempts and item[1].id not in self._hangs]
        calls = [fine[start : start + size] for start in range(0, len(fine), size)]
        if len(fine) == len(items):
            return calls
        suspects = [item for item in items if item[0].attempts or item[1].id in self._hangs]
        return calls + [[item] for item in sorted(suspects, key=lambda item: self._hangs.get(item[1].id, 0))]

    async def _publish_group(self, group: Sequence[Sequence[Item]]) -> list[Any]:
        if len(group) == 1:
            return [await self._publish(group[0])]
        return list(await asyncio.gather(*map(self._publish, group)))

    async def _publish(self, items: Sequence[Item]) -> Failures | Exception:
        try:
            answer = await call_out(self._publisher.publish, [event for _, event in items], timeout=self._timeout)
        except Exception as error:
            return as_publish_error(error)
        return validate_answer(answer, [event for _, event in items])

    def _record(self, items: Sequence[Item], answer: Failures | Exception, delivery: Delivery) -> None:
        if isinstance(answer, Mapping):
            for item in items:
                error = answer.get(item[1].id) if answer else None
                if error is None:
                    self._record_delivered(item, delivery)
                else:
                    delivery.failed.append(self._failed(item[0], _reason(error)))
        elif isinstance(answer, TimeoutError):
            self._record_timeout(items, delivery)
        elif isinstance(answer, ConnectionLost):
            self._record_loss(items, answer, delivery)
        elif isinstance(answer, PublisherUnavailable):
            delivery.outage = answer
        else:
            delivery.failed += [self._failed(pending, _reason(answer)) for pending, _ in items]

    def _record_delivered(self, item: Item, delivery: Delivery) -> None:
        delivery.delivered.append(item)
        self._delivered += 1
        if self._hangs or self._postponed:
            for numbers in (self._hangs, self._hung_at, self._postponed):
                numbers.pop(item[1].id, None)

    def _record_loss(self, items: Sequence[Item], answer: ConnectionLost, delivery: Delivery) -> None:
        """Record a lost connection. It counts against an event that was alone, if others were delivered since its first
        loss. From now on these events are tried last."""
        for pending, event in items:
            _count(self._hangs, event.id)
            hung_at = self._hung_at.setdefault(event.id, self._delivered)
            if len(items) == 1 and self._delivered > hung_at:
                delivery.failed.append(self._failed(pending, PublishError(error_text(answer))))
            else:
                delivery.outage = answer

    def _record_timeout(self, items: Sequence[Item], delivery: Delivery) -> None:
        """Postpone events whose call hung, so that others are tried. The call counts against an event that was alone,
        if others were delivered since it first hung, or if it has hung too often."""
        outage = PublisherUnavailable(f"the publisher did not answer within {self._timeout:g} s")
        for pending, event in items:
            number = _count(self._hangs, event.id)
            hung_at = self._hung_at.setdefault(event.id, self._delivered)
            counts = len(items) == 1 and (self._delivered > hung_at or number > _MAX_HANGS)
            failure = self._failed(pending, PublishError(str(outage)) if counts else outage)
            if failure.retry_in is not None:
                # Others are tried first.
                pause = min(_MAX_UNCOUNTED_INTERVAL, self._timeout * number)
                failure = failure._replace(retry_in=max(failure.retry_in, pause))
            delivery.failed.append(failure)
        if not delivery.delivered:
            delivery.outage = outage

    def _failed(self, pending: PendingEvent, error: PublishError) -> FailedDelivery:
        id = pending.event.id
        failure = self._retries.failed(pending, error, self._postponed.get(id, 0))
        if failure.counts:
            self._postponed.pop(id, None)
        else:
            _count(self._postponed, id)
        return failure


def _count(numbers: dict[str, int], id: str) -> int:
    """Count something for an event, and return its number."""
    number = numbers.pop(id, 0) + 1
    while len(numbers) >= _MAX_REMEMBERED:
        del numbers[next(iter(numbers))]
    numbers[id] = number
    return number


def _is_timeout(answer: object) -> bool:
    return isinstance(answer, TimeoutError)


def _names_events(answer: object) -> bool:
    """Return whether a call has failed because of one of its events, without naming it."""
    return isinstance(answer, Exception) and not isinstance(answer, TimeoutError | PublisherUnavailable)


def _reason(error: Exception) -> PublishError:
    blamed = as_publish_error(error)
    return blamed if isinstance(blamed, PublishError) else PublishError(f"{type(error).__name__}: {error_text(error)}")


def storable_reason(error: BaseException) -> str:
    """Return a reason that every database can store, without secrets."""
    return redact(storable_text(error_text(error))).replace("\0", "")[:_MAX_REASON_LENGTH]


def _subject(pending: PendingEvent) -> Subject:
    event = pending.event
    return event.tenant_id.int, event.id if event.subject is None else event.subject


def _waves(batch: Iterable[PendingEvent]) -> list[list[PendingEvent]]:
    """Return a batch in waves: the first event of each subject, then the second ones, and so on."""
    waves: list[list[PendingEvent]] = []
    seen: dict[Subject, int] = {}
    for pending in batch:
        subject = _subject(pending)
        number = seen.get(subject, 0)
        seen[subject] = number + 1
        if number == len(waves):
            waves.append([])
        waves[number].append(pending)
    return waves
