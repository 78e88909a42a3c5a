"""The service `workflows`: define, activate, and the runs: start, resume, cancel, get, list, purge."""

from __future__ import annotations

from typing import Any

from actionengine.actions import Action, Service, create_action, create_service
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


def _workflow_subject(data: Any) -> str:
    return workflow_subject(data.key)


def _run_subject(data: Any) -> str:
    return run_subject(data.run_id)


def workflows_service(permissions: WorkflowPermissions) -> Service:
    """The service, its actions asking for these permissions."""

    def reading(name: str, description: str, handler: Any, validation: Any, resource: Any = None) -> Action:
        return create_action(
            name=name,
            description=description,
            handler=handler,
            validation=validation,
            permission=permissions.read,
            resource=resource,
            read_only=True,
        )

    def managing(name: str, description: str, handler: Any, validation: Any) -> Action:
        return create_action(
            name=name,
            description=description,
            handler=handler,
            validation=validation,
            permission=permissions.manage,
            resource=_run_subject,
        )

    return create_service(
        name="workflows",
        description="Work that lasts longer than a request: definitions, and their runs",
        actions=[
            create_action(
                name="define",
                description="Write a new version of a workflow, a draft",
                handler=define,
                validation=DefineWorkflow,
                permission=permissions.define,
                resource=_workflow_subject,
            ),
            create_action(
                name="activate",
                description="Put a version of a workflow into use, for the runs that start from now on",
                handler=activate,
                validation=WorkflowVersion,
                permission=permissions.activate,
                allowed_actors=ACTIVATORS,
                resource=_workflow_subject,
            ),
            reading("get_definition", "One version of a workflow", get_definition, WorkflowVersion, _workflow_subject),
            reading("list_definitions", "The newest version of each workflow", list_definitions, ListWorkflows),
            create_action(
                name="start",
                description="Start a run of a workflow",
                handler=start,
                validation=StartRun,
                permission=permissions.start,
                resource=_workflow_subject,
            ),
            managing("resume", "Try the step again at which a run is paused", resume, RunReference),
            managing("cancel", "End a run where it is", cancel, CancelRun),
            reading("get", "One run, with the steps that it has taken", get_run, RunReference, _run_subject),
            reading("list", "Runs, oldest first unless asked otherwise", list_runs, ListRuns),
            create_action(
                name="purge",
                description="Remove runs that ended before a time, with the steps that they have taken",
                handler=purge,
                validation=PurgeRuns,
                permission=permissions.manage,
                allowed_actors=ACTIVATORS,
            ),
        ],
    )
