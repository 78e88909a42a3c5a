"""The relay: it delivers the events of the outbox to publishers, at least once, in order per subject.

It repeats three steps: take a batch, publish it in waves, settle it. A wave has at most one event of each subject, so
that the order of a subject is kept although a wave goes out at once. After an event has failed, the later events of its
subject wait.

After a crash or a pause, at most one batch is published again: the one that was not settled. Every relay begins with
the oldest unsettled event of a subject. So if two relays publish the same events, neither runs ahead of the other: an
event arrives for the first time after all events before it in its subject have arrived.

Transactional outbox and relay after Richardson, "Microservices Patterns", ch. 3.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.errors import ConfigurationError
from actionengine.event_types import EventType, by_type
from actionengine.events.publishers.fanout import by_queue, nobody
from actionengine.events.publishers.port import Publisher, PublishError
from actionengine.events.relay.delivery import Deliverer, Retries
from actionengine.events.relay.operations import OutboxOperations, check_queue
from actionengine.events.relay.worker import RelaySettings, RelayWorker
from actionengine.storage.errors import StorageError
from actionengine.storage.outbox import EVENTS, DeadLetter, OutboxStatus
from actionengine.storage.port import Storage


class Relay:
    """Delivers the events of all tenants in a storage. Any number of relays can run at once, in one process or many.

    It works at the queue `events` of the outbox, and at the queues that its publishers name. Each queue is worked at
    independently, so that none waits for another one.

    Args:
        storage: the storage with the outbox.
        publisher: the `Publisher` that gets the events, such as `CallbackPublisher(function)`.
        batch_size: the number of events that are taken at once, and the most that a crash can repeat.
        publish_timeout: seconds that one call of the publisher may take.
        max_attempts: failed attempts after which an event is a dead letter. It then holds back its own subject, until
            an operator redrives or skips it.
        first_backoff: seconds before the second attempt; each further one waits twice as long, with jitter.
        longest_backoff: the longest wait in seconds.
        poll_interval: seconds after which the relay looks at the outbox, even without a notification of new events.
        event_types: declarations that upcast old events to their newest version before they are published.
        name: the name of this relay in its status; the host and the process by default.
        queues: the queues to work at, if other relays work at the others.

    Raises:
        ConfigurationError: for something that is not a publisher, for numbers that are not above 0, and for a queue
            that does not exist or that the publisher takes nothing from.
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
                f"a relay needs a publisher, an object with a method publish(events), not {publisher!r}; "
                f"CallbackPublisher makes one of a function"
            )
        numbers = {
            "batch_size": batch_size,
            "publish_timeout": publish_timeout,
            "max_attempts": max_attempts,
            "first_backoff": first_backoff,
            "longest_backoff": longest_backoff,
            "poll_interval": poll_interval,
        }
        for argument, number in numbers.items():
            if not number > 0:
                raise ConfigurationError(f"{argument} must be above 0, not {number!r}")
        self._storage = storage
        retries = Retries(max_attempts, first_backoff, longest_backoff)
        declared = by_type(event_types.values() if isinstance(event_types, Mapping) else event_types)
        name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._parts = [
            _QueueRelay(
                storage,
                queue,
                part,
                Deliverer(part, publish_timeout, retries, declared),
                RelaySettings(name, _name_of(part), batch_size, publish_timeout, poll_interval),
            )
            for queue, part in _publishers_by_queue(publisher, queues)
        ]

    # Delivering

    def run(self) -> None:
        """Deliver events until another thread or a signal handler calls `stop`.

        A publisher or a storage that is unavailable is logged and tried again. Raises `ConfigurationError` and
        `StorageError` if one of them cannot work at all: no schema, no grants, no signing key.
        """
        first, *others = self._parts
        threads = [_RelayThread(part, first.stop) for part in others]
        for thread in threads:
            thread.start()
        try:
            first.run()
        finally:
            for part in others:
                part.stop()
            for thread in threads:
                thread.join()
            if others:
                for part in self._parts:
                    # The stop that has ended this run does not end the next one.
                    part.is_stopped = False
        for thread in threads:
            if thread.error is not None:
                raise thread.error

    async def run_async(self) -> None:
        """Do the same under an event loop. A cancelled task releases the events that it had taken."""
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
        """Deliver the events that are due, and return their number; with several queues, that of the first one.

        Events that wait for another attempt are left. Raises `PublisherUnavailable` and `StorageUnavailable`.
        """
        return run_sync(self._drain("sync"))

    async def drain_async(self) -> int:
        """Do the same under an event loop."""
        return await self._drain("async")

    async def _drain(self, mode: Mode) -> int:
        delivered: list[int] = []
        errors: list[Exception] = []
        for part in self._parts:
            try:
                delivered.append(await part.work(mode, ends=True))
            except (PublishError, StorageError, ConfigurationError) as error:
                # The other queues may still work.
                errors.append(error)
        if errors:
            raise errors[0]
        return delivered[0]

    def stop(self) -> None:
        """End `run` soon: the relay settles the events that are being published, and releases the rest of the batch.
        Any thread and any signal handler may call this. A `run` that has not begun yet ends as it begins."""
        for part in self._parts:
            part.stop()

    # Operating

    def status(self, *, queue: str | None = None) -> OutboxStatus:
        """Return the number of events to deliver from a queue, the age of the oldest one, and the relays that deliver
        them. The default is the first queue of this relay."""
        return run_sync(self._operations("sync").status(queue or self._parts[0].queue))

    async def status_async(self, *, queue: str | None = None) -> OutboxStatus:
        """Do the same under an event loop."""
        return await self._operations("async").status(queue or self._parts[0].queue)

    def dead_letters(
        self, *, after: str | None = None, limit: int = 100, queue: str | None = None
    ) -> Sequence[DeadLetter]:
        """Return events that are not tried any more, with the reason, by event id: those after the id `after`, of one
        queue or of all."""
        return run_sync(self._operations("sync").dead_letters(after, limit, queue))

    async def dead_letters_async(
        self, *, after: str | None = None, limit: int = 100, queue: str | None = None
    ) -> Sequence[DeadLetter]:
        """Do the same under an event loop."""
        return await self._operations("async").dead_letters(after, limit, queue)

    def redrive(self, ids: Iterable[str] | None = None, *, queue: str | None = None) -> int:
        """Try dead letters again: those with these event ids, or all that were not skipped; of one queue, or of all.
        Return their number."""
        return run_sync(self._operations("sync").redrive(ids, queue))

    async def redrive_async(self, ids: Iterable[str] | None = None, *, queue: str | None = None) -> int:
        """Do the same under an event loop."""
        return await self._operations("async").redrive(ids, queue)

    def skip(self, ids: Iterable[str], reason: str, *, queue: str | None = None) -> int:
        """Give up the dead letters with these event ids, so that their subjects go on; of one queue, or of all. Return
        their number."""
        return run_sync(self._operations("sync").skip(ids, reason, queue))

    async def skip_async(self, ids: Iterable[str], reason: str, *, queue: str | None = None) -> int:
        """Do the same under an event loop."""
        return await self._operations("async").skip(ids, reason, queue)

    def _operations(self, mode: Mode) -> OutboxOperations:
        return OutboxOperations(self._storage, mode)


class _QueueRelay:
    """The part of a relay that works at one queue. Parts share nothing, so that none waits for another one."""

    def __init__(
        self, storage: Storage, queue: str, publisher: Publisher, deliverer: Deliverer, settings: RelaySettings
    ) -> None:
        self.queue = queue
        self._storage = storage
        self._publisher = publisher
        self._deliverer = deliverer
        self._settings = settings
        self._worker: RelayWorker | None = None
        self.is_stopped = False

    def run(self) -> None:
        """Deliver events until `stop` is called."""
        run_sync(self.work("sync", ends=False))

    async def work(self, mode: Mode, ends: bool) -> int:
        """Deliver events until `stop` is called; or, if it `ends`, until none is due. Return their number."""
        if self._worker is not None:
            raise RuntimeError("this relay is running already: make another one")
        worker = self._worker = RelayWorker(
            storage=self._storage,
            queue=self.queue,
            mode=mode,
            publisher=self._publisher,
            deliverer=self._deliverer,
            settings=self._settings,
        )
        try:
            if self.is_stopped and not ends:
                worker.stop()
            return await worker.work(ends)
        finally:
            self._worker = None
            self.is_stopped = False
            await worker.close()

    def stop(self) -> None:
        """End `run` soon."""
        self.is_stopped = True
        worker = self._worker
        if worker is not None:
            worker.stop()


class _RelayThread(threading.Thread):
    """A thread for one part of a relay, and the error that ended it."""

    def __init__(self, part: _QueueRelay, stop_relay: Callable[[], None]) -> None:
        super().__init__(name=f"actionengine-relay-{part.queue}", daemon=True)
        self._part = part
        self._stop_relay = stop_relay
        self.error: BaseException | None = None

    def run(self) -> None:
        """Work until the relay is stopped. After an error, stop the whole relay."""
        try:
            self._part.run()
        except BaseException as error:
            self.error = error
            self._stop_relay()


def _publishers_by_queue(publisher: Publisher, queues: Iterable[str] | None) -> list[tuple[str, Publisher]]:
    """Return the queues that a relay works at, each with its publisher."""
    taken = by_queue(publisher)
    if queues is None:
        # Events of the host that no publisher wants are delivered to `nobody`, or they would stay in the outbox.
        return list({EVENTS: nobody, **taken}.items())
    wanted = [check_queue(queue) for queue in ([queues] if isinstance(queues, str) else queues)]
    if not wanted or not taken.keys() >= set(wanted):
        named = ", ".join(wanted) or "none"
        raise ConfigurationError(f"{_name_of(publisher)} takes events from {', '.join(taken)}: queues names {named}")
    return [(queue, taken[queue]) for queue in wanted]


def _name_of(publisher: object) -> str:
    return str(getattr(publisher, "name", None) or type(publisher).__name__)
