"""Finish a job."""

from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.jobs import complete, jobs
from examples.field_service.db.schema import Job
from examples.field_service.services.jobs.reference import JobReference, job_resource


def _handler(data: JobReference, ctx: ActionContext) -> Result[Job, ActionError]:
    return jobs.get(ctx, data.job_id).bind(lambda job: complete(ctx, job))


complete_job_action = create_action(
    name="complete",
    description="Finish a scheduled job",
    handler=_handler,
    validation=JobReference,
    permission="jobs.complete",
    resource=job_resource,
)
