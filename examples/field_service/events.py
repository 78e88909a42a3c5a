"""The events of the business, with their versions."""

from datetime import date
from typing import Any

from pydantic import BaseModel

from actionengine import create_event_type
from examples.field_service.db.schema import Customer, Invoice, Job, Payment


class JobScheduled(BaseModel):
    job_id: str
    title: str
    day: date


class PaymentRefunded(BaseModel):
    """A refund; `amount` is in cents."""

    payment_id: str
    amount: int


class InvoiceOverdue(BaseModel):
    """An invoice that is overdue. `customer` is a name."""

    invoice_id: str
    customer: str
    amount_cents: int
    days_overdue: int


def _only_what_happened(payload: dict[str, Any]) -> dict[str, Any]:
    """Reduce version 1, which had the whole row, to the field that had changed: `scheduled_for`."""
    return {"job_id": payload["id"], "title": payload["title"], "day": payload["scheduled_for"]}


customer_created = create_event_type(type="customers.created", payload=Customer, description="A new customer")
job_created = create_event_type(type="jobs.created", payload=Job, description="A job was created")
job_scheduled = create_event_type(
    type="jobs.scheduled",
    payload=JobScheduled,
    version=2,
    upcasters={1: _only_what_happened},
    description="The day of a job was set or moved",
)
job_completed = create_event_type(type="jobs.completed", payload=Job, description="A job was completed")
payment_captured = create_event_type(type="payments.captured", payload=Payment, description="A job was paid")
payment_refunded = create_event_type(
    type="payments.refunded", payload=PaymentRefunded, description="A payment was refunded"
)
invoice_drafted = create_event_type(type="invoices.drafted", payload=Invoice, description="An invoice can be sent")
invoice_overdue = create_event_type(
    type="invoices.overdue", payload=InvoiceOverdue, description="An invoice is overdue"
)
