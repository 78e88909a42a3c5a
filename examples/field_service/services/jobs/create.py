"""Take on a job for a customer."""

from pydantic import BaseModel, Field
from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.customers import customers
from examples.field_service.db.models.jobs import jobs
from examples.field_service.db.schema import Job


class NewJob(BaseModel):
    customer_id: str
    title: str = Field(min_length=1, max_length=200)


def _handler(data: NewJob, ctx: ActionContext) -> Result[Job, ActionError]:
    return customers.get(ctx, data.customer_id).bind(
        lambda customer: jobs.insert(ctx, customer_id=customer.id, title=data.title)
    )


create_job_action = create_action(
    name="create",
    description="Take on a job for a customer",
    handler=_handler,
    validation=NewJob,
    permission="jobs.create",
)
