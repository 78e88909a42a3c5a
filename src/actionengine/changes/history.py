"""What a record type was like: its schema at a change or at a time, and whether its ops lead to what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from actionengine.changes.models import History, SchemaAt
from actionengine.changes.schema import Schema
from actionengine.changes.store import Store, conflict, op_of
from actionengine.changes.transform import OpRefused, edit
from actionengine.errors import ErrorCode, failing
from actionengine.storage.tables import Row

_STEPS = ("id", "change_id", "position", "applied_version", "executed_at")


async def schema_at_change(store: Store, record_type: Row, change: Row) -> SchemaAt:
    """The schema as a change has left it; where it has not touched the type, as it was when the change was merged."""
    steps = [step for step in await _steps(store, record_type) if step["change_id"] == change["id"]]
    if steps:
        return await _schema_of_version(store, record_type, steps[-1]["applied_version"])
    if change["merged_at"] is None:
        raise conflict(f"the change {change['id']!r} has not been executed on {record_type['key']!r}")
    return await schema_at_time(store, record_type, change["merged_at"])


async def schema_at_time(store: Store, record_type: Row, at: datetime) -> SchemaAt:
    """The schema that was in force at a time. Raises `ActionException(not_found)` for one before there was a type."""
    if at < record_type["created_at"]:
        raise failing(
            ErrorCode.NOT_FOUND,
            f"at {at.isoformat()} there was no record type {record_type['key']!r} yet",
            created_at=record_type["created_at"].isoformat(),
        )
    versions = [step["applied_version"] for step in await _steps(store, record_type) if step["executed_at"] <= at]
    return await _schema_of_version(store, record_type, max(versions, default=1))


async def schema_of_version(store: Store, record_type: Row, version: int) -> Schema:
    """The schema that the type had at a version: what the first op of the next one has found."""
    if version == record_type["version"]:
        return Schema.from_document(record_type["schema"])
    (step,) = await store.ops.find(
        {
            "project_id": record_type["project_id"],
            "record_type_key": record_type["key"],
            "applied_version": version + 1,
        },
        columns=("previous_snapshot",),
        order=("position",),
        limit=1,
    )
    return Schema.from_document(step["previous_snapshot"])


async def verify(store: Store, record_type: Row) -> History:
    """Apply all ops, from the first schema on, and compare what comes of it with every snapshot and stamp."""
    key = record_type["key"]
    of_type = {"project_id": record_type["project_id"], "record_type_key": key}
    steps = await _steps(store, record_type, columns=None)
    executed = {step["change_id"] for step in steps}
    snapshots = {
        row["change_id"]: row
        for row in await store.snapshots.find(of_type, order=("version",))
        if row["version"] < record_type["version"] or row["change_id"] in executed
    }
    schema, version = Schema.from_document(record_type["initial_schema"]), 1
    waiting = dict(snapshots)
    mismatches: list[str] = []
    for step in steps:
        if step["applied_version"] not in {version, version + 1}:
            mismatches.append(f"the op {step['id']} led from version {version} to {step['applied_version']}")
        snapshot = waiting.pop(step["change_id"], None)
        if snapshot is not None:
            if snapshot["version"] != step["applied_version"] - 1:
                mismatches.append(f"the snapshot of the change {step['change_id']} is of another version")
            if Schema.from_document(snapshot["schema"]) != schema:
                mismatches.append(f"the snapshot of the change {step['change_id']} is not what the ops before it give")
        version = step["applied_version"]
        if Schema.from_document(step["previous_snapshot"]) != schema:
            mismatches.append(f"the op {step['id']} was stamped with another schema than the ops before it give")
        try:
            schema = edit(op_of(step), schema)
        except OpRefused as refused:
            mismatches.append(f"the op {step['id']} cannot be applied again: {refused}")
    mismatches += [f"the snapshot of the change {change} belongs to no op" for change in waiting]
    if schema != Schema.from_document(record_type["schema"]):
        mismatches.append("the schema is not what the ops give")
    if version != record_type["version"]:
        mismatches.append(f"the type is at version {record_type['version']}, its ops lead to {version}")
    return History(
        record_type_key=key,
        versions=record_type["version"],
        ops=len(steps),
        snapshots=len(snapshots),
        is_intact=not mismatches,
        mismatches=tuple(mismatches),
    )


async def _schema_of_version(store: Store, record_type: Row, version: int) -> SchemaAt:
    schema = await schema_of_version(store, record_type, version)
    made_by = await store.ops.find(
        {"project_id": record_type["project_id"], "record_type_key": record_type["key"], "applied_version": version},
        columns=("change_id",),
        order=("applied_version", "position"),
        limit=1,
    )
    return SchemaAt(
        record_type_key=record_type["key"],
        version=version,
        schema=schema.document(),
        change_id=made_by[0]["change_id"] if made_by else None,
    )


async def _steps(store: Store, record_type: Row, columns: Sequence[str] | None = _STEPS) -> list[Row]:
    """The executed ops of a type, up to the version that was read: what has come since is another moment's."""
    found = await store.ops.find(
        {"project_id": record_type["project_id"], "record_type_key": record_type["key"]},
        above={"applied_version": 0},
        columns=columns,
        order=("applied_version", "position"),
    )
    return [step for step in found if step["applied_version"] <= record_type["version"]]
