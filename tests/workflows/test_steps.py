"""Each type of step, on each storage: what it does, what it gives, and what becomes of the run when it fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from returns.result import Failure

from actionengine import ActionError, Actor, ApprovalPolicy, ErrorCode, Limits, Service, create_action, create_service
from tests.workflows.desk import (
    ANN,
    AUDITOR,
    BOB,
    EVE,
    SOON,
    Desk,
    action,
    approval,
    comparison,
    decision,
    expect,
    failing_step,
    fields,
    lock,
    mutation,
    note,
    refused,
    scenario,
    statuses,
)

UNPROCESSABLE, CONFLICT, FORBIDDEN = ErrorCode.UNPROCESSABLE, ErrorCode.CONFLICT, ErrorCode.FORBIDDEN


# Actions


def _asks_twice() -> Service:
    """A service whose action asks for an approval, and executes one that asks for another."""
    outer = create_action(
        name="outer",
        description="Ask, and execute what asks again",
        handler=lambda data, ctx: ctx.execute("host", "approved", data),
        approval=ApprovalPolicy(when=lambda data, ctx: True, permission="host.approve"),
    )
    return create_service(name="asking", description="Asks twice", actions=[outer])


def _fails(error: ActionError) -> Service:
    """A service whose action fails with an error."""
    odd = create_action(name="odd", description="Fail", handler=lambda data, ctx: Failure(error))
    return create_service(name="odd", description="Fails", actions=[odd])


@scenario
async def test_an_action_is_executed_by_the_workflow_and_its_result_is_known_to_later_steps(desk: Desk) -> None:
    run = await desk.run(
        action("first", "host.echo", {"sum": "${input.sum}", "text": "it is ${input.sum} €", "all": ["${run.id}"]}),
        action("second", "host.echo", "${steps.first}"),
        input={"sum": 12},
    )

    assert run.status == "succeeded"
    assert run.steps[1].output == {"sum": 12, "text": "it is 12 €", "all": [run.id]}
    await desk.in_order()


@scenario
async def test_an_action_stands_on_the_log_with_the_workflow_the_reason_and_the_key_of_its_step(desk: Desk) -> None:
    run = await desk.run(action("who", "host.who"), note("note"))

    log = await desk.log()
    rows = {entry.action: entry for entry in log if entry.actor_type == "workflow"}
    nested = rows["host.who"]
    parent = next(entry for entry in log if entry.id == nested.parent_id)
    assert (nested.actor_type, nested.actor_id) == ("workflow", run.workflow_key)
    assert nested.reason == f"workflow {run.workflow_key}, run {run.id}, step who (host.who)"
    assert (parent.action, parent.idempotency_key) == ("workflow_steps.perform", f"{run.id}/0")
    assert parent.request_id == run.id
    assert f"workflow_run/{run.id}" in parent.subjects
    assert run.steps[0].action_id == parent.id
    assert await desk.read("notes") == [
        {"by": f"workflow:{run.workflow_key}", "reason": nested.reason, "source": "workflow"},
        {"step": "note"},
    ]


@scenario
async def test_a_step_that_was_taken_is_not_taken_again_however_often_it_is_asked_for(desk: Desk) -> None:
    key = await desk.define(note("a"), note("b"))
    id = await desk.start(key)
    first = expect_point(await desk.executions.next(desk.tenant, key, id, desk.world.mode))
    for _ in range(3):
        point = expect_point(await desk.executions.perform(desk.tenant, first, desk.world.mode))
        assert (point.position, point.step) == (1, "b")

    run = await desk.drive(id)

    assert run.status == "succeeded"
    expect_point(await desk.executions.perform(desk.tenant, first, desk.world.mode))
    assert await desk.read("notes") == [{"step": "a"}, {"step": "b"}]
    await desk.in_order()


def expect_point(answer: Any) -> Any:
    return answer.unwrap()


@scenario
async def test_a_failure_leaves_nothing_of_its_step_and_pauses_the_run_until_it_is_resumed(desk: Desk) -> None:
    flaky = {"name": "once", "times": 1, "code": "unprocessable"}
    run = await desk.run(note("before"), action("odd", "host.flaky", flaky), note("after"))

    assert (run.status, run.paused_for, run.step, run.position) == ("paused", "failure", "odd", 2)
    assert (run.error["code"], run.error["message"]) == ("unprocessable", "not yet")
    assert run.steps[1].error == run.error
    assert await desk.read("notes") == [{"step": "before"}]
    assert (await desk.events("workflows.paused"))[0]["error"] == run.error

    resumed = expect(await desk.resume(run))
    assert (resumed.status, resumed.step, resumed.error) == ("running", "odd", None)
    run = await desk.drive(run.id)

    assert run.status == "succeeded"
    assert statuses(run) == [("before", "succeeded"), ("odd", "failed"), ("odd", "succeeded"), ("after", "succeeded")]
    assert await desk.read("notes") == [{"step": "before"}, {"name": "once"}, {"step": "after"}]
    await desk.in_order()


@pytest.mark.parametrize("code", ["conflict", "timeout", "unavailable", "handler_error"])
@scenario
async def test_what_may_pass_is_tried_again(desk: Desk, code: str) -> None:
    flaky = {"name": code, "times": 2, "code": code}

    run = await desk.run(action("flaky", "host.flaky", flaky))

    assert run.status == "succeeded"
    assert run.steps[0].output == {"calls": 3}
    assert await desk.read("notes") == [{"name": code}]
    await desk.in_order()


@pytest.mark.parametrize(
    ("code", "calls"), [("conflict", 2), ("unavailable", 2), ("unprocessable", 1), ("not_found", 1)]
)
@scenario
async def test_a_step_fails_after_as_many_attempts_as_it_may_have(desk: Desk, code: str, calls: int) -> None:
    flaky = {"name": code, "times": 9, "code": code}
    retry = {"attempts": 2, "seconds": 0.001}

    run = await desk.run(action("flaky", "host.flaky", flaky, retry=retry, on_failure="fail"))

    assert (run.status, run.error["code"]) == ("failed", code)
    assert desk.flaky.calls[code] == calls
    assert run.ended_at is not None
    assert [told["status"] for told in await desk.events("workflows.ended")] == ["failed"]
    await desk.in_order()


@scenario
async def test_a_failure_leads_to_a_step_that_can_see_it(desk: Desk) -> None:
    run = await desk.run(
        failing_step("odd", on_failure="mend"),
        note("skipped", next="end"),
        action("mend", "host.echo", {"because": "${steps.odd.error.message}", "code": "${steps.odd.error.code}"}),
    )

    assert statuses(run) == [("odd", "failed"), ("mend", "succeeded")]
    assert run.steps[1].output == {"because": "it was not to be", "code": "unprocessable"}
    assert (run.status, run.error) == ("succeeded", None)


@pytest.mark.parametrize("code", ["unprocessable", "handler_error"])
@pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800", "ü" * 40_000], ids=["nul", "surrogate", "long"])
@scenario
async def test_a_run_pauses_whatever_a_failure_says(desk: Desk, text: str, code: str) -> None:
    run = await desk.run(action("odd", "host.fail", {"code": code, "escaped": text}))

    assert (run.status, run.paused_for, run.error["code"]) == ("paused", "failure", code)


@pytest.mark.parametrize(
    "details",
    [{"text": "x" * 2_000_000}, {"a\0": ["\0"]}, {"list": json.loads("[" * 70 + "]" * 70)}, {1: 2}],
    ids=["long", "nul", "deep", "a number for a name"],
)
@scenario
async def test_a_run_pauses_whatever_the_details_of_a_failure_are(desk: Desk, details: Any) -> None:
    odd = desk.another(services=[_fails(ActionError(ErrorCode.HANDLER_ERROR, "so it is", details))])

    run = await odd.run(action("step", "odd.odd"))

    assert (run.status, run.error["code"], run.error["message"]) == ("paused", "handler_error", "so it is")


@scenario
async def test_a_run_pauses_where_a_failure_is_more_than_a_payload_may_be(desk: Desk) -> None:
    wordy = _fails(ActionError(ErrorCode.HANDLER_ERROR, "x" * 1500))
    strict = desk.another(services=[wordy], limits=Limits(payload_bytes=1500))

    run = await strict.run(action("step", "odd.odd"))

    assert (run.status, run.error["code"], run.error["message"]) == ("paused", "handler_error", "x" * 200)


@scenario
async def test_a_run_pauses_whatever_a_result_has_in_it(desk: Desk) -> None:
    run = await desk.run(action("odd", "host.escaped", {"text": "a\\u0000b"}))

    assert run.status == "paused"
    assert "\\u0000" in run.error["message"]


@scenario
async def test_an_action_that_is_gone_or_forbidden_pauses_the_run(desk: Desk) -> None:
    run = await desk.run(action("pay", "host.pay", {"amount": 1}))

    assert (run.status, run.error["code"]) == ("paused", "forbidden")
    assert await desk.read("notes") == []


@scenario
async def test_the_roles_that_the_host_gives_a_workflow_are_what_its_steps_may_use(desk: Desk) -> None:
    from actionengine import Role, StaticAuthorizer

    authorizer = StaticAuthorizer({"payer": Role(allow=["host.pay"])})
    demanding = desk.another(
        authorizer=authorizer, roles=lambda tenant, key: ("payer",) if key.startswith("may") else ()
    )
    may = await demanding.drive(await demanding.start(await demanding.define(action("pay", "host.pay", {}), key="may")))
    not_ = await demanding.drive(
        await demanding.start(await demanding.define(action("pay", "host.pay", {}), key="not"))
    )

    assert (may.status, not_.status) == ("succeeded", "paused")
    assert not_.error["code"] == "forbidden"


@scenario
async def test_a_long_result_is_not_kept_and_a_later_step_says_so(desk: Desk) -> None:
    run = await desk.run(
        action("big", "host.big", {"bytes": 70_000}),
        action("next", "host.echo", "${steps.big.omitted_bytes}"),
        action("odd", "host.echo", "${steps.big.text}"),
    )

    assert run.steps[0].output == {"omitted_bytes": 70_011}
    assert run.steps[1].output == 70_011
    assert (run.status, run.error["code"]) == ("paused", "unprocessable")
    assert "there is no steps.big.text" in run.error["message"]


@scenario
async def test_what_all_steps_give_together_is_bounded(desk: Desk) -> None:
    run = await desk.run(*(action(f"n{number}", "host.big", {"bytes": 60_000}) for number in range(19)))

    assert run.status == "succeeded"
    assert [step.step for step in run.steps if "omitted_bytes" in step.output] == ["n17", "n18"]


@scenario
async def test_what_failures_of_all_steps_say_together_is_bounded(desk: Desk) -> None:
    odd = {"code": "unprocessable", "escaped": "${input.text}"}
    run = await desk.run(
        *(action(f"n{number}", "host.fail", odd, on_failure=f"n{number + 1}") for number in range(19)),
        note("n19"),
        input={"text": "x" * 60_000},
    )

    assert run.status == "succeeded"
    assert [step.step for step in run.steps[:-1] if len(step.error["message"]) < 60_000] == ["n17", "n18"]


@scenario
async def test_an_approver_is_shown_no_more_than_can_be_read(desk: Desk) -> None:
    run = await desk.run(approval("ok", message="${input.who}: pay?"), input={"who": "x" * 10_000})

    assert (run.status, run.paused_for, run.error["code"]) == ("paused", "failure", "unprocessable")
    assert "more than 10000 characters" in run.error["message"]


@scenario
async def test_secrets_of_an_action_stand_nowhere(desk: Desk) -> None:
    run = await desk.run(
        action("secret", "host.secret", {"name": "hush"}),
        action("echo", "host.echo", "${steps.secret}"),
    )

    assert run.status == "succeeded"
    everything = (run, await desk.dump(), await desk.log(), await desk.world.read_events(desk.tenant))
    assert "hush-hidden-token" not in repr(everything)
    assert run.steps[1].output["name"] == "hush"


@scenario
async def test_a_secret_that_an_error_repeats_is_not_kept(desk: Desk) -> None:
    run = await desk.run(action("unlock", "host.unlock", {"pin": "pin-${input.pin}"}), input={"pin": "4711-0815"})

    assert (run.status, run.error["code"]) == ("paused", "unprocessable")
    told = repr((run.error, run.steps, await desk.events("workflows.paused")))
    assert "pin-4711-0815" not in told


@scenario
async def test_a_secret_that_a_result_repeats_is_neither_kept_nor_told(desk: Desk) -> None:
    run = await desk.run(
        action("repeat", "host.repeat_secret", {"pin": "pin-${input.pin}"}),
        {"name": "tell", "type": "notification", "to": "ann", "message": "${steps.repeat.text}"},
        input={"pin": "4711-0815"},
    )

    assert run.status == "succeeded"
    assert run.steps[0].output["text"].startswith("the pin ")
    assert "pin-4711-0815" not in repr((run, await desk.dump(), await desk.log(), await desk.events()))


# Assignments and notifications


@scenario
async def test_an_assignment_is_a_document_of_the_hosts_and_an_event(desk: Desk) -> None:
    run = await desk.run(
        {
            "name": "assign",
            "type": "assignment",
            "assignee": "${input.who}",
            "title": "Call ${input.customer.name}",
            "details": {"numbers": ["${input.customer.phones.1}"]},
        },
        action("echo", "host.echo", "${steps.assign.id}"),
        input={"who": "eve", "customer": {"name": "Zoë", "phones": ["1", "2"]}},
    )

    [document] = await desk.read("workflow_assignments")
    assert (document["assignee"], document["title"], document["status"]) == ("eve", "Call Zoë", "open")
    assert document["details"] == {"numbers": ["2"]}
    [told] = await desk.events("workflows.assigned")
    assert (told["id"], told["assignee"], told["run_id"]) == (run.steps[1].output, "eve", run.id)


@scenario
async def test_a_notification_is_an_event_that_names_whom_and_what(desk: Desk) -> None:
    step = {"name": "tell", "type": "notification", "message": "${input.n} left", "data": {"n": "${input.n}"}}
    run = await desk.run(
        step | {"to": ["${input.who}", "eve"], "subject": "News of ${run.workflow}", "channel": "mail"},
        step | {"to": "bob", "name": "tell again"},
        input={"who": "ann", "n": 3},
    )

    assert run.status == "succeeded"
    first, second = await desk.events("workflows.notification")
    assert (first["to"], first["message"], first["data"]) == (["ann", "eve"], "3 left", {"n": 3})
    assert (first["subject"], first["channel"]) == (f"News of {run.workflow_key}", "mail")
    assert (second["to"], second["step"], second["run_id"]) == (["bob"], "tell again", run.id)


# Decisions


@scenario
async def test_a_decision_goes_where_the_first_branch_leads_that_holds(desk: Desk) -> None:
    key = await desk.define(
        decision(
            "how much",
            (comparison("input.n", "ge", 100), "much"),
            (comparison("input.n", "ge", 10), "some"),
            otherwise="little",
        ),
        note("much", next="end"),
        note("some", next="end"),
        note("little"),
    )

    for n, where in ((100, "much"), (99.5, "some"), (10, "some"), (-1, "little")):
        run = await desk.drive(await desk.start(key, {"n": n}))
        assert statuses(run) == [("how much", "succeeded"), (where, "succeeded")]
        assert run.steps[0].output == {"next": where}


@scenario
async def test_a_decision_on_what_is_not_there_pauses_the_run_and_says_what_is_missing(desk: Desk) -> None:
    run = await desk.run(decision("which", (comparison("input.customer.age", "gt", 1), "end")), input={"customer": {}})

    assert (run.status, run.step, run.error["code"]) == ("paused", "which", "unprocessable")
    assert run.error["message"] == "there is no input.customer.age: input.customer has no 'age'"
    assert run.error["details"] == {"path": "input.customer.age", "missing": "age"}


@scenario
async def test_a_decision_on_what_cannot_be_compared_leads_where_a_failure_does(desk: Desk) -> None:
    step = decision("which", (comparison("input.n", "gt", 1), "end"), on_failure="odd")

    run = await desk.run(step, note("odd"), input={"n": "2"})

    assert statuses(run) == [("which", "failed"), ("odd", "succeeded")]
    assert run.steps[0].error["message"] == "input.n is '2', which 'gt' cannot compare with 1"


# Documents


@scenario
async def test_documents_are_inserted_changed_and_deleted(desk: Desk) -> None:
    run = await desk.run(
        mutation("insert", "insert", id="${input.id}", data={"title": "Roof", "hours": "${input.hours}"}),
        mutation("update", "update", id="${steps.insert.id}", data={"hours": 4, "done": True}),
        action("look", "host.read", {"type": "jobs", "id": "${input.id}"}),
        mutation("delete", "delete", id="${input.id}"),
        mutation("new", "insert", data={"title": "Wall"}),
        input={"id": "job-1", "hours": 3},
    )

    assert run.status == "succeeded", run.error
    assert run.steps[0].output == {"id": "job-1", "version": 1, "data": {"title": "Roof", "hours": 3}}
    assert run.steps[2].output == {"version": 2, "data": {"title": "Roof", "hours": 4, "done": True}}
    assert run.steps[3].output["version"] == 2
    assert await desk.read("jobs") == [{"title": "Wall"}]


@pytest.mark.parametrize("operation", ["update", "delete"])
@scenario
async def test_a_document_that_is_not_there_pauses_the_run(desk: Desk, operation: str) -> None:
    data: dict[str, Any] = {"data": {"a": 1}} if operation == "update" else {}

    run = await desk.run(mutation("change", operation, id="nobody", **data))

    assert (run.status, run.error["code"]) == ("paused", "not_found")
    assert "'nobody'" in run.error["message"]


@scenario
async def test_documents_of_a_record_type_have_to_fit_it(desk: Desk) -> None:
    project = expect(await desk.ask("projects.create", {"name": "p", "description": ""}))
    definition = {"project_id": project.id, "key": "tasks", "schema": fields(title="string!")}
    expect(await desk.ask("record_types.create", definition))
    expect(await desk.ask("record_types.activate", {"project_id": project.id, "key": "tasks"}))

    key = await desk.define(mutation("insert", "insert", "tasks", data={"title": "${input.title}"}))
    bad, good = [await desk.drive(await desk.start(key, {"title": title})) for title in (7, "seven")]

    assert (bad.status, bad.error["code"]) == ("paused", "invalid_input")
    assert good.status == "succeeded"
    assert await desk.read("tasks") == [{"title": "seven"}]


# Locks


@scenario
async def test_a_locked_document_is_changed_by_its_run_alone_until_the_run_ends(desk: Desk) -> None:
    await desk.keep("jobs", {"n": 1}, id="job")
    run = await desk.run(
        lock("lock"),
        approval("wait"),
        mutation("change", "update", id="job", data={"n": 2}),
        action("also", "host.keep", {"type": "jobs", "id": "job", "document": {"n": 3}, "version": 3}),
        input={"id": "job"},
    )
    assert run.status == "paused"
    assert (await desk.read("jobs", "job"))["version"] == 2

    for other in (await desk.keep("jobs", {"n": 9}, "job", 2), await desk.remove("jobs", "job", 2)):
        error = refused(other, CONFLICT, f"the workflow run {run.id} has locked jobs/job")
        assert error.details["run_id"] == run.id
    expect(await desk.keep("jobs", {}, "another job"))
    expect(await desk.approve(run))
    run = await desk.drive(run.id)

    assert run.status == "succeeded", run.error
    assert await desk.read("jobs", "job") == {"version": 4, "data": {"n": 3}}
    assert await desk.locks() == []
    assert expect(await desk.keep("jobs", {"n": 5}, "job", 4)) == 5


@scenario
async def test_an_approved_action_changes_what_its_own_run_has_locked(desk: Desk) -> None:
    await desk.keep("jobs", {"n": 1}, id="job")
    change = {"type": "jobs", "id": "job", "document": {"n": 2}, "version": 2}
    run = await desk.run(lock("lock"), action("change", "host.keep_approved", change), input={"id": "job"})
    assert run.paused_for == "approval"

    expect(await desk.approve(run))

    assert await desk.read("jobs", "job") == {"version": 3, "data": {"n": 2}}
    assert await desk.locks() == []


@scenario
async def test_a_lock_that_a_run_has_is_a_conflict_for_another_run(desk: Desk) -> None:
    await desk.keep("jobs", {"n": 1}, id="job")
    key = await desk.define(lock("lock"), approval("wait"))
    first, second = [await desk.drive(await desk.start(key, {"id": "job"})) for _ in range(2)]

    assert (first.paused_for, second.paused_for) == ("approval", "failure")
    assert second.error["code"] == "conflict"
    expect(await desk.cancel(first))
    expect(await desk.resume(second))
    assert (await desk.drive(second.id)).paused_for == "approval"


@pytest.mark.parametrize("how", ["release", "expiry", "cancel", "failure", "rejection"])
@scenario
async def test_a_lock_is_given_up(desk: Desk, how: str) -> None:
    await desk.keep("jobs", {"n": 1}, id="job")
    seconds: dict[str, Any] = {"expires_after": 0.01} if how == "expiry" else {}
    rest = [failing_step("odd", on_failure="fail")] if how == "failure" else [approval("wait", on_reject="fail")]
    if how == "release":
        rest = [lock("release", operation="release"), *rest]
    run = await desk.run(lock("lock", **seconds), *rest, input={"id": "job"})
    if how == "expiry":
        await desk.world.pause(0.02)
    if how == "cancel":
        expect(await desk.cancel(run))
    if how == "rejection":
        expect(await desk.reject(run))
        assert (await desk.decline(run)).unwrap().status == "failed"

    assert expect(await desk.keep("jobs", {"n": 2}, "job", 2)) == 3
    if how != "expiry":
        assert await desk.locks() == []


@scenario
async def test_an_expired_lock_goes_to_another_run_which_the_first_one_does_not_release(desk: Desk) -> None:
    await desk.keep("jobs", {"n": 1}, id="job")
    first = await desk.run(
        lock("lock", expires_after=0.01), approval("wait"), lock("release", operation="release"), input={"id": "job"}
    )
    await desk.world.pause(0.02)
    second = await desk.run(lock("lock"), approval("wait"), input={"id": "job"})
    assert second.paused_for == "approval"

    expect(await desk.approve(first))
    first = await desk.drive(first.id)

    assert first.status == "succeeded"
    refused(await desk.keep("jobs", {}, "job", 3), CONFLICT, second.id)


@scenario
async def test_a_lock_on_what_is_not_there_leaves_no_lock(desk: Desk) -> None:
    run = await desk.run(lock("lock"), input={"id": "nobody"})

    assert (run.status, run.error["code"]) == ("paused", "not_found")
    assert await desk.locks() == []


@scenario
async def test_collections_with_slashes_do_not_get_in_each_others_way(desk: Desk) -> None:
    await desk.keep("a/b", {"n": 1}, id="c")
    await desk.keep("a", {"n": 1}, id="b/c")
    run = await desk.run(lock("lock", "c", "a/b"), approval("wait"))

    assert run.paused_for == "approval"
    refused(await desk.keep("a/b", {}, "c", 2), CONFLICT)
    expect(await desk.keep("a", {}, "b/c", 1))


@pytest.mark.parametrize(
    ("collection", "id"), [("jobs", "x" * 255), ("jobs", "日" * 255), ("日" * 100, "job")], ids=["long", "wide", "name"]
)
@scenario
async def test_whatever_can_be_a_document_can_be_locked(desk: Desk, collection: str, id: str) -> None:
    expect(await desk.keep(collection, {"n": 1}, id=id))
    run = await desk.run(lock("lock", id, collection), approval("wait"))

    assert run.paused_for == "approval"
    refused(await desk.keep(collection, {}, id, 2), CONFLICT, run.id)
    expect(await desk.cancel(run))
    expect(await desk.keep(collection, {}, id, 2))


@scenario
async def test_whoever_approves_inside_another_action_gets_nothing_past_the_lock(desk: Desk) -> None:
    await desk.keep("jobs", {"n": 1}, id="job")
    run = await desk.run(lock("lock"), approval("one"), approval("two"), input={"id": "job"})

    steps = [
        ["approvals.approve", {"approval_id": run.approval_id}],
        ["host.keep", {"type": "jobs", "id": "job", "document": {}, "version": 2}],
    ]
    came_of_it = expect(await desk.ask("host.run", {"steps": steps}, by=BOB))

    assert came_of_it == ["succeeded", "conflict"]


# Approvals


@scenario
async def test_an_approval_pauses_the_run_until_somebody_approves(desk: Desk) -> None:
    run = await desk.run(
        approval("ok", message="Pay ${input.n}?"), action("go", "host.echo", "${steps.ok}"), input={"n": 7}
    )
    assert (run.status, run.paused_for, run.step, run.position) == ("paused", "approval", "ok", 0)
    waiting = expect(await desk.ask("approvals.get", {"approval_id": run.approval_id}, by=BOB))
    assert (waiting.reason, waiting.permission, waiting.status) == ("Pay 7?", "host.approve", "pending")
    [expiry] = desk.client.enqueued
    assert expiry.id == f"expire/{run.approval_id}"
    assert expiry.delay is not None
    assert 6.9 * 86_400 < expiry.delay <= 7 * 86_400 + 1

    refused(await desk.resume(run), CONFLICT, "waits for the approval", run.approval_id)
    expect(await desk.approve(run))
    await desk.go_on()
    run = await desk.get(run.id)

    assert statuses(run) == [("ok", "succeeded"), ("go", "succeeded")]
    assert run.steps[1].output["approved_by"] == "human:bob"
    row = next(entry for entry in await desk.log() if entry.id == run.steps[0].action_id)
    assert (row.approved_by, row.actor_id) == ("human:bob", run.workflow_key)
    await desk.in_order()


@scenario
async def test_whoever_has_started_the_run_does_not_approve_it_unless_that_is_said(desk: Desk) -> None:
    run = await desk.run(approval("ok"))
    own = await desk.run(approval("ok", by_starter=True))

    refused(await desk.approve(run, by=ANN), FORBIDDEN, "human:ann has started the run", "somebody else")
    for same in (Actor.human("ANN\u200b", (), ANN.permissions), Actor.integration("ann", (), ANN.permissions)):
        refused(await desk.approve(run, by=same), FORBIDDEN, "has started the run")
    assert (await desk.get(run.id)).paused_for == "approval"
    expect(await desk.approve(own, by=ANN))
    assert (await desk.get(own.id)).status == "succeeded"
    expect(await desk.approve(run))


@scenario
async def test_whoever_has_started_the_run_does_not_approve_what_an_action_in_it_asks_for(desk: Desk) -> None:
    run = await desk.run(action("go", "host.approved", {"n": 1}))
    assert run.paused_for == "approval"

    refused(await desk.approve(run, by=ANN), FORBIDDEN, "human:ann has started the run")
    assert await desk.read("notes") == []
    expect(await desk.approve(run, by=BOB))

    run = await desk.get(run.id)
    assert run.status == "succeeded"
    assert run.steps[0].output["n"] == 1
    assert await desk.read("notes") == [{"n": 1}]
    await desk.in_order()


@scenario
async def test_whoever_has_started_a_run_that_starts_another_approves_neither(desk: Desk) -> None:
    inner = await desk.define(approval("ok"))
    middle = await desk.define(action("start", "workflows.start", {"key": inner}))
    outer = await desk.run(action("start", "workflows.start", {"key": middle}), by=EVE)
    assert outer.status == "succeeded"
    await desk.go_on()
    [run] = expect(await desk.ask("workflows.list", {"key": inner}))

    assert run.started_by == f"workflow:{middle}"
    refused(await desk.approve(run, by=EVE), FORBIDDEN, "human:eve has started the run")
    expect(await desk.approve(run, by=BOB))


@scenario
async def test_a_workflow_that_starts_itself_comes_to_an_end(desk: Desk) -> None:
    await desk.define(action("again", "workflows.start", {"key": "endless"}), key="endless")
    await desk.start("endless")

    await desk.go_on()

    runs = expect(await desk.ask("workflows.list", {"key": "endless"}))
    assert [run.status for run in runs] == ["succeeded"] * 50 + ["paused"]
    assert "at most 50 deep" in runs[-1].error["message"]
    assert runs[-1].error["code"] == "unprocessable"


@scenario
async def test_who_lacks_the_permission_sees_no_approval(desk: Desk) -> None:
    from actionengine import StaticAuthorizer

    demanding = desk.another(authorizer=StaticAuthorizer())
    run = await demanding.run(approval("ok"))

    refused(await demanding.approve(run, by=Actor.human("bob")), ErrorCode.NOT_FOUND, run.approval_id)
    boss = Actor.human("boss", permissions=["host.approve"])
    ai = Actor.ai("bot", permissions=["host.approve"])
    refused(await demanding.approve(run, by=ai), FORBIDDEN, "ai actors")
    expect(await demanding.approve(run, by=boss))


@pytest.mark.parametrize(
    ("on_reject", "status", "taken"),
    [
        (None, "failed", [("ok", "rejected")]),
        ("fail", "failed", [("ok", "rejected")]),
        ("pause", "paused", [("ok", "rejected")]),
        ("no", "succeeded", [("ok", "rejected"), ("no", "succeeded")]),
    ],
)
@scenario
async def test_a_rejection_leads_where_the_step_says(
    desk: Desk, on_reject: str | None, status: str, taken: Any
) -> None:
    step = approval("ok", next="end", **({} if on_reject is None else {"on_reject": on_reject}))
    told = action("no", "host.echo", "${steps.ok.error.message}" if on_reject == "no" else "no")
    steps = [step, told] if on_reject == "no" else [step]
    run = await desk.run(*steps)

    expect(await desk.reject(run, comment="too much"))
    for _ in range(2):
        (await desk.decline(run)).unwrap()
    await desk.go_on()
    after = await desk.get(run.id)

    assert (after.status, statuses(after)) == (status, taken)
    assert after.steps[0].error["message"] == "the approval was rejected by human:bob: too much"
    if on_reject == "no":
        assert after.steps[1].output == after.steps[0].error["message"]
    if on_reject == "pause":
        expect(await desk.resume(after))
        again = await desk.drive(after.id)
        assert again.paused_for == "approval"
        assert again.approval_id != run.approval_id
    await desk.in_order()


@scenario
async def test_a_rejected_action_leads_where_its_failure_does(desk: Desk) -> None:
    run = await desk.run(action("go", "host.approved", {"n": 1}, on_failure="other", next="end"), note("other"))

    expect(await desk.reject(run))
    (await desk.decline(run)).unwrap()
    await desk.go_on()

    run = await desk.get(run.id)
    assert statuses(run) == [("go", "rejected"), ("other", "succeeded")]
    assert await desk.read("notes") == [{"step": "other"}]


@scenario
async def test_an_approval_that_nobody_decides_expires(desk: Desk) -> None:
    run = await desk.run(approval("ok", expires_after=0.01, on_reject="late"), note("late"))
    await desk.world.pause(0.02)

    refused(await desk.approve(run), CONFLICT, "expired")
    await desk.expire()
    await desk.expire()
    await desk.go_on()

    run = await desk.get(run.id)
    assert statuses(run) == [("ok", "rejected"), ("late", "succeeded")]
    assert run.steps[0].error["details"]["status"] == "expired"


@scenario
async def test_an_approval_that_is_open_or_was_given_does_not_expire(desk: Desk) -> None:
    run = await desk.run(approval("ok"))

    await desk.expire()
    assert (await desk.get(run.id)).paused_for == "approval"
    expect(await desk.approve(run))
    await desk.expire()

    assert (await desk.get(run.id)).status == "succeeded"


@scenario
async def test_nobody_approves_a_step_of_a_run_that_is_cancelled(desk: Desk) -> None:
    run = await desk.run(approval("ok"), note("after"))

    cancelled = expect(await desk.cancel(run, by=EVE))

    assert (cancelled.status, cancelled.approval_id) == ("cancelled", None)
    assert cancelled.error["message"] == "cancelled by human:eve: no reason was given"
    refused(await desk.approve(run), CONFLICT, "cancelled")
    await desk.expire()
    assert (await desk.get(run.id)).steps == ()
    assert await desk.read("notes") == []


@scenario
async def test_a_further_approval_of_a_run_that_is_cancelled_meanwhile_comes_to_nothing(desk: Desk) -> None:
    asking = desk.another(services=[_asks_twice()])
    run = await asking.run(action("twice", "asking.outer", {"a": 1}))
    further = expect(await asking.approve(run)).further_approval_id
    expect(await asking.cancel(run))
    refused(await asking.ask("approvals.approve", {"approval_id": further}, by=EVE), CONFLICT, "cancelled")

    await asking.executions.wait(asking.tenant, run.workflow_key, run.id, 0, further, asking.world.mode)

    pending = expect(await asking.ask("approvals.get", {"approval_id": further}, by=EVE))
    assert (pending.status, pending.comment) == ("cancelled", "no reason was given")
    assert await asking.read("notes") == []


@scenario
async def test_an_approval_that_a_killed_driver_has_asked_for_is_cancelled_with_the_run(desk: Desk) -> None:
    key = await desk.define(approval("ok"), note("after"))
    id, other = await desk.start(key), await desk.start(key)
    for each in (id, other):
        point = expect_point(await desk.executions.next(desk.tenant, key, each, desk.world.mode))
        await desk.executions.perform(desk.tenant, point, desk.world.mode)

    expect(await desk.ask("workflows.cancel", {"run_id": id}))

    (pending,) = expect(await desk.ask("approvals.list", {"status": "pending"}, by=BOB)).items
    assert pending.input["run_id"] == other


@scenario
async def test_a_further_approval_that_is_rejected_declines_the_step(desk: Desk) -> None:
    asking = desk.another(services=[_asks_twice()])
    run = await asking.run(action("twice", "asking.outer", {"a": 1}, on_failure="no"), note("yes"), note("no"))
    further = expect(await asking.approve(run)).further_approval_id

    expect(await asking.ask("approvals.reject", {"approval_id": further}, by=EVE))
    await asking.executions.decline(asking.tenant, run.workflow_key, further, asking.world.mode)
    await asking.go_on()

    assert statuses(await asking.get(run.id)) == [("twice", "rejected"), ("no", "succeeded")]
    assert await asking.read("notes") == [{"step": "no"}]


@scenario
async def test_an_approved_step_that_fails_leaves_the_approval_open(desk: Desk) -> None:
    steps = [["host.fail", {"code": "unprocessable"}], ["host.approved", {"n": 1}]]
    run = await desk.run(action("go", "host.run", {"steps": steps, "fails": True}))
    assert run.paused_for == "approval"

    refused(await desk.approve(run), UNPROCESSABLE, "it was not to be")

    assert (await desk.get(run.id)).paused_for == "approval"
    assert await desk.read("notes") == []
    expect(await desk.reject(run))


@scenario
async def test_of_many_who_approve_and_reject_at_once_one_decides(desk: Desk) -> None:
    run = await desk.run(approval("ok"), note("after"))
    others = [Actor.human(f"boss-{number}", permissions=["host.approve"]) for number in range(3)]

    answers = await desk.world.at_once(
        *(desk.approve(run, by=by) for by in others), *(desk.reject(run, by=by) for by in others)
    )

    assert sum(not hasattr(answer, "code") for answer in answers) == 1
    (await desk.decline(run)).unwrap()
    await desk.go_on()
    after = await desk.get(run.id)
    assert after.status in ("succeeded", "failed")
    assert len(await desk.read("notes")) == (after.status == "succeeded")


# Bounds


@scenario
async def test_a_run_goes_round_as_often_as_it_may_and_then_takes_the_way_out_once(desk: Desk) -> None:
    run = await desk.run(
        note("round", max_visits=3, on_failure="out"),
        decision("again", (comparison("input.again", "eq", True), "round"), otherwise="end"),
        note("out", next="round"),
        input={"again": True},
    )

    assert statuses(run) == [
        *[("round", "succeeded"), ("again", "succeeded")] * 3,
        ("round", "failed"),
        ("out", "succeeded"),
        ("round", "failed"),
    ]
    assert (run.status, run.error["details"]) == ("failed", {"step": "round", "max_visits": 3})


@scenario
async def test_trying_a_step_again_is_no_further_visit(desk: Desk) -> None:
    flaky = {"name": "visited", "times": 2, "code": "unprocessable"}
    run = await desk.run(action("once", "host.flaky", flaky, max_visits=1))
    for _ in range(2):
        expect(await desk.resume(run))
        run = await desk.drive(run.id)

    assert statuses(run) == [("once", "failed"), ("once", "failed"), ("once", "succeeded")]
    assert run.status == "succeeded"


@scenario
async def test_a_run_takes_no_more_steps_than_it_may(desk: Desk) -> None:
    steps = [failing_step(name, on_failure=other, max_visits=50) for name, other in (("a", "b"), ("b", "a"))]

    run = await desk.run(*steps, max_steps=5)

    assert (run.status, run.position) == ("failed", 6)
    assert run.error["message"] == "the run has taken 5 steps: that is all it may"


# Versions, cancelling, drivers


@scenario
async def test_a_run_goes_on_by_the_version_that_it_was_started_with(desk: Desk) -> None:
    key = await desk.define(approval("ok"), note("old"))
    old = await desk.drive(await desk.start(key))
    await desk.define(note("new"), key=key)
    new = await desk.drive(await desk.start(key))

    expect(await desk.approve(old))
    await desk.go_on()
    old = await desk.get(old.id)

    assert (old.workflow_version, statuses(old)[-1]) == (1, ("old", "succeeded"))
    assert (new.workflow_version, statuses(new)) == (2, [("new", "succeeded")])


@scenario
async def test_two_storages_in_a_process_do_not_mix_up_what_has_the_same_name(desk: Desk) -> None:
    from actionengine import InMemoryStorage
    from actionengine.testing import SyncWorld

    # The same tenant, the same key, the same version.
    world = SyncWorld(InMemoryStorage())
    world.tenant = desk.tenant
    other = Desk(world)
    key = await desk.define(note("here"))
    await other.define(note("there"), key=key)

    here = await desk.drive(await desk.start(key))
    there = await other.drive(await other.start(key))

    assert statuses(here) == [("here", "succeeded")]
    assert statuses(there) == [("there", "succeeded")]


@scenario
async def test_a_definition_that_was_undone_is_not_remembered(desk: Desk) -> None:
    def tried(name: str) -> Any:
        return ["workflows.define", {"key": "k", "definition": {"steps": [note(name)]}}]

    steps = [tried("undone"), ["workflows.activate", {"key": "k"}], ["workflows.start", {"key": "k"}]]
    refused(await desk.ask("host.run", {"steps": steps, "fails": True}), UNPROCESSABLE)

    run = await desk.drive(await desk.start(await desk.define(note("done"), key="k")))

    assert statuses(run) == [("done", "succeeded")]


@scenario
async def test_a_step_does_not_cancel_its_own_run(desk: Desk) -> None:
    run = await desk.run(note("a"), action("stop", "workflows.cancel", {"run_id": "${run.id}"}), note("b"))

    assert (run.status, run.error["code"]) == ("paused", "unprocessable")
    assert "a step of the run" in run.error["message"]


@scenario
async def test_a_cancelled_run_takes_no_further_step(desk: Desk) -> None:
    key = await desk.define(note("a"), note("b"))
    run = await desk.get(await desk.start(key))
    point = expect_point(await desk.executions.next(desk.tenant, key, run.id, desk.world.mode))
    cancelled = expect(await desk.ask("workflows.cancel", {"run_id": run.id, "reason": "enough"}))
    assert (cancelled.status, cancelled.error["message"]) == ("cancelled", "cancelled by human:ann: enough")

    expect_point(await desk.executions.perform(desk.tenant, point, desk.world.mode))
    run = await desk.drive(run.id)

    assert (run.status, run.step, run.steps) == ("cancelled", None, ())
    assert await desk.read("notes") == []
    refused(await desk.resume(run), CONFLICT, "cancelled, not paused")
    assert expect(await desk.cancel(run)).status == "cancelled"
    assert len(await desk.events("workflows.ended")) == 1


@scenario
async def test_of_many_who_drive_a_run_at_once_each_effect_is_there_once(desk: Desk) -> None:
    await desk.keep("jobs", {"n": 1}, id="job")
    key = await desk.define(
        note("a"),
        lock("lock"),
        action("flaky", "host.flaky", {"name": "at once", "times": 1, "code": "conflict"}),
        mutation("insert", "insert", "others", data={"n": 1}),
        note("b"),
    )
    id = await desk.start(key, {"id": "job"})

    driven = [desk.driver.drive(desk.tenant, key, id, desk.world.mode) for _ in range(3)]
    answers = await desk.world.at_once(*driven)

    assert set(answers) == {"succeeded"}
    assert await desk.read("notes") == [{"step": "a"}, {"name": "at once"}, {"step": "b"}]
    assert await desk.read("others") == [{"n": 1}]
    assert await desk.locks() == []
    await desk.in_order()


@scenario
async def test_a_run_that_is_cancelled_while_it_is_driven_ends_cancelled(desk: Desk) -> None:
    key = await desk.define(*(note(f"n{number}") for number in range(12)))
    id = await desk.start(key)

    async def cancel() -> Any:
        return await desk.ask("workflows.cancel", {"run_id": id}, by=AUDITOR)

    status, cancelled = await desk.world.at_once(desk.driver.drive(desk.tenant, key, id, desk.world.mode), cancel())

    run = await desk.get(id)
    assert run.status == status
    if run.status == "succeeded":
        refused(cancelled, CONFLICT)
    assert len(await desk.read("notes")) == len(run.steps)
    await desk.in_order()


def test_under_an_event_loop_steps_are_taken_in_the_same_way(place: Any) -> None:
    from actionengine.testing import AsyncWorld

    world = AsyncWorld(place.storage)

    async def test() -> None:
        desk = Desk(world)
        await desk.keep("jobs", {"n": 1}, id="job")
        flaky = {"name": "async", "times": 1, "code": "conflict"}
        run = await desk.run(
            lock("lock"),
            action("flaky", "host.flaky", flaky, retry=SOON),
            mutation("change", "update", id="job", data={"n": 2}),
            approval("ok"),
            note("after"),
            input={"id": "job"},
        )
        assert run.paused_for == "approval", run.error
        expect(await desk.approve(run))
        await asyncio.gather(desk.drive(run.id), desk.drive(run.id))
        run = await desk.get(run.id)
        assert run.status == "succeeded"
        assert await desk.read("notes") == [{"name": "async"}, {"step": "after"}]
        assert json.dumps(run.steps[-1].output)
        await desk.in_order()

    world.run(test())
    world.close()
