"""Mark an invoice as overdue. Its event starts the escalation."""

from datetime import date

from pydantic import Field
from returns.result import Failure, Result

from actionengine import ActionContext, ActionError, ErrorCode, create_action
from examples.field_service.db.models.customers import find_customer
from examples.field_service.db.models.invoices import find_invoice, mark_overdue
from examples.field_service.db.models.jobs import find_job
from examples.field_service.db.schema import Invoice
from examples.field_service.db.tables import CustomerRow
from examples.field_service.events import InvoiceOverdue, invoice_overdue
from examples.field_service.services.invoices.reference import InvoiceReference, invoice_resource


class Late(InvoiceReference):
    """An invoice, and the day on which it is late."""

    day: date = Field(description="The day on which it is overdue.")


def _handler(data: Late, ctx: ActionContext) -> Result[Invoice, ActionError]:
    def mark(invoice: Invoice) -> Result[Invoice, ActionError]:
        if invoice.due is not None and data.day <= invoice.due:
            message = f"the invoice {invoice.id} is due on {invoice.due}, and {data.day} is not later"
            return Failure(ActionError(ErrorCode.UNPROCESSABLE, message, {"due": str(invoice.due)}))
        customer = find_job(ctx, invoice.id).bind(lambda job: find_customer(ctx, job.customer_id))
        return customer.bind(lambda whose: mark_overdue(ctx, invoice).map(lambda late: _tell(late, whose, data, ctx)))

    return find_invoice(ctx, data.invoice_id).bind(mark)


def _tell(invoice: Invoice, customer: CustomerRow, data: Late, ctx: ActionContext) -> Invoice:
    assert invoice.due is not None  # an issued invoice has a due day
    overdue = InvoiceOverdue(
        invoice_id=invoice.id,
        customer=customer.name,
        amount_cents=invoice.amount,
        days_overdue=(data.day - invoice.due).days,
    )
    ctx.emit(invoice_overdue, overdue, subject=f"invoices/{invoice.id}")
    return invoice


mark_overdue_action = create_action(
    name="mark_overdue",
    title="Mark an invoice as overdue",
    description="Mark an invoice as overdue on a day",
    handler=_handler,
    validation=Late,
    permission="invoices.mark_overdue",
    emits=[invoice_overdue],
    resource=invoice_resource,
    destructive=False,
    examples=[{"invoice_id": "01890a5d-ac96-774b-bcce-b302099a8057", "day": "2030-03-01"}],
)
