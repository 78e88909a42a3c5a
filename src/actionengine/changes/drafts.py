"""Drafting a change: its rows, and the rules for what may be added to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from actionengine.boundary.files.unified_diff import unified_diff
from actionengine.changes.compensation import SchemaConflict, TouchedType, compensation
from actionengine.changes.files import EditRefused, ProjectFiles, edit_files, text_after
from actionengine.changes.models import Compensation, FieldOfType
from actionengine.changes.ops import PatchOp
from actionengine.changes.replay import of_type, schema_of_version
from actionengine.changes.states import ACCEPTS_OPS, ACCEPTS_TARGETS
from actionengine.changes.store import Store, ancestors, descendants, to_op, to_type_state
from actionengine.changes.transform import OpRefused, TypeGraph
from actionengine.errors import ActionError, ErrorCode, conflict, not_found
from actionengine.schemas.schema import Field, Schema
from actionengine.storage.records import new_id
from actionengine.storage.tables import Row

MAX_OPS = 1000
"""Ops of one change, those that were deleted included."""

MAX_TARGETS = 1000
"""Targets of one change."""

_MAX_LISTED_FIELDS = 20
"""Fields that the description of a compensation names."""


async def create_change(
    store: Store, project_id: str, title: str, description: str, compensates: str | None = None, op_count: int = 0
) -> Row:
    """A draft."""
    at = await store.now()
    change: Row = {
        "id": new_id(),
        "project_id": project_id,
        "title": title,
        "description": description,
        "status": "Draft",
        "compensates": compensates,
        "op_count": op_count,
        "created_at": at,
        "updated_at": at,
        "merged_at": None,
    }
    await store.changes.insert([change])
    return change


async def insert_target(store: Store, change: Row, type: str, selector: Mapping[str, Any]) -> Row:
    """Add a target to a change that is locked. Raises `ActionError`: `conflict` where it takes none (G2, E1),
    `not_found` for a record type that is not in its project (P1)."""
    if change["status"] not in ACCEPTS_TARGETS:
        raise conflict(
            f"targets are added while a change is Draft, and this one is {change['status']}", status=change["status"]
        )
    if type == "record_type":
        await store.record_type(change["project_id"], selector["record_type_key"])
    there = await store.targets.find({"change_id": change["id"]}, columns=("id",), limit=MAX_TARGETS)
    if len(there) == MAX_TARGETS:
        raise _too_many("targets", MAX_TARGETS, change)
    target = _target(change, type, selector, await store.now())
    await store.targets.insert([target])
    return target


def _too_many(what: str, limit: int, change: Row) -> ActionError:
    return ActionError(
        ErrorCode.UNPROCESSABLE,
        f"the change {change['id']} has had {limit} {what}, as many as it may have: go on in another change",
        {"limit": limit},
    )


async def insert_op(store: Store, change: Row, target_id: str | None, op: PatchOp) -> Row:
    """Add an op to a change that is locked.

    Raises `ActionError`: `conflict` where the change takes none (G2, E1) or another pending op is on the same field
    (G1), `not_found` for a target that is not the change's and a record type that is not its project's (P1),
    `unprocessable` where the target is another thing than the op's.
    """
    if change["status"] not in ACCEPTS_OPS:
        raise conflict(
            f"{op}: a change that is {change['status']} takes no op", status=change["status"], op_type=op.op_type
        )
    targets = await store.targets.find(
        {"change_id": change["id"]} | ({"id": target_id} if target_id is not None else {})
    )
    if target_id is not None and not targets:
        raise not_found("target", target_id, change_id=change["id"])
    version = None
    if op.record_type is not None:
        version = (await store.record_type(change["project_id"], op.record_type))["version"]
    target = _target_of(op, targets, target_id is not None)
    await _check_others(store, change, op)
    position = change["op_count"] + 1
    if position > MAX_OPS:
        raise _too_many("ops", MAX_OPS, change)
    row = _op(change, target["id"], op, position, version, await store.now())
    await store.ops.insert([row])
    await store.changes.update([{"id": change["id"], "op_count": position, "updated_at": row["created_at"]}])
    return row


def _target_of(op: PatchOp, targets: Sequence[Row], is_named: bool) -> Row:
    wanted = op.selector
    for target in targets:
        if target["selector"] == wanted:
            return target
    problem = f"the target is {targets[0]['selector']}, not {wanted}" if is_named else f"add the target {wanted} first"
    raise ActionError(ErrorCode.UNPROCESSABLE, f"{op}: {problem}", {"op_type": op.op_type, "field": op.field})


async def _check_others(store: Store, change: Row, op: PatchOp) -> None:
    """G1: no two pending ops of a change on one field, and no two that give one name."""
    for column, name in (("field", op.field), ("gives", op.resulting_field)):
        if name is None:
            continue
        pending = {"change_id": change["id"], "record_type_key": op.record_type, column: name, "executed_at": None}
        for other in await store.ops.find(pending, columns=("id", "op_type", "payload")):
            raise conflict(
                f"{op}: the pending op {other['id']} ({to_op(other)}) is about {name!r} too",
                op_type=op.op_type,
                field=name,
                op_id=other["id"],
            )


async def draft_compensation(store: Store, change: Row, title: str | None, files: ProjectFiles) -> Compensation:
    """Return a new change, whose ops take back what one has done, with the fields whose contents do not come back.

    Raises `ActionError`: `conflict` where nothing has been executed, or another change has touched the same fields,
    or what stood in the same places of a file, since; `unprocessable` where it cannot be taken back."""
    executed = await store.ops.find({"change_id": change["id"]}, above={"applied_version": 0}, order=("position",))
    if not executed:
        raise conflict(f"the change {change['id']!r} has executed nothing: there is nothing to take back")
    edits = await _edits_back([op for op in executed if op["record_type_key"] is None], files)
    paths = sorted({op["payload"]["file_path"] for op in executed if op["record_type_key"] is None})
    ops = [op for op in executed if op["record_type_key"] is not None]
    project_id, keys = change["project_id"], sorted({op["record_type_key"] for op in ops})
    bases = await store.bases(project_id, keys)
    related = {*keys, *descendants(keys, bases), *(base for key in keys for base in ancestors(key, bases))}
    rows = await store.record_types.find({"project_id": project_id, "key": tuple(sorted(related))})
    types = {row["key"]: row for row in rows}
    taken = await store.snapshots.find({"change_id": change["id"]}, columns=("record_type_key", "version"))
    snapshots = {row["record_type_key"]: row["version"] for row in taken}
    touched = {}
    for key in keys:
        own = [op for op in ops if op["record_type_key"] == key]
        touched[key] = await _touched(store, types[key], snapshots[key], own)
    planned = _planned(TypeGraph(map(to_type_state, rows)), touched)
    removes = [FieldOfType(record_type_key=op.record_type, field=op.field) for op in planned if _removes(op)]
    restores_empty = [
        FieldOfType(record_type_key=key, field=name) for key, each in touched.items() for name in each.removed
    ]
    draft = await create_change(
        store,
        project_id,
        title or f"Compensation: {change['title']}"[:200],
        _description(change, removes, restores_empty),
        compensates=change["id"],
        op_count=len(planned) + len(edits),
    )
    at = draft["created_at"]
    targets = {key: _target(draft, "record_type", {"record_type_key": key}, at) for key in keys}
    of_files = {path: _target(draft, "file", {"file_path": path}, at) for path in paths}
    await store.targets.insert([*targets.values(), *of_files.values()])
    drafted = []
    named = Counter[tuple[str, str | None]]()
    for position, op in enumerate(planned, 1):
        assert op.record_type is not None
        row = _op(draft, targets[op.record_type]["id"], op, position, types[op.record_type]["version"], at)
        # For G1, a name has another turn once an earlier op has taken it from another field.
        row["turn"] = named[op.record_type, op.field]
        named[op.record_type, op.field] += 1
        drafted.append(row)
    drafted += [
        _op(draft, of_files[op.file_path]["id"], op, position, None, at)
        for position, op in enumerate(edits, len(planned) + 1)
    ]
    if drafted:
        await store.ops.insert(drafted)
    return Compensation(**draft, removes=tuple(removes), restores_empty=tuple(restores_empty))


def _removes(op: PatchOp) -> bool:
    return op.op_type == "remove_field"


def _description(change: Row, removes: Sequence[FieldOfType], restores_empty: Sequence[FieldOfType]) -> str:
    sentences = [f"Takes back what the change {change['id']} has done."]
    if removes:
        sentences.append(f"Removes what that change added, with what documents have in it: {_listed(removes)}.")
    if restores_empty:
        sentences.append(
            f"Does not bring back what documents had in what that change removed: {_listed(restores_empty)}."
        )
    return " ".join(sentences)


def _listed(fields: Sequence[FieldOfType]) -> str:
    shown = ", ".join(f"{each.record_type_key}.{each.field}" for each in fields[:_MAX_LISTED_FIELDS])
    return shown if len(fields) <= _MAX_LISTED_FIELDS else f"{shown} and {len(fields) - _MAX_LISTED_FIELDS} more"


async def _edits_back(executed: Sequence[Row], files: ProjectFiles) -> list[PatchOp]:
    """The ops that take back these edits of files: one for each run of edits that nobody else's came between."""
    runs: dict[str, list[tuple[str | None, str | None]]] = {}
    for op in executed:
        stamp, after = op["previous_snapshot"], text_after(op)
        own = runs.setdefault(stamp["file_path"], [])
        if own and own[-1][1] == stamp["text"]:
            own[-1] = (own[-1][0], after)
        else:
            own.append((stamp["text"], after))
    back = [
        PatchOp("edit_file", {"file_path": path, "diff": unified_diff(after, before, path)})
        for path in sorted(runs)
        for before, after in reversed(runs[path])
        if before != after
    ]
    if back:
        states = await files.load([op.file_path for op in back])
        try:
            tuple(edit_files(states, back))
        except EditRefused as refused:
            raise conflict(
                f"{refused.op.file_path!r} has changed since: take back the later change first, or edit it by hand "
                f"({refused.error.message})",
                file_path=refused.op.file_path,
                **{name: refused.error.details[name] for name in ("hunk", "header") if name in refused.error.details},
            ) from None
    return back


async def _touched(store: Store, type: Row, version: int, ops: Sequence[Row]) -> TouchedType:
    """Return what a change has done to a type, which it found at a version, and what others have done to it since."""
    versions = sorted({op["applied_version"] for op in ops})
    if versions[-1] - version != len(versions):
        raise ActionError(
            ErrorCode.UNPROCESSABLE,
            f"{type['key']!r}: other changes came between the executions of this one, so that it cannot be taken back",
            {"record_type": type["key"]},
        )
    before = await schema_of_version(store, of_type(type), version)
    after, since = Schema.from_document(type["schema"]), list[Row]()
    if type["version"] > versions[-1]:
        after = await schema_of_version(store, of_type(type), versions[-1])
        since = await store.ops.find(
            {"project_id": type["project_id"], "record_type_key": type["key"]},
            above={"applied_version": versions[-1]},
            columns=("id", "op_type", "payload"),
            order=("applied_version", "position"),
        )
    return TouchedType(before, after, list(map(to_op, ops)), list(map(to_op, since)))


def _planned(graph: TypeGraph, touched: Mapping[str, TouchedType]) -> tuple[PatchOp, ...]:
    try:
        return compensation(graph, touched)
    except SchemaConflict as changed:
        raise conflict(
            f"{changed.key}.{changed.field} has changed since: take back the later change first, or edit it by hand",
            record_type=changed.key,
            field=changed.field,
            then=_shown(changed.then),
            now=_shown(changed.now),
        ) from None
    except OpRefused as refused:
        raise ActionError(
            ErrorCode.UNPROCESSABLE,
            f"this cannot be taken back as things are: {refused}",
            {"record_type": refused.op.record_type, "field": refused.op.field, "reason": refused.reason},
        ) from None


def _shown(field: Field | None) -> dict[str, Any] | None:
    return dict(field.definition) if field is not None else None


def _target(change: Row, type: str, selector: Mapping[str, Any], at: datetime) -> Row:
    return {
        "id": new_id(),
        "change_id": change["id"],
        "project_id": change["project_id"],
        "type": type,
        "selector": dict(selector),
        "created_at": at,
    }


def _op(change: Row, target_id: str, op: PatchOp, position: int, version: int | None, at: datetime) -> Row:
    return {
        "id": new_id(),
        "change_id": change["id"],
        "project_id": change["project_id"],
        "target_id": target_id,
        "position": position,
        "op_type": op.op_type,
        "payload": dict(op.payload),
        "record_type_key": op.record_type,
        "field": op.field,
        "gives": op.resulting_field,
        "record_type_version": version,
        "applied_version": None,
        "previous_snapshot": None,
        "executed_at": None,
        "created_at": at,
        "turn": 0,
    }
