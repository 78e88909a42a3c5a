"""Drafts a change: its rows, and the rules for its targets and ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from actionengine.changes.ops import PatchOp
from actionengine.changes.states import ACCEPTS_OPS, ACCEPTS_TARGETS
from actionengine.changes.store import Store, to_op
from actionengine.errors import ActionError, ErrorCode, conflict, not_found
from actionengine.storage.tables import Row

MAX_OPS = 1000
"""Ops of one change, including deleted ones."""

MAX_TARGETS = 1000
"""Targets of one change."""


async def create_change(
    store: Store, project_id: str, title: str, description: str, compensates: str | None = None, op_count: int = 0
) -> Row:
    """Insert and return a draft."""
    at = await store.now()
    change: Row = {
        "id": store.new_id(),
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
    """Add a target to a locked change. Raises `ActionError`: `conflict` if its status accepts none (G2, E1),
    `not_found` for a record type outside its project (P1)."""
    if change["status"] not in ACCEPTS_TARGETS:
        raise conflict(
            f"targets can be added to a Draft only, and the change is {change['status']}", status=change["status"]
        )
    if type == "record_type":
        await store.record_type(change["project_id"], selector["record_type_key"])
    there = await store.targets.find({"change_id": change["id"]}, columns=("id",), limit=MAX_TARGETS)
    if len(there) == MAX_TARGETS:
        raise _too_many("targets", MAX_TARGETS, change)
    target = target_row(store.new_id(), change, type, selector, await store.now())
    await store.targets.insert([target])
    return target


def _too_many(what: str, limit: int, change: Row) -> ActionError:
    return ActionError(
        ErrorCode.UNPROCESSABLE,
        f"the change {change['id']} has had {limit} {what}, the limit: continue in another change",
        {"limit": limit},
    )


async def insert_op(store: Store, change: Row, target_id: str | None, op: PatchOp) -> Row:
    """Add an op to a locked change.

    Raises `ActionError`: `conflict` if the change's status accepts none (G2, E1), or another pending op is on the same
    field (G1); `not_found` for a target of another change and a record type of another project (P1); `unprocessable`
    for a target that differs from the thing that the op edits.
    """
    if change["status"] not in ACCEPTS_OPS:
        raise conflict(
            f"{op}: a change that is {change['status']} accepts no ops", status=change["status"], op_type=op.op_type
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
    row = op_row(store.new_id(), change, target["id"], op, position, version, await store.now())
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
    """G1: no two pending ops of a change edit one field, or add one name."""
    for column, name in (("field", op.field), ("gives", op.resulting_field)):
        if name is None:
            continue
        pending = {"change_id": change["id"], "record_type_key": op.record_type, column: name, "executed_at": None}
        for other in await store.ops.find(pending, columns=("id", "op_type", "payload")):
            raise conflict(
                f"{op}: the pending op {other['id']} ({to_op(other)}) is on {name!r} too: delete it first",
                op_type=op.op_type,
                field=name,
                op_id=other["id"],
            )


def target_row(id: str, change: Row, type: str, selector: Mapping[str, Any], at: datetime) -> Row:
    """Return the row of a new target."""
    return {
        "id": id,
        "change_id": change["id"],
        "project_id": change["project_id"],
        "type": type,
        "selector": dict(selector),
        "created_at": at,
    }


def op_row(id: str, change: Row, target_id: str, op: PatchOp, position: int, version: int | None, at: datetime) -> Row:
    """Return the row of a new op; `version` is that of its record type."""
    return {
        "id": id,
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
