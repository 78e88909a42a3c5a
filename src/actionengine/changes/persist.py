"""Last phase of an execution: persist the new schemas, snapshots, executed ops and edited files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from pydantic_core import to_json

from actionengine.changes.diff import TypeDiff
from actionengine.changes.files import FileStep, ProjectFiles, file_snapshot
from actionengine.changes.load import Loaded
from actionengine.changes.ops import PatchOp
from actionengine.changes.store import Store, schema_reference
from actionengine.changes.transform import Transformed
from actionengine.schemas.schema import Schema
from actionengine.storage.tables import Row

_MAX_BYTES = 2**31 - 1
"""The largest integer that every database stores."""

_ROW_BYTES = 400
"""Approximate bytes of an op's row without its payload."""


@dataclass(frozen=True)
class MergePlan:
    """The result of the first two phases, not yet written."""

    loaded: Loaded
    transformed: Transformed
    diff: tuple[TypeDiff, ...]
    edits: tuple[FileStep, ...] = ()

    @property
    def applied_count(self) -> int:
        """The number of applied ops."""
        return len(self.transformed.steps) + len(self.edits)

    @property
    def edited(self) -> tuple[str, ...]:
        """The paths of the edited files."""
        return tuple(sorted({step.op.file_path for step in self.edits}))

    @property
    def affected_types(self) -> list[str]:
        """The keys of the touched record types."""
        return [each.record_type_key for each in self.diff]


async def persist(store: Store, plan: MergePlan, files: ProjectFiles) -> None:
    """Write a plan: a snapshot and the new schema of each touched type, and the execution of each op. Files are written
    once the transaction has committed."""
    loaded, at = plan.loaded, await store.now()
    types, change = loaded.graph.types, loaded.change
    rows = await store.snapshots.find({"change_id": change["id"]}, columns=("record_type_key",))
    with_snapshot = {row["record_type_key"] for row in rows}
    bases = {key: _base(loaded.types[key], types[key].schema, key not in with_snapshot) for key in plan.affected_types}
    new_bytes = Counter[str]()
    for step in plan.transformed.steps:
        new_bytes[step.op.record_type or ""] += _stored_size(step.op)
    snapshots = [
        {
            "change_id": change["id"],
            "record_type_key": key,
            "project_id": change["project_id"],
            "version": types[key].version,
            "schema": types[key].schema.document() if bases[key].is_new else None,
            "created_at": at,
        }
        for key in plan.affected_types
        if key not in with_snapshot
    ]
    if snapshots:
        await store.snapshots.insert(snapshots)
    await store.record_types.update(
        [
            {
                "id": loaded.types[key]["id"],
                "schema": plan.transformed.schemas[key].document(),
                "version": types[key].version + 1,
                "base_version": bases[key].version,
                "bytes_since_base": min(bases[key].bytes_since + new_bytes[key], _MAX_BYTES),
                "changed_by": change["id"],
                "updated_at": at,
            }
            for key in plan.affected_types
        ]
    )
    await store.ops.update(
        [
            {
                "id": step.op.id,
                "previous_snapshot": schema_reference(bases[step.op.record_type or ""].version, step.before),
                "applied_version": types[step.op.record_type or ""].version + 1,
                "executed_at": at,
            }
            for step in plan.transformed.steps
        ]
        + [
            {
                "id": edit.op.id,
                "previous_snapshot": file_snapshot(edit),
                "applied_version": loaded.files[edit.op.file_path].version + 1,
                "executed_at": at,
            }
            for edit in plan.edits
        ]
    )
    if plan.edits:
        await files.save(loaded.files, plan.edits, change["id"], at)


def _stored_size(op: PatchOp) -> int:
    """Return the approximate bytes of a stored op."""
    return _ROW_BYTES + len(to_json(op.payload))


class _Base(NamedTuple):
    """The newest version of a type whose whole schema is stored, the bytes of the ops since, and whether this execution
    stores it."""

    version: int
    bytes_since: int
    is_new: bool = False


def _base(row: Row, schema: Schema, takes_snapshot: bool) -> _Base:
    """Return the base of the ops of this execution. The present schema becomes a new base once the ops since the last
    one have as many bytes: so stored schemas never have more bytes than ops."""
    base = _Base(row["base_version"], row["bytes_since_base"])
    if takes_snapshot and row["version"] > base.version and base.bytes_since >= schema.size:
        return _Base(row["version"], 0, is_new=True)
    return base
