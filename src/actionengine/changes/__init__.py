"""Change control: a tenant's record types evolve through changes, patch ops and snapshots.

`change_control_services` are the services `projects`, `record_types` and `changes`, for `create_engine(services=…)`:

    create_engine(services=[*change_control_services, jobs], storage=storage)

As they stand they are open to every actor of the tenant, but for what no AI may do. Called, they ask for permissions,
and for a second person before a merge:

    change_control_services(permissions=ChangeControlPermissions(), merge_approval=ApprovalPolicy(…))
"""

from __future__ import annotations

from actionengine.actions import ApprovalPolicy, Service
from actionengine.changes.applying import CHANGED as RECORD_TYPE_CHANGED
from actionengine.changes.applying import EXECUTED as CHANGE_EXECUTED
from actionengine.changes.applying import MERGED as CHANGE_MERGED
from actionengine.changes.applying import ChangeApplied, RecordTypeChanged
from actionengine.changes.changes import changes_service
from actionengine.changes.difference import ChangedField, RenamedField, TypeDiff
from actionengine.changes.models import (
    Applied,
    Change,
    DocumentCheck,
    History,
    Misfit,
    Preview,
    Project,
    RecordType,
    SchemaAt,
    Snapshot,
    StoredPatchOp,
    Target,
)
from actionengine.changes.permissions import NO_PERMISSIONS, ChangeControlPermissions
from actionengine.changes.projects import projects_service
from actionengine.changes.record_types import record_types_service


class ChangeControlServices(tuple[Service, ...]):
    """The services of change control: a tuple of them, and, called, the same with other demands on actors."""

    __slots__ = ()

    def __call__(
        self,
        *,
        permissions: ChangeControlPermissions = NO_PERMISSIONS,
        merge_approval: ApprovalPolicy | None = None,
    ) -> ChangeControlServices:
        """The services, asking for these permissions, and for an approval before a change is merged or executed, where
        the policy applies (its `when` gets an input with a `change_id`)."""
        return ChangeControlServices(
            (
                projects_service(permissions),
                record_types_service(permissions),
                changes_service(permissions, merge_approval),
            )
        )


change_control_services = ChangeControlServices()()
"""The services `projects`, `record_types` and `changes`; called, they ask for permissions."""

__all__ = [
    "CHANGE_EXECUTED",
    "CHANGE_MERGED",
    "RECORD_TYPE_CHANGED",
    "Applied",
    "Change",
    "ChangeApplied",
    "ChangeControlPermissions",
    "ChangeControlServices",
    "ChangedField",
    "DocumentCheck",
    "History",
    "Misfit",
    "Preview",
    "Project",
    "RecordType",
    "RecordTypeChanged",
    "RenamedField",
    "SchemaAt",
    "Snapshot",
    "StoredPatchOp",
    "Target",
    "TypeDiff",
    "change_control_services",
]
