"""`Projection`: a view that is made of a tenant's events, kept up to date, and made anew beside itself.

Each batch of events and the checkpoint behind it commit together, so that an event takes effect exactly once. A runner
first writes the checkpoint, which locks it; of several, one goes on, and the others see that they have lost. A rebuild
fills the next generation in the same way, by a checkpoint of its own, and becomes live in the transaction that brings
it to the end. (Blue-green rebuilds of read models: Young, "Versioning in an Event Sourced System", 2017, ch. "Building
a new read model".)
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any
from uuid import UUID

from returns.result import Failure, Result, Success

from actionengine.action_context import ActionContext
from actionengine.concurrency.backoff import equal_jitter, next_delay, sleep
from actionengine.concurrency.fair_lock import FairLock
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import Actor, RequestContext, Tenant
from actionengine.engine import Engine
from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from actionengine.event_types import EventVersionError
from actionengine.events.consumers.consumer import as_result, check_returned, consumer_plan, validate_name
from actionengine.events.event import Event
from actionengine.events.projections.batches import Batch, switching
from actionengine.events.projections.progress import Progress, ProgressMeter
from actionengine.events.projections.views import (
    CHECKPOINTS,
    AsyncLiveRecords,
    Checkpoint,
    LiveRecords,
    View,
    collection_name,
)
from actionengine.events.replay import type_names, validate_batch_size
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import is_async, sync_and_async
from actionengine.storage.pages import is_last_page
from actionengine.storage.port import MAX_COUNTED_LAG, StorageError, StoredEvent

logger = logging.getLogger("actionengine")

Apply = Callable[[Event, View], Any]

_ALL = 2**31 - 1
"""What the progress of a rebuild counts to."""

_BATCH_TIMEOUT = 60.0
"""Seconds that a runner waits for another one's batch in this process."""

_RETRY_INTERVAL = 0.02
"""Seconds before a runner that has lost against another one looks again."""

_SLICE = 1.0
"""Seconds after which `run` goes on to the next tenant."""

_MAX_RETRY_INTERVAL = 60.0
"""Seconds after which `run` tries a tenant again whose projection has stopped."""


@dataclass(frozen=True, slots=True)
class ProjectionStatus:
    """How far a projection of a tenant is.

    `generation` is the live one and `position` that of the newest event in it; `rebuilding` is the position of a
    rebuild, or None; `lag` the number of events that the live generation lacks (10 000 stands for that many or more).
    """

    generation: int
    position: int
    rebuilding: int | None
    lag: int


class Projection:
    """A named view of each tenant's events.

    Args:
        engine: where it executes: batches stand in the action log as `projections.<name>`, by the actor
            `system:projection:<name>`. Its event types bring old payloads to their newest versions.
        name: under which checkpoints and documents are kept.
        apply: `apply(event, view)`, `def` or `async def`, puts an event into the view; it depends on nothing else, so
            that a rebuild comes to the same. What it raises stops the projection of that tenant at this event.
        types: the event types that it wants; None means all.
        batch_size: events that commit together, 1000 at most.
        discard: `discard(view)`, `def` or `async def`, removes what a generation has in tables of the host's own.

    Raises:
        ConfigurationError: for a mistake in these.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        apply: Apply,
        types: Iterable[str] | None = None,
        batch_size: int = 200,
        discard: Callable[[View], Any] | None = None,
    ) -> None:
        self.name = validate_name("a projection", name)
        for function in (apply, discard or apply):
            if not callable(function):
                raise ConfigurationError(f"the projection {name!r} takes functions, not {function!r}")
        self._engine = engine
        self.storage = engine.storage
        self._apply = apply
        self._discard = discard
        self._types = type_names(types)
        self._batch_size = validate_batch_size(batch_size)
        self._rebuild_id = f"{name}/rebuild"
        self._tenant_locks: dict[UUID, FairLock] = {}

    # What runs it

    def catch_up(self, tenant: Tenant) -> Result[int, ActionError]:
        """Apply the events since the checkpoint; how many this call has applied.

        The `Failure` names the event at which the projection has stopped: all before it are in the view, and the next
        call begins with it.
        """
        return run_sync(as_result(self._catch_up(tenant, "sync")))

    async def catch_up_async(self, tenant: Tenant) -> Result[int, ActionError]:
        """The same under an event loop, for an `async def apply` or a `def` one."""
        return await as_result(self._catch_up(tenant, "async"))

    def rebuild(self, tenant: Tenant, progress: Progress | None = None) -> Result[int, ActionError]:
        """Make the view anew, beside the live one, which can be read and caught up meanwhile; how many events this call
        has applied.

        At the end the new generation becomes the live one, and the old one is removed. A rebuild that was interrupted
        goes on where it was; after a change of `apply`, call `abandon_rebuild` before. `progress(done, total)` is
        called after each batch, with numbers of events; for it, the events are counted first.

        The `Failure` is that of `catch_up`, or `conflict` where somebody has abandoned the rebuild.
        """
        return run_sync(as_result(self._rebuild(tenant, progress, "sync")))

    async def rebuild_async(self, tenant: Tenant, progress: Progress | None = None) -> Result[int, ActionError]:
        """The same under an event loop."""
        return await as_result(self._rebuild(tenant, progress, "async"))

    def abandon_rebuild(self, tenant: Tenant) -> Result[bool, ActionError]:
        """Give up a rebuild that is not finished, and remove what it has made; whether there was one."""
        return run_sync(as_result(self._abandon(tenant, "sync")))

    async def abandon_rebuild_async(self, tenant: Tenant) -> Result[bool, ActionError]:
        """The same under an event loop."""
        return await as_result(self._abandon(tenant, "async"))

    def run(
        self,
        tenants: Sequence[Tenant] | None = None,
        *,
        stop: threading.Event | None = None,
        poll_interval: float = 0.5,
    ) -> None:
        """Catch up with these tenants, or with all of the storage's, again and again, until `stop` is set.

        After a round without events it waits `poll_interval` seconds. A projection that has stopped is logged, and
        tried again after a time that doubles up to a minute.
        """
        stop = stop or threading.Event()
        rests = _RetrySchedule()
        while not stop.is_set():
            if not run_sync(self._run_once(tenants, rests, stop.is_set, "sync")):
                stop.wait(poll_interval)

    async def run_async(self, tenants: Sequence[Tenant] | None = None, *, poll_interval: float = 0.5) -> None:
        """The same under an event loop, until it is cancelled."""
        rests = _RetrySchedule()
        while True:
            if not await self._run_once(tenants, rests, lambda: False, "async"):
                await asyncio.sleep(poll_interval)

    # What is known of it

    def status(self, tenant: Tenant) -> Result[ProjectionStatus, ActionError]:
        """How far it is."""
        return run_sync(as_result(self._status(tenant, "sync")))

    async def status_async(self, tenant: Tenant) -> Result[ProjectionStatus, ActionError]:
        """The same under an event loop."""
        return await as_result(self._status(tenant, "async"))

    def read(self, ctx: ActionContext, collection: str = "") -> LiveRecords:
        """Documents of the live view, read only, in the transaction of an action's `def` handler."""
        ctx._require("def", "projection.read", "projection.read_async")
        inner = InternalContext.of(ctx)
        return LiveRecords(inner.run_sync(self._live(inner, collection)), inner.run_sync)

    async def read_async(self, ctx: ActionContext, collection: str = "") -> AsyncLiveRecords:
        """The same in an `async def` handler."""
        ctx._require("async def", "projection.read_async", "projection.read")
        return await self._live(InternalContext.of(ctx), collection)

    async def _live(self, ctx: InternalContext, collection: str) -> AsyncLiveRecords:
        records = AsyncLiveRecords(ctx, self.name, collection)
        await records.is_superseded()
        return records

    async def _status(self, tenant: Tenant, mode: Mode) -> Result[ProjectionStatus, ActionError]:
        live = await self._checkpoint(tenant, self.name, mode)
        rebuild = await self._checkpoint(tenant, self._rebuild_id, mode)
        rebuilding = rebuild.position if rebuild.phase == "filling" else None
        lag = await self._count(tenant, live.position, MAX_COUNTED_LAG, mode)
        return Success(ProjectionStatus(live.generation, live.position, rebuilding, lag))

    # Catching up

    async def _catch_up(
        self, tenant: Tenant, mode: Mode, is_over: Callable[[], bool] = lambda: False
    ) -> Result[int, ActionError]:
        applied = 0
        while not is_over():
            async with self._tenant_lock(tenant, mode):
                live = await self._checkpoint(tenant, self.name, mode)
                page = await self._page(tenant, live.position, mode)
                if not page:
                    break
                answer = await self._advance(tenant, Batch(page, live), mode)
            if answer is None:
                await sleep(mode, equal_jitter(_RETRY_INTERVAL))
            elif isinstance(answer, Failure):
                return answer
            else:
                applied += len(page)
        return Success(applied)

    async def _run_once(
        self, tenants: Sequence[Tenant] | None, rests: _RetrySchedule, is_stopping: Callable[[], bool], mode: Mode
    ) -> bool:
        """Catch up with each tenant, for a while; whether there was anything to do."""
        found = False
        try:
            for tenant in await self._all_tenants(mode) if tenants is None else tenants:
                if is_stopping():
                    break
                if rests.is_resting(tenant):
                    continue
                slice_ends = monotonic() + _SLICE

                def is_over(slice_ends: float = slice_ends) -> bool:
                    return is_stopping() or monotonic() > slice_ends

                answer = await as_result(self._catch_up(tenant, mode, is_over))
                if isinstance(answer, Failure):
                    seconds = rests.postpone(tenant)
                    logger.error("%s (tenant %s); it goes on in %g s", answer.failure(), tenant.slug, seconds)
                else:
                    rests.clear(tenant)
                    found = found or answer.unwrap() > 0
        except StorageError as error:
            logger.warning("the projection %s cannot look up the tenants: %s", self.name, error)
        return found

    async def _all_tenants(self, mode: Mode) -> Sequence[Tenant]:
        return self.storage.list_tenants() if mode == "sync" else await self.storage.list_tenants_async()

    # Rebuilding

    async def _rebuild(self, tenant: Tenant, progress: Progress | None, mode: Mode) -> Result[int, ActionError]:
        generation: int | None = None
        meter = ProgressMeter(progress)
        while True:
            answer: Result[Any, ActionError] | None
            taken_in = 0
            async with self._tenant_lock(tenant, mode):
                rebuild = await self._checkpoint(tenant, self._rebuild_id, mode)
                live = await self._checkpoint(tenant, self.name, mode)
                if generation is not None and (rebuild.phase == "idle" or rebuild.last != generation):
                    return self._finish(generation, live, meter)
                if rebuild.phase == "removing":
                    answer = await self._remove(tenant, rebuild, mode)
                elif rebuild.phase == "idle":
                    last = max(rebuild.last, live.generation) + 1
                    begun = replace(rebuild, phase="filling", generation=last, position=0, collections=(), last=last)
                    answer = await self._advance(tenant, Batch((), begun), mode)
                else:
                    generation = rebuild.generation
                    if progress is not None and meter.total is None:
                        total = await self._count(tenant, 0, _ALL, mode)
                        meter.begin(total, total - await self._count(tenant, rebuild.position, _ALL, mode))
                    # After the checkpoints: a short page has all that the live generation has.
                    page = await self._page(tenant, rebuild.position, mode)
                    taken_in = len(page)
                    is_end = is_last_page((len(item.event.payload) for item in page), self._batch_size)
                    if is_end and not await self._is_caught_up(tenant, page, rebuild, live, mode):
                        await sleep(mode, equal_jitter(_RETRY_INTERVAL))
                        continue
                    batch = switching(page, rebuild, live) if is_end else Batch(page, rebuild)
                    answer = await self._advance(tenant, batch, mode)
            if answer is None:
                await sleep(mode, equal_jitter(_RETRY_INTERVAL))
            elif isinstance(answer, Failure):
                return answer
            elif generation is not None:
                meter.add(taken_in)

    def _finish(self, generation: int, live: Checkpoint, meter: ProgressMeter) -> Result[int, ActionError]:
        if live.generation < generation:
            message = f"the rebuild of the projection {self.name} was abandoned meanwhile"
            return Failure(ActionError(ErrorCode.CONFLICT, message, {"projection": self.name}))
        return Success(meter.applied)

    async def _is_caught_up(
        self, tenant: Tenant, page: Sequence[StoredEvent], rebuild: Checkpoint, live: Checkpoint, mode: Mode
    ) -> bool:
        """Whether a short page has all events that the live generation has. What a reader may see ends at a horizon,
        which can go back a little: not for the one that the live generation was caught up to."""
        position = page[-1].position if page else rebuild.position
        if position >= live.position:
            return True
        newest = await self._read(tenant, live.position - 1, 1, None, mode)
        if self._types is None or not newest or newest[0].event.type in self._types:
            return False
        # The live generation was caught up for other types. The event that it ends with has to be seen on the way: with
        # that, all before it are seen.
        types = (*self._types, newest[0].event.type)
        while position < live.position:
            further = await self._read(tenant, position, 1000, types, mode)
            if not further or any(item.event.type in self._types for item in further):
                return False
            position = further[-1].position
        return True

    async def _abandon(self, tenant: Tenant, mode: Mode) -> Result[bool, ActionError]:
        was_there = False
        while True:
            async with self._tenant_lock(tenant, mode):
                rebuild = await self._checkpoint(tenant, self._rebuild_id, mode)
                if rebuild.phase == "idle":
                    return Success(was_there)
                if rebuild.phase == "filling":
                    answer = await self._advance(tenant, Batch((), replace(rebuild, phase="removing")), mode)
                    was_there = was_there or answer is not None
                else:
                    answer = await self._remove(tenant, rebuild, mode)
            if answer is None:
                await sleep(mode, equal_jitter(_RETRY_INTERVAL))
            elif isinstance(answer, Failure):
                return answer

    async def _remove(self, tenant: Tenant, rebuild: Checkpoint, mode: Mode) -> Result[Any, ActionError] | None:
        """Remove some of a generation's documents, and at the end what the host has of it."""
        batch = Batch((), rebuild)
        discard = self._discard

        async def remove(ctx: InternalContext) -> bool:
            await batch.begin(ctx)
            left = self._batch_size
            for collection in rebuild.collections:
                records = ctx.unit_of_work.records(collection_name(self.name, rebuild.generation, collection))
                page = await records.list(limit=left)
                for record in page:
                    await records.delete(record.id, record.version)
                    left -= 1
                if page.next is not None:
                    return False
            return True

        async def end(ctx: InternalContext) -> None:
            await replace(batch.stored, phase="idle", collections=()).store(ctx.unit_of_work.records(CHECKPOINTS))

        @sync_and_async
        async def handle_plainly(data: Any, ctx: InternalContext) -> Result[None, ActionError]:
            if await remove(ctx):
                await end(ctx)
            return Success(None)

        def handle(data: Any, ctx: InternalContext) -> Result[None, ActionError]:
            assert discard is not None
            run = ctx.run_sync
            if run(remove(ctx)):
                check_returned("discard", discard(View(ctx, self.name, rebuild)))
                run(end(ctx))
            return Success(None)

        async def handle_async(data: Any, ctx: InternalContext) -> Result[None, ActionError]:
            assert discard is not None
            if await remove(ctx):
                check_returned("discard", await discard(View(ctx, self.name, rebuild)))
                await end(ctx)
            return Success(None)

        handler = handle_plainly if discard is None else handle_async if is_async(discard) else handle
        return await self._execute(tenant, batch, handler, f"remove generation {rebuild.generation}", mode)

    # One batch

    async def _advance(self, tenant: Tenant, batch: Batch, mode: Mode) -> Result[Any, ActionError] | None:
        """Apply a batch, or what of it comes before the event that cannot be applied. None: another runner was
        faster."""
        answer = await self._apply_batch(tenant, batch, mode)
        at = batch.stopped_at
        if at is None or not isinstance(answer, Failure) or answer.failure().code is ErrorCode.UNAVAILABLE:
            return answer
        stopped = self._stopped(batch.page[at], answer.failure())
        if at > 0:
            first = await self._apply_batch(tenant, batch.up_to(at), mode)
            if not isinstance(first, Success):
                return first
        return Failure(stopped)

    async def _apply_batch(self, tenant: Tenant, batch: Batch, mode: Mode) -> Result[Any, ActionError] | None:
        def handle(data: Any, ctx: InternalContext) -> Result[int, ActionError]:
            run = ctx.run_sync
            run(batch.begin(ctx))
            view = View(ctx, self.name, batch.target)
            for event in self._events(batch):
                check_returned("apply", self._apply(event, view))
            run(batch.end(ctx, view))
            return Success(len(batch.page))

        async def handle_async(data: Any, ctx: InternalContext) -> Result[int, ActionError]:
            await batch.begin(ctx)
            view = View(ctx, self.name, batch.target)
            for event in self._events(batch):
                check_returned("apply", await self._apply(event, view))
            await batch.end(ctx, view)
            return Success(len(batch.page))

        handler = handle_async if is_async(self._apply) else handle
        return await self._execute(tenant, batch, handler, batch.reason, mode)

    async def _execute(
        self, tenant: Tenant, batch: Batch, handler: Callable[..., Any], reason: str, mode: Mode
    ) -> Result[Any, ActionError] | None:
        plan = consumer_plan("projections", self.name, handler)
        context = RequestContext(tenant, Actor.system(f"projection:{self.name}"), "event", reason=reason)
        payload = {"generation": batch.target.generation, "events": len(batch.page)}
        answer = await self._engine.execute_consumer(plan, payload, context, mode)
        return None if batch.is_lost else answer

    def _events(self, batch: Batch) -> Iterator[Event]:
        for at, (position, row) in enumerate(batch.page):
            batch.stopped_at = at
            try:
                event = Event.of(position, row, self._engine.event_types)
            except EventVersionError as error:
                raise ActionError(ErrorCode.INTERNAL, str(error)) from None
            yield event
        batch.stopped_at = None

    def _stopped(self, stored: StoredEvent, error: ActionError) -> ActionError:
        position, row = stored
        return ActionError(
            error.code,
            f"the projection {self.name} has stopped at the event {row.type} {row.id} (position {position}): {error}",
            {"projection": self.name, "event": row.id, "type": row.type, "position": position, **error.details},
        )

    # What it reads

    async def _checkpoint(self, tenant: Tenant, id: str, mode: Mode) -> Checkpoint:
        unit_of_work = self.storage.unit_of_work(tenant, "", mode, read_only=True)
        try:
            record = await unit_of_work.records(CHECKPOINTS).get(id)
        finally:
            await unit_of_work.rollback()
        return Checkpoint.of(id, record, "live" if id == self.name else "idle")

    async def _page(self, tenant: Tenant, after: int, mode: Mode, limit: int | None = None) -> Sequence[StoredEvent]:
        return await self._read(tenant, after, limit or self._batch_size, self._types, mode)

    async def _read(
        self, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None, mode: Mode
    ) -> Sequence[StoredEvent]:
        if mode == "sync":
            return self.storage.read_events(tenant, after=after, limit=limit, types=types)
        return await self.storage.read_events_async(tenant, after=after, limit=limit, types=types)

    async def _count(self, tenant: Tenant, after: int, most: int, mode: Mode) -> int:
        if mode == "sync":
            return self.storage.count_events(tenant, after=after, limit=most, types=self._types)
        return await self.storage.count_events_async(tenant, after=after, limit=most, types=self._types)

    @asynccontextmanager
    async def _tenant_lock(self, tenant: Tenant, mode: Mode) -> AsyncIterator[None]:
        """Runners of this process go one after the other, batch by batch."""
        turns, who = self._tenant_locks.setdefault(tenant.id, FairLock()), object()
        if not await turns.acquire(who, mode, _BATCH_TIMEOUT):
            message = (
                f"the projection {self.name} is busy: a batch of another runner takes longer than {_BATCH_TIMEOUT:g} s"
            )
            raise ActionError(ErrorCode.CONFLICT, message, {"projection": self.name})
        try:
            yield
        finally:
            turns.release(who)


class _RetrySchedule:
    """Tenants whose projection has stopped, and until when each is left alone."""

    def __init__(self) -> None:
        self._rests: dict[UUID, tuple[float, float]] = {}

    def is_resting(self, tenant: Tenant) -> bool:
        """Return whether it is not yet time to try again."""
        return self._rests.get(tenant.id, (0.0, 0.0))[1] > monotonic()

    def postpone(self, tenant: Tenant) -> float:
        """Leave a tenant alone: for how many seconds."""
        seconds = next_delay(self._rests.get(tenant.id, (0.5, 0.0))[0], _MAX_RETRY_INTERVAL)
        self._rests[tenant.id] = seconds, monotonic() + seconds
        return seconds

    def clear(self, tenant: Tenant) -> None:
        """It works again."""
        self._rests.pop(tenant.id, None)
