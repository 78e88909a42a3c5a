"""Look a job up."""

from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.jobs import jobs
from examples.field_service.db.schema import Job
from examples.field_service.services.jobs.reference import JobReference


def _handler(data: JobReference, ctx: ActionContext) -> Result[Job, ActionError]:
    return jobs.get(ctx, data.job_id)


get_job_action = create_action(
    name="get",
    description="One job",
    handler=_handler,
    validation=JobReference,
    permission="jobs.read",
    read_only=True,
)
