"""Many triggers: their number, the cost of an event for them, and timers that end."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from actionengine import ErrorCode
from actionengine.durable.client import DurableClient
from actionengine.testing import run_in_mode
from actionengine.workflows.runtime import publisher
from actionengine.workflows.runtime.scheduler import Scheduler
from actionengine.workflows.services import quotas
from tests.harness import expect, refused
from tests.workflows.harness import EVENT, Harness, Relay, approval, comparison, each_storage, emit, note, runs_of

MODE = "async"
"""The publisher is asynchronous."""

SCHEDULE = {"type": "schedule", "schedule": "0 9 * * *"}


async def create(harness: Harness, key: str, trigger: dict[str, Any] = EVENT) -> Any:
    return await harness.ask("triggers.create", {"key": key, "trigger": trigger})


async def fired(harness: Harness) -> list[Any]:
    return [row for row in await harness.log(limit=1000) if row.action.endswith(".fire")]


@each_storage
@run_in_mode
async def test_the_number_of_triggers_of_a_type_is_bounded(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "MAX_TRIGGERS", 2)
    key = await harness.define(note("a"), trigger=EVENT)
    first = expect(await create(harness, key))

    error = refused(await create(harness, key), ErrorCode.UNPROCESSABLE)
    assert error.message == "the tenant has 2 triggers of the type 'event', its limit: delete one first"
    assert error.details == {"type": "event", "limit": 2}
    other = await harness.define(note("a"))
    version = expect(await harness.ask("workflows.define", {"key": other, "definition": _definition(EVENT)})).version
    refused(await harness.ask("workflows.activate", {"key": other, "version": version}), ErrorCode.UNPROCESSABLE)

    for _ in range(2):
        expect(await create(harness, key, SCHEDULE))
    refused(await create(harness, key, SCHEDULE), ErrorCode.UNPROCESSABLE)
    # The own trigger would get the other type, which has reached its limit.
    version = expect(await harness.ask("workflows.define", {"key": key, "definition": _definition(SCHEDULE)})).version
    refused(await harness.ask("workflows.activate", {"key": key, "version": version}), ErrorCode.UNPROCESSABLE)

    expect(await harness.ask("triggers.disable", {"trigger_id": first.id}))
    refused(await create(harness, key), ErrorCode.UNPROCESSABLE)
    expect(await harness.ask("triggers.delete", {"trigger_id": first.id}))
    expect(await create(harness, key))
    refused(await create(harness, key), ErrorCode.UNPROCESSABLE)


@run_in_mode
async def test_a_trigger_that_does_not_match_costs_no_execution(harness: Harness, relay: Relay) -> None:
    holds = EVENT | {"when": comparison("input.payload.n", "eq", 7)}
    key = await harness.define(note("a"))
    expect(await create(harness, key, holds))
    for n in range(20):
        expect(
            await create(
                harness, await harness.define(note("a")), EVENT | {"when": comparison("input.payload.n", "eq", n + 20)}
            )
        )
    await emit(harness, {"n": 7})

    assert await relay.give() == {}

    assert len(await runs_of(harness, key)) == len(await fired(harness)) == 1


@run_in_mode
async def test_many_triggers_of_one_workflow_are_one_execution(harness: Harness, relay: Relay) -> None:
    key = await harness.define(note("a"), trigger=EVENT | {"input": {"n": "${input.payload.missing}"}})
    for n in range(20):
        expect(await create(harness, key, EVENT | {"input": {"n": n}}))
    await emit(harness)

    assert await relay.give(times=3) == {}

    [run] = await runs_of(harness, key)
    # The trigger of the definition has no input, so another one has started the run.
    assert run.input["n"] in range(20)
    assert len([row for row in await fired(harness) if row.outcome == "succeeded"]) == 1


@run_in_mode
async def test_an_event_starts_many_runs_a_few_at_a_time(
    harness: Harness, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [await harness.define(note("a"), trigger=EVENT) for _ in range(12)]
    usual = relay.publisher._actions.fire_event
    running, most = 0, 0

    async def fire_event(*arguments: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        try:
            return await usual(*arguments)
        finally:
            running -= 1

    monkeypatch.setattr(relay.publisher._actions, "fire_event", fire_event)
    await emit(harness)

    assert await relay.give() == {}

    assert [len(await runs_of(harness, key)) for key in keys] == [1] * 12
    assert most == publisher._MAX_CONCURRENT_STARTS


@pytest.mark.parametrize("how", ["approved", "rejected", "cancelled"])
@run_in_mode
async def test_a_decided_approval_loses_its_timer(harness: Harness, relay: Relay, how: str) -> None:
    relay.publisher._scheduler = Scheduler(cast("DurableClient", harness.client))
    run = await harness.run(approval("ok", expires_after=3600, on_reject="no"), note("no"))
    other = await harness.run(approval("ok", expires_after=3600, on_reject="no"), note("no"))
    timer, others = f"expire/{run.approval_id}", f"expire/{other.approval_id}"
    assert await relay.give() == {}
    assert (harness.client.statuses[timer], harness.client.statuses[others]) == ("DELAYED", "DELAYED")

    if how == "approved":
        expect(await harness.approve(run))
    elif how == "rejected":
        expect(await harness.reject(run))
    else:
        expect(await harness.cancel(run))
    assert await relay.give(times=2) == {}

    assert timer not in harness.client.statuses
    assert harness.client.statuses[others] == "DELAYED"


@run_in_mode
async def test_a_timer_that_has_begun_is_left_to_end(harness: Harness, relay: Relay) -> None:
    relay.publisher._scheduler = Scheduler(cast("DurableClient", harness.client))
    run = await harness.run(approval("ok", expires_after=3600, on_reject="no"), note("no"))
    timer = f"expire/{run.approval_id}"
    harness.client.statuses[timer] = "PENDING"
    expect(await harness.reject(run))

    assert await relay.give() == {}

    assert harness.client.statuses[timer] == "PENDING"


def _definition(trigger: dict[str, Any]) -> dict[str, Any]:
    return {"steps": [note("a")], "trigger": trigger}
