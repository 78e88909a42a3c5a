"""The life of a change: its states, and where it may go from each."""

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
    """Whether a change may go from a state to another one (to stay is not to go): from Draft it is merged only where
    nobody has to review."""
    if status == "Draft" and to == "Merged":
        return not require_review
    return to in TRANSITIONS[status]
