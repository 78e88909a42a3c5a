"""Calls of tools in both modes. The tests share an engine, and each has tenants of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any
from uuid import uuid4

import pytest

from actionengine import Actor, Engine, InMemoryStorage, RequestContext, Tenant, ToolResult, Tools
from tests.agents.host import CLERK, make_host
from tests.conftest import log_of

Call = Callable[..., ToolResult]
ToolsOf = Callable[..., Tools]
Log = Callable[[], list[Any]]


@pytest.fixture(scope="session")
def storage() -> InMemoryStorage:
    return InMemoryStorage()


@pytest.fixture(scope="session")
def engine(storage: InMemoryStorage) -> Engine:
    return make_host(storage)


@pytest.fixture
def acme(storage: InMemoryStorage) -> Tenant:
    return storage.create_tenant(slug=f"acme-{uuid4().hex}", name="Acme")


@pytest.fixture
def globex(storage: InMemoryStorage) -> Tenant:
    return storage.create_tenant(slug=f"globex-{uuid4().hex}", name="Globex")


@pytest.fixture
def log(engine: Engine, acme: Tenant) -> Log:
    """Return the action log of the tenant, oldest first."""
    return lambda: log_of(engine, acme)


@pytest.fixture(scope="session")
def tools_of(engine: Engine) -> ToolsOf:
    """Return the tools of the engine in a dialect, made once."""
    return cache(lambda dialect, services=None: Tools(engine, dialect, services))


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, tools_of: ToolsOf, acme: Tenant) -> Call:
    """Call a tool as the clerk's agent, or as another actor, in the dialect `openai` or with other tools."""

    def run(name: Any, arguments: Any, by: Actor | None = CLERK, tools: Tools | str = "openai", **context: Any) -> Any:
        if isinstance(tools, str):
            tools = tools_of(tools)
        asked = RequestContext(context.pop("tenant", acme), by, **context)
        if request.param == "sync":
            return tools.call(name, arguments, asked)
        return asyncio.run(tools.call_async(name, arguments, asked))

    return run
