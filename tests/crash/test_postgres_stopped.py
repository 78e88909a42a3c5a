"""PostgreSQL is stopped under load and started again: bounded errors, and recovery without a restart of the host."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from returns.result import Result, Success
from sqlalchemy import text

from actionengine import ActionContext, ActionError, Engine, ErrorCode, PostgresStorage, Tenant
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.testing import AsyncBackend, Backend, SyncBackend
from actionengine.testing.base import error_of, value_of
from tests.crash.ledger import (
    check_all_is_there_once,
    check_nothing_is_half_there,
    execute_transfer,
    ledger_engine,
    payload_of,
    read_books,
    request_of,
    transfer_in,
)
from tests.crash.notes import notes_engine, notes_request, put, run_note
from tests.crash.servers import StopMode, StoppableServer, stoppable_server
from tests.waiting import wait_until

WORKERS = 3
BOUND = 60.0
"""Seconds that one call may take while the server is away."""

HONEST = {ErrorCode.UNAVAILABLE, ErrorCode.CONFLICT, ErrorCode.TIMEOUT}


@pytest.fixture(scope="module")
def server() -> Iterator[StoppableServer]:
    with stoppable_server() as server:
        yield server


@pytest.fixture
def storage(server: StoppableServer) -> Iterator[PostgresStorage]:
    with PostgresStorage(server.database.app_url, pool_timeout=10.0, connect_timeout=10) as storage:
        yield storage


@pytest.fixture
def tenant(storage: PostgresStorage) -> Tenant:
    return storage.create_tenant(slug=f"t-{uuid4().hex}", name="A ledger")


@pytest.fixture
def engine(storage: PostgresStorage, tenant: Tenant) -> Engine:
    engine = ledger_engine(storage)
    value_of(engine.execute_action("ledger", "open", None, request_of(tenant, None)))
    return engine


class Load:
    """Transfers in threads and, at the same time, in the tasks of an event loop."""

    def __init__(self, engine: Engine, storage: PostgresStorage, tenant: Tenant) -> None:
        self.engine = engine
        self.storage = storage
        self.tenant = tenant
        self.asked: set[str] = set()
        self.acknowledged: dict[str, Any] = {}
        self.codes: dict[Mode, Counter[ErrorCode]] = {"sync": Counter(), "async": Counter()}
        self.done: Counter[Mode] = Counter()
        self.slowest = 0.0
        self._is_over = threading.Event()
        self._threads = ThreadPoolExecutor(WORKERS + 1)
        self._work = [self._threads.submit(self._in_thread, number) for number in range(WORKERS)]
        self._work.append(self._threads.submit(lambda: asyncio.run(self._in_tasks())))

    def end(self) -> None:
        self._is_over.set()
        for work in self._work:
            work.result(120)
        self._threads.shutdown()

    def wait_for_successes(self, more: int = 20) -> None:
        """Wait until both modes have had so many more successes."""
        before = dict(self.done)
        wait_until(lambda: all(self.done[mode] >= before.get(mode, 0) + more for mode in self.codes))

    def wait_for_refusals(self) -> None:
        """Wait until both modes have noticed that the server is away."""
        wait_until(lambda: all(codes[ErrorCode.UNAVAILABLE] for codes in self.codes.values()))

    def _in_thread(self, worker: int) -> None:
        run_sync(self._transfer("sync", f"thread {worker}"))

    async def _in_tasks(self) -> None:
        await asyncio.gather(*(self._transfer("async", f"task {number}") for number in range(WORKERS)))
        await self.storage.aclose()

    async def _transfer(self, mode: Mode, worker: str) -> None:
        for number in count():
            if self._is_over.is_set():
                return
            key = f"{worker}/{number}"
            self.asked.add(key)
            started = time.monotonic()
            answer = await execute_transfer(self.engine, mode, self.tenant, key)
            self.slowest = max(self.slowest, time.monotonic() - started)
            if isinstance(answer, Success):
                self.acknowledged[key] = answer.unwrap()
                self.done[mode] += 1
                continue
            self.codes[mode][answer.failure().code] += 1
            # A refused host pauses before it tries again.
            if mode == "sync":
                time.sleep(0.01)
            else:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restarted_server_costs_bounded_errors_and_no_effect(
    server: StoppableServer, storage: PostgresStorage, engine: Engine, tenant: Tenant, mode: StopMode
) -> None:
    load = Load(engine, storage, tenant)
    try:
        load.wait_for_successes()
        server.stop(mode)
        try:
            load.wait_for_refusals()
        finally:
            server.start()
        load.wait_for_successes()
    finally:
        load.end()

    assert {code for codes in load.codes.values() for code in codes} <= HONEST
    assert load.slowest < BOUND
    books = read_books(storage, tenant)
    check_nothing_is_half_there(books, load.asked, load.acknowledged)

    answers = asyncio.run(ask_again(storage, engine, tenant, load.asked))

    assert load.acknowledged.items() <= answers.items()
    check_all_is_there_once(read_books(storage, tenant), load.asked)


async def ask_again(storage: PostgresStorage, engine: Engine, tenant: Tenant, keys: set[str]) -> dict[str, Any]:
    modes: dict[bool, Mode] = {True: "sync", False: "async"}
    answers = {
        key: value_of(await execute_transfer(engine, modes[key.startswith("thread")], tenant, key))
        for key in sorted(keys)
    }
    await storage.aclose()
    return answers


@pytest.fixture(params=["sync", "async"])
def backend(request: pytest.FixtureRequest, storage: PostgresStorage) -> Iterator[Backend]:
    backend: Backend = (SyncBackend if request.param == "sync" else AsyncBackend)(storage)
    yield backend
    backend.close()


def test_host_started_without_its_server_works_once_it_is_there(
    server: StoppableServer, tenant: Tenant, backend: Backend
) -> None:
    late = PostgresStorage(server.database.app_url, connect_timeout=2)
    engine = ledger_engine(late)
    name = transfer_in(backend.mode)
    server.stop("fast")
    try:
        refused = backend.run(backend.execute(engine, "ledger", name, payload_of("late"), request_of(tenant, "late")))
        unresolved = engine.resolve_tenant(tenant.slug)
    finally:
        server.start()

    opened = backend.run(backend.execute(engine, "ledger", "open", None, request_of(tenant, None)))
    answer = backend.run(backend.execute(engine, "ledger", name, payload_of("late"), request_of(tenant, "late")))

    error_of(refused, ErrorCode.UNAVAILABLE)
    assert unresolved.failure().code is ErrorCode.UNAVAILABLE
    value_of(opened)
    value_of(answer)
    check_all_is_there_once(read_books(late, tenant), {"late"})
    backend.run(closed(late, backend.mode))


def test_connection_ended_under_a_handler_leaves_nothing(server: StoppableServer, backend: Backend) -> None:
    def end_own_connection(data: None, ctx: ActionContext) -> Result[None, Any]:
        notes = ctx.records("notes")
        notes.insert({}, "before")
        pid = ctx.session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with psycopg.connect(server.superuser_url, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        notes.insert({}, "after")
        return Success(None)

    engine = notes_engine(backend.storage, end=end_own_connection, put=put)
    request = notes_request(backend)

    ended = run_note(backend, engine, "end", request)

    error_of(ended, ErrorCode.UNAVAILABLE)
    value_of(run_note(backend, engine, "put", request))
    assert "before" not in backend.run(backend.ids("notes"))


def test_dead_pooled_connections_are_replaced_without_an_error(server: StoppableServer, backend: Backend) -> None:
    engine = notes_engine(backend.storage, put=put)

    def put_four() -> None:
        calls = (backend.execute(engine, "notes", "put", None, notes_request(backend)) for _ in range(4))
        for answer in backend.run(backend.gather(*calls)):
            value_of(answer)

    put_four()
    with psycopg.connect(server.superuser_url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'app'")
    put_four()
    assert len(backend.run(backend.ids("notes"))) == 8


def test_frozen_server_takes_no_longer_than_the_timeout(server: StoppableServer, backend: Backend) -> None:
    patient, engine = notes_engine(backend.storage, put=put), notes_engine(backend.storage, timeout=0.5, put=put)
    value_of(run_note(backend, patient, "put"))
    answers: list[Result[Any, ActionError]] = []

    asking = threading.Thread(target=lambda: answers.append(run_note(backend, engine, "put")))
    with server.frozen():
        asking.start()
        asking.join(20.0)
        came_in_time = not asking.is_alive()
    asking.join(60.0)

    assert came_in_time
    assert answers[0].failure().code in HONEST


async def closed(storage: PostgresStorage, mode: Mode) -> None:
    if mode == "async":
        await storage.aclose()
    else:
        storage.close()
