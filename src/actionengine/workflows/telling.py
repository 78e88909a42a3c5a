"""Events that runs emit from more than one place."""

from __future__ import annotations

from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.port import Record
from actionengine.workflows.events import ENDED, RESUMED, STARTED, RunEnded, RunSetGoing
from actionengine.workflows.store import run_subject


def tell_going(ctx: InternalContext, run: Record, first: bool = False) -> None:
    """Have a run set going, once this commits."""
    told = RunSetGoing(run_id=run.id, workflow_key=run.data["workflow_key"], turn=run.data["turn"])
    ctx.emit(STARTED if first else RESUMED, told, subject=run_subject(run.id))


def tell_end(ctx: InternalContext, run: Record, approval_id: str | None = None) -> None:
    """Tell of a run that has ended, and of the approval that it waited for then."""
    data = run.data
    told = RunEnded(
        run_id=run.id,
        workflow_key=data["workflow_key"],
        status=data["status"],
        error=data["error"],
        approval_id=approval_id,
    )
    ctx.emit(ENDED, told, subject=run_subject(run.id))
