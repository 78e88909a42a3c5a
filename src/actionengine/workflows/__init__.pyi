"""The public names of actionengine.workflows; `_lazy.attach` reads this table."""

from actionengine.workflows.definitions.definition import Definition as Definition  # extra: workflows
from actionengine.workflows.definitions.parse import parse_definition as parse_definition  # extra: workflows
from actionengine.workflows.models import AssignmentView as AssignmentView  # extra: workflows
from actionengine.workflows.models import Run as Run  # extra: workflows
from actionengine.workflows.models import RunSummary as RunSummary  # extra: workflows
from actionengine.workflows.models import StepRecord as StepRecord  # extra: workflows
from actionengine.workflows.models import TriggerView as TriggerView  # extra: workflows
from actionengine.workflows.models import Workflow as Workflow  # extra: workflows
from actionengine.workflows.permissions import WorkflowPermissions as WorkflowPermissions  # extra: workflows
from actionengine.workflows.runs.events import WORKFLOW_ASSIGNED as WORKFLOW_ASSIGNED  # extra: workflows
from actionengine.workflows.runs.events import (
    WORKFLOW_ASSIGNMENT_COMPLETED as WORKFLOW_ASSIGNMENT_COMPLETED,  # extra: workflows
)
from actionengine.workflows.runs.events import WORKFLOW_ENDED as WORKFLOW_ENDED  # extra: workflows
from actionengine.workflows.runs.events import WORKFLOW_NOTIFICATION as WORKFLOW_NOTIFICATION  # extra: workflows
from actionengine.workflows.runs.events import WORKFLOW_PAUSED as WORKFLOW_PAUSED  # extra: workflows
from actionengine.workflows.runs.events import WORKFLOW_PURGED as WORKFLOW_PURGED  # extra: workflows
from actionengine.workflows.runs.events import WORKFLOW_RESUMED as WORKFLOW_RESUMED  # extra: workflows
from actionengine.workflows.runs.events import WORKFLOW_STARTED as WORKFLOW_STARTED  # extra: workflows
from actionengine.workflows.runs.events import WORKFLOW_STEP_COMPLETED as WORKFLOW_STEP_COMPLETED  # extra: workflows
from actionengine.workflows.runs.events import Assignment as Assignment  # extra: workflows
from actionengine.workflows.runs.events import AssignmentCompleted as AssignmentCompleted  # extra: workflows
from actionengine.workflows.runs.events import Notification as Notification  # extra: workflows
from actionengine.workflows.runs.events import RunEnded as RunEnded  # extra: workflows
from actionengine.workflows.runs.events import RunPaused as RunPaused  # extra: workflows
from actionengine.workflows.runs.events import RunResumed as RunResumed  # extra: workflows
from actionengine.workflows.runs.events import RunsPurged as RunsPurged  # extra: workflows
from actionengine.workflows.runs.events import RunStarted as RunStarted  # extra: workflows
from actionengine.workflows.runs.events import StepCompleted as StepCompleted  # extra: workflows
from actionengine.workflows.runs.step_handlers import ASSIGNMENTS as ASSIGNMENTS  # extra: workflows
from actionengine.workflows.runtime.publisher import WorkflowPublisher as WorkflowPublisher  # extra: workflows
from actionengine.workflows.runtime.runtime import WorkflowRuntime as WorkflowRuntime  # extra: workflows
from actionengine.workflows.services.services import workflow_services as workflow_services  # extra: workflows
