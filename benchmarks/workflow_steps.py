"""The cost of a governed step of a workflow on PostgreSQL, against plain steps of the durable engine, in the same run.

All three are executions by the durable engine, in this process, of so many steps one after the other; the time is taken
inside, so that waiting in the queue is not in it. A governed step is an action of a run: claimed, executed in a unit of
work that inserts one document, with its events, its rows in the action log and its place in the run. A plain step that
writes inserts one row in a transaction of its own; an empty one does nothing but be remembered.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import psycopg
from dbos import DBOS
from returns.result import Result, Success
from uuid_utils import uuid7

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    Engine,
    RequestContext,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.concurrency.run_sync import run_sync
from actionengine.durable.client import DurableClient
from actionengine.durable.host import DurableFunction, DurableHost
from actionengine.storage.postgres.storage import PostgresStorage
from actionengine.workflows import workflow_services
from actionengine.workflows.runtime.run_executor import RunExecutor
from actionengine.workflows.runtime.scheduler import Scheduler
from benchmarks.postgres import AMOUNT, Bench, database
from benchmarks.report import Row, at_most_ratio
from benchmarks.timing import Timing, take_samples

STEPS = 30
"""Of each execution."""

QUEUE = "bench"
KEY = "bench"
_INSERT = "INSERT INTO bench_refunds (tenant_id, id, version, data) VALUES (%s, %s, 1, %s)"
_LOOK = 0.005
"""Seconds between two looks at whether an execution is over."""


def run(seconds: float) -> list[Row]:
    """Governed steps against plain ones."""
    with database() as bench:
        storage = PostgresStorage(bench.app_url, pool_size=2, max_overflow=0)
        tenant = storage.create_tenant(slug=f"acme-{uuid7()}", name="Acme")
        engine = _engine(storage)
        client = DurableClient(bench.superuser_url)
        with psycopg.connect(bench.app_url, autocommit=True) as connection:
            functions = {
                "governed": _governed(engine, tenant, client),
                "writing": _plain(lambda: _insert(connection, tenant)),
                "empty": _plain(lambda: {"ok": True}),
            }
            times = _timed(bench, client, functions, seconds)
        client.close()
        storage.close()
    return [
        Row(
            f"workflow_step_{peer}",
            "a governed step of a workflow, one document",
            f"a plain step of the durable engine, {what}",
            times["governed"],
            times[peer],
            at_most_ratio(1.5),
        )
        for peer, what in (("writing", "one row"), ("empty", "which writes nothing"))
    ]


def _timed(
    bench: Bench, client: DurableClient, functions: dict[str, Callable[[], float]], seconds: float
) -> dict[str, Timing]:
    durable = [DurableFunction(name, _ignoring(function), QUEUE) for name, function in functions.items()]

    def measure(name: str) -> Callable[[], float]:
        return lambda: _result(client, name)

    with DurableHost(bench.superuser_url, durable, poll_interval=0.02):
        for name in functions:
            _result(client, name)
        return take_samples({name: measure(name) for name in functions}, seconds)


def _ignoring(function: Callable[[], float]) -> Callable[[str], float]:
    return lambda _: function()


def _result(client: DurableClient, name: str) -> float:
    id = str(uuid7())
    client.enqueue(name, id, queue=QUEUE, id=id)
    while True:
        found = client.status(id)
        assert found is not None
        status, value = found
        if status == "SUCCESS":
            return float(value)
        assert status in ("ENQUEUED", "PENDING"), status
        time.sleep(_LOOK)


def _plain(step: Callable[[], Any]) -> Callable[[], float]:
    def steps() -> float:
        started = time.perf_counter()
        for _ in range(STEPS):
            DBOS.run_step({"name": "step"}, step)
        return (time.perf_counter() - started) / STEPS

    return steps


def _insert(connection: psycopg.Connection, tenant: Tenant) -> dict[str, bool]:
    data = json.dumps({"job": "17", "amount": AMOUNT})
    connection.execute(_INSERT, (tenant.id, str(uuid7()), data), prepare=True)
    return {"ok": True}


def _governed(engine: Engine, tenant: Tenant, client: DurableClient) -> Callable[[], float]:
    executor = RunExecutor(engine, "sync", Scheduler(client))
    operator = RequestContext(tenant, Actor.system())
    action = {"type": "action", "action": "payments.refund", "input": {"job": "17", "amount": AMOUNT}}
    definition = {"steps": [{"name": f"step_{number}", **action} for number in range(STEPS)]}
    engine.execute_action("workflows", "define", {"key": KEY, "definition": definition}, operator).unwrap()
    engine.execute_action("workflows", "activate", {"key": KEY}, operator).unwrap()

    def steps() -> float:
        started_run = engine.execute_action("workflows", "start", {"key": KEY}, operator).unwrap()
        started = time.perf_counter()
        status = run_sync(executor.execute_run(tenant, KEY, started_run.id))
        taken = (time.perf_counter() - started) / STEPS
        assert status == "succeeded", status
        return taken

    return steps


def _engine(storage: PostgresStorage) -> Engine:
    def refund(data: Any, ctx: ActionContext) -> Result[dict[str, Any], ActionError]:
        record = ctx.records("refunds").insert(data)
        return Success({"id": record.id})

    action = create_action(name="refund", description="Give money back", handler=refund)
    payments = create_service(name="payments", description="Money", actions=[action])
    return create_engine(services=[*workflow_services(), payments], storage=storage)
