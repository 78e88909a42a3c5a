"""Timers: an early one is set again, a lost one is set by `restore`, and all follow the clock of the storage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from returns.result import Failure

from actionengine import ActionError, ErrorCode
from actionengine.durable.client import DurableClient, Status
from actionengine.testing import run_in_mode
from actionengine.workflows.runtime.scheduler import Scheduler
from tests.clocks import host_clock
from tests.harness import expect, refused
from tests.workflows.harness import Enqueued, Harness, approval, each_storage, lock, note, statuses

CONFLICT = ErrorCode.CONFLICT
SKEWS = (-7200.0, 0.1, 90.0)


async def look(harness: Harness, run: Any) -> str:
    """Fire the timer of a run's approval."""
    return await harness.executor.expire(harness.tenant, run.workflow_key, run.approval_id)


def timers(harness: Harness) -> dict[str, Enqueued]:
    """Return the newest execution of the durable engine by id."""
    return {each.id: each for each in harness.client.enqueued if each.id in harness.client.statuses}


def has_become(harness: Harness, status: Status, *ids: str) -> None:
    harness.client.statuses.update(dict.fromkeys(ids, status))


@run_in_mode
async def test_an_early_timer_is_set_again(harness: Harness) -> None:
    run = await harness.run(approval("ok", expires_after=60, on_reject="late"), note("late"))
    first = f"expire/{run.approval_id}"
    second = f"{first}/again"
    assert set(timers(harness)) == {first}

    for mine, other in ((first, second), (second, first), (first, second)):
        has_become(harness, "PENDING", mine)
        assert await look(harness, run) == "early"
        assert harness.client.statuses == {mine: "PENDING", other: "DELAYED"}
        assert 50 < (timers(harness)[other].delay or 0) <= 60.2
        # An execution that is repeated after the death of its process finds its own timer.
        count = len(harness.client.enqueued)
        assert await look(harness, run) == "early"
        assert len(harness.client.enqueued) == count
        has_become(harness, "SUCCESS", mine)
    assert (await harness.get(run.id)).status == "paused"


@run_in_mode
async def test_two_early_timers_do_not_rely_on_each_other(harness: Harness) -> None:
    run = await harness.run(approval("ok", expires_after=60))
    both = (f"expire/{run.approval_id}", f"expire/{run.approval_id}/again")
    has_become(harness, "PENDING", *both)

    assert await look(harness, run) == "early"

    (third,) = set(harness.client.statuses) - set(both)
    assert harness.client.statuses[third] == "DELAYED"


@each_storage
@pytest.mark.parametrize("skew", SKEWS)
@run_in_mode
async def test_a_timer_follows_the_clock_of_the_storage(harness: Harness, skew: float) -> None:
    with host_clock(skew):
        run = await harness.run(approval("ok", expires_after=60))
    assert 50 < (timers(harness)[f"expire/{run.approval_id}"].delay or 0) <= 60.2


@each_storage
@pytest.mark.parametrize("skew", SKEWS)
@run_in_mode
async def test_an_approval_expires_by_the_clock_of_the_storage(harness: Harness, skew: float) -> None:
    with host_clock(skew):
        run = await harness.run(approval("ok", expires_after=0.05, on_reject="late"), note("late"))
        await harness.backend.sleep(0.06)
    with host_clock(-skew):
        refused(await harness.approve(run), CONFLICT, "expired")
        assert await look(harness, run) == "done"
        await harness.go_on()
    assert statuses(await harness.get(run.id)) == [("ok", "rejected"), ("late", "succeeded")]


@run_in_mode
async def test_a_run_that_cannot_advance_gets_its_timer_again(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await harness.run(approval("ok", expires_after=0.01))
    await harness.backend.sleep(0.02)
    first = f"expire/{run.approval_id}"
    has_become(harness, "PENDING", first)

    async def refuse(*about: Any) -> Any:
        return Failure(ActionError(ErrorCode.FORBIDDEN, "not now", {}))

    async def do_not_wait(*about: Any) -> None:
        return None

    with monkeypatch.context() as patch:
        patch.setattr(harness.executor.actions, "decline", refuse)
        patch.setattr(harness.executor, "_pause", do_not_wait)
        assert await look(harness, run) == "forbidden"

    assert harness.client.statuses == {first: "PENDING", f"{first}/again": "DELAYED"}
    assert await look(harness, run) == "done"
    assert (await harness.get(run.id)).status == "failed"


@pytest.mark.parametrize("status", ["SUCCESS", "ERROR", "CANCELLED"])
@pytest.mark.parametrize("due", ["later", "long ago", "decided"])
@run_in_mode
async def test_restore_sets_the_timers_of_all_runs_that_wait(harness: Harness, due: str, status: Status) -> None:
    seconds = 0.01 if due == "long ago" else 60
    run = await harness.run(approval("ok", expires_after=seconds, on_reject="late"), note("late"))
    await harness.backend.sleep(0.02)
    if due == "decided":
        expect(await harness.reject(run))
    first = f"expire/{run.approval_id}"
    has_become(harness, status, first)
    agenda = Scheduler(cast("DurableClient", harness.client))

    for _ in range(2):
        agenda.restore(harness.storage, harness.tenant)

    assert harness.client.statuses == {first: "DELAYED"}
    delay = harness.client.enqueued[-1].delay or 0
    assert 50 < delay <= 60.2 if due == "later" else delay <= 0.2
    assert len(harness.client.enqueued) == 2


@run_in_mode
async def test_a_dead_process_leaves_no_run_without_its_timer(harness: Harness) -> None:
    id = await harness.start(await harness.define(approval("ok", expires_after=60)))
    run = await harness.get(id)
    point = (await harness.executor.actions.next(harness.tenant, run.workflow_key, id)).unwrap()
    await harness.executor.actions.perform(harness.tenant, point)
    assert harness.client.enqueued == []

    run = await harness.drive(id)

    assert set(timers(harness)) == {f"expire/{run.approval_id}"}


@each_storage
@pytest.mark.parametrize("skew", SKEWS)
@run_in_mode
async def test_a_lock_expires_by_the_clock_of_the_storage(harness: Harness, skew: float) -> None:
    for id in ("long", "short"):
        await harness.keep("jobs", {"n": 1}, id=id)
    with host_clock(skew):
        await harness.run(lock("lock", id="long", expires_after=60), approval("ok"))
        await harness.run(lock("lock", id="short", expires_after=0.05), approval("ok"))
    await harness.backend.sleep(0.06)
    with host_clock(-skew):
        refused(await harness.keep("jobs", {"n": 2}, "long", 2), CONFLICT, "locked")
        expect(await harness.keep("jobs", {"n": 2}, "short", 2))


@each_storage
@pytest.mark.parametrize("skew", SKEWS)
@run_in_mode
async def test_runs_are_purged_by_when_they_ended(harness: Harness, skew: float) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    with host_clock(skew):
        run = await harness.run(note("a"))
    purged = expect(await harness.ask("workflows.purge", {"ended_before": before.isoformat()}))
    assert (purged.runs, run.status) == (0, "succeeded")
    assert abs(run.ended_at - datetime.now(UTC)) < timedelta(seconds=30)


@each_storage
@pytest.mark.parametrize("skew", SKEWS)
@run_in_mode
async def test_a_schedule_that_comes_early_comes_again(harness: Harness, skew: float) -> None:
    key = await harness.define(note("a"), trigger={"type": "schedule", "schedule": "0 9 * * *"})
    [trigger] = expect(await harness.ask("triggers.list", {"key": key}))
    soon = datetime.now(UTC) + timedelta(seconds=60)
    due = f"fire/{trigger.id}/{soon.isoformat()}"

    async def fire(at: datetime) -> str:
        return await harness.executor.fire_if_due(harness.tenant, key, trigger.id, at)

    with host_clock(skew):
        assert await fire(soon) == "early"
        assert await fire(soon) == "early"
    assert 50 < (timers(harness)[due].delay or 0) <= 60
    at, context = timers(harness)[due].arguments
    assert (datetime.fromisoformat(at), context["trigger_id"], context["workflow_key"]) == (soon, trigger.id, key)
    assert len(harness.client.enqueued) == 1

    with host_clock(skew):
        id = await fire(datetime.now(UTC) - timedelta(seconds=1))
    assert [run.id for run in expect(await harness.ask("workflows.list", {"key": key}))] == [id]
