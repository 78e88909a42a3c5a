"""The role of operators: they look after the tenants of a host, and approve nothing by it."""

from __future__ import annotations

from typing import Final

from actionengine.authorization.rules import Role
from actionengine.builtin import action_log, approvals, budgets, relay

OPERATOR: Final = "operator"
"""The name of the role, for `Actor.roles`."""

OPERATOR_PERMISSIONS: Final = (
    action_log.READ_PERMISSION,
    approvals.READ_PERMISSION,
    budgets.READ_PERMISSION,
    "changes.read",
    relay.READ_PERMISSION,
    relay.REDRIVE_PERMISSION,
    relay.SKIP_PERMISSION,
    "workflows.read",
    "workflows.manage",
)
"""The permissions of the role. An approver needs the permission of the approval's policy besides."""


def operator_role() -> Role:
    """Return the role of operators, which looks after a tenant and approves nothing.

    It reads the action log, approvals, budgets, changes, runs and dead letters, redrives and skips dead letters, and
    resumes and cancels runs. A host with roles in code declares it: `StaticAuthorizer({"operator": operator_role()})`.
    With roles in storage, a host gives an operator the permissions of these rules, as `Actor.permissions`.
    """
    return Role(allow=OPERATOR_PERMISSIONS)
