"""The network goes silent, cuts, forgets: each caller has an answer within a bound, and the storage recovers by itself.

The bounds here are small, and the guards generous: what hangs would hang for ever.
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
from actionengine.storage.port import StorageUnavailable
from actionengine.storage.sql.storage import SQLStorage
from actionengine.testing import AsyncWorld, SyncWorld, World
from tests.crash.ledger import request_of
from tests.crash.notes import notes_engine, outcomes, put
from tests.crash.silent import ANSWER, call, failures_until_served, storage_through, within_guard
from tests.faulty_proxy import CommitPoint, Fault, FaultyProxy

WorldOn = Callable[[SQLStorage], World]


@pytest.fixture
def proxy(postgres_database: Database) -> Iterator[FaultyProxy]:
    with FaultyProxy.before_postgres(postgres_database.app_url) as proxy:
        yield proxy


@pytest.fixture
def storage(proxy: FaultyProxy, postgres_database: Database) -> PostgresStorage:
    return storage_through(proxy, postgres_database)


@pytest.fixture
def world(storage: PostgresStorage, world_on: WorldOn) -> World:
    return world_on(storage)


def look_up(world: World) -> int:
    """Ask through the pool of look-ups."""

    async def ask() -> int:
        unit = world.storage.unit_of_work(world.tenant, "", world.mode, read_only=True)
        try:
            return len(await unit.records("notes").list())
        finally:
            await unit.rollback()

    return world.run(ask())


def warm(world: World, number: int) -> None:
    """Let both pools have idle connections: the main one as many as are named."""
    together, together_async = threading.Barrier(number), asyncio.Barrier(number)

    def meet(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.records("notes").list()
        together.wait(20)
        return Success(None)

    async def meet_async(data: None, ctx: ActionContext) -> Result[None, Any]:
        await ctx.async_records("notes").list()
        await together_async.wait()
        return Success(None)

    engine = notes_engine(world.storage, meet=meet if world.mode == "sync" else meet_async)
    assert call(world, engine, *["meet"] * number) == ["ok"] * number
    look_up(world)


# The first connection


def test_first_connection_that_is_swallowed(proxy: FaultyProxy, world: World) -> None:
    """All callers have an answer at the same time, not one after the other."""
    engine = notes_engine(world.storage, put=put)
    proxy.swallow_new("after login")
    begun = time.monotonic()

    assert set(call(world, engine, *["put"] * 6)) == {"unavailable"}

    assert time.monotonic() - begun < 6 * ANSWER + 4
    proxy.heal()
    assert failures_until_served(world, engine, "put") == []


def test_first_look_up_that_is_swallowed(proxy: FaultyProxy, world: World) -> None:
    engine = notes_engine(world.storage, put=put)
    assert call(world, engine, "put") == ["ok"]
    proxy.swallow_new("after login")

    with pytest.raises(StorageUnavailable):
        within_guard(lambda: look_up(world))

    proxy.heal()
    assert within_guard(lambda: look_up(world)) == 1


@pytest.mark.parametrize("since", ["the beginning", "after login"])
def test_opening_a_storage_is_bounded(proxy: FaultyProxy, world: World, since: Any) -> None:
    proxy.swallow_new(since)

    with pytest.raises(StorageUnavailable):
        within_guard(lambda: world.run(world.list_tenants()))


def test_first_connection_of_a_hosts_own_engine(
    proxy: FaultyProxy, postgres_database: Database, world_on: WorldOn
) -> None:
    url = make_url(proxy.url(postgres_database.app_url)).set(drivername="postgresql+psycopg")
    own, own_async = create_engine(url), create_async_engine(url.set(drivername="postgresql+psycopg_async"))
    opened: list[Any] = []
    for each in (own, own_async.sync_engine):
        event.listen(each, "connect", lambda connection, record: opened.append(record.driver_connection), insert=True)
    world = world_on(PostgresStorage(engine=own, async_engine=own_async, answer_timeout=ANSWER))
    engine = notes_engine(world.storage, put=put)
    proxy.swallow_new("after login")

    assert call(world, engine, "put") == ["unavailable"]

    proxy.heal()
    assert failures_until_served(world, engine, "put") == []
    with own.connect() as connection:
        # The host's own waiting is the host's.
        connection.execute(text("SELECT pg_sleep(1.4)"))
    own.dispose()
    world.run(disposed(own_async, world.mode))
    for driver in opened:
        # SQLAlchemy leaves one that fails while it opens to the garbage collector.
        driver.pgconn.finish()


@pytest.mark.parametrize("asked_by", ["pre-ping", "listener"])
def test_what_a_hosts_own_engine_asks_when_a_connection_is_taken_is_bounded(
    proxy: FaultyProxy, postgres_database: Database, world_on: WorldOn, asked_by: str
) -> None:
    url = make_url(proxy.url(postgres_database.app_url)).set(drivername="postgresql+psycopg")
    pings = asked_by == "pre-ping"
    own = create_engine(url, pool_pre_ping=pings)
    own_async = create_async_engine(url.set(drivername="postgresql+psycopg_async"), pool_pre_ping=pings)
    for each in (own, own_async.sync_engine) if not pings else ():
        event.listen(each, "checkout", _ask_in)
    world = world_on(PostgresStorage(engine=own, async_engine=own_async, answer_timeout=ANSWER))
    engine = notes_engine(world.storage, put=put)
    assert call(world, engine, "put") == ["ok"]
    assert proxy.swallow()

    assert len(failures_until_served(world, engine, "put")) <= 1

    own.dispose()
    world.run(disposed(own_async, world.mode))


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


def test_idle_connections_that_are_silent_cost_one_failure(proxy: FaultyProxy, world: World) -> None:
    warm(world, 6)
    engine = notes_engine(world.storage, put=put)
    assert proxy.swallow() >= 7

    begun = time.monotonic()
    assert len(failures_until_served(world, engine, "put")) <= 1

    # Not `answer_timeout` for each.
    assert time.monotonic() - begun < 6 * ANSWER
    assert call(world, engine, *["put"] * 6) == ["ok"] * 6
    assert within_guard(lambda: look_up(world)) >= 1
    assert outcomes(world)[6:] == ["failed", *["succeeded"] * 7]


def test_idle_connections_that_were_cut_cost_no_failure(proxy: FaultyProxy, world: World) -> None:
    warm(world, 6)
    engine = notes_engine(world.storage, put=put)
    proxy.cut()

    assert call(world, engine, *["put"] * 6) == ["ok"] * 6
    assert within_guard(lambda: look_up(world)) >= 1


def test_callers_who_meet_silent_connections_at_once_fail_once_each(proxy: FaultyProxy, world: World) -> None:
    warm(world, 6)
    engine = notes_engine(world.storage, put=put)
    proxy.swallow()

    begun = time.monotonic()
    assert set(call(world, engine, *["put"] * 6)) <= {"ok", "unavailable"}
    assert call(world, engine, *["put"] * 6) == ["ok"] * 6
    assert time.monotonic() - begun < 8 * ANSWER


def test_a_silent_look_up_tells_about_the_main_pool(proxy: FaultyProxy, world: World) -> None:
    warm(world, 4)
    engine = notes_engine(world.storage, put=put)
    proxy.swallow()

    with pytest.raises(StorageUnavailable):
        within_guard(lambda: look_up(world))

    assert failures_until_served(world, engine, "put") == []


def test_threads_and_event_loops_tell_each_other(proxy: FaultyProxy, storage: PostgresStorage) -> None:
    threads, loop, other_loop = SyncWorld(storage), AsyncWorld(storage), AsyncWorld(storage)
    engine = notes_engine(storage, put=put)
    for world in (threads, loop, other_loop):
        warm(world, 2)
    proxy.swallow()

    assert call(loop, engine, "put") == ["unavailable"]

    for world in (threads, other_loop, loop):
        assert failures_until_served(world, engine, "put") == []
    for world in (loop, other_loop):
        world.run(storage.aclose_loop())
    for world in (loop, other_loop):
        world.close()


def test_connections_in_use_are_not_cut(proxy: FaultyProxy, world: World) -> None:
    """A caller works in a connection while another one finds an idle one silent."""
    opened, ended = threading.Event(), threading.Event()

    def work(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.records("notes").insert({})
        opened.set()
        assert ended.wait(20)
        ctx.records("notes").insert({})
        return Success(None)

    engine, other = notes_engine(world.storage, put=put, work=work), SyncWorld(world.storage)
    codes: list[str] = []
    working = threading.Thread(target=lambda: codes.extend(call(other, engine, "work")))
    working.start()
    assert opened.wait(20)
    held = proxy.open_count
    warm(world, 2)
    assert proxy.swallow(but_oldest=held)

    assert failures_until_served(world, engine, "put")
    ended.set()
    working.join(20)

    assert codes == ["ok"]


# What a handler waits for


def statement(name: str) -> Callable[..., Any]:
    """A handler that goes silent, and then asks for something in this way."""

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
def test_what_a_handler_asks_is_bounded(proxy: FaultyProxy, world: World, way: str) -> None:
    def ask(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.session.execute(text("SELECT 1"))
        proxy.swallow()
        statement(way)(ctx)
        return Success(None)

    engine = notes_engine(world.storage, ask=ask, put=put)

    assert call(world, engine, "ask") == ["unavailable"]
    # The driver cannot close a stream of a connection that is gone.
    gc.collect()
    assert outcomes(world) == ["failed"]
    assert failures_until_served(world, engine, "put") == []


def test_what_an_async_handler_asks_is_bounded(proxy: FaultyProxy, storage: PostgresStorage) -> None:
    async def ask(data: None, ctx: ActionContext) -> Result[None, Any]:
        await ctx.async_session.execute(text("SELECT 1"))
        proxy.swallow()
        await ctx.async_session.execute(text("SELECT 1"))
        return Success(None)

    world = AsyncWorld(storage)
    engine = notes_engine(storage, ask=ask, put=put)

    assert call(world, engine, "ask") == ["unavailable"]
    assert failures_until_served(world, engine, "put") == []
    world.close()


def test_what_a_handler_asks_is_bounded_by_its_timeout(
    proxy: FaultyProxy, postgres_database: Database, world_on: WorldOn
) -> None:
    world = world_on(storage_through(proxy, postgres_database, answer_timeout=60.0))

    def ask(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.session.execute(text("SELECT 1"))
        proxy.swallow()
        ctx.session.execute(text("SELECT 1"))
        return Success(None)

    engine = notes_engine(world.storage, timeout=0.5, ask=ask)

    assert call(world, engine, "ask") == ["timeout"]
    assert outcomes(world) == ["failed"]


def test_a_handlers_statement_may_take_longer(world: World) -> None:
    def dawdle(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.records("notes").insert({})
        ctx.session.execute(text("SELECT pg_sleep(2.5)"))
        return Success(None)

    assert call(world, notes_engine(world.storage, dawdle=dawdle), "dawdle") == ["ok"]


def test_a_large_answer_may_take_longer_than_each_of_its_pieces(proxy: FaultyProxy, world: World) -> None:
    """Of a statement of the library's own."""

    def fill(data: None, ctx: ActionContext) -> Result[None, Any]:
        for _ in range(20):
            ctx.records("notes").insert({"text": "x" * 30_000})
        return Success(None)

    def read(data: None, ctx: ActionContext) -> Result[int, Any]:
        proxy.delay = ANSWER / 3
        return Success(len(ctx.records("notes").list()))

    engine = notes_engine(world.storage, fill=fill, read=read)
    assert call(world, engine, "fill") == ["ok"]

    assert call(world, engine, "read") == ["ok"]


def test_an_answer_that_is_there_counts_although_the_event_loop_was_blocked(storage: PostgresStorage) -> None:
    """By a host: its timeouts are over, and so they would be for all that were under way."""
    world = AsyncWorld(storage)
    engine = notes_engine(storage, put=put)
    assert call(world, engine, "put") == ["ok"]

    async def block() -> list[Result[Any, Any]]:
        contexts = [request_of(world.tenant, uuid4().hex) for _ in range(3)]
        tasks = [asyncio.create_task(engine.execute_action_async("notes", "put", None, each)) for each in contexts]
        for _ in range(2):
            await asyncio.sleep(0.001)
            time.sleep(ANSWER + 0.2)
        return list(await asyncio.gather(*tasks))

    answers = within_guard(lambda: world.run(block()))

    assert [each for each in answers if not isinstance(each, Success)] == []
    world.run(storage.aclose())
    world.close()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 10**10, None, "5", True], ids=repr)
@pytest.mark.parametrize("name", ["answer_timeout", "connect_timeout", "pool_timeout"])
def test_a_timeout_that_is_no_bound_is_refused(name: str, seconds: Any) -> None:
    options: Any = {name: seconds}
    if (name, seconds) == ("pool_timeout", 0) and seconds is not True:
        PostgresStorage("postgresql://app@db.internal/shop", **options)
        return
    with pytest.raises(ConfigurationError, match=f"{name} is a number of seconds"):
        PostgresStorage("postgresql://app@db.internal/shop", **options)


def test_when_nobody_can_be_asked_a_statement_is_bounded_too(proxy: FaultyProxy, world: World) -> None:
    def ask(data: None, ctx: ActionContext) -> Result[None, Any]:
        ctx.session.execute(text("SELECT 1"))
        proxy.swallow_new()
        proxy.swallow()
        ctx.session.execute(text("SELECT 1"))
        return Success(None)

    engine = notes_engine(world.storage, ask=ask, put=put)

    assert call(world, engine, "ask") == ["unavailable"]
    proxy.heal()
    assert failures_until_served(world, engine, "put") == []


def test_closing_is_bounded(proxy: FaultyProxy, storage: PostgresStorage, world: World) -> None:
    warm(world, 4)
    proxy.swallow_new()
    proxy.swallow()
    begun = time.monotonic()

    if world.mode == "sync":
        within_guard(storage.close)
    else:
        within_guard(lambda: world.run(storage.aclose()))

    # Not `answer_timeout` for each.
    assert time.monotonic() - begun < 4 * ANSWER


@pytest.mark.parametrize("ended_by", ["a cancellation", "its timeout"])
def test_a_key_is_free_once_a_task_was_ended_that_waited_in_silence(
    proxy: FaultyProxy, postgres_database: Database, ended_by: str
) -> None:
    """Also where the server is not told that its client has given up."""
    asked = asyncio.Event()

    async def ask(data: None, ctx: ActionContext) -> Result[None, Any]:
        await ctx.async_session.execute(text("SELECT 1"))
        if not asked.is_set():
            proxy.swallow()
            asked.set()
        await ctx.async_session.execute(text("SELECT 1"))
        return Success(None)

    storage = storage_through(proxy, postgres_database, answer_timeout=60.0)
    world = AsyncWorld(storage)
    engine = notes_engine(storage, timeout=0.5 if ended_by == "its timeout" else None, ask=ask)
    context = request_of(world.tenant, uuid4().hex)

    async def be_cancelled() -> None:
        task = asyncio.create_task(engine.execute_action_async("notes", "ask", None, context))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    if ended_by == "a cancellation":
        within_guard(lambda: world.run(be_cancelled()))
    else:
        assert call(world, engine, "ask", contexts=[context]) == ["timeout"]

    assert call(world, notes_engine(storage, ask=ask), "ask", contexts=[context]) == ["ok"]
    world.run(storage.aclose())
    world.close()


# In the middle of a COMMIT

POINTS: list[CommitPoint] = ["before", "half", "after"]


@pytest.mark.parametrize("fault", ["swallow", "cut"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("hang_ups_pass", [True, False], ids=["", "forgotten by both"])
def test_a_retry_with_the_same_key_acts_once(
    proxy: FaultyProxy, world: World, point: CommitPoint, fault: Fault, hang_ups_pass: bool
) -> None:
    """Also where the server is not told that its client has given up: what holds the key there is ended."""
    if fault == "cut" and not hang_ups_pass:
        return
    engine = notes_engine(world.storage, put=put)
    assert call(world, engine, "put") == ["ok"]
    context = request_of(world.tenant, uuid4().hex)
    happened = proxy.at_commit(point, fault, hang_ups_pass=hang_ups_pass)

    codes = [*call(world, engine, "put", contexts=[context]), *call(world, engine, "put", contexts=[context])]

    assert happened.is_set()
    assert codes == ["unavailable", "ok"]
    assert len(world.run(world.ids("notes"))) == 2


def test_a_commit_whose_answer_is_late(proxy: FaultyProxy, world: World) -> None:
    engine = notes_engine(world.storage, put=put)
    assert call(world, engine, "put") == ["ok"]
    context = request_of(world.tenant, uuid4().hex)

    proxy.at_commit("late", delay=ANSWER / 2)
    assert call(world, engine, "put", contexts=[context]) == ["ok"]
    other = request_of(world.tenant, uuid4().hex)
    proxy.at_commit("late", delay=ANSWER * 3)
    assert call(world, engine, "put", contexts=[other]) == ["unavailable"]

    assert call(world, engine, "put", contexts=[context]) == ["ok"]
    assert call(world, engine, "put", contexts=[other]) == ["ok"]
    assert len(world.run(world.ids("notes"))) == 3
