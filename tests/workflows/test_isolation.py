"""Two tenants side by side: neither finds, moves nor sees anything of the other's workflows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from actionengine import ActionError, Actor, ErrorCode, Tenant
from actionengine.workflows.models import RunPoint
from tests.workflows.desk import (
    ANN,
    AUDITOR,
    BOB,
    Desk,
    action,
    approval,
    comparison,
    decision,
    expect,
    failing_step,
    lock,
    mutation,
    note,
    refused,
    scenario,
    statuses,
)

NOT_FOUND = ErrorCode.NOT_FOUND
EVENT = {"type": "event", "event_type": "job.done"}


@scenario
async def test_everything_of_another_tenants_is_not_found(desk: Desk) -> None:
    key = await desk.define(note("a"), trigger=EVENT)
    [trigger] = expect(await desk.ask("triggers.list", {"key": key}))
    paused = await desk.drive(await desk.start(await desk.define(failing_step("a"))))
    waiting = await desk.run(approval("ok"))
    asking = await desk.run(
        {"name": "look", "type": "assignment", "assignee": "human:bob", "title": "Look", "wait": True}
    )
    other = desk.world.other_tenant
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
    before = await desk.dump(), await desk.dump(other)

    for by in (BOB, AUDITOR):
        for name, payload in asked:
            refused(await desk.ask(name, payload, by=by, tenant=other), NOT_FOUND)

    assert (await desk.dump(), await desk.dump(other)) == before
    assert expect(await desk.ask("workflows.purge", {"ended_before": "2100-01-01T00:00:00Z"}, tenant=other)).runs == 0
    for name in ("workflows.list", "workflows.list_definitions", "triggers.list", "workflow_assignments.list"):
        assert expect(await desk.ask(name, {}, tenant=other)) == ()
        assert expect(await desk.ask(name, {"after": "0"}, tenant=other)) == ()
    assert expect(await desk.ask("workflows.list", {"key": key}, tenant=other)) == ()


@scenario
async def test_no_workflow_drives_a_run_of_another_tenants_be_its_key_the_same(desk: Desk) -> None:
    other = desk.world.other_tenant
    for tenant in (desk.tenant, other):
        await desk.define(note("a"), key="same", tenant=tenant)
    id = await desk.start("same")
    point = RunPoint(run_id=id, workflow_key="same", status="running", step="a", position=0, turn=0)
    waiting = await desk.run(approval("ok"))
    before = await desk.dump(), await desk.dump(other)
    executions, mode = desk.executions, desk.world.mode
    error = ActionError(ErrorCode.CONFLICT, "m", {})

    answers = [
        await executions.next(other, "same", id, mode),
        await executions.perform(other, point, mode),
        await executions.give_up(other, point, error, mode),
        await executions.wait(other, point.workflow_key, point.run_id, point.position, "approval", mode),
    ]

    for answer in answers:
        refused(answer.failure(), NOT_FOUND, id)
    assert (await executions.decline(other, waiting.workflow_key, waiting.approval_id, mode)).unwrap() is None
    assert await desk.driver.drive(other, "same", id, mode) == "not_found"
    assert (await desk.dump(), await desk.dump(other)) == before


@scenario
async def test_no_workflow_drives_a_run_of_another_workflow(desk: Desk) -> None:
    mine, theirs = await desk.define(note("a")), await desk.define(note("a"))
    id = await desk.start(theirs)
    steps = [
        ["workflow_steps.perform", {"run_id": id, "position": 0}],
        ["workflow_steps.wait", {"run_id": id, "position": 0, "approval_id": "x"}],
        ["workflow_steps.next", {"run_id": id}],
    ]
    before = await desk.get(id)

    came_of_it = expect(await desk.ask("host.run", {"steps": steps}, by=Actor.workflow(mine)))
    run = await desk.run(action("other", "host.run", {"steps": steps}))

    assert came_of_it == ["forbidden"] * 3
    assert run.steps[0].output == ["forbidden"] * 3
    assert await desk.get(id) == before
    assert await desk.read("notes") == []


@scenario
async def test_the_same_keys_and_documents_of_two_tenants_are_two_things(desk: Desk) -> None:
    other = desk.world.other_tenant
    for tenant, name in ((desk.tenant, "here"), (other, "there")):
        await desk.define(lock("lock", "job"), note(name), approval("ok"), key="same", tenant=tenant)
        payload = {"type": "jobs", "document": {"at": name}, "id": "job"}
        expect(await desk.ask("host.keep", payload, tenant=tenant))

    here = await desk.drive(await desk.start("same"))
    free = {"type": "jobs", "document": {"at": "there"}, "id": "job", "version": 1}
    assert expect(await desk.ask("host.keep", free, tenant=other)) == 2
    there = await desk.drive(await desk.start("same", tenant=other), other)

    assert [step for step, _ in statuses(here)] == ["lock", "here"]
    assert [step for step, _ in statuses(there)] == ["lock", "there"]
    refused(await desk.keep("jobs", {}, "job", 2), ErrorCode.CONFLICT, here.id)
    refused(await desk.ask("host.keep", {**free, "version": 3}, tenant=other), ErrorCode.CONFLICT, there.id)


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
@scenario
async def test_however_two_tenants_runs_are_mixed_nothing_of_one_shows_in_the_other(desk: Desk, seed: int) -> None:
    rng = random.Random(seed)
    tags = {desk.world.tenant: "tag-of-acme", desk.world.other_tenant: "tag-of-globex"}
    ids: dict[Tenant, list[str]] = {tenant: [] for tenant in tags}
    for tenant, tag in tags.items():
        await desk.define(*STEPS, key="outer", tenant=tenant)
        await desk.define(action("say", "host.note", {"tag": "${input.tag}"}), key="inner", tenant=tenant)
        for number in range(4):
            job = {"type": "jobs", "document": {"tag": tag}, "id": f"job-{number}"}
            expect(await desk.ask("host.keep", job, tenant=tenant))
        ids[tenant].append(await desk.start("outer", {"tag": tag, "id": "job-0", "n": 1}, tenant=tenant))
        await desk.go_on(tenant)

    for _ in range(40):
        tenant = rng.choice(list(tags))
        await _something(desk, rng, tenant, tags[tenant], ids[tenant])
    for tenant in tags:
        await desk.go_on(tenant)

    for tenant, other in (list(tags), list(reversed(list(tags)))):
        mine = repr((await desk.dump(tenant), await desk.log(tenant), await desk.world.read_events(tenant)))
        runs = expect(await desk.ask("workflows.list", {"limit": 1000}, by=AUDITOR, tenant=other))
        foreign = [tags[other], str(other.id), other.slug, *(run.id for run in runs)]
        assert [name for name in foreign if name in mine] == []
        assert tags[tenant] in mine
        assert {run.id for run in runs} >= set(ids[other])
        assert max(run.position for run in runs) > 3


async def _something(desk: Desk, rng: random.Random, tenant: Tenant, tag: str, ids: list[str]) -> None:
    """One move of one of them, which may well be refused."""
    match rng.choice(["start", "start", "drive", "drive", "step", "approve", "reject", "cancel", "resume"]):
        case "start":
            input = {"tag": tag, "id": f"job-{rng.randrange(4)}", "n": rng.randrange(10)}
            ids.append(await desk.start("outer", input, tenant=tenant))
        case "drive":
            await desk.go_on(tenant)
        case move if ids:
            await _move(desk, move, await desk.get(rng.choice(ids), tenant), tenant)


async def _move(desk: Desk, move: str, run: Any, tenant: Tenant) -> None:
    approval_id = {"approval_id": run.approval_id or "none"}
    asked: dict[str, Sequence[Any]] = {
        "approve": ("approvals.approve", approval_id, BOB),
        "reject": ("approvals.reject", approval_id, BOB),
        "cancel": ("workflows.cancel", {"run_id": run.id}, ANN),
        "resume": ("workflows.resume", {"run_id": run.id}, ANN),
    }
    if move == "step":
        point = await desk.executions.next(tenant, run.workflow_key, run.id, desk.world.mode)
        await desk.executions.perform(tenant, point.unwrap(), desk.world.mode)
        return
    name, payload, by = asked[move]
    await desk.ask(name, payload, by=by, tenant=tenant)
    if move == "reject" and run.approval_id is not None:
        await desk.decline(run, tenant)
