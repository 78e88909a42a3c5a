"""How runs that ended long ago are removed. What they did stays on the action log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from returns.result import Result, Success

from actionengine.action_context import ActionContext
from actionengine.errors import ActionError
from actionengine.plan import native
from actionengine.storage.port import Record
from actionengine.workflows.models import Purged, PurgeRuns
from actionengine.workflows.store import Store, store_of

_ENDED = ("succeeded", "failed", "cancelled")
_PAGE = 1000


@native
async def purge(data: PurgeRuns, ctx: ActionContext) -> Result[Purged, ActionError]:
    """Remove runs that ended before a time, with the steps that they have taken."""
    store = store_of(ctx)
    found = [run async for run in _ended(store, data.ended_before, data.limit + 1)]
    for run in found[: data.limit]:
        async for step in _steps_of(store, run):
            await store.steps.delete(step.id, step.version)
        await store.runs.delete(run.id, run.version)
    return Success(Purged(runs=min(len(found), data.limit), has_more=len(found) > data.limit))


async def _ended(store: Store, before: datetime, most: int) -> AsyncIterator[Record]:
    """Runs that have ended before a time. They sort by when they began: where that is later, none is looked for."""
    left = most
    for status in _ENDED:
        after: str | None = None
        while left and (page := await store.runs.list({"status": status}, left, after)):
            for run in page:
                if datetime.fromisoformat(run.data["ended_at"]) < before:
                    yield run
                    left -= 1
            after = page[-1].id
            if page[-1].created_at >= before:
                break


async def _steps_of(store: Store, run: Record) -> AsyncIterator[Record]:
    """The steps that a run has taken, from the first."""
    after = f"{run.id}/"
    while page := await store.steps.list(limit=_PAGE, after=after):
        for step in page:
            if step.data["run_id"] != run.id:
                return
            yield step
        after = page[-1].id
