"""List the invoices."""

from pydantic import BaseModel, Field
from returns.result import Result, Success

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.invoices import list_invoices
from examples.field_service.db.schema import Invoice


class InvoiceListing(BaseModel):
    after: str | None = Field(default=None, description="The id after which the list begins.")


def _handler(data: InvoiceListing, ctx: ActionContext) -> Result[list[Invoice], ActionError]:
    return Success(list_invoices(ctx, data.after))


list_invoices_action = create_action(
    name="list",
    title="List the invoices",
    description="List up to a hundred invoices after an id",
    handler=_handler,
    validation=InvoiceListing,
    permission="invoices.read",
    read_only=True,
)
