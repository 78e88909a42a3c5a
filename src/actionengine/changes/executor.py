"""The executor: Load, Transform, Persist, in one unit of work and a fixed number of statements, but for files, of which
each takes two more.

Locks are taken in one order: the change, then, by key, the record types that its ops name and those that derive from
them. Whoever touches a type, or derives a new one from it, holds a lock on it, so that what is read of its base types
afterwards stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from actionengine.changes.diff import TypeDiff, diff_schemas
from actionengine.changes.files import EditRefused, FileState, FileStep, ProjectFiles, edit_files, previous_snapshot
from actionengine.changes.ops import PatchOp
from actionengine.changes.replay import bytes_of, stamp
from actionengine.changes.store import Store, ancestors, descendants, to_op, to_type_state
from actionengine.changes.transform import GraphError, OpRefused, Transformed, TypeGraph, transform
from actionengine.errors import ActionError, ErrorCode
from actionengine.schemas.schema import Schema
from actionengine.storage.errors import SerializationFailure
from actionengine.storage.tables import Row


class ExecutionRefused(ActionError):
    """A change cannot be executed as it is: it, not the moment, is at fault."""


_SHOWN = 20
"""Conflicts that a refusal shows; it says how many there are."""

MAX_SNAPSHOT_BYTES = 64 * 1024 * 1024
"""Bytes, about, that the `previous_snapshot`s of the ops of one execution may have: the schema, or the file, as it was
before each."""

_MAX_BYTES = 2**31 - 1
"""The largest integer that every database has."""


@dataclass(frozen=True)
class Loaded:
    """What an execution of a change works on: its pending ops, with the times when they were added, the record types
    around them, and the files that they edit."""

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
        """The ops on files, but where files are not looked at."""
        return [op for op in self.pending if op.file_path in self.files]


@dataclass(frozen=True)
class MergePlan:
    """What an execution comes to."""

    loaded: Loaded
    transformed: Transformed
    diff: tuple[TypeDiff, ...]
    edits: tuple[FileStep, ...] = ()

    @property
    def applied_count(self) -> int:
        """How many ops were applied."""
        return len(self.transformed.steps) + len(self.edits)

    @property
    def edited(self) -> tuple[str, ...]:
        """The paths of the files that are edited."""
        return tuple(sorted({step.op.file_path for step in self.edits}))

    @property
    def affected_types(self) -> list[str]:
        """The keys of the record types that are touched."""
        return [each.record_type_key for each in self.diff]


async def load(store: Store, change: Row, lock: bool, files: ProjectFiles | None = None) -> Loaded:
    """Read the pending ops of a change and the record types around them; with `lock`, nobody else changes them. The
    files that they edit are read out of `files`; without it, ops on files are left aside.

    Raises `ActionError`: `conflict` where another change has touched the same field since an op was written,
    `unprocessable` for an op that does not fit its target, and for one on a file where the project has none,
    `unavailable` where files cannot be read.
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
    return Loaded(change, pending, types, TypeGraph(map(to_type_state, types.values())), states, added)


async def _files(files: ProjectFiles, change: Row, edits: Sequence[PatchOp]) -> Mapping[str, FileState]:
    try:
        return await files.load([op.file_path for op in edits])
    except ActionError as refusal:
        if refusal.code is ErrorCode.UNPROCESSABLE:
            raise unprocessable(change, edits[0], refusal.message) from None
        raise


async def _types(store: Store, project_id: str, keys: set[str], lock: bool) -> dict[str, Row]:
    """These record types, those that they inherit from, and those that inherit from them."""
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
            raise SerializationFailure("a record type was derived from one that a change touches: run it again")
    above = {base for key in below for base in ancestors(key, bases)} - below
    if above:
        rows += await store.record_types.find({"project_id": project_id, "key": tuple(sorted(above))}, order=("key",))
    return {row["key"]: row for row in rows}


def _check_target(change: Row, op: PatchOp, target: Row | None) -> None:
    """P1, P7: checked when the op was added, and again here."""
    if target is None or target["selector"] != op.selector:
        (wanted,) = op.selector.values()
        raise unprocessable(change, op, f"its target is not {wanted!r}")


async def _check_conflicts(store: Store, change: Row, ops: Sequence[Row], types: Mapping[str, Row]) -> None:
    """An op stops where another change has touched the same field since it was written."""
    # What is about no type of the project is refused by the transform, with the op.
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
        # Two renames may meet in both of their names: each other op is shown once.
        met = {other["id"]: other for name in names for other in by_field.get((op["record_type_key"], name), ())}
        conflicts += [
            (op, other["id"]) for other in met.values() if other["applied_version"] > op["record_type_version"]
        ]
    if conflicts:
        # Of the ops since, which may be many, the payloads of those that are shown.
        first, *_ = shown = await _shown_conflicts(store, conflicts[:_SHOWN])
        raise refused(
            change,
            ErrorCode.CONFLICT,
            f"{first['op']['summary']}: since the op {first['op']['id']} was written, the change "
            f"{first['since']['change_id']} has done {first['since']['summary']}. Look at both; delete the op, and add "
            f"it anew if it still holds",
            conflicts=shown,
            conflict_count=len(conflicts),
        )


async def _shown_conflicts(store: Store, conflicts: Sequence[tuple[Row, str]]) -> list[dict[str, Any]]:
    ids = tuple({id for _, id in conflicts})
    found = await store.ops.find({"id": ids}, columns=("id", "change_id", "op_type", "payload"))
    since = {op["id"]: _shown(op) for op in found}
    return [{"op": _shown(op), "since": since[id]} for op, id in conflicts]


def _shown(op: Row) -> dict[str, Any]:
    return {
        "id": op["id"],
        "change_id": op["change_id"],
        "op_type": op["op_type"],
        "payload": op["payload"],
        "summary": str(to_op(op)),
    }


def run(loaded: Loaded) -> MergePlan:
    """Transform: what the pending ops make of the record types and the files. Raises `ActionError(unprocessable)`
    with the op and the reason; `conflict` for a file that another change has edited since the op was written, so that
    it fits no longer."""
    edits: list[FileStep] = []
    try:
        edited = {op.record_type for op in loaded.on_types}
        for key, type in loaded.graph.types.items():
            if key in edited:
                # Measured once, so that the schemas after each op are measured by what the op has changed.
                type.schema.measure()
        transformed = transform(loaded.graph, loaded.on_types)
        stamps = sum(step.before.size for step in transformed.steps)
        _check_stamps(loaded, stamps)
        for step in edit_files(loaded.files, loaded.on_files):
            edits.append(step)
            stamps += len(step.before or "")
            _check_stamps(loaded, stamps)
    except OpRefused as refusal:
        raise unprocessable(loaded.change, refusal.op, refusal.reason) from None
    except EditRefused as refusal:
        raise _invalid_op_error(loaded, refusal) from None
    except GraphError as error:
        message = f"the record types would not hang together: {error}"
        raise refused(loaded.change, ErrorCode.UNPROCESSABLE, message) from None
    by_type: dict[str, list[PatchOp]] = {}
    for op in loaded.pending:
        if op.record_type is not None:
            by_type.setdefault(op.record_type, []).append(op)
    types, schemas = loaded.graph.types, transformed.schemas
    diff = tuple(
        diff_schemas(key, types[key].version, types[key].schema, schemas[key], by_type[key]) for key in sorted(by_type)
    )
    return MergePlan(loaded, transformed, diff, tuple(edits))


def _check_stamps(loaded: Loaded, size: int) -> None:
    if size > MAX_SNAPSHOT_BYTES:
        message = (
            f"{len(loaded.pending)} ops on schemas and files of this size have more than {MAX_SNAPSHOT_BYTES >> 20} MB "
            f"in what was before each: spread them over several changes"
        )
        raise refused(loaded.change, ErrorCode.UNPROCESSABLE, message)


def _invalid_op_error(loaded: Loaded, refusal: EditRefused) -> ExecutionRefused:
    op, error, change = refusal.op, refusal.error, loaded.change
    head = loaded.files[op.file_path].head
    details = {"op_id": op.id, "op_type": op.op_type, "file_path": op.file_path, "reason": error.message}
    where = {name: error.details[name] for name in ("hunk", "header", "expected", "found") if name in error.details}
    if head is None or head.change_id == change["id"] or head.executed_at <= loaded.added[op.id]:
        return refused(change, ErrorCode.UNPROCESSABLE, f"{op}: {error.message}", **details, **where)
    message = (
        f"{op}: since the op {op.id} was written, the change {head.change_id} has edited the file: {error.message}"
    )
    since = {"id": head.op_id, "change_id": head.change_id}
    return refused(change, ErrorCode.CONFLICT, message, **details, **where, since=since)


async def persist(store: Store, execution: MergePlan, files: ProjectFiles) -> None:
    """Write what a transform has made: of each touched type a snapshot, then the new schema; on each op a stamp. Files
    are written once the transaction has committed."""
    loaded, at = execution.loaded, await store.now()
    types, change = loaded.graph.types, loaded.change
    taken = await store.snapshots.find({"change_id": change["id"]}, columns=("record_type_key",))
    there = {row["record_type_key"] for row in taken}
    bases = {key: _base(loaded.types[key], types[key].schema, key not in there) for key in execution.affected_types}
    new_bytes = Counter[str]()
    for step in execution.transformed.steps:
        new_bytes[step.op.record_type or ""] += bytes_of(step.op)
    snapshots = [
        {
            "change_id": change["id"],
            "record_type_key": key,
            "project_id": change["project_id"],
            "version": types[key].version,
            "schema": types[key].schema.document() if bases[key].is_new else None,
            "created_at": at,
        }
        for key in execution.affected_types
        if key not in there
    ]
    if snapshots:
        await store.snapshots.insert(snapshots)
    await store.record_types.update(
        [
            {
                "id": loaded.types[key]["id"],
                "schema": execution.transformed.schemas[key].document(),
                "version": types[key].version + 1,
                "base_version": bases[key].version,
                "bytes_since_base": min(bases[key].bytes_since + new_bytes[key], _MAX_BYTES),
                "changed_by": change["id"],
                "updated_at": at,
            }
            for key in execution.affected_types
        ]
    )
    await store.ops.update(
        [
            {
                "id": step.op.id,
                "previous_snapshot": stamp(bases[step.op.record_type or ""].version, step.before),
                "applied_version": types[step.op.record_type or ""].version + 1,
                "executed_at": at,
            }
            for step in execution.transformed.steps
        ]
        + [
            {
                "id": edit.op.id,
                "previous_snapshot": previous_snapshot(edit),
                "applied_version": loaded.files[edit.op.file_path].version + 1,
                "executed_at": at,
            }
            for edit in execution.edits
        ]
    )
    if execution.edits:
        await files.save(loaded.files, execution.edits, change["id"], at)


class _Base(NamedTuple):
    """The newest version of a type whose whole schema is kept, the bytes of the ops since, and whether it is kept just
    now."""

    version: int
    bytes_since: int
    is_new: bool = False


def _base(row: Row, schema: Schema, takes_snapshot: bool) -> _Base:
    """Return the base of the ops that are executed now. It is the schema that they find, if the ops since the last base
    have as many bytes as it: so whole schemas have no more bytes than ops."""
    base = _Base(row["base_version"], row["bytes_since_base"])
    if takes_snapshot and row["version"] > base.version and base.bytes_since >= schema.size:
        return _Base(row["version"], 0, is_new=True)
    return base


def refused(change: Row, code: ErrorCode, message: str, **details: Any) -> ExecutionRefused:
    """The answer for a change that cannot be executed."""
    return ExecutionRefused(code, message, {"change_id": change["id"], **details})


def unprocessable(change: Row, op: PatchOp, reason: str) -> ExecutionRefused:
    """The answer for an op that cannot be applied."""
    return refused(
        change,
        ErrorCode.UNPROCESSABLE,
        f"{op}: {reason}",
        op_id=op.id,
        op_type=op.op_type,
        record_type=op.record_type,
        field=op.field,
        reason=reason,
    )
