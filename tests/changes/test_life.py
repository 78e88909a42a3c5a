"""The life of a change: its transitions, and the effects of a merge that fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from actionengine import ActionContext, ActionError, Actor, ApprovalPolicy, ErrorCode
from actionengine.changes.states import STATUSES
from actionengine.testing import run_in_mode
from tests.changes.harness import WAYS, Harness, add, besides_the_log, put, remove, schema
from tests.clocks import host_clock
from tests.harness import ANN, BOB, BOT, expect, refused

# Each storage and each mode, but not all pairs.
pytestmark = pytest.mark.parametrize(
    "shared_backend", ["memory-sync", "sqlite-async", "postgres-sync"], indirect=True, scope="module"
)

GOES: Mapping[str, set[str]] = {
    "Draft": {"Implementing", "Validating", "Merged"},
    "Implementing": {"WorkspaceRunning", "Validating", "Draft"},
    "WorkspaceRunning": {"Validating", "Implementing"},
    "Validating": {"Ready", "ValidationFailed"},
    "ValidationFailed": {"Implementing", "Validating"},
    "Ready": {"Merged", "ValidationFailed"},
    "Merged": set(),
}

BOSS = Actor.human("boss", permissions=["merges.approve"])
TWO_PEOPLE = ApprovalPolicy(when=lambda data, ctx: True, permission="merges.approve")
MERGE = "changes.merge"
WRITTEN_BY_A_FAILED_MERGE = {"ae_changes": [{"status", "updated_at"}]}
EVENTS = {"ae_events", "ae_outbox"}


async def merge_by(harness: Harness, way: str, change: Any, **who: Any) -> Any:
    """Merge a change by `merge` or by a transition."""
    return await (harness.merge(change, **who) if way == "merge" else harness.move(change, "Merged", **who))


async def bad_change(harness: Harness, project: Any, status: str) -> Any:
    """Create a change that cannot be merged, and move it to a state."""
    change = await harness.change(project, add("job", "a"), remove("job", "nothing"), add("job", "b"))
    await harness.move(change, *WAYS[status])
    return change


# Transitions


@pytest.mark.parametrize(
    ("status", "require_review"), [*((status, False) for status in STATUSES), ("Draft", True), ("Ready", True)]
)
@run_in_mode
async def test_a_change_goes_where_the_table_says(harness: Harness, status: str, require_review: bool) -> None:
    project = await harness.project(require_review=require_review)

    for to in STATUSES:
        change = await harness.change(project)
        await harness.move(change, *WAYS[status])
        assert await harness.status(change) == status

        answer = await harness.move(change, to)

        may = to == status or (to in GOES[status] and not (require_review and (status, to) == ("Draft", "Merged")))
        if may:
            assert expect(answer).status == to
        else:
            refused(answer, ErrorCode.CONFLICT, status)
        assert await harness.status(change) == (to if may else status)


@pytest.mark.parametrize("status", STATUSES)
@run_in_mode
async def test_to_go_where_it_is_already_changes_nothing(harness: Harness, status: str) -> None:
    change = await harness.change(await harness.job(), add("job", "a"))
    await harness.move(change, *WAYS[status])
    as_it_was = await harness.ask("changes.get", {"change_id": change.id})
    before = harness.dump()

    answer = await harness.move(change, status)

    assert answer == as_it_was
    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_a_project_with_review_merges_ready_changes_only(harness: Harness) -> None:
    project = await harness.job(require_review=True)
    change = await harness.change(project, add("job", "a"))

    refused(await harness.merge(change), ErrorCode.CONFLICT, "Draft", "Ready")
    refused(await harness.execute_change(change), ErrorCode.CONFLICT, "Draft", "Ready")
    assert await harness.names(project) == ["title", "hours"]
    assert await harness.status(change) == "Draft"

    await harness.move(change, "Validating", "Ready")
    assert expect(await harness.merge(change)).status == "Merged"


@run_in_mode
async def test_a_transition_to_merged_does_what_merge_does(harness: Harness) -> None:
    came_of_it = []
    for way in ("merge", "transition"):
        project = await harness.project()
        key = f"job_{way}"
        expect(await harness.type(project, key, schema(title="string")))
        change = await harness.change(project, add(key, "a"))
        await harness.move(change, "Validating", "Ready")
        seen = len(await harness.events())

        merged = expect(await merge_by(harness, way, change))

        assert merged.merged_at == merged.updated_at > change.updated_at
        (op,), (snapshot,) = await harness.ops(change), await harness.snapshots(change)
        assert op.executed_at is not None
        came_of_it.append(
            (
                merged.status,
                await harness.names(project, key),
                snapshot.schema,
                op.previous_snapshot,
                [event.type for event in (await harness.events())[seen:]],
            )
        )

    assert came_of_it[0] == came_of_it[1]
    assert came_of_it[0][-1] == ["changes.merged", "record_types.changed"]


# Failed merges


@pytest.mark.parametrize("status", ["Draft", "Ready"])
@pytest.mark.parametrize("way", ["merge", "transition"])
@run_in_mode
async def test_a_failed_merge_marks_the_change_and_nothing_else(harness: Harness, way: str, status: str) -> None:
    project = await harness.job()
    change = await bad_change(harness, project, status)
    op = (await harness.ops(change))[1]
    before = harness.dump()

    answer = await merge_by(harness, way, change)

    error = refused(answer, ErrorCode.UNPROCESSABLE, "remove_field job.nothing", "there is no field 'nothing'")
    assert error.details["op_id"] == op.id
    assert error.details["reason"] == "there is no field 'nothing'"
    assert await harness.status(change) == "ValidationFailed"
    assert besides_the_log(before, harness.dump()) == WRITTEN_BY_A_FAILED_MERGE


@run_in_mode
async def test_a_change_that_has_failed_is_mended_and_merged(harness: Harness) -> None:
    project = await harness.job()
    change = await bad_change(harness, project, "Ready")
    await harness.merge(change)

    expect(await harness.delete_op(change, (await harness.ops(change))[1]))
    await harness.move(change, "Validating", "Ready")

    assert expect(await harness.merge(change)).applied_count == 2
    assert await harness.names(project) == ["title", "hours", "a", "b"]


@pytest.mark.parametrize(
    ("status", "way"),
    [
        ("Implementing", "merge"),
        ("WorkspaceRunning", "transition"),
        ("Validating", "merge"),
        ("ValidationFailed", "transition"),
    ],
)
@run_in_mode
async def test_a_merge_that_is_refused_for_its_state_does_not_move_it(harness: Harness, way: str, status: str) -> None:
    change = await bad_change(harness, await harness.job(), status)
    before = harness.dump()

    answer = await merge_by(harness, way, change)

    refused(answer, ErrorCode.CONFLICT, status)
    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_an_execution_that_fails_does_not_move_it(harness: Harness) -> None:
    change = await bad_change(harness, await harness.job(), "Ready")
    before = harness.dump()

    refused(await harness.execute_change(change), ErrorCode.UNPROCESSABLE, "job.nothing")

    assert besides_the_log(before, harness.dump()) == {}


# Inside another action


@pytest.mark.parametrize(
    ("fails", "deep", "status"),
    [(False, False, "Draft"), (False, True, "Ready"), (True, False, "Ready"), (True, True, "Draft")],
)
@run_in_mode
async def test_a_failed_nested_merge_marks_the_change(harness: Harness, fails: bool, deep: bool, status: str) -> None:
    project = await harness.job()
    change = await bad_change(harness, project, status)
    step: tuple[str, Any] = (MERGE, {"change_id": change.id})
    if deep:
        step = ("host.run", {"steps": [list(step)]})
    before = harness.dump()

    answer = await harness.run(step, fails=fails)

    if fails:
        refused(answer, ErrorCode.UNPROCESSABLE, "refused by the test")
    else:
        assert answer == (["succeeded"] if deep else ["unprocessable"])
    found = besides_the_log(before, harness.dump())
    assert found.pop("ae_changes") == WRITTEN_BY_A_FAILED_MERGE["ae_changes"]
    assert {*found} <= (set() if fails else EVENTS)
    assert await harness.status(change) == "ValidationFailed"


@run_in_mode
async def test_what_the_other_action_does_afterwards_stands(harness: Harness) -> None:
    change = await bad_change(harness, await harness.job(), "Draft")

    answer = await harness.run(
        (MERGE, {"change_id": change.id}),
        ("changes.transition", {"change_id": change.id, "status": "Implementing"}),
        ("host.keep", {"type": "job", "document": {"title": "a"}}),
    )

    assert answer == ["unprocessable", "succeeded", "succeeded"]
    assert await harness.status(change) == "Implementing"


@run_in_mode
async def test_a_merge_inside_an_action_that_fails_has_not_been(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    before = harness.dump()

    answer = await harness.run((MERGE, {"change_id": change.id}), fails=True)

    refused(answer, ErrorCode.UNPROCESSABLE, "refused by the test")
    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_writes_before_a_failed_merge_are_not_kept(harness: Harness) -> None:
    project = await harness.job()
    change = await bad_change(harness, project, "Draft")
    before = harness.dump()

    answer = await harness.run(
        ("host.keep", {"type": "job", "document": {"title": "a"}}),
        ("changes.create", {"project_id": project.id, "title": "another change"}),
        (MERGE, {"change_id": change.id}),
        fails=True,
    )

    refused(answer, ErrorCode.UNPROCESSABLE, "refused by the test")
    assert besides_the_log(before, harness.dump()) == WRITTEN_BY_A_FAILED_MERGE


@run_in_mode
async def test_all_changes_that_fail_in_one_action_are_marked(harness: Harness) -> None:
    project = await harness.job()
    changes = [await bad_change(harness, project, status) for status in ("Draft", "Ready")]

    await harness.run(*((MERGE, {"change_id": change.id}) for change in changes), fails=True)

    assert [await harness.status(change) for change in changes] == ["ValidationFailed"] * 2


# Approvals


@pytest.mark.parametrize("way", ["merge", "transition"])
@run_in_mode
async def test_under_a_policy_a_second_person_has_a_change_merged(harness: Harness, way: str) -> None:
    harness = harness.another(merge_approval=TWO_PEOPLE)
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    await harness.move(change, "Validating", "Ready")

    needed = refused(await merge_by(harness, way, change), ErrorCode.APPROVAL_REQUIRED)
    approval = {"approval_id": needed.details["approval_id"]}
    assert await harness.status(change) == "Ready"
    refused(await harness.ask("approvals.approve", approval, by=BOB), ErrorCode.NOT_FOUND)
    approved = expect(await harness.ask("approvals.approve", approval, by=BOSS))

    assert approved.result.status == "Merged"
    assert await harness.names(project) == ["title", "hours", "a"]
    entries = [each for each in await harness.log(subject=f"change/{change.id}") if each.approved_by is not None]
    assert [entry.action for entry in entries] == ["changes.transition", "changes.merge"][-len(entries) :]
    for entry in entries:
        assert (entry.actor_id, entry.approved_by, entry.outcome) == ("ann", "human:boss", "succeeded")


@pytest.mark.parametrize(("way", "skew"), [("merge", -7200.0), ("execute", 0.0), ("transition", 7200.0)])
@run_in_mode
async def test_edits_after_the_approval_request_void_the_approval(harness: Harness, way: str, skew: float) -> None:
    harness = harness.another(merge_approval=TWO_PEOPLE)
    project = await harness.job()
    change = await harness.change(project, add("job", "a"), by=BOT)
    asked = harness.execute_change(change) if way == "execute" else merge_by(harness, way, change)
    needed = refused(await asked, ErrorCode.APPROVAL_REQUIRED)
    with host_clock(skew):
        expect(await harness.op(change, add("job", "b"), by=BOT))
    approval = {"approval_id": needed.details["approval_id"]}

    refused(await harness.ask("approvals.approve", approval, by=BOSS), ErrorCode.CONFLICT, "edited")

    assert await harness.names(project) == ["title", "hours"]
    assert await harness.status(change) == "Draft"


@run_in_mode
async def test_an_execution_needs_the_second_person_too(harness: Harness) -> None:
    harness = harness.another(merge_approval=TWO_PEOPLE)
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))

    needed = refused(await harness.execute_change(change), ErrorCode.APPROVAL_REQUIRED)
    expect(await harness.ask("approvals.approve", {"approval_id": needed.details["approval_id"]}, by=BOSS))

    assert await harness.names(project) == ["title", "hours", "a"]
    assert await harness.status(change) == "Draft"


@run_in_mode
async def test_other_moves_need_no_second_person(harness: Harness) -> None:
    harness = harness.another(merge_approval=TWO_PEOPLE)
    change = await harness.change(await harness.job())

    assert expect(await harness.move(change, "Implementing", "Validating", "Ready")).status == "Ready"


@run_in_mode
async def test_a_policy_sees_which_change_it_is(harness: Harness) -> None:
    seen: list[Any] = []

    def look(data: Any, ctx: ActionContext) -> bool:
        seen.append(data.change_id)
        return False

    policy = ApprovalPolicy(when=look, permission="merges.approve")
    harness = harness.another(merge_approval=policy)
    project = await harness.job()
    changes = [await harness.change(project), await harness.change(project)]

    expect(await harness.merge(changes[0]))
    expect(await harness.move(changes[1], "Merged"))

    assert seen == [change.id for change in changes]


@pytest.mark.parametrize("way", ["merge", "transition"])
@run_in_mode
async def test_an_approved_change_that_fails_is_marked(harness: Harness, way: str) -> None:
    harness = harness.another(merge_approval=TWO_PEOPLE)
    project = await harness.job()
    change = await bad_change(harness, project, "Ready")
    bad = (await harness.ops(change))[1]
    needed = refused(await merge_by(harness, way, change), ErrorCode.APPROVAL_REQUIRED)
    approval = {"approval_id": needed.details["approval_id"]}
    before = harness.dump()

    answer = await harness.ask("approvals.approve", approval, by=BOSS)

    error = refused(answer, ErrorCode.UNPROCESSABLE, "remove_field job.nothing")
    assert error.details["op_id"] == bad.id
    written = besides_the_log(before, harness.dump())
    assert written.pop("ae_changes") == WRITTEN_BY_A_FAILED_MERGE["ae_changes"]
    # The approval knows its failure.
    assert set(written) in ({"ae_approvals"}, {"ae_documents"})
    expect(await harness.delete_op(change, bad))
    await harness.move(change, "Validating", "Ready")
    # The change differs from the approved one: it needs another approval.
    refused(await harness.ask("approvals.approve", approval, by=BOSS), ErrorCode.CONFLICT, "edited")
    again = refused(await merge_by(harness, way, change), ErrorCode.APPROVAL_REQUIRED)
    approval = {"approval_id": again.details["approval_id"]}
    assert expect(await harness.ask("approvals.approve", approval, by=BOSS)).result.status == "Merged"
    assert await harness.names(project) == ["title", "hours", "a", "b"]


@run_in_mode
async def test_what_nobody_can_approve_is_not_asked_for(harness: Harness) -> None:
    harness = harness.another(merge_approval=TWO_PEOPLE)
    change = await harness.change(await harness.job(), add("job", "a"))
    before = harness.dump()

    refused(await harness.merge(change, by=BOT), ErrorCode.FORBIDDEN)
    refused(await harness.execute_change(change, by=BOT), ErrorCode.FORBIDDEN)
    refused(await harness.move(change, "Merged", by=BOT), ErrorCode.FORBIDDEN)

    assert besides_the_log(before, harness.dump()) == {}


# The transitions of a caller


@pytest.mark.parametrize(
    ("status", "require_review"), [*((status, False) for status in STATUSES), ("Draft", True), ("Ready", True)]
)
@run_in_mode
async def test_listed_transitions_are_those_that_succeed(harness: Harness, status: str, require_review: bool) -> None:
    project = await harness.project(require_review=require_review)
    for by in (ANN, BOT):
        change = await harness.change(project)
        await harness.move(change, *WAYS[status])
        listed = expect(await harness.ask("changes.transitions", {"change_id": change.id}, by=by))
        assert (listed.status, listed.require_review) == (status, require_review)
        for to in set(STATUSES) - {status}:
            other = await harness.change(project)
            await harness.move(other, *WAYS[status])
            answer = await harness.move(other, to, by=by)
            assert (to in listed.next_statuses) == (not isinstance(answer, ActionError)), (to, answer)


# With an idempotency key


@run_in_mode
async def test_a_merge_that_is_repeated_with_its_key_answers_the_same(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    first = expect(await harness.merge(change, key="once"))
    before = harness.dump()

    again = await harness.merge(change, key="once")

    assert again == first
    assert (again.applied_count, len(again.diff)) == (1, 1)
    assert besides_the_log(before, harness.dump()) == {}
    assert [entry.outcome for entry in await harness.log(action=MERGE)] == ["succeeded", "replayed"]


@run_in_mode
async def test_a_merge_that_has_failed_runs_again_with_its_key(harness: Harness) -> None:
    change = await bad_change(harness, await harness.job(), "Ready")
    refused(await harness.merge(change, key="once"), ErrorCode.UNPROCESSABLE)
    refused(await harness.merge(change, key="once"), ErrorCode.CONFLICT, "ValidationFailed")
    expect(await harness.delete_op(change, (await harness.ops(change))[1]))
    await harness.move(change, "Validating", "Ready")

    answer = await harness.merge(change, key="once")

    assert expect(answer).applied_count == 2
    assert await harness.merge(change, key="once") == answer


@run_in_mode
async def test_a_key_is_good_for_one_change(harness: Harness) -> None:
    project = await harness.job()
    expect(await harness.merge(await harness.change(project, add("job", "a")), key="once"))

    answer = await harness.merge(await harness.change(project, put("job", "title", required=True)), key="once", by=ANN)

    refused(answer, ErrorCode.IDEMPOTENCY_MISMATCH)
