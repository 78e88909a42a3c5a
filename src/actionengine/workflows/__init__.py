"""Workflows: work that lasts longer than a request, each step of which is a governed action.

`workflow_services` are the services `workflows`, `triggers` and `workflow_assignments`, and the internal
`workflow_steps`, for `create_engine`; a `WorkflowRuntime` takes the steps of their runs, on the durable engine:

    engine = create_engine(services=[*workflow_services, invoices], storage=storage)
    runtime = WorkflowRuntime(engine, "workflows.sqlite")
    relay = Relay(storage, Fanout(runtime.publisher, …))

As they stand the services are open to every actor of the tenant, but for what no AI may do: activate. Called, they ask
for permissions: `workflow_services(permissions=WorkflowPermissions())`.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from actionengine.actions import Service

try:
    from actionengine.workflows.definition import Definition, parse_definition
except ModuleNotFoundError as error:
    if (error.name or "").startswith("actionengine"):
        raise
    raise ImportError(f"workflows need {error.name}: pip install 'actionengine[workflows]'") from error
from actionengine.workflows.assignments import assignments_service
from actionengine.workflows.events import ASSIGNED as WORKFLOW_ASSIGNED
from actionengine.workflows.events import COMPLETED as WORKFLOW_ASSIGNMENT_COMPLETED
from actionengine.workflows.events import ENDED as WORKFLOW_ENDED
from actionengine.workflows.events import NOTIFICATION as WORKFLOW_NOTIFICATION
from actionengine.workflows.events import PAUSED as WORKFLOW_PAUSED
from actionengine.workflows.events import PURGED as WORKFLOW_PURGED
from actionengine.workflows.events import RESUMED as WORKFLOW_RESUMED
from actionengine.workflows.events import STARTED as WORKFLOW_STARTED
from actionengine.workflows.events import STEP_TAKEN as WORKFLOW_STEP_TAKEN
from actionengine.workflows.events import (
    Assignment,
    AssignmentCompleted,
    Notification,
    RunEnded,
    RunPaused,
    RunSetGoing,
    RunsPurged,
    StepTold,
)
from actionengine.workflows.models import AssignmentView, Run, RunSummary, StepTaken, TriggerView, Workflow
from actionengine.workflows.performing import ASSIGNMENTS
from actionengine.workflows.permissions import NO_PERMISSIONS, WorkflowPermissions
from actionengine.workflows.steps import workflow_steps_service
from actionengine.workflows.store import RecordLockGuard
from actionengine.workflows.triggers import triggers_service
from actionengine.workflows.workflows import workflows_service

if TYPE_CHECKING:
    from actionengine.workflows.publisher import WorkflowPublisher
    from actionengine.workflows.runtime import WorkflowRuntime


class WorkflowServices(tuple[Service, ...]):
    """The services of workflows: a tuple of them, and, called, the same with other demands on actors."""

    __slots__ = ()

    def __call__(self, *, permissions: WorkflowPermissions = NO_PERMISSIONS) -> WorkflowServices:
        """The services, asking for these permissions."""
        workflows = replace(workflows_service(permissions), record_guard=RecordLockGuard)
        steps, assignments = workflow_steps_service(permissions), assignments_service(permissions)
        return WorkflowServices((workflows, triggers_service(permissions), assignments, steps))


workflow_services = WorkflowServices()()
"""The services of workflows; called, they ask for permissions."""

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
    "WORKFLOW_STEP_TAKEN",
    "Assignment",
    "AssignmentCompleted",
    "AssignmentView",
    "Definition",
    "Notification",
    "Run",
    "RunEnded",
    "RunPaused",
    "RunSetGoing",
    "RunSummary",
    "RunsPurged",
    "StepTaken",
    "StepTold",
    "TriggerView",
    "Workflow",
    "WorkflowPermissions",
    "WorkflowPublisher",
    "WorkflowRuntime",
    "WorkflowServices",
    "parse_definition",
    "workflow_services",
]

# What takes steps loads the durable engine; who only declares and asks does not.
_LATER = {"WorkflowPublisher": "actionengine.workflows.publisher", "WorkflowRuntime": "actionengine.workflows.runtime"}


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
