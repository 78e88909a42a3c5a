"""One run of a relay, from its start to its stop: take, deliver, settle, and what happens when one of them cannot."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import monotonic

from uuid_utils.compat import uuid7

from actionengine.concurrency.background_loop import LoopEnded
from actionengine.concurrency.backoff import delay, equal_jitter
from actionengine.concurrency.one_shot_event import OneShotEvent
from actionengine.concurrency.run_sync import Mode
from actionengine.errors import ActionError, ConfigurationError
from actionengine.events.publishers.port import Publisher, PublishError, PublisherUnavailable
from actionengine.events.relay.delivery import Deliverer, Delivery, storable_reason
from actionengine.events.relay.metrics import RelayMetrics
from actionengine.events.relay.publisher_loop import PublisherLoop
from actionengine.events.user_calls import call_out
from actionengine.storage.errors import SerializationFailure, StorageError, StorageUnavailable
from actionengine.storage.outbox import Outbox, OutboxStatus, PendingEvent, RelayHeartbeat
from actionengine.storage.rows import Backlog

logger = logging.getLogger("actionengine")

_HEARTBEAT_INTERVAL = 5.0
"""Seconds between two beats."""

_LEASE_TIMEOUT = 10.0
"""Seconds that a lease is longer than one call of the publisher may take."""

_MIN_RETRY_INTERVAL = 0.2
_MAX_RETRY_INTERVAL = 15.0
"""Seconds after which a publisher or a storage that was out of reach is tried again."""

_PASSING = (PublishError, StorageUnavailable, SerializationFailure, ActionError)
"""What another try may find mended; a database's refusal of a statement that took too long is an `ActionError`."""

_PROBE = 10
"""Events that are tried first after an outage."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What a shift is told by its relay; times are in seconds."""

    name: str
    publisher: str
    batch_size: int
    publish_timeout: float
    poll_interval: float


class RelayWorker:
    """One run of a relay."""

    def __init__(
        self,
        outbox: Outbox,
        loop: PublisherLoop,
        deliverer: Deliverer,
        publisher: Publisher,
        settings: RelaySettings,
        queue: str,
        backlog: Callable[[Mode], Awaitable[Backlog]],
    ) -> None:
        self._outbox = outbox
        self._backlog = backlog
        self._loop = loop
        self._deliverer = deliverer
        self._publisher = publisher
        self._settings = settings
        self._lease = settings.publish_timeout + _LEASE_TIMEOUT
        self._metrics = RelayMetrics(settings.name, queue)
        self._id = str(uuid7())
        self._started_at = datetime.now(UTC)
        self._is_stopping = False
        self._is_started = False
        self._pausing: OneShotEvent | None = None
        self._leased_at = 0.0
        self._outages = 0
        self._error: str | None = None
        self._delivered = self._failed = 0
        self._beats = True
        self._beaten_at: float | None = None
        self._beaten = 0
        self._delivered_before = 0

    def stop(self) -> None:
        """Come to an end soon."""
        self._is_stopping = True
        try:
            # A signal handler must not wait for a lock that the code which it has interrupted may hold.
            threading.Thread(target=self._wake, name="actionengine-stop", daemon=True).start()
        except RuntimeError:
            self._wake()

    def _wake(self) -> None:
        self._outbox.wake()
        pausing = self._pausing
        if pausing is not None:
            pausing.set()

    async def work(self, ends: bool) -> int:
        """Deliver events until `stop`, or until there are none that are due. How many were delivered.

        Raises `ConfigurationError`; and where it is to end by itself, also `PublisherUnavailable` and
        `StorageUnavailable`.
        """
        self._beats = not ends
        while not self._is_stopping:
            try:
                if not await self._step() and not self._is_stopping:
                    if ends:
                        break
                    await self._outbox.wait(self._settings.poll_interval)
                    await self._beat()
            except Exception as error:
                if isinstance(error, LoopEnded):
                    # What the publisher has opened there is gone.
                    self._is_started = False
                is_passing = isinstance(error, _PASSING)
                if ends or (isinstance(error, ConfigurationError | StorageError) and not is_passing):
                    raise
                if not is_passing:
                    logger.exception("the relay %s has met what it does not know", self._settings.name)
                await self._recover(error)
        return self._delivered

    async def close(self) -> None:
        """Give back what is held, and stop the publisher."""
        try:
            if self._beaten_at is not None:
                self._beaten_at = None
                await self._beat()
        finally:
            await self._outbox.close()
            try:
                if self._is_started:
                    await self._notify_publisher("stop")
            except Exception:
                logger.exception("the publisher of the relay %s could not be stopped", self._settings.name)
            finally:
                self._loop.close()

    async def _step(self) -> bool:
        """One batch; whether there was one. Raises `PublisherUnavailable`, `StorageError` and `ConfigurationError`."""
        if not self._is_started:
            await self._start_publisher()
        limit = self._settings.batch_size
        if self._outages:
            limit = min(limit, _PROBE + self._deliverer.suspects)
        batch = await self._outbox.take(limit, self._lease)
        if not batch:
            self._outages, self._error = 0, None
            return False
        self._leased_at = monotonic()
        try:
            delivery = await self._loop.run(self._deliverer.deliver, batch, self._can_continue)
            await self._settle(batch, delivery)
        except BaseException:
            await self._outbox.release()
            raise
        if delivery.outage is not None:
            raise delivery.outage
        self._outages, self._error = 0, None
        await self._beat()
        return True

    async def _settle(self, batch: Sequence[PendingEvent], delivery: Delivery) -> None:
        await self._outbox.settle([pending for pending, _ in delivery.delivered], delivery.failed)
        self._delivered += len(delivery.delivered)
        self._failed += len(delivery.failed)
        self._metrics.count([event for _, event in delivery.delivered], len(delivery.failed))
        for failure in delivery.failed:
            event = failure.pending.event
            if failure.retry_in is None:
                logger.error("the event %s (%s) is a dead letter: %s", event.id, event.type, failure.reason)
            else:
                logger.warning("the event %s (%s) was not delivered: %s", event.id, event.type, failure.reason)

    async def _can_continue(self) -> bool:
        """Return whether there is time for another call of the publisher."""
        if self._is_stopping:
            return False
        if monotonic() - self._leased_at > _LEASE_TIMEOUT / 2:
            await self._outbox.extend()
            self._leased_at = monotonic()
        return True

    async def _start_publisher(self) -> None:
        try:
            await self._notify_publisher("start")
        except (ConfigurationError, PublishError):
            raise
        except Exception as error:
            raise PublisherUnavailable(f"{type(error).__name__}: {error}") from error
        self._is_started = True

    async def _notify_publisher(self, what: str) -> None:
        method = getattr(self._publisher, what, None)
        if method is not None:
            await self._loop.run(partial(call_out, method, timeout=self._settings.publish_timeout))

    async def _recover(self, error: Exception) -> None:
        """Wait before the next try."""
        self._outages += 1
        self._error = f"{type(error).__name__}: {storable_reason(error)}"
        pause = equal_jitter(delay(self._outages, _MIN_RETRY_INTERVAL, _MAX_RETRY_INTERVAL))
        logger.warning("the relay %s tries again in %.1f s: %s", self._settings.name, pause, self._error)
        await self._beat()
        if not self._is_stopping:
            signal = self._pausing = OneShotEvent(self._loop.mode)
            await signal.wait(pause)
            self._pausing = None

    async def _beat(self) -> None:
        """Tell others how it goes, every few seconds."""
        now = monotonic()
        if not self._beats or (self._beaten_at is not None and now - self._beaten_at < _HEARTBEAT_INTERVAL):
            return
        self._beaten += 1
        is_second = self._beaten == 2
        elapsed = now - self._beaten_at if self._beaten_at is not None else 0.0
        rate = (self._delivered - self._delivered_before) / elapsed if elapsed else 0.0
        self._beaten_at, self._delivered_before = now, self._delivered
        beat = RelayHeartbeat(
            self._id,
            self._settings.name,
            self._settings.publisher,
            self._started_at,
            datetime.now(UTC),
            self._delivered,
            self._failed,
            rate,
            self._error,
        )
        with suppress(StorageError, ActionError):
            await self._outbox.heartbeat(beat)
            if self._metrics.is_on or is_second:
                status = await self._outbox.status()
                self._metrics.gauge(status)
                if self._metrics.is_on:
                    self._metrics.gauge_backlog(await self._backlog(self._loop.mode))
                if is_second:
                    self._check_others(status)

    def _check_others(self, status: OutboxStatus) -> None:
        beside = [beat for beat in status.relays if beat.seen_at > self._started_at]
        others = {beat.publisher for beat in beside} - {self._settings.publisher}
        if others:
            logger.warning(
                "the relay %s gives events to %s, and others here to %s: each event goes to one of them only. "
                "A Fanout gives each to all of several publishers",
                self._settings.name,
                self._settings.publisher,
                ", ".join(sorted(others)),
            )
