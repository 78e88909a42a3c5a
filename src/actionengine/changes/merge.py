"""Previews, executes and merges a change, and emits the events of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from actionengine.boundary.files.unified_diff import changed_lines, unified_diff
from actionengine.changes.diff import TypeDiff
from actionengine.changes.documents import check_documents
from actionengine.changes.executor import execute_ops, plan_ops
from actionengine.changes.files import FileSettings, ProjectFiles
from actionengine.changes.models import Applied, FileDiff, Preview, WrittenFile, WrittenFiles
from actionengine.changes.outcomes import ExecutionRefused
from actionengine.changes.persist import MergePlan
from actionengine.changes.states import can_transition
from actionengine.changes.store import Store, open_store, record_type_subject
from actionengine.changes.workspaces import close_workspace
from actionengine.errors import conflict
from actionengine.event_types import EventType, create_event_type
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.port import UnitOfWork
from actionengine.storage.tables import Row


class ChangeApplied(BaseModel):
    """The payload of `changes.executed` and `changes.merged`."""

    model_config = ConfigDict(frozen=True)

    change_id: str
    project_id: str
    applied_count: int
    record_types: tuple[str, ...]
    files: tuple[str, ...] = ()


class RecordTypeChanged(TypeDiff):
    """The payload of `record_types.changed`: the effect of a change on one record type."""

    change_id: str
    project_id: str


CHANGE_EXECUTED = create_event_type(type="changes.executed", payload=ChangeApplied)
CHANGE_MERGED = create_event_type(type="changes.merged", payload=ChangeApplied)
RECORD_TYPE_CHANGED = create_event_type(type="record_types.changed", payload=RecordTypeChanged)


async def preview_change(ctx: InternalContext, change_id: str, settings: FileSettings) -> Preview:
    """Return the effect that a change would have. Raises `ActionError` as `execute_change` would."""
    store = open_store(ctx)
    change = await store.change(change_id)
    plan = await plan_ops(ctx, store, change, ProjectFiles(ctx, settings, store, change["project_id"]))
    graph, schemas = plan.loaded.graph, plan.transformed.schemas
    affected = {each for key in plan.affected_types for each in (key, *graph.descendants(key))}
    documents = [
        await check_documents(ctx.unit_of_work.records(key), key, graph.effective(key, schemas))
        for key in sorted(affected)
    ]
    return Preview(
        change_id=change_id,
        op_count=len(plan.loaded.pending),
        diff=plan.diff,
        documents=tuple(documents),
        files=_file_diffs(plan),
    )


def _file_diffs(plan: MergePlan) -> tuple[FileDiff, ...]:
    """Return the diffs of the files that a plan changes, by path."""
    diffs = []
    for path, step in sorted({step.op.file_path: step for step in plan.edits}.items()):
        if diff := unified_diff(plan.loaded.files[path].text, step.after, path):
            added, removed = changed_lines(diff)
            diffs.append(FileDiff(path=path, diff=diff, added=added, removed=removed))
    return tuple(diffs)


async def execute_change(ctx: InternalContext, change_id: str, settings: FileSettings) -> Applied:
    """Apply the pending ops of a change, which keeps its status.

    Raises `ActionError`: `conflict` if the change is merged, has to be `Ready` first, differs from the approved one, or
    conflicts with another change; `unprocessable` with the op that cannot be applied.
    """
    store = open_store(ctx)
    change = await store.change(change_id, lock=True)
    if change["status"] == "Merged":
        raise conflict(f"the change {change_id!r} is merged: it cannot be executed again", status="Merged")
    project = await store.project(change["project_id"])
    if project["require_review"] and change["status"] != "Ready":
        raise conflict(
            f"a change that is {change['status']} cannot be executed: it has to be Ready first", status=change["status"]
        )
    _check_approved(ctx, change)
    plan = await execute_ops(ctx, store, change, ProjectFiles(ctx, settings, store, change["project_id"]))
    if plan.loaded.pending:
        _emit_applied(ctx, CHANGE_EXECUTED, change, plan)
    else:
        ctx.suppress_default_event()
    return _applied(change, plan)


async def merge_change(ctx: InternalContext, change_id: str, settings: FileSettings) -> Applied:
    """Apply the pending ops of a change, and close it and its workspace. A merged change stays as it is.

    Raises `ActionError`: `conflict` if the change may not be merged yet, or differs from the approved one. If it cannot
    be executed (see `execute_change`), its status becomes `ValidationFailed`, and nothing else is written.
    """
    store = open_store(ctx)
    change = await store.change(change_id, lock=True)
    if change["status"] == "Merged":
        ctx.suppress_default_event()
        return Applied(**change, applied_count=0, diff=())
    project = await store.project(change["project_id"])
    if not can_transition(change["status"], "Merged", project["require_review"]):
        needed = "Ready first" if project["require_review"] else "Ready, or Draft"
        raise conflict(
            f"a change that is {change['status']} cannot be merged: it has to be {needed}", status=change["status"]
        )
    _check_approved(ctx, change)
    try:
        plan = await execute_ops(ctx, store, change, ProjectFiles(ctx, settings, store, change["project_id"]))
    except ExecutionRefused:
        _mark_failed(ctx, change)
        raise
    at = await store.now()
    closed = {"status": "Merged", "merged_at": at, "updated_at": at}
    await store.changes.update([{"id": change_id, **closed}])
    await close_workspace(ctx, settings, change_id)
    _emit_applied(ctx, CHANGE_MERGED, change, plan)
    return _applied({**change, **closed}, plan)


def _check_approved(ctx: InternalContext, change: Row) -> None:
    """Refuse a change that was edited after its merge was submitted for approval."""
    approved = ctx.approved
    if approved is not None and approved.action.startswith("changes.") and change["updated_at"] > approved.asked_at:
        raise conflict(
            f"the change {change['id']!r} was edited after its approval was requested: reject it, and request another",
            approval_id=approved.approval_id,
        )


def _mark_failed(ctx: InternalContext, change: Row) -> None:
    """Mark the change as failed after the rollback, unless it was edited since it was read."""
    as_read = {name: change[name] for name in ("id", "status", "updated_at")}

    async def mark(unit_of_work: UnitOfWork) -> None:
        store = Store(unit_of_work)
        for row in await store.changes.find(as_read, lock=True):
            failed = {"id": row["id"], "status": "ValidationFailed", "updated_at": await store.now()}
            await store.changes.update([failed])

    ctx.after_failure(mark)


def _emit_applied(ctx: InternalContext, event_type: EventType, change: Row, plan: MergePlan) -> None:
    about = {"change_id": change["id"], "project_id": change["project_id"]}
    payload = ChangeApplied(
        **about, applied_count=plan.applied_count, record_types=tuple(plan.affected_types), files=plan.edited
    )
    ctx.emit(event_type, payload, subject=f"change/{change['id']}")
    for each in plan.diff:
        ctx.emit(
            RECORD_TYPE_CHANGED,
            RecordTypeChanged(**about, **dict(each)),
            subject=record_type_subject(change["project_id"], each.record_type_key),
        )


def _applied(change: Row, plan: MergePlan) -> Applied:
    return Applied(**change, applied_count=plan.applied_count, diff=plan.diff, files=plan.edited)


async def write_change_files(ctx: InternalContext, change_id: str, settings: FileSettings) -> WrittenFiles:
    """Write the missing edits of a change's files, later changes included.

    Raises `ActionError` if a file cannot be written, and `conflict` in a transaction that has such edits itself: their
    files are written after its commit.
    """
    store = open_store(ctx)
    if ctx.has_work_after_commit:
        raise conflict("files are written after this transaction has committed: ask for changes.write_files afterwards")
    change = await store.change(change_id)
    executed = await store.ops.find(
        {"change_id": change_id, "op_type": "edit_file"}, above={"applied_version": 0}, columns=("payload",)
    )
    files = ProjectFiles(ctx, settings, store, change["project_id"])
    results = await files.write([op["payload"]["file_path"] for op in executed])
    if not any(each.outcome == "written" for each in results):
        ctx.suppress_default_event()
    return WrittenFiles(
        change_id=change_id, files=tuple(WrittenFile(path=each.path, outcome=each.outcome) for each in results)
    )
