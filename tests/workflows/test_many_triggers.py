"""Many triggers: how many a tenant may have, what an event costs that some of them wait for, and timers that end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from actionengine import ErrorCode
from actionengine.durable.client import DurableClient
from actionengine.workflows.runtime import publisher
from actionengine.workflows.runtime.scheduler import Agenda
from actionengine.workflows.services import quotas
from tests.workflows.desk import Desk, approval, comparison, expect, note, refused, scenario
from tests.workflows.test_triggers import EVENT, Relay, emit, runs_of

# The publisher is asynchronous.
pytestmark = pytest.mark.parametrize("place", ["memory-async", "sqlite-async", "postgres-async"], indirect=True)

SCHEDULE = {"type": "schedule", "schedule": "0 9 * * *"}


@pytest.fixture
def relay(desk: Desk, tmp_path: Path) -> Relay:
    return Relay(desk, tmp_path)


async def create(desk: Desk, key: str, trigger: dict[str, Any] = EVENT) -> Any:
    return await desk.ask("triggers.create", {"key": key, "trigger": trigger})


async def fired(desk: Desk) -> list[Any]:
    return [row for row in await desk.log(limit=1000) if row.action.endswith(".fire")]


@scenario
async def test_a_tenant_has_so_many_triggers_of_a_type(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "MAX_TRIGGERS", 2)
    key = await desk.define(note("a"), trigger=EVENT)
    first = expect(await create(desk, key))

    error = refused(await create(desk, key), ErrorCode.UNPROCESSABLE)
    assert error.message == ("the tenant has 2 triggers of the type 'event', as many as it may have: delete one first")
    assert error.details == {"type": "event", "limit": 2}
    other = await desk.define(note("a"))
    version = expect(await desk.ask("workflows.define", {"key": other, "definition": _definition(EVENT)})).version
    refused(await desk.ask("workflows.activate", {"key": other, "version": version}), ErrorCode.UNPROCESSABLE)

    for _ in range(2):
        expect(await create(desk, key, SCHEDULE))
    refused(await create(desk, key, SCHEDULE), ErrorCode.UNPROCESSABLE)
    # The own trigger becomes one of the other type: there is no room for it.
    version = expect(await desk.ask("workflows.define", {"key": key, "definition": _definition(SCHEDULE)})).version
    refused(await desk.ask("workflows.activate", {"key": key, "version": version}), ErrorCode.UNPROCESSABLE)

    expect(await desk.ask("triggers.disable", {"trigger_id": first.id}))
    refused(await create(desk, key), ErrorCode.UNPROCESSABLE)
    expect(await desk.ask("triggers.delete", {"trigger_id": first.id}))
    expect(await create(desk, key))
    refused(await create(desk, key), ErrorCode.UNPROCESSABLE)


@scenario
async def test_a_trigger_whose_condition_does_not_hold_costs_no_execution(desk: Desk, relay: Relay) -> None:
    holds = EVENT | {"when": comparison("input.payload.n", "eq", 7)}
    key = await desk.define(note("a"))
    expect(await create(desk, key, holds))
    for n in range(20):
        expect(
            await create(
                desk, await desk.define(note("a")), EVENT | {"when": comparison("input.payload.n", "eq", n + 20)}
            )
        )
    await emit(desk, {"n": 7})

    assert await relay.give() == {}

    assert len(await runs_of(desk, key)) == len(await fired(desk)) == 1


@scenario
async def test_many_triggers_of_one_workflow_are_one_execution(desk: Desk, relay: Relay) -> None:
    key = await desk.define(note("a"), trigger=EVENT | {"input": {"n": "${input.payload.missing}"}})
    for n in range(20):
        expect(await create(desk, key, EVENT | {"input": {"n": n}}))
    await emit(desk)

    assert await relay.give(times=3) == {}

    [run] = await runs_of(desk, key)
    # The one that came with the definition has no input to give: another of them has started it.
    assert run.input["n"] in range(20)
    assert len([row for row in await fired(desk) if row.outcome == "succeeded"]) == 1


@scenario
async def test_an_event_starts_many_runs_a_few_at_a_time(
    desk: Desk, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [await desk.define(note("a"), trigger=EVENT) for _ in range(12)]
    usual = relay.publisher._executions.fire_event
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

    monkeypatch.setattr(relay.publisher._executions, "fire_event", fire_event)
    await emit(desk)

    assert await relay.give() == {}

    assert [len(await runs_of(desk, key)) for key in keys] == [1] * 12
    assert most == publisher._STARTS_AT_ONCE


@pytest.mark.parametrize("how", ["approved", "rejected", "cancelled"])
@scenario
async def test_an_approval_that_is_decided_is_looked_at_no_more(desk: Desk, relay: Relay, how: str) -> None:
    relay.publisher._agenda = Agenda(cast("DurableClient", desk.client))
    run = await desk.run(approval("ok", expires_after=3600, on_reject="no"), note("no"))
    other = await desk.run(approval("ok", expires_after=3600, on_reject="no"), note("no"))
    timer, others = f"expire/{run.approval_id}", f"expire/{other.approval_id}"
    assert await relay.give() == {}
    assert (desk.client.statuses[timer], desk.client.statuses[others]) == ("DELAYED", "DELAYED")

    if how == "approved":
        expect(await desk.approve(run))
    elif how == "rejected":
        expect(await desk.reject(run))
    else:
        expect(await desk.cancel(run))
    assert await relay.give(times=2) == {}

    assert timer not in desk.client.statuses
    assert desk.client.statuses[others] == "DELAYED"


@scenario
async def test_a_look_that_has_begun_is_left_to_end(desk: Desk, relay: Relay) -> None:
    relay.publisher._agenda = Agenda(cast("DurableClient", desk.client))
    run = await desk.run(approval("ok", expires_after=3600, on_reject="no"), note("no"))
    timer = f"expire/{run.approval_id}"
    desk.client.statuses[timer] = "PENDING"
    expect(await desk.reject(run))

    assert await relay.give() == {}

    assert desk.client.statuses[timer] == "PENDING"


def _definition(trigger: dict[str, Any]) -> dict[str, Any]:
    return {"steps": [note("a")], "trigger": trigger}
