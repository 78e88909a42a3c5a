"""List the customers."""

from pydantic import BaseModel, Field
from returns.result import Result, Success

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.customers import list_customers
from examples.field_service.db.schema import Customer


class CustomerListing(BaseModel):
    after: str | None = Field(default=None, description="The id after which the list begins.")


def _handler(data: CustomerListing, ctx: ActionContext) -> Result[list[Customer], ActionError]:
    return Success(list_customers(ctx, data.after))


list_customers_action = create_action(
    name="list",
    title="List the customers",
    description="List up to a hundred customers after an id",
    handler=_handler,
    validation=CustomerListing,
    permission="customers.read",
    read_only=True,
)
