"""The relay: takes events from the outbox and gives them to a publisher, at least once, in order per subject.

One batch after another: take, publish in waves, settle. A wave has one event of each subject at most, so that the order
of a subject is kept though a wave goes out at once; once an event has failed, those after it in its subject wait.

What a crash or a pause repeats is at most what one batch has published and not settled yet. Whoever takes a batch
begins with the oldest event of a subject that is not settled, so that of two relays which publish the same events
neither runs ahead of the other: the first time that an event arrives is after those before it in its subject.

Transactional outbox and relay after Richardson, "Microservices Patterns", ch. 3.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from actionengine.driving import drive
from actionengine.errors import ConfigurationError
from actionengine.event_types import EventType, by_type
from actionengine.events.delivery import Deliverer, Retries
from actionengine.events.publisher import Publisher
from actionengine.events.shift import Settings, Shift
from actionengine.events.worlds import world_of
from actionengine.storage.port import DeadLetter, Mode, Outbox, OutboxStatus, Storage

T = TypeVar("T")


class Relay:
    """Delivers the events of all tenants in a storage. Any number of relays can run at once, in one process or many.

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

    Raises:
        ConfigurationError: for something that is no publisher, and for numbers that make no sense.
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
        self._publisher = publisher
        retries = Retries(max_attempts, first_backoff, longest_backoff)
        declared = by_type(event_types.values() if isinstance(event_types, Mapping) else event_types)
        self._deliverer = Deliverer(publisher, publish_timeout, retries, declared)
        self._settings = Settings(
            name=name or f"{socket.gethostname()}:{os.getpid()}",
            publisher=_name_of(publisher),
            batch_size=batch_size,
            publish_timeout=publish_timeout,
            poll_interval=poll_interval,
        )
        self._shift: Shift | None = None
        self._is_stopped = False

    # Delivering

    def run(self) -> None:
        """Deliver events until `stop` is called, which another thread or a signal handler does.

        A publisher or a storage that is out of reach is logged and tried again. Raises `ConfigurationError` and
        `StorageError` where one of them cannot work at all: no schema, no grants, no signing key.
        """
        drive(self._work("sync", ends=False))

    async def run_async(self) -> None:
        """The same under an event loop. A cancelled task gives back what it had taken."""
        await self._work("async", ends=False)

    def drain(self) -> int:
        """Deliver what is due, and no more: the number of events.

        What waits for another attempt is not waited for. Raises `PublisherUnavailable` and `StorageUnavailable`.
        """
        return drive(self._work("sync", ends=True))

    async def drain_async(self) -> int:
        """The same under an event loop."""
        return await self._work("async", ends=True)

    def stop(self) -> None:
        """Let `run` come to its end: what is being published is settled, the rest of the batch is given back. May be
        called from any thread, and from a signal handler. A `run` that has not begun yet ends as it begins."""
        self._is_stopped = True
        shift = self._shift
        if shift is not None:
            shift.stop()

    # Operating

    def status(self) -> OutboxStatus:
        """How much there is to deliver in this storage, since when, and which relays do it."""
        return drive(self._operate("sync", lambda outbox: outbox.status()))

    async def status_async(self) -> OutboxStatus:
        """The same under an event loop."""
        return await self._operate("async", lambda outbox: outbox.status())

    def dead_letters(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Events that are not tried any more, with the reason, by event id: those after the id `after`."""
        return drive(self._operate("sync", lambda outbox: outbox.dead_letters(after=after, limit=limit)))

    async def dead_letters_async(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """The same under an event loop."""
        return await self._operate("async", lambda outbox: outbox.dead_letters(after=after, limit=limit))

    def redrive(self, ids: Iterable[str] | None = None) -> int:
        """Try dead letters again: those with these event ids, or all that nobody has skipped. How many there were."""
        return drive(self._operate("sync", lambda outbox: outbox.redrive(_listed(ids))))

    async def redrive_async(self, ids: Iterable[str] | None = None) -> int:
        """The same under an event loop."""
        return await self._operate("async", lambda outbox: outbox.redrive(_listed(ids)))

    def skip(self, ids: Iterable[str], reason: str) -> int:
        """Give up dead letters with these event ids, so that their subjects go on. How many there were."""
        return drive(self._operate("sync", lambda outbox: outbox.skip(_listed(ids) or [], reason)))

    async def skip_async(self, ids: Iterable[str], reason: str) -> int:
        """The same under an event loop."""
        return await self._operate("async", lambda outbox: outbox.skip(_listed(ids) or [], reason))

    # The flow, for both worlds

    async def _operate(self, mode: Mode, ask: Callable[[Outbox], Coroutine[Any, Any, T]]) -> T:
        outbox = self._storage.outbox(mode)
        try:
            return await ask(outbox)
        finally:
            await outbox.close()

    async def _work(self, mode: Mode, ends: bool) -> int:
        if self._shift is not None:
            raise RuntimeError("this relay is running already: make another one")
        # A publisher that executes actions opens connections in its event loop.
        world = world_of(mode, getattr(self._storage, "aclose_loop", None))
        outbox = self._storage.outbox(mode)
        shift = self._shift = Shift(outbox, world, self._deliverer, self._publisher, self._settings)
        try:
            if self._is_stopped and not ends:
                shift.stop()
            return await shift.work(ends)
        finally:
            self._shift = None
            self._is_stopped = False
            await shift.close()


def _listed(ids: Iterable[str] | None) -> list[str] | None:
    return [ids] if isinstance(ids, str) else None if ids is None else list(ids)


def _name_of(publisher: object) -> str:
    return str(getattr(publisher, "name", None) or type(publisher).__name__)
