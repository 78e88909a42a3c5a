"""Counts of the work of an operation, instead of its time: calls in memory, steps of SQLite, pages of PostgreSQL.

They show whether the work grows with rows that do not matter to the operation, even when the numbers are small.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
from examples.embedded_postgres import Database
from psycopg import sql
from returns.result import Success
from uuid_utils import uuid7

from actionengine import (
    Actor,
    ApprovalPolicy,
    Budget,
    Engine,
    InMemoryStorage,
    PostgresStorage,
    RequestContext,
    SQLiteStorage,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.postgres.unit_of_work import PostgresUnitOfWork
from actionengine.storage.records import APPROVALS
from tests.backends import AnyStorage

PLANS = ("force_custom_plan", "force_generic_plan")
"""The plans of a prepared statement on PostgreSQL: for its parameters, or (possible from the sixth run) for any."""

_STEPS_AT_ONCE = 10

FEW, MANY = 60, 960
"""Numbers of rows in a short past and in a long one: a page of what matters fits the short one."""

BOSS = Actor.human("boss", permissions=["*"])
ANN = Actor.human("ann", permissions=["pay"])


class Office:
    """A tenant with a past."""

    def __init__(self, storage: AnyStorage, budgets: Sequence[Budget] = ()) -> None:
        self.storage = storage
        self.tenant = storage.create_tenant(slug=f"t-{uuid4().hex}", name="Office")
        policy = ApprovalPolicy(when=lambda data, ctx: True, permission="pay.approve")
        pay = create_action(name="pay", description="x", handler=lambda data, ctx: Success(1), approval=policy)
        note = create_action(name="note", description="x", handler=lambda data, ctx: Success(1))
        service = create_service(name="work", description="x", actions=[pay, note])
        self.engine: Engine = create_engine(services=[service], storage=storage, budgets=budgets)

    def do(self, name: str, payload: Mapping[str, Any], actor: Actor = BOSS) -> Any:
        service, _, action = name.partition(".")
        return self.engine.execute_action(service, action, payload, RequestContext(self.tenant, actor))

    def approvals(self, number: int, **changes: Any) -> None:
        """Add copies of a requested approval, with `changes`."""
        self.do("work.pay", {"amount": 1}, ANN)
        (newest,) = self.records(APPROVALS, 1)
        fill(
            self.storage,
            self.tenant,
            APPROVALS,
            [(id, {**newest.data, "id": id, **changes}) for id in (str(uuid7()) for _ in range(number))],
        )

    def records(self, collection: str, limit: int = 100) -> Any:
        unit = self.storage.unit_of_work(self.tenant, str(uuid4()), "sync", read_only=True)
        try:
            return run_sync(unit.records(collection).list(limit=limit, descending=True))
        finally:
            run_sync(unit.rollback())


OfficeT = TypeVar("OfficeT", bound=Office)

_OFFICES: dict[Any, tuple[Any, Any]] = {}


@contextmanager
def open_growing_storage(kind: str, folder: Path, database: Database | None) -> Iterator[AnyStorage]:
    """Open a storage with one connection, for the tests of a file."""
    storage: Any
    if kind == "memory":
        storage = InMemoryStorage()
    elif database is None:
        storage = SQLiteStorage(folder / "growth.db", pool_size=1, max_overflow=0)
    else:
        storage = PostgresStorage(database.app_url, pool_size=1, max_overflow=0)
    with storage:
        yield storage
    _OFFICES.clear()


def costs_the_same(
    storage: AnyStorage,
    past: Callable[[OfficeT, int], None],
    operation: Callable[[OfficeT], object],
    make: Callable[[AnyStorage], OfficeT] = Office,  # type: ignore[assignment]
) -> None:
    """Expect that an operation does about as much with a long past as with a short one, which tests of a file share."""
    if (storage, past, make) not in _OFFICES:
        _OFFICES[storage, past, make] = made = make(storage), make(storage)
        for office, number in zip(made, (FEW, MANY), strict=True):
            past(office, number)
    offices = _OFFICES[storage, past, make]
    few, many = (count(storage, office.tenant, partial(operation, office)) for office in offices)
    assert few.keys() == many.keys()
    assert all(many[name] <= 1.5 * few[name] + 20 for name in few), (few, many)


def count(storage: AnyStorage, tenant: Tenant, operation: Callable[[], object]) -> dict[str, int]:
    """Run an operation and return its work, by the name of the count.

    On PostgreSQL the reads before its last statement count: each of them is explained afterwards.
    """
    if isinstance(storage, InMemoryStorage):
        return {"calls": _calls(operation)}
    if isinstance(storage, SQLiteStorage):
        return {"steps": _steps(storage, operation)}
    assert isinstance(storage, PostgresStorage)
    statements = _statements(operation)
    return {plan: sum(pages_of(storage, tenant, *each, plan=plan) for each in statements) for plan in PLANS}


def _calls(operation: Callable[[], object]) -> int:
    calls = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    operation()
    sys.setprofile(profile)
    try:
        operation()
    finally:
        sys.setprofile(None)
    return calls


def _steps(storage: SQLiteStorage, operation: Callable[[], object]) -> int:
    steps = 0

    def progress() -> None:
        nonlocal steps
        steps += _STEPS_AT_ONCE

    operation()
    engine, pooled = storage.pools.take("sync")
    connection: Any = pooled.driver_connection
    storage.pools.release(engine, pooled)
    connection.set_progress_handler(progress, _STEPS_AT_ONCE)
    try:
        operation()
    finally:
        connection.set_progress_handler(None, 0)
    return steps


def _statements(operation: Callable[[], object]) -> list[tuple[str, Sequence[Any]]]:
    found: list[tuple[str, Sequence[Any]]] = []
    usual = PostgresUnitOfWork.execute

    def execute(self: PostgresUnitOfWork, statement: str, parameters: Sequence[Any]) -> list[Any]:
        found.append((statement, parameters))
        return usual(self, statement, parameters)

    with _patched(PostgresUnitOfWork, "execute", execute):
        operation()
    return [(statement, parameters) for statement, parameters in found if parameters]


@contextmanager
def _patched(owner: type, name: str, replacement: object) -> Iterator[None]:
    usual = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, usual)


def pages_of(storage: PostgresStorage, tenant: Tenant, statement: str, parameters: Sequence[Any], *, plan: str) -> int:
    """Return the number of pages that a statement touches in a transaction of the tenant, which is rolled back."""
    (explained,) = explain(storage, tenant, statement, parameters, plan=plan, options="ANALYZE, BUFFERS, FORMAT JSON")
    (found,) = explained if isinstance(explained, list) else json.loads(explained)
    root = found["Plan"]
    return int(root["Shared Hit Blocks"]) + int(root["Shared Read Blocks"])


def explain(
    storage: PostgresStorage,
    tenant: Tenant,
    statement: str,
    parameters: Sequence[Any],
    *,
    plan: str,
    options: str = "COSTS OFF",
) -> list[Any]:
    """Return the lines of EXPLAIN in a transaction of the tenant, as the role of the storage."""
    marked = statement
    for number in range(1, len(parameters) + 1):
        marked = marked.replace("%s", f"${number}", 1)
    with psycopg.connect(storage.pools._url.set(drivername="postgresql").render_as_string(hide_password=False)) as app:
        app.execute(
            "SELECT set_config('app.tenant_id', %s, true), set_config('app.action_id', %s, true)",
            (str(tenant.id), str(uuid4())),
        )
        app.execute(f"SET LOCAL plan_cache_mode = {plan}".encode())
        app.execute(f"PREPARE explained AS {marked.replace('%%', '%')}".encode())
        values = sql.SQL(", ").join(map(sql.Literal, parameters))
        given = sql.SQL("EXPLAIN ({}) EXECUTE explained ({})").format(sql.SQL(options), values)
        lines = [line for (line,) in app.execute(given).fetchall()]
        app.rollback()
    return lines


def fill(storage: AnyStorage, tenant: Tenant, collection: str, documents: Sequence[tuple[str | None, Any]]) -> None:
    """Add documents to a collection, by id, in one transaction."""
    unit = storage.unit_of_work(tenant, str(uuid4()), "sync")
    records = unit.records(collection)
    for id, data in documents:
        run_sync(records.insert(data, id))
    run_sync(unit.commit())
