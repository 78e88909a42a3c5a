"""Catching up: one projection in one mode reads events after a checkpoint, and applies them batch by batch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from returns.result import Failure, Result, Success

from actionengine.concurrency.backoff import equal_jitter, sleep
from actionengine.concurrency.fair_lock import FairLock
from actionengine.concurrency.run_sync import Mode
from actionengine.context import Actor, RequestContext, Tenant
from actionengine.engine import Engine
from actionengine.errors import ActionError, ErrorCode
from actionengine.event_types import EventVersionError
from actionengine.events.consumers.consumer import call_consumer, consumer_plan, handler_for
from actionengine.events.event import Event
from actionengine.events.projections.batches import Batch
from actionengine.events.projections.views import CHECKPOINTS, Checkpoint, View
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.rows import StoredEvent

Apply = Callable[[Event, View], Any]
Discard = Callable[[View], Any]

BATCH_TIMEOUT = 60.0
"""Seconds that a runner waits for another one's batch in this process."""

RETRY_INTERVAL = 0.02
"""Seconds before a runner that has lost against another one tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """The settings of a projection, and the locks that all its runners in this process share."""

    engine: Engine
    name: str
    apply: Apply
    discard: Discard | None
    types: Sequence[str] | None
    batch_size: int
    locks: dict[UUID, FairLock] = field(default_factory=dict)

    @property
    def rebuild_id(self) -> str:
        """The id of a rebuild's checkpoint; that of the live generation is `name`."""
        return f"{self.name}/rebuild"


class CatchUp:
    """One projection in one mode."""

    def __init__(self, definition: Definition, mode: Mode) -> None:
        self.definition = definition
        self.mode = mode
        self._storage = definition.engine.storage

    async def run(self, tenant: Tenant, is_over: Callable[[], bool] = lambda: False) -> Result[int, ActionError]:
        """Apply the events after the live checkpoint, and return their number. Stop early when `is_over` says so."""
        applied = 0
        while not is_over():
            async with self.lock(tenant):
                live = await self.checkpoint(tenant, self.definition.name)
                page = await self.page(tenant, live.position)
                if not page:
                    break
                answer = await self.advance(tenant, Batch(page, live))
            if answer is None:
                await self.pause()
            elif isinstance(answer, Failure):
                return answer
            else:
                applied += len(page)
        return Success(applied)

    # Writing

    @asynccontextmanager
    async def lock(self, tenant: Tenant) -> AsyncIterator[None]:
        """Keep other runners of this process out for one batch. Raise `ActionError(conflict)` after `BATCH_TIMEOUT`."""
        lock, holder = self.definition.locks.setdefault(tenant.id, FairLock()), object()
        if not await lock.acquire(holder, self.mode, BATCH_TIMEOUT):
            name = self.definition.name
            message = f"the projection {name} is busy: another runner's batch has taken more than {BATCH_TIMEOUT:g} s"
            raise ActionError(ErrorCode.CONFLICT, message, {"projection": name})
        try:
            yield
        finally:
            lock.release(holder)

    async def pause(self) -> None:
        """Wait before another attempt, after another runner was faster."""
        await sleep(self.mode, equal_jitter(RETRY_INTERVAL))

    async def advance(self, tenant: Tenant, batch: Batch) -> Result[Any, ActionError] | None:
        """Apply a batch; if one of its events cannot be applied, those before it. Return None if another runner was
        faster."""
        answer = await self._apply_batch(tenant, batch)
        at = batch.stopped_at
        if at is None or not isinstance(answer, Failure) or answer.failure().code is ErrorCode.UNAVAILABLE:
            return answer
        stopped = self._stopped_error(batch.page[at], answer.failure())
        if at > 0:
            first = await self._apply_batch(tenant, batch.up_to(at))
            if not isinstance(first, Success):
                return first
        return Failure(stopped)

    async def execute(
        self,
        tenant: Tenant,
        batch: Batch,
        reason: str,
        work: Callable[[InternalContext], Awaitable[Result[Any, ActionError]]],
        function: Callable[..., Any] | None,
    ) -> Result[Any, ActionError] | None:
        """Execute the work of a batch, which calls a host's function. Return None if another runner was faster."""
        name = self.definition.name
        plan = consumer_plan("projections", name, handler_for(work, function))
        context = RequestContext(tenant, Actor.system(f"projection:{name}"), "event", reason=reason)
        payload = {"generation": batch.target.generation, "events": len(batch.page)}
        answer = await self.definition.engine.execute_plan(plan, payload, context, self.mode)
        return None if batch.is_lost else answer

    async def _apply_batch(self, tenant: Tenant, batch: Batch) -> Result[Any, ActionError] | None:
        apply = self.definition.apply

        async def work(ctx: InternalContext) -> Result[int, ActionError]:
            await batch.begin(ctx)
            view = View(ctx, self.definition.name, batch.target)
            for event in self._events(batch):
                await call_consumer("apply", apply, event, view)
            await batch.end(ctx, view)
            return Success(len(batch.page))

        return await self.execute(tenant, batch, batch.reason, work, apply)

    def _events(self, batch: Batch) -> Iterator[Event]:
        for at, (position, row) in enumerate(batch.page):
            batch.stopped_at = at
            try:
                event = Event.of(position, row, self.definition.engine.event_types)
            except EventVersionError as error:
                raise ActionError(ErrorCode.INTERNAL, str(error)) from None
            yield event
        batch.stopped_at = None

    def _stopped_error(self, stored: StoredEvent, error: ActionError) -> ActionError:
        position, row = stored
        name = self.definition.name
        return ActionError(
            error.code,
            f"the projection {name} has stopped at the event {row.type} {row.id} (position {position}): {error}",
            {"projection": name, "event": row.id, "type": row.type, "position": position, **error.details},
        )

    # Reading

    async def checkpoint(self, tenant: Tenant, id: str) -> Checkpoint:
        """Return a checkpoint as it is stored, or a new one."""
        unit_of_work = self._storage.unit_of_work(tenant, "", self.mode, read_only=True)
        try:
            record = await unit_of_work.records(CHECKPOINTS).get(id)
        finally:
            await unit_of_work.rollback()
        return Checkpoint.of(id, record, "live" if id == self.definition.name else "idle")

    async def page(self, tenant: Tenant, after: int) -> Sequence[StoredEvent]:
        """Return the events of the next batch after a position."""
        return await self.read(tenant, after, self.definition.batch_size, self.definition.types)

    async def read(
        self, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """Return events of these types, or of all, after a position."""
        if self.mode == "sync":
            return self._storage.read_events(tenant, after=after, limit=limit, types=types)
        return await self._storage.read_events_async(tenant, after=after, limit=limit, types=types)

    async def count(self, tenant: Tenant, after: int, limit: int) -> int:
        """Return the number of events that the projection takes after a position, at most `limit`."""
        types = self.definition.types
        if self.mode == "sync":
            return self._storage.count_events(tenant, after=after, limit=limit, types=types)
        return await self._storage.count_events_async(tenant, after=after, limit=limit, types=types)

    async def tenants(self) -> Sequence[Tenant]:
        """Return all tenants of the storage."""
        return self._storage.list_tenants() if self.mode == "sync" else await self._storage.list_tenants_async()
