"""Workspaces: working copies of modules, in which changes are tried before they are merged.

A document records the workspace of a change. Its folder, `<workspaces>/<tenant id>/<change id>`, follows the record,
and is created again if it is missing. It has the pending ops of the change applied, as far as they fit. Files that a
runner edits there (`workspace_module`) are not overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from actionengine.boundary.idempotency.working_copy import WorkingCopy
from actionengine.boundary.request import ModuleContext
from actionengine.changes.files import (
    EditRefused,
    FileSettings,
    FileState,
    ProjectFiles,
    edit_text,
    hunk_details,
)
from actionengine.changes.models import OpPreview, Workspace, WorkspaceView
from actionengine.changes.ops import PatchOp
from actionengine.changes.store import Store, open_store, to_op
from actionengine.changes.workspace_folders import (
    PreviewedOps,
    WorkspaceLocation,
    create_copy,
    files_of_ops,
    inspect,
    remove_copy,
)
from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode, conflict, not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.tables import Row

WORKSPACES = "ae_workspaces"
"""The collection of workspaces: a document for each change that has or had one, under the change's id."""


class _Stored(BaseModel):
    """The stored workspace; `version` is that of the document, 0 before it is stored."""

    model_config = ConfigDict(frozen=True)

    version: int = Field(default=0, exclude=True)
    change_id: str
    project_id: str
    module_id: str
    status: Literal["running", "stopped"]
    started_by: str | None
    started_at: datetime
    stopped_at: datetime | None = None
    kept: bool = False

    def shown(self) -> Workspace:
        return Workspace(**self.model_dump(exclude={"project_id"}))


def workspace_module(workspaces: str | os.PathLike[str], tenant: Tenant, change_id: str) -> ModuleContext:
    """Return the working copy of a change as a module, for requests to a runner. `workspaces` is the folder that
    `change_control_services` was given.

    Raises `ActionError(not_found)` if the copy does not exist, or not yet.
    """
    if not _is_id(change_id):
        # Another text could lead out of the tenant's folder.
        raise not_found("workspace of the change", change_id)
    copy = WorkingCopy.open(_folder(Path(workspaces), tenant, change_id))
    return ModuleContext(id=change_id, root=copy.root, tenant=tenant)


async def start_workspace(ctx: InternalContext, settings: FileSettings, change: Row) -> Workspace:
    """Start the workspace of a locked change, which becomes `WorkspaceRunning`. A running workspace continues.

    Raises `ActionError`: `conflict` for a change with another status or without files; `unprocessable` if there are no
    modules, or no folder for workspaces.
    """
    if change["status"] not in {"Implementing", "WorkspaceRunning"}:
        raise conflict(
            f"a change that is {change['status']} cannot have a workspace: it has to be Implementing first",
            status=change["status"],
        )
    store = open_store(ctx)
    if not await has_files(store, change):
        raise conflict(f"the change {change['id']!r} edits no file: add a target of the type 'file' to a draft")
    files = ProjectFiles(ctx, settings, store, change["project_id"])
    module, folder = files.module(), _folder_of(ctx, settings, change["id"])
    before = await _find(ctx, change["id"])
    if before is not None and before.status == "running" and change["status"] == "WorkspaceRunning":
        ctx.suppress_default_event()
        stored = before
    else:
        new = _Stored(
            version=before.version if before is not None else 0,
            change_id=change["id"],
            project_id=change["project_id"],
            module_id=module.id,
            status="running",
            started_by=str(ctx.actor) if ctx.actor is not None else None,
            started_at=await store.now(),
        )
        stored = await _save(ctx, new)
        if change["status"] != "WorkspaceRunning":
            await store.changes.update(
                [{"id": change["id"], "status": "WorkspaceRunning", "updated_at": await store.now()}]
            )
    is_new = before is None or not (before.kept or before.status == "running")
    previewed = await _preview(ctx, files, change, ())
    ctx.after_commit(partial(create_copy, WorkspaceLocation(folder, module, stored.version), previewed, is_new))
    return stored.shown()


async def stop_workspace(ctx: InternalContext, settings: FileSettings, change: Row, keep: bool) -> Workspace:
    """Stop the workspace of a locked change, which becomes `Implementing`. The copy is removed, even one kept earlier,
    unless `keep` is true.

    Raises `ActionError(conflict)` for a change that never had a workspace.
    """
    before = await _find(ctx, change["id"])
    stopped = await close_workspace(ctx, settings, change["id"], keep)
    if before is None or stopped is None:
        raise conflict(f"the change {change['id']!r} has no workspace: start one first")
    if change["status"] == "WorkspaceRunning":
        store = open_store(ctx)
        await store.changes.update([{"id": change["id"], "status": "Implementing", "updated_at": await store.now()}])
    elif stopped == before.shown():
        ctx.suppress_default_event()
    return stopped


async def close_workspace(
    ctx: InternalContext, settings: FileSettings, change_id: str, keep: bool = False
) -> Workspace | None:
    """Stop the workspace of a change without changing its status; return None if it never had one."""
    before = after = await _find(ctx, change_id)
    if before is None or after is None:
        return None
    is_running = before.status == "running"
    if is_running or (before.kept and not keep):
        stopped_at = await open_store(ctx).now() if is_running else before.stopped_at
        after = await _save(
            ctx, before.model_copy(update={"status": "stopped", "stopped_at": stopped_at, "kept": keep})
        )
    if not keep and settings.workspaces is not None:
        # Also if it has stopped already: a killed process may have left the folder.
        folder = _folder(settings.workspaces, ctx.tenant, change_id)
        ctx.after_commit(partial(remove_copy, folder, after.version))
    return after.shown()


async def view_workspace(ctx: InternalContext, settings: FileSettings, change_id: str) -> WorkspaceView:
    """Return the workspace of a change after applying its pending ops; one that is stopped and not kept has no content.

    Raises `ActionError`: `not_found` for a change that never had one, `conflict` if the module has since changed in a
    file that differs in the copy.
    """
    store = open_store(ctx)
    change = await store.change(change_id)
    stored = await _find(ctx, change_id)
    if stored is None:
        raise not_found("workspace of the change", change_id)
    shown = stored.shown().model_dump()
    if stored.status == "stopped" and not stored.kept:
        return WorkspaceView(**shown)
    files = ProjectFiles(ctx, settings, store, change["project_id"])
    location = WorkspaceLocation(_folder_of(ctx, settings, change_id), files.module(), stored.version)
    if ctx.has_work_after_commit and not location.folder.exists():
        raise conflict("the working copy is created after this transaction has committed: ask for it afterwards")
    written = await ctx.run(partial(files_of_ops, location))
    previewed = await _preview(ctx, files, change, written)
    diff, skipped_files = await ctx.run(partial(inspect, location, previewed))
    return WorkspaceView(**shown, ops=previewed.ops, diff=diff, skipped_files=skipped_files)


async def has_files(store: Store, change: Row) -> bool:
    """Return whether a change has targets that are files."""
    return bool(await store.targets.find({"change_id": change["id"], "type": "file"}, columns=("id",)))


# The record


async def _find(ctx: InternalContext, change_id: str) -> _Stored | None:
    record = await ctx.unit_of_work.records(WORKSPACES).get(change_id)
    return None if record is None else _Stored.model_validate({**record.data, "version": record.version})


async def _save(ctx: InternalContext, stored: _Stored) -> _Stored:
    records, data = ctx.unit_of_work.records(WORKSPACES), stored.model_dump(mode="json")
    if stored.version:
        record = await records.update(stored.change_id, data, stored.version)
    else:
        record = await records.insert(data, stored.change_id)
    return stored.model_copy(update={"version": record.version})


# The ops


async def _preview(ctx: InternalContext, files: ProjectFiles, change: Row, written: Sequence[str]) -> PreviewedOps:
    rows = await open_store(ctx).ops.find(
        {"change_id": change["id"], "op_type": "edit_file", "executed_at": None}, order=("position",)
    )
    ops = [to_op(row) for row in rows]
    states = await files.load([*(op.file_path for op in ops), *written])
    return await ctx.run(partial(_preview_ops, ops, states))


def _preview_ops(ops: Sequence[PatchOp], states: Mapping[str, FileState]) -> PreviewedOps:
    texts = {path: state.text for path, state in states.items() if state.problem is None}
    return PreviewedOps(tuple(_preview_op(op, states[op.file_path], texts) for op in ops), texts)


def _preview_op(op: PatchOp, state: FileState, texts: dict[str, str | None]) -> OpPreview:
    try:
        texts[op.file_path] = edit_text(op, state, texts)
    except EditRefused as refusal:
        error = refusal.error
        return OpPreview(op_id=op.id, file_path=op.file_path, fits=False, problem=error.message, **hunk_details(error))
    return OpPreview(op_id=op.id, file_path=op.file_path, fits=True)


# The folder


def _is_id(change_id: str) -> bool:
    try:
        return str(UUID(change_id)) == change_id
    except ValueError:
        return False


def _folder(workspaces: Path, tenant: Tenant, change_id: str) -> Path:
    return workspaces / str(tenant.id) / change_id


def _folder_of(ctx: InternalContext, settings: FileSettings, change_id: str) -> Path:
    if settings.workspaces is None:
        raise ActionError(
            ErrorCode.UNPROCESSABLE,
            "this engine has no folder for working copies: give workspaces=… to change_control_services",
        )
    return _folder(settings.workspaces, ctx.tenant, change_id)
