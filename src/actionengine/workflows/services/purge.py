"""How runs that ended long ago are removed. What they did stays on the action log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from time import monotonic
from weakref import ref

from returns.result import Result, Success

from actionengine.authorization.cache import BoundedCache, Entry
from actionengine.errors import ActionError
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import sync_and_async
from actionengine.storage.clock import sortable
from actionengine.storage.errors import SerializationFailure
from actionengine.storage.rows import Record
from actionengine.workflows.models import Purged, PurgeRuns
from actionengine.workflows.runs.events import PURGED, RunsPurged
from actionengine.workflows.runs.store import Store, open_store, run_subject

_PAGE = 1000

_FULL_LOOK = 60.0
"""Seconds after which a purge begins with the first run again, whatever is known: a run whose end was committed late is
left for no longer."""

_REMEMBERED_BYTES = 1 << 20
_OF_A_TENANT = 400
"""Bytes of what is remembered of one, about."""

_known: BoundedCache[str] = BoundedCache(_REMEMBERED_BYTES)
"""By storage and tenant, the last note that this process has removed: a look that passes those before it, while a
snapshot is held, reads them all."""


@sync_and_async
async def purge(data: PurgeRuns, ctx: InternalContext) -> Result[Purged, ActionError]:
    """Remove runs that ended before a time, with the steps that they have taken: first those that ended first."""
    store = open_store(ctx)
    place = (ref(ctx.storage), ctx.tenant.id)
    known = _known.get(place, 0)
    ends = await _ends(store, data.ended_before, data.limit + 1, None if known is None else known.value)
    removed = [id for end in ends[: data.limit] if (id := await _remove(store, end)) is not None]
    for id in removed:
        ctx.add_subject(run_subject(id))
    if removed:
        until = monotonic() + _FULL_LOOK if known is None else known.expires
        last = Entry(ends[: data.limit][-1].id, 0, until, _OF_A_TENANT)
        ctx.after_commit(partial(_known.put, place, last))
        ctx.emit(PURGED, RunsPurged(run_ids=tuple(removed)))
    else:
        ctx.suppress_default_event()
    return Success(Purged(runs=len(removed), has_more=len(ends) > data.limit))


async def _ends(store: Store, before: datetime, most: int, after: str | None) -> list[Record]:
    """The first notes, after one, of runs that have ended before a time: they sort by when that was."""
    found: list[Record] = []
    while left := most - len(found):
        page = await store.ends.list(limit=left, after=after)
        ended = [end for end in page if end.id < sortable(before)]
        found += ended
        after = page.next
        if after is None or len(ended) < len(page):
            break
    return found


async def _remove(store: Store, end: Record) -> str | None:
    """Remove a run that has ended: its id, or None where there is none any more."""
    _, _, id = end.id.partition("/")
    try:
        # First of all: of two that remove a run at once, one waits here.
        await store.ends.delete(end.id, end.version)
    except ActionError as refusal:
        raise SerializationFailure(f"the run {id} is removed by somebody else: run it again") from refusal
    run = await store.runs.get(id)
    if run is None:
        return None
    await store.runs.delete(id, run.version)
    async for step in _steps_of(store, run):
        await store.steps.delete(step.id, step.version)
    return id


async def _steps_of(store: Store, run: Record) -> AsyncIterator[Record]:
    """The steps that a run has taken, from the first."""
    after = f"{run.id}/"
    while page := await store.steps.list(limit=_PAGE, after=after):
        for step in page:
            if step.data["run_id"] != run.id:
                return
            yield step
        after = page[-1].id
