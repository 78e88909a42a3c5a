"""Drafts the change that takes back another one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from actionengine.boundary.files.unified_diff import unified_diff
from actionengine.changes.compensation.way_back import SchemaConflict, TouchedType, compensation
from actionengine.changes.drafts import create_change, op_row, target_row
from actionengine.changes.files import EditRefused, ProjectFiles, edit_files, hunk_details, text_after
from actionengine.changes.models import Compensation, FieldOfType
from actionengine.changes.ops import PatchOp
from actionengine.changes.replay import of_type, schema_of_version
from actionengine.changes.store import Store, ancestors, descendants, to_op, to_type_state
from actionengine.changes.transform import OpRefused
from actionengine.changes.type_graph import TypeGraph
from actionengine.errors import ActionError, ErrorCode, conflict
from actionengine.schemas.schema import Field, Schema
from actionengine.storage.tables import Row

_MAX_LISTED_FIELDS = 20
"""Fields that the description of a compensation lists."""


async def draft_compensation(store: Store, change: Row, title: str | None, files: ProjectFiles) -> Compensation:
    """Return a new change whose ops take back the given one, with the fields whose contents do not come back.

    Raises `ActionError`: `conflict` if the change has executed nothing, or another change has since touched the same
    fields or the same places of a file; `unprocessable` if it cannot be taken back.
    """
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
    targets = {key: target_row(store.new_id(), draft, "record_type", {"record_type_key": key}, at) for key in keys}
    of_files = {path: target_row(store.new_id(), draft, "file", {"file_path": path}, at) for path in paths}
    await store.targets.insert([*targets.values(), *of_files.values()])
    drafted = []
    named = Counter[tuple[str, str | None]]()
    for position, op in enumerate(planned, 1):
        assert op.record_type is not None
        target_id, version = targets[op.record_type]["id"], types[op.record_type]["version"]
        row = op_row(store.new_id(), draft, target_id, op, position, version, at)
        # G1 allows another op on a name after an earlier op has taken it from another field: in the next turn.
        row["turn"] = named[op.record_type, op.field]
        named[op.record_type, op.field] += 1
        drafted.append(row)
    drafted += [
        op_row(store.new_id(), draft, of_files[op.file_path]["id"], op, position, None, at)
        for position, op in enumerate(edits, len(planned) + 1)
    ]
    if drafted:
        await store.ops.insert(drafted)
    return Compensation(**draft, removes=tuple(removes), restores_empty=tuple(restores_empty))


def _removes(op: PatchOp) -> bool:
    return op.op_type == "remove_field"


def _description(change: Row, removes: Sequence[FieldOfType], restores_empty: Sequence[FieldOfType]) -> str:
    sentences = [f"Takes back the change {change['id']}."]
    if removes:
        sentences.append(f"Removes these fields with their contents: {_listed(removes)}.")
    if restores_empty:
        sentences.append(f"Restores these fields without their contents: {_listed(restores_empty)}.")
    return " ".join(sentences)


def _listed(fields: Sequence[FieldOfType]) -> str:
    shown = ", ".join(f"{each.record_type_key}.{each.field}" for each in fields[:_MAX_LISTED_FIELDS])
    return shown if len(fields) <= _MAX_LISTED_FIELDS else f"{shown} and {len(fields) - _MAX_LISTED_FIELDS} more"


async def _edits_back(executed: Sequence[Row], files: ProjectFiles) -> list[PatchOp]:
    """Return ops that take back these edits of files: one for each run of edits without a foreign edit between."""
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
                **{name: value for name, value in hunk_details(refused.error).items() if name in ("hunk", "header")},
            ) from None
    return back


async def _touched(store: Store, type: Row, version: int, ops: Sequence[Row]) -> TouchedType:
    """Return the effect of a change on a type, which had `version` before it, and the later ops of other changes."""
    versions = sorted({op["applied_version"] for op in ops})
    if versions[-1] - version != len(versions):
        raise ActionError(
            ErrorCode.UNPROCESSABLE,
            f"{type['key']!r}: other changes lie between the executions of this one, so that it cannot be taken back",
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
            f"the change cannot be taken back in the present state: {refused}",
            {"record_type": refused.op.record_type, "field": refused.op.field, "reason": refused.reason},
        ) from None


def _shown(field: Field | None) -> dict[str, Any] | None:
    return dict(field.definition) if field is not None else None
