"""The service `changes`: drafts, their targets and ops, their life, and what becomes of them."""

from __future__ import annotations

from typing import Any

from returns.result import Result, Success

from actionengine.actions import Action, ApprovalPolicy, Service, create_action, create_service
from actionengine.changes.drafts import create_change, draft_compensation, insert_op, insert_target
from actionengine.changes.files import FileSettings, ProjectFiles
from actionengine.changes.merge import (
    APPLIED,
    CHANGED,
    execute_change,
    merge_change,
    preview_change,
    write_change_files,
)
from actionengine.changes.models import (
    AddPatchOp,
    AddTarget,
    Applied,
    Change,
    ChangeReference,
    Compensation,
    CreateChange,
    ListChanges,
    ListPatchOps,
    ListSnapshots,
    ListTargets,
    PatchOpReference,
    PlanCompensation,
    Preview,
    Snapshot,
    StopWorkspace,
    StoredPatchOp,
    Target,
    Transition,
    Workspace,
    WorkspaceView,
    WrittenFiles,
)
from actionengine.changes.ops import parse_op
from actionengine.changes.permissions import NON_AI_ACTORS, ChangeControlPermissions
from actionengine.changes.replay import schemas_of_snapshots, with_snapshots
from actionengine.changes.states import ACCEPTS_OPS, can_transition
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


@sync_and_async
async def _add_target(data: AddTarget, ctx: InternalContext) -> Result[Target, ActionError]:
    store = open_store(ctx)
    change = await store.change(data.change_id, lock=True)
    return Success(Target(**await insert_target(store, change, data.type, data.selector)))


@sync_and_async
async def _list_targets(data: ListTargets, ctx: InternalContext) -> Result[tuple[Target, ...], ActionError]:
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
            raise conflict(f"the op {op['id']} has been executed: it stays", op_id=op["id"])
        if change["status"] not in ACCEPTS_OPS:
            raise conflict(f"no op is deleted from a change that is {change['status']}", status=change["status"])
        await store.ops.delete({"id": op["id"]})
        await store.changes.update([{"id": change["id"], "updated_at": await store.now()}])
        return Success(StoredPatchOp(**op))
    raise not_found("op", data.op_id)


@sync_and_async
async def _list_snapshots(data: ListSnapshots, ctx: InternalContext) -> Result[tuple[Snapshot, ...], ActionError]:
    store = open_store(ctx)
    await store.change(data.change_id)
    where = {"change_id": data.change_id}
    rows = await page(ctx, store.snapshots, where, by="record_type_key", after=data.after, limit=data.limit)
    rows = await schemas_of_snapshots(store, rows)
    ctx.set_logged_output({"count": len(rows)})
    return Success(tuple(Snapshot(**row) for row in rows))


class _FileActions:
    """The actions that look at files, or write them, where a host keeps them."""

    def __init__(self, settings: FileSettings) -> None:
        @sync_and_async
        async def preview(data: ChangeReference, ctx: InternalContext) -> Result[Preview, ActionError]:
            preview = await preview_change(ctx, data.change_id, settings)
            ctx.set_logged_output(
                preview.model_dump(mode="json", exclude={"documents": True, "files": {"__all__": {"diff"}}})
            )
            return Success(preview)

        @sync_and_async
        async def execute(data: ChangeReference, ctx: InternalContext) -> Result[Applied, ActionError]:
            return Success(await execute_change(ctx, data.change_id, settings))

        @sync_and_async
        async def merge(data: ChangeReference, ctx: InternalContext) -> Result[Applied, ActionError]:
            return Success(await merge_change(ctx, data.change_id, settings))

        @sync_and_async
        async def write_files(data: ChangeReference, ctx: InternalContext) -> Result[WrittenFiles, ActionError]:
            return Success(await write_change_files(ctx, data.change_id, settings))

        @sync_and_async
        async def start(data: ChangeReference, ctx: InternalContext) -> Result[Workspace, ActionError]:
            change = await open_store(ctx).change(data.change_id, lock=True)
            return Success(await start_workspace(ctx, settings, change))

        @sync_and_async
        async def stop(data: StopWorkspace, ctx: InternalContext) -> Result[Workspace, ActionError]:
            change = await open_store(ctx).change(data.change_id, lock=True)
            return Success(await stop_workspace(ctx, settings, change, data.keep))

        @sync_and_async
        async def workspace(data: ChangeReference, ctx: InternalContext) -> Result[WorkspaceView, ActionError]:
            view = await view_workspace(ctx, settings, data.change_id)
            ctx.set_logged_output(
                view.model_dump(mode="json", exclude={"ops": {"__all__": {"expected", "found"}}, "diff": True})
            )
            return Success(view)

        @sync_and_async
        async def plan_compensation(data: PlanCompensation, ctx: InternalContext) -> Result[Compensation, ActionError]:
            store = open_store(ctx)
            change = await store.change(data.change_id, lock=True)
            files = ProjectFiles(ctx, settings, store, change["project_id"])
            draft = await draft_compensation(store, change, data.title, files)
            ctx.add_subject(f"change/{draft.id}")
            return Success(draft)

        self.preview, self.execute, self.merge, self.write_files = preview, execute, merge, write_files
        self.start, self.stop, self.workspace = start, stop, workspace
        self.plan_compensation = plan_compensation


def _transition(permissions: ChangeControlPermissions, settings: FileSettings) -> Any:
    @sync_and_async
    async def transition(data: Transition, ctx: InternalContext) -> Result[Change, ActionError]:
        if data.status == "Merged":
            # Whatever merging asks for, of whoever merges.
            answer = await ctx.execute_action("changes", "merge", {"change_id": data.change_id})
            ctx.suppress_default_event()
            return answer.map(lambda merged: Change(**{name: getattr(merged, name) for name in Change.model_fields}))
        if data.status == "Ready":
            asks = ctx.actor.type if ctx.actor is not None else "anonymous"
            ctx.require_actor_type(NON_AI_ACTORS, f"R1: no {asks} actor makes a change Ready")
        if (permission := permissions.approve if data.status == "Ready" else permissions.author) is not None:
            await ctx.authorize_async(permission, _subject(data))
        store = open_store(ctx)
        change = await store.change(data.change_id, lock=True)
        if change["status"] == data.status:
            ctx.suppress_default_event()
            return Success(Change(**change))
        if not can_transition(change["status"], data.status, require_review=True):
            raise conflict(f"a change that is {change['status']} cannot become {data.status}", status=change["status"])
        if data.status == "WorkspaceRunning" and settings.workspaces is not None and await has_files(store, change):
            await start_workspace(ctx, settings, change)
        elif change["status"] == "WorkspaceRunning":
            await close_workspace(ctx, settings, change["id"])
        changed = {"status": data.status, "updated_at": await store.now()}
        await store.changes.update([{"id": change["id"], **changed}])
        return Success(Change(**{**change, **changed}))

    return transition


def _subject(data: Any) -> str:
    return f"change/{data.change_id}"


def changes_service(
    permissions: ChangeControlPermissions, merge_approval: ApprovalPolicy | None, settings: FileSettings
) -> Service:
    """The service, its actions asking for these permissions, and merging perhaps for a second person."""
    on_files = _FileActions(settings)

    def reading(name: str, description: str, handler: Any, validation: Any = ChangeReference) -> Action:
        return create_action(
            name=name,
            description=description,
            handler=handler,
            validation=validation,
            permission=permissions.read,
            resource=_subject,
            read_only=True,
        )

    def drafting(name: str, description: str, handler: Any, validation: Any) -> Action:
        return create_action(
            name=name,
            description=description,
            handler=handler,
            validation=validation,
            permission=permissions.author,
            resource=_subject,
        )

    def applying(name: str, description: str, handler: Any) -> Action:
        return create_action(
            name=name,
            description=description,
            handler=handler,
            validation=ChangeReference,
            permission=permissions.merge,
            allowed_actors=NON_AI_ACTORS,
            approval=merge_approval,
            resource=_subject,
            emits=(APPLIED[name], CHANGED),
        )

    return create_service(
        name="changes",
        description="How record types evolve: drafted, reviewed, executed once, and never edited afterwards",
        permissions=filter(None, (permissions.author, permissions.approve)),
        actions=[
            create_action(
                name="create",
                description="Begin a change, a draft",
                handler=_create,
                validation=CreateChange,
                permission=permissions.author,
            ),
            reading("get", "One change", _get),
            create_action(
                name="list",
                description="Changes, by id",
                handler=_list,
                validation=ListChanges,
                permission=permissions.read,
                read_only=True,
            ),
            drafting("add_target", "Say what a draft is about", _add_target, AddTarget),
            reading("list_targets", "What a change is about", _list_targets, ListTargets),
            drafting("add_patch_op", "Add an edit of a target", _add_patch_op, AddPatchOp),
            reading("list_patch_ops", "The edits of a change, in their order", _list_patch_ops, ListPatchOps),
            drafting("delete_patch_op", "Take back an edit that is not executed", _delete_patch_op, PatchOpReference),
            create_action(
                name="transition",
                description="Move a change on in its life; to Merged, as merge does",
                handler=_transition(permissions, settings),
                validation=Transition,
                resource=_subject,
            ),
            reading("preview", "What a change would do, and which documents would fit no longer", on_files.preview),
            applying("execute", "Apply the edits of a change, which stays where it is in its life", on_files.execute),
            applying("merge", "Apply the edits of a change, and close it", on_files.merge),
            create_action(
                name="write_files",
                description="Write what is missing in a module of the files that a change has edited",
                handler=on_files.write_files,
                validation=ChangeReference,
                permission=permissions.merge,
                allowed_actors=NON_AI_ACTORS,
                resource=_subject,
            ),
            drafting(
                "start_workspace", "Make a working copy in which a change is tried", on_files.start, ChangeReference
            ),
            drafting("stop_workspace", "Stop the workspace of a change, and drop it", on_files.stop, StopWorkspace),
            reading(
                "workspace", "The edits of a change, tried in its workspace, and what differs there", on_files.workspace
            ),
            reading(
                "list_snapshots",
                "What record types were like just before a change, by key",
                _list_snapshots,
                ListSnapshots,
            ),
            drafting(
                "plan_compensation", "Draft a change that takes one back", on_files.plan_compensation, PlanCompensation
            ),
        ],
    )
