"""Deadlines at their edges: the timeout of an action never outlasts that of its caller."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from returns.result import Result, Success

from actionengine import ActionHooks, Engine, ErrorCode, HookDefinition, RequestContext
from tests.conftest import Execute, make_action

HANGS = 30.0
"""A time in seconds, much longer than the timeout around it."""


@pytest.mark.parametrize("where", ["before", "after", "nested"])
@pytest.mark.parametrize("own", [None, 3600.0])
def test_a_longer_timeout_inside_gives_no_more_time(
    engine_of: Callable[..., Engine], execute: Execute, where: str, own: float | None
) -> None:
    released = threading.Event()

    def slow(data: Any) -> Result[Any, Any]:
        released.wait(HANGS)
        return Success(data)

    def go(data: Any, ctx: Any) -> Result[Any, Any]:
        return ctx.execute("work", "slow", data) if where == "nested" else Success(data)

    hook = (HookDefinition("work", "slow"),)
    hooks = None if where == "nested" else ActionHooks(**{where: hook})
    engine = engine_of(make_action("go", go, timeout=0.5, hooks=hooks), make_action("slow", slow, timeout=own))
    started = monotonic()
    try:
        error = execute(engine, "work.go", {}).failure()
    finally:
        took = monotonic() - started
        released.set()
    assert error.code is (ErrorCode.TIMEOUT if where == "nested" else ErrorCode.HOOK_FAILED)
    assert re.search("exceeded (its timeout of|the timeout of work.go,) 0.5 s", error.message)
    assert took < HANGS / 2


def test_a_shorter_timeout_inside_ends_what_it_is_of(engine_of: Callable[..., Engine], as_ann: RequestContext) -> None:
    released = threading.Event()

    def slow(data: Any) -> Result[Any, Any]:
        released.wait(HANGS)
        return Success(data)

    def go(data: Any, ctx: Any) -> Result[Any, Any]:
        code = ctx.execute("work", "slow", data).failure().code
        is_left_behind = not released.is_set()
        released.set()
        return Success((code, is_left_behind))

    engine = engine_of(make_action("go", go, timeout=3600.0), make_action("slow", slow, timeout=0.1))
    started = monotonic()
    assert engine.execute_action("work", "go", {}, as_ann) == Success((ErrorCode.TIMEOUT, True))
    assert monotonic() - started < HANGS / 2
