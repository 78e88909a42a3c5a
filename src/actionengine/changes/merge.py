"""What becomes of a change: previewed, executed, merged; and the events that tell of it."""

from __future__ import annotations

from functools import partial

from pydantic import BaseModel, ConfigDict

from actionengine.boundary.files.unified_diff import changed_lines, unified_diff
from actionengine.changes.diff import TypeDiff
from actionengine.changes.documents import check_documents
from actionengine.changes.executor import ExecutionRefused, Loaded, MergePlan, load, persist, run
from actionengine.changes.files import FileSettings, ProjectFiles
from actionengine.changes.models import Applied, FileDiff, Preview, WrittenFile, WrittenFiles
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
    """The payload of `record_types.changed`: what a change has made of one record type."""

    change_id: str
    project_id: str


CHANGE_EXECUTED = create_event_type(type="changes.executed", payload=ChangeApplied)
CHANGE_MERGED = create_event_type(type="changes.merged", payload=ChangeApplied)
RECORD_TYPE_CHANGED = create_event_type(type="record_types.changed", payload=RecordTypeChanged)


async def preview_change(ctx: InternalContext, change_id: str, settings: FileSettings) -> Preview:
    """Return the effect that a change would have. Raises `ActionError` as its execution would."""
    store = open_store(ctx)
    change = await store.change(change_id)
    loaded = await load(store, change, lock=False, files=ProjectFiles(ctx, settings, store, change["project_id"]))
    execution = await _run(ctx, loaded)
    graph, schemas = loaded.graph, execution.transformed.schemas
    affected = {each for key in execution.affected_types for each in (key, *graph.descendants(key))}
    documents = [
        await check_documents(ctx.unit_of_work.records(key), key, graph.effective(key, schemas))
        for key in sorted(affected)
    ]
    return Preview(
        change_id=change_id,
        op_count=len(loaded.pending),
        diff=execution.diff,
        documents=tuple(documents),
        files=file_diffs(execution),
    )


async def _run(ctx: InternalContext, loaded: Loaded) -> MergePlan:
    # Editing large files takes its time.
    return await ctx.run(partial(run, loaded)) if loaded.files else run(loaded)


def file_diffs(execution: MergePlan) -> tuple[FileDiff, ...]:
    """What an execution makes of files, by path; those that it leaves as they are do not come."""
    diffs = []
    for path, step in sorted({step.op.file_path: step for step in execution.edits}.items()):
        if diff := unified_diff(execution.loaded.files[path].text, step.after, path):
            added, removed = changed_lines(diff)
            diffs.append(FileDiff(path=path, diff=diff, added=added, removed=removed))
    return tuple(diffs)


async def execute_change(ctx: InternalContext, change_id: str, settings: FileSettings) -> Applied:
    """Apply the pending ops of a change, which stays in its state. Raises `ActionError`: `conflict` where it is
    merged, has to be `Ready` first, is not what was approved, or meets another change; `unprocessable` with the op that
    cannot be applied."""
    store = open_store(ctx)
    change = await store.change(change_id, lock=True)
    if change["status"] == "Merged":
        raise conflict(f"the change {change_id!r} is merged: it is never executed again", status="Merged")
    project = await store.project(change["project_id"])
    if project["require_review"] and change["status"] != "Ready":
        raise conflict(
            f"a change that is {change['status']} cannot be executed: it has to be Ready first", status=change["status"]
        )
    _check_approved(ctx, change)
    files = ProjectFiles(ctx, settings, store, change["project_id"])
    execution = await _run(ctx, await load(store, change, lock=True, files=files))
    if execution.loaded.pending:
        await persist(store, execution, files)
        _emit(ctx, CHANGE_EXECUTED, change, execution)
    else:
        ctx.suppress_default_event()
    return _applied(change, execution)


async def merge_change(ctx: InternalContext, change_id: str, settings: FileSettings) -> Applied:
    """Apply the pending ops of a change and close it, and its workspace; a change that is merged already stays as it
    is.

    Raises `ActionError`: `conflict` where it may not be merged yet, or is not what was approved. Where it cannot be
    executed (`execute_change` says why), its state becomes `ValidationFailed`, and nothing else is written.
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
    files = ProjectFiles(ctx, settings, store, change["project_id"])
    try:
        execution = await _run(ctx, await load(store, change, lock=True, files=files))
    except ExecutionRefused:
        _fail(ctx, change)
        raise
    if execution.loaded.pending:
        await persist(store, execution, files)
    at = await store.now()
    closed = {"status": "Merged", "merged_at": at, "updated_at": at}
    await store.changes.update([{"id": change_id, **closed}])
    await close_workspace(ctx, settings, change_id)
    _emit(ctx, CHANGE_MERGED, change, execution)
    return _applied({**change, **closed}, execution)


async def write_change_files(ctx: InternalContext, change_id: str, settings: FileSettings) -> WrittenFiles:
    """Write what is missing of a change's edits of files, and of later ones of the same files. Raises `ActionError`
    where something cannot be written, and `conflict` where it may not stand yet: inside an action that has merged."""
    store = open_store(ctx)
    if ctx.has_work_after_commit:
        raise conflict(
            "files are written once this transaction has committed, and it has such work: ask for changes.write_files "
            "afterwards"
        )
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


def _check_approved(ctx: InternalContext, change: Row) -> None:
    """Whoever has approved that a change be merged has approved what it then was."""
    approved = ctx.approved
    if approved is not None and approved.action.startswith("changes.") and change["updated_at"] > approved.asked_at:
        raise conflict(
            f"the change {change['id']!r} was edited after its approval was asked for: reject that, and ask again",
            approval_id=approved.approval_id,
        )


def _fail(ctx: InternalContext, change: Row) -> None:
    """Have the change marked as failed, once all that was done for it is undone."""
    # A change that somebody has worked on meanwhile is another one.
    seen = {name: change[name] for name in ("id", "status", "updated_at")}

    async def mark(unit_of_work: UnitOfWork) -> None:
        store = Store(unit_of_work)
        for row in await store.changes.find(seen, lock=True):
            failed = {"id": row["id"], "status": "ValidationFailed", "updated_at": await store.now()}
            await store.changes.update([failed])

    ctx.after_failure(mark)


def _emit(ctx: InternalContext, applied: EventType, change: Row, execution: MergePlan) -> None:
    about = {"change_id": change["id"], "project_id": change["project_id"]}
    ctx.emit(
        applied,
        ChangeApplied(
            **about,
            applied_count=execution.applied_count,
            record_types=tuple(execution.affected_types),
            files=execution.edited,
        ),
        subject=f"change/{change['id']}",
    )
    for each in execution.diff:
        ctx.emit(
            RECORD_TYPE_CHANGED,
            RecordTypeChanged(**about, **dict(each)),
            subject=record_type_subject(change["project_id"], each.record_type_key),
        )


def _applied(change: Row, execution: MergePlan) -> Applied:
    return Applied(**change, applied_count=execution.applied_count, diff=execution.diff, files=execution.edited)
