"""`PostgresStorage`: the suite for every storage, as a restricted role on a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    Actor,
    ErrorCode,
    Limits,
    PostgresStorage,
    RequestContext,
    create_action,
    create_engine,
    create_service,
)
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.postgres.unit_of_work import PostgresUnitOfWork
from actionengine.storage.rows import EventRow, Recording
from actionengine.testing import StorageConformance
from actionengine.testing.backend import make_tenant
from actionengine.testing.rows import event_row
from tests.conftest import log_of
from tests.storage.backends import engine_on
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def shared_storage(postgres_database: Database) -> Iterator[PostgresStorage]:
    with PostgresStorage(postgres_database.app_url) as storage:
        yield storage


class TestPostgresStorage(StorageConformance):
    @pytest.fixture
    def storage(self, shared_storage: PostgresStorage) -> PostgresStorage:
        return shared_storage


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_an_event_that_commits_late_is_not_skipped(fresh_postgres_database: Database, end: str) -> None:
    tenant = make_tenant()
    early, late, other = (event_row(tenant) for _ in range(3))
    with PostgresStorage(fresh_postgres_database.app_url) as storage:

        def written(event: EventRow) -> PostgresUnitOfWork:
            """A unit of work that has its place in the event log, and has yet to commit."""
            unit = storage.unit_of_work(tenant, event.action_id, "sync")
            run_sync(unit.record(Recording((), (event,))))
            unit.make_savepoints()
            unit._driver.execute(*unit._recording())
            unit._recordings.clear()
            return unit

        first = written(late)
        second = written(early)
        run_sync(second.commit())

        assert list(storage.read_events(tenant)) == []
        run_sync(getattr(first, end)())
        run_sync(written(other).commit())

        found = [stored.event.id for stored in storage.read_events(tenant)]
        assert found == [late.id, early.id, other.id][end == "rollback" :]


def test_a_key_over_the_limit_of_an_index_is_refused(postgres_database: Database) -> None:
    def put(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        return Success(ctx.records("notes").insert({}).id)

    action = create_action(name="put", description="Write", handler=put)
    service = create_service(name="notes", description="Notes", actions=[action])
    with PostgresStorage(postgres_database.app_url) as storage:
        engine = create_engine(services=[service], storage=storage, limits=Limits(key_length=100_000))
        tenant = storage.create_tenant(slug=f"t-{token_hex(8)}", name="Acme")
        # An index compresses repetitions.
        request = RequestContext(tenant=tenant, actor=Actor.human("ann"), idempotency_key=token_hex(9_000))

        error = engine.execute_action("notes", "put", {}, request).failure()

        assert error.code is ErrorCode.INVALID_INPUT
        assert "too long for the database's index" in error.message
        assert [entry.outcome for entry in log_of(engine, tenant)] == ["invalid"]


def test_a_burst_leaves_no_more_connections_than_the_pool_keeps(fresh_postgres_database: Database) -> None:
    together = threading.Barrier(8)
    with PostgresStorage(fresh_postgres_database.app_url, pool_size=4, max_overflow=4) as storage:
        tenant = storage.create_tenant(slug="acme", name="Acme")

        def wait(data: Any, ctx: ActionContext) -> Result[None, Any]:
            ctx.records("notes").insert({})
            together.wait(60)
            return Success(None)

        engine = engine_on(storage, wait, service="s")
        context = RequestContext(tenant=tenant, actor=Actor.human("ann"))
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: engine.execute_action("s", "wait", None, context), range(8)))
        assert answers == [Success(None)] * 8
        with psycopg.connect(fresh_postgres_database.owner_url, autocommit=True) as owner:
            backends = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = current_database()"
            # Four in the pool, and two in the pool of look-ups; the others close in a moment.
            wait_until(lambda: owner.execute(backends).fetchone()[0] <= 6)  # type: ignore[index]


def test_an_event_loop_may_keep_one_idle_connection(fresh_postgres_database: Database) -> None:
    backends = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = current_database()"

    async def idle_after_a_burst(is_limited: bool) -> int:
        storage = PostgresStorage(fresh_postgres_database.app_url)
        if is_limited:
            await storage.limit_idle()
        tenant = await storage.create_tenant_async(slug=f"acme-{is_limited}".lower(), name="Acme")
        units = [storage.unit_of_work(tenant, str(uuid4()), "async") for _ in range(6)]
        for unit in units:
            await unit.records("notes").get("a")
        for unit in units:
            await unit.rollback()
        with psycopg.connect(fresh_postgres_database.owner_url, autocommit=True) as owner:
            # The server notices a closed connection in a moment.
            if is_limited:
                wait_until(lambda: owner.execute(backends).fetchone()[0] <= 2)  # type: ignore[index]
            (count,) = owner.execute(backends).fetchone() or (0,)
        await storage.aclose()
        return int(count)

    assert asyncio.run(idle_after_a_burst(False)) >= 6
    assert asyncio.run(idle_after_a_burst(True)) <= 2
