"""Events that runs emit from more than one place."""

from __future__ import annotations

from actionengine.action_context import ActionContext
from actionengine.storage.port import Record
from actionengine.workflows.events import ENDED, RESUMED, STARTED, RunEnded, RunSetGoing
from actionengine.workflows.store import run_subject


def tell_going(ctx: ActionContext, run: Record, first: bool = False) -> None:
    """Have a run set going, once this commits."""
    told = RunSetGoing(run_id=run.id, workflow_key=run.data["workflow_key"], turn=run.data["turn"])
    ctx.emit(STARTED if first else RESUMED, told, subject=run_subject(run.id))


def tell_end(ctx: ActionContext, run: Record) -> None:
    """Tell of a run that has ended."""
    data = run.data
    told = RunEnded(run_id=run.id, workflow_key=data["workflow_key"], status=data["status"], error=data["error"])
    ctx.emit(ENDED, told, subject=run_subject(run.id))
