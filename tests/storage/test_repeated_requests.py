"""Many ask for the same approval at once, from several processes: one is open."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Barrier
from typing import Any

import pytest
from returns.result import Result, Success

from actionengine import ActionContext, Actor, ApprovalPolicy, ErrorCode, PostgresStorage, RequestContext, SQLiteStorage
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.records import APPROVALS
from tests.conftest import make_action
from tests.storage.backends import SQLDatabase, SQLStorage, as_ann, engine_on
from tests.waiting import wait_until

CALLERS = 16
KILLS = 15
_PROCESSES = multiprocessing.get_context("forkserver")
BOSS = Actor.human("boss", permissions=["approve"])
LEVELS = [
    "READ COMMITTED",
    *(pytest.param(level, marks=pytest.mark.soak) for level in ("REPEATABLE READ", "SERIALIZABLE")),
]


def pay(data: object, ctx: ActionContext) -> Result[int, str]:
    ctx.records("payments").insert({})
    return Success(1)


ACTION = make_action("pay", pay, approval=ApprovalPolicy(when=lambda data, ctx: True, permission="approve"))


def ids_in(storage: SQLStorage, context: RequestContext, collection: str) -> set[str]:
    assert context.tenant is not None
    unit = storage.unit_of_work(context.tenant, "a", "sync", read_only=True)
    found = {record.id for record in run_sync(unit.records(collection).list(limit=1000))}
    run_sync(unit.rollback())
    return found


@pytest.mark.parametrize("isolation_level", LEVELS)
def test_of_equal_requests_to_two_storages_one_is_stored(sql_database: SQLDatabase, isolation_level: str) -> None:
    options = {"isolation_level": isolation_level} if sql_database.name == "postgresql" else {}
    with sql_database.open(**options) as here, sql_database.open(**options) as there:
        context = as_ann(here.create_tenant(slug="acme", name="Acme"))
        engines = [engine_on(storage, ACTION) for storage in (here, there)]
        start = Barrier(CALLERS)

        def ask(number: int) -> str:
            start.wait()
            error = engines[number % 2].execute_action("w", "pay", {}, context).failure()
            assert error.code is ErrorCode.APPROVAL_REQUIRED, error.to_dict()
            id: str = error.details["approval_id"]
            return id

        with ThreadPoolExecutor(CALLERS) as threads:
            ids = set(threads.map(ask, range(CALLERS)))

        assert len(ids) == 1
        assert ids == ids_in(here, context, APPROVALS)


def ask_until_killed(address: str, context: RequestContext) -> None:
    """Ask for the same again and again, in a process of its own."""
    storage: Any = PostgresStorage(address) if address.startswith("postgres") else SQLiteStorage(address)
    engine = engine_on(storage, ACTION)
    while True:
        engine.execute_action("w", "pay", {}, context).failure()


@contextmanager
def asking(address: str, context: RequestContext) -> Iterator[Any]:
    process = _PROCESSES.Process(target=ask_until_killed, args=(address, context), daemon=True)
    process.start()
    yield process
    process.kill()
    process.join()


@pytest.mark.soak
def test_killed_callers_leave_one_open_approval(sql_database: SQLDatabase) -> None:
    dice = random.Random(7)
    with sql_database.open() as storage, ExitStack() as stack:
        context = as_ann(storage.create_tenant(slug="acme", name="Acme"))
        boss = RequestContext(tenant=context.tenant, actor=BOSS)
        engine = engine_on(storage, ACTION)
        url = storage.pools._url
        address = str(url.database if sql_database.name == "sqlite" else url.set(drivername="postgresql"))
        callers = [stack.enter_context(asking(address, context)) for _ in range(3)]

        def pending() -> list[str]:
            page = engine.execute_action("approvals", "list", {"status": "pending"}, boss).unwrap()
            return [each.id for each in page.items]

        for number in range(KILLS):
            wait_until(pending)
            time.sleep(dice.uniform(0.0, 0.05))
            callers[number % 3].kill()
            (id,) = pending()
            engine.execute_action("approvals", "approve", {"approval_id": id}, boss).unwrap()
            callers[number % 3] = stack.enter_context(asking(address, context))
        assert len(ids_in(storage, context, "payments")) == KILLS
