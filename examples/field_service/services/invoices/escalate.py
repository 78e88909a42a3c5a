"""Raise the dunning level of an invoice. The escalation executes it after a manager's approval."""

from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.invoices import escalate, find_invoice
from examples.field_service.db.schema import Invoice
from examples.field_service.services.invoices.reference import InvoiceReference, invoice_resource


def _handler(data: InvoiceReference, ctx: ActionContext) -> Result[Invoice, ActionError]:
    return find_invoice(ctx, data.invoice_id).bind(lambda invoice: escalate(ctx, invoice))


escalate_invoice_action = create_action(
    name="escalate",
    title="Escalate an invoice",
    description="Raise the dunning level of an overdue invoice",
    handler=_handler,
    validation=InvoiceReference,
    permission="invoices.escalate",
    resource=invoice_resource,
    destructive=False,
)
