"""Invoices: documents, like notes. Their states are draft, issued, overdue, paid."""

from datetime import date
from typing import Any

from returns.result import Failure, Result, Success

from actionengine import ActionContext, ActionError, ErrorCode, Record
from examples.field_service.db.schema import Invoice, InvoiceStatus
from examples.field_service.db.tables import CustomerRow, JobRow

CALL_OUT = 80_00
"""The call-out fee in cents. The rest is added by hand."""


def add_invoice(ctx: ActionContext, job: JobRow, customer: CustomerRow) -> Result[Invoice, ActionError]:
    if customer.email is None:
        message = f"{customer.name} has no e-mail address to send an invoice to"
        return Failure(ActionError(ErrorCode.UNPROCESSABLE, message, {"customer_id": customer.id}))
    draft = {"title": job.title, "send_to": customer.email, "amount": CALL_OUT}
    return Success(_invoice(ctx.records("invoices").insert(draft, id=job.id)))


def find_invoice(ctx: ActionContext, id: str) -> Result[Invoice, ActionError]:
    record = ctx.records("invoices").get(id)
    if record is None:
        return Failure(ActionError(ErrorCode.NOT_FOUND, f"there is no invoice {id!r}"))
    return Success(_invoice(record))


def list_invoices(ctx: ActionContext, after: str | None) -> list[Invoice]:
    return [_invoice(record) for record in ctx.records("invoices").list(after=after)]


def issue(ctx: ActionContext, invoice: Invoice, due: date, amount: int | None) -> Result[Invoice, ActionError]:
    """Send a draft, with another amount in cents if one is given."""
    wanted = {"status": "issued", "due": due, "amount": invoice.amount if amount is None else amount}
    return _move(ctx, invoice, wanted, "draft")


def mark_overdue(ctx: ActionContext, invoice: Invoice) -> Result[Invoice, ActionError]:
    return _move(ctx, invoice, {"status": "overdue"}, "issued")


def escalate(ctx: ActionContext, invoice: Invoice) -> Result[Invoice, ActionError]:
    return _move(ctx, invoice, {"dunning_level": invoice.dunning_level + 1}, "overdue")


def settle_invoice(ctx: ActionContext, invoice: Invoice) -> Result[Invoice, ActionError]:
    return _move(ctx, invoice, {"status": "paid"}, "issued", "overdue")


def _move(
    ctx: ActionContext, invoice: Invoice, wanted: dict[str, Any], *possible: InvoiceStatus
) -> Result[Invoice, ActionError]:
    """Change an invoice if its status is one of these."""
    if invoice.status not in possible:
        message = f"the invoice {invoice.id} is {invoice.status}: expected {' or '.join(possible)}"
        details = {"invoice_id": invoice.id, "status": invoice.status}
        return Failure(ActionError(ErrorCode.UNPROCESSABLE, message, details))
    document = invoice.model_copy(update=wanted).model_dump(mode="json", exclude={"id", "version"})
    return Success(_invoice(ctx.records("invoices").update(invoice.id, document, invoice.version)))


def _invoice(record: Record) -> Invoice:
    return Invoice(id=record.id, version=record.version, **record.data)
