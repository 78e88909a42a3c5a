"""Send a draft to the customer. Afterwards it can be paid, or become overdue."""

from datetime import date

from pydantic import Field
from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.invoices import find_invoice, issue
from examples.field_service.db.schema import Invoice
from examples.field_service.services.invoices.reference import InvoiceReference, invoice_resource


class Issue(InvoiceReference):
    """The input; `amount` is in cents, and the drafted amount by default."""

    due: date = Field(description="The day by which it has to be paid.")
    amount: int | None = Field(default=None, gt=0, description="The amount, in cents; the drafted one by default.")


def _handler(data: Issue, ctx: ActionContext) -> Result[Invoice, ActionError]:
    return find_invoice(ctx, data.invoice_id).bind(lambda invoice: issue(ctx, invoice, data.due, data.amount))


issue_invoice_action = create_action(
    name="issue",
    title="Send an invoice",
    description="Send a drafted invoice",
    handler=_handler,
    validation=Issue,
    permission="invoices.issue",
    resource=invoice_resource,
    destructive=False,
    examples=[{"invoice_id": "01890a5d-ac96-774b-bcce-b302099a8057", "due": "2030-02-28"}],
)
