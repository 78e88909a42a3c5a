"""List the payments."""

from pydantic import BaseModel, Field
from returns.result import Result, Success

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.payments import list_payments
from examples.field_service.db.schema import Payment


class PaymentListing(BaseModel):
    job_id: str | None = Field(default=None, description="Only payments for this job; all by default.")
    after: str | None = Field(default=None, description="The id after which the list begins.")


def _handler(data: PaymentListing, ctx: ActionContext) -> Result[list[Payment], ActionError]:
    return Success(list_payments(ctx, data.after, data.job_id))


list_payments_action = create_action(
    name="list",
    title="List the payments",
    description="List up to a hundred payments after an id, of one job or all",
    handler=_handler,
    validation=PaymentListing,
    permission="payments.read",
    read_only=True,
)
