"""Look a customer up."""

from pydantic import BaseModel, Field
from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.customers import find_customer
from examples.field_service.db.schema import Customer


class CustomerReference(BaseModel):
    customer_id: str = Field(description="The id of the customer.")


def _handler(data: CustomerReference, ctx: ActionContext) -> Result[Customer, ActionError]:
    return find_customer(ctx, data.customer_id).map(Customer.model_validate)


get_customer_action = create_action(
    name="get",
    title="Get a customer",
    description="Get a customer",
    handler=_handler,
    validation=CustomerReference,
    permission="customers.read",
    read_only=True,
)
