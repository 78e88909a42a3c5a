"""Calls of publishers: a `def` in a reused thread, an `async def` in the loop, both with a timeout."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest

from actionengine.concurrency import abandonable
from actionengine.events.user_calls import call


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "actionengine-call"}


def test_a_def_runs_in_a_thread_and_an_async_def_in_the_loop() -> None:
    async def in_loop(number: int) -> tuple[int, threading.Thread]:
        return number, threading.current_thread()

    def beside(number: int) -> tuple[int, threading.Thread]:
        return number, threading.current_thread()

    async def main() -> Any:
        return await call(in_loop, 1), await call(beside, 2, timeout=60.0)

    (one, here), (two, there) = asyncio.run(main())
    assert (one, two) == (1, 2)
    assert here is threading.main_thread()
    assert there is not here
    assert there.daemon


def test_a_def_that_returns_something_to_await_is_awaited() -> None:
    async def late() -> str:
        await asyncio.sleep(0)
        return "late"

    assert asyncio.run(call(lambda: late(), timeout=60.0)) == "late"


@pytest.mark.parametrize("error", [ZeroDivisionError(), StopIteration(), TimeoutError("of its own"), SystemExit(3)])
def test_what_a_def_raises_comes_out(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def main() -> BaseException:
        try:
            await call(fail, timeout=60.0)
        except BaseException as raised:
            return raised
        raise AssertionError

    raised = asyncio.run(main())
    assert raised is error or raised.__cause__ is error


def test_a_def_sees_the_context_of_its_caller() -> None:
    who: ContextVar[str] = ContextVar("who", default="nobody")

    async def main() -> str:
        who.set("the caller")
        found: str = await call(who.get)
        return found

    assert asyncio.run(main()) == "the caller"


def test_calls_one_after_the_other_use_one_thread() -> None:
    async def main() -> set[int]:
        return {await call(threading.get_ident) for _ in range(200)}

    assert len(asyncio.run(main())) == 1


def test_calls_at_once_have_a_thread_each() -> None:
    together = threading.Barrier(20)

    async def main() -> None:
        await asyncio.gather(*(call(together.wait, 60) for _ in range(20)))

    asyncio.run(main())


def test_a_call_that_takes_too_long_is_given_up() -> None:
    go_on = threading.Event()

    async def hang() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        for function, arguments in ((go_on.wait, (60,)), (hang, ())):
            begun = time.monotonic()
            with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
                await call(function, *arguments, timeout=0.05)
            assert time.monotonic() - begun < 50

    asyncio.run(main())
    go_on.set()


def test_a_call_that_is_cancelled_is_left_behind() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go_on.wait(60)

    async def main() -> None:
        task = asyncio.create_task(call(hang))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    go_on.set()


def test_no_more_than_so_many_calls_are_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandonable, "MAX_ABANDONED", 3)
    monkeypatch.setattr(abandonable, "_workers", abandonable._Workers())
    go_on = threading.Event()
    ran: list[int] = []

    async def main() -> None:
        before = workers()
        for _ in range(10):
            with pytest.raises(TimeoutError):
                await call(go_on.wait, 60, timeout=0.01)
        assert len(workers() - before) == 3
        waiting = asyncio.create_task(call(ran.append, 1, timeout=60.0))
        await asyncio.sleep(0.01)
        assert ran == []
        go_on.set()
        await waiting
        assert [await call(len, "abc") for _ in range(10)] == [3] * 10

    asyncio.run(main())
    assert ran == [1]


def test_a_loop_that_was_closed_meanwhile_does_no_harm() -> None:
    go_on, ended = threading.Event(), threading.Event()

    def hang() -> None:
        go_on.wait(60)
        ended.set()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await call(hang, timeout=0.01)

    asyncio.run(main())
    go_on.set()
    assert ended.wait(60)
    assert asyncio.run(call(len, "abc")) == 3


def test_a_process_ends_though_a_call_hangs() -> None:
    program = """
import asyncio, time
from actionengine.events.user_calls import call
try:
    asyncio.run(call(time.sleep, 60, timeout=0.05))
except TimeoutError:
    print("given up")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)

    assert (ended.stdout, ended.stderr) == ("given up\n", "")


def _call_in_child(answers: Any) -> None:
    answers.put(asyncio.run(call(len, "abc", timeout=60.0)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    asyncio.run(call(len, "abc"))
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    child = fork.Process(target=_call_in_child, args=(answers,))
    child.start()
    child.join(90)

    assert child.exitcode == 0
    assert answers.get() == 3
