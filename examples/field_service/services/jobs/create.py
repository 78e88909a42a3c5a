"""Create a job for a customer."""

from pydantic import BaseModel, Field
from returns.functions import tap
from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.customers import find_customer
from examples.field_service.db.models.jobs import add_job
from examples.field_service.db.schema import Job
from examples.field_service.events import job_created


class NewJob(BaseModel):
    customer_id: str = Field(description="The id of the customer.")
    title: str = Field(min_length=1, max_length=200, description="The work to do.")


def _handler(data: NewJob, ctx: ActionContext) -> Result[Job, ActionError]:
    created = find_customer(ctx, data.customer_id).bind(lambda customer: add_job(ctx, customer, data.title))
    return created.map(tap(lambda job: ctx.emit(job_created, job, subject=f"jobs/{job.id}")))


create_job_action = create_action(
    name="create",
    title="Create a job",
    description="Create a job for a customer",
    handler=_handler,
    validation=NewJob,
    permission="jobs.create",
    emits=[job_created],
    destructive=False,
    examples=[{"customer_id": "01890a5d-ac96-774b-bcce-b302099a8057", "title": "Repair the boiler"}],
)
