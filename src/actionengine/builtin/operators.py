"""The role of operators: they look after the tenants of a host, and approve nothing by it."""

from __future__ import annotations

from typing import Final

from actionengine.authorization.rules import Role
from actionengine.builtin import action_log, approvals, budgets

OPERATOR: Final = "operator"
"""The name of the role, for `Actor.roles`."""

OPERATOR_PERMISSIONS: Final = (
    action_log.READ_PERMISSION,
    approvals.READ_PERMISSION,
    budgets.READ_PERMISSION,
    "changes.read",
    "relay.read",
    "relay.redrive",
    "relay.skip",
    "workflows.read",
    "workflows.manage",
)
"""The permissions of the role: to read the log, approvals, budgets, changes, runs and dead letters, to redrive and skip
dead letters, and to resume and cancel runs. An approver needs the permission of the approval's policy besides."""

OPERATOR_ROLE: Final = Role(allow=OPERATOR_PERMISSIONS)
"""The role, for `StaticAuthorizer({"operator": OPERATOR_ROLE})`."""
