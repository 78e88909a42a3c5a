"""Views of a tenant's events: caught up, rebuilt, and never with a lost or repeated event."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from examples.embedded_postgres import Database
from returns.result import Failure, Result, Success
from sqlalchemy import text

from actionengine import (
    ActionContext,
    Actor,
    ConfigurationError,
    ErrorCode,
    InMemoryStorage,
    PostgresStorage,
    RequestContext,
    SQLiteStorage,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.concurrency.run_sync import run_sync
from actionengine.event_types import create_event_type
from actionengine.events.event import Event
from actionengine.events.projections.progress import progress_bar
from actionengine.events.projections.projection import Projection, ProjectionStatus
from actionengine.events.projections.views import View
from actionengine.storage.pages import MAX_PAGE_BYTES
from actionengine.testing import Backend, run_in_mode
from tests.backends import AnyStorage
from tests.events.showing import documents_left, shown, view_of
from tests.events.slow_commits import interleaved_moves, slow_commits
from tests.events.stock import Stock, add_up, add_up_async, failure_of, folded, history, moved, stock_engine


def levels(engine: Any, **options: Any) -> Projection:
    return Projection(engine, **{"name": "levels", "apply": add_up, "batch_size": 4, **options})


async def some_moves(stock: Stock, number: int = 11, tenant: Tenant | None = None) -> None:
    for index in range(number):
        await stock.move(f"item-{index % 3}", index - 3, tenant)


def test_a_generation_of_large_documents_is_removed_to_the_last() -> None:
    storage = InMemoryStorage()
    tenant = storage.create_tenant(slug="large", name="Large")
    stock = stock_engine(storage)
    request = RequestContext(tenant=tenant, actor=Actor.system())

    def keep(event: Event, view: View) -> None:
        view.records().insert({"text": "x" * (MAX_PAGE_BYTES // 2)}, event.id)

    projection = Projection(stock, name="large", apply=keep, batch_size=10)
    for number in range(5):
        stock.execute_action("stock", "move", {"item": f"i{number}", "by": 1}, request).unwrap()
    projection.catch_up(tenant).unwrap()

    projection.rebuild(tenant).unwrap()

    unit = storage.unit_of_work(tenant, "", "sync", read_only=True)
    assert [len(run_sync(unit.records(f"ae_view/large/{generation}/").list())) for generation in (1, 2)] == [0, 2]


class Interrupted(BaseException):
    """An interruption of a rebuild from outside."""


def interrupting(after: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done >= after:
            raise Interrupted

    return progress


# Catching up


@run_in_mode
async def test_catching_up_applies_each_event_once_and_in_its_order(backend: Backend) -> None:
    stock = Stock(backend)
    projection = levels(stock.engine)
    await some_moves(stock, 11)

    first = await stock.ask(projection, "catch_up", backend.tenant)
    nothing = await stock.ask(projection, "catch_up", backend.tenant)
    await some_moves(stock, 3)
    second = await stock.ask(projection, "catch_up", backend.tenant)

    assert (first, nothing, second) == (Success(11), Success(0), Success(3))
    assert await shown(backend, projection) == folded(await stock.events())


@run_in_mode
async def test_a_projection_without_events_shows_nothing(backend: Backend) -> None:
    stock = Stock(backend)
    projection = levels(stock.engine)

    assert await stock.ask(projection, "status", backend.tenant) == Success(ProjectionStatus(1, 0, None, 0))
    assert await stock.ask(projection, "catch_up", backend.tenant) == Success(0)
    assert await shown(backend, projection) == {"levels": {}, "outgoing": {}}


@run_in_mode
async def test_the_status_says_how_far_a_projection_is(backend: Backend) -> None:
    stock = Stock(backend)
    projection = levels(stock.engine)
    await some_moves(stock, 6)
    await stock.ask(projection, "catch_up", backend.tenant)
    await some_moves(stock, 5)

    status = (await stock.ask(projection, "status", backend.tenant)).unwrap()

    assert (status.generation, status.rebuilding, status.lag) == (1, None, 5)
    assert status.position == (await stock.events())[5].position


@run_in_mode
async def test_a_view_has_no_events_of_another_tenant(backend: Backend) -> None:
    stock = Stock(backend)
    projection = levels(stock.engine)
    for _ in range(3):
        await some_moves(stock, 2)
        await some_moves(stock, 3, backend.other_tenant)

    assert await stock.ask(projection, "catch_up", backend.tenant) == Success(6)
    assert await shown(backend, projection, backend.other_tenant) == {"levels": {}, "outgoing": {}}
    assert await stock.ask(projection, "rebuild", backend.other_tenant) == Success(9)

    for tenant in (backend.tenant, backend.other_tenant):
        assert await shown(backend, projection, tenant) == folded(await stock.events(tenant))


@run_in_mode
async def test_a_projection_gets_only_the_types_that_it_wants(backend: Backend) -> None:
    stock = Stock(backend)
    projection = levels(stock.engine, types=["stock.moved"])
    for type in ("stock.moved", "stock.counted", "stock.moved", "stock.counted"):
        await stock.move("nail", type=type)

    assert await stock.ask(projection, "catch_up", backend.tenant) == Success(2)
    assert await stock.ask(projection, "rebuild", backend.tenant) == Success(2)
    assert await shown(backend, projection) == folded([e for e in await stock.events() if e.type == "stock.moved"])


@run_in_mode
async def test_projections_of_different_names_do_not_meet(backend: Backend) -> None:
    stock = Stock(backend)
    one, other = levels(stock.engine), levels(stock.engine, name="others")
    await some_moves(stock)

    assert await stock.ask(one, "catch_up", backend.tenant) == Success(11)
    assert await shown(backend, other) == {"levels": {}, "outgoing": {}}
    assert await stock.ask(other, "catch_up", backend.tenant) == Success(11)
    assert await shown(backend, other) == await shown(backend, one)


@run_in_mode
async def test_batches_stand_in_the_action_log_and_yield_no_events(backend: Backend) -> None:
    stock = Stock(backend)
    await some_moves(stock, 6)

    await stock.ask(levels(stock.engine), "catch_up", backend.tenant)

    rows = await stock.log("projections.levels")
    assert [(row.actor_type, row.actor_id, row.output) for row in rows] == [
        ("system", "projection:levels", 4),
        ("system", "projection:levels", 2),
    ]
    assert len(await stock.events()) == 6


def test_an_async_apply_does_the_same(any_storage: AnyStorage) -> None:
    tenant = any_storage.create_tenant(slug="acme", name="Acme")
    engine = stock_engine(any_storage)
    for by in range(-3, 8):
        moved(engine, tenant, item=f"item-{by % 3}", by=by)
    projection = levels(engine, apply=add_up_async)

    async def main() -> list[Any]:
        try:
            return [await projection.catch_up_async(tenant), await projection.rebuild_async(tenant)]
        finally:
            await any_storage.aclose()

    needs_loop = failure_of(projection.catch_up(tenant))
    assert "needs an event loop" in str(needs_loop)
    assert asyncio.run(main()) == [Success(11), Success(11)]
    assert view_of(any_storage, projection, tenant) == folded(history(engine, tenant))


@run_in_mode
async def test_many_runners_apply_each_event_once(backend: Backend) -> None:
    stock = Stock(backend)
    await some_moves(stock, 60)
    same = levels(stock.engine)
    runners = [same, same, same, levels(Stock(backend).engine), levels(Stock(backend).engine)]

    answers = await backend.gather(*(stock.ask(runner, "catch_up", backend.tenant) for runner in runners))

    assert sum(answer.unwrap() for answer in answers) == 60
    assert await shown(backend, same) == folded(await stock.events())


# An event that cannot be applied


def choosy(bad: list[int]) -> Any:
    def apply(event: Event, view: View) -> None:
        add_up(event, view)
        if event.payload["by"] in bad:
            raise ZeroDivisionError

    return apply


@run_in_mode
async def test_a_projection_stops_at_an_event_it_cannot_apply(backend: Backend) -> None:
    stock = Stock(backend)
    bad = [6]
    projection = levels(stock.engine, apply=choosy(bad))
    for by in range(10):
        await stock.move("nail", by)
    events = await stock.events()

    stopped = failure_of(await stock.ask(projection, "catch_up", backend.tenant))
    again = failure_of(await stock.ask(projection, "catch_up", backend.tenant))

    assert stopped.code is ErrorCode.HANDLER_ERROR
    assert str(stopped) == (
        f"the projection levels has stopped at the event stock.moved {events[6].id} (position {events[6].position}): "
        f"the handler of projections.levels raised ZeroDivisionError"
    )
    assert (stopped.details["event"], stopped.details["position"]) == (events[6].id, events[6].position)
    assert str(again) == str(stopped)
    assert await shown(backend, projection) == folded(events[:6])

    bad.clear()
    assert await stock.ask(projection, "catch_up", backend.tenant) == Success(4)
    assert await shown(backend, projection) == folded(events)


@run_in_mode
async def test_a_rebuild_that_stopped_goes_on_at_the_same_event(backend: Backend) -> None:
    stock = Stock(backend)
    bad: list[int] = []
    projection = levels(stock.engine, apply=choosy(bad))
    for by in range(10):
        await stock.move("nail", by)
    events = await stock.events()
    await stock.ask(projection, "catch_up", backend.tenant)

    bad.append(9)
    stopped = failure_of(await stock.ask(projection, "rebuild", backend.tenant))
    status = (await stock.ask(projection, "status", backend.tenant)).unwrap()

    assert stopped.details["event"] == events[9].id
    assert (status.generation, status.rebuilding) == (1, events[8].position)
    assert await shown(backend, projection) == folded(events)

    bad.clear()
    assert await stock.ask(projection, "rebuild", backend.tenant) == Success(1)
    assert await shown(backend, projection) == folded(events)


@run_in_mode
async def test_an_apply_that_returns_a_failure_stops_too(backend: Backend) -> None:
    stock = Stock(backend)
    await stock.move("nail")

    def refuse(event: Event, view: View) -> Result[None, str]:
        return Failure("it is not for me")

    stopped = failure_of(await stock.ask(levels(stock.engine, apply=refuse), "catch_up", backend.tenant))

    assert (stopped.code, "it is not for me" in str(stopped)) == (ErrorCode.UNPROCESSABLE, True)


@run_in_mode
async def test_events_come_upcast_and_a_failed_upcast_stops(backend: Backend) -> None:
    newest = create_event_type(
        type="stock.moved", version=2, upcasters={1: lambda old: {"item": old["item"], "by": 1 // old["by"]}}
    )
    other = create_service(
        name="other",
        description="Declares the type",
        actions=[create_action(name="go", description="Go", handler=lambda data: Success(None), emits=[newest])],
    )
    stock = Stock(backend, services=[other])
    projection = levels(stock.engine)
    for by in (1, 1, 0):
        await stock.move("nail", by)

    stopped = failure_of(await stock.ask(projection, "catch_up", backend.tenant))

    assert stopped.code is ErrorCode.INTERNAL
    assert "the upcaster of stock.moved from version 1 raised ZeroDivisionError" in str(stopped)
    assert (await shown(backend, projection))["levels"]["nail"]["level"] == 2


@run_in_mode
async def test_a_deleted_tenant_is_not_caught_up(backend: Backend) -> None:
    tenant = await backend.create_tenant(slug=f"acme-{uuid4().hex}", name="Acme")
    stock = Stock(backend)
    await stock.move("nail", tenant=tenant)
    await backend.delete_tenant(slug=tenant.slug)

    answer = await stock.ask(levels(stock.engine), "catch_up", tenant)

    assert failure_of(answer).code is ErrorCode.NOT_FOUND


# Rebuilding


@run_in_mode
async def test_a_rebuild_makes_the_view_anew_and_removes_the_old_one(backend: Backend) -> None:
    stock = Stock(backend)
    await some_moves(stock, 11)
    wrong = levels(stock.engine, apply=lambda event, view: view.records("levels").insert({"level": 0}, event.id))
    await stock.ask(wrong, "catch_up", backend.tenant)
    projection = levels(stock.engine)

    applied = await stock.ask(projection, "rebuild", backend.tenant)

    events = await stock.events()
    assert applied == Success(11)
    assert await shown(backend, projection) == folded(events)
    assert await stock.ask(projection, "status", backend.tenant) == Success(
        ProjectionStatus(2, events[-1].position, None, 0)
    )
    assert await backend.ids("ae_view/levels/1/levels") == []
    await some_moves(stock, 2)
    assert await stock.ask(projection, "catch_up", backend.tenant) == Success(2)
    assert await shown(backend, projection) == folded(await stock.events())


@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 8])
def test_a_rebuild_ends_with_any_number_of_events(number: int, storage: InMemoryStorage, acme: Tenant) -> None:
    engine = stock_engine(storage)
    projection = levels(engine)
    for by in range(number):
        moved(engine, acme, item="nail", by=by)

    assert projection.rebuild(acme) == Success(number)
    assert projection.status(acme).unwrap().generation == 2
    assert view_of(storage, projection, acme) == folded(history(engine, acme))


@run_in_mode
async def test_progress_is_told_after_each_batch(backend: Backend) -> None:
    stock = Stock(backend)
    await some_moves(stock, 10)
    told: list[tuple[int, int]] = []

    await stock.ask(levels(stock.engine), "rebuild", backend.tenant, lambda *numbers: told.append(numbers))

    assert told == [(0, 10), (4, 10), (8, 10), (10, 10)]


@run_in_mode
async def test_an_interrupted_rebuild_goes_on_where_it_was(backend: Backend) -> None:
    stock = Stock(backend)
    projection = levels(stock.engine)
    await some_moves(stock, 14)
    events = await stock.events()
    await stock.ask(projection, "catch_up", backend.tenant)

    with pytest.raises(Interrupted):
        await stock.ask(projection, "rebuild", backend.tenant, interrupting(8))
    status = (await stock.ask(projection, "status", backend.tenant)).unwrap()
    before = await shown(backend, projection)
    told: list[tuple[int, int]] = []
    applied = await stock.ask(
        levels(Stock(backend).engine), "rebuild", backend.tenant, lambda *numbers: told.append(numbers)
    )

    assert (status.generation, status.rebuilding) == (1, events[7].position)
    assert before == folded(events)
    assert (applied, told) == (Success(6), [(8, 14), (12, 14), (14, 14)])
    assert await shown(backend, projection) == folded(events)


@run_in_mode
async def test_the_live_view_works_while_a_rebuild_runs(backend: Backend) -> None:
    stock = Stock(backend)
    projection = levels(stock.engine)
    await some_moves(stock, 9)
    await stock.ask(projection, "catch_up", backend.tenant)
    with pytest.raises(Interrupted):
        await stock.ask(projection, "rebuild", backend.tenant, interrupting(4))
    await some_moves(stock, 9)

    assert await stock.ask(projection, "catch_up", backend.tenant) == Success(9)
    assert await shown(backend, projection) == folded(await stock.events())
    assert await stock.ask(projection, "rebuild", backend.tenant) == Success(14)
    assert await shown(backend, projection) == folded(await stock.events())
    assert await stock.ask(projection, "catch_up", backend.tenant) == Success(0)


@run_in_mode
async def test_a_rebuild_can_be_abandoned(backend: Backend) -> None:
    stock = Stock(backend)
    projection = levels(stock.engine)
    await some_moves(stock, 11)
    await stock.ask(projection, "catch_up", backend.tenant)
    with pytest.raises(Interrupted):
        await stock.ask(projection, "rebuild", backend.tenant, interrupting(8))

    assert await stock.ask(projection, "abandon_rebuild", backend.tenant) == Success(True)
    assert await stock.ask(projection, "abandon_rebuild", backend.tenant) == Success(False)

    status = (await stock.ask(projection, "status", backend.tenant)).unwrap()
    assert (status.generation, status.rebuilding) == (1, None)
    assert await shown(backend, projection) == folded(await stock.events())
    assert await backend.ids("ae_view/levels/2/levels") == []
    assert await stock.ask(projection, "rebuild", backend.tenant) == Success(11)
    assert (await stock.ask(projection, "status", backend.tenant)).unwrap().generation == 3


def test_a_rebuild_whose_generation_somebody_abandons_says_so(storage: InMemoryStorage, acme: Tenant) -> None:
    engine = stock_engine(storage)
    projection = levels(engine)
    moved(engine, acme, item="nail", by=1, times=9)

    def abandon(done: int, total: int) -> None:
        if done == 4:
            assert levels(engine).abandon_rebuild(acme) == Success(True)

    answer = projection.rebuild(acme, abandon)

    assert (failure_of(answer).code, "abandoned" in str(failure_of(answer))) == (ErrorCode.CONFLICT, True)


@run_in_mode
async def test_concurrent_rebuilds_and_runners_make_the_right_view(backend: Backend) -> None:
    stock = Stock(backend)
    await some_moves(stock, 30)
    projections = [levels(Stock(backend).engine) for _ in range(2)]

    async def write() -> None:
        await some_moves(stock, 30)

    async def catch_up() -> None:
        for _ in range(10):
            (await stock.ask(projections[0], "catch_up", backend.tenant)).unwrap()

    async def rebuild(projection: Projection) -> None:
        (await stock.ask(projection, "rebuild", backend.tenant)).unwrap()

    await backend.gather(write(), catch_up(), *map(rebuild, projections))
    await stock.ask(projections[0], "catch_up", backend.tenant)

    status = (await stock.ask(projections[0], "status", backend.tenant)).unwrap()
    assert (status.lag, status.rebuilding) == (0, None)
    assert await shown(backend, projections[1]) == folded(await stock.events())
    if backend.mode == "sync":
        for generation in range(1, status.generation):
            assert documents_left(backend.storage, backend.tenant, "levels", generation) == 0


def test_a_reader_follows_a_rebuild_to_the_next_generation(any_storage: AnyStorage) -> None:
    tenant = any_storage.create_tenant(slug="acme", name="Acme")
    engine = stock_engine(any_storage)
    projection = levels(engine)
    moved(engine, tenant, item="nail", by=5)
    projection.catch_up(tenant)

    def look(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        records = projection.read(ctx, "levels")
        first = records.get("nail")
        if isinstance(any_storage, PostgresStorage):
            # Elsewhere a transaction goes on with what it first saw, or the writers wait for it.
            projection.rebuild(tenant).unwrap()
        second, (third,), missing = records.get("nail"), records.list(), records.get("screw")
        assert first is not None
        assert second is not None
        return Success([first.data, second.data, third.data, missing])

    action = create_action(name="look", description="Look", handler=look, read_only=True)
    service = create_service(name="view", description="Views", actions=[action])
    reader = create_engine(services=[service], storage=any_storage)

    answer = reader.execute_action("view", "look", None, RequestContext(tenant, Actor.system()))

    level = folded(history(engine, tenant))["levels"]["nail"]
    assert answer == Success([level, level, level, None])


def test_reading_a_view_fits_the_kind_of_handler(storage: InMemoryStorage, acme: Tenant) -> None:
    projection = levels(stock_engine(storage))

    async def look(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        projection.read(ctx)
        raise AssertionError

    action = create_action(name="look", description="Look", handler=look)
    service = create_service(name="view", description="Views", actions=[action])
    reader = create_engine(services=[service], storage=storage)

    answer = asyncio.run(reader.execute_action_async("view", "look", None, RequestContext(acme, Actor.system())))

    assert "projection.read is for def handlers" in str(failure_of(answer))


def test_an_apply_uses_the_records_of_its_kind(storage: InMemoryStorage, acme: Tenant) -> None:
    engine = stock_engine(storage)
    moved(engine, acme, item="nail", by=1)

    stopped = levels(engine, apply=lambda event, view: view.async_records("levels")).catch_up(acme)

    assert "view.async_records is for async def handlers" in str(failure_of(stopped))


@pytest.mark.parametrize("collection", ["x" * 101, "nul\0", 7])
def test_a_collection_of_a_view_has_a_name(collection: Any, storage: InMemoryStorage, acme: Tenant) -> None:
    engine = stock_engine(storage)
    moved(engine, acme, item="nail", by=1)

    stopped = levels(engine, apply=lambda event, view: view.records(collection)).catch_up(acme)

    assert "a collection of the projection levels" in str(failure_of(stopped))


@pytest.mark.parametrize(
    "options",
    [
        {"name": "a.b"},
        {"name": "a/b"},
        {"name": ""},
        {"apply": None},
        {"batch_size": 0},
        {"types": "x"},
        {"discard": 7},
    ],
    ids=str,
)
def test_a_mistake_in_a_projection_is_found_at_once(options: Any, storage: InMemoryStorage) -> None:
    with pytest.raises(ConfigurationError):
        levels(stock_engine(storage), **options)


# Tables of the host's own


def test_a_host_projects_into_a_table_of_its_own(tmp_path: Path) -> None:
    any_storage = SQLiteStorage(tmp_path / "host.db")
    tenant = any_storage.create_tenant(slug="acme", name="Acme")
    engine = stock_engine(any_storage)

    def apply(event: Event, view: View) -> None:
        view.session.execute(text("CREATE TABLE IF NOT EXISTS host_moves (tenant, generation, id, by)"))
        row = (str(view.tenant.id), view.generation, event.id, event.payload["by"])
        view.session.connection().exec_driver_sql("INSERT INTO host_moves VALUES (?, ?, ?, ?)", row)

    def discard(view: View) -> None:
        view.session.connection().exec_driver_sql(
            "DELETE FROM host_moves WHERE tenant = ? AND generation = ?", (str(view.tenant.id), view.generation)
        )

    def read(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        rows = ctx.session.execute(text("SELECT generation, by FROM host_moves ORDER BY id"))
        return Success([[projection.read(ctx).generation], *map(list, rows)])

    projection = levels(engine, apply=apply, discard=discard)
    reading = create_service(
        name="view",
        description="Views",
        actions=[create_action(name="read", description="Read", handler=read, read_only=True)],
    )
    reader = create_engine(services=[reading], storage=any_storage)
    for by in range(6):
        moved(engine, tenant, item="nail", by=by)
    assert projection.catch_up(tenant) == Success(6)
    assert asyncio.run(_rebuilt(any_storage, projection, tenant)) == Success(6)

    answer = reader.execute_action("view", "read", None, RequestContext(tenant, Actor.system()))
    any_storage.close()

    assert answer == Success([[2], *([2, by] for by in range(6))])


async def _rebuilt(storage: AnyStorage, projection: Projection, tenant: Tenant) -> Any:
    try:
        return await projection.rebuild_async(tenant)
    finally:
        await storage.aclose()


# Runners


def test_a_runner_updates_the_views_of_all_tenants_until_stopped(any_storage: AnyStorage) -> None:
    engine = stock_engine(any_storage)
    acme = any_storage.create_tenant(slug="acme", name="Acme")
    projection, stop = levels(engine), threading.Event()
    runner = threading.Thread(target=projection.run, kwargs={"stop": stop, "poll_interval": 0.005})
    runner.start()
    moved(engine, acme, item="nail", by=1, times=5)
    globex = any_storage.create_tenant(slug="globex", name="Globex")
    moved(engine, globex, item="nail", by=2, times=3)

    for tenant in (acme, globex):
        while projection.status(tenant).unwrap().lag:
            stop.wait(0.005)
        assert view_of(any_storage, projection, tenant) == folded(history(engine, tenant))
    stop.set()
    runner.join(90)
    assert not runner.is_alive()


def test_a_runner_under_an_event_loop_ends_with_its_task(any_storage: AnyStorage) -> None:
    engine = stock_engine(any_storage)
    acme = any_storage.create_tenant(slug="acme", name="Acme")
    moved(engine, acme, item="nail", by=1, times=5)
    projection = levels(engine, apply=add_up_async)

    async def main() -> None:
        task = asyncio.create_task(projection.run_async([acme], poll_interval=0.005))
        while (await projection.status_async(acme)).unwrap().lag:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        await any_storage.aclose()

    asyncio.run(asyncio.wait_for(main(), 90))
    assert view_of(any_storage, projection, acme) == folded(history(engine, acme))


def test_stopped_tenant_does_not_block_others(
    storage: InMemoryStorage, acme: Tenant, globex: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    engine = stock_engine(storage)
    moved(engine, acme, item="nail", by=6)
    moved(engine, globex, item="nail", by=1)
    projection, stop = levels(engine, apply=choosy([6])), threading.Event()
    runner = threading.Thread(target=projection.run, kwargs={"stop": stop, "poll_interval": 0.001})
    runner.start()
    while projection.status(globex).unwrap().lag:
        stop.wait(0.001)
    stop.wait(0.05)
    stop.set()
    runner.join(90)

    told = [record.getMessage() for record in caplog.records if "has stopped at the event" in record.getMessage()]
    # On a machine that is busy for longer than the second, it is told once more.
    assert 1 <= len(told) <= 5
    assert told[0].endswith("(tenant acme); it tries again in 1 s")


def test_a_bar_shows_how_far_a_rebuild_is(storage: InMemoryStorage, acme: Tenant, capsys: Any) -> None:
    engine = stock_engine(storage)
    moved(engine, acme, item="nail", by=1, times=9)

    with progress_bar("levels") as progress:
        levels(engine).rebuild(acme, progress)

    assert "levels" in capsys.readouterr().out


def test_catching_up_never_skips_an_event_that_commits_late(fresh_postgres_database: Database) -> None:
    slow_commits(fresh_postgres_database)
    with PostgresStorage(fresh_postgres_database.app_url) as storage:
        tenant = storage.create_tenant(slug="acme", name="Acme")
        engine = stock_engine(storage)
        projection, stop = levels(engine), threading.Event()
        runners = [
            threading.Thread(target=levels(engine).run, args=([tenant],), kwargs={"stop": stop, "poll_interval": 0.001})
            for _ in range(2)
        ]
        for runner in runners:
            runner.start()
        interleaved_moves(engine, tenant, number=120)
        stop.set()
        for runner in runners:
            runner.join(90)

        projection.catch_up(tenant).unwrap()

        events = history(engine, tenant)
        assert len(events) == 120
        assert view_of(storage, projection, tenant) == folded(events)
