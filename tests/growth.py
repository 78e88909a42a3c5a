"""Counts of what an operation does, and never its time: calls in memory, steps of SQLite, pages of PostgreSQL.

What grows with rows that do not matter to an operation shows in these, however small the numbers are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from actionengine import InMemoryStorage, PostgresStorage, SQLiteStorage, Tenant
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.postgres.unit_of_work import PostgresUnitOfWork

AnyStorage = InMemoryStorage | SQLiteStorage | PostgresStorage

PLANS = ("force_custom_plan", "force_generic_plan")
"""How PostgreSQL plans a prepared statement: for its parameters; or once for all, as it may do from the sixth on."""

_STEPS_AT_ONCE = 10


def count(storage: AnyStorage, tenant: Tenant, operation: Callable[[], object]) -> dict[str, int]:
    """Run an operation; return what it has done, by the name of the count.

    On PostgreSQL only what it reads before its last statement counts: each of these is explained afterwards.
    """
    if isinstance(storage, InMemoryStorage):
        return {"calls": _calls(operation)}
    if isinstance(storage, SQLiteStorage):
        return {"steps": _steps(storage, operation)}
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
    """Return how many pages a statement touches in the tenant's transaction, which is rolled back."""
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
    """Return the lines of EXPLAIN, as the role that the storage has, in the tenant's transaction."""
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
