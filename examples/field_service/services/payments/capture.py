"""Take the money for a finished job."""

from typing import Annotated

from pydantic import BaseModel, Field
from returns.functions import tap
from returns.result import Result

from actionengine import ActionContext, ActionError, Sensitive, create_action
from examples.field_service.db.models.jobs import lock_job, settle
from examples.field_service.db.models.payments import add_payment
from examples.field_service.db.schema import Payment
from examples.field_service.events import payment_captured

MAX_AMOUNT = 1_000_000_00
"""Cents that can be taken at once."""


class Capture(BaseModel):
    """The input; `amount` is in cents."""

    job_id: str = Field(description="The id of the finished job.")
    amount: int = Field(gt=0, le=MAX_AMOUNT, description="The amount, in cents.")
    card_number: Annotated[str, Sensitive()] = Field(pattern=r"^\d{12,19}$", description="The number of the card.")


def _handler(data: Capture, ctx: ActionContext) -> Result[Payment, ActionError]:
    paid = lock_job(ctx, data.job_id).bind(lambda job: settle(ctx, job))
    captured = paid.bind(lambda job: add_payment(ctx, job, data.amount, data.card_number))
    return captured.map(tap(lambda payment: ctx.emit(payment_captured, payment, subject=f"payments/{payment.id}")))


capture_action = create_action(
    name="capture",
    title="Take a payment",
    description="Take the money for a finished job",
    handler=_handler,
    validation=Capture,
    permission="payments.capture",
    idempotency="required",
    emits=[payment_captured],
    resource=lambda data: f"jobs/{data.job_id}",
    destructive=False,
    examples=[{"job_id": "01890a5d-ac96-774b-bcce-b302099a8057", "amount": 250_00, "card_number": "4111111111111111"}],
)
