"""A caller that gives up: the execution is rolled back, and its row in the action log says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from returns.result import Result, Success

from actionengine import ActionContext, create_service
from actionengine.concurrency.abandonable import def_in_threads
from actionengine.testing import AsyncBackend
from tests.backends import AnyStorage
from tests.conftest import make_action
from tests.harness import Harness


class Held:
    """Handlers that write a document, and then wait for their cancellation or their release."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.release = threading.Event()
        self.refused_late: str | None = None
        self.over = threading.Event()

    async def in_task(self, data: Any, ctx: ActionContext) -> Result[Any, Any]:
        await ctx.async_records("notes").insert({})
        self.begun.set()
        await asyncio.Event().wait()
        return Success(None)

    def in_thread(self, data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.records("notes").insert({})
        self.begun.set()
        self.release.wait(60)
        try:
            ctx.records("notes").insert({})
        except Exception as error:
            self.refused_late = type(error).__name__
        self.over.set()
        return Success(None)


async def nest(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    await ctx.execute_async("work", "note", None)
    return await ctx.execute_async("work", "in_task", None)


async def note(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success((await ctx.async_records("notes").insert({})).id)


@pytest.fixture
def backend(each_storage: AnyStorage) -> Iterator[AsyncBackend]:
    backend = AsyncBackend(each_storage)
    yield backend
    backend.close()


@pytest.mark.parametrize(
    ("name", "on_log"),
    [
        ("in_task", ["failed"]),
        ("in_thread", ["failed"]),
        ("nest", ["failed", "failed", "failed"]),
    ],
)
def test_a_cancelled_execution_leaves_only_its_row(backend: AsyncBackend, name: str, on_log: list[str]) -> None:
    held = Held()
    actions = [
        make_action("in_task", held.in_task),
        make_action("in_thread", held.in_thread),
        make_action("nest", nest),
        make_action("note", note),
    ]
    harness = Harness(backend, [create_service(name="work", description="", actions=actions)])

    async def give_up() -> None:
        def_in_threads.set(True)
        task = asyncio.create_task(harness.execute(f"work.{name}", None, key="k"))
        assert await asyncio.to_thread(held.begun.wait, 60), "the loop was blocked"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        held.release.set()
        rows = await harness.log()
        assert [row.outcome for row in rows] == on_log
        row = next(row for row in rows if row.action == f"work.{name}")
        assert row.error is not None
        assert "was cancelled by its caller, and nothing was committed" in row.error["message"]
        assert await backend.ids("notes") == []

    backend.run(give_up())
    if name == "in_thread":
        assert held.over.wait(60)
        assert held.refused_late == "StorageError"
    held.begun.clear()
