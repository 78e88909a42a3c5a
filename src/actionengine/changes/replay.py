"""Schemas of earlier versions, replayed: the ops since the last whole schema are applied to it.

Storage grows with the ops, and not with the size of a schema. A snapshot stores the whole schema once the ops since the
last whole one have as many bytes; the schema of version 1 is stored with its type. An executed op stores a reference to
the schema before it: the version to start from, and the hash of the schema. So reading a schema takes time in
proportion to its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actionengine.changes.store import Store, to_op
from actionengine.changes.transform import OpRefused, edit
from actionengine.errors import conflict
from actionengine.schemas.schema import Schema
from actionengine.storage.pages import MAX_PAGE_BYTES
from actionengine.storage.tables import Row

_VERSIONS_READ = 256
"""Versions whose ops one statement reads."""


def of_type(row: Row) -> dict[str, Any]:
    """Return the columns that identify a record type in the rows of its ops and snapshots."""
    return {"project_id": row["project_id"], "record_type_key": row.get("record_type_key") or row["key"]}


async def schema_of_version(store: Store, type: Mapping[str, Any], version: int) -> Schema:
    """Return the schema of a record type (see `of_type`) at an earlier version: the one before the first op of the next
    version."""
    found = await store.ops.find(
        {**type, "applied_version": version + 1}, columns=("previous_snapshot",), order=("position",), limit=1
    )
    if not found:
        raise _damaged(type, f"no op leads to its version {version + 1}")
    return await _replayed(store, type, _base_of(found[0]), version)


async def schemas_of_snapshots(store: Store, snapshots: Sequence[Row]) -> list[Row]:
    """Return these snapshots with their schemas, up to the one whose schema fills the bytes of a page."""
    page: list[Row] = []
    total = 0
    for snapshot in snapshots:
        if snapshot["schema"] is None:
            schema = await schema_of_version(store, of_type(snapshot), snapshot["version"])
            snapshot = {**snapshot, "schema": schema.document()}
            total += schema.size
        page.append(snapshot)
        if total >= MAX_PAGE_BYTES:
            break
    return page


async def with_snapshots(store: Store, ops: Sequence[Row]) -> list[Row]:
    """Return these ops of one change, in the order of their positions, each with the schema before it, up to the one
    whose schema fills the bytes of a page."""
    page: list[Row] = []
    schemas: dict[tuple[str, int], Schema] = {}
    total = 0
    for op in ops:
        if op["executed_at"] is not None and op["record_type_key"] is not None:
            execution = (op["record_type_key"], op["applied_version"])
            schema = schemas.get(execution) or await _before(store, op)
            schemas[execution] = _edited(of_type(op), schema, op)
            op = {**op, "previous_snapshot": schema.document()}
            total += schema.size
        page.append(op)
        if total >= MAX_PAGE_BYTES:
            break
    return page


async def _before(store: Store, op: Row) -> Schema:
    """Return the schema before an executed op."""
    type = of_type(op)
    schema = await _replayed(store, type, _base_of(op), op["applied_version"] - 1)
    for other in await _ops(store, type, (op["applied_version"],)):
        if other["position"] == op["position"]:
            break
        schema = _edited(type, schema, other)
    return schema


def _base_of(op: Row) -> int:
    # A forged reference may name none.
    base: int = op["previous_snapshot"].get("base_version", 1)
    return base


async def _replayed(store: Store, type: Mapping[str, Any], base: int, version: int) -> Schema:
    schema = Schema.from_document(await _whole(store, type, base))
    for first in range(base + 1, version + 1, _VERSIONS_READ):
        for op in await _ops(store, type, range(first, min(first + _VERSIONS_READ, version + 1))):
            schema = _edited(type, schema, op)
    return schema


async def _whole(store: Store, type: Mapping[str, Any], version: int) -> Mapping[str, Any]:
    if version == 1:
        about = {"project_id": type["project_id"], "key": type["record_type_key"]}
        found = await store.record_types.find(about, columns=("initial_schema",))
        return found[0]["initial_schema"]  # type: ignore[no-any-return]
    for snapshot in await store.snapshots.find({**type, "version": version}, columns=("schema",), order=("version",)):
        if snapshot["schema"] is not None:
            return snapshot["schema"]  # type: ignore[no-any-return]
    raise _damaged(type, f"no snapshot has the whole schema of version {version}")


async def _ops(store: Store, type: Mapping[str, Any], versions: Sequence[int]) -> list[Row]:
    """Return the ops that led to these versions, in order."""
    return await store.ops.find(
        {**type, "applied_version": tuple(versions)},
        columns=("id", "op_type", "payload", "position"),
        order=("applied_version", "position"),
    )


def _edited(type: Mapping[str, Any], schema: Schema, op: Row) -> Schema:
    try:
        return edit(to_op(op), schema)
    except OpRefused as refused:
        raise _damaged(type, f"the op {op['id']} cannot be applied again: {refused}") from None


def _damaged(type: Mapping[str, Any], problem: str) -> Exception:
    key = type["record_type_key"]
    return conflict(f"the history of {key!r} is damaged: {problem}. Run record_types.verify_history", record_type=key)
