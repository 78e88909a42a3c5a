"""An inbox takes in each event once, for any number of deliveries."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    Actor,
    ConfigurationError,
    ErrorCode,
    InMemoryStorage,
    StorageUnavailable,
    Tenant,
)
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.events.consumers.consumer import Tenants
from actionengine.events.consumers.inbox import Inbox
from actionengine.events.event import Event
from actionengine.testing import Backend, run_in_mode
from tests.backends import AnyStorage
from tests.events.processes import FORKS, deliver_all, note, open_storage
from tests.events.stock import Stock, failure_of, history, moved, stock_engine


def count(event: Event, ctx: ActionContext) -> None:
    counters = ctx.records("counters")
    found = counters.get("all")
    if found is None:
        counters.insert({"number": 1}, "all")
    else:
        counters.update("all", {"number": found.data["number"] + 1}, found.version)


@run_in_mode
async def test_an_event_is_taken_in_once(backend: Backend) -> None:
    stock = Stock(backend)
    await stock.move("nail")
    (event,) = await stock.events()
    inbox = Inbox(stock.engine, "shelf")

    answers = [await stock.ask(inbox, "handle", event, note) for _ in range(3)]

    assert answers == [Success(True), Success(False), Success(False)]
    assert await backend.ids("notes") == [event.id]


@run_in_mode
async def test_another_inbox_of_the_same_name_knows_what_was_taken_in(backend: Backend) -> None:
    stock = Stock(backend)
    await stock.move("nail")
    (event,) = await stock.events()

    await stock.ask(Inbox(stock.engine, "shelf"), "handle", event, note)

    assert await stock.ask(Inbox(Stock(backend).engine, "shelf"), "handle", event, note) == Success(False)


@run_in_mode
async def test_each_consumer_gets_an_event_once(backend: Backend) -> None:
    stock = Stock(backend)
    await stock.move("nail")
    (event,) = await stock.events()

    answers = [await stock.ask(Inbox(stock.engine, name), "handle", event, count) for name in ("a", "b", "a")]

    assert answers == [Success(True), Success(True), Success(False)]
    counter = await backend.get("counters", "all")
    assert counter is not None
    assert counter.data == {"number": 2}


@run_in_mode
async def test_what_fails_writes_nothing_and_can_be_delivered_again(backend: Backend) -> None:
    stock = Stock(backend)
    await stock.move("nail")
    (event,) = await stock.events()
    inbox = Inbox(stock.engine, "shelf")

    def refuse(event: Event, ctx: ActionContext) -> Result[None, str]:
        note(event, ctx)
        return Failure("the shelf is full")

    def crash(event: Event, ctx: ActionContext) -> None:
        note(event, ctx)
        raise ZeroDivisionError

    refused = failure_of(await stock.ask(inbox, "handle", event, refuse))
    crashed = failure_of(await stock.ask(inbox, "handle", event, crash))

    assert (refused.code, str(refused)) == (ErrorCode.UNPROCESSABLE, "the shelf is full")
    assert (crashed.code, str(crashed)) == (
        ErrorCode.HANDLER_ERROR,
        "the handler of inbox.shelf raised ZeroDivisionError",
    )
    assert await backend.ids("notes") == []
    assert await stock.ask(inbox, "handle", event, note) == Success(True)
    assert [row.outcome for row in await stock.log("inbox.shelf")] == ["failed", "failed", "succeeded"]


@run_in_mode
async def test_the_action_log_says_who_took_in_what(backend: Backend) -> None:
    stock = Stock(backend)
    await stock.move("nail")
    (event,) = await stock.events()

    await stock.ask(Inbox(stock.engine, "shelf"), "handle", event, note)

    (row,) = await stock.log("inbox.shelf")
    assert (row.actor_type, row.actor_id, row.source) == ("integration", "shelf", "event")
    assert (row.reason, row.request_id) == (f"event stock.moved {event.id}", event.id)
    assert row.subjects == ("item/nail", f"notes/{event.id}")
    assert row.idempotency_key is None


@run_in_mode
async def test_a_consumer_has_its_own_actor_and_no_default_event(backend: Backend) -> None:
    stock = Stock(backend)
    await stock.move("nail")
    (event,) = await stock.events()
    actors = []

    def tell(event: Event, ctx: ActionContext) -> Result[str, Any]:
        actors.append(ctx.actor)
        ctx.emit("shelf.filled", {"with": event.payload["item"]}, subject="shelf/1")
        return Success("whatever")

    robot = Actor.workflow("robot", roles=["filler"])
    await stock.ask(Inbox(stock.engine, "silent", actor=robot), "handle", event, note)
    await stock.ask(Inbox(stock.engine, "shelf", actor=robot), "handle", event, tell)

    assert actors == [robot]
    assert [each.type for each in await stock.events()] == ["stock.moved", "shelf.filled"]


def test_an_async_consumer_is_taken_in_once_too(any_storage: AnyStorage) -> None:
    tenant = any_storage.create_tenant(slug="acme", name="Acme")
    engine = stock_engine(any_storage)
    moved(engine, tenant, item="nail", by=1)
    (event,) = history(engine, tenant)
    inbox = Inbox(engine, "shelf")

    async def note_async(event: Event, ctx: ActionContext) -> None:
        await ctx.async_records("notes").insert({}, event.id)

    async def main() -> list[Any]:
        try:
            return [await inbox.handle_async(event, note_async) for _ in range(2)]
        finally:
            await any_storage.aclose()

    assert failure_of(inbox.handle(event, note_async)).code is ErrorCode.INTERNAL
    assert asyncio.run(main()) == [Success(True), Success(False)]


def test_a_def_that_returns_a_coroutine_is_refused(storage: InMemoryStorage, acme: Tenant) -> None:
    engine = stock_engine(storage)
    moved(engine, acme, item="nail", by=1)
    (event,) = history(engine, acme)

    async def consume(event: Event, ctx: ActionContext) -> None:
        raise AssertionError

    answer = Inbox(engine, "shelf").handle(event, lambda event, ctx: consume(event, ctx))

    assert "raised TypeError" in str(failure_of(answer))


@run_in_mode
async def test_many_deliveries_at_once_run_each_event_once(backend: Backend) -> None:
    stock = Stock(backend)
    for number in range(50):
        await stock.move(f"item-{number % 5}", number)
    events = await stock.events()
    inbox = Inbox(stock.engine, "shelf")

    async def deliver(worker: int) -> list[Any]:
        shifted = events[worker * 3 :] + events[: worker * 3]
        return [await stock.ask(inbox, "handle", event, note) for event in shifted]

    answers = await backend.gather(*(deliver(worker) for worker in range(16)))

    assert sum(answer == Success(True) for mine in answers for answer in mine) == 50
    assert sum(answer == Success(False) for mine in answers for answer in mine) == 15 * 50
    assert await backend.ids("notes") == sorted(event.id for event in events)


@run_in_mode
async def test_a_delivery_waits_for_another_one_that_takes_long(backend: Backend) -> None:
    stock = Stock(backend)
    await stock.move("nail")
    (event,) = await stock.events()
    inbox, begun = Inbox(stock.engine, "shelf"), backend.event()
    waited = []

    async def deliver_slowly() -> Any:
        if backend.mode == "sync":

            def slow(event: Event, ctx: ActionContext) -> None:
                note(event, ctx)
                begun.set()
                waited.append(event)

            return inbox.handle(event, slow)

        async def slow_async(event: Event, ctx: ActionContext) -> None:
            await ctx.async_records("notes").insert({}, event.id)
            begun.set()
            await backend.sleep(0.05)
            waited.append(event)

        return await inbox.handle_async(event, slow_async)

    async def deliver_again() -> Any:
        await begun.wait()
        answer = await stock.ask(inbox, "handle", event, note)
        assert waited
        return answer

    assert await backend.gather(deliver_slowly(), deliver_again()) == [Success(True), Success(False)]


@run_in_mode
async def test_where_the_first_delivery_fails_the_one_that_waits_runs(backend: Backend) -> None:
    stock = Stock(backend)
    await stock.move("nail")
    (event,) = await stock.events()
    inbox, begun = Inbox(stock.engine, "shelf"), backend.event()

    async def deliver_in_vain() -> Any:
        def fail(event: Event, ctx: ActionContext) -> Result[None, str]:
            note(event, ctx)
            begun.set()
            return Failure("it was not to be")

        return await stock.ask(inbox, "handle", event, fail)

    async def deliver() -> Any:
        await begun.wait()
        return await stock.ask(inbox, "handle", event, note)

    failed, succeeded = await backend.gather(deliver_in_vain(), deliver())
    assert isinstance(failed, Failure)
    assert succeeded == Success(True)


def test_a_delivery_that_is_cancelled_leaves_nothing_behind(storage: InMemoryStorage, acme: Tenant) -> None:
    engine = stock_engine(storage)
    moved(engine, acme, item="nail", by=1)
    (event,) = history(engine, acme)
    inbox = Inbox(engine, "shelf")

    async def main() -> Any:
        begun = asyncio.Event()

        async def hang(event: Event, ctx: ActionContext) -> None:
            begun.set()
            await asyncio.sleep(60)

        running = asyncio.create_task(inbox.handle_async(event, hang))
        await begun.wait()
        waiting = asyncio.create_task(inbox.handle_async(event, hang))
        await asyncio.sleep(0)
        for task in (waiting, running):
            task.cancel()
        await asyncio.wait((waiting, running))
        return await inbox.handle_async(event, note)

    assert asyncio.run(asyncio.wait_for(main(), 60)) == Success(True)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_processes_that_deliver_the_same_events_run_each_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'events.db'}"
    else:
        url = request.getfixturevalue("fresh_postgres_database").app_url
    with open_storage(url) as storage:
        tenant = storage.create_tenant(slug="acme", name="Acme")
        engine = stock_engine(storage)
        for by in range(50):
            moved(engine, tenant, item="nail", by=by)
        go, number = FORKS.Barrier(3), FORKS.Value("i", 0)
        processes = [FORKS.Process(target=deliver_all, args=(url, tenant, go, number)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)

        assert [process.exitcode for process in processes] == [0] * 3
        assert number.value == 50


# Whose an event is


@run_in_mode
async def test_an_event_is_taken_in_for_its_own_tenant(backend: Backend) -> None:
    stock = Stock(backend)
    seen: list[Tenant] = []
    known = await backend.create_tenant(slug=f"acme-{uuid4().hex}", name="Acme")
    for tenant in (known, backend.other_tenant):
        await stock.move("nail", tenant=tenant)
    inbox = Inbox(stock.engine, "shelf")

    def look(event: Event, ctx: ActionContext) -> None:
        note(event, ctx)
        seen.append(ctx.tenant)

    for tenant in (known, backend.other_tenant):
        (event,) = await stock.events(tenant)
        assert await stock.ask(inbox, "handle", event, look) == Success(True)
        assert await backend.ids("notes", tenant) == [event.id]

    assert seen == [known, Tenant(backend.other_tenant.id, str(backend.other_tenant.id))]


def test_a_host_looks_up_tenants_in_its_own_directory(storage: InMemoryStorage, acme: Tenant, globex: Tenant) -> None:
    engine = stock_engine(storage)
    moved(engine, acme, item="nail", by=1)
    (event,) = history(engine, acme)
    seen: list[Tenant] = []

    def own(id: UUID) -> Tenant:
        return Tenant(id, "our-own-name")

    def confused(id: UUID) -> Tenant:
        return globex

    def broken(id: UUID) -> Tenant:
        raise LookupError

    Inbox(engine, "own", tenant_of=own).handle(event, lambda event, ctx: seen.append(ctx.tenant))
    mixed_up = Inbox(engine, "mixed_up", tenant_of=confused).handle(event, note)
    failed = Inbox(engine, "failed", tenant_of=broken).handle(event, note)

    assert seen == [Tenant(acme.id, "our-own-name")]
    assert "which is not that tenant" in str(failure_of(mixed_up))
    assert "raised LookupError" in str(failure_of(failed))


class Counting(InMemoryStorage):
    """A storage that counts the look-ups of tenants."""

    asked = 0

    async def find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None:
        self.asked += 1
        return await super().find_tenant_by_id(id, mode)

    def list_tenants(self, **page: Any) -> Any:
        raise AssertionError("one tenant is wanted, not all")


def test_only_known_tenants_are_cached(acme: Tenant) -> None:
    storage = Counting()
    known, unknown = storage.create_tenant(slug="acme", name="Acme"), acme
    engine = stock_engine(storage)
    for tenant in (known, unknown):
        for by in range(5):
            moved(engine, tenant, item="nail", by=by)
    inbox = Inbox(engine, "shelf")

    for tenant in (known, unknown):
        for event in history(engine, tenant):
            assert inbox.handle(event, note) == Success(True)

    assert storage.asked == 1 + 5


def test_a_flood_of_unknown_tenants_fills_no_cache() -> None:
    storage = Counting()
    known = [storage.create_tenant(slug=f"t-{number}", name="x") for number in range(3)]
    tenants = Tenants(storage)

    for _ in range(1000):
        id = uuid4()
        assert run_sync(tenants.find(id, "sync")) == Tenant(id, str(id))
    assert storage.asked == 1000
    assert not len(tenants._known)

    for tenant in (*known, *known):
        assert run_sync(tenants.find(tenant.id, "sync")) == tenant
    assert storage.asked == 1003


def test_only_so_many_tenants_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actionengine.events.consumers.consumer._MAX_CACHED_TENANTS", 10)
    storage = Counting()
    tenants = Tenants(storage)
    for number in range(50):
        tenant = storage.create_tenant(slug=f"t-{number}", name="x")
        assert run_sync(tenants.find(tenant.id, "sync")) == tenant
        assert len(tenants._known) <= 10


def test_an_event_of_a_deleted_tenant_is_not_taken_in(any_storage: AnyStorage) -> None:
    tenant = any_storage.create_tenant(slug="acme", name="Acme")
    engine = stock_engine(any_storage)
    moved(engine, tenant, item="nail", by=1)
    (event,) = history(engine, tenant)
    any_storage.delete_tenant(slug="acme")

    answer = Inbox(engine, "shelf").handle(event, note)

    assert failure_of(answer).code is ErrorCode.NOT_FOUND


def test_a_directory_that_is_out_of_reach_is_unavailable(acme: Tenant) -> None:
    class OutOfReach(InMemoryStorage):
        async def find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None:
            raise StorageUnavailable("gone")

    engine = stock_engine(OutOfReach())
    moved(engine, acme, item="nail", by=1)
    (event,) = history(engine, acme)

    assert failure_of(Inbox(engine, "shelf").handle(event, note)).code is ErrorCode.UNAVAILABLE


# Marks


@run_in_mode
async def test_old_marks_are_forgotten_and_nobody_elses(backend: Backend) -> None:
    stock = Stock(backend)
    for by in range(7):
        await stock.move("nail", by)
    events = await stock.events()
    shelf, shelf_2 = Inbox(stock.engine, "shelf"), Inbox(stock.engine, "shelf-2")
    for event in events:
        await stock.ask(shelf, "handle", event, count)
        await stock.ask(shelf_2, "handle", event, count)
    begun = datetime.now(UTC)

    too_early = await stock.ask(shelf, "forget", backend.tenant, before=events[0].occurred_at - timedelta(seconds=1))
    forgotten = await stock.ask(shelf, "forget", backend.tenant, before=begun + timedelta(seconds=1))
    again = [await stock.ask(shelf, "handle", event, count) for event in events]

    assert too_early == Success(0)
    assert forgotten == Success(7)
    assert again == [Success(True)] * 7
    assert [await stock.ask(shelf_2, "handle", event, count) for event in events] == [Success(False)] * 7


def test_many_marks_are_forgotten_in_batches(storage: InMemoryStorage, acme: Tenant) -> None:
    engine = stock_engine(storage)
    moved(engine, acme, item="nail", by=1, times=1200)
    inbox = Inbox(engine, "shelf")
    for event in history(engine, acme):
        inbox.handle(event, lambda event, ctx: None)

    assert inbox.forget(acme, before=datetime.now(UTC) + timedelta(minutes=1)) == Success(1200)
    assert inbox.forget(acme, before=datetime.now(UTC) + timedelta(minutes=1)) == Success(0)


def test_a_time_without_a_zone_is_refused(storage: InMemoryStorage, acme: Tenant) -> None:
    inbox = Inbox(stock_engine(storage), "shelf")

    answer = inbox.forget(acme, before=datetime.now())

    assert failure_of(answer).code is ErrorCode.INVALID_INPUT


def test_an_id_that_is_too_long_for_a_mark_is_refused(storage: InMemoryStorage, acme: Tenant) -> None:
    engine = stock_engine(storage)
    moved(engine, acme, item="nail", by=1)
    (event,) = history(engine, acme)

    answer = Inbox(engine, "shelf").handle(event._replace(id="x" * 300), note)

    assert failure_of(answer).code is ErrorCode.INVALID_INPUT


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "x" * 101, "nul\0", None])
def test_a_consumer_needs_a_name_that_can_stand_in_an_id(name: Any, storage: InMemoryStorage) -> None:
    with pytest.raises(ConfigurationError, match="consumer"):
        Inbox(stock_engine(storage), name)


def test_a_consumer_acts_as_an_actor(storage: InMemoryStorage) -> None:
    with pytest.raises(ConfigurationError, match="needs an Actor as its actor"):
        Inbox(stock_engine(storage), "shelf", actor="somebody")  # type: ignore[arg-type]
