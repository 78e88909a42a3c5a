"""What actions on one invoice have in common: their input, and the name of the thing that they are about."""

from pydantic import BaseModel


class InvoiceReference(BaseModel):
    invoice_id: str


def invoice_resource(data: InvoiceReference) -> str:
    return f"invoices/{data.invoice_id}"
