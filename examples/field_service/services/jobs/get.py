"""Look a job up."""

from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.details import details_of
from examples.field_service.db.models.jobs import find_job
from examples.field_service.db.schema import Job, JobWithDetails
from examples.field_service.db.tables import JobRow
from examples.field_service.services.jobs.reference import JobReference


def _handler(data: JobReference, ctx: ActionContext) -> Result[JobWithDetails, ActionError]:
    return find_job(ctx, data.job_id).map(lambda job: _with_details(ctx, job))


def _with_details(ctx: ActionContext, job: JobRow) -> JobWithDetails:
    return JobWithDetails(**Job.model_validate(job).model_dump(), details=details_of(ctx, job))


get_job_action = create_action(
    name="get",
    title="Get a job",
    description="Get a job with its details",
    handler=_handler,
    validation=JobReference,
    permission="jobs.read",
    read_only=True,
)
