"""`workflow_services`: the services of workflows, for `create_engine`."""

from __future__ import annotations

from dataclasses import replace

from actionengine.actions import Service
from actionengine.builtin.permissions import choose_permissions
from actionengine.storage.outbox import TRIGGERS, WORKFLOWS
from actionengine.storage.rows import Route
from actionengine.workflows.permissions import NO_PERMISSIONS, WorkflowPermissions
from actionengine.workflows.runs.events import CONTROL
from actionengine.workflows.runs.store import RecordLockGuard
from actionengine.workflows.services.assignments import assignments_service
from actionengine.workflows.services.steps import workflow_steps_service
from actionengine.workflows.services.triggers import triggers_service
from actionengine.workflows.services.workflows import workflows_service

_ROUTES = (Route(WORKFLOWS, CONTROL), Route(TRIGGERS))


def workflow_services(*, permissions: WorkflowPermissions | None = None, open: bool = False) -> tuple[Service, ...]:
    """Return the services `workflows`, `triggers`, `workflow_assignments` and `workflow_steps`.

    Args:
        permissions: the permissions that they ask for; `WorkflowPermissions()` by default.
        open: whether they ask for no permission. Then every person of the tenant may define and activate workflows,
            and a workflow may write any document. An AI or a workflow cannot activate one even then.

    Raises:
        ConfigurationError: for `permissions` together with `open=True`, and `permissions` of another type.
    """
    asked = choose_permissions("workflow_services", permissions, open, WorkflowPermissions(), NO_PERMISSIONS)
    return (
        replace(workflows_service(asked), record_guard=RecordLockGuard, routes=_ROUTES),
        triggers_service(asked),
        assignments_service(asked),
        workflow_steps_service(asked),
    )
