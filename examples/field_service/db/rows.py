"""The queries that models share: find a row, lock a row, page through rows, write a row.

Each query names the tenant. On PostgreSQL row-level security enforces it too; SQLite has no row-level security.
"""

from typing import Any, TypeVar

from returns.result import Failure, Result, Success
from sqlalchemy import select

from actionengine import ActionContext, ActionError, ErrorCode
from examples.field_service.db.schema import Stored
from examples.field_service.db.tables import Row

R = TypeVar("R", bound=Row)
S = TypeVar("S", bound=Stored)


def find(ctx: ActionContext, model: type[R], id: str, noun: str) -> Result[R, ActionError]:
    return _found(ctx.session.get(model, (ctx.tenant.id, id)), id, noun)


def lock(ctx: ActionContext, model: type[R], id: str, noun: str) -> Result[R, ActionError]:
    """Find and lock a row that will change. Other writers wait, and then see the change."""
    return _found(ctx.session.get(model, (ctx.tenant.id, id), with_for_update=True), id, noun)


def page(ctx: ActionContext, model: type[Row], type: type[S], after: str | None, **equal: Any) -> list[S]:
    """Return up to a hundred rows after an id, by id."""
    rows = select(model).filter_by(tenant_id=ctx.tenant.id, **equal).where(model.id > (after or ""))
    return [type.model_validate(row) for row in ctx.session.scalars(rows.order_by(model.id).limit(100))]


def save(ctx: ActionContext, row: Row, type: type[S]) -> Result[S, ActionError]:
    """Write a row. It is committed with the action, or not at all. A new row gets its id from the engine, so that a
    preview and its execution agree."""
    row.id = row.id or ctx.new_id()
    ctx.session.add(row)
    ctx.session.flush()
    return Success(type.model_validate(row))


def _found(row: R | None, id: str, noun: str) -> Result[R, ActionError]:
    if row is None:
        return Failure(ActionError(ErrorCode.NOT_FOUND, f"there is no {noun} {id!r}"))
    return Success(row)
