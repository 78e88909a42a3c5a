"""Refusals to execute a change."""

from __future__ import annotations

from typing import Any

from actionengine.changes.ops import PatchOp
from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.tables import Row


class ExecutionRefused(ActionError):
    """The error for a change that cannot be executed as it is: trying again does not help."""


def refused(change: Row, code: ErrorCode, message: str, **details: Any) -> ExecutionRefused:
    """Return the error for a change that cannot be executed."""
    return ExecutionRefused(code, message, {"change_id": change["id"], **details})


def unprocessable(change: Row, op: PatchOp, reason: str) -> ExecutionRefused:
    """Return the error for an op that cannot be applied."""
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
