"""`Engine.blocking()`: callers without an event loop execute `async def` handlers."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from returns.result import Result, Success

from actionengine import (
    Action,
    ActionContext,
    ActionError,
    Actor,
    Engine,
    ErrorCode,
    InMemoryStorage,
    RequestContext,
    SQLiteStorage,
    create_engine,
    create_service,
)
from actionengine.concurrency.background_loop import LoopEnded
from tests.conftest import make_action
from tests.waiting import wait_until

SPAN = ContextVar("SPAN", default="none")


class Job(BaseModel):
    title: str


class Site:
    """An engine with `async def` handlers, and the threads and loops in which they ran."""

    def __init__(self, storage: InMemoryStorage | SQLiteStorage) -> None:
        self.storage = storage
        self.tenant = storage.create_tenant(slug="acme", name="Acme")
        self.loops: set[Any] = set()
        self.is_waiting = threading.Event()
        self.engine: Engine = create_engine(services=[self._service()], storage=storage)

    def _service(self) -> Any:
        async def add(data: Job, ctx: ActionContext) -> Result[str, ActionError]:
            await asyncio.sleep(0)
            self.loops.add(asyncio.get_running_loop())
            await ctx.async_records("jobs").insert({"title": data.title})
            return Success(f"{data.title} {SPAN.get()}")

        async def count(data: None, ctx: ActionContext) -> Result[int, ActionError]:
            return Success(len(await ctx.async_records("jobs").list()))

        async def hang(data: Job, ctx: ActionContext) -> Result[str, ActionError]:
            await ctx.async_records("jobs").insert({"title": data.title})
            self.is_waiting.set()
            await asyncio.sleep(60)
            return Success("late")

        async def call_itself(data: None, ctx: ActionContext) -> Result[Any, ActionError]:
            return self.engine.blocking().execute_action("jobs", "count", None, self.context())

        self.add = make_action("add", add, validation=Job)
        others: list[Action[Any, Any]] = [
            make_action("count", count, read_only=True),
            make_action("hang", hang, validation=Job),
            make_action("call_itself", call_itself, read_only=True),
        ]
        return create_service(name="jobs", description="Jobs", actions=[self.add, *others])

    def context(self) -> RequestContext:
        return RequestContext(tenant=self.tenant, actor=Actor.human("ana"))

    def count(self) -> int:
        counted: int = self.engine.blocking().execute_action("jobs", "count", None, self.context()).unwrap()
        return counted


@pytest.fixture(params=["memory", "sqlite"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    storage: InMemoryStorage | SQLiteStorage
    storage = InMemoryStorage() if request.param == "memory" else SQLiteStorage(tmp_path / "jobs.sqlite")
    site = Site(storage)
    yield site
    storage.close()
    site.loops.clear()
    gc.collect()


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "actionengine-engine"]


def test_threads_execute_async_handlers_in_one_loop(site: Site) -> None:
    def add(number: int) -> Any:
        return site.engine.blocking().run(site.add, Job(title=f"job {number}"), site.context())

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(add, range(40)))
    assert results == [Success(f"job {number} none") for number in range(40)]
    assert site.count() == 40
    assert len(site.loops) == len(threads()) == 1


def test_errors_and_context_variables_come_through(site: Site) -> None:
    with site.engine.blocking() as engine:
        token = SPAN.set("span 7")
        try:
            assert engine.execute_action("jobs", "add", {"title": "a"}, site.context()) == Success("a span 7")
        finally:
            SPAN.reset(token)
        assert engine.execute_action("jobs", "add", {}, site.context()).failure().code is ErrorCode.INVALID_INPUT
        assert engine.execute_action("jobs", "ad", {}, site.context()).failure().code is ErrorCode.NOT_FOUND
        assert engine.resolve_tenant("nobody").failure().code is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("close", ["storage", "storage, async", "context manager"])
def test_closing_ends_the_loop_and_a_later_call_starts_one(site: Site, close: str) -> None:
    assert site.count() == 0
    if close == "storage":
        site.storage.close()
    elif close == "storage, async":
        asyncio.run(site.storage.aclose())
    else:
        with site.engine.blocking():
            pass
    assert threads() == []
    assert site.count() == 0
    assert len(threads()) == 1


def test_closing_rolls_back_what_still_runs(site: Site) -> None:
    raised: list[BaseException] = []

    def hang() -> None:
        try:
            site.engine.blocking().execute_action("jobs", "hang", {"title": "a"}, site.context())
        except LoopEnded as error:
            raised.append(error)

    caller = threading.Thread(target=hang)
    caller.start()
    assert site.is_waiting.wait(30)
    site.storage.close()
    caller.join(30)
    assert "outcome is unknown" in str(raised[0])
    assert site.count() == 0


def test_an_interrupted_caller_cancels_its_execution(site: Site) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupt_the_caller() -> None:
        assert site.is_waiting.wait(30)
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, interrupt)
    threading.Thread(target=interrupt_the_caller).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            site.engine.blocking().execute_action("jobs", "hang", {"title": "a"}, site.context())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert site.count() == 0
    assert len(threads()) == 1


def test_a_handler_cannot_wait_for_its_own_loop(site: Site) -> None:
    error = site.engine.blocking().execute_action("jobs", "call_itself", None, site.context()).failure()
    assert error.code is ErrorCode.HANDLER_ERROR


def test_a_forked_process_starts_its_own_loop(site: Site) -> None:
    assert site.count() == 0

    def in_child() -> None:
        os._exit(0 if site.count() == 0 else 1)

    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    child.join(30)
    assert child.exitcode == 0


def test_a_forgotten_engine_ends_its_loop() -> None:
    def use(make: Callable[[], Site]) -> None:
        assert make().count() == 0

    use(lambda: Site(InMemoryStorage()))
    wait_until(lambda: gc.collect() >= 0 and threads() == [])
