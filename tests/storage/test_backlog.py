"""The backlog of all tenants, for operators: open approvals and active schedules."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from returns.result import Success

from actionengine import (
    Actor,
    ApprovalPolicy,
    Engine,
    InMemoryStorage,
    PostgresStorage,
    RBACAuthorizer,
    RequestContext,
    SQLiteStorage,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.authorization.cache import cached_bytes
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.rows import Backlog
from actionengine.storage.sqlite.statements import BACKLOG
from actionengine.workflows import workflow_services
from tests.backends import AnyStorage
from tests.growth import fill

BOSS = Actor.human("boss", permissions=["*"])


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyStorage]:
    if request.param == "memory":
        yield InMemoryStorage()
    elif request.param == "sqlite":
        with SQLiteStorage(tmp_path / "backlog.db") as sqlite:
            yield sqlite
    else:
        with PostgresStorage(request.getfixturevalue("fresh_postgres_database").app_url) as postgres:
            yield postgres


def engine_on(storage: AnyStorage) -> Engine:
    def pay(name: str, lasts: timedelta) -> Any:
        policy = ApprovalPolicy(when=lambda data, ctx: True, permission="approve", expires_after=lasts)
        return create_action(name=name, description="x", handler=lambda data, ctx: Success(1), approval=policy)

    actions = [pay("pay", timedelta(days=7)), pay("soon", timedelta(microseconds=1))]
    return create_engine(
        services=[create_service(name="work", description="x", actions=actions), *workflow_services()], storage=storage
    )


def do(engine: Engine, tenant: Tenant, name: str, payload: Any, actor: Actor = BOSS) -> Any:
    service, _, action = name.partition(".")
    return engine.execute_action(service, action, payload, RequestContext(tenant, actor))


async def backlog_of(storage: AnyStorage) -> Backlog:
    try:
        return await storage.backlog("async")
    finally:
        if not isinstance(storage, InMemoryStorage):
            await storage.aclose_loop()


def test_the_backlog_of_all_tenants(storage: AnyStorage) -> None:
    engine = engine_on(storage)
    one, other = (storage.create_tenant(slug=f"t-{uuid4().hex}", name="x") for _ in range(2))
    assert run_sync(storage.backlog("sync")) == (0, None, 0)
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    asked = []
    for number, tenant in enumerate((one, other, other)):
        do(engine, tenant, "work.soon", {}, Actor.human("ann"))
        answer = do(engine, tenant, "work.pay", {"number": number}, Actor.human("ann"))
        asked.append((tenant, answer.failure().details["approval_id"]))
    step = {"name": "s", "type": "notification", "to": "a", "message": "m"}
    do(engine, one, "workflows.define", {"key": "w", "definition": {"steps": [step]}}).unwrap()
    schedule = {"key": "w", "trigger": {"type": "schedule", "schedule": "0 9 * * *"}}
    first, _ = (do(engine, one, "triggers.create", schedule).unwrap() for _ in range(2))

    approvals, oldest, schedules = run_sync(storage.backlog("sync"))

    assert (approvals, schedules) == (3, 2)
    assert oldest is not None
    assert before <= oldest <= datetime.now(UTC) + timedelta(milliseconds=1)
    tenant, id = asked[0]
    do(engine, tenant, "approvals.approve", {"approval_id": id}).unwrap()
    do(engine, one, "triggers.disable", {"trigger_id": first.id}).unwrap()

    later = asyncio.run(backlog_of(storage))

    assert (later.approvals, later.schedules) == (2, 1)
    assert later.oldest_approval is not None
    assert later.oldest_approval >= oldest


def test_expired_approvals_and_other_triggers_are_not_read(storage: AnyStorage) -> None:
    tenant = storage.create_tenant(slug=f"t-{uuid4().hex}", name="x")
    old = {"open_until": "2020-01-01T00:00:00.000000+00:00", "status": "pending", "requested_by": "human:ann"}
    fill(storage, tenant, "ae_approvals", [(str(uuid4()), old) for _ in range(300)])
    if isinstance(storage, SQLiteStorage):
        limits = (10, "ae_approvals/open_until:", 10)
        explained = storage.database.query("sync", f"EXPLAIN QUERY PLAN {BACKLOG}", limits)
        plan = " ".join(row[-1] for row in explained)
        assert "USING COVERING INDEX ae_document_keys_open (key>? AND key<?)" in plan
        assert "ae_document_keys_schedules" in plan
    assert run_sync(storage.backlog("sync")) == (0, None, 0)


def test_the_caches_of_a_process_report_their_sizes() -> None:
    storage = InMemoryStorage()
    tenant = storage.create_tenant(slug="acme", name="Acme")
    authorizer = RBACAuthorizer(storage)
    action = create_action(name="go", description="x", handler=lambda data: Success(1), permission="go")
    service = create_service(name="work", description="x", actions=[action])
    engine = create_engine(services=[service], storage=storage, authorizer=authorizer)
    before = cached_bytes()

    do(engine, tenant, "work.go", {}, Actor.human("ann"))

    after = cached_bytes()
    grown = sum(after[name] - before[name] for name in ("decisions", "roles"))
    assert grown == authorizer.cached_bytes > 0
    assert after["workflow_definitions"] >= 0
