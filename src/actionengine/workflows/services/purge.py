"""How runs that ended long ago are removed. What they did stays on the action log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

from returns.result import Result, Success

from actionengine.errors import ActionError
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import native
from actionengine.storage.port import Record, SerializationFailure
from actionengine.workflows.models import Purged, PurgeRuns
from actionengine.workflows.runs.events import PURGED, RunsPurged
from actionengine.workflows.runs.store import Store, run_subject, store_of

_ENDED = ("succeeded", "failed", "cancelled")
_PAGE = 1000


@native
async def purge(data: PurgeRuns, ctx: InternalContext) -> Result[Purged, ActionError]:
    """Remove runs that ended before a time, with the steps that they have taken."""
    access, store = ctx, store_of(ctx)
    found = [run async for run in _ended(store, data.ended_before, data.limit + 1)]
    removed = found[: data.limit]
    for run in removed:
        await _remove(store, run)
        access.add_subject(run_subject(run.id))
    if removed:
        ctx.emit(PURGED, RunsPurged(run_ids=tuple(run.id for run in removed)))
    else:
        access.nothing_changed()
    return Success(Purged(runs=len(removed), has_more=len(found) > len(removed)))


async def _remove(store: Store, run: Record) -> None:
    try:
        # Before its steps: of two that remove it at once, one waits here.
        await store.runs.delete(run.id, run.version)
    except ActionError as refusal:
        raise SerializationFailure(f"the run {run.id} is removed by somebody else: run it again") from refusal
    async for step in _steps_of(store, run):
        await store.steps.delete(step.id, step.version)


async def _ended(store: Store, before: datetime, most: int) -> AsyncIterator[Record]:
    """Runs that have ended before a time. They sort by the times of their ids: where that is later, none is looked
    for."""
    left = most
    for status in _ENDED:
        after: str | None = None
        while left and (page := await store.runs.list({"status": status}, left, after)):
            for run in page:
                if datetime.fromisoformat(run.data["ended_at"]) < before:
                    yield run
                    left -= 1
            after = page[-1].id
            if _begun(page[-1]) >= before:
                break


def _begun(run: Record) -> datetime:
    """The time that the id of a run has: when it began, or what has caused it, so that it may have begun later."""
    return datetime.fromtimestamp((UUID(run.id).int >> 80) / 1000, UTC)


async def _steps_of(store: Store, run: Record) -> AsyncIterator[Record]:
    """The steps that a run has taken, from the first."""
    after = f"{run.id}/"
    while page := await store.steps.list(limit=_PAGE, after=after):
        for step in page:
            if step.data["run_id"] != run.id:
                return
            yield step
        after = page[-1].id
