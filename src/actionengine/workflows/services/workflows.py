"""The service `workflows`: define, activate, and the runs: start, resume, cancel, get, list, purge."""

from __future__ import annotations

from functools import partial
from typing import Any

from actionengine.actions import Service, create_service
from actionengine.builtin.declarations import declare
from actionengine.workflows.models import (
    CancelRun,
    DefineWorkflow,
    ListRuns,
    ListWorkflows,
    PurgeRuns,
    RunReference,
    StartRun,
    WorkflowVersion,
)
from actionengine.workflows.permissions import ACTIVATORS, WorkflowPermissions
from actionengine.workflows.runs.store import run_subject, workflow_subject
from actionengine.workflows.services.definitions import activate, define, get_definition, list_definitions
from actionengine.workflows.services.purge import purge
from actionengine.workflows.services.runs import cancel, get_run, list_runs, resume, start


def of_workflow(data: Any) -> str:
    """Return the resource of an input that names a workflow."""
    return workflow_subject(data.key)


def of_run(data: Any) -> str:
    """Return the resource of an input that names a run."""
    return run_subject(data.run_id)


def workflows_service(permissions: WorkflowPermissions) -> Service:
    """Return the service, whose actions ask for these permissions."""
    reading = partial(declare, permission=permissions.read, read_only=True)
    managing = partial(declare, permission=permissions.manage)
    return create_service(
        name="workflows",
        description="Definitions of workflows, and their runs",
        actions=[
            declare(
                "define",
                "Write a new version of a workflow, a draft",
                define,
                DefineWorkflow,
                permission=permissions.define,
                resource=of_workflow,
            ),
            declare(
                "activate",
                "Activate a version of a workflow, for the runs that start from now on",
                activate,
                WorkflowVersion,
                permission=permissions.activate,
                allowed_actors=ACTIVATORS,
                resource=of_workflow,
            ),
            reading(
                "get_definition", "One version of a workflow", get_definition, WorkflowVersion, resource=of_workflow
            ),
            reading("list_definitions", "The newest version of each workflow", list_definitions, ListWorkflows),
            declare("start", "Start a run", start, StartRun, permission=permissions.start, resource=of_workflow),
            managing("resume", "Try the step again that a run is paused at", resume, RunReference, resource=of_run),
            managing("cancel", "End a run at its current step", cancel, CancelRun, resource=of_run, destructive=True),
            reading("get", "One run with its steps", get_run, RunReference, resource=of_run),
            reading("list", "Runs, oldest first unless asked otherwise", list_runs, ListRuns),
            managing(
                "purge",
                "Remove runs that ended before a time",
                purge,
                PurgeRuns,
                allowed_actors=ACTIVATORS,
                destructive=True,
            ),
        ],
    )
