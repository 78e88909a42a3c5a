"""Change control: a tenant's record types evolve through changes, patch ops and snapshots.

`change_control_services()` gives the services `projects`, `record_types` and `changes`, for
`create_engine(services=…)`. They ask for the permissions of `ChangeControlPermissions`:

    create_engine(services=[*change_control_services(), jobs], storage=storage)

The host may name other permissions, and ask for a second person before a merge:

    change_control_services(
        permissions=ChangeControlPermissions(merge="shop.merge"), merge_approval=ApprovalPolicy(…)
    )

Told where the files of projects lie, they edit these too, and keep working copies in which a change is tried:

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
        permissions: what they ask for; `ChangeControlPermissions()` by default.
        open: whether they ask for no permission, so that every actor of the tenant may merge. What no AI may do, no AI
            may do here either.
        merge_approval: an approval that is asked for before a change is merged or executed, where the policy
            applies (its `when` gets an input with a `change_id`).
        modules: says which module has the files of a project (see `project_modules`). Without it, a change with a
            pending `edit_file` op cannot be executed.

            Files are written after the commit. What a crash between the two has left out, the action
            `changes.write_files {change_id}` writes; hosts that want it done by itself subscribe it, with a relay:

                subscriptions.subscribe(
                    CHANGE_MERGED,
                    "changes.write_files",
                    actor=Actor.workflow("files", permissions=["changes.merge"]),
                    payload=lambda event: {"change_id": event.payload["change_id"]},
                )

            and the same for `CHANGE_EXECUTED`.
        workspaces: the folder for working copies, in which changes are tried; `<tenant id>/<change id>` in there.

    Raises:
        ConfigurationError: for `workspaces` without `modules`, `permissions` together with `open=True`, and
            `permissions` of another type.
    """
    asked = choose_permissions("change_control_services", permissions, open, ChangeControlPermissions(), NO_PERMISSIONS)
    if workspaces is not None and modules is None:
        raise ConfigurationError("workspaces are copies of modules: give change_control_services modules=… too")
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
    "TypeDiff",
    "Workspace",
    "WorkspaceView",
    "WrittenFile",
    "WrittenFiles",
    "change_control_services",
    "project_modules",
    "workspace_module",
]
