"""The action that removes runs which ended long ago. Their actions stay on the action log."""

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
from actionengine.workflows.runs.events import WORKFLOW_PURGED, RunsPurged
from actionengine.workflows.runs.store import Store, open_store, run_subject

_PAGE_SIZE = 1000

_FULL_SCAN_INTERVAL = 60.0
"""Seconds after which a purge begins with the first run again, for runs whose end was committed late."""

_CACHE_BYTES = 1 << 20
_ENTRY_BYTES = 400
"""Approximate bytes of the entry of one tenant."""

_last_removed: BoundedCache[str] = BoundedCache(_CACHE_BYTES)
"""The last end that this process removed, by storage and tenant. While a snapshot is held, a scan from the start reads
all removed ends."""


@sync_and_async
async def purge(data: PurgeRuns, ctx: InternalContext) -> Result[Purged, ActionError]:
    """Remove runs that ended before a time, and their steps, in the order of their ends."""
    store = open_store(ctx)
    place = (ref(ctx.storage), ctx.tenant.id)
    last = _last_removed.get(place, 0)
    ends = await _ends(store, data.ended_before, data.limit + 1, None if last is None else last.value)
    removed = [id for end in ends[: data.limit] if (id := await _remove(store, end)) is not None]
    for id in removed:
        ctx.add_subject(run_subject(id))
    if removed:
        expires = monotonic() + _FULL_SCAN_INTERVAL if last is None else last.expires
        entry = Entry(ends[: data.limit][-1].id, 0, expires, _ENTRY_BYTES)
        ctx.after_commit(partial(_last_removed.put, place, entry))
        ctx.emit(WORKFLOW_PURGED, RunsPurged(run_ids=tuple(removed)))
    else:
        ctx.suppress_default_event()
    return Success(Purged(runs=len(removed), has_more=len(ends) > data.limit))


async def _ends(store: Store, before: datetime, limit: int, after: str | None) -> list[Record]:
    """Return the first ends after an id that are before a time. They sort by time."""
    found: list[Record] = []
    while left := limit - len(found):
        page = await store.ends.list(limit=left, after=after)
        ended = [end for end in page if end.id < sortable(before)]
        found += ended
        after = page.next
        if after is None or len(ended) < len(page):
            break
    return found


async def _remove(store: Store, end: Record) -> str | None:
    """Remove a run that has ended. Return its id, or None if it does not exist."""
    _, _, id = end.id.partition("/")
    try:
        # First: of two purges that remove the same run, one waits here.
        await store.ends.delete(end.id, end.version)
    except ActionError as refusal:
        raise SerializationFailure(f"another purge removes the run {id}: run it again") from refusal
    run = await store.runs.get(id)
    if run is None:
        return None
    await store.runs.delete(id, run.version)
    async for step in _steps_of(store, run):
        await store.steps.delete(step.id, step.version)
    return id


async def _steps_of(store: Store, run: Record) -> AsyncIterator[Record]:
    """Yield the steps of a run, from the first."""
    after = f"{run.id}/"
    while page := await store.steps.list(limit=_PAGE_SIZE, after=after):
        for step in page:
            if step.data["run_id"] != run.id:
                return
            yield step
        after = page[-1].id
