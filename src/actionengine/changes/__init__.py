"""Change control: a tenant's record types evolve through changes, patch ops and snapshots.

`change_control_services()` returns the services `projects`, `record_types` and `changes`, for
`create_engine(services=…)`. They require the permissions of `ChangeControlPermissions`:

    create_engine(services=[*change_control_services(), jobs], storage=storage)

The host may name other permissions, and require an approval of each merge:

    change_control_services(
        permissions=ChangeControlPermissions(merge="shop.merge"), merge_approval=ApprovalPolicy(…)
    )

With the modules of projects, changes also edit files, and are tried in working copies:

    change_control_services(modules=project_modules(ModuleRoots("/srv/modules")), workspaces="/srv/workspaces")
"""

from __future__ import annotations

import os
from pathlib import Path

from actionengine.actions import ApprovalPolicy, Service
from actionengine.builtin.permissions import choose_permissions
from actionengine.changes.diff import ChangedField, RenamedField, TypeDiff
from actionengine.changes.files import FileSettings, ProjectModules, project_modules
from actionengine.changes.merge import (
    CHANGE_EXECUTED,
    CHANGE_MERGED,
    RECORD_TYPE_CHANGED,
    ChangeApplied,
    RecordTypeChanged,
)
from actionengine.changes.models import (
    Applied,
    Change,
    Compensation,
    DocumentCheck,
    FieldOfType,
    FileDiff,
    History,
    InvalidDocument,
    OpPreview,
    Preview,
    Project,
    RecordType,
    SchemaAt,
    Snapshot,
    StoredPatchOp,
    Target,
    Transitions,
    Workspace,
    WorkspaceView,
    WrittenFile,
    WrittenFiles,
)
from actionengine.changes.permissions import NO_PERMISSIONS, ChangeControlPermissions
from actionengine.changes.services.changes import changes_service
from actionengine.changes.services.projects import projects_service
from actionengine.changes.services.record_types import record_types_service
from actionengine.changes.workspaces import workspace_module
from actionengine.errors import ConfigurationError


def change_control_services(
    *,
    permissions: ChangeControlPermissions | None = None,
    open: bool = False,
    merge_approval: ApprovalPolicy | None = None,
    modules: ProjectModules | None = None,
    workspaces: str | os.PathLike[str] | None = None,
) -> tuple[Service, ...]:
    """Return the services `projects`, `record_types` and `changes`.

    Args:
        permissions: the required permissions; `ChangeControlPermissions()` by default.
        open: whether no permission is required, so that every actor of the tenant may merge. Actions that are
            forbidden to an AI stay forbidden.
        merge_approval: the policy of an approval before a change is merged or executed (its `when` gets an input with
            a `change_id`).
        modules: returns the module with the files of a project (see `project_modules`). Without it, a change with a
            pending `edit_file` op cannot be executed.

            Files are written after the commit. If a crash comes between the two, the action
            `changes.write_files {change_id}` writes them. To run it automatically, subscribe it, with a relay:

                subscriptions.subscribe(
                    CHANGE_MERGED,
                    "changes.write_files",
                    actor=Actor.workflow("files", permissions=["changes.merge"]),
                    payload=lambda event: {"change_id": event.payload["change_id"]},
                )

            and the same for `CHANGE_EXECUTED`.
        workspaces: the folder of the working copies in which changes are tried, as `<tenant id>/<change id>`.

    Raises:
        ConfigurationError: for `workspaces` without `modules`, `permissions` together with `open=True`, and
            `permissions` of another type.
    """
    asked = choose_permissions("change_control_services", permissions, open, ChangeControlPermissions(), NO_PERMISSIONS)
    if workspaces is not None and modules is None:
        raise ConfigurationError("workspaces are copies of modules: give modules=… to change_control_services too")
    settings = FileSettings(modules, Path(os.path.abspath(workspaces)) if workspaces is not None else None)
    return (
        projects_service(asked),
        record_types_service(asked),
        changes_service(asked, merge_approval, settings),
    )


__all__ = [
    "CHANGE_EXECUTED",
    "CHANGE_MERGED",
    "RECORD_TYPE_CHANGED",
    "Applied",
    "Change",
    "ChangeApplied",
    "ChangeControlPermissions",
    "ChangedField",
    "Compensation",
    "DocumentCheck",
    "FieldOfType",
    "FileDiff",
    "History",
    "InvalidDocument",
    "OpPreview",
    "Preview",
    "Project",
    "ProjectModules",
    "RecordType",
    "RecordTypeChanged",
    "RenamedField",
    "SchemaAt",
    "Snapshot",
    "StoredPatchOp",
    "Target",
    "Transitions",
    "TypeDiff",
    "Workspace",
    "WorkspaceView",
    "WrittenFile",
    "WrittenFiles",
    "change_control_services",
    "project_modules",
    "workspace_module",
]
