"""The relay: takes events from the outbox and gives them to a publisher, at least once, in order per subject.

One batch after another: take, publish in waves, settle. A wave has one event of each subject at most, so that the order
of a subject is kept though a wave goes out at once; once an event has failed, those after it in its subject wait.

What a crash or a pause repeats is at most what one batch has published and not settled yet. Whoever takes a batch
begins with the oldest event of a subject that is not settled, so that of two relays which publish the same events
neither runs ahead of the other: the first time that an event arrives is after those before it in its subject.

Transactional outbox and relay after Richardson, "Microservices Patterns", ch. 3.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.errors import ConfigurationError
from actionengine.event_types import EventType, by_type
from actionengine.events.publishers.fanout import by_queue, nobody
from actionengine.events.publishers.port import Publisher, PublishError
from actionengine.events.relay.delivery import Deliverer, Retries
from actionengine.events.relay.parts import Part
from actionengine.events.relay.worker import RelaySettings
from actionengine.storage.errors import StorageError
from actionengine.storage.outbox import EVENTS, QUEUES, DeadLetter, Outbox, OutboxStatus
from actionengine.storage.port import Storage

T = TypeVar("T")


class Relay:
    """Delivers the events of all tenants in a storage. Any number of relays can run at once, in one process or many.

    It works at the queue `events` of the outbox, and at those that its publishers name; each of its queues is worked at
    by itself, so that none waits for another one.

    Args:
        storage: where the outbox is.
        publisher: where the events go: a `Publisher`, such as `CallbackPublisher(function)`.
        batch_size: events that are taken at once; also the most that a crash can repeat.
        publish_timeout: seconds that one call of the publisher may take.
        max_attempts: failed attempts after which an event is a dead letter. It then holds back its own subject, until
            it is redriven or skipped.
        first_backoff: seconds before the second attempt; each further one waits twice as long, with jitter.
        longest_backoff: seconds that it waits at most.
        poll_interval: seconds after which the outbox is looked at, even where nothing was heard of new events.
        event_types: declarations by which old events are brought to their newest version before they are published.
        name: of this relay, in its status; the host and the process by default.
        queues: the queues that it works at, where it is to leave others to other relays.

    Raises:
        ConfigurationError: for something that is no publisher, for numbers that make no sense, and for a queue that is
            not there, or that the publisher takes nothing from.
    """

    def __init__(
        self,
        storage: Storage,
        publisher: Publisher,
        *,
        batch_size: int = 500,
        publish_timeout: float = 10.0,
        max_attempts: int = 12,
        first_backoff: float = 0.5,
        longest_backoff: float = 300.0,
        poll_interval: float = 5.0,
        event_types: Mapping[str, EventType] | Iterable[EventType] = (),
        name: str | None = None,
        queues: Iterable[str] | None = None,
    ) -> None:
        if not callable(getattr(publisher, "publish", None)):
            raise ConfigurationError(
                f"a relay needs a publisher, something with a method publish(events), not {publisher!r}; "
                f"CallbackPublisher makes one of a function"
            )
        numbers = (batch_size, publish_timeout, max_attempts, first_backoff, longest_backoff, poll_interval)
        if not all(number > 0 for number in numbers):
            raise ConfigurationError("the numbers of a relay are all above 0")
        self._storage = storage
        retries = (max_attempts, first_backoff, longest_backoff)
        declared = by_type(event_types.values() if isinstance(event_types, Mapping) else event_types)
        name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._parts = [
            Part(
                storage,
                queue,
                part,
                Deliverer(part, publish_timeout, Retries(*retries), declared),
                RelaySettings(name, _name_of(part), batch_size, publish_timeout, poll_interval),
            )
            for queue, part in _parts(publisher, queues)
        ]

    # Delivering

    def run(self) -> None:
        """Deliver events until `stop` is called, which another thread or a signal handler does.

        A publisher or a storage that is out of reach is logged and tried again. Raises `ConfigurationError` and
        `StorageError` where one of them cannot work at all: no schema, no grants, no signing key.
        """
        first, *others = self._parts
        outcomes = [_Outcome(part, first.stop) for part in others]
        for outcome in outcomes:
            outcome.start()
        try:
            first.run()
        finally:
            for part in others:
                part.stop()
            for outcome in outcomes:
                outcome.join()
            if others:
                for part in self._parts:
                    # What has ended this run does not end the next one.
                    part.is_stopped = False
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error

    async def run_async(self) -> None:
        """The same under an event loop. A cancelled task gives back what it had taken."""
        if len(self._parts) == 1:
            await self._parts[0].work("async", ends=False)
            return
        tasks = [asyncio.ensure_future(part.work("async", ends=False)) for part in self._parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()

    def drain(self) -> int:
        """Deliver what is due, and no more: the number of events, of the first queue where there are several.

        What waits for another attempt is not waited for. Raises `PublisherUnavailable` and `StorageUnavailable`.
        """
        return run_sync(self._drain("sync"))

    async def drain_async(self) -> int:
        """The same under an event loop."""
        return await self._drain("async")

    def stop(self) -> None:
        """Let `run` come to its end: what is being published is settled, the rest of the batch is given back. May be
        called from any thread, and from a signal handler. A `run` that has not begun yet ends as it begins."""
        for part in self._parts:
            part.stop()

    # Operating

    def status(self, *, queue: str | None = None) -> OutboxStatus:
        """How much there is to deliver from a queue, since when, and which relays do it; from the first queue that this
        relay works at, where none is named."""
        return run_sync(self._status("sync", queue))

    async def status_async(self, *, queue: str | None = None) -> OutboxStatus:
        """The same under an event loop."""
        return await self._status("async", queue)

    def dead_letters(
        self, *, after: str | None = None, limit: int = 100, queue: str | None = None
    ) -> Sequence[DeadLetter]:
        """Events that are not tried any more, with the reason, by event id: those after the id `after`; of one queue,
        or of all."""
        return run_sync(self._dead_letters("sync", after, limit, queue))

    async def dead_letters_async(
        self, *, after: str | None = None, limit: int = 100, queue: str | None = None
    ) -> Sequence[DeadLetter]:
        """The same under an event loop."""
        return await self._dead_letters("async", after, limit, queue)

    def redrive(self, ids: Iterable[str] | None = None, *, queue: str | None = None) -> int:
        """Try dead letters again: those with these event ids, or all that nobody has skipped; of one queue, or of all.
        How many there were."""
        return run_sync(self._redrive("sync", ids, queue))

    async def redrive_async(self, ids: Iterable[str] | None = None, *, queue: str | None = None) -> int:
        """The same under an event loop."""
        return await self._redrive("async", ids, queue)

    def skip(self, ids: Iterable[str], reason: str, *, queue: str | None = None) -> int:
        """Give up dead letters with these event ids, so that their subjects go on; of one queue, or of all. How many
        there were."""
        return run_sync(self._skip("sync", ids, reason, queue))

    async def skip_async(self, ids: Iterable[str], reason: str, *, queue: str | None = None) -> int:
        """The same under an event loop."""
        return await self._skip("async", ids, reason, queue)

    # The flow, for both modes

    async def _drain(self, mode: Mode) -> int:
        delivered: list[int] = []
        errors: list[Exception] = []
        for part in self._parts:
            try:
                delivered.append(await part.work(mode, ends=True))
            except (PublishError, StorageError, ConfigurationError) as error:
                # What is wrong with one queue says nothing of the others.
                errors.append(error)
        if errors:
            raise errors[0]
        return delivered[0]

    async def _status(self, mode: Mode, queue: str | None) -> OutboxStatus:
        (status,) = await self._ask(mode, queue or self._parts[0].queue, lambda outbox: outbox.status())
        return status

    async def _dead_letters(self, mode: Mode, after: str | None, limit: int, queue: str | None) -> list[DeadLetter]:
        pages = await self._ask(mode, queue, lambda outbox: outbox.dead_letters(after=after, limit=limit))
        found = sorted((letter for page in pages for letter in page), key=lambda letter: letter.event.id)
        # An event that is dead in several queues is on one page, since the next one begins after its id.
        return [letter for letter in found if letter.event.id <= found[:limit][-1].event.id]

    async def _redrive(self, mode: Mode, ids: Iterable[str] | None, queue: str | None) -> int:
        named = _listed(ids)
        return sum(await self._ask(mode, queue, lambda outbox: outbox.redrive(named)))

    async def _skip(self, mode: Mode, ids: Iterable[str], reason: str, queue: str | None) -> int:
        named = _listed(ids) or []
        return sum(await self._ask(mode, queue, lambda outbox: outbox.skip(named, reason)))

    async def _ask(self, mode: Mode, queue: str | None, ask: Callable[[Outbox], Coroutine[Any, Any, T]]) -> list[T]:
        """Ask one queue, or all of them."""
        answers: list[T] = []
        for name in QUEUES if queue is None else (check_queue(queue),):
            outbox = self._storage.outbox(mode, name)
            try:
                answers.append(await ask(outbox))
            finally:
                await outbox.close()
        return answers


class _Outcome(threading.Thread):
    """A part of a relay in a thread of its own, and what has come of it."""

    def __init__(self, part: Part, give_up: Callable[[], None]) -> None:
        super().__init__(name=f"actionengine-relay-{part.queue}", daemon=True)
        self._part = part
        self._give_up = give_up
        self.error: BaseException | None = None

    def run(self) -> None:
        """Work until the relay is stopped; where this cannot work, the whole relay ends."""
        try:
            self._part.run()
        except BaseException as error:
            self.error = error
            self._give_up()


def check_queue(queue: str) -> str:
    """Return a queue of the outbox. Raises `ConfigurationError` where there is none of this name."""
    if queue not in QUEUES:
        raise ConfigurationError(f"there is no queue {queue!r}: the outbox has {', '.join(QUEUES)}")
    return queue


def _parts(publisher: Publisher, queues: Iterable[str] | None) -> list[tuple[str, Publisher]]:
    """Return the queues that a relay works at, each with its publisher."""
    taken = by_queue(publisher)
    if queues is None:
        # What nobody wants of the host's events is delivered to nobody, or it would stay for ever.
        return list({EVENTS: nobody, **taken}.items())
    wanted = [check_queue(queue) for queue in ([queues] if isinstance(queues, str) else queues)]
    if not wanted or not taken.keys() >= set(wanted):
        named = ", ".join(wanted) or "none"
        raise ConfigurationError(f"{_name_of(publisher)} takes events from {', '.join(taken)}: queues names {named}")
    return [(queue, taken[queue]) for queue in wanted]


def _listed(ids: Iterable[str] | None) -> list[str] | None:
    return [ids] if isinstance(ids, str) else None if ids is None else list(ids)


def _name_of(publisher: object) -> str:
    return str(getattr(publisher, "name", None) or type(publisher).__name__)
