"""Mark an invoice as paid."""

from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.invoices import find_invoice, settle_invoice
from examples.field_service.db.schema import Invoice
from examples.field_service.services.invoices.reference import InvoiceReference, invoice_resource


def _handler(data: InvoiceReference, ctx: ActionContext) -> Result[Invoice, ActionError]:
    return find_invoice(ctx, data.invoice_id).bind(lambda invoice: settle_invoice(ctx, invoice))


pay_invoice_action = create_action(
    name="pay",
    title="Mark an invoice as paid",
    description="Mark an invoice as paid",
    handler=_handler,
    validation=InvoiceReference,
    permission="invoices.pay",
    resource=invoice_resource,
    destructive=False,
)
