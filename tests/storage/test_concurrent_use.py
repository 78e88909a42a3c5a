"""Concurrent tasks and threads of one handler work in its one transaction, or are refused without a loss."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from examples.embedded_postgres import Database
from returns.result import Failure, Result, Success
from sqlalchemy import text

from actionengine import (
    ActionContext,
    ActionError,
    AIUsage,
    InMemoryStorage,
    StorageError,
    Tenant,
)
from actionengine.testing import AsyncBackend
from tests.conftest import log_of
from tests.storage.backends import as_ann, engine_on, postgres_backend, sqlite_backend
from tests.storage.suspending import SuspendingStorage

NUMBERS = range(6)


@pytest.fixture(params=["memory", "suspending", "sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Make a storage that nothing has used yet."""
    if request.param in {"memory", "suspending"}:
        storage = InMemoryStorage() if request.param == "memory" else SuspendingStorage()
        yield lambda: storage
        return
    if request.param == "sqlite":
        sql_database = sqlite_backend(str(tmp_path / "test.db"))
    else:
        database: Database = request.getfixturevalue("fresh_postgres_database")
        sql_database = postgres_backend(database.app_url, database.owner_url)
    storages: list[Any] = []

    def make() -> Any:
        storages.append(sql_database.open(pool_size=2, max_overflow=0, pool_timeout=5))
        return storages[-1]

    yield make
    for storage in storages:
        storage.close()
    sql_database.owner.dispose()


@pytest.fixture
def acme(fresh: Callable[[], Any]) -> Tenant:
    storage = fresh()
    tenant: Tenant = storage.create_tenant(slug="acme", name="Acme")
    storage.close()
    return tenant


def run_async(storage: Any, tenant: Tenant, *handlers: Callable[..., Any]) -> tuple[Any, list[str]]:
    """Return the answer of the first handler, and the ids of the notes afterwards, read from the same pool."""

    async def run() -> tuple[Any, list[str]]:
        engine = engine_on(storage, *handlers, notes_async)
        answer = await engine.execute_action_async("w", handlers[0].__name__, {}, as_ann(tenant))
        # A pool of two: a connection that is still in use would be missing.
        found = [await engine.execute_action_async("w", "notes_async", {}, as_ann(tenant)) for _ in range(4)]
        await storage.aclose()
        return answer, found[-1].unwrap()

    return asyncio.run(run())


def run_sync(storage: Any, tenant: Tenant, *handlers: Callable[..., Any]) -> tuple[Any, list[str]]:
    engine = engine_on(storage, *handlers, notes)
    answer = engine.execute_action("w", handlers[0].__name__, {}, as_ann(tenant))
    found = [engine.execute_action("w", "notes", {}, as_ann(tenant)) for _ in range(4)]
    return answer, found[-1].unwrap()


async def notes_async(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success([note.id for note in await ctx.async_records("notes").list()])


def notes(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success([note.id for note in ctx.records("notes").list()])


ALL = [f"n{number}" for number in NUMBERS]


# The first use


def test_tasks_open_one_transaction(fresh: Callable[[], Any], acme: Tenant) -> None:
    async def gathering(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        made = await asyncio.gather(*(ctx.async_records("notes").insert({}, f"n{number}") for number in NUMBERS))
        return Success([note.id for note in made])

    async def grouping(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        async with asyncio.TaskGroup() as group:
            for number in NUMBERS:
                group.create_task(ctx.async_records("notes").insert({}, f"g{number}"))
        return Success(None)

    assert run_async(fresh(), acme, gathering) == (Success(ALL), ALL)
    answer, found = run_async(fresh(), acme, grouping)
    assert answer == Success(None)
    assert len(found) == 2 * len(NUMBERS)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_open_one_transaction(fresh: Callable[[], Any], acme: Tenant) -> None:
    def put(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        together = threading.Barrier(len(NUMBERS))

        def insert(number: int) -> str:
            together.wait(30)
            ctx.record_ai_usage(AIUsage("m", input_tokens=1, output_tokens=0, cost_usd=0.0))
            return ctx.records("notes").insert({}, f"n{number}").id

        with ThreadPoolExecutor(len(NUMBERS)) as threads:
            return Success(sorted(threads.map(insert, NUMBERS)))

    storage = fresh()

    assert run_sync(storage, acme, put) == (Success(ALL), ALL)
    entry = log_of(engine_on(storage), acme, action="w.put")[0]
    assert sorted(entry.subjects) == [f"notes/{id}" for id in ALL]
    assert entry.input_tokens == len(NUMBERS)


def test_threads_under_an_event_loop_work_or_are_refused(fresh: Callable[[], Any], acme: Tenant) -> None:
    refusals: set[bool] = set()

    def put(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        def insert(number: int) -> object:
            try:
                return ctx.records("notes").insert({}, f"n{number}").id
            except StorageError as error:
                refusals.add("event loop" in str(error))
                return None

        with ThreadPoolExecutor(2) as threads:
            made = [id for id in threads.map(insert, NUMBERS) if id]
        ctx.records("notes").insert({}, "own")
        return Success(made)

    answer, found = run_async(fresh(), acme, put)

    assert found == sorted([*answer.unwrap(), "own"])
    assert False not in refusals


@pytest.mark.usefixtures("hasty_threads")
def test_threads_insert_one_id_once(fresh: Callable[[], Any], acme: Tenant) -> None:
    def put(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        def insert(number: int) -> int:
            try:
                ctx.records("notes").insert({"by": number}, "n1")
            except ActionError:
                return 0
            return 1

        with ThreadPoolExecutor(len(NUMBERS)) as threads:
            return Success(sum(threads.map(insert, NUMBERS)))

    assert run_sync(fresh(), acme, put) == (Success(1), ["n1"])


@pytest.mark.parametrize("fresh", ["sqlite", "postgresql"], indirect=True)
def test_tasks_share_one_session_and_one_transaction(fresh: Callable[[], Any], acme: Tenant) -> None:
    async def mixed(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        async def counted() -> int:
            session = ctx.async_session
            return int((await session.execute(text("SELECT count(*) FROM ae_documents"))).scalar_one())

        async def put(number: int) -> None:
            await ctx.async_records("notes").insert({}, f"n{number}")

        await asyncio.gather(*(each for number in NUMBERS for each in (put(number), counted())))
        return Success(await counted())

    assert run_async(fresh(), acme, mixed) == (Success(len(NUMBERS)), ALL)


@pytest.mark.parametrize("fresh", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.usefixtures("hasty_threads")
def test_threads_share_one_session(fresh: Callable[[], Any], acme: Tenant) -> None:
    def mixed(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        together = threading.Barrier(len(NUMBERS))

        def use(number: int) -> int:
            together.wait(30)
            session = ctx.session
            ctx.records("notes").insert({}, f"n{number}")
            session.execute(text("SELECT 1")).scalar_one()
            return id(session)

        with ThreadPoolExecutor(len(NUMBERS)) as threads:
            return Success(len(set(threads.map(use, NUMBERS))))

    assert run_sync(fresh(), acme, mixed) == (Success(1), ALL)


# Savepoints


async def put_and_fail(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    await ctx.async_records("notes").insert({}, "undone")
    await asyncio.sleep(0.02)
    return Failure("no")


def test_writes_beside_a_nested_action_are_kept_or_refused(fresh: Callable[[], Any], acme: Tenant) -> None:
    refusals: list[str] = []

    async def beside(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        kept: list[str] = []

        async def put(number: int) -> None:
            await asyncio.sleep(0.005 * number)
            try:
                await ctx.async_records("notes").insert({}, f"n{number}")
                kept.append(f"n{number}")
                ctx.emit("told", {"n": number})
                kept.append(f"e{number}")
            except StorageError as error:
                refusals.append(str(error))

        answers = await asyncio.gather(ctx.execute_async("w", "put_and_fail"), *map(put, NUMBERS))
        assert isinstance(answers[0], Failure)
        await ctx.async_records("notes").insert({}, "last")
        return Success(kept)

    storage = fresh()
    answer, found = run_async(storage, acme, beside, put_and_fail)
    kept = answer.unwrap()

    assert found == sorted([*(id for id in kept if id.startswith("n")), "last"])
    assert all("is executing w.put_and_fail" in refusal or "nested action" in refusal for refusal in refusals)
    told = [event.event.payload for event in storage.read_events(acme) if event.event.type == "told"]
    assert len(told) == len([each for each in kept if each.startswith("e")])


def test_of_nested_actions_at_once_each_works_or_is_refused(fresh: Callable[[], Any], acme: Tenant) -> None:
    async def put(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        note = await ctx.async_records("notes").insert({}, data["id"])
        return Failure("no") if data.get("fails") else Success(note.id)

    async def all_at_once(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        asked = [{"id": f"n{number}", "fails": number % 2 == 0} for number in NUMBERS]
        answers = await asyncio.gather(*(ctx.execute_async("w", "put", each) for each in asked))
        return Success([answer.unwrap() for answer in answers if isinstance(answer, Success)])

    answer, found = run_async(fresh(), acme, all_at_once, put)

    assert found == answer.unwrap()


@pytest.mark.usefixtures("hasty_threads")
def test_of_nested_actions_in_threads_each_works_or_is_refused(fresh: Callable[[], Any], acme: Tenant) -> None:
    def put(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        note = ctx.records("notes").insert({}, data["id"])
        return Failure("no") if data.get("fails") else Success(note.id)

    def all_at_once(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        def use(number: int) -> str | None:
            if number % 3 == 0:
                try:
                    return ctx.records("notes").insert({}, f"n{number}").id
                except StorageError:
                    return None
            try:
                answer = ctx.execute("w", "put", {"id": f"n{number}", "fails": number % 3 == 1})
            except StorageError:
                return None
            return str(answer.unwrap()) if isinstance(answer, Success) else None

        with ThreadPoolExecutor(8) as threads:
            return Success(sorted(id for id in threads.map(use, range(40)) if id))

    answer, found = run_sync(fresh(), acme, all_at_once, put)

    assert found == answer.unwrap()


@pytest.mark.parametrize("fresh", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("of", ["session", "connection"])
def test_writes_beside_a_savepoint_are_kept_or_refused(fresh: Callable[[], Any], acme: Tenant, of: str) -> None:
    refusals: list[str] = []

    async def beside(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        kept: list[str] = []
        session = ctx.async_session
        maker: Any = session if of == "session" else await session.connection()

        async def undo() -> None:
            savepoint = await maker.begin_nested()
            await ctx.async_records("notes").insert({}, "undone")
            await asyncio.sleep(0.02)
            await savepoint.rollback()

        async def put(number: int) -> None:
            await asyncio.sleep(0.005 * number)
            try:
                await ctx.async_records("notes").insert({}, f"n{number}")
                kept.append(f"n{number}")
            except StorageError as error:
                refusals.append(str(error))

        await asyncio.gather(undo(), *map(put, NUMBERS))
        await ctx.async_records("notes").insert({}, "last")
        return Success([*kept, "last"])

    answer, found = run_async(fresh(), acme, beside)

    assert found == sorted(answer.unwrap())
    assert all("savepoint" in refusal for refusal in refusals)


@pytest.mark.parametrize("fresh", ["sqlite", "postgresql"], indirect=True)
def test_tasks_inside_a_savepoint_work_in_it(fresh: Callable[[], Any], acme: Tenant) -> None:
    async def inside(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        for keeps in (True, False):
            savepoint = await ctx.async_session.begin_nested()
            await asyncio.gather(
                *(ctx.async_records("notes").insert({}, f"{'n' if keeps else 'u'}{number}") for number in NUMBERS)
            )
            await (savepoint.commit() if keeps else savepoint.rollback())
        return Success(None)

    assert run_async(fresh(), acme, inside) == (Success(None), ALL)


# What a handler leaves running


def test_a_task_left_running_writes_in_time_or_is_refused(fresh: Callable[[], Any], acme: Tenant) -> None:
    told: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def leaving(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        async def go_on() -> None:
            for number in range(50):
                try:
                    await ctx.async_records("notes").insert({}, f"t{number:02}")
                except StorageError:
                    return
                told.append(f"t{number:02}")
                await asyncio.sleep(0)

        tasks.append(asyncio.create_task(go_on()))
        await ctx.async_records("notes").insert({}, "own")
        return Success(None)

    storage = fresh()
    answer, found = run_async(storage, acme, leaving)

    assert answer == Success(None)
    assert [id for id in found if id != "own"] == told
    assert len(told) < 50
    entry = log_of(engine_on(storage), acme, action="w.leaving")[0]
    assert sorted(entry.subjects) == sorted(f"notes/{id}" for id in found)


def test_a_task_of_a_nested_action_that_has_failed_is_refused(fresh: Callable[[], Any], acme: Tenant) -> None:
    told: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def inner(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        async def go_on() -> None:
            for number in count():
                try:
                    await ctx.async_records("notes").insert({}, f"t{number:02}")
                except StorageError as error:
                    told.append(str(error))
                    return
                await asyncio.sleep(0)

        tasks.append(asyncio.create_task(go_on()))
        await asyncio.sleep(0.01)
        return Failure("no")

    async def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        await ctx.execute_async("w", "inner")
        await asyncio.gather(*tasks)
        return Success((await ctx.async_records("notes").insert({}, "own")).id)

    answer, found = run_async(fresh(), acme, outer, inner)

    assert answer == Success("own")
    assert found == ["own"]
    assert "has ended" in told[0]


@pytest.mark.parametrize("has_session", [False, True])
@pytest.mark.parametrize("of_its_own_task", [False, True])
def test_a_nested_action_that_is_cut_off_is_undone(
    fresh: Callable[[], Any], acme: Tenant, has_session: bool, of_its_own_task: bool
) -> None:
    written: list[asyncio.Event] = []

    async def inner(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        await ctx.async_records("notes").insert({}, "inner")
        ctx.emit("half_done")
        written[0].set()
        await asyncio.sleep(60)
        return Success(None)

    async def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        if has_session:
            await ctx.async_session.execute(text("SELECT 1"))
        written.append(asyncio.Event())
        if of_its_own_task:
            task = asyncio.create_task(ctx.execute_async("w", "inner"))
            await written[0].wait()
            task.cancel()
            await asyncio.wait({task})
        else:
            try:
                async with asyncio.timeout(None) as limit:
                    ending = asyncio.create_task(end(limit))
                    await ctx.execute_async("w", "inner")
            except TimeoutError:
                await ending
        return Success((await ctx.async_records("notes").insert({}, "own")).id)

    async def end(limit: asyncio.Timeout) -> None:
        await written[0].wait()
        limit.reschedule(asyncio.get_running_loop().time())

    storage = fresh()
    if has_session and not hasattr(storage, "pools"):
        return
    answer, found = run_async(storage, acme, outer, inner)

    assert (answer, found) == (Success("own"), ["own"])
    engine = engine_on(storage)
    (row,) = log_of(engine, acme, action="w.inner")
    assert row.outcome == "failed"
    assert "cut off" in str(row.error)


def test_the_steps_of_a_test_share_one_context() -> None:
    """The context of a task tells its savepoints apart: successive steps of a test have to share it."""
    backend = AsyncBackend(InMemoryStorage())
    unit = backend.unit()

    savepoint = backend.run(unit.savepoint())
    backend.run(unit.records("notes").insert({}, "n"))
    backend.run(unit.rollback_to(savepoint))

    assert backend.run(unit.records("notes").list()) == []
    backend.run(unit.rollback())
    backend.close()


def test_savepoints_of_two_units_may_overlap_in_one_task() -> None:
    backend = AsyncBackend(InMemoryStorage())
    first, second = backend.unit(), backend.unit()

    savepoint = backend.run(first.savepoint())
    backend.run(second.savepoint())
    backend.run(first.rollback_to(savepoint))

    for unit in (first, second):
        backend.run(unit.records("notes").insert({}))
        backend.run(unit.rollback())
    backend.close()
