"""Look a job up."""

from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.jobs import find_job
from examples.field_service.db.schema import Job
from examples.field_service.services.jobs.reference import JobReference


def _handler(data: JobReference, ctx: ActionContext) -> Result[Job, ActionError]:
    return find_job(ctx, data.job_id).map(Job.model_validate)


get_job_action = create_action(
    name="get",
    description="One job",
    handler=_handler,
    validation=JobReference,
    permission="jobs.read",
    read_only=True,
)
