"""Calls of tools in both modes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actionengine import Actor, Engine, InMemoryStorage, RequestContext, Tenant, ToolResult, Tools
from tests.agents.host import CLERK, make_host

Call = Callable[..., ToolResult]


@pytest.fixture
def engine(storage: InMemoryStorage, acme: Tenant) -> Engine:
    return make_host(storage)


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, engine: Engine, acme: Tenant) -> Call:
    """Call a tool as the clerk's agent, or as another actor, in the dialect `openai` or another one."""
    made: dict[str, Tools] = {}

    def run(name: Any, arguments: Any, by: Actor | None = CLERK, tools: Tools | str = "openai", **context: Any) -> Any:
        if isinstance(tools, str):
            tools = made.setdefault(tools, Tools(engine, tools))  # type: ignore[arg-type]
        asked = RequestContext(context.pop("tenant", acme), by, **context)
        if request.param == "sync":
            return tools.call(name, arguments, asked)
        return asyncio.run(tools.call_async(name, arguments, asked))

    return run
