"""The input that actions on an invoice share, and their resource."""

from pydantic import BaseModel


class InvoiceReference(BaseModel):
    invoice_id: str


def invoice_resource(data: InvoiceReference) -> str:
    return f"invoices/{data.invoice_id}"
