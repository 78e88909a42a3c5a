"""A run that waits for a retry or an outage for long is postponed: it holds no place of the runtime."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest
from returns.result import Failure, Result

from actionengine import ActionError, ErrorCode
from actionengine.durable.client import DurableClient
from actionengine.testing import run_in_mode
from actionengine.workflows.runtime.scheduler import EXECUTE_RUN, EXPIRE, FIRE, Scheduler
from tests.harness import expect
from tests.workflows.harness import Enqueued, Harness, action, approval, failing_step, note, statuses

AWAY: Result[Any, ActionError] = Failure(ActionError(ErrorCode.UNAVAILABLE, "away", {}))


@pytest.fixture
def harness(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """A harness whose executor does not pause."""

    async def pause(seconds: float) -> None:
        assert seconds <= 1.0

    monkeypatch.setattr(harness.executor, "_pause", pause)
    return harness


async def later(harness: Harness) -> Enqueued:
    """Return the execution that was postponed, as it begins."""
    (waiting,) = [id for id, status in harness.client.statuses.items() if status == "DELAYED"]
    harness.client.statuses[waiting] = "PENDING"
    (told,) = [each for each in harness.client.enqueued[-1:] if each.id == waiting]
    return told


async def go_on(harness: Harness, told: Enqueued) -> str:
    """Execute a postponed execution, as the durable engine does."""
    _, _, key, run_id, *more = told.arguments
    status = await harness.executor.execute_run(harness.tenant, key, run_id, *more)
    harness.client.statuses[told.id] = "SUCCESS"
    return status


@run_in_mode
async def test_a_step_with_a_long_retry_delay_is_postponed(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    perform = harness.executor.actions.perform
    positions: list[int] = []

    async def count(tenant: Any, point: Any) -> Any:
        positions.append(point.position)
        return await perform(tenant, point)

    monkeypatch.setattr(harness.executor.actions, "perform", count)
    step = failing_step("a", "conflict", retry={"attempts": 3, "seconds": 30}, on_failure="late")
    run = await harness.run(step, note("late"))

    for seconds in (30, 60):
        told = await later(harness)
        assert (told.function, told.arguments[3]) == (EXECUTE_RUN, run.id)
        assert seconds / 2 <= (told.delay or 0) <= seconds
        assert (await harness.get(run.id)).status == "running"
        status = await go_on(harness, told)

    assert status == "succeeded"
    assert statuses(await harness.get(run.id)) == [("a", "failed"), ("late", "succeeded")]
    assert positions == [0, 0, 0, 1]


@run_in_mode
async def test_taking_over_a_postponed_run_sets_no_second_timer(harness: Harness) -> None:
    run = await harness.run(failing_step("a", "conflict", retry={"attempts": 2, "seconds": 3600}))
    assert len(harness.client.enqueued) == 1

    await harness.drive(run.id)

    assert len(harness.client.enqueued) == 1
    assert Scheduler(cast("DurableClient", harness.client)).restore(harness.storage, harness.tenant) == 0
    harness.client.statuses.clear()
    assert Scheduler(cast("DurableClient", harness.client)).restore(harness.storage, harness.tenant) == 1


@pytest.mark.parametrize("what", ["next", "perform"])
@run_in_mode
async def test_an_outage_postpones_a_run_at_its_step(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    id = await harness.start(await harness.define(note("a"), note("b")))
    run = await harness.get(id)
    real = getattr(harness.executor.actions, what)
    delays: list[float] = []

    async def lose(*about: Any) -> Any:
        if what == "perform" and not delays:
            # The step was performed, and its answer was lost.
            await real(*about)
        return AWAY

    with monkeypatch.context() as patch:
        patch.setattr(harness.executor.actions, what, lose)
        assert await harness.executor.execute_run(harness.tenant, run.workflow_key, id) == "later"
        for _ in range(8):
            told = await later(harness)
            delays.append(told.delay or 0)
            assert await go_on(harness, told) == "later"
    assert 0.8 <= delays[0] <= 1.6
    assert 30 <= delays[-1] <= 60

    assert await go_on(harness, await later(harness)) == "succeeded"
    assert statuses(await harness.get(id)) == [("a", "succeeded"), ("b", "succeeded")]


@run_in_mode
async def test_an_outage_postpones_expiries_and_schedules(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await harness.run(approval("ok", expires_after=0.01, on_reject="fail"))
    await harness.backend.sleep(0.02)
    harness.client.statuses = dict.fromkeys(harness.client.statuses, "SUCCESS")
    key = await harness.define(note("a"), trigger={"type": "schedule", "schedule": "0 9 * * *"})
    [trigger] = expect(await harness.ask("triggers.list", {"key": key}))
    at = datetime.now(UTC)

    async def away(*about: Any) -> Any:
        return AWAY

    with monkeypatch.context() as patch:
        patch.setattr(harness.executor.actions, "decline", away)
        patch.setattr(harness.executor.actions, "fire_schedule", away)
        assert await harness.executor.expire(harness.tenant, run.workflow_key, run.approval_id) == "later"
        told = await later(harness)
        *_, approval_id, wait = told.arguments
        assert (told.function, approval_id) == (EXPIRE, run.approval_id)
        assert wait > 1.6
        assert await harness.executor.fire_if_due(harness.tenant, key, trigger.id, at) == "later"
        told = await later(harness)
        assert (told.function, told.arguments[1]["wait"]) == (FIRE, wait)

    assert await harness.executor.expire(harness.tenant, run.workflow_key, approval_id, wait) == "done"
    id = await harness.executor.fire_if_due(harness.tenant, key, trigger.id, at, wait)
    assert [each.id for each in expect(await harness.ask("workflows.list", {"key": key}))] == [id]


@run_in_mode
async def test_a_short_pause_keeps_the_place(harness: Harness) -> None:
    run = await harness.run(action("a", "host.fail", {"code": "conflict"}, retry={"attempts": 2, "seconds": 1}))
    assert (run.status, harness.client.enqueued) == ("paused", [])
