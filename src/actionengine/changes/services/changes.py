"""The service `changes`: drafts, targets, ops, transitions, merges, workspaces and compensations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from returns.result import Result, Success

from actionengine.actions import ApprovalPolicy, Service, create_service
from actionengine.builtin.declarations import declare
from actionengine.changes.compensation.draft import draft_compensation
from actionengine.changes.drafts import create_change, insert_op, insert_target
from actionengine.changes.files import FileSettings, ProjectFiles
from actionengine.changes.merge import (
    CHANGE_EXECUTED,
    CHANGE_MERGED,
    RECORD_TYPE_CHANGED,
    execute_change,
    merge_change,
    preview_change,
    write_change_files,
)
from actionengine.changes.models import (
    Applied,
    Change,
    Compensation,
    Preview,
    Snapshot,
    StoredPatchOp,
    Target,
    Transitions,
    Workspace,
    WorkspaceView,
    WrittenFiles,
)
from actionengine.changes.ops import parse_op
from actionengine.changes.permissions import NON_AI_ACTORS, ChangeControlPermissions
from actionengine.changes.replay import schemas_of_snapshots, with_snapshots
from actionengine.changes.services.inputs import (
    AddPatchOp,
    AddTarget,
    ChangeReference,
    CreateChange,
    ListChanges,
    ListOfChange,
    ListPatchOps,
    PatchOpReference,
    PlanCompensation,
    StopWorkspace,
    Transition,
)
from actionengine.changes.states import ACCEPTS_OPS, STATUSES, TRANSITIONS, can_transition
from actionengine.changes.store import open_store, page
from actionengine.changes.workspaces import (
    close_workspace,
    has_files,
    start_workspace,
    stop_workspace,
    view_workspace,
)
from actionengine.errors import ActionError, conflict, not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import sync_and_async


@sync_and_async
async def _create(data: CreateChange, ctx: InternalContext) -> Result[Change, ActionError]:
    store = open_store(ctx)
    project = await store.project(data.project_id)
    change = await create_change(store, project["id"], data.title, data.description)
    ctx.add_subject(f"change/{change['id']}")
    return Success(Change(**change))


@sync_and_async
async def _get(data: ChangeReference, ctx: InternalContext) -> Result[Change, ActionError]:
    return Success(Change(**await open_store(ctx).change(data.change_id)))


@sync_and_async
async def _list(data: ListChanges, ctx: InternalContext) -> Result[tuple[Change, ...], ActionError]:
    where = {name: value for name in ("project_id", "status") if (value := getattr(data, name)) is not None}
    rows = await page(ctx, open_store(ctx).changes, where, by="id", after=data.after, limit=data.limit)
    return Success(tuple(Change(**row) for row in rows))


async def _transitions(
    permissions: ChangeControlPermissions, data: ChangeReference, ctx: InternalContext
) -> Result[Transitions, ActionError]:
    store = open_store(ctx)
    change = await store.change(data.change_id)
    require_review = (await store.project(change["project_id"]))["require_review"]
    possible = [each for each in STATUSES if can_transition(change["status"], each, require_review)]
    return Success(
        Transitions(
            change_id=data.change_id,
            status=change["status"],
            require_review=require_review,
            next_statuses=tuple([each for each in possible if await _may_transition(permissions, data, each, ctx)]),
        )
    )


async def _may_transition(
    permissions: ChangeControlPermissions, data: ChangeReference, status: str, ctx: InternalContext
) -> bool:
    if status in ("Ready", "Merged") and (ctx.actor is None or ctx.actor.type not in NON_AI_ACTORS):
        return False
    permission = permissions.merge if status == "Merged" else _permission_to_become(status, permissions)
    return permission is None or await ctx.is_allowed(permission, _subject(data))


@sync_and_async
async def _add_target(data: AddTarget, ctx: InternalContext) -> Result[Target, ActionError]:
    store = open_store(ctx)
    change = await store.change(data.change_id, lock=True)
    return Success(Target(**await insert_target(store, change, data.type, data.selector)))


@sync_and_async
async def _list_targets(data: ListOfChange, ctx: InternalContext) -> Result[tuple[Target, ...], ActionError]:
    store = open_store(ctx)
    await store.change(data.change_id)
    where = {"change_id": data.change_id}
    rows = await page(ctx, store.targets, where, by="id", after=data.after, limit=data.limit)
    return Success(tuple(Target(**row) for row in rows))


@sync_and_async
async def _add_patch_op(data: AddPatchOp, ctx: InternalContext) -> Result[StoredPatchOp, ActionError]:
    op = parse_op(data.op_type, data.payload)
    store = open_store(ctx)
    change = await store.change(data.change_id, lock=True)
    return Success(StoredPatchOp(**await insert_op(store, change, data.target_id, op)))


@sync_and_async
async def _list_patch_ops(data: ListPatchOps, ctx: InternalContext) -> Result[tuple[StoredPatchOp, ...], ActionError]:
    store = open_store(ctx)
    await store.change(data.change_id)
    where = {"change_id": data.change_id}
    rows = await page(ctx, store.ops, where, by="position", after=data.after, limit=data.limit)
    rows = await with_snapshots(store, rows)
    ctx.set_logged_output({"count": len(rows)})
    return Success(tuple(StoredPatchOp(**row) for row in rows))


@sync_and_async
async def _delete_patch_op(data: PatchOpReference, ctx: InternalContext) -> Result[StoredPatchOp, ActionError]:
    store = open_store(ctx)
    change = await store.change(data.change_id, lock=True)
    for op in await store.ops.find({"id": data.op_id}):
        if op["change_id"] != change["id"]:
            break
        if op["executed_at"] is not None:
            raise conflict(
                f"the op {op['id']} is executed and cannot be deleted: take the change back instead", op_id=op["id"]
            )
        if change["status"] not in ACCEPTS_OPS:
            raise conflict(f"ops cannot be deleted from a change that is {change['status']}", status=change["status"])
        await store.ops.delete({"id": op["id"]})
        await store.changes.update([{"id": change["id"], "updated_at": await store.now()}])
        return Success(StoredPatchOp(**op))
    raise not_found("op", data.op_id)


@sync_and_async
async def _list_snapshots(data: ListOfChange, ctx: InternalContext) -> Result[tuple[Snapshot, ...], ActionError]:
    store = open_store(ctx)
    await store.change(data.change_id)
    where = {"change_id": data.change_id}
    rows = await page(ctx, store.snapshots, where, by="record_type_key", after=data.after, limit=data.limit)
    rows = await schemas_of_snapshots(store, rows)
    ctx.set_logged_output({"count": len(rows)})
    return Success(tuple(Snapshot(**row) for row in rows))


async def _preview(settings: FileSettings, data: ChangeReference, ctx: InternalContext) -> Result[Preview, ActionError]:
    preview = await preview_change(ctx, data.change_id, settings)
    ctx.set_logged_output(preview.model_dump(mode="json", exclude={"documents": True, "files": {"__all__": {"diff"}}}))
    return Success(preview)


async def _execute(settings: FileSettings, data: ChangeReference, ctx: InternalContext) -> Result[Applied, ActionError]:
    return Success(await execute_change(ctx, data.change_id, settings))


async def _merge(settings: FileSettings, data: ChangeReference, ctx: InternalContext) -> Result[Applied, ActionError]:
    return Success(await merge_change(ctx, data.change_id, settings))


async def _write_files(
    settings: FileSettings, data: ChangeReference, ctx: InternalContext
) -> Result[WrittenFiles, ActionError]:
    return Success(await write_change_files(ctx, data.change_id, settings))


async def _start_workspace(
    settings: FileSettings, data: ChangeReference, ctx: InternalContext
) -> Result[Workspace, ActionError]:
    change = await open_store(ctx).change(data.change_id, lock=True)
    return Success(await start_workspace(ctx, settings, change))


async def _stop_workspace(
    settings: FileSettings, data: StopWorkspace, ctx: InternalContext
) -> Result[Workspace, ActionError]:
    change = await open_store(ctx).change(data.change_id, lock=True)
    return Success(await stop_workspace(ctx, settings, change, data.keep))


async def _view_workspace(
    settings: FileSettings, data: ChangeReference, ctx: InternalContext
) -> Result[WorkspaceView, ActionError]:
    view = await view_workspace(ctx, settings, data.change_id)
    ctx.set_logged_output(
        view.model_dump(mode="json", exclude={"ops": {"__all__": {"expected", "found"}}, "diff": True})
    )
    return Success(view)


async def _plan_compensation(
    settings: FileSettings, data: PlanCompensation, ctx: InternalContext
) -> Result[Compensation, ActionError]:
    store = open_store(ctx)
    change = await store.change(data.change_id, lock=True)
    files = ProjectFiles(ctx, settings, store, change["project_id"])
    draft = await draft_compensation(store, change, data.title, files)
    ctx.add_subject(f"change/{draft.id}")
    return Success(draft)


async def _transition(
    settings: FileSettings, permissions: ChangeControlPermissions, data: Transition, ctx: InternalContext
) -> Result[Change, ActionError]:
    if data.status == "Merged":
        # A nested action, so that its permission and its approval are asked for.
        merged = await ctx.execute_action("changes", "merge", {"change_id": data.change_id})
        ctx.suppress_default_event()
        return merged.map(lambda change: Change(**{name: getattr(change, name) for name in Change.model_fields}))
    if data.status == "Ready":
        asks = ctx.actor.type if ctx.actor is not None else "anonymous"
        ctx.require_actor_type(NON_AI_ACTORS, f"R1: no {asks} actor makes a change Ready")
    if (permission := _permission_to_become(data.status, permissions)) is not None:
        await ctx.authorize_async(permission, _subject(data))
    store = open_store(ctx)
    change = await store.change(data.change_id, lock=True)
    if change["status"] == data.status:
        ctx.suppress_default_event()
        return Success(Change(**change))
    if not can_transition(change["status"], data.status, require_review=True):
        allowed = ", ".join(sorted(TRANSITIONS[change["status"]])) or "no other status"
        raise conflict(
            f"a change that is {change['status']} cannot become {data.status}, only {allowed}", status=change["status"]
        )
    if data.status == "WorkspaceRunning" and settings.workspaces is not None and await has_files(store, change):
        await start_workspace(ctx, settings, change)
    elif change["status"] == "WorkspaceRunning":
        await close_workspace(ctx, settings, change["id"])
    changed = {"status": data.status, "updated_at": await store.now()}
    await store.changes.update([{"id": change["id"], **changed}])
    return Success(Change(**{**change, **changed}))


def _permission_to_become(status: str, permissions: ChangeControlPermissions) -> str | None:
    return permissions.approve if status == "Ready" else permissions.author


def _subject(data: Any) -> str:
    return f"change/{data.change_id}"


def changes_service(
    permissions: ChangeControlPermissions, merge_approval: ApprovalPolicy | None, settings: FileSettings
) -> Service:
    """Return the service; its actions require these permissions, and `merge_approval` before a merge."""

    def bind(handler: Callable[..., Any], *values: Any) -> Callable[..., Any]:
        return sync_and_async(partial(handler, settings, *values))

    reading = partial(declare, permission=permissions.read, read_only=True)
    of_change = partial(reading, resource=_subject)
    drafting = partial(declare, permission=permissions.author, resource=_subject)
    merging = partial(
        declare,
        validation=ChangeReference,
        destructive=True,
        permission=permissions.merge,
        allowed_actors=NON_AI_ACTORS,
        resource=_subject,
    )
    applying = partial(merging, approval=merge_approval)
    return create_service(
        name="changes",
        description="Changes of record types and files: drafted, reviewed, executed once, and never edited afterwards",
        permissions=filter(None, (permissions.author, permissions.approve)),
        actions=[
            declare("create", "Draft a change", _create, CreateChange, permission=permissions.author),
            of_change("get", "One change", _get, ChangeReference),
            of_change(
                "transitions",
                "The statuses to which you may move a change",
                sync_and_async(partial(_transitions, permissions)),
                ChangeReference,
            ),
            reading("list", "Changes, by id", _list, ListChanges),
            drafting("add_target", "Add a target to a draft", _add_target, AddTarget),
            of_change("list_targets", "The targets of a change", _list_targets, ListOfChange),
            drafting("add_patch_op", "Add an edit of a target", _add_patch_op, AddPatchOp),
            of_change("list_patch_ops", "The edits of a change, in order", _list_patch_ops, ListPatchOps),
            drafting(
                "delete_patch_op",
                "Delete an edit that is not executed",
                _delete_patch_op,
                PatchOpReference,
                destructive=True,
            ),
            declare(
                "transition",
                "Move a change to another status; Merged merges it",
                bind(_transition, permissions),
                Transition,
                resource=_subject,
                destructive=True,
            ),
            of_change(
                "preview",
                "The effect of a change, and the documents that would no longer fit",
                bind(_preview),
                ChangeReference,
            ),
            applying(
                "execute",
                "Apply the edits of a change, which keeps its status",
                bind(_execute),
                emits=(CHANGE_EXECUTED, RECORD_TYPE_CHANGED),
            ),
            applying(
                "merge",
                "Apply the edits of a change, and close it",
                bind(_merge),
                emits=(CHANGE_MERGED, RECORD_TYPE_CHANGED),
            ),
            merging(
                "write_files",
                "Write the missing edits of a change's files",
                bind(_write_files),
            ),
            drafting(
                "start_workspace",
                "Create a working copy in which a change is tried",
                bind(_start_workspace),
                ChangeReference,
            ),
            drafting(
                "stop_workspace",
                "Stop a workspace and remove its copy",
                bind(_stop_workspace),
                StopWorkspace,
                destructive=True,
            ),
            of_change(
                "workspace",
                "The edits of a change, tried in its workspace, and the diff",
                bind(_view_workspace),
                ChangeReference,
            ),
            of_change(
                "list_snapshots",
                "The schemas of record types before a change, by key",
                _list_snapshots,
                ListOfChange,
            ),
            drafting(
                "plan_compensation",
                "Draft a change that takes another one back",
                bind(_plan_compensation),
                PlanCompensation,
            ),
        ],
    )
