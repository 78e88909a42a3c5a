"""The input that actions on an invoice share, and their resource."""

from pydantic import BaseModel, Field


class InvoiceReference(BaseModel):
    invoice_id: str = Field(description="The id of the invoice.")


def invoice_resource(data: InvoiceReference) -> str:
    return f"invoices/{data.invoice_id}"
