"""Every public coroutine is called by a test: here are those that no other test calls."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from returns.result import Failure, Result, Success

import actionengine
from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    AsyncLiveRecords,
    CallbackPublisher,
    Event,
    InMemoryStorage,
    Projection,
    Relay,
    RequestContext,
    SQLiteStorage,
    StorageUnavailable,
    create_action,
    create_service,
)
from actionengine.concurrency.run_sync import Mode
from actionengine.events.consumers.consumer import consumer_plan
from tests.backends import AnyStorage
from tests.events.stock import SYSTEM, stock_engine

TESTS = Path(__file__).parent.parent
SUITE = Path(actionengine.__file__).parent / "testing"


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


def public_coroutines() -> set[str]:
    """Return `Class.method` and function names of the coroutines that `actionengine` exports."""
    found = set()
    for name in dir(actionengine):
        exported = getattr(actionengine, name)
        if not getattr(exported, "__module__", "").startswith("actionengine"):
            continue
        if inspect.iscoroutinefunction(exported) or inspect.isasyncgenfunction(exported):
            found.add(name)
        if isinstance(exported, type) and not getattr(exported, "_is_protocol", False):
            found.update(
                f"{name}.{method}"
                for method, function in inspect.getmembers(exported, inspect.iscoroutinefunction)
                if not method.startswith("_") and function.__module__.startswith("actionengine")
            )
    return found


def test_every_public_coroutine_is_called_by_a_test() -> None:
    texts = "\n".join(path.read_text() for folder in (TESTS, SUITE) for path in folder.rglob("*.py"))
    # By its name, or by that of its twin, to which a helper that knows both modes adds the rest.
    called = set(re.findall(r"(?:\.|await |in )(\w+)\(", texts))
    called |= {f"{name}_async" for name in re.findall(r'"(\w+)"', texts)}

    found = public_coroutines()
    assert {"Relay.skip_async", "Engine.execute_action_async", "Inbox.forget_async"} <= found
    assert [name for name in sorted(found) if name.rpartition(".")[2] not in called] == []


@in_a_loop
async def test_events_are_counted_under_an_event_loop(any_storage: AnyStorage) -> None:
    tenant = await any_storage.create_tenant_async(slug="acme", name="Acme")
    engine = stock_engine(any_storage)
    for item in ("nail", "screw"):
        context = RequestContext(tenant, SYSTEM)
        (await engine.execute_action_async("stock", "move", {"item": item, "by": 1}, context)).unwrap()

    assert await any_storage.count_events_async(tenant) == 2
    assert await any_storage.count_events_async(tenant, limit=1) == 1
    if not isinstance(any_storage, InMemoryStorage):
        await any_storage.aclose_loop()


@in_a_loop
async def test_dead_letters_are_operated_under_an_event_loop(any_storage: AnyStorage) -> None:
    engine = stock_engine(any_storage)
    tenant = await any_storage.create_tenant_async(slug="acme", name="Acme")
    for item in ("nail", "nail", "screw"):
        context = RequestContext(tenant, SYSTEM)
        (await engine.execute_action_async("stock", "move", {"item": item, "by": 1}, context)).unwrap()
    delivered: list[Any] = []
    works = False

    async def publish(event: Event) -> None:
        if event.subject == "item/nail" and not works:
            raise RuntimeError("no nails")
        delivered.append(event.subject)

    relay = Relay(any_storage, CallbackPublisher(publish), batch_size=1, max_attempts=1)
    await relay.drain_async()

    (letter,) = await relay.dead_letters_async()
    assert (letter.event.subject, letter.attempts, letter.skipped) == ("item/nail", 1, False)
    assert delivered == ["item/screw"]
    assert await relay.dead_letters_async(after=letter.event.id) == []
    assert await relay.dead_letters_async(limit=1) == [letter]

    # In vain first: it is a dead letter again.
    assert await relay.redrive_async([letter.event.id]) == 1
    assert await relay.dead_letters_async() == []
    await relay.drain_async()
    assert [found.event.id for found in await relay.dead_letters_async()] == [letter.event.id]

    # Given up, it lets the next one of its subject pass.
    works = True
    assert await relay.skip_async([letter.event.id], "sent by post") == 1
    assert await relay.skip_async([letter.event.id], "again") == 0
    (skipped,) = await relay.dead_letters_async()
    assert (skipped.skipped, "sent by post" in skipped.reason) == (True, True)
    assert await relay.redrive_async() == 0
    await relay.drain_async()
    assert delivered == ["item/screw", "item/nail"]
    if not isinstance(any_storage, InMemoryStorage):
        await any_storage.aclose_loop()


@in_a_loop
async def test_a_broken_database_file_is_refused_under_an_event_loop(tmp_path: Path) -> None:
    (tmp_path / "none.db").write_bytes(b"no database, but long enough to look like one" * 100)
    storage = SQLiteStorage(tmp_path / "none.db")
    with pytest.raises(StorageUnavailable, match="not a database"):
        await storage.check_async()
    await storage.aclose()

    storage = SQLiteStorage(tmp_path / "there.db")
    await storage.check_async()
    # Its connections of this loop are closed, and made again when they are needed.
    await storage.aclose_loop()
    assert (await storage.create_tenant_async(slug="acme", name="Acme")).slug == "acme"
    await storage.aclose()


@in_a_loop
async def test_records_of_a_view_follow_a_rebuild(storage: InMemoryStorage) -> None:
    seen: list[Any] = []

    async def look(data: Any, ctx: ActionContext) -> Result[None, ActionError]:
        records = await projection.read_async(ctx, "levels")
        assert isinstance(records, AsyncLiveRecords)
        seen.append((records.generation, await records.is_superseded()))
        return Success(None)

    action = create_action(name="look", description="Look", handler=look, read_only=True)
    engine = stock_engine(storage, services=[create_service(name="looking", description="Look", actions=[action])])
    tenant = storage.create_tenant(slug="acme", name="Acme")
    projection = Projection(engine, name="levels", apply=lambda event, view: None)

    for _ in range(2):
        (await projection.rebuild_async(tenant)).unwrap()
        (await engine.execute_action_async("looking", "look", None, RequestContext(tenant, Actor.system()))).unwrap()

    assert [moved for _, moved in seen] == [False, False]
    assert seen[1][0] == seen[0][0] + 1


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_consumer_is_executed_as_an_action_is(mode: Mode, storage: InMemoryStorage) -> None:
    tenant = storage.create_tenant(slug="acme", name="Acme")
    engine = stock_engine(storage)
    plan = consumer_plan("inbox", "crm", lambda data: Success(data) if data else Failure("nothing in it"))
    context = RequestContext(tenant, Actor.integration("crm"))

    answers = [asyncio.run(engine.execute_plan(plan, payload, context, mode)) for payload in (1, 0)]

    assert answers[0] == Success(1)
    assert isinstance(answers[1], Failure)
    rows = engine.execute_action("action_log", "list", {"action": "inbox.crm"}, RequestContext(tenant, SYSTEM)).unwrap()
    assert [row.outcome for row in rows.items] == ["failed", "succeeded"]
