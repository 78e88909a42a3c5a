"""Tables of a host, and actions that write them in every way that SQLAlchemy has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from returns.result import Failure, Result, Success
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    Table,
    Text,
    Uuid,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.dialects.sqlite import insert as sqlite_upsert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from actionengine import ActionContext, ApprovalPolicy, create_action, create_service, protect_table
from actionengine.actions import always


class Base(DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "pv_stock"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    count: Mapped[int] = mapped_column(Integer)
    checked_at: Mapped[str | None] = mapped_column(Text, server_default=func.now(), onupdate=func.now())


class Order(Base):
    __tablename__ = "pv_orders"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    tenant_id: Mapped[UUID]
    title: Mapped[str] = mapped_column(Text)
    lines: Mapped[list[Line]] = relationship(cascade="all, delete-orphan")


class Line(Base):
    __tablename__ = "pv_lines"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    tenant_id: Mapped[UUID]
    order_id: Mapped[int] = mapped_column(ForeignKey("pv_orders.id"))
    number: Mapped[int]


class Crate(Base):
    __tablename__ = "pv_crates"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant_id: Mapped[UUID]
    count: Mapped[int]
    version: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


shelves = Table(
    "pv_shelves",
    Base.metadata,
    Column("tag", ForeignKey("pv_tags.id")),
    Column("shelf", ForeignKey("pv_tags.id")),
)
"""A table without a key."""


class Tag(Base):
    __tablename__ = "pv_tags"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant_id: Mapped[UUID]
    others: Mapped[list[Tag]] = relationship(
        secondary=shelves, primaryjoin="Tag.id == pv_shelves.c.tag", secondaryjoin="Tag.id == pv_shelves.c.shelf"
    )


for mapped in (Tag, Stock, Order, Line, Crate):
    protect_table(mapped.__table__, app_role="app")

RAW = text("UPDATE pv_stock SET count = count - 10 WHERE id = :id AND tenant_id = :tenant").bindparams(
    bindparam("tenant", type_=Uuid)
)
stock = Base.metadata.tables["pv_stock"]


def count_of(session: Session, id: str) -> int | None:
    """Return the count of a stock."""
    return session.scalar(select(Stock.count).where(Stock.id == id))


def _mine(ctx: ActionContext, id: str) -> Any:
    return (stock.c.tenant_id == ctx.tenant.id) & (stock.c.id == id)


def add(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Add rows by the session."""
    ctx.session.add_all(Stock(tenant_id=ctx.tenant.id, id=id, count=100) for id in data["ids"])
    return Success(None)


def change(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Change a mapped object, and pause between the read and the write where the request says so."""
    found = ctx.session.get(Stock, (ctx.tenant.id, data["id"]))
    if found is None:
        return Failure("none")
    ctx.resources.get("pause", lambda: None)()
    found.count -= 10
    return Success(None)


def expression(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Set an attribute to an expression, which the database evaluates."""
    found = ctx.session.get(Stock, (ctx.tenant.id, data["id"]))
    if found is None:
        return Failure("none")
    found.count = Stock.count - 10
    return Success(None)


def remove(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Delete a mapped object."""
    ctx.session.delete(ctx.session.get(Stock, (ctx.tenant.id, data["id"])))
    return Success(None)


def core_update(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Change a row by a Core statement."""
    ctx.session.execute(update(stock).where(_mine(ctx, data["id"])).values(count=stock.c.count - 10))
    return Success(None)


def core_many(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Change all rows above a bound by a Core statement."""
    ctx.session.execute(update(stock).where(stock.c.tenant_id == ctx.tenant.id, stock.c.count > 50).values(count=50))
    return Success(None)


def core_insert(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Add a row by a Core statement."""
    ctx.session.execute(insert(stock).values(tenant_id=ctx.tenant.id, id=ctx.new_id(), count=data.get("count", 1)))
    return Success(None)


def core_delete(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Delete a row by a Core statement."""
    ctx.session.execute(delete(stock).where(_mine(ctx, data["id"])))
    return Success(None)


def core_listed(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Delete the rows that orders name."""
    orders = Base.metadata.tables["pv_orders"]
    named = stock.c.id.in_(select(orders.c.title).where(orders.c.tenant_id == ctx.tenant.id))
    ctx.session.execute(delete(stock).where(stock.c.tenant_id == ctx.tenant.id, named))
    return Success(None)


def retitle(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Let all orders name another row."""
    orders = Base.metadata.tables["pv_orders"]
    ctx.session.execute(update(orders).where(orders.c.tenant_id == ctx.tenant.id).values(title=data["title"]))
    return Success(None)


def core_returning(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Change a row by a Core statement that returns it."""
    changed = update(stock).where(_mine(ctx, data["id"]), stock.c.count > 0).values(count=1).returning(stock.c.id)
    assert ctx.session.scalars(changed).all() == [data["id"]]
    return Success(None)


def core_upsert(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Add a row, or change the one that exists."""
    insertion: Any = sqlite_upsert if ctx.session.get_bind().dialect.name == "sqlite" else upsert
    statement = insertion(stock).values(tenant_id=ctx.tenant.id, id=data["id"], count=7)
    changed = {"count": stock.c.count + 7}
    ctx.session.execute(statement.on_conflict_do_update(index_elements=["tenant_id", "id"], set_=changed))
    return Success(None)


def core_copy(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Add a copy of each row."""
    copies = select(stock.c.tenant_id, stock.c.id + "'", stock.c.count).where(stock.c.tenant_id == ctx.tenant.id)
    ctx.session.execute(insert(stock).from_select(["tenant_id", "id", "count"], copies))
    return Success(None)


def store_crates(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Add two rows with versions."""
    ctx.session.add_all(Crate(tenant_id=ctx.tenant.id, id=f"{ctx.tenant.id} {each}", count=1) for each in "ab")
    return Success(None)


def fill_crates(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Change rows with versions past their versions."""
    crates = Base.metadata.tables["pv_crates"]
    ctx.session.execute(update(crates).where(crates.c.tenant_id == ctx.tenant.id).values(count=2))
    return Success(None)


def drop_crates(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Delete mapped objects with versions, which one statement does."""
    for crate in ctx.session.scalars(select(Crate).where(Crate.tenant_id == ctx.tenant.id)):
        ctx.session.delete(crate)
    return Success(None)


def link(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Link rows in a table without a key, and give one another key."""
    made = [Tag(tenant_id=ctx.tenant.id, id=f"{data['id']} {number}") for number in range(4)]
    ctx.session.add_all(made)
    ctx.session.flush()
    made[0].others = made[1:3]
    made[3].id = f"{data['id']} new"
    ctx.session.flush()
    return Success(None)


def orm_update(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Change rows by an ORM statement."""
    ctx.session.execute(update(Stock).where(_mine(ctx, data["id"])).values(count=Stock.count - 10))
    return Success(None)


def raw(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Change a row by a text."""
    ctx.session.execute(RAW, {"id": data["id"], "tenant": ctx.tenant.id})
    return Success(None)


def driver(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Send SQL to the driver as it is, and read with a lock."""
    ctx.session.execute(select(stock).where(_mine(ctx, data["id"])).with_for_update(key_share=True, nowait=True))
    found = ctx.session.connection().exec_driver_sql(f"UPDATE pv_stock SET count = 1 WHERE id = '{data['row']}'")
    return Success(found.rowcount)


def order(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Add rows whose keys the database makes, one of them with references to another."""
    lines = [Line(tenant_id=ctx.tenant.id, number=number) for number in range(3)]
    ctx.session.add(Order(tenant_id=ctx.tenant.id, title=data["title"], lines=lines))
    return Success(None)


def undone(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Undo writes of rows and of documents in a savepoint, and those of a failed action."""
    savepoint = ctx.session.begin_nested()
    ctx.session.add(Stock(tenant_id=ctx.tenant.id, id="undone", count=1))
    ctx.session.flush()
    ctx.records("notes").insert({"undone": True})
    ctx.session.execute(RAW, {"id": data["id"], "tenant": ctx.tenant.id})
    savepoint.rollback()
    ctx.execute("stock", "failing", data)
    ctx.records("notes").insert({"undone": False})
    return change(data, ctx)


def failing(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Write and fail."""
    ctx.session.add(Stock(tenant_id=ctx.tenant.id, id="failed", count=1))
    ctx.records("notes").insert({"failed": True})
    core_update(data, ctx)
    return Failure("refused by the test")


def nested(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Execute other actions."""
    for name in ("core_update", "change"):
        ctx.execute("stock", name, data).unwrap()
    return Success(None)


async def change_async(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Change a mapped object in an async handler."""
    found = await ctx.async_session.get(Stock, (ctx.tenant.id, data["id"]))
    found.count -= 10
    await ctx.async_session.flush()
    await ctx.async_session.execute(update(stock).where(_mine(ctx, data["id"])).values(count=stock.c.count - 1))
    return Success(None)


def counts(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Return the counts of the stock."""
    rows = ctx.session.execute(select(stock.c.id, stock.c.count).where(stock.c.tenant_id == ctx.tenant.id))
    return Success({row.id: row.count for row in rows})


HANDLERS: tuple[Callable[..., Any], ...] = (
    *(add, change, expression, remove, core_update, core_many, core_insert, core_delete, core_upsert, orm_update, raw),
    *(link, driver, core_copy, core_listed, core_returning, retitle, store_crates, fill_crates, drop_crates),
    *(order, undone, failing, nested, change_async, counts),
)
EFFECTS = ApprovalPolicy(when=always, permission="stock.approve", binds="effects")
HELD = create_service(
    name="held",
    description="Stock, with an approval of the effects",
    actions=[
        create_action(name=each.__name__, description="", handler=each, approval=EFFECTS)
        for each in (change, core_update, core_upsert, order, undone, nested)
    ],
)
STOCK = create_service(
    name="stock",
    description="Stock",
    actions=[create_action(name=each.__name__, description="", handler=each, emits=()) for each in HANDLERS],
)
