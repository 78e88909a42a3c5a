"""Customers."""

from returns.result import Result

from actionengine import ActionContext, ActionError
from examples.field_service.db.rows import find, page, save
from examples.field_service.db.schema import Customer
from examples.field_service.db.tables import CustomerRow


def find_customer(ctx: ActionContext, id: str) -> Result[CustomerRow, ActionError]:
    return find(ctx, CustomerRow, id, "customer")


def list_customers(ctx: ActionContext, after: str | None) -> list[Customer]:
    return page(ctx, CustomerRow, Customer, after)


def add_customer(ctx: ActionContext, name: str, email: str | None) -> Result[Customer, ActionError]:
    return save(ctx, CustomerRow(tenant_id=ctx.tenant.id, name=name, email=email), Customer)
