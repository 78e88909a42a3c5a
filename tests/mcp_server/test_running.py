"""Calls that last: progress, cancellation, and other callers meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.mcp_server.conftest import under_loop, until
from tests.mcp_server.harness import Shop, Wire, by

SLOW = pytest.mark.parametrize("tool", ["shop__slow", "shop__block"])
"""An `async def` handler, and a `def` that blocks its thread."""


async def begun(shop: Shop, call: asyncio.Task[Any]) -> None:
    await until(lambda: shop.held.begun.is_set() or call.done())
    assert shop.held.begun.is_set(), call


@SLOW
@under_loop
async def test_a_slow_call_reports_progress(shop: Shop, wire: Wire, tool: str) -> None:
    reports: list[tuple[float, str | None]] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, message))
        if len(reports) == 3:
            shop.held.release.set()

    async with shop.connect(wire) as client:
        done = await client.call_tool(tool, {}, progress_callback=report)
    assert done.structured_content == {"result": "done"}
    assert [progress for progress, _ in reports] == sorted({progress for progress, _ in reports})
    assert f"{tool} has been running" in str(reports[0][1])


@under_loop
async def test_a_client_that_fails_at_progress_gets_its_result(shop: Shop, wire: Wire) -> None:
    async def fail(progress: float, total: float | None, message: str | None) -> None:
        shop.held.release.set()
        raise ValueError("no interest")

    async with shop.connect(wire) as client:
        assert not (await client.call_tool("shop__slow", {}, progress_callback=fail)).is_error
    assert shop.count() == 1


@SLOW
@under_loop
async def test_a_cancelled_call_changes_nothing(shop: Shop, wire: Wire, tool: str) -> None:
    meta = by(idempotency_key="k")
    async with shop.connect(wire) as client:
        call = asyncio.create_task(client.call_tool(tool, {}, meta=meta))
        await begun(shop, call)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: len(shop.log()) == 1)
        (row,) = shop.log()
        assert (row.outcome, row.action) == ("failed", tool.replace("__", "."))
        assert "cancelled" in row.error["message"]
        assert shop.count() == 0
        shop.held.release.set()
        # The key is free, and the connection serves on.
        again = await client.call_tool(tool, {}, meta=meta)
        assert not again.is_error
    assert shop.count() == 1


@SLOW
@under_loop
async def test_a_closed_connection_cancels_its_calls(shop: Shop, tool: str) -> None:
    async with shop.connect("handshake") as client:
        call = asyncio.create_task(client.call_tool(tool, {}))
        await begun(shop, call)
    with pytest.raises(BaseException, match=r".*"):
        await call
    await until(lambda: len(shop.log()) == 1)
    shop.held.release.set()
    assert shop.log()[0].outcome == "failed"
    assert shop.count() == 0


@SLOW
@under_loop
async def test_a_slow_call_keeps_nobody_waiting(shop: Shop, tool: str) -> None:
    async with shop.connect() as client:
        call = asyncio.create_task(client.call_tool(tool, {}))
        await begun(shop, call)
        for caller in ("acme/carla", "globex/carla"):
            assert not (await client.call_tool("shop__count", {}, meta=by(caller))).is_error
        assert not call.done()
        shop.held.release.set()
        assert not (await call).is_error
