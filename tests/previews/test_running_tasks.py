"""Tasks and threads that a handler leaves running write nothing past its plan."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pydantic import BaseModel, field_serializer
from returns.result import Result, Success

from actionengine import ActionContext, ErrorCode, create_action, create_service
from actionengine.pipeline.write_set import Effects, WriteSet
from actionengine.testing import Backend, run_in_mode
from tests.harness import expect, refused
from tests.previews.desk import ACTIONS, Desk

PAID = {"balance": 0}


async def leave_a_task(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Leave a task running that changes a document."""
    accounts = ctx.async_records("accounts")
    await accounts.get("a")

    async def pay() -> None:
        await accounts.update("a", PAID, 1)

    if "leave" in (ctx.resources or {}):
        ctx.resources["leave"].append(asyncio.create_task(pay()))
        await asyncio.sleep(0)
    return Success(None)


async def leave_an_execution(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Leave a task running that executes another action, which has begun."""
    if "leave" in (ctx.resources or {}):
        ctx.resources["leave"].append(asyncio.create_task(ctx.execute_async("bank", "begun", None)))
        await ctx.resources["begun"].wait()
    return Success(None)


async def begun(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Say that this has begun, and end after the execution around it."""
    ctx.resources["begun"].set()
    for _ in range(20):
        await asyncio.sleep(0)
    return Success(None)


class Slow(BaseModel):
    """A payload of an event that is encoded slowly."""

    wait: Any

    @field_serializer("wait")
    def waited(self, wait: Any) -> None:
        """Wait."""
        wait()


def leave_a_thread(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Leave a thread running that emits an event."""
    ctx.emit("Left", {})
    if "thread" in ctx.resources:
        ctx.resources["thread"](lambda wait: ctx.emit("Late", Slow(wait=wait)))
    return Success(None)


BANK = create_service(
    name="bank",
    description="Accounts",
    actions=[
        *ACTIONS,
        create_action(name="leave", description="", handler=leave_a_task),
        create_action(name="execute", description="", handler=leave_an_execution),
        create_action(name="begun", description="", handler=begun),
        create_action(name="thread", description="", handler=leave_a_thread),
    ],
)


@run_in_mode
async def test_writes_of_a_task_left_running_break_the_plan(backend: Backend) -> None:
    desk = Desk(backend, [BANK])
    expect(await desk.ask("bank.open", {"id": "a", "balance": 100}))
    if backend.mode == "sync":
        return  # An async handler needs an event loop.
    preview = expect(await desk.preview("bank.leave", None))
    tasks: list[asyncio.Task[None]] = []
    answer = await desk.perform("bank.leave", None, plan=preview.plan, resources={"leave": tasks})
    assert refused(answer, answer.code).code in (ErrorCode.CONFLICT, ErrorCode.INTERNAL)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await desk.balance("a") == 100


@run_in_mode
async def test_execution_left_running_breaks_the_plan(backend: Backend) -> None:
    if backend.mode == "sync":
        return  # An async handler needs an event loop.
    desk = Desk(backend, [BANK])
    preview = expect(await desk.preview("bank.execute", None))
    tasks: list[asyncio.Task[Any]] = []
    answer = await desk.perform(
        "bank.execute", None, plan=preview.plan, resources={"leave": tasks, "begun": asyncio.Event()}
    )
    refused(answer, ErrorCode.INTERNAL, "still writing")
    await asyncio.gather(*tasks, return_exceptions=True)


def test_event_of_a_thread_left_running_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    if desk.backend.mode == "async":
        return  # A thread cannot use the context of an event loop.
    desk = Desk(desk.backend, [BANK])
    encoding, compared, done = threading.Event(), threading.Event(), threading.Event()
    check = Effects.check_equal
    errors: list[Exception] = []

    def check_and_release(effects: Effects, name: str, writes: WriteSet) -> None:
        check(effects, name, writes)
        compared.set()
        assert done.wait(10)

    def start(emit: Any) -> None:
        def wait() -> None:
            encoding.set()
            assert compared.wait(10)

        def run() -> None:
            try:
                emit(wait)
            except Exception as error:
                errors.append(error)
            done.set()

        threading.Thread(target=run).start()
        assert encoding.wait(10)

    async def run() -> None:
        preview = expect(await desk.preview("bank.thread", None))
        monkeypatch.setattr(Effects, "check_equal", check_and_release)
        assert await desk.perform("bank.thread", None, plan=preview.plan, resources={"thread": start}) is None

    desk.backend.run(run())
    assert "has ended" in str(errors[0])
