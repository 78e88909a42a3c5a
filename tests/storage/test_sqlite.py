"""`SQLiteStorage`: the suite for every storage."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from returns.result import Result, Success
from sqlalchemy import text

from actionengine import (
    ActionContext,
    Actor,
    Budget,
    Engine,
    RequestContext,
    SQLiteStorage,
    Tenant,
)
from actionengine.storage.sqlite.driver import ReleasingConnection
from actionengine.testing import StorageConformance
from tests.backends import TENANT_TABLES
from tests.storage.backends import engine_on


@pytest.fixture(scope="module")
def shared_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path_factory.mktemp("suite") / "actionengine.db") as storage:
        yield storage


class TestSQLiteStorage(StorageConformance):
    @pytest.fixture
    def storage(self, shared_storage: SQLiteStorage) -> SQLiteStorage:
        return shared_storage


TABLES = (*TENANT_TABLES, "ae_tenants")
AGENT = Actor.ai("bot", on_behalf_of=Actor.human("ann"))


def put(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    # A collection with lookups, too.
    ctx.records("workflow_assignments").insert({"assignee": ctx.tenant.slug}, "a1")
    return Success(ctx.records("notes").insert({"of": ctx.tenant.slug}, "n1").id)


def run(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    for statement in data["statements"]:
        ctx.session.execute(text(statement))
    return Success(None)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path / "actionengine.db") as storage:
        yield storage


@pytest.fixture
def engine(storage: SQLiteStorage) -> Engine:
    calls = Budget("calls", limit=100, window=timedelta(hours=1))
    return engine_on(storage, put, run, service="notes", budgets=[calls])


def dump(storage: SQLiteStorage, tenant: Tenant) -> list[Any]:
    with storage.pools.engine("sync").connect() as connection:
        return [
            connection.execute(text(f"SELECT * FROM {table} WHERE tenant_id = :id"), {"id": str(tenant.id)}).fetchall()
            for table in TABLES
        ]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("verb", ["update", "give", "replace", "delete", "insert"])
def test_a_handlers_sql_does_not_write_another_tenants_rows(
    storage: SQLiteStorage, engine: Engine, table: str, verb: str
) -> None:
    victim, attacker = (storage.create_tenant(slug=slug, name=slug) for slug in ("victim", "attacker"))
    for tenant in (victim, attacker):
        request = RequestContext(tenant=tenant, actor=AGENT, idempotency_key="key", reason="asked")
        engine.execute_action("notes", "put", {}, request).unwrap()
    before = dump(storage, victim)
    mine, theirs = f"'{attacker.id}'", f"'{victim.id}'"
    with storage.pools.engine("sync").connect() as connection:
        columns = [row[1] for row in connection.execute(text(f"PRAGMA table_info({table})"))]
    moved = ", ".join(f"{theirs}" if column == "tenant_id" else column for column in columns)
    statement = {
        "update": f"UPDATE {table} SET tenant_id = {mine} WHERE tenant_id = {theirs}",
        "give": f"UPDATE {table} SET tenant_id = {theirs} WHERE tenant_id = {mine}",
        "replace": f"REPLACE INTO {table} SELECT {moved.replace(theirs, mine)} FROM {table} WHERE tenant_id = {theirs}",
        "delete": f"DELETE FROM {table} WHERE tenant_id = {theirs}",
        "insert": f"INSERT INTO {table} SELECT {moved} FROM {table} WHERE tenant_id = {mine}",
    }[verb]

    request = RequestContext(tenant=attacker, actor=Actor.human("ann"))
    answer = engine.execute_action("notes", "run", {"statements": [statement]}, request)

    assert dump(storage, victim) == before
    if verb != "replace":
        # The refusal of the trigger itself: a taken key would refuse this statement as well.
        assert f"{statement.split()[0]} on {table}" in str(answer.failure())


@pytest.mark.parametrize(
    "table", ["ae_action_log", "ae_action_log_subjects", "ae_action_log_principals", "ae_action_log_words", "ae_events"]
)
def test_what_is_append_only_is_not_replaced_either(storage: SQLiteStorage, engine: Engine, table: str) -> None:
    tenant = storage.create_tenant(slug="acme", name="Acme")
    request = RequestContext(tenant=tenant, actor=AGENT, reason="asked")
    engine.execute_action("notes", "put", {}, request).unwrap()

    statement = f"REPLACE INTO {table} SELECT * FROM {table}"
    answer = engine.execute_action("notes", "run", {"statements": [statement]}, request)

    assert "append-only" in str(answer.failure())


def test_a_connection_cancelled_while_opening_is_closed(tmp_path: Path) -> None:
    """Python 3.13 and newer warn of an unclosed connection."""
    path = tmp_path / "cancelled.db"
    opens, is_cancelled = threading.Event(), threading.Event()

    class Slow(ReleasingConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.execute("CREATE TABLE held (id INTEGER)")
            opens.set()
            assert is_cancelled.wait(60)

    async def cancel() -> None:
        connection = aiosqlite.connect(path, factory=Slow, check_same_thread=False)
        opening = asyncio.ensure_future(connection)
        await asyncio.to_thread(opens.wait, 60)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        is_cancelled.set()
        await asyncio.to_thread(connection._thread.join, 60)

    asyncio.run(cancel())

    gc.collect()
    with closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("INSERT INTO held VALUES (1)")
