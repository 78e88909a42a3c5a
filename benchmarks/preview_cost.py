"""The cost of a preview, and of a plan: of an action that changes one document or row and adds another, against its
execution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from returns.result import Result, Success
from sqlalchemy import insert, update
from uuid_utils import uuid7

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    Engine,
    InMemoryStorage,
    RequestContext,
    Storage,
    create_action,
    create_engine,
    create_service,
)
from actionengine.storage.postgres.storage import PostgresStorage
from benchmarks.postgres import REFUNDS, database
from benchmarks.report import Row
from benchmarks.timing import take_samples
from benchmarks.workers import WARM_UP, in_threads

_CALLS = 40
"""In one slice."""

_AMOUNT = {"amount": 1}


def run(seconds: float) -> list[Row]:
    """In memory and on PostgreSQL."""
    rows = _measured("memory", InMemoryStorage(), ("documents",), seconds)
    with _postgres() as storage:
        return rows + _measured("postgres", storage, ("documents", "statements"), seconds)


@contextmanager
def _postgres() -> Iterator[PostgresStorage]:
    with database() as made:
        storage = PostgresStorage(made.app_url, pool_size=1, max_overflow=0)
        yield storage
        storage.close()


def _measured(where: str, storage: Storage, kinds: tuple[str, ...], seconds: float) -> list[Row]:
    request = RequestContext(storage.create_tenant(slug=f"acme-{uuid7()}", name="Acme"), Actor.human("ann"))
    actions = [create_action(name=each.__name__, description="", handler=each) for each in HANDLERS]
    engine = create_engine(services=[create_service(name="b", description="", actions=actions)], storage=storage)
    rows = []
    for kind in kinds:
        engine.execute_action("b", f"open_{kind}", None, request).unwrap()
        calls = {
            "execution": partial(engine.execute_action, "b", kind, _AMOUNT, request),
            "preview": partial(engine.preview, "b", kind, _AMOUNT, request),
            "plan": partial(_with_plan, engine, kind, request),
        }
        for call in calls.values():
            in_threads([call], WARM_UP)
        times = take_samples({name: partial(in_threads, [call], _CALLS) for name, call in calls.items()}, seconds)
        rows += [
            Row(
                f"preview_cost_{where}_{kind}_{name}",
                f"{what} of an action that writes {kind} ({where})",
                "its execution",
                times[name],
                times["execution"],
            )
            for name, what in (("preview", "a preview"), ("plan", "a preview and an execution with its plan"))
        ]
    return rows


def _with_plan(engine: Engine, kind: str, request: RequestContext) -> Any:
    plan = engine.preview("b", kind, _AMOUNT, request).unwrap().plan
    planned = RequestContext(request.tenant, request.actor, plan=plan)
    return engine.execute_action("b", kind, _AMOUNT, planned).unwrap()


def open_documents(data: Any, ctx: ActionContext) -> Result[None, ActionError]:
    """Add the document that is changed."""
    ctx.records("accounts").insert({"balance": 0}, "a")
    return Success(None)


def documents(data: Any, ctx: ActionContext) -> Result[str, ActionError]:
    """Change a document, and add one."""
    accounts = ctx.records("accounts")
    account = accounts.get("a")
    assert account is not None
    accounts.update("a", {"balance": account.data["balance"] + data["amount"]}, account.version)
    return Success(ctx.records("transfers").insert({**data, "at": ctx.now.isoformat()}).id)


def open_statements(data: Any, ctx: ActionContext) -> Result[None, ActionError]:
    """Add the row that is changed."""
    ctx.session.execute(insert(REFUNDS).values(tenant_id=ctx.tenant.id, id="a", version=1, data={}))
    return Success(None)


def statements(data: Any, ctx: ActionContext) -> Result[str, ActionError]:
    """Change a row, and add one."""
    mine = (REFUNDS.c.tenant_id == ctx.tenant.id) & (REFUNDS.c.id == "a")
    ctx.session.execute(update(REFUNDS).where(mine).values(version=REFUNDS.c.version + 1))
    id = ctx.new_id()
    ctx.session.execute(insert(REFUNDS).values(tenant_id=ctx.tenant.id, id=id, version=1, data=data))
    return Success(id)


HANDLERS = (open_documents, documents, open_statements, statements)
