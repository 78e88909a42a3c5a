"""A misspelt name gets the same answer at each entry point."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    ActionHooks,
    ConfigurationError,
    Engine,
    ErrorCode,
    HookDefinition,
    RequestContext,
)
from actionengine.text.names import MAX_COMPARED_NAMES, MAX_SHOWN_LENGTH, nearest_of
from actionengine.workflows.definitions.schedules import zone
from tests.conftest import Execute, make_action

MISSPELT = [("work", "opne"), ("wrok", "open"), ("action_lgo", "list"), ("work", "nothing alike"), ("work", 7)]


def open_job(data: Any) -> Result[Any, ActionError]:
    return Success(data)


OPEN = make_action("open", open_job)


def nested(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
    return ctx.execute(*data)


async def nested_async(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
    return await ctx.execute_async(*data)


@pytest.mark.parametrize(("service", "action"), MISSPELT)
def test_a_misspelt_nested_action_is_answered_as_at_the_door(
    service: Any, action: Any, engine_of: Callable[..., Engine], execute: Execute, as_ann: RequestContext
) -> None:
    engine = engine_of(OPEN, make_action("call", nested))
    door = engine.execute_action(service, action, {}, as_ann)

    assert execute(engine, "work.call", [service, action], as_ann) == door == engine.get_action(service, action)
    assert isinstance(door, Failure)
    assert door.failure().code is ErrorCode.NOT_FOUND


@pytest.mark.parametrize(("service", "action"), MISSPELT)
def test_async_handlers_get_the_same_hint_for_a_misspelt_action(
    service: Any, action: Any, engine_of: Callable[..., Engine], as_ann: RequestContext
) -> None:
    engine = engine_of(OPEN, make_action("call", nested_async))
    door = asyncio.run(engine.execute_action_async(service, action, {}, as_ann))

    assert asyncio.run(engine.execute_action_async("work", "call", [service, action], as_ann)) == door


@pytest.mark.parametrize(
    ("hook", "hint"),
    [
        (HookDefinition("work", "opne"), "there is no action 'opne' in the service 'work'; did you mean 'open'?"),
        (HookDefinition("wrok", "open"), "there is no service 'wrok'; did you mean 'work'?"),
    ],
)
def test_a_misspelt_hook_is_refused_with_the_nearest_name(
    hook: HookDefinition, hint: str, engine_of: Callable[..., Engine]
) -> None:
    hooked = make_action("close", open_job, hooks=ActionHooks(before=(hook,)))
    with pytest.raises(ConfigurationError) as refusal:
        engine_of(OPEN, hooked)

    assert str(refusal.value) == f"work.close: its hook {hook.name} names no action: {hint}"


def test_an_unknown_name_among_many_is_compared_with_none(
    engine_of: Callable[..., Engine], as_ann: RequestContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []

    def count(name: str, names: Any, n: int) -> list[str]:
        compared.append(len(names))
        return []

    monkeypatch.setattr("actionengine.text.names.get_close_matches", count)
    many = [make_action(f"open_{n}", open_job) for n in range(MAX_COMPARED_NAMES + 1)]
    for actions, comparisons in ((many, []), (many[1:], [MAX_COMPARED_NAMES])):
        compared.clear()
        answer = engine_of(*actions).execute_action("work", "open", {}, as_ann)
        assert isinstance(answer, Failure)
        assert answer.failure().message == "there is no action 'open' in the service 'work'"
        assert compared == comparisons


@pytest.mark.parametrize(("service", "action"), [("work", "x" * 1_000_000), ("x" * 1_000_000, "open")])
def test_an_unknown_name_is_repeated_in_part_and_logged(
    service: str,
    action: str,
    engine_of: Callable[..., Engine],
    execute: Execute,
    as_ann: RequestContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = execute(engine_of(OPEN), f"{service}.{action}", {}, as_ann)
    assert isinstance(answer, Failure)
    assert len(str(answer.failure())) < 500
    assert all(len(str(value)) <= MAX_SHOWN_LENGTH for value in answer.failure().details.values())
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith(answer.failure().message)
    assert f"(tenant acme, actor {as_ann.actor})" in line


def test_a_module_action_among_many_is_compared_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def count(name: str, names: Any, n: int) -> list[str]:
        compared.append(len(name))
        return []

    monkeypatch.setattr("actionengine.text.names.get_close_matches", count)
    many = [f"fs:open_{number}" for number in range(50_000)]
    assert nearest_of("fs:open", many) is None
    assert compared == []
    assert nearest_of("x" * 1_000_000, many[:MAX_COMPARED_NAMES]) is None
    assert compared == [MAX_SHOWN_LENGTH]


@pytest.mark.parametrize("slug", ["x" * 1_000_000, "é" * 64, "\ud800", "acme\0"])
def test_a_tenant_that_cannot_be_is_repeated_in_part(slug: str, engine_of: Callable[..., Engine]) -> None:
    error = engine_of(OPEN).resolve_tenant(slug).failure()
    assert error.code is ErrorCode.NOT_FOUND
    assert len(error.message) < 200


def test_a_time_zone_of_any_length_is_quoted_in_part() -> None:
    with pytest.raises(ValueError, match="there is no time zone") as refusal:
        zone("Europe/B" * 200_000)
    assert len(str(refusal.value)) < 300
