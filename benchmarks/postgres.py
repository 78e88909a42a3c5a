"""The PostgreSQL that the benchmarks of governed actions run on: a server, a database, and one action on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import psycopg
from examples.embedded_postgres import APP_ROLE, embedded_postgres, make_database
from pydantic import BaseModel
from returns.result import Result, Success
from sqlalchemy import JSON, Column, Integer, MetaData, Table, Text, Uuid, insert, make_url
from uuid_utils import uuid7

from actionengine import (
    Action,
    ActionContext,
    ActionError,
    Actor,
    Budget,
    Engine,
    RequestContext,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.storage.postgres.storage import PostgresStorage

AMOUNT = 50.0
PAYLOAD = {"job": "17", "amount": AMOUNT}
PERMISSION = "payments.refund"

REFUNDS = Table(
    "bench_refunds",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("data", JSON, nullable=False),
)
"""A host's own table, which the variants with SQL of the host's write to."""

MORE_EVENTS = (2, 5)
"""Events of the actions `refund_2` and `refund_5`; the others emit one."""

UNKEYED = "refund_unkeyed"
"""The action that claims no idempotency key."""

_NUMBERS = count()

Outcome = Result[dict[str, object], ActionError]
Handler = Callable[["Refund", ActionContext], Outcome | Awaitable[Outcome]]


class Refund(BaseModel):
    job: str
    amount: float


class Bench(NamedTuple):
    """A database, as its owner, the host and a superuser of its server see it."""

    owner_url: str
    app_url: str
    superuser_url: str


@contextmanager
def database(beside: Bench | None = None) -> Iterator[Bench]:
    """A database with the schema, on a server of its own with the settings that it comes with (fsync on), or on that of
    another one."""
    with nullcontext(beside.superuser_url) if beside is not None else embedded_postgres() as url:
        name = f"bench_{next(_NUMBERS)}"
        made = make_database(url, name)
        with psycopg.connect(made.owner_url) as connection:
            connection.execute(
                "CREATE TABLE bench_refunds (tenant_id uuid, id text, version integer NOT NULL, data json NOT NULL,"
                " PRIMARY KEY (tenant_id, id))"
            )
            connection.execute(f'GRANT SELECT, INSERT, UPDATE ON bench_refunds TO "{APP_ROLE}"')
        yield Bench(*made, make_url(url).set(database=name).render_as_string(hide_password=False))


@dataclass(frozen=True, slots=True)
class Application:
    """An engine on PostgreSQL, as the app role, and somebody who may refund."""

    engine: Engine
    storage: PostgresStorage
    tenant: Tenant
    actor: Actor
    keys: Iterator[int]

    def request(self) -> RequestContext:
        """A request with a key of its own."""
        return RequestContext(self.tenant, self.actor, idempotency_key=f"key-{next(self.keys)}")


def with_workers(url: str, workers: int) -> Application:
    """The application with a connection for each worker."""
    return application(PostgresStorage(url, pool_size=workers, max_overflow=0))


def application(storage: PostgresStorage, budgets: Iterable[Budget] = ()) -> Application:
    """The application. Its tenant is new."""
    tenant = storage.create_tenant(slug=f"acme-{uuid7()}", name="Acme")
    engine = create_engine(
        services=[create_service(name="payments", description="Money", actions=_actions())],
        storage=storage,
        budgets=budgets,
    )
    operator = RequestContext(tenant=tenant, actor=Actor.system())
    role = {"name": "csr", "allow": [{"permission": PERMISSION}]}
    engine.execute_action("roles", "define", role, operator).unwrap()
    assignment = {"actor_type": "human", "actor_id": "clara", "role": "csr"}
    engine.execute_action("roles", "assign", assignment, operator).unwrap()
    return Application(engine, storage, tenant, Actor.human("clara"), count())


def _actions() -> list[Action]:
    handlers: dict[str, Handler] = {
        "refund": refund,
        UNKEYED: refund,
        "refund_async": refund_async,
        "refund_core": refund_core,
        "refund_core_async": refund_core_async,
        **{f"refund_{events}": _refund_with(events) for events in MORE_EVENTS},
    }
    return [
        create_action(
            name=name,
            description="Give money back",
            handler=handler,
            validation=Refund,
            permission=PERMISSION,
            idempotency="none" if name == UNKEYED else "required",
        )
        for name, handler in handlers.items()
    ]


def refund(data: Refund, ctx: ActionContext) -> Outcome:
    """One document, one event."""
    record = ctx.records("refunds").insert({"job": data.job, "amount": data.amount})
    return _refunded(data, ctx, record.id)


async def refund_async(data: Refund, ctx: ActionContext) -> Outcome:
    """The same."""
    record = await ctx.async_records("refunds").insert({"job": data.job, "amount": data.amount})
    return _refunded(data, ctx, record.id)


def _refund_with(events: int) -> Handler:
    def handler(data: Refund, ctx: ActionContext) -> Outcome:
        for number in range(1, events):
            ctx.emit("payments.noted", {"job": data.job, "amount": data.amount}, subject=f"jobs/{data.job}/{number}")
        return refund(data, ctx)

    return handler


def refund_core(data: Refund, ctx: ActionContext) -> Outcome:
    """One row of the host's own table through SQLAlchemy Core, one event."""
    row = _row(data, ctx)
    ctx.session.execute(insert(REFUNDS), row)
    return _refunded(data, ctx, row["id"])


async def refund_core_async(data: Refund, ctx: ActionContext) -> Outcome:
    """The same."""
    row = _row(data, ctx)
    await ctx.async_session.execute(insert(REFUNDS), row)
    return _refunded(data, ctx, row["id"])


def _row(data: Refund, ctx: ActionContext) -> dict[str, Any]:
    return {
        "tenant_id": ctx.tenant.id,
        "id": str(uuid7()),
        "version": 1,
        "data": {"job": data.job, "amount": data.amount},
    }


def _refunded(data: Refund, ctx: ActionContext, id: str) -> Outcome:
    ctx.emit(PERMISSION, {"job": data.job, "amount": data.amount}, subject=f"jobs/{data.job}")
    return Success({"id": id, "job": data.job, "amount": data.amount})
