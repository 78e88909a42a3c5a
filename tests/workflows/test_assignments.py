"""Assignments: completed through a service, and awaited by steps with `wait`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from returns.result import Failure

from actionengine import Actor, ErrorCode, RequestContext, Role, StaticAuthorizer
from actionengine.testing import run_in_mode
from actionengine.workflows import ASSIGNMENTS, WorkflowPermissions
from actionengine.workflows.permissions import NO_PERMISSIONS
from tests.harness import BOT, expect, refused
from tests.workflows.harness import ANN, BOB, Harness, Step, action, each_storage, failing_step, note, statuses


def assignment(name: str, **more: Any) -> Step:
    given = {"assignee": "human:bob", "title": "Look at ${run.id}", "details": {"place": "roof"}}
    return {"name": name, "type": "assignment", **given, **more}


async def complete(harness: Harness, id: str, result: dict[str, Any] | None = None, **who: Any) -> Any:
    return await harness.ask("workflow_assignments.complete", {"assignment_id": id, "result": result or {}}, **who)


@run_in_mode
async def test_a_run_waits_for_an_assignment_only_with_wait(harness: Harness) -> None:
    run = await harness.run(assignment("look"), note("after"))

    assert (run.status, run.assignment_id) == ("succeeded", None)
    (listed,) = expect(await harness.ask("workflow_assignments.list", {"run_id": run.id}))
    assert (listed.status, listed.assignee, listed.title) == ("open", "human:bob", f"Look at {run.id}")

    done = expect(await complete(harness, listed.id, {"found": "nothing"}, by=BOB))

    assert (done.status, done.completed_by, done.result) == ("completed", "human:bob", {"found": "nothing"})
    assert await harness.get(run.id) == run
    assert await harness.payloads("workflows.resumed") == []


@each_storage
@run_in_mode
async def test_a_completed_assignment_continues_the_run(harness: Harness) -> None:
    run = await harness.run(
        assignment("look", wait=True),
        action("tell", "host.echo", {"by": "${steps.look.completed_by}", "fine": "${steps.look.result.fine}"}),
    )
    assert (run.status, run.paused_for, run.step, run.steps) == ("paused", "assignment", "look", ())
    (paused,) = await harness.payloads("workflows.paused")
    assert paused["assignment_id"] == run.assignment_id

    done = expect(await complete(harness, run.assignment_id, {"fine": True}, by=BOB, reason="I was there"))
    await harness.go_on()

    run = await harness.get(run.id)
    assert (run.status, run.assignment_id) == ("succeeded", None)
    assert statuses(run) == [("look", "succeeded"), ("tell", "succeeded")]
    assert run.steps[0].output == {
        "id": done.id,
        "assignee": "human:bob",
        "title": f"Look at {run.id}",
        "result": {"fine": True},
        "completed_by": "human:bob",
        "completed_at": done.completed_at.isoformat(),
    }
    assert run.steps[1].output == {"by": "human:bob", "fine": True}
    (entry,) = await harness.log(subject=f"workflow_run/{run.id}", actor_id="bob")
    assert (entry.id, entry.action, entry.reason) == (
        run.steps[0].action_id,
        "workflow_assignments.complete",
        "I was there",
    )
    (told,) = await harness.payloads("workflows.assignment_completed")
    assert (told["id"], told["completed_by"], told["result"]) == (done.id, "human:bob", {"fine": True})
    await harness.in_order_of(run)


@run_in_mode
async def test_a_loop_waits_for_each_of_its_assignments(harness: Harness) -> None:
    again = [{"when": {"field": "steps.look.result.fine", "op": "eq", "value": False}, "next": "look"}]
    run = await harness.run(
        assignment("look", wait=True, max_visits=3),
        {"name": "again", "type": "decision", "branches": again, "otherwise": "end"},
    )

    for fine in (False, False, True):
        expect(await complete(harness, run.assignment_id, {"fine": fine}))
        await harness.go_on()
        run = await harness.get(run.id)

    assert run.status == "succeeded"
    assert len(await harness.read("workflow_assignments")) == 3


@run_in_mode
async def test_an_assignment_is_completed_once(harness: Harness) -> None:
    run = await harness.run(assignment("look", wait=True), note("after"))

    first = expect(await complete(harness, run.assignment_id, {"n": 1}, key="once"))
    assert expect(await complete(harness, run.assignment_id, {"n": 1}, key="once")) == first
    refused(await complete(harness, run.assignment_id, {"n": 2}), ErrorCode.CONFLICT, "is completed already")
    await harness.go_on()

    assert statuses(await harness.get(run.id)) == [("look", "succeeded"), ("after", "succeeded")]
    assert len(await harness.read("notes")) == 1


@each_storage
def test_concurrent_completions_have_one_winner(harness: Harness) -> None:
    run = harness.backend.run(harness.run(assignment("look", wait=True), note("after")))

    def attempt(n: int) -> Any:
        payload = {"assignment_id": run.assignment_id, "result": {"n": n}}
        context = RequestContext(harness.tenant, BOB, source="test")
        return harness.engine.execute_action("workflow_assignments", "complete", payload, context)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(attempt, range(12)))
    harness.backend.run(harness.go_on())

    refusals = [answer.failure() for answer in answers if isinstance(answer, Failure)]
    assert [refusal.code for refusal in refusals] == [ErrorCode.CONFLICT] * 11
    run = harness.backend.run(harness.get(run.id))
    assert statuses(run) == [("look", "succeeded"), ("after", "succeeded")]
    assert len(harness.backend.run(harness.read("notes"))) == 1


@run_in_mode
async def test_cancelling_a_waiting_run_cancels_its_assignment(harness: Harness) -> None:
    run = await harness.run(assignment("look", wait=True), note("after"))

    refused(await harness.resume(run), ErrorCode.CONFLICT, "waits for the assignment", run.assignment_id)
    expect(await harness.cancel(run))

    view = expect(await harness.ask("workflow_assignments.get", {"assignment_id": run.assignment_id}))
    assert view.status == "cancelled"
    refused(await complete(harness, view.id), ErrorCode.CONFLICT, "is cancelled already")
    run = await harness.get(run.id)
    assert (run.status, run.assignment_id, run.steps) == ("cancelled", None, ())


@each_storage
@run_in_mode
async def test_a_repeated_step_creates_one_assignment(harness: Harness) -> None:
    key = await harness.define(assignment("look", wait=True))
    run_id = await harness.start(key)
    point = (await harness.executor.actions.next(harness.tenant, key, run_id)).unwrap()

    for _ in range(3):
        answer = (await harness.executor.actions.perform(harness.tenant, point)).unwrap()
        assert answer.status == "paused"

    assert len(await harness.read("workflow_assignments")) == 1


@each_storage
@run_in_mode
async def test_assignments_are_listed_by_assignee_in_either_order(harness: Harness) -> None:
    key = await harness.define(assignment("look", assignee="${input.whose}"))
    for whose in ("human:bob", "human:eve", "human:bob"):
        await harness.drive(await harness.start(key, {"whose": whose}))
    everything = expect(await harness.ask("workflow_assignments.list", {"key": key}))
    expect(await complete(harness, everything[0].id))

    async def listed(**query: Any) -> list[str]:
        return [each.id for each in expect(await harness.ask("workflow_assignments.list", {"key": key, **query}))]

    first, second, third = (each.id for each in everything)
    assert await listed(assignee="human:bob") == [first, third]
    assert await listed(newest_first=True, limit=2) == [third, second]
    assert await listed(newest_first=True, after=second) == [first]
    assert await listed(status="open", assignee="human:bob") == [third]


@run_in_mode
async def test_completing_needs_its_permission_for_agents_too(harness: Harness) -> None:
    authorizer = StaticAuthorizer({"worker": Role(allow=["workflows.complete"])})
    strict = harness.another(permissions=WorkflowPermissions(), authorizer=authorizer)
    run = await harness.run(assignment("look", wait=True), failing_step("after", on_failure="fail"))
    worker, agent = Actor.human("w", roles=["worker"]), Actor.ai("a", roles=["worker"])

    for actor in (ANN, BOT):
        refused(await complete(strict, run.assignment_id, by=actor), ErrorCode.FORBIDDEN)
    refused(await strict.ask("workflow_assignments.list", {}, by=worker), ErrorCode.FORBIDDEN)
    done = expect(await complete(strict, run.assignment_id, by=agent))

    assert done.completed_by == "ai:a"


@run_in_mode
async def test_a_workflow_cannot_complete_assignments(harness: Harness) -> None:
    step = action("done", "workflow_assignments.complete", {"assignment_id": "x"})
    answer = await harness.ask("workflows.define", {"key": "self", "definition": {"steps": [step]}})

    refused(answer, ErrorCode.INVALID_INPUT, "workflow_assignments.complete is only for")


@run_in_mode
async def test_an_output_without_wait_has_no_result(harness: Harness) -> None:
    steps = [assignment("look"), action("tell", "host.echo", {"by": "${steps.look.completed_by}"})]
    answer = await harness.ask("workflows.define", {"key": "hasty", "definition": {"steps": steps}})

    refused(answer, ErrorCode.INVALID_INPUT, "the output of 'look' has assignee, id, title")


ODD: tuple[dict[str, Any], ...] = (
    {},
    {"mine": 1},
    {"assignee": 3},
    {"title": None},
    {"details": "text"},
    {"run_id": None},
    {"run_id": "x" * 1000},
    {"status": ["open"]},
)
"""Changes by a host after which a document is not a valid assignment."""


@run_in_mode
async def test_an_invalid_assignment_is_reported_and_hides_no_other(harness: Harness) -> None:
    key = await harness.define(assignment("look", wait=True))
    runs = [await harness.drive(await harness.start(key)) for _ in range(len(ODD) + 1)]
    for run, odd in zip(runs, ODD, strict=False):
        stored = await harness.read(ASSIGNMENTS, run.assignment_id)
        left = {**stored["data"], **odd} if odd.keys() <= stored["data"].keys() and odd else odd
        expect(await harness.keep(ASSIGNMENTS, left, run.assignment_id, stored["version"]))

    for newest_first in (False, True):
        for limit in (1, 2, 100):
            query = {"limit": limit, "newest_first": newest_first}
            (listed,) = expect(await harness.ask("workflow_assignments.list", query))
            assert listed.id == runs[-1].assignment_id
    for run in runs[:-1]:
        got = await harness.ask("workflow_assignments.get", {"assignment_id": run.assignment_id})
        refused(got, ErrorCode.UNPROCESSABLE, "is not a valid assignment")
    for run in runs[: len(ODD) - 1]:
        refused(await complete(harness, run.assignment_id), ErrorCode.UNPROCESSABLE, "is not a valid assignment")
        expect(await harness.cancel(run))


@run_in_mode
async def test_a_completion_replaces_what_the_host_wrote_there(harness: Harness) -> None:
    key = await harness.define(assignment("look", wait=True))
    for odd in ({"result": "done"}, {"completed_by": 4, "completed_at": "soon"}, {"status": None}, {"created_at": "x"}):
        run = await harness.drive(await harness.start(key))
        stored = await harness.read(ASSIGNMENTS, run.assignment_id)
        expect(await harness.keep(ASSIGNMENTS, {**stored["data"], **odd}, run.assignment_id, stored["version"]))

        done = expect(await complete(harness, run.assignment_id, {"fine": True}))

        assert (done.status, done.result) == ("completed", {"fine": True})
        assert (await harness.get(run.id)).status == "succeeded"


def test_each_permission_can_be_left_out() -> None:
    assert {getattr(NO_PERMISSIONS, name) for name in WorkflowPermissions.__slots__} == {None}
