"""A name that is misspelt has one answer, whichever door it comes to."""

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
    create_action,
)
from tests.conftest import Execute

MISSPELT = [("work", "opne"), ("wrok", "open"), ("action_lgo", "list"), ("work", "nothing alike"), ("work", 7)]


def open_job(data: Any) -> Result[Any, ActionError]:
    return Success(data)


OPEN = create_action(name="open", description="", handler=open_job)


def nested(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
    return ctx.execute(*data)


async def nested_async(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
    return await ctx.execute_async(*data)


@pytest.mark.parametrize(("service", "action"), MISSPELT)
def test_a_misspelt_nested_action_is_answered_as_at_the_door(
    service: Any, action: Any, engine_of: Callable[..., Engine], execute: Execute, as_ann: RequestContext
) -> None:
    engine = engine_of(OPEN, create_action(name="call", description="", handler=nested))
    door = engine.execute_action(service, action, {}, as_ann)

    assert execute(engine, "work.call", [service, action], as_ann) == door == engine.get_action(service, action)
    assert isinstance(door, Failure)
    assert door.failure().code is ErrorCode.NOT_FOUND


@pytest.mark.parametrize(("service", "action"), MISSPELT)
def test_async_handlers_get_the_same_answer_for_a_misspelt_action(
    service: Any, action: Any, engine_of: Callable[..., Engine], as_ann: RequestContext
) -> None:
    engine = engine_of(OPEN, create_action(name="call", description="", handler=nested_async))
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
    hooked = create_action(name="close", description="", handler=open_job, hooks=ActionHooks(before=(hook,)))
    with pytest.raises(ConfigurationError) as refusal:
        engine_of(OPEN, hooked)

    assert str(refusal.value) == f"work.close: its hook {hook.name} names no action: {hint}"
