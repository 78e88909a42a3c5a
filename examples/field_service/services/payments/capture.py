"""Take the money for a finished job, once."""

from typing import Annotated

from pydantic import BaseModel, Field
from returns.result import Result

from actionengine import ActionContext, ActionError, Sensitive, create_action
from examples.field_service.db.models.jobs import jobs, settle
from examples.field_service.db.models.payments import payments
from examples.field_service.db.schema import Payment


class Capture(BaseModel):
    """`amount` is in cents."""

    job_id: str
    amount: int = Field(gt=0)
    card_number: Annotated[str, Sensitive()] = Field(pattern=r"^\d{12,19}$")


def _handler(data: Capture, ctx: ActionContext) -> Result[Payment, ActionError]:
    paid = jobs.get(ctx, data.job_id).bind(lambda job: settle(ctx, job))
    return paid.bind(
        lambda job: payments.insert(ctx, job_id=job.id, amount=data.amount, card_ends_in=data.card_number[-4:])
    )


capture_action = create_action(
    name="capture",
    description="Take the money for a finished job",
    handler=_handler,
    validation=Capture,
    permission="payments.capture",
    idempotency="required",
    resource=lambda data: f"jobs/{data.job_id}",
)
