"""Finish a job and take the money, in one unit of work."""

from typing import Annotated

from pydantic import Field
from returns.result import Result

from actionengine import ActionContext, ActionError, Sensitive, create_action
from examples.field_service.db.schema import Payment
from examples.field_service.services.jobs.reference import JobReference, job_resource


class CompleteAndCapture(JobReference):
    amount: int = Field(gt=0, description="The price, in cents.")
    card_number: Annotated[str, Sensitive()] = Field(description="The number of the card.")


def _handler(data: CompleteAndCapture, ctx: ActionContext) -> Result[Payment, ActionError]:
    return ctx.execute("jobs", "complete", {"job_id": data.job_id}).bind(
        lambda job: ctx.execute("payments", "capture", data.model_dump())
    )


complete_and_capture_action = create_action(
    name="complete_and_capture",
    title="Finish a job and take the money",
    description="Finish a job and take the money for it",
    handler=_handler,
    validation=CompleteAndCapture,
    permission="payments.capture",
    idempotency="required",
    resource=job_resource,
    destructive=False,
)
