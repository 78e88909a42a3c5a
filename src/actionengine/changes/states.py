"""The life of a change: its states and transitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

ChangeStatus = Literal["Draft", "Implementing", "WorkspaceRunning", "Validating", "ValidationFailed", "Ready", "Merged"]
STATUSES: tuple[str, ...] = get_args(ChangeStatus)

TRANSITIONS: Mapping[str, frozenset[str]] = {
    "Draft": frozenset({"Implementing", "Validating", "Merged"}),
    "Implementing": frozenset({"WorkspaceRunning", "Validating", "Draft"}),
    "WorkspaceRunning": frozenset({"Validating", "Implementing"}),
    "Validating": frozenset({"Ready", "ValidationFailed"}),
    "ValidationFailed": frozenset({"Implementing", "Validating"}),
    "Ready": frozenset({"Merged", "ValidationFailed"}),
    "Merged": frozenset(),
}

ACCEPTS_TARGETS = frozenset({"Draft"})
ACCEPTS_OPS = frozenset({"Draft", "Implementing", "WorkspaceRunning", "ValidationFailed"})


def can_transition(status: str, to: str, require_review: bool) -> bool:
    """Return whether a change may move to another state. A draft can be merged only if no review is required."""
    if status == "Draft" and to == "Merged":
        return not require_review
    return to in TRANSITIONS[status]
