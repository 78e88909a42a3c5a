"""List the jobs."""

from pydantic import BaseModel, Field
from returns.result import Result, Success

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.jobs import list_jobs
from examples.field_service.db.schema import Job, JobStatus


class JobListing(BaseModel):
    status: JobStatus | None = Field(default=None, description="Only jobs of this status; all by default.")
    after: str | None = Field(default=None, description="The id after which the list begins.")


def _handler(data: JobListing, ctx: ActionContext) -> Result[list[Job], ActionError]:
    return Success(list_jobs(ctx, data.after, data.status))


list_jobs_action = create_action(
    name="list",
    title="List the jobs",
    description="List up to a hundred jobs after an id, of one status or all",
    handler=_handler,
    validation=JobListing,
    permission="jobs.read",
    read_only=True,
    examples=[{"status": "scheduled"}],
)
