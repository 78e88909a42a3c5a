"""Fixtures of the tests of the MCP server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

import pytest

from tests.mcp_server.harness import WIRES, Shop, Wire

P = ParamSpec("P")


@pytest.fixture(scope="session")
def shared_shop() -> Shop:
    return Shop(heartbeat=0.01)


@pytest.fixture
def shop(shared_shop: Shop) -> Shop:
    shared_shop.renew()
    return shared_shop


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


def under_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Decorate a coroutine function as a test that runs under an event loop, for a minute at most."""

    @wraps(test)
    def run(*arguments: P.args, **fixtures: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*arguments, **fixtures), 60))

    return run


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    while not condition():
        await asyncio.sleep(0.002)
