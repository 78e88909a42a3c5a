"""What is stored."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """A document with its id and its version."""

    model_config = ConfigDict(frozen=True)

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
    scheduled_for: str | None = None


class Payment(Stored):
    """Money taken for a job. `amount` and `refunded` are in cents; of the card, only the last digits are kept."""

    job_id: str
    amount: int
    refunded: int = 0
    card_ends_in: str
