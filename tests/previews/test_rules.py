"""The rules of previews and plans that do not depend on the storage: clocks, ids, secrets, expiry, the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    Budget,
    ConfigurationError,
    ErrorCode,
    InMemoryStorage,
    RequestContext,
    Sensitive,
    create_action,
    create_engine,
    create_service,
)
from actionengine.actions import ActionHooks, ActionResultConfig, ApprovalPolicy, HookDefinition
from actionengine.concurrency.run_sync import run_sync
from actionengine.pipeline.stored_plan import LIFETIME
from actionengine.storage.records import PLANS
from actionengine.testing import AsyncBackend, SyncBackend
from actionengine.testing.harness import AUDITOR
from tests.conftest import make_action
from tests.harness import BOT, expect, refused
from tests.previews.desk import Desk

SECRET = "4000-1234-5678-9010"


class Card(BaseModel):
    holder: str
    number: Annotated[str, Sensitive()]


def keep(data: Card, ctx: ActionContext) -> Result[Any, Any]:
    """Store a card, and say its number where nothing masks it by name."""
    ctx.records("cards").insert({"holder": data.holder, "number": data.number, "text": f"card {data.number}"})
    ctx.records("numbers").insert({}, data.number)
    ctx.emit("Kept", {"note": f"of {data.number}"})
    return Success(None)


def times(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Return the time and two ids, of this execution and of a nested one."""
    own = [ctx.now.isoformat(), ctx.new_id(), ctx.new_id()]
    return Success(own if data == "inner" else [own, ctx.execute("w", "times", "inner").unwrap()])


async def times_async(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Do the same in an async handler."""
    own = [ctx.now.isoformat(), ctx.new_id(), ctx.new_id()]
    return Success([own, (await ctx.execute_async("w", "times", "inner")).unwrap()])


def put(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Insert a document with the id that it is given, and fail if asked to."""
    ctx.records("notes").insert({"at": ctx.now.isoformat()}, data.get("id"))
    return Failure("refused") if data.get("fails") else Success(data)


def unrepeatable(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Write another time in each run."""
    ctx.records("notes").insert({"at": datetime.now().isoformat()})
    return Success(None)


def insert_and_delete(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Write documents in ways that come to less."""
    notes = ctx.records("notes")
    gone = notes.insert({"n": 1})
    notes.delete(gone.id, gone.version)
    kept = notes.insert({"n": 1}, "kept")
    notes.update("kept", {"n": 2}, kept.version)
    return Success(None)


def many(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Insert many documents."""
    for number in range(data["count"]):
        ctx.records("notes").insert({"n": number, "text": "x" * data.get("size", 1)})
    return Success(None)


async def slow(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Write, and wait."""
    await ctx.async_records("notes").insert({})
    await asyncio.sleep(60)
    return Success(None)


def read_only_insert(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Write in a read-only action."""
    ctx.records("notes").insert({})
    return Success(None)


PUT = HookDefinition("w", "put")
ACTIONS = [
    make_action("keep", keep, validation=Card),
    make_action("times", times),
    make_action("put", put),
    make_action("once", put, idempotency="required"),
    make_action("nest_once", lambda data, ctx: ctx.execute("w", "once", data)),
    make_action("unrepeatable", unrepeatable),
    make_action("insert_and_delete", insert_and_delete),
    make_action("many", many),
    make_action("broken", read_only_insert, read_only=True),
    make_action("for_people", put, allowed_actors=["human"]),
    make_action(
        "hooked", put, hooks=ActionHooks(before=[HookDefinition("w", "put")], after=[HookDefinition("w", "put")])
    ),
    make_action("whole", put, result=ActionResultConfig(pipeline=True)),
]


@pytest.fixture
def storage() -> InMemoryStorage:
    return InMemoryStorage()


@pytest.fixture
def desk(storage: InMemoryStorage) -> Desk:
    """An engine in memory."""
    return Desk(SyncBackend(storage), [create_service(name="w", description="", actions=ACTIONS)])


def preview(desk: Desk, name: str, payload: Any = None, **fields: Any) -> Any:
    return run_sync(desk.preview(name, payload, **fields))


def perform(desk: Desk, name: str, payload: Any = None, **fields: Any) -> Any:
    return run_sync(desk.perform(name, payload, **fields))


def log(desk: Desk, **query: Any) -> Any:
    page = perform(desk, "action_log.list", {"limit": 1000, **query}, by=AUDITOR)
    return [entry for entry in reversed(page.items) if entry.actor_id != AUDITOR.id]


# Times and ids


def test_one_time_and_new_ids_without_a_plan(desk: Desk) -> None:
    own, inner = perform(desk, "w.times")
    assert own[0] == inner[0]
    assert datetime.fromisoformat(own[0]).utcoffset() == timedelta(0)
    ids = [*own[1:], *inner[1:]]
    assert sorted(set(ids)) == ids
    assert {UUID(id).version for id in ids} == {7}


def test_a_plan_has_the_times_and_ids_of_its_preview(desk: Desk) -> None:
    shown = preview(desk, "w.times")
    ids = [*shown.value[0][1:], *shown.value[1][1:]]
    assert sorted(set(ids)) == ids
    assert {UUID(id).version for id in ids} == {7}
    assert perform(desk, "w.times", plan=shown.plan) == shown.value
    assert preview(desk, "w.times").value != shown.value


def test_async_handlers_have_times_and_ids_too(storage: InMemoryStorage) -> None:
    actions = [make_action("times", times), make_action("times_async", times_async)]
    desk = Desk(AsyncBackend(storage), [create_service(name="w", description="", actions=actions)])

    async def both() -> None:
        shown = expect(await desk.preview("w.times_async", None))
        assert expect(await desk.perform("w.times_async", None, plan=shown.plan)) == shown.value

    asyncio.run(both())
    with desk.engine.blocking() as blocking:
        shown = blocking.preview("w", "times_async", None, desk.context()).unwrap()
    assert shown.value[0][0] == shown.value[1][0]


def test_ids_stay_in_order_beyond_their_count(desk: Desk) -> None:
    shown = preview(desk, "w.many", {"count": 5000})
    assert (len(shown.writes), shown.omitted) == (200, 4800)
    assert [write.after["n"] for write in shown.writes] == list(range(200))


def test_a_handler_that_does_not_repeat_itself_conflicts(desk: Desk) -> None:
    shown = preview(desk, "w.unrepeatable")
    error = refused(perform(desk, "w.unrepeatable", plan=shown.plan), ErrorCode.CONFLICT)
    assert error.details["differs"] == [f"notes/{shown.writes[0].id}"]


# What is shown


def test_net_effect_is_shown(desk: Desk) -> None:
    (write,) = preview(desk, "w.insert_and_delete").writes
    assert (write.kind, write.id, write.before, write.after) == ("insert", "kept", None, {"n": 2})


def test_secrets_are_masked_and_compared(desk: Desk) -> None:
    payload = {"holder": "ann", "number": SECRET}
    shown = preview(desk, "w.keep", payload)
    assert SECRET not in repr(shown.writes) + repr(shown.events)
    (card,) = (write for write in shown.writes if write.target == "cards")
    assert card.after["holder"] == "ann"
    assert SECRET not in repr(log(desk))
    assert expect_none(perform(desk, "w.keep", payload, plan=shown.plan))
    shown = preview(desk, "w.keep", {**payload, "number": "4000-1234-5678-9011"})
    refused(perform(desk, "w.keep", payload, plan=shown.plan), ErrorCode.CONFLICT, "payload")


def expect_none(answer: Any) -> bool:
    return expect(answer) is None


def test_large_writes_are_left_out_but_compared(desk: Desk) -> None:
    payload = {"count": 10, "size": 100_000}
    shown = preview(desk, "w.many", payload)
    assert (len(shown.writes), shown.omitted) == (2, 8)
    assert expect_none(perform(desk, "w.many", payload, plan=shown.plan))


def test_hooks_and_pipeline_results_are_previewed(desk: Desk) -> None:
    shown = preview(desk, "w.hooked", {})
    assert [write.target for write in shown.writes] == ["notes"] * 3
    assert [(entry.action, entry.outcome) for entry in log(desk)] == [
        ("w.hooked", "previewed"),
        ("w.put", "previewed"),
        ("w.put", "previewed"),
    ]
    assert preview(desk, "w.whole", {}).value.data == {}


# The log, keys and budgets


def test_refused_previews_are_logged_as_previews(desk: Desk) -> None:
    refused(preview(desk, "w.for_people", {}, by=BOT), ErrorCode.FORBIDDEN)
    refused(preview(desk, "w.keep", {}), ErrorCode.INVALID_INPUT)
    refused(preview(desk, "w.put", {"fails": True}), ErrorCode.UNPROCESSABLE)
    refused(preview(desk, "w.broken"), ErrorCode.INTERNAL, "read-only")
    entries = log(desk)
    assert {entry.outcome for entry in entries} == {"previewed"}
    assert [entry.error["code"] for entry in entries] == ["forbidden", "invalid_input", "unprocessable", "internal"]
    unknown = desk.engine.preview("w", "unknown", {}, desk.context()).failure()
    assert unknown.code is ErrorCode.NOT_FOUND
    assert desk.engine.preview("w", "put", {}, RequestContext(None)).failure().code is ErrorCode.UNAUTHENTICATED


def test_a_preview_claims_no_key_and_needs_none(desk: Desk) -> None:
    expect(preview(desk, "w.once", {}))
    expect(preview(desk, "w.nest_once", {}))
    expect(preview(desk, "w.put", {"id": "a"}, idempotency_key="k"))
    expect(perform(desk, "w.put", {"id": "b"}, idempotency_key="k"))


def test_nothing_follows_a_preview(storage: InMemoryStorage) -> None:
    called: list[str] = []

    def note(what: str, *given: Any) -> Result[Any, Any]:
        called.append(what)
        return Success(None)

    desk = Desk(
        SyncBackend(storage),
        [create_service(name="w", description="", actions=ACTIONS)],
        on_before_action_handler=partial(note, "before"),
        on_after_action_handler=partial(note, "after"),
    )
    shown = preview(desk, "w.put", {})
    assert called == ["before"]
    expect(perform(desk, "w.put", {}, plan=shown.plan))
    assert called == ["before", "before", "after"]


def test_a_preview_takes_nothing_from_a_budget(storage: InMemoryStorage) -> None:
    budget = Budget("puts", actions="w.put", per="actor", limit=1, window=timedelta(hours=1))
    desk = Desk(SyncBackend(storage), [create_service(name="w", description="", actions=ACTIONS)], budgets=[budget])
    first, second = preview(desk, "w.put", {}), preview(desk, "w.put", {})
    expect(perform(desk, "w.put", {}, plan=first.plan))
    refused(perform(desk, "w.put", {}, plan=second.plan), ErrorCode.RATE_LIMITED)
    refused(preview(desk, "w.put", {}), ErrorCode.RATE_LIMITED)


def test_a_cancelled_preview_leaves_nothing_but_its_row(storage: InMemoryStorage) -> None:
    desk = Desk(AsyncBackend(storage), [create_service(name="w", description="", actions=[make_action("slow", slow)])])

    async def cancelled() -> None:
        task = asyncio.ensure_future(desk.preview("w.slow", None))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await desk.backend.ids("notes") == []
        assert await desk.outcomes("w.slow") == ["previewed"]

    asyncio.run(cancelled())


# Expiry


@contextmanager
def later(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> Iterator[None]:
    """Set the clock of the storage ahead."""
    from actionengine.storage import clock

    with monkeypatch.context() as patched:
        patched.setattr(clock, "_BEGAN", clock._BEGAN + by.total_seconds())
        yield


def test_an_expired_plan_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = preview(desk, "w.put", {}).plan
    with later(monkeypatch, LIFETIME):
        refused(perform(desk, "w.put", {}, plan=plan), ErrorCode.CONFLICT, "expired")
    expect(perform(desk, "w.put", {}, plan=plan))


def test_expired_plans_are_deleted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(60):
        plan = preview(desk, "w.put", {}).plan
    with later(monkeypatch, 3 * LIFETIME):
        for _ in range(200):
            expect(preview(desk, "w.put", {}))
        refused(perform(desk, "w.put", {}, plan=plan), ErrorCode.NOT_FOUND)
    assert len(run_sync(desk.backend.ids(PLANS))) <= 200


# Declarations


def test_binds_is_payload_or_effects() -> None:
    policy = ApprovalPolicy(when=lambda data, ctx: True, permission="w.approve", binds="all")  # type: ignore[arg-type]
    action = create_action(name="a", description="", handler=put, approval=policy)
    with pytest.raises(ConfigurationError, match="binds"):
        create_engine(services=[create_service(name="w", description="", actions=[action])])
