"""What a record type was like: its schema at a change or at a time, and whether its ops lead to what is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from actionengine.changes.models import History, SchemaAt
from actionengine.changes.schema import Schema
from actionengine.changes.store import Store, conflict, op_of
from actionengine.changes.transform import OpRefused, edit
from actionengine.errors import ErrorCode, failing
from actionengine.storage.tables import Row

_STEPS = ("id", "change_id", "position", "applied_version", "executed_at")
_STAMPED = ("id", "op_type", "payload", "previous_snapshot")

_VERSIONS = 16
"""Versions whose schemas `verify` has in memory at once."""


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
    steps = await _steps(store, record_type)
    executed = {step["change_id"] for step in steps}
    snapshots = {
        row["change_id"]: row["version"]
        for row in await store.snapshots.find(of_type, columns=("change_id", "version"), order=("version",))
        if row["version"] < record_type["version"] or row["change_id"] in executed
    }
    schema, version = Schema.from_document(record_type["initial_schema"]), 1
    waiting = dict(snapshots)
    mismatches: list[str] = []
    # Each of them has a whole schema: a few versions are in memory at once.
    for versions in _batches(steps):
        stamps = {
            row["id"]: row
            for row in await store.ops.find({**of_type, "applied_version": versions}, columns=_STAMPED, order=("id",))
        }
        own = [step for step in steps if step["applied_version"] in versions]
        schemas = await _snapshots(store, of_type, [waiting.get(step["change_id"]) for step in own])
        for step in own:
            stamped = stamps[step["id"]]
            now = _fields(schema.document())
            if step["applied_version"] not in {version, version + 1}:
                mismatches.append(f"the op {step['id']} led from version {version} to {step['applied_version']}")
            snapshot = waiting.pop(step["change_id"], None)
            if snapshot is not None:
                if snapshot != step["applied_version"] - 1:
                    mismatches.append(f"the snapshot of the change {step['change_id']} is of another version")
                taken = schemas.get(step["change_id"])
                if taken is None or not _is_schema(taken, schema, now):
                    mismatches.append(
                        f"the snapshot of the change {step['change_id']} is not what the ops before it give"
                    )
            version = step["applied_version"]
            if not _is_schema(stamped["previous_snapshot"], schema, now):
                mismatches.append(f"the op {step['id']} was stamped with another schema than the ops before it give")
            try:
                schema = edit(op_of(stamped), schema)
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


def _batches(steps: Sequence[Row]) -> Iterator[tuple[int, ...]]:
    """The versions that these steps have led to, a few at a time."""
    versions = list(dict.fromkeys(step["applied_version"] for step in steps))
    for start in range(0, len(versions), _VERSIONS):
        yield tuple(versions[start : start + _VERSIONS])


async def _snapshots(store: Store, of_type: Row, versions: Sequence[int | None]) -> dict[str, Mapping[str, Any]]:
    """The schemas of a type's snapshots, from the first of these versions to the last, by the change that took them."""
    found: dict[str, Mapping[str, Any]] = {}
    wanted = [version for version in versions if version is not None]
    last = min(wanted, default=0) - 1
    while last < max(wanted, default=-1):
        page = await store.snapshots.find(
            of_type,
            above={"version": last},
            columns=("change_id", "version", "schema"),
            order=("version",),
            limit=_VERSIONS,
        )
        if not page:
            break
        found |= {row["change_id"]: row["schema"] for row in page}
        last = page[-1]["version"]
    return found


def _fields(document: Mapping[str, Any]) -> bytes:
    return to_json(document["fields"])


def _is_schema(document: Mapping[str, Any], schema: Schema, fields: bytes) -> bool:
    """Return whether a stored schema is this one, whose fields as JSON are given: mostly it is the same text."""
    return _fields(document) == fields or Schema.from_document(document) == schema


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


async def _steps(store: Store, record_type: Row) -> list[Row]:
    """The executed ops of a type, up to the version that was read: what has come since is another moment's."""
    found = await store.ops.find(
        {"project_id": record_type["project_id"], "record_type_key": record_type["key"]},
        above={"applied_version": 0},
        columns=_STEPS,
        order=("applied_version", "position"),
    )
    return [step for step in found if step["applied_version"] <= record_type["version"]]
