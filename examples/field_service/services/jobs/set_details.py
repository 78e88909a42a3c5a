"""Write the details of a job, in the fields of the tenant's record type."""

from pydantic import Field, JsonValue
from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.details import set_details
from examples.field_service.db.models.jobs import lock_job
from examples.field_service.db.schema import JobDetails
from examples.field_service.services.jobs.reference import JobReference, job_resource


class NewDetails(JobReference):
    details: dict[str, JsonValue] = Field(description="All details, by the fields of the record type `job`.")


def _handler(data: NewDetails, ctx: ActionContext) -> Result[JobDetails, ActionError]:
    return lock_job(ctx, data.job_id).map(lambda job: set_details(ctx, job, data.details))


set_details_action = create_action(
    name="set_details",
    title="Write the details of a job",
    description="Write all details of a job, as its record type `job` defines them",
    handler=_handler,
    validation=NewDetails,
    permission="jobs.detail",
    resource=job_resource,
    destructive=True,
    examples=[{"job_id": "01890a5d-ac96-774b-bcce-b302099a8057", "details": {"address": "Main Street 1"}}],
)
