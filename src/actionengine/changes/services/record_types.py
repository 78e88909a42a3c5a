"""The service `record_types`: the types themselves, their history, and the documents that are of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from returns.result import Result, Success

from actionengine.actions import Service, create_service
from actionengine.builtin.declarations import declare
from actionengine.changes.documents import check_documents
from actionengine.changes.executor import plan_ops
from actionengine.changes.guard import RecordTypeGuard
from actionengine.changes.history import schema_at_change, schema_at_time, verify
from actionengine.changes.models import DocumentCheck, History, RecordType, RecordTypeStatus, SchemaAt
from actionengine.changes.permissions import NON_AI_ACTORS, ChangeControlPermissions
from actionengine.changes.services.inputs import (
    CheckDocuments,
    CreateRecordType,
    GetSchemaAt,
    ListRecordTypes,
    RecordTypeReference,
)
from actionengine.changes.store import Store, open_store, page, record_type_subject, to_type_state
from actionengine.changes.type_graph import GraphError, RecordTypeState, TypeGraph, check_graph
from actionengine.errors import ActionError, ErrorCode, conflict, not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import sync_and_async
from actionengine.schemas.schema import Schema
from actionengine.storage.tables import Row


@sync_and_async
async def _create(data: CreateRecordType, ctx: InternalContext) -> Result[RecordType, ActionError]:
    store = open_store(ctx)
    await store.project(data.project_id)
    name = data.name or data.key
    if await store.record_types.find({"project_id": data.project_id, "key": data.key}, columns=("id",)):
        raise conflict(f"the project has a record type {data.key!r} already: choose another key", key=data.key)
    if await store.record_types.find({"name": name}, columns=("id",)):
        raise conflict(f"the tenant has a record type named {name!r} already: choose another name", name=name)
    document = data.schema.document()
    await _check_base(store, data, document)
    at = await store.now()
    row = {
        "id": store.new_id(),
        "project_id": data.project_id,
        "key": data.key,
        "name": name,
        "description": data.description,
        "base_type": data.base_type,
        "schema": document,
        "initial_schema": document,
        "version": 1,
        "base_version": 1,
        "bytes_since_base": 0,
        "status": "draft",
        "changed_by": None,
        "created_at": at,
        "updated_at": at,
    }
    await store.record_types.insert([row])
    return Success(RecordType(**row))


async def _check_base(store: Store, data: CreateRecordType, document: dict[str, Any]) -> None:
    """P6, E7: the base type is one of the project's, and nothing that it requires is weakened."""
    if data.base_type is None:
        return
    if data.base_type == data.key:
        raise ActionError(
            ErrorCode.UNPROCESSABLE,
            f"{data.key!r} cannot be its own base type: that closes a cycle",
            {"field": "base_type"},
        )
    # The lock keeps the base types as they are, and from being changed without regard to the new one.
    base = await store.record_type(data.project_id, data.base_type, lock=True)
    rows = await store.lineage(base)
    new = RecordTypeState(data.key, data.project_id, data.base_type, 1, Schema.from_document(document))
    graph = TypeGraph([*map(to_type_state, rows), new])
    try:
        check_graph(graph, graph.schemas)
    except GraphError as error:
        raise ActionError(ErrorCode.UNPROCESSABLE, str(error), {"field": "schema"}) from None


@sync_and_async
async def _get(data: RecordTypeReference, ctx: InternalContext) -> Result[RecordType, ActionError]:
    return Success(RecordType(**await open_store(ctx).record_type(data.project_id, data.key)))


@sync_and_async
async def _list(data: ListRecordTypes, ctx: InternalContext) -> Result[tuple[RecordType, ...], ActionError]:
    store = open_store(ctx)
    await store.project(data.project_id)
    where = {"project_id": data.project_id} | ({"status": data.status} if data.status is not None else {})
    rows = await page(ctx, store.record_types, where, by="key", after=data.after, limit=data.limit)
    return Success(tuple(RecordType(**row) for row in rows))


@sync_and_async
async def _activate(data: RecordTypeReference, ctx: InternalContext) -> Result[RecordType, ActionError]:
    store = open_store(ctx)
    row = await store.record_type(data.project_id, data.key, lock=True)
    # Of two that are activated at once, the storage refuses one.
    for other in await store.first_of_key(data.key, lock=True):
        if other["status"] == "active" and other["id"] != row["id"]:
            raise conflict(
                f"the record type {data.key!r} in another project is active, and a tenant has one per key: "
                f"retire that one first",
                project_id=other["project_id"],
            )
    return Success(await _with_status(store, ctx, row, "active"))


@sync_and_async
async def _retire(data: RecordTypeReference, ctx: InternalContext) -> Result[RecordType, ActionError]:
    store = open_store(ctx)
    row = await store.record_type(data.project_id, data.key, lock=True)
    return Success(await _with_status(store, ctx, row, "retired"))


async def _with_status(store: Store, ctx: InternalContext, row: Row, status: RecordTypeStatus) -> RecordType:
    if row["status"] == status:
        ctx.suppress_default_event()
        return RecordType(**row)
    changed = {"status": status, "updated_at": await store.now()}
    await store.record_types.update([{"id": row["id"], **changed}])
    return RecordType(**{**row, **changed})


@sync_and_async
async def _schema_at(data: GetSchemaAt, ctx: InternalContext) -> Result[SchemaAt, ActionError]:
    store = open_store(ctx)
    row = await store.record_type(data.project_id, data.key)
    if data.at is not None:
        return Success(await schema_at_time(store, row, data.at))
    assert data.change_id is not None
    return Success(await schema_at_change(store, row, await store.change(data.change_id)))


@sync_and_async
async def _verify_history(data: RecordTypeReference, ctx: InternalContext) -> Result[History, ActionError]:
    store = open_store(ctx)
    return Success(await verify(store, await store.record_type(data.project_id, data.key)))


@sync_and_async
async def _check_documents(data: CheckDocuments, ctx: InternalContext) -> Result[DocumentCheck, ActionError]:
    store = open_store(ctx)
    rows = await store.lineage(await store.record_type(data.project_id, data.key))
    graph = TypeGraph(map(to_type_state, rows))
    schemas = graph.schemas
    if data.change_id is not None:
        change = await store.change(data.change_id)
        if change["project_id"] != data.project_id:
            raise not_found("change", data.change_id, project_id=data.project_id)
        schemas |= (await plan_ops(ctx, store, change, files=None)).transformed.schemas
    schema = graph.effective(data.key, schemas)
    checked = await check_documents(ctx.unit_of_work.records(data.key), data.key, schema, data.limit, data.after)
    ctx.set_logged_output({"checked": checked.checked, "invalid": len(checked.invalid)})
    return Success(checked)


def _subject(data: Any) -> str:
    return record_type_subject(data.project_id, data.key)


def record_types_service(permissions: ChangeControlPermissions) -> Service:
    """Return the service; its actions require these permissions."""
    managing = partial(declare, permission=permissions.manage, resource=_subject)
    deciding = partial(managing, validation=RecordTypeReference, allowed_actors=NON_AI_ACTORS)
    reading = partial(declare, permission=permissions.read, read_only=True)
    of_type = partial(reading, resource=_subject)
    service = create_service(
        name="record_types",
        description="The types of a tenant's records, their history and their documents",
        actions=[
            managing("create", "Create a record type as a draft", _create, CreateRecordType),
            of_type("get", "One record type", _get, RecordTypeReference),
            reading("list", "The record types of a project, by key", _list, ListRecordTypes),
            deciding("activate", "Validate documents against the type from now on", _activate),
            deciding("retire", "Refuse new documents of the type from now on", _retire),
            of_type("schema_at", "The schema after a change, or at a time", _schema_at, GetSchemaAt),
            of_type(
                "verify_history",
                "Compare a replay of all ops with the stored schemas",
                _verify_history,
                RecordTypeReference,
            ),
            of_type(
                "check_documents",
                "The documents that do not fit the schema, as it is or after a change",
                _check_documents,
                CheckDocuments,
            ),
        ],
    )
    return replace(service, document_guard=RecordTypeGuard)
