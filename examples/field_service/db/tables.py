"""The host's own tables, as SQLAlchemy models. They have the protection of the library's own tables: only
rows of the tenant are visible, and only actions write.
"""

from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column
from uuid_utils import uuid7

from actionengine import protect_table

APP_ROLE = "app"
"""The role that a host connects as on PostgreSQL."""


class Base(DeclarativeBase):
    """All tables of the business."""


class Row(Base):
    """A row of one tenant, whose id is the first column of the key. The version counts its changes."""

    __abstract__ = True

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=-3)
    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=lambda: str(uuid7()), sort_order=-2)
    version: Mapped[int] = mapped_column(sort_order=-1)

    @declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:  # noqa: N805
        return {"version_id_col": cls.version}


class CustomerRow(Row):
    """A customer."""

    __tablename__ = "customers"

    name: Mapped[str]
    email: Mapped[str | None]


class JobRow(Row):
    """A job."""

    __tablename__ = "jobs"
    __table_args__ = (ForeignKeyConstraint(["tenant_id", "customer_id"], ["customers.tenant_id", "customers.id"]),)

    customer_id: Mapped[str]
    title: Mapped[str]
    status: Mapped[str] = mapped_column(default="new")
    scheduled_for: Mapped[date | None]


class PaymentRow(Row):
    """Money taken for a job. `amount` and `refunded` are in cents; of the card, only the last digits are kept."""

    __tablename__ = "payments"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "job_id"], ["jobs.tenant_id", "jobs.id"]),
        CheckConstraint("refunded BETWEEN 0 AND amount"),
    )

    job_id: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    refunded: Mapped[int] = mapped_column(BigInteger, default=0)
    card_ends_in: Mapped[str]


for table in Base.metadata.sorted_tables:
    protect_table(table, app_role=APP_ROLE)


def create_tables(owner_url: str) -> None:
    """Make the missing tables, as the owner of a database that has actionengine's own tables."""
    engine = create_engine(owner_url)
    try:
        Base.metadata.create_all(engine)
    finally:
        engine.dispose()
