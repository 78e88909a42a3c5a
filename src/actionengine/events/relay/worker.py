"""One run of a relay at one queue: take, deliver, settle, and recover when one of these fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from uuid_utils.compat import uuid7

from actionengine.concurrency.background_loop import BackgroundLoop, LoopEnded
from actionengine.concurrency.backoff import delay, equal_jitter
from actionengine.concurrency.one_shot_event import OneShotEvent
from actionengine.concurrency.run_sync import Mode
from actionengine.errors import ActionError, ConfigurationError
from actionengine.events.publishers.port import Publisher, PublishError, PublisherUnavailable
from actionengine.events.relay.delivery import Deliverer, Delivery, storable_reason
from actionengine.events.relay.metrics import RelayMetrics
from actionengine.events.user_calls import call_out
from actionengine.storage.errors import SerializationFailure, StorageError, StorageUnavailable
from actionengine.storage.outbox import OutboxStatus, PendingEvent, RelayHeartbeat
from actionengine.storage.port import Storage

T = TypeVar("T")

logger = logging.getLogger("actionengine")

_HEARTBEAT_INTERVAL = 5.0
"""Seconds between two heartbeats."""

_LEASE_TIMEOUT = 10.0
"""Seconds that a lease is longer than the timeout of a publisher's call."""

_MIN_RETRY_INTERVAL = 0.2
_MAX_RETRY_INTERVAL = 15.0
"""Seconds after which an unavailable publisher or storage is tried again."""

_TRANSIENT = (PublishError, StorageUnavailable, SerializationFailure, ActionError)
"""Errors after which the relay tries again. A database's refusal of a slow statement is an `ActionError`."""

_PROBE_SIZE = 10
"""Events that are tried first after an outage."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """The settings of a relay for its workers; times are in seconds."""

    name: str
    publisher: str
    batch_size: int
    publish_timeout: float
    poll_interval: float


class RelayWorker:
    """One run of a relay at one queue, in one mode."""

    def __init__(
        self,
        storage: Storage,
        queue: str,
        mode: Mode,
        publisher: Publisher,
        deliverer: Deliverer,
        settings: RelaySettings,
    ) -> None:
        self._storage = storage
        self._mode = mode
        self._outbox = storage.outbox(mode, queue)
        # A publisher that executes actions opens connections in its event loop.
        at_start, at_end = (getattr(storage, name, None) for name in ("limit_idle", "aclose_loop"))
        self._loop = (
            BackgroundLoop("actionengine-publisher", at_start=at_start, at_end=at_end) if mode == "sync" else None
        )
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
        """End `work` soon."""
        self._is_stopping = True
        try:
            # A signal handler must not wait for a lock that the interrupted code may hold.
            threading.Thread(target=self._wake, name="actionengine-stop", daemon=True).start()
        except RuntimeError:
            self._wake()

    def _wake(self) -> None:
        self._outbox.wake()
        pausing = self._pausing
        if pausing is not None:
            pausing.set()

    async def work(self, ends: bool) -> int:
        """Deliver events until `stop`; or, if it `ends`, until none is due. Return their number.

        Raises `ConfigurationError`; and if it `ends`, also `PublisherUnavailable` and `StorageUnavailable`.
        """
        self._beats = not ends
        while not self._is_stopping:
            try:
                if not await self._deliver_batch() and not self._is_stopping:
                    if ends:
                        break
                    await self._outbox.wait(self._settings.poll_interval)
                    await self._beat()
            except Exception as error:
                if isinstance(error, LoopEnded):
                    # The publisher's connections ended with its event loop.
                    self._is_started = False
                is_transient = isinstance(error, _TRANSIENT)
                if ends or (isinstance(error, ConfigurationError | StorageError) and not is_transient):
                    raise
                if not is_transient:
                    logger.exception("the relay %s met an unexpected error", self._settings.name)
                await self._recover(error)
        return self._delivered

    async def close(self) -> None:
        """Release the events that are held, and stop the publisher."""
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
                if self._loop is not None:
                    self._loop.close()

    async def _deliver_batch(self) -> bool:
        """Deliver one batch, and return whether there was one. Raise `PublisherUnavailable`, `StorageError` and
        `ConfigurationError`."""
        if not self._is_started:
            await self._start_publisher()
        limit = self._settings.batch_size
        if self._outages:
            limit = min(limit, _PROBE_SIZE + self._deliverer.suspects)
        batch = await self._outbox.take(limit, self._lease)
        if not batch:
            self._outages, self._error = 0, None
            return False
        self._leased_at = monotonic()
        try:
            delivery = await self._run_in_loop(self._deliverer.deliver, batch, self._can_continue)
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

    async def _notify_publisher(self, name: str) -> None:
        method = getattr(self._publisher, name, None)
        if method is not None:
            await self._run_in_loop(partial(call_out, method, timeout=self._settings.publish_timeout))

    async def _run_in_loop(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Return what a coroutine function returns in the publisher's event loop: the relay's own, or one in a
        background thread if the relay has none."""
        if self._loop is None:
            return await function(*arguments)
        return self._loop.run(function, *arguments)

    async def _recover(self, error: Exception) -> None:
        """Wait before the next attempt."""
        self._outages += 1
        self._error = f"{type(error).__name__}: {storable_reason(error)}"
        pause = equal_jitter(delay(self._outages, _MIN_RETRY_INTERVAL, _MAX_RETRY_INTERVAL))
        logger.warning("the relay %s tries again in %.1f s: %s", self._settings.name, pause, self._error)
        await self._beat()
        if not self._is_stopping:
            signal = self._pausing = OneShotEvent(self._mode)
            await signal.wait(pause)
            self._pausing = None

    async def _beat(self) -> None:
        """Store a heartbeat, at most every few seconds."""
        now = monotonic()
        if not self._beats or (self._beaten_at is not None and now - self._beaten_at < _HEARTBEAT_INTERVAL):
            return
        self._beaten += 1
        is_second = self._beaten == 2
        elapsed = now - self._beaten_at if self._beaten_at is not None else 0.0
        rate = (self._delivered - self._delivered_before) / elapsed if elapsed else 0.0
        self._beaten_at, self._delivered_before = now, self._delivered
        beat = RelayHeartbeat(
            id=self._id,
            name=self._settings.name,
            publisher=self._settings.publisher,
            started_at=self._started_at,
            seen_at=datetime.now(UTC),
            delivered=self._delivered,
            failed=self._failed,
            rate=rate,
            error=self._error,
        )
        with suppress(StorageError, ActionError):
            await self._outbox.heartbeat(beat)
            if self._metrics.is_on or is_second:
                status = await self._outbox.status()
                self._metrics.gauge(status)
                if self._metrics.is_on:
                    self._metrics.gauge_backlog(await self._storage.backlog(self._mode))
                if is_second:
                    self._check_others(status)

    def _check_others(self, status: OutboxStatus) -> None:
        recent = [beat for beat in status.relays if beat.seen_at > self._started_at]
        others = {beat.publisher for beat in recent} - {self._settings.publisher}
        if others:
            logger.warning(
                "the relay %s delivers events to %s, and others deliver to %s: each event goes to one of them only. "
                "Use a Fanout to give each event to several publishers",
                self._settings.name,
                self._settings.publisher,
                ", ".join(sorted(others)),
            )
