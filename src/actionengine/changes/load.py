"""First phase of an execution: load the pending ops of a change, its record types and its files.

Locks are taken in one order: the change, then, by key, the record types that its ops name and those that derive from
them. Changing a type, or deriving a new one from it, takes a lock on it; so the base types stay as they are once the
locks are held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from actionengine.changes.files import FileState, ProjectFiles
from actionengine.changes.ops import PatchOp
from actionengine.changes.outcomes import refused, unprocessable
from actionengine.changes.store import Store, ancestors, descendants, to_op, to_type_state
from actionengine.changes.type_graph import TypeGraph
from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.errors import SerializationFailure
from actionengine.storage.tables import Row

_MAX_SHOWN_CONFLICTS = 20
"""Conflicts that an error lists; it always has their number."""


@dataclass(frozen=True)
class Loaded:
    """The input of an execution: the pending ops of a change, the times when they were added (by id), their record
    types with ancestors and descendants, and the files that they edit."""

    change: Row
    pending: Sequence[PatchOp]
    types: Mapping[str, Row]
    graph: TypeGraph
    files: Mapping[str, FileState] = field(default_factory=dict)
    added: Mapping[str, datetime] = field(default_factory=dict)

    @property
    def on_types(self) -> list[PatchOp]:
        """The ops on record types."""
        return [op for op in self.pending if op.record_type is not None]

    @property
    def on_files(self) -> list[PatchOp]:
        """The ops on loaded files."""
        return [op for op in self.pending if op.file_path in self.files]


async def load(store: Store, change: Row, lock: bool, files: ProjectFiles | None = None) -> Loaded:
    """Read the pending ops of a change, their record types with ancestors and descendants, and the files that they
    edit. `lock` locks the record types. Without `files`, ops on files are ignored.

    Raises `ActionError`: `conflict` if another change has touched the same field since an op was added,
    `unprocessable` for an op that does not fit its target, and for an op on a file if the project has no files,
    `unavailable` if files cannot be read.
    """
    project_id = change["project_id"]
    targets = {row["id"]: row for row in await store.targets.find({"change_id": change["id"]})}
    rows = await store.ops.find({"change_id": change["id"], "executed_at": None}, order=("position",))
    pending = [to_op(row) for row in rows]
    for row, op in zip(rows, pending, strict=True):
        _check_target(change, op, targets.get(row["target_id"]))
    keys = {row["record_type_key"] for row in rows if row["record_type_key"] is not None}
    types = await _types(store, project_id, keys, lock)
    await _check_conflicts(store, change, rows, types)
    edits = [op for op in pending if op.record_type is None]
    states = await _files(files, change, edits) if files is not None and edits else {}
    added = {row["id"]: row["created_at"] for row in rows}
    return Loaded(
        change=change,
        pending=pending,
        types=types,
        graph=TypeGraph(map(to_type_state, types.values())),
        files=states,
        added=added,
    )


async def _files(files: ProjectFiles, change: Row, edits: Sequence[PatchOp]) -> Mapping[str, FileState]:
    try:
        return await files.load([op.file_path for op in edits])
    except ActionError as refusal:
        if refusal.code is ErrorCode.UNPROCESSABLE:
            raise unprocessable(change, edits[0], refusal.message) from None
        raise


async def _types(store: Store, project_id: str, keys: set[str], lock: bool) -> dict[str, Row]:
    """Return these record types, their ancestors and their descendants."""
    if not keys:
        return {}
    bases = await store.bases(project_id, keys)
    below = keys | descendants(keys, bases)
    rows = await store.record_types.find(
        {"project_id": project_id, "key": tuple(sorted(below))}, order=("key",), lock=lock
    )
    if lock:
        bases = await store.bases(project_id, keys)
        if below != keys | descendants(keys, bases):
            raise SerializationFailure("a record type was derived from a type that the change touches: run it again")
    above = {base for key in below for base in ancestors(key, bases)} - below
    if above:
        rows += await store.record_types.find({"project_id": project_id, "key": tuple(sorted(above))}, order=("key",))
    return {row["key"]: row for row in rows}


def _check_target(change: Row, op: PatchOp, target: Row | None) -> None:
    """P1, P7: the target of an op exists, and is about the thing that the op edits."""
    if target is None or target["selector"] != op.selector:
        (wanted,) = op.selector.values()
        raise unprocessable(change, op, f"its target is not {wanted!r}")


async def _check_conflicts(store: Store, change: Row, ops: Sequence[Row], types: Mapping[str, Row]) -> None:
    """Refuse an op if another change has touched the same field since it was added."""
    # The transform refuses an op on an unknown type.
    stale = [
        op
        for op in ops
        if (type := types.get(op["record_type_key"])) is not None and type["version"] > op["record_type_version"]
    ]
    if not stale:
        return
    since = await store.ops.find(
        {
            "project_id": change["project_id"],
            "record_type_key": tuple(sorted({op["record_type_key"] for op in stale})),
        },
        above={"applied_version": min(op["record_type_version"] for op in stale)},
        columns=("id", "change_id", "record_type_key", "field", "gives", "applied_version"),
        order=("applied_version", "position"),
    )
    by_field: dict[tuple[str, str], list[Row]] = {}
    for other in since:
        if other["change_id"] != change["id"]:
            for name in {other["field"], other["gives"]} - {None}:
                by_field.setdefault((other["record_type_key"], name), []).append(other)
    conflicts: list[tuple[Row, str]] = []
    for op in stale:
        names = sorted(to_op(op).affected_fields)
        # Two renames may conflict by both of their names: list each other op once.
        met = {other["id"]: other for name in names for other in by_field.get((op["record_type_key"], name), ())}
        conflicts += [
            (op, other["id"]) for other in met.values() if other["applied_version"] > op["record_type_version"]
        ]
    if conflicts:
        # Many ops may have come since: read the payloads of the listed ones only.
        first, *_ = shown = await _shown_conflicts(store, conflicts[:_MAX_SHOWN_CONFLICTS])
        raise refused(
            change,
            ErrorCode.CONFLICT,
            f"{first['op']['summary']}: since the op {first['op']['id']} was added, the change "
            f"{first['since']['change_id']} has executed {first['since']['summary']}: compare both, delete the op, and "
            f"add it again if it still applies",
            conflicts=shown,
            conflict_count=len(conflicts),
        )


async def _shown_conflicts(store: Store, conflicts: Sequence[tuple[Row, str]]) -> list[dict[str, Any]]:
    ids = tuple({id for _, id in conflicts})
    found = await store.ops.find({"id": ids}, columns=("id", "change_id", "op_type", "payload"))
    since = {op["id"]: _summary(op) for op in found}
    return [{"op": _summary(op), "since": since[id]} for op, id in conflicts]


def _summary(op: Row) -> dict[str, Any]:
    return {
        "id": op["id"],
        "change_id": op["change_id"],
        "op_type": op["op_type"],
        "payload": op["payload"],
        "summary": str(to_op(op)),
    }
