"""A run that waits for long, for its next attempt or for what is away, has none of the places that tenants share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest
from returns.result import Failure, Result

from actionengine import ActionError, ErrorCode
from actionengine.durable.client import DurableClient
from actionengine.workflows.runtime.scheduler import DRIVE, EXPIRE, FIRE, Agenda
from tests.workflows.desk import Desk, Enqueued, action, approval, expect, failing_step, note, scenario, statuses

AWAY: Result[Any, ActionError] = Failure(ActionError(ErrorCode.UNAVAILABLE, "away", {}))


@pytest.fixture
def desk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk whose driver does not wait itself."""

    async def pause(mode: Any, seconds: float) -> None:
        assert seconds <= 1.0

    monkeypatch.setattr(desk.driver, "_pause", pause)
    return desk


async def later(desk: Desk) -> Enqueued:
    """What comes later, as it comes."""
    (waiting,) = [id for id, status in desk.client.statuses.items() if status == "DELAYED"]
    desk.client.statuses[waiting] = "PENDING"
    (told,) = [each for each in desk.client.enqueued[-1:] if each.id == waiting]
    return told


async def go_on(desk: Desk, told: Enqueued) -> str:
    """What the durable engine does then."""
    _, _, key, run_id, *more = told.arguments
    status = await desk.driver.drive(desk.tenant, key, run_id, desk.world.mode, *more)
    desk.client.statuses[told.id] = "SUCCESS"
    return status


@scenario
async def test_a_step_that_is_tried_again_after_long_is_left_until_then(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    perform = desk.executions.perform
    positions: list[int] = []

    async def count(tenant: Any, point: Any, mode: Any) -> Any:
        positions.append(point.position)
        return await perform(tenant, point, mode)

    monkeypatch.setattr(desk.executions, "perform", count)
    step = failing_step("a", "conflict", retry={"attempts": 3, "seconds": 30}, on_failure="late")
    run = await desk.run(step, note("late"))

    for seconds in (30, 60):
        told = await later(desk)
        assert (told.function, told.arguments[3]) == (DRIVE, run.id)
        assert seconds / 2 <= (told.delay or 0) <= seconds
        assert (await desk.get(run.id)).status == "running"
        status = await go_on(desk, told)

    assert status == "succeeded"
    assert statuses(await desk.get(run.id)) == [("a", "failed"), ("late", "succeeded")]
    assert positions == [0, 0, 0, 1]


@scenario
async def test_who_takes_over_a_turn_that_waits_asks_for_no_second_one(desk: Desk) -> None:
    run = await desk.run(failing_step("a", "conflict", retry={"attempts": 2, "seconds": 3600}))
    assert len(desk.client.enqueued) == 1

    await desk.drive(run.id)

    assert len(desk.client.enqueued) == 1
    assert Agenda(cast("DurableClient", desk.client)).restore(desk.storage, desk.tenant) == 0
    desk.client.statuses.clear()
    assert Agenda(cast("DurableClient", desk.client)).restore(desk.storage, desk.tenant) == 1


@pytest.mark.parametrize("what", ["next", "perform"])
@scenario
async def test_a_run_waits_for_what_is_away_and_goes_on_where_it_is(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    id = await desk.start(await desk.define(note("a"), note("b")))
    run = await desk.get(id)
    real = getattr(desk.executions, what)
    delays: list[float] = []

    async def lose(*about: Any) -> Any:
        if what == "perform" and not delays:
            # It was done, and the answer was lost.
            await real(*about)
        return AWAY

    with monkeypatch.context() as patch:
        patch.setattr(desk.executions, what, lose)
        assert await desk.driver.drive(desk.tenant, run.workflow_key, id, desk.world.mode) == "later"
        for _ in range(8):
            told = await later(desk)
            delays.append(told.delay or 0)
            assert await go_on(desk, told) == "later"
    assert 0.8 <= delays[0] <= 1.6
    assert 30 <= delays[-1] <= 60

    assert await go_on(desk, await later(desk)) == "succeeded"
    assert statuses(await desk.get(id)) == [("a", "succeeded"), ("b", "succeeded")]


@scenario
async def test_an_expiry_and_a_scheduled_time_wait_for_what_is_away(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await desk.run(approval("ok", expires_after=0.01, on_reject="fail"))
    await desk.world.pause(0.02)
    desk.client.statuses = dict.fromkeys(desk.client.statuses, "SUCCESS")
    key = await desk.define(note("a"), trigger={"type": "schedule", "schedule": "0 9 * * *"})
    [trigger] = expect(await desk.ask("triggers.list", {"key": key}))
    at = datetime.now(UTC)

    async def away(*about: Any) -> Any:
        return AWAY

    with monkeypatch.context() as patch:
        patch.setattr(desk.executions, "decline", away)
        patch.setattr(desk.executions, "fire_schedule", away)
        assert await desk.driver.expire(desk.tenant, run.workflow_key, run.approval_id, desk.world.mode) == "later"
        told = await later(desk)
        *_, approval_id, wait = told.arguments
        assert (told.function, approval_id) == (EXPIRE, run.approval_id)
        assert wait > 1.6
        assert await desk.driver.fire_if_due(desk.tenant, key, trigger.id, at, desk.world.mode) == "later"
        told = await later(desk)
        assert (told.function, told.arguments[1]["wait"]) == (FIRE, wait)

    assert await desk.driver.expire(desk.tenant, run.workflow_key, approval_id, desk.world.mode, wait) == "done"
    id = await desk.driver.fire_if_due(desk.tenant, key, trigger.id, at, desk.world.mode, wait)
    assert [each.id for each in expect(await desk.ask("workflows.list", {"key": key}))] == [id]


@scenario
async def test_a_short_pause_is_waited_out(desk: Desk) -> None:
    run = await desk.run(action("a", "host.fail", {"code": "conflict"}, retry={"attempts": 2, "seconds": 1}))
    assert (run.status, desk.client.enqueued) == ("paused", [])
