"""Runs that an agent starts for a person: each step acts for both, with the rights that the workflow and both have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actionengine import Actor, ErrorCode, Role, StaticAuthorizer, Tenant
from actionengine.context import MAX_CHAIN_LENGTH
from actionengine.events.event import Event
from actionengine.testing import run_in_mode
from tests.harness import expect, refused
from tests.workflows.harness import (
    BOB,
    EVENT,
    Harness,
    Relay,
    action,
    approval,
    each_storage,
    emit,
    note,
    runs_of,
    statuses,
)

MODE = "async"
"""The publisher is asynchronous."""

PAY = ["host.pay", "host.approve"]
CARLA = Actor.human("carla", permissions=PAY)
BOT = Actor.ai("bot", permissions=PAY, on_behalf_of=CARLA)
CHAIN = ("ai:bot", "human:carla")
AUTHORIZER = StaticAuthorizer({"payer": Role(allow=PAY)})


def roles(tenant: Tenant, key: str) -> list[str]:
    """Return the roles of each workflow."""
    return ["payer"]


def pay(name: str = "pay", **more: Any) -> Any:
    return action(name, "host.pay", {"n": 1}, **more)


@pytest.fixture
def paying(harness: Harness) -> Harness:
    """A harness whose workflows, and whose actors, have the rights that the host gives them."""
    return harness.another(authorizer=AUTHORIZER, roles=roles)


async def chains_of(harness: Harness, run_id: str) -> set[tuple[str, str, tuple[str, ...]]]:
    """Return the actors of all rows of a run's steps, and of the actions that these executed."""
    rows = await harness.log(actor_type="workflow")
    return {(row.action, f"{row.actor_type}:{row.actor_id}", row.on_behalf_of) for row in rows}


@each_storage
@run_in_mode
async def test_the_steps_of_a_run_name_the_chain_of_its_starter(harness: Harness) -> None:
    key = await harness.define(note("a"), note("b"), key="notes")
    run = await harness.drive(await harness.start(key, by=BOT))

    assert (run.status, run.started_by, run.on_behalf_of) == ("succeeded", "ai:bot", CHAIN)
    assert await chains_of(harness, run.id) == {
        ("workflow_steps.next", "workflow:notes", CHAIN),
        ("workflow_steps.perform", "workflow:notes", CHAIN),
        ("host.note", "workflow:notes", CHAIN),
    }
    events = await harness.events("host.note", "workflows.step_completed", "workflows.ended")
    assert {(event.actor_id, event.on_behalf_of) for event in events} == {("notes", CHAIN)}
    assert await harness.log(principal="human:carla", action="host.note") == await harness.log(action="host.note")


@run_in_mode
async def test_a_run_of_an_actor_that_acts_for_nobody_is_as_before(harness: Harness) -> None:
    key = await harness.define(note("a"), key="notes")
    run = await harness.drive(await harness.start(key, by=Actor.ai("bot")))

    assert (run.status, run.started_by, run.on_behalf_of) == ("succeeded", "ai:bot", ())
    assert {chain for _, _, chain in await chains_of(harness, run.id)} == {()}


@pytest.mark.parametrize(
    ("starter", "status"),
    [
        (BOT, "succeeded"),
        (Actor.ai("bot", permissions=PAY), "succeeded"),
        (Actor.ai("bot"), "succeeded"),
        (Actor.ai("bot", permissions=PAY, on_behalf_of=Actor.human("dave")), "paused"),
        (Actor.ai("bot", on_behalf_of=CARLA), "paused"),
    ],
)
@run_in_mode
async def test_a_step_may_do_what_the_chain_may_do(paying: Harness, starter: Actor, status: str) -> None:
    key = await paying.define(pay())
    run = await paying.drive(await paying.start(key, by=starter))

    assert run.status == status
    if status == "paused":
        assert "needs the permission host.pay (for " in run.error["message"]
        # Somebody else resumes the run; it still acts for the same chain.
        expect(await paying.resume(run, by=CARLA))
        await paying.go_on()
        assert (await paying.get(run.id)).status == "paused"


@run_in_mode
async def test_a_nested_run_acts_for_the_same_chain(paying: Harness) -> None:
    """Each workflow stands in place of the one before it, so that runs may nest as deep as ever."""
    keys = [await paying.define(pay())]
    for _ in range(5):
        keys.append(await paying.define(action("start", "workflows.start", {"key": keys[-1]})))
    await paying.start(keys[-1], by=BOT)
    await paying.go_on()

    for key in keys:
        [run] = await runs_of(paying, key)
        assert (run.status, run.on_behalf_of) == ("succeeded", CHAIN)
    assert {row.on_behalf_of for row in await paying.log(action="host.pay")} == {CHAIN}


@run_in_mode
async def test_a_nested_run_may_not_do_more(paying: Harness) -> None:
    inner = await paying.define(pay())
    outer = await paying.define(action("start", "workflows.start", {"key": inner}))
    await paying.start(outer, by=Actor.ai("bot", permissions=PAY, on_behalf_of=Actor.human("dave")))
    await paying.go_on()

    [run] = await runs_of(paying, inner)
    assert (run.status, run.error["code"]) == ("paused", "forbidden")


@run_in_mode
async def test_a_chain_without_place_for_a_workflow_starts_no_run(harness: Harness, relay: Relay) -> None:
    key = await harness.define(note("a"), trigger=EVENT)
    longest = CARLA
    for number in range(MAX_CHAIN_LENGTH - 1):
        longest = Actor.ai(f"agent {number}", on_behalf_of=longest)

    answer = await harness.ask("workflows.start", {"key": key}, by=longest)
    await emit(harness, by=longest)

    refused(answer, ErrorCode.UNPROCESSABLE, "the workflow would be one more", "shorter chain")
    assert await relay.give() == {}
    assert await runs_of(harness, key) == []
    # With one actor less, both start.
    assert longest.on_behalf_of is not None
    await harness.start(key, by=longest.on_behalf_of)
    await emit(harness, by=longest.on_behalf_of)
    assert await relay.give() == {}
    assert [len(run.on_behalf_of) for run in await runs_of(harness, key)] == [3, 3]


# Events


@each_storage
@run_in_mode
async def test_a_run_that_an_event_starts_acts_for_its_chain(paying: Harness, tmp_path: Path) -> None:
    relay = Relay(paying, tmp_path)
    relay.publisher._actions._roles = roles
    key = await paying.define(pay(), trigger=EVENT)
    limited = Actor.ai("bot", permissions=PAY, on_behalf_of=Actor.human("dave"))
    for by in (BOT, limited, Actor.ai("bot")):
        await emit(paying, by=by)

    assert await relay.give(times=2) == {}
    runs = [await paying.drive(run.id) for run in await runs_of(paying, key)]

    assert [(run.started_by, run.on_behalf_of, run.status) for run in runs] == [
        ("ai:bot", CHAIN, "succeeded"),
        ("ai:bot", ("ai:bot", "human:dave"), "paused"),
        ("ai:bot", (), "succeeded"),
    ]
    fired = await paying.log(action="workflow_steps.fire", outcome="succeeded")
    assert [row.on_behalf_of for row in fired] == [CHAIN, ("ai:bot", "human:dave"), ()]


@run_in_mode
async def test_events_of_a_run_pass_its_chain_on(harness: Harness, relay: Relay) -> None:
    first = await harness.define(action("tell", "host.emit", {"type": "job.done"}))
    second = await harness.define(note("a"), trigger=EVENT | {"from_workflows": True})
    await harness.start(first, by=BOT)
    await harness.go_on()
    assert await relay.give() == {}

    [run] = await runs_of(harness, second)
    assert (run.started_by, run.on_behalf_of) == (f"workflow:{first}", CHAIN)


@run_in_mode
async def test_an_event_without_stored_rights_still_names_its_chain(harness: Harness, relay: Relay) -> None:
    key = await harness.define(pay(), trigger=EVENT)
    await emit(harness, by=BOT)
    [stored] = await harness.backend.read_events(harness.tenant, types=["job.done"])
    # A replayed event that the log does not have at this position.
    event = Event.of(stored.position + 1000, stored.event)

    assert await relay.publisher.publish([event, event._replace(id=key, on_behalf_of=("carla",))]) == {}

    [run] = await runs_of(harness, key)
    assert run.on_behalf_of == CHAIN


# Approvals


@each_storage
@run_in_mode
async def test_nobody_in_the_chain_approves_what_waits_in_a_run(harness: Harness) -> None:
    key = await harness.define(approval("ok", by_starter=True), action("go", "host.approved", {"n": 1}))
    run = await harness.drive(await harness.start(key, by=BOT))
    same = Actor.human("CARLA ", permissions=PAY)
    for_carla = Actor.human("bob", permissions=PAY, on_behalf_of=CARLA)

    for _ in range(2):
        for approver in (CARLA, same, for_carla, Actor.human("bot", permissions=PAY)):
            refused(await harness.approve(run, by=approver), ErrorCode.FORBIDDEN, "counts as the same actor")
        shown = expect(await harness.ask("approvals.get", {"approval_id": run.approval_id}, by=BOB))
        assert (shown.requested_by, shown.on_behalf_of) == (f"workflow:{key}", CHAIN)
        expect(await harness.approve(run, by=BOB))
        await harness.go_on()
        run = await harness.get(run.id)

    assert statuses(run) == [("ok", "succeeded"), ("go", "succeeded")]
    [row] = await harness.log(action="host.approved", outcome="succeeded")
    assert (row.actor_id, row.on_behalf_of, row.approved_by) == (key, CHAIN, "human:bob")
    await harness.in_order()


@run_in_mode
async def test_a_principal_cancels_the_approval_and_the_run_continues(harness: Harness, relay: Relay) -> None:
    key = await harness.define(approval("ok", on_reject="b"), note("b"))
    run = await harness.drive(await harness.start(key, by=BOT))

    expect(await harness.ask("approvals.cancel", {"approval_id": run.approval_id}, by=CARLA))
    await relay.go_on()

    run = await harness.get(run.id)
    assert statuses(run) == [("ok", "rejected"), ("b", "succeeded")]
    assert {chain for name, _, chain in await chains_of(harness, run.id) if name == "host.note"} == {CHAIN}


@run_in_mode
async def test_the_actor_of_an_outer_chain_approves_neither(harness: Harness) -> None:
    """The run that an agent started for a person starts another, in which that person decides nothing either."""
    inner = await harness.define(approval("ok"))
    outer = await harness.define(action("start", "workflows.start", {"key": inner}))
    await harness.start(outer, by=BOT)
    await harness.go_on()
    [run] = await runs_of(harness, inner)

    refused(await harness.approve(run, by=CARLA), ErrorCode.FORBIDDEN, "counts as the same actor")
    expect(await harness.approve(run, by=BOB))


@run_in_mode
async def test_an_approver_that_acts_for_the_starter_is_refused(harness: Harness) -> None:
    """The starter acted for nobody, so that the run has no chain: the approver's chain counts nevertheless."""
    run = await harness.run(approval("ok"), by=CARLA)

    deputy = Actor.human("bob", permissions=PAY, on_behalf_of=CARLA)
    refused(await harness.approve(run, by=deputy), ErrorCode.FORBIDDEN, "human:carla started the run")
    expect(await harness.approve(run, by=BOB))


# Restarts


@each_storage
@run_in_mode
async def test_a_repeated_step_is_replayed_before_and_after_an_approval(harness: Harness) -> None:
    """An executor that died before it got the answer asks again, and knows only the workflow."""
    key = await harness.define(note("a"), action("go", "host.approved", {"n": 1}), note("b"))
    run_id = await harness.start(key, by=BOT)
    actions, tenant = harness.executor.actions, harness.tenant
    first = (await actions.next(tenant, key, run_id)).unwrap()
    second = (await actions.perform(tenant, first)).unwrap()

    assert (await actions.perform(tenant, first)).unwrap() == second
    await harness.drive(run_id)
    expect(await harness.approve(await harness.get(run_id), by=BOB))
    third = (await actions.perform(tenant, second)).unwrap()
    assert (third.step, third.position) == ("b", 2)

    run = await harness.drive(run_id)
    assert run.status == "succeeded"
    assert [len(await harness.log(action=name, outcome="succeeded")) for name in ("host.note", "host.approved")] == [
        2,
        1,
    ]
    assert await harness.log(outcome="denied") == []


@run_in_mode
async def test_a_purged_run_leaves_the_log_that_names_its_chain(harness: Harness) -> None:
    key = await harness.define(note("a"))
    run = await harness.drive(await harness.start(key, by=BOT))

    expect(await harness.ask("workflows.purge", {"ended_before": "2999-01-01T00:00:00Z"}))

    refused(await harness.ask("workflows.get", {"run_id": run.id}), ErrorCode.NOT_FOUND)
    assert len(await harness.log(principal="human:carla", action="host.note")) == 1


@run_in_mode
async def test_other_workflows_do_not_advance_a_run_for_a_chain(harness: Harness) -> None:
    run_id = await harness.start(await harness.define(note("a")), by=BOT)
    other = Actor.workflow("other", on_behalf_of=BOT)

    answer = await harness.ask("workflow_steps.perform", {"run_id": run_id, "position": 0}, by=other)

    refused(answer, ErrorCode.FORBIDDEN, "not workflow:other")
