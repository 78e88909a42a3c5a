"""The history of a record type: its schema after a change or at a time, and the verification of all its ops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from pydantic_core import to_json

from actionengine.changes.models import History, SchemaAt
from actionengine.changes.replay import of_type, schema_of_version
from actionengine.changes.store import Store, schema_reference, to_op
from actionengine.changes.transform import OpRefused, edit
from actionengine.errors import ActionError, ErrorCode, conflict
from actionengine.schemas.schema import Schema
from actionengine.storage.tables import Row

_STEP = ("id", "change_id", "op_type", "payload", "applied_version", "previous_snapshot")

_VERSIONS = 16
"""Versions whose ops and snapshots `verify` holds in memory."""


async def schema_at_change(store: Store, record_type: Row, change: Row) -> SchemaAt:
    """Return the schema after a change; if the change did not touch the type, the schema at the time of its merge."""
    executed = await store.ops.find(
        {"change_id": change["id"]},
        above={"applied_version": 0},
        columns=("project_id", "record_type_key", "applied_version"),
        order=("position",),
    )
    versions = [
        op["applied_version"]
        for op in executed
        if (op["project_id"], op["record_type_key"]) == (record_type["project_id"], record_type["key"])
        and op["applied_version"] <= record_type["version"]
    ]
    if versions:
        return await _schema_of_version(store, record_type, max(versions))
    if change["merged_at"] is None:
        raise conflict(f"the change {change['id']!r} has not been executed on {record_type['key']!r}")
    return await schema_at_time(store, record_type, change["merged_at"])


async def schema_at_time(store: Store, record_type: Row, at: datetime) -> SchemaAt:
    """Return the schema at a time. Raises `ActionError(not_found)` for a time before the type was created."""
    if at < record_type["created_at"]:
        raise ActionError(
            ErrorCode.NOT_FOUND,
            f"at {at.isoformat()} the record type {record_type['key']!r} did not exist yet",
            {"created_at": record_type["created_at"].isoformat()},
        )
    # Versions are in the order of time: find the last one that is old enough by bisection.
    version, later = 1, record_type["version"] + 1
    while later - version > 1:
        middle = (version + later) // 2
        op = await _first_op(store, record_type, middle)
        if op is not None and op["executed_at"] <= at:
            version = middle
        else:
            later = middle
    return await _schema_of_version(store, record_type, version)


async def _schema_of_version(store: Store, record_type: Row, version: int) -> SchemaAt:
    schema = record_type["schema"]
    if version != record_type["version"]:
        schema = (await schema_of_version(store, of_type(record_type), version)).document()
    op = await _first_op(store, record_type, version)
    return SchemaAt(
        record_type_key=record_type["key"], version=version, schema=schema, change_id=op["change_id"] if op else None
    )


async def _first_op(store: Store, record_type: Row, version: int) -> Row | None:
    """Return the first op that led to a version; None for version 1."""
    for op in await store.ops.find(
        {**of_type(record_type), "applied_version": version},
        columns=("change_id", "executed_at"),
        order=("applied_version", "position"),
        limit=1,
    ):
        return op
    return None


async def verify(store: Store, record_type: Row) -> History:
    """Apply all ops to the first schema, and compare the results with every snapshot and reference."""
    replay = _Replay(record_type)
    first, last = 2, record_type["version"]
    while first <= last:
        versions = tuple(range(first, min(first + _VERSIONS, last + 1)))
        steps = await store.ops.find(
            {**of_type(record_type), "applied_version": versions}, columns=_STEP, order=("applied_version", "position")
        )
        taken = await _snapshots(store, record_type, versions[0] - 1, versions[-1] - 1)
        for version, ops in groupby(steps, itemgetter("applied_version")):
            replay.execute(version, list(ops), taken.get(version - 1, {}).values())
        first = versions[-1] + 1
        if not steps:
            # A forged version may be far ahead.
            above = await store.ops.find(
                of_type(record_type),
                above={"applied_version": versions[-1]},
                columns=("applied_version",),
                order=("applied_version", "position"),
                limit=1,
            )
            first = above[0]["applied_version"] if above else last + 1
    return replay.outcome()


async def _snapshots(store: Store, record_type: Row, first: int, last: int) -> dict[int, dict[str, Row]]:
    """Return the snapshots of a type between two versions, by version and by change."""
    found: dict[int, dict[str, Row]] = {}
    above = first - 1
    while above < last:
        page = await store.snapshots.find(
            of_type(record_type),
            above={"version": above},
            columns=("change_id", "version", "schema"),
            order=("version",),
            limit=_VERSIONS,
        )
        for snapshot in page:
            found.setdefault(snapshot["version"], {})[snapshot["change_id"]] = snapshot
        if not page:
            break
        # More snapshots of the last version of a page may follow, if some are forged.
        newest = page[-1]["version"]
        above = newest - 1 if len(page) > 1 and page[0]["version"] < newest < last else newest
    return found


class _Replay:
    """Applies the ops of a record type again, version by version, and collects the stored rows that differ."""

    def __init__(self, record_type: Row) -> None:
        self._type = record_type
        self._schema = Schema.from_document(record_type["initial_schema"])
        self._version = self._base = 1
        self._changes: set[str] = set()
        self._mismatches: list[str] = []
        self._ops = self._snapshots = 0

    def execute(self, version: int, ops: list[Row], snapshots: Iterable[Row]) -> None:
        """Apply the ops that led to a version; `snapshots` are those of the version before."""
        if version != self._version + 1:
            self._mismatches.append(f"the op {ops[0]['id']} led from version {self._version} to {version}")
        change = ops[0]["change_id"]
        for snapshot in snapshots:
            self._compare(snapshot, change)
        if change not in self._changes:
            self._mismatches.append(f"the change {change} has no snapshot of version {version - 1}")
        self._version = version
        for op in ops:
            self._ops += 1
            if op["previous_snapshot"] != schema_reference(self._base, self._schema):
                self._mismatches.append(f"the op {op['id']} refers to another schema than the ops before it give")
            try:
                self._schema = edit(to_op(op), self._schema)
            except OpRefused as refused:
                self._mismatches.append(f"the op {op['id']} cannot be applied again: {refused}")

    def _compare(self, snapshot: Row, change: str) -> None:
        self._snapshots += 1
        if snapshot["change_id"] != change:
            self._mismatches.append(f"the snapshot of the change {snapshot['change_id']} belongs to no op")
            return
        self._changes.add(change)
        if snapshot["schema"] is not None:
            self._base = snapshot["version"]
            if not _is_schema(snapshot["schema"], self._schema):
                self._mismatches.append(f"the snapshot of the change {change} is not what the ops before it give")

    def outcome(self) -> History:
        """Return the result, once all ops are applied."""
        row, mismatches = self._type, self._mismatches
        if self._schema != Schema.from_document(row["schema"]):
            mismatches.append("the schema is not what the ops give")
        if self._version != row["version"]:
            mismatches.append(f"the type is at version {row['version']}, its ops lead to {self._version}")
        if self._base != row["base_version"]:
            mismatches.append(f"the newest whole schema is of version {self._base}, not {row['base_version']}")
        return History(
            record_type_key=row["key"],
            versions=row["version"],
            ops=self._ops,
            snapshots=self._snapshots,
            is_intact=not mismatches,
            mismatches=tuple(mismatches),
        )


def _is_schema(document: Mapping[str, Any], schema: Schema) -> bool:
    """Return whether a stored schema is equal to this one. Equal JSON settles most cases."""
    return to_json(document) == to_json(schema.document()) or Schema.from_document(document) == schema
