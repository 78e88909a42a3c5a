"""Replay of a tenant's events, and `follow`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any

import pytest
from examples.embedded_postgres import Database

from actionengine import ConfigurationError, InMemoryStorage, PostgresStorage, Tenant
from actionengine.event_types import EventVersionError, create_event_type
from actionengine.events.event import Event
from actionengine.events.replay import follow, follow_async, replay, replay_async
from actionengine.testing import Backend, run_in_mode
from tests.events.slow_commits import interleaved_moves, slow_commits
from tests.events.stock import Stock, moved, stock_engine


async def replayed(backend: Backend, tenant: Tenant | None = None, **options: Any) -> list[Event]:
    tenant = tenant or backend.tenant
    if backend.mode == "sync":
        return list(replay(backend.storage, tenant, **options))
    return [event async for event in replay_async(backend.storage, tenant, **options)]


async def followed(backend: Backend, number: int, **options: Any) -> list[Event]:
    """Return the first events of a `follow`."""
    if backend.mode == "sync":
        return list(islice(follow(backend.storage, backend.tenant, **options), number))
    events: list[Event] = []
    async for event in follow_async(backend.storage, backend.tenant, **options):
        events.append(event)
        if len(events) == number:
            break
    return events


@run_in_mode
async def test_a_replay_gives_all_events_in_commit_order(backend: Backend) -> None:
    stock = Stock(backend)
    for number in range(12):
        await stock.move("nail", number)

    for batch_size in (1, 5, 12, 1000):
        events = await replayed(backend, batch_size=batch_size)

        assert [event.payload["by"] for event in events] == list(range(12))
        assert events == await stock.events()


@run_in_mode
async def test_a_replay_goes_on_after_the_position_of_any_event(backend: Backend) -> None:
    stock = Stock(backend)
    for number in range(7):
        await stock.move("nail", number)
    everything = await replayed(backend)

    for index, event in enumerate(everything):
        assert await replayed(backend, after=event.position, batch_size=2) == everything[index + 1 :]
    assert await replayed(backend, after=0) == everything


@run_in_mode
async def test_a_replay_gives_only_the_types_that_were_asked_for(backend: Backend) -> None:
    stock = Stock(backend)
    for type in ("a", "b", "a", "c"):
        await stock.move("nail", type=type)

    assert [event.type for event in await replayed(backend, types=["a", "c", "a"], batch_size=1)] == ["a", "a", "c"]
    assert await replayed(backend, types=()) == []


@run_in_mode
async def test_an_event_of_one_tenant_is_in_no_replay_of_another(backend: Backend) -> None:
    stock = Stock(backend)
    for tenant in (backend.tenant, backend.other_tenant, backend.tenant):
        await stock.move("nail", tenant=tenant)

    assert {event.tenant_id for event in await replayed(backend)} == {backend.tenant.id}
    assert len(await replayed(backend)) == 2
    assert len(await replayed(backend, backend.other_tenant)) == 1


@run_in_mode
async def test_old_payloads_come_in_their_newest_version(backend: Backend) -> None:
    newest = create_event_type(
        type="stock.moved",
        version=3,
        upcasters={1: lambda old: {**old, "unit": "piece"}, 2: lambda old: {**old, "by": old["by"] * 10}},
    )
    await Stock(backend).move("nail", 4)

    for event_types in ([newest], {"stock.moved": newest}):
        (event,) = await replayed(backend, event_types=event_types)
        assert (event.version, event.payload) == (3, {"item": "nail", "by": 40, "unit": "piece"})


@run_in_mode
async def test_a_replay_ends_before_an_event_that_cannot_be_upcast(backend: Backend) -> None:
    def broken(old: Any) -> Any:
        return {"by": 1 / old["by"]}

    newest = create_event_type(type="stock.moved", version=2, upcasters={1: broken})
    stock = Stock(backend)
    for by in (1, 0, 1):
        await stock.move("nail", by)
    seen: list[Event] = []

    async def read() -> None:
        if backend.mode == "sync":
            for event in replay(backend.storage, backend.tenant, event_types=[newest]):
                seen.append(event)
        else:
            async for event in replay_async(backend.storage, backend.tenant, event_types=[newest]):
                seen.append(event)

    with pytest.raises(EventVersionError, match=r"upcaster of stock\.moved from version 1 raised ZeroDivisionError"):
        await read()
    assert [event.payload for event in seen] == [{"by": 1.0}]


@pytest.mark.parametrize("read", [replay, replay_async, follow, follow_async])
@pytest.mark.parametrize(
    "options",
    [
        {"types": "stock.moved"},
        {"types": [None]},
        {"types": [""]},
        {"after": -1},
        {"after": "01890a5d"},
        {"after": True},
        {"batch_size": 0},
        {"batch_size": 1001},
        {"batch_size": 2.5},
        {"event_types": ["stock.moved"]},
    ],
    ids=str,
)
def test_what_cannot_be_asked_for_is_refused_at_once(read: Any, options: dict[str, Any], acme: Tenant) -> None:
    with pytest.raises(ConfigurationError):
        read(InMemoryStorage(), acme, **options)


@pytest.mark.parametrize("read", [follow, follow_async])
def test_polling_without_a_pause_is_refused(read: Any, acme: Tenant) -> None:
    with pytest.raises(ConfigurationError, match="poll_interval"):
        read(InMemoryStorage(), acme, poll_interval=0)


@run_in_mode
async def test_follow_gives_old_events_and_then_new_ones(backend: Backend) -> None:
    stock = Stock(backend)
    for number in range(5):
        await stock.move("nail", number)

    async def move_on() -> list[Event]:
        for number in range(5, 12):
            await backend.sleep(0.004)
            await stock.move("nail", number)
        return []

    events, _ = await backend.gather(followed(backend, 12, poll_interval=0.005, batch_size=3), move_on())

    assert [event.payload["by"] for event in events] == list(range(12))


@run_in_mode
async def test_follow_goes_on_after_a_given_position(backend: Backend) -> None:
    stock = Stock(backend)
    for number in range(6):
        await stock.move("nail", number)
    first = await followed(backend, 2)

    rest = await followed(backend, 4, after=first[-1].position)

    assert [event.payload["by"] for event in (*first, *rest)] == list(range(6))


def test_following_ends_when_it_is_told_to(storage: InMemoryStorage, acme: Tenant) -> None:
    engine, stop = stock_engine(storage), threading.Event()
    for number in range(3):
        moved(engine, acme, item="nail", by=number)
    events: Iterator[Event] = follow(storage, acme, poll_interval=60.0, stop=stop)
    told = [next(events) for _ in range(3)]
    threading.Timer(0.02, stop.set).start()

    rest = list(events)

    assert [event.payload["by"] for event in (*told, *rest)] == [0, 1, 2]


def test_following_that_was_told_to_end_gives_nothing_more(storage: InMemoryStorage, acme: Tenant) -> None:
    engine, stop = stock_engine(storage), threading.Event()
    for number in range(3):
        moved(engine, acme, item="nail", by=number)
    events = follow(storage, acme, stop=stop)
    next(events)
    stop.set()

    assert list(events) == []


def test_following_ends_with_its_task(storage: InMemoryStorage, acme: Tenant) -> None:
    async def listen(heard: asyncio.Event) -> None:
        events: AsyncIterator[Event] = follow_async(storage, acme, poll_interval=60.0)
        async for _ in events:
            heard.set()

    async def main() -> None:
        heard = asyncio.Event()
        task = asyncio.create_task(listen(heard))
        await heard.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    moved(stock_engine(storage), acme, item="nail", by=1)
    asyncio.run(asyncio.wait_for(main(), 90))


def test_replay_and_follow_skip_no_event_that_commits_late(fresh_postgres_database: Database) -> None:
    slow_commits(fresh_postgres_database)
    with PostgresStorage(fresh_postgres_database.app_url) as storage:
        tenant = storage.create_tenant(slug="acme", name="Acme")
        engine = stock_engine(storage)
        replays: list[list[Event]] = []
        stop = threading.Event()
        heard: list[Event] = []

        def keep_replaying() -> None:
            position = 0
            while not stop.is_set():
                page = list(replay(storage, tenant, after=position, batch_size=7))
                replays.append(page)
                position = page[-1].position if page else position

        def listen() -> None:
            heard.extend(islice(follow(storage, tenant, poll_interval=0.001, stop=stop), 120))

        readers = [threading.Thread(target=keep_replaying), threading.Thread(target=listen)]
        for reader in readers:
            reader.start()
        interleaved_moves(engine, tenant, number=120)
        readers[1].join(90)
        stop.set()
        readers[0].join(90)
        last = list(replay(storage, tenant, after=max((page[-1].position for page in replays if page), default=0)))

        everything = list(replay(storage, tenant))
        assert len(everything) == 120
        assert heard == everything
        assert [event for page in (*replays, last) for event in page] == everything
