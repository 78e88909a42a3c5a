"""The tree of causes through workflows: triggers, steps, approvals, and runs that steps start."""

from __future__ import annotations

from typing import Any

from actionengine.builtin.cause_tree import CauseNode, LogTree
from actionengine.testing import run_in_mode
from actionengine.testing.harness import AUDITOR
from tests.harness import expect
from tests.workflows.harness import (
    BOB,
    EVENT,
    Harness,
    Relay,
    action,
    approval,
    asks_twice,
    each_storage,
    emit,
    note,
    runs_of,
)

MODE = "async"
"""The publisher is asynchronous."""

FIELDS = {"execution": "id", "approval": "approval_id", "event": "event_id", "run": "run_id"}


async def tree_of(harness: Harness, kind: str, id: str) -> LogTree:
    tree: LogTree = expect(await harness.ask("action_log.tree", {FIELDS[kind]: id}, by=AUDITOR))
    return tree


def below(tree: LogTree, id: str) -> list[CauseNode]:
    return [node for node in tree.nodes if node.parent == id]


@each_storage
@run_in_mode
async def test_all_that_an_event_leads_to_is_in_its_tree(harness: Harness, relay: Relay) -> None:
    last = await harness.define(note("last"))
    starting = await harness.define(
        action("start", "workflows.start", {"key": last}),
        trigger=EVENT | {"event_type": "job.next", "from_workflows": True},
    )
    first = await harness.define(
        action("tell", "host.emit", {"type": "job.next", "payload": {}}), approval("ask"), note("close"), trigger=EVENT
    )
    before = {row.id for row in await harness.log()}
    told = len(await harness.events())

    await emit(harness)
    await relay.go_on()
    [run] = await runs_of(harness, first)
    expect(await harness.approve(run, by=BOB))
    await relay.go_on()

    rows = [row for row in await harness.log() if row.id not in before]
    events = (await harness.events())[told:]
    tree = await tree_of(harness, "execution", rows[0].id)
    assert tree.truncated == ()
    assert {node.id for node in tree.nodes if node.kind == "execution"} == {row.id for row in rows}
    assert {node.id for node in tree.nodes if node.kind == "event"} == {event.id for event in events}
    runs = [(await runs_of(harness, key))[0] for key in (first, starting, last)]
    found = {node.id: node for node in tree.nodes if node.kind == "run"}
    assert {id: (node.title, node.status) for id, node in found.items()} == {
        run.id: (run.workflow_key, "succeeded") for run in runs
    }
    steps = [node.title for node in below(tree, run.id)]
    assert set(steps) == {"workflow_steps.next", "workflow_steps.perform"}
    for node in tree.nodes[::5]:
        assert (await tree_of(harness, node.kind, node.id)).nodes == tree.nodes


@run_in_mode
async def test_the_end_of_a_refused_step_is_below_its_approval(harness: Harness, relay: Relay) -> None:
    key = await harness.define(approval("ask"), note("close"))
    run_id = await harness.start(key)
    await relay.go_on()
    waiting = await harness.get(run_id)

    expect(await harness.reject(waiting))
    await relay.go_on()

    tree = await tree_of(harness, "run", run_id)
    (asked,) = [node for node in tree.nodes if node.kind == "approval"]
    assert (asked.id, asked.status) == (waiting.approval_id, "rejected")
    assert [node.title for node in below(tree, asked.id)] == ["approvals.reject", "workflow_steps.decline"]
    assert tree.nodes[0].title == "workflows.start"
    (run,) = [node for node in tree.nodes if node.kind == "run"]
    assert (run.status, run.run and run.run.step) == ((await harness.get(run_id)).status, None)


@run_in_mode
async def test_two_approvals_in_a_row_are_below_each_other(harness: Harness) -> None:
    harness = harness.another(services=[asks_twice()])
    given: dict[str, Any] = {"n": 1}
    first = (await harness.ask("asking.outer", given)).details["approval_id"]
    further = expect(await harness.ask("approvals.approve", {"approval_id": first}, by=BOB)).further_approval_id
    expect(await harness.ask("approvals.approve", {"approval_id": further}, by=BOB))

    tree = await tree_of(harness, "approval", further)

    approvals = [node for node in tree.nodes if node.kind == "approval"]
    assert [node.id for node in approvals] == [first, further]
    decision = next(node for node in tree.nodes if node.id == approvals[1].parent)
    assert (decision.title, decision.parent) == ("approvals.approve", first)
    assert [node.title for node in below(tree, further)] == ["approvals.approve"]
    assert tree.nodes[0].title == "asking.outer"
