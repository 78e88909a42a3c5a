"""Invoices: documents, like notes."""

from returns.result import Failure, Result, Success

from actionengine import ActionContext, ActionError, ErrorCode, Record
from examples.field_service.db.schema import Invoice
from examples.field_service.db.tables import CustomerRow, JobRow

CALL_OUT = 80_00
"""What coming costs, in cents; the rest is added by hand."""


def add_invoice(ctx: ActionContext, job: JobRow, customer: CustomerRow) -> Result[Invoice, ActionError]:
    if customer.email is None:
        message = f"{customer.name} has no e-mail address to send an invoice to"
        return Failure(ActionError(ErrorCode.UNPROCESSABLE, message, {"customer_id": customer.id}))
    draft = {"title": job.title, "send_to": customer.email, "amount": CALL_OUT}
    return Success(_invoice(ctx.records("invoices").insert(draft, id=job.id)))


def list_invoices(ctx: ActionContext, after: str | None) -> list[Invoice]:
    return [_invoice(record) for record in ctx.records("invoices").list(after=after)]


def _invoice(record: Record) -> Invoice:
    return Invoice(id=record.id, version=record.version, **record.data)
