"""After any end of an execution in memory, nothing is held: no lock, no snapshot, no key."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    Actor,
    ErrorCode,
    InMemoryStorage,
    Limits,
    RequestContext,
    StorageError,
    Tenant,
)
from actionengine.storage.records import APPROVALS
from actionengine.storage.rows import Claim
from actionengine.testing import AsyncBackend, Backend, SyncBackend
from actionengine.testing.approvals import LARGE, decide, request_approval
from actionengine.testing.base import error_of, value_of
from actionengine.testing.harness import ActionResult
from actionengine.testing.sample import SampleHarness
from tests.storage.backends import engine_on
from tests.storage.inside import data_of, nothing_is_held
from tests.storage.suspending import SuspendingStorage


@pytest.fixture(params=[SyncBackend, AsyncBackend], ids=["sync", "async"])
def backend(request: pytest.FixtureRequest, storage: InMemoryStorage) -> Iterator[Backend]:
    backend: Backend = request.param(storage)
    yield backend
    backend.close()


@pytest.mark.parametrize(
    "action",
    [
        "put",
        "read",
        "write_after_all",
        "fail",
        "crash",
        "put_around_failures",
        "put_and_fail",
        "tell",
        "edit",
        "absent",
    ],
)
def test_no_execution_leaves_anything_held(backend: Backend, storage: InMemoryStorage, action: str) -> None:
    harness = SampleHarness(backend)

    for _ in range(2):
        backend.run(harness.execute(f"notes.{action}", {"id": "n1", "types": ["t"]}, key="key"))

    assert nothing_is_held(data_of(storage, backend.tenant))


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_no_approval_leaves_anything_held(backend: Backend, storage: InMemoryStorage, decision: str) -> None:
    harness = SampleHarness(backend)
    approval_id = backend.run(request_approval(harness, key="key"))

    for _ in range(2):
        backend.run(decide(harness, decision, approval_id))
        backend.run(harness.execute("payments.pay", LARGE, key="key"))

    assert nothing_is_held(data_of(storage, backend.tenant))


def test_waiting_in_vain_leaves_nothing_held(backend: Backend, storage: InMemoryStorage) -> None:
    harness = SampleHarness(backend, Limits(idempotency_wait=0.02))
    holder = backend.unit()
    backend.run(holder.claim(Claim("notes.put", "key", "print"), 0.0))

    error_of(backend.run(harness.execute("notes.put", {}, key="key")), ErrorCode.IDEMPOTENCY_IN_PROGRESS)
    backend.run(holder.rollback())

    assert nothing_is_held(data_of(storage, backend.tenant))
    value_of(backend.run(harness.execute("notes.put", {}, key="key")))


def test_a_handler_past_its_deadline_writes_nothing(backend: Backend, storage: InMemoryStorage) -> None:
    late, ended = threading.Event(), threading.Event()
    refusals: list[type[BaseException]] = []

    def dawdle(data: Any, ctx: ActionContext) -> Result[None, Any]:
        notes = ctx.records("notes")
        notes.insert({}, "in time")
        late.wait(90)
        for use in (
            lambda: notes.insert({}, "late"),
            lambda: notes.get("in time"),
            lambda: notes.list(),
            lambda: ctx.records("notes"),
            lambda: ctx.emit("late"),
            lambda: ctx.execute("notes", "dawdle"),
        ):
            try:
                use()
            except BaseException as error:
                refusals.append(type(error))
        ended.set()
        return Success(None)

    engine = engine_on(storage, dawdle, service="notes", timeout=0.3)
    context = RequestContext(backend.tenant, Actor.human("x"), idempotency_key="key")

    error_of(backend.run(backend.execute(engine, "notes", "dawdle", None, context)), ErrorCode.TIMEOUT)
    late.set()
    assert ended.wait(90)

    assert refusals == [StorageError] * 6
    assert backend.run(backend.ids("notes")) == []
    assert list(storage.read_events(backend.tenant)) == []
    assert [row.outcome for row in data_of(storage, backend.tenant).log] == ["failed"]
    assert nothing_is_held(data_of(storage, backend.tenant))


STEPS = 60


async def put_before(harness: SampleHarness) -> ActionResult:
    return await harness.execute("notes.put_async", {}, key="key")


async def ask_before(harness: SampleHarness) -> ActionResult:
    return await harness.execute("payments.pay", LARGE, key="key")


async def nothing_before(harness: SampleHarness) -> None:
    return None


async def approve(harness: SampleHarness) -> ActionResult:
    (approval_id,) = await harness.backend.ids(APPROVALS)
    return await decide(harness, "approve", approval_id)


def execute(action: str) -> Callable[[SampleHarness], Coroutine[Any, Any, ActionResult]]:
    return lambda harness: harness.execute(action, {}, key="key")


@pytest.mark.parametrize(
    ("before", "asked", "notes", "payments", "approvals"),
    [
        pytest.param(nothing_before, execute("notes.put"), 1, 0, 0, id="a def handler"),
        pytest.param(nothing_before, execute("notes.put_async"), 1, 0, 0, id="an async def handler"),
        pytest.param(nothing_before, execute("notes.read"), 0, 0, 0, id="a read-only action"),
        pytest.param(nothing_before, execute("notes.crash_async"), 0, 0, 0, id="a crash"),
        pytest.param(nothing_before, execute("notes.put_around_failures_async"), 3, 0, 0, id="nested actions"),
        pytest.param(put_before, put_before, 1, 0, 0, id="a replay"),
        pytest.param(nothing_before, ask_before, 0, 0, 1, id="a request for an approval"),
        pytest.param(ask_before, ask_before, 0, 0, 1, id="a request for the same approval"),
        pytest.param(ask_before, approve, 0, 1, 1, id="an approval"),
    ],
)
def test_an_execution_can_be_cancelled_at_every_step(
    before: Callable[[SampleHarness], Coroutine[Any, Any, object]],
    asked: Callable[[SampleHarness], Coroutine[Any, Any, ActionResult]],
    notes: int,
    payments: int,
    approvals: int,
) -> None:
    """Nothing is held or left open afterwards, and a second attempt takes effect once."""

    async def cancelled_after(steps: int) -> bool:
        storage = SuspendingStorage()
        harness = SampleHarness(backend := AsyncBackend(storage))
        await before(harness)
        task = asyncio.ensure_future(asked(harness))
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        await asyncio.wait([task])

        assert nothing_is_held(data_of(storage, backend.tenant)), f"cancelled at step {steps}"
        assert storage.left_open == 0, f"cancelled at step {steps}"
        await asked(harness)
        found = [len(await backend.ids(collection)) for collection in ("notes", "payments", APPROVALS)]
        assert found == [notes, payments, approvals], f"cancelled at step {steps}"
        return finished

    async def cancelled_everywhere() -> bool:
        return any([await cancelled_after(steps) for steps in range(STEPS)])

    assert asyncio.run(cancelled_everywhere())


@pytest.mark.usefixtures("hasty_threads")
def test_threads_and_event_loops_share_a_key(storage: InMemoryStorage, tenant: Tenant) -> None:
    runs: list[int] = []

    def put(data: int, ctx: ActionContext) -> Result[str, Any]:
        runs.append(data)
        return Success(ctx.records("notes").insert({"number": data}).id)

    engine = engine_on(storage, put, service="notes")
    rounds = 20
    start = threading.Barrier(8)

    def context(number: int) -> RequestContext:
        return RequestContext(tenant, Actor.human("x"), idempotency_key=f"key {number}")

    def in_a_thread() -> list[Any]:
        answers = []
        for number in range(rounds):
            start.wait(90)
            answers.append([engine.execute_action("notes", "put", number, context(number))])
        return answers

    async def in_a_loop() -> list[Any]:
        answers = []
        for number in range(rounds):
            start.wait(90)
            tasks = (engine.execute_action_async("notes", "put", number, context(number)) for _ in range(4))
            answers.append(await asyncio.gather(*tasks))
        return answers

    with ThreadPoolExecutor(8) as threads:
        work = [threads.submit(in_a_thread) for _ in range(4)]
        work += [threads.submit(lambda: asyncio.run(in_a_loop())) for _ in range(4)]
        answers = [done.result() for done in work]

    assert sorted(runs) == list(range(rounds))
    for number in range(rounds):
        assert len({value_of(answer) for answered in answers for answer in answered[number]}) == 1
    assert nothing_is_held(data_of(storage, tenant))
