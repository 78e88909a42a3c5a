"""Work of built-in actions after the outermost commit: it runs then, once, and never without the commit."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from returns.result import Failure, Result, Success

from actionengine import Actor, ApprovalPolicy, ErrorCode, RequestContext, create_service
from actionengine.actions import ActionHooks, HookDefinition
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import sync_and_async
from actionengine.storage.errors import SerializationFailure
from actionengine.testing import Backend, Harness, SyncBackend
from actionengine.testing.backend import make_tenant
from tests.conftest import make_action


class Bench(Harness):
    """An engine whose actions take notes after their commit."""

    def __init__(self, backend: Backend) -> None:
        backend.tenant = make_tenant()
        self.notes: list[str] = []
        self.threads: set[int] = set()
        self.attempts = 0
        actions = [
            make_action("work", self._handler()),
            make_action("lose", self._losing()),
            make_action(
                "ask", self._handler(), approval=ApprovalPolicy(when=lambda data, ctx: True, permission="agree")
            ),
            make_action(
                "hooked",
                self._handler(),
                hooks=ActionHooks(before=(HookDefinition("bench", "break", is_critical=False),)),
            ),
            make_action("break", self._handler(fails=True)),
        ]
        service = create_service(name="bench", description="A bench", actions=actions)
        super().__init__(backend, [service])

    def note(self, name: str) -> None:
        self.notes.append(name)
        self.threads.add(threading.get_ident())
        if name == "raise":
            raise RuntimeError("refused by the test")

    def _handler(self, fails: bool = False) -> Any:
        @sync_and_async
        async def handler(data: dict[str, Any], ctx: InternalContext) -> Result[Any, Any]:
            for name in data.get("notes", ["noted"]):
                ctx.after_commit(partial(self.note, name))
            for action, payload in data.get("steps", ()):
                await ctx.execute_action("bench", action, payload)
            return Failure("refused by the test") if fails or data.get("fails") else Success(len(self.notes))

        return handler

    def _losing(self) -> Any:
        @sync_and_async
        async def handler(data: dict[str, Any], ctx: InternalContext) -> Result[Any, Any]:
            self.attempts += 1
            ctx.after_commit(lambda: self.note(f"attempt {self.attempts}"))
            if self.attempts < 3:
                raise SerializationFailure("another one was first")
            return Success(None)

        return handler

    def ask(self, action: str, *, by: str = "ann", key: str | None = None, **payload: Any) -> Any:
        """Execute `bench.action`, or `service.action`."""
        name = action if "." in action else f"bench.{action}"
        actor = Actor.human(by, permissions=["agree"])
        return self.backend.run(self.execute(name, payload, actor=actor, key=key))


@pytest.fixture
def bench(each_backend: Backend) -> Bench:
    return Bench(each_backend)


def test_it_is_done_after_the_commit_once_and_in_order(bench: Bench) -> None:
    answer = bench.ask("work", notes=["one", "two"])

    # No work was done before the handler returned.
    assert answer.unwrap() == 0
    assert bench.notes == ["one", "two"]


def test_it_has_a_thread_under_an_event_loop(bench: Bench) -> None:
    bench.ask("work")

    assert (threading.get_ident() in bench.threads) == isinstance(bench.backend, SyncBackend)


def test_it_is_not_done_where_the_action_fails(bench: Bench) -> None:
    assert isinstance(bench.ask("work", fails=True), Failure)

    assert bench.notes == []


def test_it_is_not_done_where_the_commit_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(execution: Any) -> None:
        raise SerializationFailure("it cannot be")

    pipeline: Any = bench.engine._pipeline
    monkeypatch.setattr(pipeline, "commit", fail)

    assert bench.ask("work").failure().code is ErrorCode.CONFLICT
    assert bench.notes == []


def test_what_is_run_again_is_done_once(bench: Bench) -> None:
    assert isinstance(bench.ask("lose"), Success)

    assert bench.notes == ["attempt 3"]


def test_work_of_nested_actions_waits_for_the_outermost_commit(bench: Bench) -> None:
    steps = [["work", {"notes": ["inner"], "steps": [["work", {"notes": ["innermost"]}]]}]]

    answer = bench.ask("work", notes=["outer"], steps=steps)

    assert answer.unwrap() == 0
    assert bench.notes == ["outer", "inner", "innermost"]


def test_what_is_rolled_back_to_a_savepoint_is_not_done(bench: Bench) -> None:
    lost = ["work", {"notes": ["lost"], "fails": True, "steps": [["work", {"notes": ["lost with it"]}]]}]

    bench.ask("work", notes=["outer"], steps=[lost, ["work", {"notes": ["kept"]}]])

    assert bench.notes == ["outer", "kept"]


def test_work_is_dropped_when_the_outermost_action_rolls_back(bench: Bench) -> None:
    answer = bench.ask("work", notes=["outer"], steps=[["work", {"notes": ["inner"]}]], fails=True)

    assert answer.failure().message == "refused by the test"
    assert bench.notes == []


def test_a_hook_that_fails_has_nothing_done(bench: Bench) -> None:
    assert isinstance(bench.ask("hooked", notes=["hooked"]), Success)

    assert bench.notes == ["hooked"]


def test_work_is_done_although_the_caller_is_cancelled(bench: Bench) -> None:
    if isinstance(bench.backend, SyncBackend):
        return
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def note(name: str) -> None:
        bench.notes.append(name)
        if name == "first":
            begun.set()
            go_on.wait(90)
        else:
            done.set()

    bench.note = note  # type: ignore[method-assign]
    context = RequestContext(tenant=bench.backend.tenant, actor=Actor.human("ann"))

    async def cancel_it() -> None:
        payload = {"notes": ["first", "second"]}
        asked = asyncio.create_task(bench.backend.execute(bench.engine, "bench", "work", payload, context))
        await asyncio.to_thread(begun.wait, 90)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        go_on.set()
        await asyncio.to_thread(done.wait, 10)

    bench.backend.run(cancel_it())

    assert bench.notes == ["first", "second"]


def test_work_is_done_if_the_caller_is_cancelled_before_it(bench: Bench) -> None:
    if isinstance(bench.backend, SyncBackend):
        return
    begun, go_on = threading.Event(), threading.Event()
    context = RequestContext(tenant=bench.backend.tenant, actor=Actor.human("ann"))

    def hold_up() -> None:
        begun.set()
        go_on.wait(90)

    def note(name: str) -> None:
        bench.notes.append(name)

    async def cancel_it() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as threads:
            submitted = asyncio.Event()

            def submit(work: Any, *arguments: Any) -> Any:
                submitted.set()
                return ThreadPoolExecutor.submit(threads, work, *arguments)

            loop.set_default_executor(threads)
            held_up = loop.run_in_executor(None, hold_up)
            threads.submit = submit  # type: ignore[method-assign, assignment]
            asked = asyncio.create_task(bench.backend.execute(bench.engine, "bench", "work", {}, context))
            await submitted.wait()
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            go_on.set()
            await held_up
        loop.set_default_executor(ThreadPoolExecutor())

    bench.note = note  # type: ignore[method-assign]
    bench.backend.run(cancel_it())

    assert bench.notes == ["noted"]


def test_an_exception_in_it_is_logged_and_fails_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(bench.ask("work", notes=["before", "raise", "after"]), Success)

    assert bench.notes == ["before", "raise", "after"]
    assert "what was to follow the commit of bench.work raised" in caplog.text
    assert "RuntimeError: refused by the test" in caplog.text


def test_what_waits_for_an_approval_is_done_when_it_is_granted(bench: Bench) -> None:
    waiting = bench.ask("ask", notes=["granted"]).failure()
    assert waiting.code is ErrorCode.APPROVAL_REQUIRED
    assert bench.notes == []

    approved = bench.ask("approvals.approve", by="bob", approval_id=waiting.details["approval_id"])

    assert isinstance(approved, Success), approved
    assert bench.notes == ["granted"]


def test_an_answer_that_is_replayed_has_nothing_done_again(bench: Bench) -> None:
    first = bench.ask("work", key="once")

    assert bench.ask("work", key="once") == first
    assert bench.notes == ["noted"]
