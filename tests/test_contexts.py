"""Hundreds of concurrent executions on one engine do not see each other."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from typing import Any
from uuid import uuid4

import pytest
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionHooks,
    Actor,
    AIUsage,
    Engine,
    HookDefinition,
    InMemoryStorage,
    RequestContext,
    Tenant,
)
from tests.conftest import make_action

EXECUTIONS = 400


def remember(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """A before hook that leaves a mark in the shared data of hooks."""
    ctx.hook_context.state["mark"] = data["mark"]
    return Success(data)


def compare(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """An after hook that finds the mark of its own execution."""
    return Success({**data, "marked": ctx.hook_context.state["mark"]})


def seen_by(data: Any, ctx: ActionContext) -> dict[str, Any]:
    assert ctx.actor is not None
    return {"mark": data["mark"], "actor": str(ctx.actor), "tenant": ctx.tenant.slug, "request": ctx.request_id}


def blocking(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    before = seen_by(data, ctx)
    records = ctx.records("marks")
    records.insert({"mark": data["mark"]})
    time.sleep(random.random() / 500)
    mine = [record.data["mark"] for record in records.list({"mark": data["mark"]})]
    nested = ctx.execute("work", "nested", data).unwrap()
    assert before == seen_by(data, ctx) == nested
    return Success({**before, "mine": mine})


async def waiting(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    before = seen_by(data, ctx)
    records = ctx.async_records("marks")
    await records.insert({"mark": data["mark"]})
    await asyncio.sleep(random.random() / 500)
    mine = [record.data["mark"] for record in await records.list({"mark": data["mark"]})]
    nested = (await ctx.execute_async("work", "nested", data)).unwrap()
    assert before == seen_by(data, ctx) == nested
    return Success({**before, "mine": mine})


@pytest.fixture
def engine(engine_of: Callable[..., Engine]) -> Engine:
    hooks = ActionHooks(before=(HookDefinition("work", "remember"),), after=(HookDefinition("work", "compare"),))
    return engine_of(
        make_action("blocking", blocking, hooks=hooks),
        make_action("waiting", waiting, hooks=hooks),
        make_action("nested", lambda data, ctx: Success(seen_by(data, ctx))),
        make_action("remember", remember),
        make_action("compare", compare),
    )


def expected(mark: int, context: RequestContext) -> dict[str, Any]:
    assert context.tenant is not None
    return {
        "mark": mark,
        "marked": mark,
        "mine": [mark],
        "actor": str(context.actor),
        "tenant": context.tenant.slug,
        "request": context.request_id,
    }


def contexts(acme: Tenant, globex: Tenant) -> list[RequestContext]:
    return [
        RequestContext(tenant=(acme, globex)[mark % 2], actor=Actor.human(f"user-{mark % 7}"), request_id=str(mark))
        for mark in range(EXECUTIONS)
    ]


def test_threads_with_their_own_contexts_do_not_meet(engine: Engine, acme: Tenant, globex: Tenant) -> None:
    requests = contexts(acme, globex)
    with ThreadPoolExecutor(32) as pool:
        answers = pool.map(
            lambda mark: engine.execute_action("work", "blocking", {"mark": mark}, requests[mark]), range(EXECUTIONS)
        )
        assert [answer.unwrap() for answer in answers] == [expected(n, c) for n, c in enumerate(requests)]


def test_tasks_with_their_own_contexts_do_not_meet(engine: Engine, acme: Tenant, globex: Tenant) -> None:
    requests = contexts(acme, globex)

    async def all_at_once() -> list[Any]:
        calls = (
            engine.execute_action_async("work", "waiting", {"mark": mark}, requests[mark]) for mark in range(EXECUTIONS)
        )
        return list(await asyncio.gather(*calls))

    answers = asyncio.run(all_at_once())
    assert [answer.unwrap() for answer in answers] == [expected(n, c) for n, c in enumerate(requests)]


def test_one_shared_context_serves_threads_and_tasks_at_once(engine: Engine, acme: Tenant) -> None:
    shared = RequestContext(tenant=acme, actor=Actor.human("ann"), request_id="shared")

    async def mixed() -> list[Any]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(16) as pool:
            calls: list[Any] = []
            for mark in range(EXECUTIONS):
                payload = {"mark": mark}
                if mark % 2:
                    calls.append(engine.execute_action_async("work", "waiting", payload, shared))
                else:
                    calls.append(loop.run_in_executor(pool, engine.execute_action, "work", "blocking", payload, shared))
            answers: list[Any] = await asyncio.gather(*calls)
            return answers

    answers = asyncio.run(mixed())
    assert [answer.unwrap() for answer in answers] == [expected(mark, shared) for mark in range(EXECUTIONS)]


def test_one_payload_shared_by_executions_is_changed_by_none(
    engine_of: Callable[..., Engine], as_ann: RequestContext
) -> None:
    def grow(data: Any) -> Result[Any, Any]:
        data["items"].append("mine")
        return Success(len(data["items"]))

    engine = engine_of(make_action("grow", grow))
    payload = {"items": ["first"]}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: engine.execute_action("work", "grow", payload, as_ann).unwrap(), range(100)))
    assert answers == [2] * 100
    assert payload == {"items": ["first"]}


def test_a_request_context_is_frozen(as_ann: RequestContext) -> None:
    with pytest.raises(FrozenInstanceError):
        as_ann.actor = Actor.system()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        as_ann.actor.roles = ("admin",)  # type: ignore[misc,union-attr]


def test_a_request_context_holds_only_storable_values() -> None:
    context = RequestContext(None, source="a\0", reason="b\0", request_id="\ud800")

    assert (context.source, context.reason, context.request_id) == ("a\ufffd", "b\ufffd", "?")


def test_an_action_context_cannot_be_changed(engine_of: Callable[..., Engine], as_ann: RequestContext) -> None:
    refused = []

    def meddle(data: Any, ctx: Any) -> Result[Any, Any]:
        for name in ("actor", "tenant", "source", "reason", "anything"):
            try:
                setattr(ctx, name, Actor.system())
            except AttributeError:
                refused.append(name)
        return Success(None)

    engine = engine_of(make_action("go", meddle))
    assert engine.execute_action("work", "go", {}, as_ann) == Success(None)
    assert refused == ["actor", "tenant", "source", "reason", "anything"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Actor("robot", "r"), "unknown actor type"),  # type: ignore[arg-type]
        (lambda: Actor(["human"], "r"), "unknown actor type"),  # type: ignore[arg-type]
        (lambda: Actor.human(""), "non-empty id"),
        (lambda: Actor.human("ann", roles="admin"), "not the string 'admin'"),
        (lambda: Actor.human("ann", roles=[1]), "'ann' has 1"),  # type: ignore[list-item]
        (lambda: Actor.human("ann", permissions=[None]), "'ann' has None"),  # type: ignore[list-item]
        (lambda: Tenant("acme", "acme"), "resolve_tenant"),  # type: ignore[arg-type]
        (lambda: RequestContext(tenant="acme"), "a Tenant, not 'acme': use engine.resolve_tenant"),  # type: ignore[arg-type]
        (lambda: RequestContext(tenant=Success("acme")), "resolve_tenant.*unwrap"),  # type: ignore[arg-type]
        (lambda: RequestContext(tenant=None, actor="ann"), "Actor.human"),  # type: ignore[arg-type]
    ],
)
def test_a_host_is_told_what_is_wrong_with_its_values(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_tenant_of_the_hosts_directory_needs_no_row(
    engine_of: Callable[..., Engine], storage: InMemoryStorage
) -> None:
    engine = engine_of(make_action("go", lambda d, ctx: Success(ctx.records("t").insert({}).version)))
    context = RequestContext(tenant=Tenant(uuid4(), "elsewhere"), actor=Actor.human("ann"))
    assert engine.execute_action("work", "go", {}, context) == Success(1)


def test_ai_usage_of_the_request_and_of_the_handler_adds_up(
    engine_of: Callable[..., Engine], acme: Tenant, as_system: RequestContext
) -> None:
    def think(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.record_ai_usage(AIUsage("small-2", None, 5, 7, 0.5))
        return Success(None)

    engine = engine_of(make_action("think", think))
    usage = AIUsage("large-1", "v3", 100, 10, 0.25)
    engine.execute_action("work", "think", {}, RequestContext(tenant=acme, actor=Actor.ai("bot"), ai_usage=usage))
    (row,) = engine.execute_action("action_log", "list", {"actor_type": "ai"}, as_system).unwrap().items
    assert (row.model, row.prompt_version, row.input_tokens, row.output_tokens) == ("small-2", "v3", 105, 17)
    assert row.cost_usd == pytest.approx(0.75)
