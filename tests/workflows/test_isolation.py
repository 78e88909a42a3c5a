"""Two tenants on one storage: neither finds, advances or sees workflows of the other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from actionengine import ActionError, Actor, ErrorCode, Tenant
from actionengine.testing import run_in_mode
from actionengine.testing.harness import AUDITOR
from actionengine.workflows.models import RunCursor
from tests.harness import expect, refused
from tests.workflows.harness import (
    ANN,
    BOB,
    EVENT,
    Harness,
    action,
    approval,
    comparison,
    decision,
    each_storage,
    failing_step,
    lock,
    mutation,
    note,
    statuses,
)

pytestmark = each_storage

NOT_FOUND = ErrorCode.NOT_FOUND


@run_in_mode
async def test_nothing_of_another_tenant_is_found(harness: Harness) -> None:
    key = await harness.define(note("a"), trigger=EVENT)
    [trigger] = expect(await harness.ask("triggers.list", {"key": key}))
    paused = await harness.drive(await harness.start(await harness.define(failing_step("a"))))
    waiting = await harness.run(approval("ok"))
    asking = await harness.run(
        {"name": "look", "type": "assignment", "assignee": "human:bob", "title": "Look", "wait": True}
    )
    other = harness.backend.other_tenant
    asked: list[tuple[str, Any]] = [
        *((f"workflows.{name}", {"key": key}) for name in ("activate", "get_definition", "start")),
        *((f"workflows.{name}", {"key": key, "version": 1}) for name in ("activate", "get_definition")),
        *((f"workflows.{name}", {"run_id": paused.id}) for name in ("get", "resume", "cancel")),
        *((f"workflows.{name}", {"run_id": waiting.id}) for name in ("get", "resume", "cancel")),
        *((f"triggers.{name}", {"trigger_id": trigger.id}) for name in ("get", "enable", "disable", "delete")),
        ("triggers.create", {"key": key, "trigger": EVENT}),
        *((f"workflow_assignments.{name}", {"assignment_id": asking.assignment_id}) for name in ("get", "complete")),
        *((f"approvals.{name}", {"approval_id": waiting.approval_id}) for name in ("get", "approve", "reject")),
    ]
    before = await harness.dump(), await harness.dump(other)

    for by in (BOB, AUDITOR):
        for name, payload in asked:
            refused(await harness.ask(name, payload, by=by, tenant=other), NOT_FOUND)

    assert (await harness.dump(), await harness.dump(other)) == before
    assert (
        expect(await harness.ask("workflows.purge", {"ended_before": "2100-01-01T00:00:00Z"}, tenant=other)).runs == 0
    )
    for name in ("workflows.list", "workflows.list_definitions", "triggers.list", "workflow_assignments.list"):
        assert expect(await harness.ask(name, {}, tenant=other)) == ()
        assert expect(await harness.ask(name, {"after": "0"}, tenant=other)) == ()
    assert expect(await harness.ask("workflows.list", {"key": key}, tenant=other)) == ()


@run_in_mode
async def test_no_workflow_advances_a_run_of_another_tenant(harness: Harness) -> None:
    other = harness.backend.other_tenant
    for tenant in (harness.tenant, other):
        await harness.define(note("a"), key="same", tenant=tenant)
    id = await harness.start("same")
    point = RunCursor(run_id=id, workflow_key="same", status="running", step="a", position=0, dispatch=0)
    waiting = await harness.run(approval("ok"))
    before = await harness.dump(), await harness.dump(other)
    actions = harness.executor.actions
    error = ActionError(ErrorCode.CONFLICT, "m", {})

    answers = [
        await actions.next(other, "same", id),
        await actions.perform(other, point),
        await actions.fail_step(other, point, error),
        await actions.await_approval(other, point.workflow_key, point.run_id, point.position, "approval"),
    ]

    for answer in answers:
        refused(answer.failure(), NOT_FOUND, id)
    assert (await actions.decline(other, waiting.workflow_key, waiting.approval_id)).unwrap() is None
    assert await harness.executor.execute_run(other, "same", id) == "not_found"
    assert (await harness.dump(), await harness.dump(other)) == before


@run_in_mode
async def test_no_workflow_drives_a_run_of_another_workflow(harness: Harness) -> None:
    mine, theirs = await harness.define(note("a")), await harness.define(note("a"))
    id = await harness.start(theirs)
    steps = [
        ["workflow_steps.perform", {"run_id": id, "position": 0}],
        ["workflow_steps.await_approval", {"run_id": id, "position": 0, "approval_id": "x"}],
        ["workflow_steps.next", {"run_id": id}],
    ]
    before = await harness.get(id)

    came_of_it = expect(await harness.ask("host.run", {"steps": steps}, by=Actor.workflow(mine)))
    run = await harness.run(action("other", "host.run", {"steps": steps}))

    assert came_of_it == ["forbidden"] * 3
    assert run.steps[0].output == ["forbidden"] * 3
    assert await harness.get(id) == before
    assert await harness.read("notes") == []


@run_in_mode
async def test_tenants_may_have_the_same_keys_and_ids(harness: Harness) -> None:
    other = harness.backend.other_tenant
    for tenant, name in ((harness.tenant, "here"), (other, "there")):
        await harness.define(lock("lock", "job"), note(name), approval("ok"), key="same", tenant=tenant)
        payload = {"type": "jobs", "document": {"at": name}, "id": "job"}
        expect(await harness.ask("host.keep", payload, tenant=tenant))

    here = await harness.drive(await harness.start("same"))
    free = {"type": "jobs", "document": {"at": "there"}, "id": "job", "version": 1}
    assert expect(await harness.ask("host.keep", free, tenant=other)) == 2
    there = await harness.drive(await harness.start("same", tenant=other), other)

    assert [step for step, _ in statuses(here)] == ["lock", "here"]
    assert [step for step, _ in statuses(there)] == ["lock", "there"]
    refused(await harness.keep("jobs", {}, "job", 2), ErrorCode.CONFLICT, here.id)
    refused(await harness.ask("host.keep", {**free, "version": 3}, tenant=other), ErrorCode.CONFLICT, there.id)


STEPS = [
    decision("which", (comparison("input.n", "gt", 5), "lock"), otherwise="assign"),
    {"name": "assign", "type": "assignment", "assignee": "${input.tag}", "title": "for ${input.tag}"},
    lock("lock", "${input.id}", on_failure="tell"),
    mutation("change", "update", id="${input.id}", data={"tag": "${input.tag}"}),
    action("flaky", "host.flaky", {"name": "${input.tag}-${run.id}", "times": 1, "code": "conflict"}),
    approval("ok", message="${input.tag}?", on_reject="tell"),
    action("inner", "workflows.start", {"key": "inner", "input": {"tag": "${input.tag}"}}),
    {"name": "tell", "type": "notification", "to": "${input.tag}", "message": "${run.id} of ${input.tag}"},
]


@pytest.mark.parametrize("seed", [1, 2])
@run_in_mode
async def test_mixed_runs_of_two_tenants_stay_apart(harness: Harness, seed: int) -> None:
    rng = random.Random(seed)
    tags = {harness.backend.tenant: "tag-of-acme", harness.backend.other_tenant: "tag-of-globex"}
    ids: dict[Tenant, list[str]] = {tenant: [] for tenant in tags}
    for tenant, tag in tags.items():
        await harness.define(*STEPS, key="outer", tenant=tenant)
        await harness.define(action("say", "host.note", {"tag": "${input.tag}"}), key="inner", tenant=tenant)
        for number in range(4):
            job = {"type": "jobs", "document": {"tag": tag}, "id": f"job-{number}"}
            expect(await harness.ask("host.keep", job, tenant=tenant))
        ids[tenant].append(await harness.start("outer", {"tag": tag, "id": "job-0", "n": 1}, tenant=tenant))
        await harness.go_on(tenant)

    for _ in range(40):
        tenant = rng.choice(list(tags))
        await _something(harness, rng, tenant, tags[tenant], ids[tenant])
    for tenant in tags:
        await harness.go_on(tenant)

    for tenant, other in (list(tags), list(reversed(list(tags)))):
        mine = repr(
            (await harness.dump(tenant), await harness.log(tenant=tenant), await harness.backend.read_events(tenant))
        )
        runs = expect(await harness.ask("workflows.list", {"limit": 1000}, by=AUDITOR, tenant=other))
        foreign = [tags[other], str(other.id), other.slug, *(run.id for run in runs)]
        assert [name for name in foreign if name in mine] == []
        assert tags[tenant] in mine
        assert {run.id for run in runs} >= set(ids[other])
        assert max(run.position for run in runs) > 3


async def _something(harness: Harness, rng: random.Random, tenant: Tenant, tag: str, ids: list[str]) -> None:
    """Do one action of one of them, which may be refused."""
    match rng.choice(["start", "start", "drive", "drive", "step", "approve", "reject", "cancel", "resume"]):
        case "start":
            input = {"tag": tag, "id": f"job-{rng.randrange(4)}", "n": rng.randrange(10)}
            ids.append(await harness.start("outer", input, tenant=tenant))
        case "drive":
            await harness.go_on(tenant)
        case move if ids:
            await _move(harness, move, await harness.get(rng.choice(ids), tenant), tenant)


async def _move(harness: Harness, move: str, run: Any, tenant: Tenant) -> None:
    approval_id = {"approval_id": run.approval_id or "none"}
    asked: dict[str, Sequence[Any]] = {
        "approve": ("approvals.approve", approval_id, BOB),
        "reject": ("approvals.reject", approval_id, BOB),
        "cancel": ("workflows.cancel", {"run_id": run.id}, ANN),
        "resume": ("workflows.resume", {"run_id": run.id}, ANN),
    }
    if move == "step":
        point = await harness.executor.actions.next(tenant, run.workflow_key, run.id)
        await harness.executor.actions.perform(tenant, point.unwrap())
        return
    name, payload, by = asked[move]
    await harness.ask(name, payload, by=by, tenant=tenant)
    if move == "reject" and run.approval_id is not None:
        await harness.decline(run, tenant)
