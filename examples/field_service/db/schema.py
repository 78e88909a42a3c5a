"""The outputs of actions."""

from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue


class Stored(BaseModel):
    """A stored record with its id and its version."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    version: int


class Customer(Stored):
    name: str
    email: str | None = None


JobStatus = Literal["new", "scheduled", "completed", "paid"]


class Job(Stored):
    customer_id: str
    title: str
    status: JobStatus = "new"
    scheduled_for: date | None = None


class JobWithDetails(Job):
    """A job with its `details`, as the tenant's record type `job` defines them."""

    details: dict[str, JsonValue]


class JobDetails(Stored):
    """The details of a job, under its id."""

    details: dict[str, JsonValue]


class Payment(Stored):
    """A payment; `amount` and `refunded` are in cents."""

    job_id: str
    amount: int
    refunded: int = 0
    card_ends_in: str


class Note(Stored):
    job_id: str
    text: str
    by: str


InvoiceStatus = Literal["draft", "issued", "overdue", "paid"]


class Invoice(Stored):
    """An invoice; `amount` is in cents, `dunning_level` counts its escalations. It has the id of its job."""

    title: str
    send_to: str
    amount: int
    status: InvoiceStatus = "draft"
    due: date | None = None
    dunning_level: int = 0
