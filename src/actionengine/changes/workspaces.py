"""Workspaces: working copies of modules in which changes are tried before they are merged.

That a change has a workspace is on record; the folder follows, `<workspaces>/<tenant id>/<change id>`, and is made
again where it is missing. In it stand the pending ops of the change, as far as they fit. Who works there besides,
through a runner (`workspace_module`), is left alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Literal, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from actionengine.action_context import ActionContext
from actionengine.changes.files import (
    EditRefused,
    FileSettings,
    FileState,
    ProjectFiles,
    edit_text,
    hash_of,
)
from actionengine.changes.models import TriedOp, Workspace, WorkspaceView
from actionengine.changes.module_files import is_of_the_file
from actionengine.changes.ops import PatchOp
from actionengine.changes.store import Store, conflict, not_found, now, op_of, store_of
from actionengine.context import Tenant
from actionengine.errors import ActionException, ErrorCode, failing
from actionengine.execution.files import ModuleFiles
from actionengine.execution.request import ModuleContext
from actionengine.execution.working_copy import WorkingCopy, remove_tree
from actionengine.services.access import access_of
from actionengine.storage.port import Record
from actionengine.storage.tables import Row

WORKSPACES = "ae_workspaces"
"""Documents, one for each change that has, or had, a workspace; its id is the change's."""

_MARKS = "ops.json"
"""Beside a copy: the hash of each file in it that ops have made, as they made it."""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True)

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
    """The working copy of a change as a module, for requests to a runner. `workspaces` is what change control was
    given.

    Raises `ActionException(not_found)` where there is no such copy, or not yet.
    """
    if not _is_id(change_id):
        # It would lead out of the tenant's folder.
        raise not_found("workspace of the change", change_id)
    copy = WorkingCopy.open(_folder(Path(workspaces), tenant, change_id))
    return ModuleContext(id=change_id, root=copy.root, tenant=tenant)


async def start_workspace(ctx: ActionContext, settings: FileSettings, change: Row) -> Workspace:
    """Start the workspace of a change that is locked, which becomes `WorkspaceRunning`. One that runs goes on.

    Raises `ActionException`: `conflict` for a change that is in no state for it, or is about no file; `unprocessable`
    where there are no modules or no folder for workspaces.
    """
    if change["status"] not in {"Implementing", "WorkspaceRunning"}:
        raise conflict(
            f"a change that is {change['status']} gets no workspace: it has to be Implementing first",
            status=change["status"],
        )
    store, access = store_of(ctx), access_of(ctx)
    if not await has_files(store, change):
        raise conflict(f"the change {change['id']!r} is about no file: add a target of the type 'file' to a draft")
    files = ProjectFiles(ctx, settings, store, change["project_id"])
    place = _place(ctx, settings, files, change["id"])
    records = access.records(WORKSPACES)
    record = await records.get(change["id"])
    before = _stored(record)
    if before is not None and before.status == "running" and change["status"] == "WorkspaceRunning":
        access.nothing_changed()
        stored = before
    else:
        stored = _Stored(
            change_id=change["id"],
            project_id=change["project_id"],
            module_id=place.module.id,
            status="running",
            started_by=str(ctx.actor) if ctx.actor is not None else None,
            started_at=now(),
        )
        await _save(ctx, record, stored)
        if change["status"] != "WorkspaceRunning":
            await store.changes.update([{"id": change["id"], "status": "WorkspaceRunning", "updated_at": now()}])
    is_new = before is None or not (before.kept or before.status == "running")
    tried = await _try(store, files, change, ())
    access.after_commit(partial(_begin, place, tried, is_new))
    return stored.shown()


async def stop_workspace(ctx: ActionContext, settings: FileSettings, change: Row, keep: bool) -> Workspace:
    """Stop the workspace of a change that is locked, which becomes `Implementing`. Where it is stopped, a copy that was
    kept is dropped, unless it is to be kept.

    Raises `ActionException(conflict)` for a change that never had a workspace.
    """
    before = _stored(await access_of(ctx).records(WORKSPACES).get(change["id"]))
    stopped = await close_workspace(ctx, settings, change["id"], keep)
    if before is None or stopped is None:
        raise conflict(f"the change {change['id']!r} has no workspace: start one first")
    if change["status"] == "WorkspaceRunning":
        await store_of(ctx).changes.update([{"id": change["id"], "status": "Implementing", "updated_at": now()}])
    elif stopped == before.shown():
        access_of(ctx).nothing_changed()
    return stopped


async def close_workspace(
    ctx: ActionContext, settings: FileSettings, change_id: str, keep: bool = False
) -> Workspace | None:
    """Stop the workspace of a change, whatever becomes of the change; None where it never had one."""
    access = access_of(ctx)
    record = await access.records(WORKSPACES).get(change_id)
    before = _stored(record)
    if before is None:
        return None
    is_running = before.status == "running"
    if not keep and settings.workspaces is not None:
        # Also where it has stopped: a process that died then has left the folder.
        access.after_commit(partial(remove_tree, _folder(settings.workspaces, ctx.tenant, change_id)))
    if not is_running and (keep or not before.kept):
        return before.shown()
    stopped_at = now() if is_running else before.stopped_at
    after = before.model_copy(update={"status": "stopped", "stopped_at": stopped_at, "kept": keep})
    await _save(ctx, record, after)
    return after.shown()


async def view_workspace(ctx: ActionContext, settings: FileSettings, change_id: str) -> WorkspaceView:
    """What is in the workspace of a change, brought up to date with its pending ops. Of one that is stopped and not
    kept, there is nothing to see.

    Raises `ActionException`: `not_found` for a change that never had one, `conflict` where the module has changed since
    the copy was made in a file that differs here.
    """
    store, access = store_of(ctx), access_of(ctx)
    change = await store.change(change_id)
    stored = _stored(await access.records(WORKSPACES).get(change_id))
    if stored is None:
        raise not_found("workspace of the change", change_id)
    shown = stored.shown().model_dump()
    if stored.status == "stopped" and not stored.kept:
        return WorkspaceView(**shown)
    files = ProjectFiles(ctx, settings, store, change["project_id"])
    place = _place(ctx, settings, files, change_id)
    marked = await access.run(partial(_marked, place))
    tried = await _try(store, files, change, marked)
    diff, left_alone = await access.run(partial(_look, place, tried))
    return WorkspaceView(**shown, ops=tried.ops, diff=diff, left_alone=left_alone)


async def has_files(store: Store, change: Row) -> bool:
    """Whether a change is about files."""
    return bool(await store.targets.find({"change_id": change["id"], "type": "file"}, columns=("id",), limit=1))


# What is on record


def _stored(record: Record | None) -> _Stored | None:
    return None if record is None else _Stored.model_validate(record.data)


async def _save(ctx: ActionContext, record: Record | None, stored: _Stored) -> None:
    records = access_of(ctx).records(WORKSPACES)
    if record is None:
        await records.insert(stored.model_dump(mode="json"), stored.change_id)
    else:
        await records.update(stored.change_id, stored.model_dump(mode="json"), record.version)


# What the ops come to


class _Tried(NamedTuple):
    """Ops that were tried, and the text of each file that they are about, or were about before."""

    ops: tuple[TriedOp, ...]
    texts: Mapping[str, str | None]


async def _try(store: Store, files: ProjectFiles, change: Row, marked: Sequence[str]) -> _Tried:
    rows = await store.ops.find(
        {"change_id": change["id"], "op_type": "edit_file", "executed_at": None}, order=("position",)
    )
    ops = [op_of(row) for row in rows]
    states = await files.load([*(op.file_path for op in ops), *marked])
    texts = {path: state.text for path, state in states.items() if state.problem is None}
    return _Tried(tuple(_tried(op, states[op.file_path], texts) for op in ops), texts)


def _tried(op: PatchOp, state: FileState, texts: dict[str, str | None]) -> TriedOp:
    try:
        texts[op.file_path] = edit_text(op, state, texts.get(op.file_path))
    except EditRefused as refusal:
        details = refusal.error.details
        where = {name: details[name] for name in ("hunk", "header", "expected", "found") if name in details}
        return TriedOp(op_id=op.id, file_path=op.file_path, fits=False, problem=refusal.error.message, **where)
    return TriedOp(op_id=op.id, file_path=op.file_path, fits=True)


# The folder. What is done here may block.


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a workspace is, and the module that it is a copy of."""

    folder: Path
    module: ModuleContext


def _is_id(change_id: str) -> bool:
    try:
        return str(UUID(change_id)) == change_id
    except ValueError:
        return False


def _folder(workspaces: Path, tenant: Tenant, change_id: str) -> Path:
    return workspaces / str(tenant.id) / change_id


def _place(ctx: ActionContext, settings: FileSettings, files: ProjectFiles, change_id: str) -> _Place:
    module = files.module()
    if settings.workspaces is None:
        raise failing(
            ErrorCode.UNPROCESSABLE,
            "this engine does not know where to keep working copies: give change_control_services a workspaces=…",
        )
    return _Place(_folder(settings.workspaces, ctx.tenant, change_id), module)


def _begin(place: _Place, tried: _Tried, is_new: bool) -> None:
    if is_new:
        # Of an earlier workspace, whose folder could not be removed.
        remove_tree(place.folder)
    _put(_copy(place), tried)


def _copy(place: _Place) -> WorkingCopy:
    try:
        return WorkingCopy.open(place.folder)
    except ActionException as absent:
        if absent.error.code is not ErrorCode.NOT_FOUND:
            raise
    try:
        return WorkingCopy.create(place.module.root, place.folder)
    except ActionException as refusal:
        if refusal.error.code is ErrorCode.CONFLICT and place.folder.is_dir():
            # Somebody else has just made it.
            return WorkingCopy.open(place.folder)
        raise


def _marked(place: _Place) -> tuple[str, ...]:
    return tuple(_marks(_copy(place)))


def _look(place: _Place, tried: _Tried) -> tuple[str, tuple[str, ...]]:
    copy = _copy(place)
    left_alone = _put(copy, tried)
    try:
        return copy.diff(), left_alone
    except ActionException as refusal:
        if refusal.error.code is ErrorCode.CONFLICT:
            error = refusal.error
            raise conflict(
                f"{error.message}: the working copy is of an older state of the module; stop it and start it anew",
                **error.details,
            ) from None
        raise


def _put(copy: WorkingCopy, tried: _Tried) -> tuple[str, ...]:
    """Write into the copy what the ops come to, but for files that somebody else has edited there: these are given."""
    marks = _marks(copy)
    left_alone = []
    with ModuleFiles(copy.root) as files:
        for path, text in sorted(tried.texts.items()):
            base = node.sha256 if (node := copy.base.get(path)) is not None else None
            found, wanted = _hash_in(files, path), hash_of(text)
            if found != wanted and found not in (base, marks.get(path, base)):
                left_alone.append(path)
                continue
            if found != wanted and text is None:
                files.delete(path)
            elif found != wanted and text is not None:
                files.write(path, text.encode())
            marks[path] = wanted
    named = {op.file_path for op in tried.ops}
    _mark(copy, {path: hash for path, hash in marks.items() if path in named})
    return tuple(left_alone)


def _hash_in(files: ModuleFiles, path: str) -> str | None:
    try:
        return sha256(files.read(path)).hexdigest()
    except ActionException as refusal:
        if refusal.error.code is ErrorCode.NOT_FOUND:
            return None
        if is_of_the_file(refusal):
            # A link that leads out, a folder: nothing that ops have made.
            return ""
        raise


def _marks(copy: WorkingCopy) -> dict[str, str | None]:
    try:
        marks: dict[str, str | None] = json.loads((copy.folder / _MARKS).read_text(encoding="ascii"))
    except FileNotFoundError:
        return {}
    return marks


def _mark(copy: WorkingCopy, marks: Mapping[str, str | None]) -> None:
    temporary = copy.folder / f".{_MARKS}.{token_hex(8)}"
    temporary.write_text(json.dumps(marks), encoding="ascii")
    temporary.replace(copy.folder / _MARKS)
