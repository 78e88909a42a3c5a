"""The service `triggers`: events and schedules that start runs."""

from __future__ import annotations

from functools import partial
from typing import Any

from returns.result import Result, Success

from actionengine.actions import Service, create_service
from actionengine.builtin.declarations import declare
from actionengine.errors import ActionError, not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import sync_and_async
from actionengine.storage.rows import Record
from actionengine.workflows.definitions.parse import parse_trigger, to_document
from actionengine.workflows.definitions.triggers import EventTrigger, ScheduleTrigger
from actionengine.workflows.models import CreateTrigger, ListTriggers, TriggerReference, TriggerView
from actionengine.workflows.permissions import ACTIVATORS, WorkflowPermissions
from actionengine.workflows.runs.events import TRIGGER_CHANGED, TriggerChanged
from actionengine.workflows.runs.store import Store, open_store, timestamp, workflow_subject
from actionengine.workflows.services.quotas import count_trigger


@sync_and_async
async def _create(data: CreateTrigger, ctx: InternalContext) -> Result[TriggerView, ActionError]:
    trigger = parse_trigger(data.trigger)
    store = open_store(ctx)
    if await store.heads.get(data.key) is None:
        raise not_found("workflow", data.key)
    return Success(_view(await _insert(ctx, store, data.key, trigger, from_definition=False)))


@sync_and_async
async def _get(data: TriggerReference, ctx: InternalContext) -> Result[TriggerView, ActionError]:
    return Success(_view(await open_store(ctx).trigger(data.trigger_id)))


@sync_and_async
async def _list(data: ListTriggers, ctx: InternalContext) -> Result[tuple[TriggerView, ...], ActionError]:
    filter = {"workflow_key": data.key} if data.key is not None else None
    found = await open_store(ctx).triggers.list(filter, limit=data.limit, after=data.after)
    ctx.set_logged_output({"count": len(found)})
    return Success(tuple(map(_view, found)))


@sync_and_async
async def _enable(data: TriggerReference, ctx: InternalContext) -> Result[TriggerView, ActionError]:
    return Success(_view(await _set_status(ctx, data.trigger_id, "active")))


@sync_and_async
async def _disable(data: TriggerReference, ctx: InternalContext) -> Result[TriggerView, ActionError]:
    return Success(_view(await _set_status(ctx, data.trigger_id, "disabled")))


@sync_and_async
async def _delete(data: TriggerReference, ctx: InternalContext) -> Result[TriggerView, ActionError]:
    store = open_store(ctx)
    record = await store.trigger(data.trigger_id)
    if record.data["from_definition"]:
        # A later version that defines a trigger restores this one, disabled.
        head = await store.heads.get(record.data["workflow_key"])
        assert head is not None
        await store.heads.update(head.id, {**head.data, "trigger": _remembered(record, "disabled")}, head.version)
    await _remove(ctx, store, record)
    return Success(_view(record))


def sees(record: Record, position: int | None) -> bool:
    """Return whether a trigger is active, and was when the event at this position of the log was recorded."""
    return record.data["status"] == "active" and (position is None or position > record.data["since"])


async def apply_defined_trigger(
    ctx: InternalContext, store: Store, head: Record, trigger: EventTrigger | ScheduleTrigger | None
) -> dict[str, Any] | None:
    """Replace a workflow's own trigger by that of its active version. It keeps its id and its status.

    Returns this id and status for the head, which keeps them while no version has a trigger.
    """
    found = await store.triggers.list({"workflow_key": head.id, "from_definition": True}, limit=1)
    record = found[0] if found else None
    remembered = head.data.get("trigger") if record is None else _remembered(record, record.data["status"])
    if trigger is None:
        if record is not None:
            await _remove(ctx, store, record)
    elif record is None:
        await _insert(ctx, store, head.id, trigger, remembered, from_definition=True)
    elif record.data["trigger"] != to_document(trigger):
        await _replace(ctx, store, record, trigger)
    return remembered


def _remembered(record: Record, status: str) -> dict[str, Any]:
    return {"id": record.id, "status": status}


async def _content(
    ctx: InternalContext, trigger: EventTrigger | ScheduleTrigger, before: Record | None
) -> dict[str, Any]:
    """Return the fields of a trigger's document that say what it waits for. It sees only events of its type that are
    recorded after now; if its type stays the same, after it was set."""
    event_type = trigger.event_type if isinstance(trigger, EventTrigger) else None
    is_new = before is None or before.data["event_type"] != event_type
    return {
        "type": trigger.type,
        "event_type": event_type,
        "trigger": to_document(trigger),
        "since": await ctx.unit_of_work.last_position() if is_new or before is None else before.data["since"],
    }


async def _insert(
    ctx: InternalContext,
    store: Store,
    key: str,
    trigger: EventTrigger | ScheduleTrigger,
    remembered: dict[str, Any] | None = None,
    *,
    from_definition: bool,
) -> Record:
    await count_trigger(store, trigger.type, 1)
    now = await timestamp(ctx)
    kept = remembered or {"id": ctx.new_id(), "status": "active"}
    record = await store.triggers.insert(
        {
            "workflow_key": key,
            "status": kept["status"],
            **await _content(ctx, trigger, None),
            "from_definition": from_definition,
            "created_at": now,
            "updated_at": now,
        },
        kept["id"],
    )
    _emit_changed(ctx, record)
    return record


async def _replace(ctx: InternalContext, store: Store, record: Record, trigger: EventTrigger | ScheduleTrigger) -> None:
    """Replace what a trigger waits for. Its status stays."""
    if record.data["type"] != trigger.type:
        await count_trigger(store, record.data["type"], -1)
        await count_trigger(store, trigger.type, 1)
    data = {**record.data, **await _content(ctx, trigger, record), "updated_at": await timestamp(ctx)}
    _emit_changed(ctx, await store.triggers.update(record.id, data, record.version))


async def _set_status(ctx: InternalContext, id: str, status: str) -> Record:
    store = open_store(ctx)
    record = await store.trigger(id)
    if record.data["status"] == status:
        ctx.suppress_default_event()
        return record
    # It does not see events that were recorded while it was disabled.
    since = await ctx.unit_of_work.last_position()
    data = {**record.data, "status": status, "since": since, "updated_at": await timestamp(ctx)}
    record = await store.triggers.update(id, data, record.version)
    _emit_changed(ctx, record)
    return record


async def _remove(ctx: InternalContext, store: Store, record: Record) -> None:
    await store.triggers.delete(record.id, record.version)
    await count_trigger(store, record.data["type"], -1)
    _emit_changed(ctx, record, is_removed=True)


def _emit_changed(ctx: InternalContext, record: Record, *, is_removed: bool = False) -> None:
    # A trigger that is disabled or removed is not read: its stored form may be invalid by now.
    is_active = record.data["status"] == "active" and not is_removed
    trigger = parse_trigger(record.data["trigger"], stored=True) if is_active else None
    scheduled = trigger if isinstance(trigger, ScheduleTrigger) else None
    payload = TriggerChanged(
        trigger_id=record.id,
        workflow_key=record.data["workflow_key"],
        schedule=scheduled.schedule if scheduled is not None else None,
        timezone=scheduled.timezone if scheduled is not None else None,
    )
    ctx.emit(TRIGGER_CHANGED, payload, subject=f"trigger/{record.id}")


def _view(record: Record) -> TriggerView:
    return TriggerView.model_validate({"id": record.id, **record.data})


def _subject(data: Any) -> str:
    return f"trigger/{data.trigger_id}"


def _workflow_subject(data: Any) -> str:
    return workflow_subject(data.key)


def triggers_service(permissions: WorkflowPermissions) -> Service:
    """Return the service, whose actions ask for these permissions."""
    reading = partial(declare, permission=permissions.read, read_only=True)
    activating = partial(declare, permission=permissions.activate, allowed_actors=ACTIVATORS)
    of_trigger = partial(activating, validation=TriggerReference, resource=_subject)
    return create_service(
        name="triggers",
        description="Events and schedules that start runs of workflows",
        actions=[
            activating(
                "create", "Start runs on an event or a schedule", _create, CreateTrigger, resource=_workflow_subject
            ),
            reading("get", "One trigger", _get, TriggerReference, resource=_subject),
            reading("list", "Triggers, by id", _list, ListTriggers),
            of_trigger("enable", "Enable a trigger", _enable),
            of_trigger("disable", "Disable a trigger: it starts no runs", _disable),
            of_trigger("delete", "Remove a trigger", _delete, destructive=True),
        ],
    )
