"""Add a customer."""

from pydantic import BaseModel, Field
from returns.functions import tap
from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.customers import add_customer
from examples.field_service.db.schema import Customer
from examples.field_service.events import customer_created


class NewCustomer(BaseModel):
    name: str = Field(min_length=1, max_length=200, description="The name of the customer.")
    email: str | None = Field(default=None, pattern=r"^[^@\s]+@[^@\s]+$", description="The e-mail address.")


def _handler(data: NewCustomer, ctx: ActionContext) -> Result[Customer, ActionError]:
    created = add_customer(ctx, data.name, data.email)
    return created.map(tap(lambda customer: ctx.emit(customer_created, customer, f"customers/{customer.id}")))


create_customer_action = create_action(
    name="create",
    title="Add a customer",
    description="Add a customer",
    handler=_handler,
    validation=NewCustomer,
    permission="customers.create",
    emits=[customer_created],
    destructive=False,
    examples=[{"name": "Grace Hopper", "email": "grace@example.com"}],
)
