"""The network goes silent, cuts, or forgets: each caller gets an answer within a bound, and the storage recovers.

The bounds here are small, and the guards generous.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from examples.embedded_postgres import Database
from returns.result import Result, Success
from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from actionengine import ActionContext, ConfigurationError, PostgresStorage
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.sql.storage import SQLStorage
from actionengine.testing import AsyncBackend, Backend, SyncBackend
from tests.crash.ledger import request_of
from tests.crash.notes import notes_engine, outcomes, put
from tests.crash.silent import ANSWER, call, failures_until_served, storage_through, within_guard
from tests.faulty_proxy import CommitPoint, Fault, FaultyProxy

BackendOn = Callable[[SQLStorage], Backend]


@pytest.fixture
def proxy(postgres_database: Database) -> Iterator[FaultyProxy]:
    with FaultyProxy.before_postgres(postgres_database.app_url) as proxy:
        yield proxy


@pytest.fixture
def storage(proxy: FaultyProxy, postgres_database: Database) -> PostgresStorage:
    return storage_through(proxy, postgres_database)


@pytest.fixture
def backend(storage: PostgresStorage, backend_on: BackendOn) -> Backend:
    return backend_on(storage)


def look_up(backend: Backend) -> int:
    """Read through the pool of look-ups."""

    async def ask() -> int:
        unit = backend.storage.unit_of_work(backend.tenant, "", backend.mode, read_only=True)
        try:
            return len(await unit.records("notes").list())
        finally:
            await unit.rollback()

    return backend.run(ask())


def warm(backend: Backend, number: int) -> None:
    """Fill both pools with idle connections: the main pool with this number."""
    together, together_async = threading.Barrier(number), asyncio.Barrier(number)

    def meet(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.records("notes").list()
        together.wait(20)
        return Success(None)

    async def meet_async(data: None, ctx: ActionContext) -> Result[None, Any]:
        await ctx.async_records("notes").list()
        await together_async.wait()
        return Success(None)

    engine = notes_engine(backend.storage, meet=meet if backend.mode == "sync" else meet_async)
    assert call(backend, engine, *["meet"] * number) == ["ok"] * number
    look_up(backend)


# The first connection


def test_first_connection_that_is_swallowed(proxy: FaultyProxy, backend: Backend) -> None:
    """All callers get an answer at the same time, not one after the other."""
    engine = notes_engine(backend.storage, put=put)
    proxy.swallow_new("after login")
    begun = time.monotonic()

    assert set(call(backend, engine, *["put"] * 6)) == {"unavailable"}

    assert time.monotonic() - begun < 6 * ANSWER + 4
    proxy.heal()
    assert failures_until_served(backend, engine, "put") == []


def test_first_look_up_that_is_swallowed(proxy: FaultyProxy, backend: Backend) -> None:
    engine = notes_engine(backend.storage, put=put)
    assert call(backend, engine, "put") == ["ok"]
    proxy.swallow_new("after login")

    with pytest.raises(StorageUnavailable):
        within_guard(lambda: look_up(backend))

    proxy.heal()
    assert within_guard(lambda: look_up(backend)) == 1


@pytest.mark.parametrize("since", ["the beginning", "after login"])
def test_opening_a_storage_is_bounded(proxy: FaultyProxy, backend: Backend, since: Any) -> None:
    proxy.swallow_new(since)

    with pytest.raises(StorageUnavailable):
        within_guard(lambda: backend.run(backend.list_tenants()))


def test_first_connection_of_a_hosts_own_engine(
    proxy: FaultyProxy, postgres_database: Database, backend_on: BackendOn
) -> None:
    url = make_url(proxy.url(postgres_database.app_url)).set(drivername="postgresql+psycopg")
    own, own_async = create_engine(url), create_async_engine(url.set(drivername="postgresql+psycopg_async"))
    opened: list[Any] = []
    for each in (own, own_async.sync_engine):
        event.listen(each, "connect", lambda connection, record: opened.append(record.driver_connection), insert=True)
    backend = backend_on(PostgresStorage(engine=own, async_engine=own_async, answer_timeout=ANSWER))
    engine = notes_engine(backend.storage, put=put)
    proxy.swallow_new("after login")

    assert call(backend, engine, "put") == ["unavailable"]

    proxy.heal()
    assert failures_until_served(backend, engine, "put") == []
    with own.connect() as connection:
        # The host's own statements are not bounded.
        connection.execute(text("SELECT pg_sleep(1.4)"))
    own.dispose()
    backend.run(disposed(own_async, backend.mode))
    for driver in opened:
        # SQLAlchemy leaves a connection that fails to open to the garbage collector.
        driver.pgconn.finish()


@pytest.mark.parametrize("asked_by", ["pre-ping", "listener"])
def test_statements_of_a_hosts_engine_at_checkout_are_bounded(
    proxy: FaultyProxy, postgres_database: Database, backend_on: BackendOn, asked_by: str
) -> None:
    url = make_url(proxy.url(postgres_database.app_url)).set(drivername="postgresql+psycopg")
    pings = asked_by == "pre-ping"
    own = create_engine(url, pool_pre_ping=pings)
    own_async = create_async_engine(url.set(drivername="postgresql+psycopg_async"), pool_pre_ping=pings)
    for each in (own, own_async.sync_engine) if not pings else ():
        event.listen(each, "checkout", _ask_in)
    backend = backend_on(PostgresStorage(engine=own, async_engine=own_async, answer_timeout=ANSWER))
    engine = notes_engine(backend.storage, put=put)
    assert call(backend, engine, "put") == ["ok"]
    assert proxy.swallow()

    assert len(failures_until_served(backend, engine, "put")) <= 1

    own.dispose()
    backend.run(disposed(own_async, backend.mode))


def _ask_in(connection: Any, record: Any, proxied: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    cursor.close()
    connection.rollback()


async def disposed(engine: Any, mode: str) -> None:
    if mode == "async":
        await engine.dispose()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_name_that_nobody_resolves(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    resolving = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: resolving.wait(30) and [])
    storage = PostgresStorage("postgresql://app@db.internal/shop", connect_timeout=2)

    def ask() -> None:
        if mode == "sync":
            storage.list_tenants()
        else:
            asyncio.run(storage.list_tenants_async())

    with pytest.raises(StorageUnavailable, match="resolved"):
        within_guard(ask)
    resolving.set()


def test_socket_options_are_those_of_the_url(proxy: FaultyProxy, postgres_database: Database) -> None:
    url = proxy.url(postgres_database.app_url) + "?keepalives_idle=7"
    with PostgresStorage(url, answer_timeout=9.0) as storage, storage.pools.engine("sync").connect() as connection:
        driver: Any = connection.connection.driver_connection
        parameters = driver.info.get_parameters()

    assert parameters["keepalives_idle"] == "7"
    assert parameters["tcp_user_timeout"] == "9000"
    assert parameters["keepalives_interval"] == "3"


# One connection tells about the others


def test_idle_connections_that_are_silent_cost_one_failure(proxy: FaultyProxy, backend: Backend) -> None:
    warm(backend, 6)
    engine = notes_engine(backend.storage, put=put)
    assert proxy.swallow() >= 7

    begun = time.monotonic()
    assert len(failures_until_served(backend, engine, "put")) <= 1

    # Not `answer_timeout` for each.
    assert time.monotonic() - begun < 6 * ANSWER
    assert call(backend, engine, *["put"] * 6) == ["ok"] * 6
    assert within_guard(lambda: look_up(backend)) >= 1
    assert outcomes(backend)[6:] == ["failed", *["succeeded"] * 7]


def test_idle_connections_that_were_cut_cost_no_failure(proxy: FaultyProxy, backend: Backend) -> None:
    warm(backend, 6)
    engine = notes_engine(backend.storage, put=put)
    proxy.cut()

    assert call(backend, engine, *["put"] * 6) == ["ok"] * 6
    assert within_guard(lambda: look_up(backend)) >= 1


def test_callers_of_silent_connections_fail_once_each(proxy: FaultyProxy, backend: Backend) -> None:
    warm(backend, 6)
    engine = notes_engine(backend.storage, put=put)
    proxy.swallow()

    begun = time.monotonic()
    assert set(call(backend, engine, *["put"] * 6)) <= {"ok", "unavailable"}
    assert call(backend, engine, *["put"] * 6) == ["ok"] * 6
    assert time.monotonic() - begun < 8 * ANSWER


def test_a_silent_look_up_tells_about_the_main_pool(proxy: FaultyProxy, backend: Backend) -> None:
    warm(backend, 4)
    engine = notes_engine(backend.storage, put=put)
    proxy.swallow()

    with pytest.raises(StorageUnavailable):
        within_guard(lambda: look_up(backend))

    assert failures_until_served(backend, engine, "put") == []


def test_threads_and_event_loops_tell_each_other(proxy: FaultyProxy, storage: PostgresStorage) -> None:
    threads, loop, other_loop = SyncBackend(storage), AsyncBackend(storage), AsyncBackend(storage)
    engine = notes_engine(storage, put=put)
    for backend in (threads, loop, other_loop):
        warm(backend, 2)
    proxy.swallow()

    assert call(loop, engine, "put") == ["unavailable"]

    for backend in (threads, other_loop, loop):
        assert failures_until_served(backend, engine, "put") == []
    for backend in (loop, other_loop):
        backend.run(storage.aclose_loop())
    for backend in (loop, other_loop):
        backend.close()


def test_connections_in_use_are_not_cut(proxy: FaultyProxy, backend: Backend) -> None:
    """A caller works in a connection while another caller finds an idle one silent."""
    opened, ended = threading.Event(), threading.Event()

    def work(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.records("notes").insert({})
        opened.set()
        assert ended.wait(20)
        ctx.records("notes").insert({})
        return Success(None)

    engine, other = notes_engine(backend.storage, put=put, work=work), SyncBackend(backend.storage)
    codes: list[str] = []
    working = threading.Thread(target=lambda: codes.extend(call(other, engine, "work")))
    working.start()
    assert opened.wait(20)
    held = proxy.open_count
    warm(backend, 2)
    assert proxy.swallow(but_oldest=held)

    assert failures_until_served(backend, engine, "put")
    ended.set()
    working.join(20)

    assert codes == ["ok"]


# What a handler waits for


def statement(name: str) -> Callable[..., Any]:
    """Return a function that runs a statement in this way."""

    def plain(ctx: ActionContext) -> None:
        ctx.session.execute(text("SELECT 1"))

    def saved(ctx: ActionContext) -> None:
        with ctx.session.begin_nested():
            ctx.session.execute(text("SELECT 1"))

    def streamed(ctx: ActionContext) -> None:
        ctx.session.execute(text("SELECT generate_series(1, 10)"), execution_options={"stream_results": True}).all()

    def by_record(ctx: ActionContext) -> None:
        ctx.records("notes").list()

    ways = {"a statement": plain, "a savepoint": saved, "a stream": streamed, "a document": by_record}
    return ways[name]


WAYS = ["a statement", "a savepoint", "a stream", "a document"]


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", WAYS)
def test_what_a_handler_asks_is_bounded(proxy: FaultyProxy, backend: Backend, way: str) -> None:
    def ask(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.session.execute(text("SELECT 1"))
        proxy.swallow()
        statement(way)(ctx)
        return Success(None)

    engine = notes_engine(backend.storage, ask=ask, put=put)

    assert call(backend, engine, "ask") == ["unavailable"]
    # The driver cannot close the stream of a lost connection.
    gc.collect()
    assert outcomes(backend) == ["failed"]
    assert failures_until_served(backend, engine, "put") == []


def test_what_an_async_handler_asks_is_bounded(proxy: FaultyProxy, storage: PostgresStorage) -> None:
    async def ask(data: None, ctx: ActionContext) -> Result[None, Any]:
        await ctx.async_session.execute(text("SELECT 1"))
        proxy.swallow()
        await ctx.async_session.execute(text("SELECT 1"))
        return Success(None)

    backend = AsyncBackend(storage)
    engine = notes_engine(storage, ask=ask, put=put)

    assert call(backend, engine, "ask") == ["unavailable"]
    assert failures_until_served(backend, engine, "put") == []
    backend.close()


def test_what_a_handler_asks_is_bounded_by_its_timeout(
    proxy: FaultyProxy, postgres_database: Database, backend_on: BackendOn
) -> None:
    backend = backend_on(storage_through(proxy, postgres_database, answer_timeout=60.0))

    def ask(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.session.execute(text("SELECT 1"))
        proxy.swallow()
        ctx.session.execute(text("SELECT 1"))
        return Success(None)

    engine = notes_engine(backend.storage, timeout=0.5, ask=ask)

    assert call(backend, engine, "ask") == ["timeout"]
    assert outcomes(backend) == ["failed"]


def test_a_handlers_statement_may_take_longer(backend: Backend) -> None:
    def dawdle(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.records("notes").insert({})
        ctx.session.execute(text("SELECT pg_sleep(2.5)"))
        return Success(None)

    assert call(backend, notes_engine(backend.storage, dawdle=dawdle), "dawdle") == ["ok"]


def test_a_large_answer_may_take_longer_than_each_of_its_pieces(proxy: FaultyProxy, backend: Backend) -> None:
    """This is about a statement of the library."""

    def fill(data: None, ctx: ActionContext) -> Result[None, Any]:
        for _ in range(20):
            ctx.records("notes").insert({"text": "x" * 30_000})
        return Success(None)

    def read(data: None, ctx: ActionContext) -> Result[int, Any]:
        proxy.delay = ANSWER / 3
        return Success(len(ctx.records("notes").list()))

    engine = notes_engine(backend.storage, fill=fill, read=read)
    assert call(backend, engine, "fill") == ["ok"]

    assert call(backend, engine, "read") == ["ok"]


def test_answer_counts_although_the_event_loop_was_blocked(storage: PostgresStorage) -> None:
    """A host has blocked it. All timeouts have passed, but the answers are there."""
    backend = AsyncBackend(storage)
    engine = notes_engine(storage, put=put)
    assert call(backend, engine, "put") == ["ok"]

    async def block() -> list[Result[Any, Any]]:
        contexts = [request_of(backend.tenant, uuid4().hex) for _ in range(3)]
        tasks = [asyncio.create_task(engine.execute_action_async("notes", "put", None, each)) for each in contexts]
        for _ in range(2):
            await asyncio.sleep(0.001)
            time.sleep(ANSWER + 0.2)
        return list(await asyncio.gather(*tasks))

    answers = within_guard(lambda: backend.run(block()))

    assert [each for each in answers if not isinstance(each, Success)] == []
    backend.run(storage.aclose())
    backend.close()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 10**10, None, "5", True], ids=repr)
@pytest.mark.parametrize("name", ["answer_timeout", "connect_timeout", "pool_timeout"])
def test_a_timeout_that_is_no_bound_is_refused(name: str, seconds: Any) -> None:
    options: Any = {name: seconds}
    if (name, seconds) == ("pool_timeout", 0) and seconds is not True:
        PostgresStorage("postgresql://app@db.internal/shop", **options)
        return
    with pytest.raises(ConfigurationError, match=f"{name} is a number of seconds"):
        PostgresStorage("postgresql://app@db.internal/shop", **options)


def test_when_nobody_can_be_asked_a_statement_is_bounded_too(proxy: FaultyProxy, backend: Backend) -> None:
    def ask(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.session.execute(text("SELECT 1"))
        proxy.swallow_new()
        proxy.swallow()
        ctx.session.execute(text("SELECT 1"))
        return Success(None)

    engine = notes_engine(backend.storage, ask=ask, put=put)

    assert call(backend, engine, "ask") == ["unavailable"]
    proxy.heal()
    assert failures_until_served(backend, engine, "put") == []


def test_closing_is_bounded(proxy: FaultyProxy, storage: PostgresStorage, backend: Backend) -> None:
    warm(backend, 4)
    proxy.swallow_new()
    proxy.swallow()
    begun = time.monotonic()

    if backend.mode == "sync":
        within_guard(storage.close)
    else:
        within_guard(lambda: backend.run(storage.aclose()))

    # Not `answer_timeout` for each.
    assert time.monotonic() - begun < 4 * ANSWER


@pytest.mark.parametrize("ended_by", ["a cancellation", "its timeout"])
def test_key_is_free_once_a_waiting_task_was_ended(
    proxy: FaultyProxy, postgres_database: Database, ended_by: str
) -> None:
    """Also if the server does not learn that its client has given up."""
    asked = asyncio.Event()

    async def ask(data: None, ctx: ActionContext) -> Result[None, Any]:
        await ctx.async_session.execute(text("SELECT 1"))
        if not asked.is_set():
            proxy.swallow()
            asked.set()
        await ctx.async_session.execute(text("SELECT 1"))
        return Success(None)

    storage = storage_through(proxy, postgres_database, answer_timeout=60.0)
    backend = AsyncBackend(storage)
    engine = notes_engine(storage, timeout=0.5 if ended_by == "its timeout" else None, ask=ask)
    context = request_of(backend.tenant, uuid4().hex)

    async def be_cancelled() -> None:
        task = asyncio.create_task(engine.execute_action_async("notes", "ask", None, context))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    if ended_by == "a cancellation":
        within_guard(lambda: backend.run(be_cancelled()))
    else:
        assert call(backend, engine, "ask", contexts=[context]) == ["timeout"]

    assert call(backend, notes_engine(storage, ask=ask), "ask", contexts=[context]) == ["ok"]
    backend.run(storage.aclose())
    backend.close()


# In the middle of a COMMIT

POINTS: list[CommitPoint] = ["before", "half", "after"]


@pytest.mark.parametrize("fault", ["swallow", "cut"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("hang_ups_pass", [True, False], ids=["", "forgotten by both"])
def test_a_retry_with_the_same_key_acts_once(
    proxy: FaultyProxy, backend: Backend, point: CommitPoint, fault: Fault, hang_ups_pass: bool
) -> None:
    """Also if the server does not learn that its client has given up: the transaction with the key is ended."""
    if fault == "cut" and not hang_ups_pass:
        return
    engine = notes_engine(backend.storage, put=put)
    assert call(backend, engine, "put") == ["ok"]
    context = request_of(backend.tenant, uuid4().hex)
    happened = proxy.at_commit(point, fault, hang_ups_pass=hang_ups_pass)

    codes = [*call(backend, engine, "put", contexts=[context]), *call(backend, engine, "put", contexts=[context])]

    assert happened.is_set()
    assert codes == ["unavailable", "ok"]
    assert len(backend.run(backend.ids("notes"))) == 2


def test_a_commit_whose_answer_is_late(proxy: FaultyProxy, backend: Backend) -> None:
    engine = notes_engine(backend.storage, put=put)
    assert call(backend, engine, "put") == ["ok"]
    context = request_of(backend.tenant, uuid4().hex)

    proxy.at_commit("late", delay=ANSWER / 2)
    assert call(backend, engine, "put", contexts=[context]) == ["ok"]
    other = request_of(backend.tenant, uuid4().hex)
    proxy.at_commit("late", delay=ANSWER * 3)
    assert call(backend, engine, "put", contexts=[other]) == ["unavailable"]

    assert call(backend, engine, "put", contexts=[context]) == ["ok"]
    assert call(backend, engine, "put", contexts=[other]) == ["ok"]
    assert len(backend.run(backend.ids("notes"))) == 3
