"""Workflows: work that lasts longer than a request, each step of which is a governed action.

`workflow_services()` gives the services `workflows`, `triggers` and `workflow_assignments`, and the internal
`workflow_steps`, for `create_engine`; a `WorkflowRuntime` takes the steps of their runs, on the durable engine:

    engine = create_engine(services=[*workflow_services(), invoices], storage=storage)
    runtime = WorkflowRuntime(engine, "workflows.sqlite", relay_to=[…])

The services ask for the permissions of `WorkflowPermissions`. The host may name others:
`workflow_services(permissions=WorkflowPermissions(activate="shop.activate"))`.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from actionengine.actions import Service
from actionengine.builtin.permissions import choose_permissions
from actionengine.storage.outbox import TRIGGERS, WORKFLOWS
from actionengine.storage.rows import Route

try:
    from actionengine.workflows.definitions.definition import Definition
    from actionengine.workflows.definitions.parse import parse_definition
except ModuleNotFoundError as error:
    if (error.name or "").startswith("actionengine"):
        raise
    raise ImportError(f"workflows need {error.name}: pip install 'actionengine[workflows]'") from error
from actionengine.workflows.models import AssignmentView, Run, RunSummary, StepRecord, TriggerView, Workflow
from actionengine.workflows.permissions import NO_PERMISSIONS, WorkflowPermissions
from actionengine.workflows.runs.events import ASSIGNED as WORKFLOW_ASSIGNED
from actionengine.workflows.runs.events import COMPLETED as WORKFLOW_ASSIGNMENT_COMPLETED
from actionengine.workflows.runs.events import (
    CONTROL,
    Assignment,
    AssignmentCompleted,
    Notification,
    RunEnded,
    RunPaused,
    RunResumed,
    RunsPurged,
    RunStarted,
    StepCompleted,
)
from actionengine.workflows.runs.events import ENDED as WORKFLOW_ENDED
from actionengine.workflows.runs.events import NOTIFICATION as WORKFLOW_NOTIFICATION
from actionengine.workflows.runs.events import PAUSED as WORKFLOW_PAUSED
from actionengine.workflows.runs.events import PURGED as WORKFLOW_PURGED
from actionengine.workflows.runs.events import RESUMED as WORKFLOW_RESUMED
from actionengine.workflows.runs.events import STARTED as WORKFLOW_STARTED
from actionengine.workflows.runs.events import STEP_COMPLETED as WORKFLOW_STEP_COMPLETED
from actionengine.workflows.runs.step_handlers import ASSIGNMENTS
from actionengine.workflows.runs.store import RecordLockGuard
from actionengine.workflows.services.assignments import assignments_service
from actionengine.workflows.services.steps import workflow_steps_service
from actionengine.workflows.services.triggers import triggers_service
from actionengine.workflows.services.workflows import workflows_service

if TYPE_CHECKING:
    from actionengine.workflows.runtime.publisher import WorkflowPublisher
    from actionengine.workflows.runtime.runtime import WorkflowRuntime


_ROUTES = (Route(WORKFLOWS, CONTROL), Route(TRIGGERS))


def workflow_services(*, permissions: WorkflowPermissions | None = None, open: bool = False) -> tuple[Service, ...]:
    """Return the services `workflows`, `triggers`, `workflow_assignments` and `workflow_steps`.

    Args:
        permissions: what they ask for; `WorkflowPermissions()` by default.
        open: whether they ask for no permission, so that every person of the tenant may define and activate workflows,
            and a workflow may write any document. Neither an AI nor a workflow activates one here either.

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


__all__ = [
    "ASSIGNMENTS",
    "WORKFLOW_ASSIGNED",
    "WORKFLOW_ASSIGNMENT_COMPLETED",
    "WORKFLOW_ENDED",
    "WORKFLOW_NOTIFICATION",
    "WORKFLOW_PAUSED",
    "WORKFLOW_PURGED",
    "WORKFLOW_RESUMED",
    "WORKFLOW_STARTED",
    "WORKFLOW_STEP_COMPLETED",
    "Assignment",
    "AssignmentCompleted",
    "AssignmentView",
    "Definition",
    "Notification",
    "Run",
    "RunEnded",
    "RunPaused",
    "RunResumed",
    "RunStarted",
    "RunSummary",
    "RunsPurged",
    "StepCompleted",
    "StepRecord",
    "TriggerView",
    "Workflow",
    "WorkflowPermissions",
    "WorkflowPublisher",
    "WorkflowRuntime",
    "parse_definition",
    "workflow_services",
]

# What takes steps loads the durable engine; who only declares and asks does not.
_LATER = {
    "WorkflowPublisher": "actionengine.workflows.runtime.publisher",
    "WorkflowRuntime": "actionengine.workflows.runtime.runtime",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = globals()[name] = getattr(import_module(_LATER[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("actionengine"):
            raise
        raise ImportError(f"{name} needs {error.name}: pip install 'actionengine[workflows]'") from error
    return value
