"""Rebuilding: fills the next generation of a view, makes it the live one, and removes the old one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from returns.result import Failure, Result, Success

from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode
from actionengine.events.consumers.consumer import call_consumer
from actionengine.events.projections.batches import Batch, switching
from actionengine.events.projections.catch_up import CatchUp
from actionengine.events.projections.progress import Progress, ProgressMeter
from actionengine.events.projections.views import CHECKPOINTS, Checkpoint, View, collection_name
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.pages import is_last_page
from actionengine.storage.rows import StoredEvent

_MAX_COUNTED = 2**31 - 1
"""The number of events up to which the progress of a rebuild counts."""


class Rebuild:
    """The rebuilds of one projection in one mode."""

    def __init__(self, catch_up: CatchUp) -> None:
        self._catch_up = catch_up
        self._definition = catch_up.definition

    async def run(self, tenant: Tenant, progress: Progress | None) -> Result[int, ActionError]:
        """Begin a rebuild or go on with one, until its generation is live. Return the number of applied events."""
        catch_up = self._catch_up
        generation: int | None = None
        meter = ProgressMeter(progress)
        while True:
            answer: Result[Any, ActionError] | None
            taken_in = 0
            async with catch_up.lock(tenant):
                rebuild = await catch_up.checkpoint(tenant, self._definition.rebuild_id)
                live = await catch_up.checkpoint(tenant, self._definition.name)
                if generation is not None and (rebuild.phase == "idle" or rebuild.last != generation):
                    return self._finish(generation, live, meter)
                if rebuild.phase == "removing":
                    answer = await self._remove(tenant, rebuild)
                elif rebuild.phase == "idle":
                    last = max(rebuild.last, live.generation) + 1
                    begun = replace(rebuild, phase="filling", generation=last, position=0, collections=(), last=last)
                    answer = await catch_up.advance(tenant, Batch((), begun))
                else:
                    generation = rebuild.generation
                    if progress is not None and meter.total is None:
                        total = await catch_up.count(tenant, 0, _MAX_COUNTED)
                        meter.begin(total, total - await catch_up.count(tenant, rebuild.position, _MAX_COUNTED))
                    # Read after the checkpoints, so that a short page has all that the live generation has.
                    page = await catch_up.page(tenant, rebuild.position)
                    taken_in = len(page)
                    is_end = is_last_page((len(item.event.payload) for item in page), self._definition.batch_size)
                    if is_end and not await self._is_caught_up(tenant, page, rebuild, live):
                        await catch_up.pause()
                        continue
                    batch = switching(page, rebuild, live) if is_end else Batch(page, rebuild)
                    answer = await catch_up.advance(tenant, batch)
            if answer is None:
                await catch_up.pause()
            elif isinstance(answer, Failure):
                return answer
            elif generation is not None:
                meter.add(taken_in)

    async def abandon(self, tenant: Tenant) -> Result[bool, ActionError]:
        """Remove the generation of an unfinished rebuild. Return whether there was one."""
        was_there = False
        while True:
            async with self._catch_up.lock(tenant):
                rebuild = await self._catch_up.checkpoint(tenant, self._definition.rebuild_id)
                if rebuild.phase == "idle":
                    return Success(was_there)
                if rebuild.phase == "filling":
                    answer = await self._catch_up.advance(tenant, Batch((), replace(rebuild, phase="removing")))
                    was_there = was_there or answer is not None
                else:
                    answer = await self._remove(tenant, rebuild)
            if answer is None:
                await self._catch_up.pause()
            elif isinstance(answer, Failure):
                return answer

    def _finish(self, generation: int, live: Checkpoint, meter: ProgressMeter) -> Result[int, ActionError]:
        if live.generation < generation:
            name = self._definition.name
            message = f"the rebuild of the projection {name} was abandoned meanwhile: start another one"
            return Failure(ActionError(ErrorCode.CONFLICT, message, {"projection": name}))
        return Success(meter.applied)

    async def _is_caught_up(
        self, tenant: Tenant, page: Sequence[StoredEvent], rebuild: Checkpoint, live: Checkpoint
    ) -> bool:
        """Return whether a short page ends with all events that the live generation has.

        A reader sees events up to a horizon, which can go back a little, behind the position of the live generation.
        """
        position = page[-1].position if page else rebuild.position
        if position >= live.position:
            return True
        types = self._definition.types
        newest = await self._catch_up.read(tenant, live.position - 1, 1)
        if types is None or not newest or newest[0].event.type in types:
            return False
        # The live generation was caught up for other types. When its last event can be read, so can all before it.
        while position < live.position:
            further = await self._catch_up.read(tenant, position, 1000, (*types, newest[0].event.type))
            if not further or any(item.event.type in types for item in further):
                return False
            position = further[-1].position
        return True

    async def _remove(self, tenant: Tenant, rebuild: Checkpoint) -> Result[Any, ActionError] | None:
        """Remove a batch of a generation's documents; with the last one, also what the host has of it."""
        batch, discard = Batch((), rebuild), self._definition.discard

        async def work(ctx: InternalContext) -> Result[None, ActionError]:
            await batch.begin(ctx)
            if await self._delete_documents(ctx, rebuild):
                if discard is not None:
                    await call_consumer("discard", discard, View(ctx, self._definition.name, rebuild))
                idle = replace(batch.stored, phase="idle", collections=())
                await idle.store(ctx.unit_of_work.records(CHECKPOINTS))
            return Success(None)

        return await self._catch_up.execute(tenant, batch, f"remove generation {rebuild.generation}", work, discard)

    async def _delete_documents(self, ctx: InternalContext, rebuild: Checkpoint) -> bool:
        """Delete at most a batch of documents. Return whether none is left."""
        left = self._definition.batch_size
        for collection in rebuild.collections:
            name = collection_name(self._definition.name, rebuild.generation, collection)
            records = ctx.unit_of_work.records(name)
            page = await records.list(limit=left)
            for record in page:
                await records.delete(record.id, record.version)
            left -= len(page)
            if page.next is not None:
                return False
        return True
