"""Triggers: events and schedules start runs, through the publisher of workflows."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    ApprovalPolicy,
    ErrorCode,
    Limits,
    Tenant,
    create_action,
    create_service,
)
from actionengine.durable.client import DurableClient, DurableUnavailable
from actionengine.events.event import Event
from actionengine.events.publishers.port import PublisherUnavailable
from actionengine.testing import run_in_mode
from actionengine.workflows import WorkflowPublisher
from actionengine.workflows.runs import start
from actionengine.workflows.runtime.scheduler import Scheduler
from actionengine.workflows.runtime.step_actions import StepActions
from tests.harness import expect, refused
from tests.workflows.harness import (
    BOB,
    EVE,
    EVENT,
    Harness,
    RecordingClient,
    Relay,
    action,
    approval,
    comparison,
    each_storage,
    emit,
    fields,
    note,
    runs_of,
    statuses,
)

MODE = "async"
"""The publisher is asynchronous."""


@each_storage
@run_in_mode
async def test_an_event_starts_one_run_however_often_it_is_delivered(harness: Harness, relay: Relay) -> None:
    given = {"n": "${input.payload.n}", "who": "${input.actor}", "what": "${input.subject} ${input.type}"}
    key = await harness.define(note("a"), trigger=EVENT | {"input": given})
    await emit(harness, {"n": 7})

    assert await relay.give(times=3) == {}

    [run] = await runs_of(harness, key)
    assert run.input == {"n": 7, "who": "human:ann", "what": "job/1 job.done"}
    assert run.started_by == "human:ann"
    [trigger] = expect(await harness.ask("triggers.list", {"key": key}))
    assert run.trigger_id == trigger.id
    going = [each for each in relay.client.enqueued if each.function == "actionengine.execute_run"]
    assert [each.id for each in going] == [f"{run.id}/0"]
    assert going[0].arguments == (str(harness.tenant.id), harness.tenant.slug, key, run.id)
    await relay.go_on()
    assert (await harness.get(run.id)).status == "succeeded"


@run_in_mode
async def test_an_event_repeated_after_key_expiry_starts_nothing(harness: Harness, tmp_path: Path) -> None:
    forgetful = harness.another(limits=Limits(idempotency_ttl=0.001))
    relay = Relay(forgetful, tmp_path)
    key = await forgetful.define(note("a"), trigger=EVENT)
    before = await harness.start(await harness.define(note("a")))
    await emit(forgetful)
    assert await relay.give() == {}
    [run] = await runs_of(forgetful, key)
    await harness.backend.sleep(0.01)
    await harness.backend.purge_expired_keys()
    stored = await harness.backend.read_events(harness.tenant, types=["job.done"])

    assert await relay.publisher.publish([Event.of(each.position, each.event) for each in stored]) == {}

    assert [each.id for each in await runs_of(forgetful, key)] == [run.id]
    assert UUID(run.id).version == 7
    assert run.id[:13] >= before[:13]


@each_storage
@run_in_mode
async def test_an_event_starts_one_run_of_each_workflow(harness: Harness, relay: Relay) -> None:
    one, two = await harness.define(note("a"), trigger=EVENT), await harness.define(note("a"))
    for key in (one, two):
        expect(await harness.ask("triggers.create", {"key": key, "trigger": EVENT}))
    await emit(harness)
    await emit(harness)
    await emit(harness, type="job.gone")

    assert await relay.give(times=2) == {}

    assert (len(await runs_of(harness, one)), len(await runs_of(harness, two))) == (2, 2)


@run_in_mode
async def test_the_first_matching_trigger_starts_the_run(harness: Harness, relay: Relay) -> None:
    above = EVENT | {"when": comparison("input.payload.n", "gt", 5), "input": {"which": "above"}}
    key = await harness.define(note("a"), trigger=above)
    expect(await harness.ask("triggers.create", {"key": key, "trigger": EVENT | {"input": {"which": "any"}}}))
    await emit(harness, {"n": 1})
    await emit(harness, {"n": 7})

    assert await relay.give(times=2) == {}

    # Two events of one millisecond have no order.
    assert sorted(run.input["which"] for run in await runs_of(harness, key)) == ["above", "any"]


@run_in_mode
async def test_a_run_is_started_only_where_the_condition_holds(harness: Harness, relay: Relay) -> None:
    when = {"all": [comparison("input.payload.n", "gt", 5), comparison("input.actor", "ne", "human:bob")]}
    key = await harness.define(note("a"), trigger=EVENT | {"when": when, "input": {"n": "${input.payload.n}"}})
    for n, by in ((4, "ann"), (6, "bob"), (6, "eve")):
        await emit(harness, {"n": n}, by=Actor.human(by))

    assert await relay.give() == {}

    assert [(run.started_by, run.input) for run in await runs_of(harness, key)] == [("human:eve", {"n": 6})]


@pytest.mark.parametrize("payload", [None, {}, [], {"n": "a lot"}, {"n": None}], ids=repr)
@run_in_mode
async def test_an_event_without_the_fields_of_a_trigger_is_passed_over(
    harness: Harness, relay: Relay, payload: Any
) -> None:
    when = EVENT | {"when": comparison("input.payload.n", "gt", 5), "input": {"n": 1}}
    given = EVENT | {"input": {"n": "${input.payload.n}"}}
    keys = [await harness.define(note("a"), input=fields(n="number!"), trigger=trigger) for trigger in (when, given)]
    good = await harness.define(note("a"), trigger=EVENT)
    await emit(harness, payload)

    assert await relay.give() == {}

    assert [await runs_of(harness, key) for key in keys] == [[], []]
    assert len(await runs_of(harness, good)) == 1


@run_in_mode
async def test_a_failing_trigger_does_not_block_others(harness: Harness, relay: Relay) -> None:
    bad, good = [await harness.define(note("a"), trigger=EVENT) for _ in range(2)]
    is_away = True

    def roles(tenant: Tenant, key: str) -> list[str]:
        if is_away and key == bad:
            raise LookupError("the directory is away")
        return []

    relay.publisher._actions = StepActions(harness.engine, "async", roles)
    await emit(harness)

    assert list(await relay.give()) == ["job.done"]

    assert (await runs_of(harness, bad), len(await runs_of(harness, good))) == ([], 1)
    is_away = False
    stored = await harness.backend.read_events(harness.tenant, types=["job.done"])
    assert await relay.publisher.publish([Event.of(each.position, each.event) for each in stored]) == {}
    assert [len(await runs_of(harness, key)) for key in (bad, good)] == [1, 1]


@run_in_mode
async def test_a_workflow_without_an_active_version_holds_nothing_up(harness: Harness, relay: Relay) -> None:
    expect(await harness.ask("workflows.define", {"key": "draft", "definition": {"steps": [note("a")]}}))
    expect(await harness.ask("triggers.create", {"key": "draft", "trigger": EVENT}))
    good = await harness.define(note("a"), trigger=EVENT)
    await emit(harness)

    assert await relay.give() == {}

    assert (await runs_of(harness, "draft"), len(await runs_of(harness, good))) == ([], 1)


@run_in_mode
async def test_a_trigger_that_is_disabled_or_deleted_starts_nothing(harness: Harness, relay: Relay) -> None:
    keys = [await harness.define(note("a")) for _ in range(3)]
    made = [expect(await harness.ask("triggers.create", {"key": key, "trigger": EVENT})) for key in keys]
    expect(await harness.ask("triggers.disable", {"trigger_id": made[0].id}))
    expect(await harness.ask("triggers.delete", {"trigger_id": made[1].id}))
    await emit(harness)
    assert await relay.give() == {}
    assert [len(await runs_of(harness, key)) for key in keys] == [0, 0, 1]

    expect(await harness.ask("triggers.enable", {"trigger_id": made[0].id}))
    await emit(harness)
    assert await relay.give() == {}

    assert [len(await runs_of(harness, key)) for key in keys] == [1, 0, 2]


@run_in_mode
async def test_events_of_workflows_start_runs_only_with_from_workflows(harness: Harness, relay: Relay) -> None:
    cautious = await harness.define(note("a"), trigger=EVENT)
    eager = await harness.define(note("a"), trigger=EVENT | {"from_workflows": True})
    key = await harness.define(action("emit", "host.emit", {"type": "job.done"}))
    await harness.start(key)

    await relay.go_on()

    assert await runs_of(harness, cautious) == []
    [run] = await runs_of(harness, eager)
    assert (run.started_by, run.status) == (f"workflow:{key}", "succeeded")


@run_in_mode
async def test_schedules_come_change_and_go(harness: Harness, relay: Relay) -> None:
    schedule = {"type": "schedule", "schedule": "0 9 * * *", "timezone": "Europe/Berlin"}
    key = await harness.define(note("a"), trigger=schedule)
    [trigger] = expect(await harness.ask("triggers.list", {"key": key}))

    assert await relay.give(times=2) == {}
    [(name, scheduled)] = relay.client.schedules.items()
    assert name == f"{harness.tenant.id}/{trigger.id}"
    assert (scheduled.cron, scheduled.timezone, scheduled.function) == (
        "0 9 * * *",
        "Europe/Berlin",
        "actionengine.fire",
    )
    assert scheduled.context == {
        "tenant_id": str(harness.tenant.id),
        "slug": harness.tenant.slug,
        "workflow_key": key,
        "trigger_id": trigger.id,
    }

    expect(await harness.ask("triggers.disable", {"trigger_id": trigger.id}))
    assert await relay.give() == {}
    assert relay.client.schedules == {}
    expect(await harness.ask("triggers.enable", {"trigger_id": trigger.id}))
    await harness.define(note("a"), key=key, trigger=schedule | {"schedule": "30 8 * * *"})
    assert await relay.give() == {}
    [replaced] = relay.client.schedules.values()
    assert replaced.cron == "30 8 * * *"
    await harness.define(note("a"), key=key)
    assert await relay.give() == {}
    assert relay.client.schedules == {}


@run_in_mode
async def test_a_scheduled_time_starts_one_run(harness: Harness, relay: Relay) -> None:
    schedule = {"type": "schedule", "schedule": "0 9 * * *", "input": {"at": "${input.scheduled_at}"}}
    key = await harness.define(note("a"), input=fields(at="datetime!"), trigger=schedule)
    [trigger] = expect(await harness.ask("triggers.list", {"key": key}))
    at = datetime(2030, 1, 29, 9, tzinfo=UTC)

    ids = [await harness.executor.fire(harness.tenant, key, trigger.id, at) for _ in range(2)]
    later = await harness.executor.fire(harness.tenant, key, trigger.id, at.replace(day=30))

    runs = await runs_of(harness, key)
    assert [run.id for run in runs] == [ids[0], later]
    assert ids[0] == ids[1]
    assert runs[0].input == {"at": "2030-01-29T09:00:00+00:00"}
    assert runs[0].started_by == f"schedule:{trigger.id}"
    expect(await harness.ask("triggers.disable", {"trigger_id": trigger.id}))
    assert await harness.executor.fire(harness.tenant, key, trigger.id, at.replace(day=31)) == "None"
    assert len(await runs_of(harness, key)) == 2


@each_storage
@run_in_mode
async def test_a_rejected_approval_moves_its_run_on(harness: Harness, relay: Relay) -> None:
    run = await harness.run(approval("ok", on_reject="no", next="end"), note("no"))
    other = await harness.ask("host.approved", {"n": 1})
    expect(await harness.reject(run))
    assert (await harness.get(run.id)).status == "paused"
    boss = Actor.human("boss", permissions=["host.approve"])
    expect(await harness.ask("approvals.reject", {"approval_id": other.details["approval_id"]}, by=boss))

    assert await relay.give(times=2) == {}
    await relay.go_on()

    assert statuses(await harness.get(run.id)) == [("ok", "rejected"), ("no", "succeeded")]


@each_storage
@run_in_mode
async def test_each_dispatch_of_a_run_is_enqueued_once(harness: Harness, relay: Relay) -> None:
    flaky = {"name": "turns", "times": 1, "code": "unprocessable"}
    key = await harness.define(approval("ok"), action("a", "host.flaky", flaky))
    id = await harness.start(key)
    await relay.go_on()
    expect(await harness.approve(await harness.get(id)))
    await relay.go_on()
    expect(await harness.resume(await harness.get(id)))
    await relay.go_on()

    going = [each.id for each in relay.client.enqueued if each.function == "actionengine.execute_run"]
    assert going == [f"{id}/0", f"{id}/1", f"{id}/2"]
    assert (await harness.get(id)).status == "succeeded"


@run_in_mode
async def test_while_the_durable_engine_is_away_events_wait(harness: Harness, relay: Relay) -> None:
    class Away(RecordingClient):
        def enqueue(self, *_: Any, **__: Any) -> bool:
            raise DurableUnavailable("it is away")

    await harness.start(await harness.define(note("a")))
    relay.publisher._scheduler = Scheduler(cast("DurableClient", Away()))

    failures = await relay.give()

    assert isinstance(failures["workflows.started"], PublisherUnavailable)


@each_storage
@run_in_mode
async def test_the_events_of_another_tenant_start_nothing_here(harness: Harness, relay: Relay) -> None:
    key = await harness.define(note("a"), trigger=EVENT)
    there = await harness.define(note("a"), trigger=EVENT, tenant=harness.backend.other_tenant)
    await emit(harness, tenant=harness.backend.other_tenant)
    stored = await harness.backend.read_events(harness.backend.other_tenant, types=["job.done"])

    assert await relay.publisher.publish([Event.of(each.position, each.event) for each in stored]) == {}

    assert await runs_of(harness, key) == []
    found = expect(await harness.ask("workflows.list", {}, tenant=harness.backend.other_tenant))
    assert [run.workflow_key for run in found] == [there]


@run_in_mode
async def test_a_real_durable_engine_enqueues_each_dispatch_once(harness: Harness, tmp_path: Path) -> None:
    import asyncio

    from actionengine.durable.host import upgrade

    path = tmp_path / "real.sqlite"
    await asyncio.to_thread(upgrade, path)
    publisher = WorkflowPublisher(harness.engine, path, tenant_of={harness.tenant.id: harness.tenant}.__getitem__)
    id = await harness.start(await harness.define(note("a")))
    events = [
        Event.of(each.position, each.event)
        for each in await harness.backend.read_events(harness.tenant, types=["workflows.started"])
    ]

    try:
        for _ in range(2):
            assert await publisher.publish(events) == {}
        found = await asyncio.to_thread(publisher._client.status, f"{id}/0")
    finally:
        await publisher.stop()

    assert found is not None
    assert found[0] == "ENQUEUED"


@run_in_mode
async def test_an_approval_is_asked_for_with_what_is_to_be_approved(harness: Harness, relay: Relay) -> None:
    key = await harness.define(approval("ok", message="For ${input.who}"), trigger=EVENT | {"input": {"who": "eve"}})
    await emit(harness, by=Actor.human("bob", permissions=["host.approve"]))
    await relay.go_on()
    [run] = await runs_of(harness, key)

    refused(await harness.approve(run), ErrorCode.FORBIDDEN, "human:bob started the run")
    [told] = await harness.payloads("workflows.paused")
    assert json.dumps(told)
    assert told["approval_id"] == run.approval_id


@run_in_mode
async def test_the_starter_of_a_causing_run_does_not_approve(harness: Harness, relay: Relay) -> None:
    given = EVENT | {"from_workflows": True}
    second = await harness.define(approval("ok"), trigger=given)
    telling = action("tell", "host.emit", {"type": "job.done", "payload": None, "subject": "job/1"})
    first = await harness.start(await harness.define(telling), by=BOB)
    await relay.go_on()
    assert (await harness.get(first)).status == "succeeded"
    [run] = await runs_of(harness, second)

    refused(await harness.approve(run, by=BOB), ErrorCode.FORBIDDEN, "human:bob started the run")
    expect(await harness.approve(run, by=EVE))
    await relay.go_on()
    assert (await harness.get(run.id)).status == "succeeded"


@run_in_mode
async def test_a_workflow_that_triggers_itself_ends(
    harness: Harness, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "MAX_RUN_DEPTH", 3)
    telling = action("tell", "host.emit", {"type": "job.done", "payload": None, "subject": "job/1"})
    key = await harness.define(telling, trigger=EVENT | {"from_workflows": True})
    await emit(harness)

    await relay.go_on()

    assert [run.status for run in await runs_of(harness, key)] == ["succeeded"] * 4


@run_in_mode
async def test_a_further_approval_is_waited_for_and_expires(harness: Harness, tmp_path: Path) -> None:
    lifetimes = {"outer": timedelta(hours=1), "inner": timedelta(seconds=0.3)}

    async def outer(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        return await ctx.execute_async("chain", "inner", data)

    async def inner(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        return Success(None)

    actions = [
        create_action(
            name=name,
            description=name,
            handler=handler,
            approval=ApprovalPolicy(lambda data, ctx: True, "host.approve", lifetimes[name]),
        )
        for name, handler in (("outer", outer), ("inner", inner))
    ]
    asking = harness.another(services=[create_service(name="chain", description="Asks twice", actions=actions)])
    relay = Relay(asking, tmp_path)
    run = await asking.run(action("twice", "chain.outer", on_failure="let_be"), note("yes", next="end"), note("let_be"))
    further = expect(await asking.approve(run)).further_approval_id
    await relay.go_on()

    waiting = await asking.get(run.id)
    assert (waiting.status, waiting.approval_id) == ("paused", further)
    [expiry] = [each for each in relay.client.enqueued if each.id == f"expire/{further}"]
    await asyncio.sleep(0.4)
    await asking.executor.expire(asking.tenant, run.workflow_key, expiry.arguments[-1])
    await relay.go_on()
    ended = await asking.get(run.id)
    assert [(step.step, step.status) for step in ended.steps] == [("twice", "rejected"), ("let_be", "succeeded")]


@each_storage
@run_in_mode
async def test_the_type_of_an_event_may_have_any_form_of_unicode(harness: Harness, relay: Relay) -> None:
    composed, decomposed = "caf\u00e9.open", "cafe\u0301.open"
    keys = [await harness.define(note("a"), trigger=EVENT | {"event_type": type}) for type in (composed, decomposed)]

    for type in (composed, decomposed):
        await emit(harness, type=type)
    await relay.go_on()

    assert [len(await runs_of(harness, key)) for key in keys] == [2, 2]
