"""Agents draft changes, and people decide: what an AI may do, what permissions people need, and who it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from actionengine import Actor, ApprovalPolicy, ErrorCode
from actionengine.changes import ChangeControlPermissions
from actionengine.testing import run_in_mode
from tests.changes.harness import Harness, add, besides_the_log, put
from tests.clocks import host_clock
from tests.harness import ANN, BOB, BOT, expect, refused

PERMISSIONS = ChangeControlPermissions()
EACH = {
    "read": "changes.read",
    "author": "changes.author",
    "approve": "changes.approve",
    "merge": "changes.merge",
    "manage": "changes.manage",
}
ROOT = Actor.human("root", permissions=EACH.values())
ALMIGHTY_BOT = Actor.ai("bot", permissions=[*EACH.values(), "host.approve", "merges.approve"])
BOSS = Actor.human("boss", permissions=["host.approve", "merges.approve"])
TWO_PEOPLE = ApprovalPolicy(when=lambda data, ctx: True, permission="merges.approve")


def with_permissions(harness: Harness) -> Harness:
    return harness.another(permissions=PERMISSIONS)


# An AI


@pytest.mark.parametrize("demanding", [False, True], ids=["no permissions", "permissions"])
@run_in_mode
async def test_an_ai_drafts_a_change_and_asks_for_a_preview(harness: Harness, demanding: bool) -> None:
    harness = with_permissions(harness) if demanding else harness
    bot = Actor.ai("bot", permissions=["changes.read", "changes.author"])
    project = await harness.job(by=ROOT) if not demanding else await _job_of_root(harness)

    change = expect(await harness.change(project, add("job", "a"), by=bot))
    expect(await harness.target(change, "main.py", "file", by=bot))
    op = expect(await harness.op(change, add("job", "b"), by=bot))
    expect(await harness.delete_op(change, op, by=bot))
    preview = expect(await harness.preview(change, by=bot))
    moved = expect(await harness.move(change, "Implementing", "Validating", "ValidationFailed", "Validating", by=bot))

    assert [field["name"] for field in preview.diff[0].added] == ["a"]
    assert moved.status == "Validating"
    expect(await harness.move(change, "Ready", by=ROOT))
    assert expect(await harness.merge(change, by=ROOT)).applied_count == 1
    expect(await harness.ask("changes.plan_compensation", {"change_id": change.id}, by=bot))


async def _job_of_root(harness: Harness) -> Any:
    project = expect(await harness.project(by=ROOT))
    fields = {"fields": [{"name": "title", "type": "string", "required": True}, {"name": "hours", "type": "number"}]}
    expect(await harness.type(project, "job", fields, active=True, by=ROOT))
    return project


@pytest.mark.parametrize("demanding", [False, True], ids=["no permissions", "permissions"])
@run_in_mode
async def test_an_ai_with_every_permission_cannot_decide(harness: Harness, demanding: bool) -> None:
    harness = with_permissions(harness) if demanding else harness
    project = await _job_of_root(harness)
    job = {"project_id": project.id, "key": "job"}
    changes = [await harness.change(project, add("job", "a"), by=ROOT) for _ in range(2)]
    expect(await harness.move(changes[1], "Validating", by=ROOT))
    before = harness.dump()

    for change in changes:
        refused(await harness.merge(change, by=ALMIGHTY_BOT), ErrorCode.FORBIDDEN)
        refused(await harness.execute_change(change, by=ALMIGHTY_BOT), ErrorCode.FORBIDDEN)
        refused(await harness.move(change, "Merged", by=ALMIGHTY_BOT), ErrorCode.FORBIDDEN)
        refused(await harness.move(change, "Ready", by=ALMIGHTY_BOT), ErrorCode.FORBIDDEN, "R1")
    refused(await harness.ask("record_types.activate", job, by=ALMIGHTY_BOT), ErrorCode.FORBIDDEN)
    refused(await harness.ask("record_types.retire", job, by=ALMIGHTY_BOT), ErrorCode.FORBIDDEN)

    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_an_ai_does_not_merge_by_way_of_a_hosts_action(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    expect(await harness.move(change, "Validating"))
    said = {"change_id": change.id}
    steps = (
        ("changes.merge", said),
        ("changes.execute", said),
        ("changes.transition", said | {"status": "Ready"}),
        ("changes.transition", said | {"status": "Merged"}),
        ("host.run", {"steps": [["changes.merge", said]]}),
        ("record_types.retire", {"project_id": project.id, "key": "job"}),
    )

    answer = await harness.run(*steps, by=ALMIGHTY_BOT)

    assert answer == ["forbidden", "forbidden", "forbidden", "forbidden", "succeeded", "forbidden"]
    assert await harness.status(change) == "Validating"
    assert await harness.names(project) == ["title", "hours"]


@run_in_mode
async def test_an_ai_does_not_merge_by_way_of_an_approval(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    steps = [["changes.merge", {"change_id": change.id}]]
    needed = refused(await harness.ask("host.run_approved", {"steps": steps}, by=BOT), ErrorCode.APPROVAL_REQUIRED)

    approved = await harness.ask("approvals.approve", {"approval_id": needed.details["approval_id"]}, by=BOSS)

    assert expect(approved).result == ["forbidden"]
    assert await harness.status(change) == "Draft"
    assert await harness.names(project) == ["title", "hours"]


@run_in_mode
async def test_an_ai_does_not_approve_a_persons_merge(harness: Harness) -> None:
    harness = harness.another(merge_approval=TWO_PEOPLE)
    change = await harness.change(await harness.job(), add("job", "a"))
    needed = refused(await harness.merge(change), ErrorCode.APPROVAL_REQUIRED)

    for decision in ("approve", "reject"):
        approval = {"approval_id": needed.details["approval_id"]}
        refused(await harness.ask(f"approvals.{decision}", approval, by=ALMIGHTY_BOT), ErrorCode.FORBIDDEN)

    assert await harness.status(change) == "Draft"


@run_in_mode
async def test_an_ai_cannot_approve_a_nested_merge(harness: Harness) -> None:
    """The policy applies inside: the outermost action waits, and runs again once a person approves it."""
    harness = harness.another(merge_approval=TWO_PEOPLE)
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    needed = refused(await harness.run(("changes.merge", {"change_id": change.id})), ErrorCode.APPROVAL_REQUIRED)
    approval = {"approval_id": needed.details["approval_id"]}

    refused(await harness.ask("approvals.approve", approval, by=ALMIGHTY_BOT), ErrorCode.FORBIDDEN)
    assert await harness.status(change) == "Draft"
    expect(await harness.ask("approvals.approve", approval, by=BOSS))

    assert await harness.status(change) == "Merged"


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
@run_in_mode
async def test_a_change_that_nobody_has_edited_since_is_merged(harness: Harness, skew: float) -> None:
    harness = harness.another(merge_approval=TWO_PEOPLE)
    with host_clock(skew):
        change = await harness.change(await harness.job(), add("job", "a"))
    needed = refused(await harness.merge(change), ErrorCode.APPROVAL_REQUIRED)

    expect(await harness.ask("approvals.approve", {"approval_id": needed.details["approval_id"]}, by=BOSS))

    assert await harness.status(change) == "Merged"


@pytest.mark.parametrize("actor", [Actor.integration("ci"), Actor.workflow("nightly"), Actor.system()], ids=str)
@run_in_mode
async def test_other_actors_merge_as_people_do(harness: Harness, actor: Actor) -> None:
    change = await harness.change(await harness.job(), add("job", "a"), by=actor)

    expect(await harness.move(change, "Validating", "Ready", by=actor))

    assert expect(await harness.merge(change, by=actor)).status == "Merged"


@run_in_mode
async def test_nobody_does_anything_unnamed(harness: Harness) -> None:
    change = await harness.change(await harness.job(), add("job", "a"))
    nobody: Any = None

    for answer in (
        await harness.merge(change, by=nobody),
        await harness.move(change, "Ready", by=nobody),
        await harness.project(by=nobody),
    ):
        refused(answer, ErrorCode.UNAUTHENTICATED)


# People

NEEDED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "projects.create": ("manage", {"name": "another"}),
    "projects.get": ("read", {"project_id": "P"}),
    "projects.list": ("read", {}),
    "record_types.create": ("manage", {"project_id": "P", "key": "task"}),
    "record_types.get": ("read", {"project_id": "P", "key": "job"}),
    "record_types.list": ("read", {"project_id": "P"}),
    "record_types.activate": ("manage", {"project_id": "P", "key": "job"}),
    "record_types.retire": ("manage", {"project_id": "P", "key": "job"}),
    "record_types.schema_at": ("read", {"project_id": "P", "key": "job", "at": "2999-01-01T00:00:00Z"}),
    "record_types.verify_history": ("read", {"project_id": "P", "key": "job"}),
    "record_types.check_documents": ("read", {"project_id": "P", "key": "job"}),
    "changes.create": ("author", {"project_id": "P", "title": "a change"}),
    "changes.get": ("read", {"change_id": "C"}),
    "changes.list": ("read", {}),
    "changes.transitions": ("read", {"change_id": "C"}),
    "changes.add_target": (
        "author",
        {"change_id": "C", "type": "record_type", "selector": {"record_type_key": "job"}},
    ),
    "changes.list_targets": ("read", {"change_id": "C"}),
    "changes.add_patch_op": (
        "author",
        {"change_id": "C", "target_id": "T", "op_type": "add_field", "payload": add("job", "b")[1]},
    ),
    "changes.list_patch_ops": ("read", {"change_id": "C"}),
    "changes.delete_patch_op": ("author", {"change_id": "C", "op_id": "O"}),
    "changes.preview": ("read", {"change_id": "C"}),
    "changes.list_snapshots": ("read", {"change_id": "C"}),
    "changes.execute": ("merge", {"change_id": "C"}),
    "changes.merge": ("merge", {"change_id": "C"}),
    "changes.plan_compensation": ("author", {"change_id": "C"}),
    "changes.write_files": ("merge", {"change_id": "C"}),
    "changes.start_workspace": ("author", {"change_id": "C"}),
    "changes.stop_workspace": ("author", {"change_id": "C"}),
    "changes.workspace": ("read", {"change_id": "C"}),
}


@run_in_mode
async def test_each_action_asks_for_the_permission_of_its_part(harness: Harness) -> None:
    harness = with_permissions(harness)
    project = await _job_of_root(harness)
    change = await harness.change(project, by=ROOT)
    target = expect(await harness.target(change, "job", by=ROOT))
    op = expect(await harness.op(change, add("job", "a"), target, by=ROOT))
    ids = {"P": project.id, "C": change.id, "T": target.id, "O": op.id}
    # Refused for other reasons by then: the op is executed or deleted, and there are no files.
    late = {"changes.delete_patch_op", "changes.plan_compensation", "changes.execute"}
    late |= {"changes.start_workspace", "changes.stop_workspace", "changes.workspace"}

    for name, (part, said) in NEEDED.items():
        payload = {field: ids.get(str(value), value) for field, value in said.items()}
        others = Actor.human("cy", permissions=[each for needed, each in EACH.items() if needed != part])
        error = refused(await harness.ask(name, payload, by=others), ErrorCode.FORBIDDEN)
        assert EACH[part] in str(error.to_dict()), name
        answer = await harness.ask(name, payload, by=Actor.human("di", permissions=[EACH[part]]))
        if name in late:
            assert getattr(answer, "code", None) is not ErrorCode.FORBIDDEN, name
        else:
            expect(answer)


@run_in_mode
async def test_every_action_is_among_those_that_ask(harness: Harness) -> None:
    services = {"projects", "record_types", "changes"}
    names = {
        f"{service.name}.{action}"
        for service in harness.engine.get_services().unwrap()
        if service.name in services
        for action in service.actions
    }

    assert names == {*NEEDED, "changes.transition"}


@pytest.mark.parametrize(("status", "part"), [("Ready", "approve"), ("Merged", "merge")])
@run_in_mode
async def test_a_transition_asks_for_what_its_state_means(harness: Harness, status: str, part: str) -> None:
    harness = with_permissions(harness)
    project = await _job_of_root(harness)
    change = await harness.change(project, add("job", "a"), by=ROOT)
    expect(await harness.move(change, *(["Validating"] if status == "Ready" else []), by=ROOT) or change)
    author = Actor.human("cy", permissions=["changes.author"])
    before = harness.dump()

    error = refused(await harness.move(change, status, by=author), ErrorCode.FORBIDDEN)

    assert EACH[part] in str(error.to_dict())
    assert besides_the_log(before, harness.dump()) == {}
    entitled = replace(author, permissions=("changes.author", EACH[part]))
    assert expect(await harness.move(change, status, by=entitled)).status == status


@run_in_mode
async def test_whoever_may_merge_need_not_be_an_author(harness: Harness) -> None:
    harness = with_permissions(harness)
    project = await _job_of_root(harness)
    change = await harness.change(project, add("job", "a"), by=ROOT)
    merger = Actor.human("di", permissions=["changes.merge"])

    refused(await harness.op(change, add("job", "b"), by=merger), ErrorCode.FORBIDDEN)

    assert expect(await harness.merge(change, by=merger)).status == "Merged"


# The log


@run_in_mode
async def test_the_log_says_who_changed_a_record_type_when_and_why(harness: Harness) -> None:
    began = datetime.now(UTC)
    project = await harness.job(by=BOB)
    change = await harness.change(project, add("job", "a"), by=BOT)
    expect(await harness.move(change, "Validating", by=BOT))
    expect(await harness.move(change, "Ready", by=BOB, reason="it is fine"))
    expect(await harness.merge(change, by=ANN, reason="customers ask for it"))

    entries = await harness.log(subject=f"record_type/{project.id}/job")

    assert [(entry.action, entry.actor_id) for entry in entries] == [
        ("record_types.create", "bob"),
        ("record_types.activate", "bob"),
        ("changes.merge", "ann"),
    ]
    merge = entries[-1]
    assert (merge.reason, merge.outcome, merge.actor_type) == ("customers ask for it", "succeeded", "human")
    assert began <= merge.started_at <= datetime.now(UTC)
    assert f"change/{change.id}" in merge.subjects
    assert merge.output["diff"][0]["added"][0]["name"] == "a"


@run_in_mode
async def test_the_log_tells_the_life_of_a_change(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"), put("job", "nothing"), by=BOT)
    refused(await harness.merge(change, by=BOT), ErrorCode.FORBIDDEN)
    refused(await harness.merge(change, reason="in a hurry"), ErrorCode.UNPROCESSABLE)
    expect(await harness.delete_op(change, (await harness.ops(change))[1], by=BOT))
    expect(await harness.move(change, "Validating", by=BOT))
    expect(await harness.move(change, "Ready", "Merged", by=BOB))

    entries = [each for each in await harness.log(subject=f"change/{change.id}") if "list" not in each.action]

    assert [(entry.action, entry.actor_id, entry.outcome) for entry in entries] == [
        ("changes.create", "bot", "succeeded"),
        ("changes.add_target", "bot", "succeeded"),
        ("changes.add_patch_op", "bot", "succeeded"),
        ("changes.add_patch_op", "bot", "succeeded"),
        ("changes.merge", "ann", "failed"),
        ("changes.delete_patch_op", "bot", "succeeded"),
        ("changes.transition", "bot", "succeeded"),
        ("changes.transition", "bob", "succeeded"),
        ("changes.transition", "bob", "succeeded"),
        ("changes.merge", "bob", "succeeded"),
    ]
    failed = entries[4]
    assert failed.reason == "in a hurry"
    assert failed.error is not None
    assert failed.error["details"]["field"] == "nothing"
