"""Each type of step: its effect, its output, and its failure."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from returns.result import Failure

from actionengine import (
    ActionError,
    Actor,
    ErrorCode,
    InMemoryStorage,
    Limits,
    Role,
    Service,
    StaticAuthorizer,
    create_action,
    create_service,
)
from actionengine.testing import AsyncBackend, SyncBackend, run_in_mode
from actionengine.testing.harness import AUDITOR
from tests.harness import expect, refused
from tests.workflows.harness import (
    ANN,
    BOB,
    EVE,
    SOON,
    Harness,
    action,
    approval,
    asks_twice,
    comparison,
    decision,
    each_storage,
    failing_step,
    fields,
    lock,
    mutation,
    note,
    statuses,
)

UNPROCESSABLE, CONFLICT, FORBIDDEN = ErrorCode.UNPROCESSABLE, ErrorCode.CONFLICT, ErrorCode.FORBIDDEN


# Actions


def _fails(error: ActionError) -> Service:
    """A service whose action fails with an error."""
    odd = create_action(name="odd", description="Fail", handler=lambda data, ctx: Failure(error))
    return create_service(name="odd", description="Fails", actions=[odd])


@each_storage
@run_in_mode
async def test_later_steps_read_the_result_of_an_action(harness: Harness) -> None:
    run = await harness.run(
        action("first", "host.echo", {"sum": "${input.sum}", "text": "it is ${input.sum} €", "all": ["${run.id}"]}),
        action("second", "host.echo", "${steps.first}"),
        input={"sum": 12},
    )

    assert run.status == "succeeded"
    assert run.steps[1].output == {"sum": 12, "text": "it is 12 €", "all": [run.id]}
    await harness.in_order()


@run_in_mode
async def test_the_log_has_the_workflow_reason_and_key_of_an_action(harness: Harness) -> None:
    run = await harness.run(action("who", "host.who"), note("note"))

    log = await harness.log()
    rows = {entry.action: entry for entry in log if entry.actor_type == "workflow"}
    nested = rows["host.who"]
    parent = next(entry for entry in log if entry.id == nested.parent_id)
    assert (nested.actor_type, nested.actor_id) == ("workflow", run.workflow_key)
    assert nested.reason == f"workflow {run.workflow_key}, run {run.id}, step who (host.who)"
    assert (parent.action, parent.idempotency_key) == ("workflow_steps.perform", f"{run.id}/0")
    assert parent.request_id == run.id
    assert f"workflow_run/{run.id}" in parent.subjects
    assert run.steps[0].action_id == parent.id
    assert await harness.read("notes") == [
        {"by": f"workflow:{run.workflow_key}", "reason": nested.reason, "source": "workflow"},
        {"step": "note"},
    ]


@each_storage
@run_in_mode
async def test_a_performed_step_is_not_performed_again(harness: Harness) -> None:
    key = await harness.define(note("a"), note("b"))
    id = await harness.start(key)
    first = (await harness.executor.actions.next(harness.tenant, key, id)).unwrap()
    for _ in range(3):
        point = (await harness.executor.actions.perform(harness.tenant, first)).unwrap()
        assert (point.position, point.step) == (1, "b")

    run = await harness.drive(id)

    assert run.status == "succeeded"
    (await harness.executor.actions.perform(harness.tenant, first)).unwrap()
    assert await harness.read("notes") == [{"step": "a"}, {"step": "b"}]
    await harness.in_order()


@each_storage
@run_in_mode
async def test_a_failed_step_writes_nothing_and_pauses_the_run(harness: Harness) -> None:
    flaky = {"name": "once", "times": 1, "code": "unprocessable"}
    run = await harness.run(note("before"), action("odd", "host.flaky", flaky), note("after"))

    assert (run.status, run.paused_for, run.step, run.position) == ("paused", "failure", "odd", 2)
    assert (run.error["code"], run.error["message"]) == ("unprocessable", "not yet")
    assert run.steps[1].error == run.error
    assert await harness.read("notes") == [{"step": "before"}]
    assert (await harness.payloads("workflows.paused"))[0]["error"] == run.error

    resumed = expect(await harness.resume(run))
    assert (resumed.status, resumed.step, resumed.error) == ("running", "odd", None)
    run = await harness.drive(run.id)

    assert run.status == "succeeded"
    assert statuses(run) == [("before", "succeeded"), ("odd", "failed"), ("odd", "succeeded"), ("after", "succeeded")]
    assert await harness.read("notes") == [{"step": "before"}, {"name": "once"}, {"step": "after"}]
    await harness.in_order()


@pytest.mark.parametrize("code", ["conflict", "timeout", "unavailable", "handler_error"])
@run_in_mode
async def test_a_transient_failure_is_retried(harness: Harness, code: str) -> None:
    flaky = {"name": code, "times": 2, "code": code}

    run = await harness.run(action("flaky", "host.flaky", flaky))

    assert run.status == "succeeded"
    assert run.steps[0].output == {"calls": 3}
    assert await harness.read("notes") == [{"name": code}]
    await harness.in_order()


@pytest.mark.parametrize(
    ("code", "calls"), [("conflict", 2), ("unavailable", 2), ("unprocessable", 1), ("not_found", 1)]
)
@run_in_mode
async def test_a_step_fails_after_as_many_attempts_as_it_may_have(harness: Harness, code: str, calls: int) -> None:
    flaky = {"name": code, "times": 9, "code": code}
    retry = {"attempts": 2, "seconds": 0.001}

    run = await harness.run(action("flaky", "host.flaky", flaky, retry=retry, on_failure="fail"))

    assert (run.status, run.error["code"]) == ("failed", code)
    assert harness.flaky.calls[code] == calls
    assert run.ended_at is not None
    assert [told["status"] for told in await harness.payloads("workflows.ended")] == ["failed"]
    await harness.in_order()


@run_in_mode
async def test_a_failure_leads_to_a_step_that_can_see_it(harness: Harness) -> None:
    run = await harness.run(
        failing_step("odd", on_failure="mend"),
        note("skipped", next="end"),
        action("mend", "host.echo", {"because": "${steps.odd.error.message}", "code": "${steps.odd.error.code}"}),
    )

    assert statuses(run) == [("odd", "failed"), ("mend", "succeeded")]
    assert run.steps[1].output == {"because": "refused by the test", "code": "unprocessable"}
    assert (run.status, run.error) == ("succeeded", None)


@each_storage
@pytest.mark.parametrize("code", ["unprocessable", "handler_error"])
@pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800", "ü" * 40_000], ids=["nul", "surrogate", "long"])
@run_in_mode
async def test_a_run_pauses_whatever_a_failure_says(harness: Harness, text: str, code: str) -> None:
    run = await harness.run(action("odd", "host.fail", {"code": code, "escaped": text}))

    assert (run.status, run.paused_for, run.error["code"]) == ("paused", "failure", code)


@pytest.mark.parametrize(
    "details",
    [{"text": "x" * 2_000_000}, {"a\0": ["\0"]}, {"list": json.loads("[" * 70 + "]" * 70)}, {1: 2}],
    ids=["long", "nul", "deep", "a number for a name"],
)
@run_in_mode
async def test_a_run_pauses_whatever_the_details_of_a_failure_are(harness: Harness, details: Any) -> None:
    odd = harness.another(services=[_fails(ActionError(ErrorCode.HANDLER_ERROR, "so it is", details))])

    run = await odd.run(action("step", "odd.odd"))

    assert (run.status, run.error["code"], run.error["message"]) == ("paused", "handler_error", "so it is")


@run_in_mode
async def test_a_failure_larger_than_a_payload_pauses_the_run(harness: Harness) -> None:
    wordy = _fails(ActionError(ErrorCode.HANDLER_ERROR, "x" * 1500))
    strict = harness.another(services=[wordy], limits=Limits(payload_bytes=1500))

    run = await strict.run(action("step", "odd.odd"))

    assert (run.status, run.error["code"], run.error["message"]) == ("paused", "handler_error", "x" * 200)


@each_storage
@run_in_mode
async def test_a_run_pauses_whatever_a_result_has_in_it(harness: Harness) -> None:
    run = await harness.run(action("odd", "host.escaped", {"text": "a\\u0000b"}))

    assert run.status == "paused"
    assert "\\u0000" in run.error["message"]


@run_in_mode
async def test_an_action_that_is_gone_or_forbidden_pauses_the_run(harness: Harness) -> None:
    run = await harness.run(action("pay", "host.pay", {"amount": 1}))

    assert (run.status, run.error["code"]) == ("paused", "forbidden")
    assert await harness.read("notes") == []


@run_in_mode
async def test_steps_may_do_what_the_roles_of_the_host_allow(harness: Harness) -> None:
    authorizer = StaticAuthorizer({"payer": Role(allow=["host.pay"])})
    demanding = harness.another(
        authorizer=authorizer, roles=lambda tenant, key: ("payer",) if key.startswith("may") else ()
    )
    may = await demanding.drive(await demanding.start(await demanding.define(action("pay", "host.pay", {}), key="may")))
    not_ = await demanding.drive(
        await demanding.start(await demanding.define(action("pay", "host.pay", {}), key="not"))
    )

    assert (may.status, not_.status) == ("succeeded", "paused")
    assert not_.error["code"] == "forbidden"


@run_in_mode
async def test_a_long_result_is_not_kept_and_a_later_step_says_so(harness: Harness) -> None:
    run = await harness.run(
        action("big", "host.big", {"bytes": 70_000}),
        action("next", "host.echo", "${steps.big.omitted_bytes}"),
        action("odd", "host.echo", "${steps.big.text}"),
    )

    assert run.steps[0].output == {"omitted_bytes": 70_011}
    assert run.steps[1].output == 70_011
    assert (run.status, run.error["code"]) == ("paused", "unprocessable")
    assert "there is no steps.big.text" in run.error["message"]


@run_in_mode
async def test_what_all_steps_give_together_is_bounded(harness: Harness) -> None:
    run = await harness.run(*(action(f"n{number}", "host.big", {"bytes": 60_000}) for number in range(19)))

    assert run.status == "succeeded"
    assert [step.step for step in run.steps if "omitted_bytes" in step.output] == ["n17", "n18"]


@run_in_mode
async def test_what_failures_of_all_steps_say_together_is_bounded(harness: Harness) -> None:
    odd = {"code": "unprocessable", "escaped": "${input.text}"}
    run = await harness.run(
        *(action(f"n{number}", "host.fail", odd, on_failure=f"n{number + 1}") for number in range(19)),
        note("n19"),
        input={"text": "x" * 60_000},
    )

    assert run.status == "succeeded"
    assert [step.step for step in run.steps[:-1] if len(step.error["message"]) < 60_000] == ["n17", "n18"]


@run_in_mode
async def test_the_message_to_approvers_is_bounded(harness: Harness) -> None:
    run = await harness.run(approval("ok", message="${input.who}: pay?"), input={"who": "x" * 10_000})

    assert (run.status, run.paused_for, run.error["code"]) == ("paused", "failure", "unprocessable")
    assert "at most 10000 are allowed" in run.error["message"]


@run_in_mode
async def test_secrets_of_an_action_are_stored_nowhere(harness: Harness) -> None:
    run = await harness.run(
        action("secret", "host.secret", {"name": "hush"}),
        action("echo", "host.echo", "${steps.secret}"),
    )

    assert run.status == "succeeded"
    everything = (run, await harness.dump(), await harness.log(), await harness.backend.read_events(harness.tenant))
    assert "hush-hidden-token" not in repr(everything)
    assert run.steps[1].output["name"] == "hush"


@run_in_mode
async def test_a_secret_that_an_error_repeats_is_not_kept(harness: Harness) -> None:
    run = await harness.run(action("unlock", "host.unlock", {"pin": "pin-${input.pin}"}), input={"pin": "4711-0815"})

    assert (run.status, run.error["code"]) == ("paused", "unprocessable")
    told = repr((run.error, run.steps, await harness.payloads("workflows.paused")))
    assert "pin-4711-0815" not in told


@run_in_mode
async def test_a_secret_that_a_result_repeats_is_neither_kept_nor_told(harness: Harness) -> None:
    run = await harness.run(
        action("repeat", "host.repeat_secret", {"pin": "pin-${input.pin}"}),
        {"name": "tell", "type": "notification", "to": "ann", "message": "${steps.repeat.text}"},
        input={"pin": "4711-0815"},
    )

    assert run.status == "succeeded"
    assert run.steps[0].output["text"].startswith("the pin ")
    assert "pin-4711-0815" not in repr((run, await harness.dump(), await harness.log(), await harness.payloads()))


# Assignments and notifications


@run_in_mode
async def test_an_assignment_is_a_document_of_the_hosts_and_an_event(harness: Harness) -> None:
    run = await harness.run(
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

    [document] = await harness.read("workflow_assignments")
    assert (document["assignee"], document["title"], document["status"]) == ("eve", "Call Zoë", "open")
    assert document["details"] == {"numbers": ["2"]}
    [told] = await harness.payloads("workflows.assigned")
    assert (told["id"], told["assignee"], told["run_id"]) == (run.steps[1].output, "eve", run.id)


@run_in_mode
async def test_a_notification_is_an_event_that_names_whom_and_what(harness: Harness) -> None:
    step = {"name": "tell", "type": "notification", "message": "${input.n} left", "data": {"n": "${input.n}"}}
    run = await harness.run(
        step | {"to": ["${input.who}", "eve"], "subject": "News of ${run.workflow}", "channel": "mail"},
        step | {"to": "bob", "name": "tell again"},
        input={"who": "ann", "n": 3},
    )

    assert run.status == "succeeded"
    first, second = await harness.payloads("workflows.notification")
    assert (first["to"], first["message"], first["data"]) == (["ann", "eve"], "3 left", {"n": 3})
    assert (first["subject"], first["channel"]) == (f"News of {run.workflow_key}", "mail")
    assert (second["to"], second["step"], second["run_id"]) == (["bob"], "tell again", run.id)


# Decisions


@run_in_mode
async def test_a_decision_goes_where_the_first_branch_leads_that_holds(harness: Harness) -> None:
    key = await harness.define(
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
        run = await harness.drive(await harness.start(key, {"n": n}))
        assert statuses(run) == [("how much", "succeeded"), (where, "succeeded")]
        assert run.steps[0].output == {"next": where}


@run_in_mode
async def test_a_decision_on_a_missing_value_pauses_the_run(harness: Harness) -> None:
    run = await harness.run(
        decision("which", (comparison("input.customer.age", "gt", 1), "end")), input={"customer": {}}
    )

    assert (run.status, run.step, run.error["code"]) == ("paused", "which", "unprocessable")
    assert run.error["message"] == "there is no input.customer.age: input.customer has no 'age'"
    assert run.error["details"] == {"path": "input.customer.age", "missing": "age"}


@run_in_mode
async def test_a_decision_on_incomparable_values_fails_the_step(harness: Harness) -> None:
    step = decision("which", (comparison("input.n", "gt", 1), "end"), on_failure="odd")

    run = await harness.run(step, note("odd"), input={"n": "2"})

    assert statuses(run) == [("which", "failed"), ("odd", "succeeded")]
    assert run.steps[0].error["message"] == "input.n is '2', which 'gt' cannot compare with 1"


# Documents


@each_storage
@run_in_mode
async def test_documents_are_inserted_changed_and_deleted(harness: Harness) -> None:
    run = await harness.run(
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
    assert await harness.read("jobs") == [{"title": "Wall"}]


@pytest.mark.parametrize("operation", ["update", "delete"])
@run_in_mode
async def test_a_document_that_is_not_there_pauses_the_run(harness: Harness, operation: str) -> None:
    data: dict[str, Any] = {"data": {"a": 1}} if operation == "update" else {}

    run = await harness.run(mutation("change", operation, id="nobody", **data))

    assert (run.status, run.error["code"]) == ("paused", "not_found")
    assert "'nobody'" in run.error["message"]


@run_in_mode
async def test_documents_have_to_fit_their_record_type(harness: Harness) -> None:
    project = expect(await harness.ask("projects.create", {"name": "p", "description": ""}))
    definition = {"project_id": project.id, "key": "tasks", "schema": fields(title="string!")}
    expect(await harness.ask("record_types.create", definition))
    expect(await harness.ask("record_types.activate", {"project_id": project.id, "key": "tasks"}))

    key = await harness.define(mutation("insert", "insert", "tasks", data={"title": "${input.title}"}))
    bad, good = [await harness.drive(await harness.start(key, {"title": title})) for title in (7, "seven")]

    assert (bad.status, bad.error["code"]) == ("paused", "invalid_input")
    assert good.status == "succeeded"
    assert await harness.read("tasks") == [{"title": "seven"}]


# Locks


@each_storage
@run_in_mode
async def test_only_its_run_changes_a_locked_document(harness: Harness) -> None:
    await harness.keep("jobs", {"n": 1}, id="job")
    run = await harness.run(
        lock("lock"),
        approval("wait"),
        mutation("change", "update", id="job", data={"n": 2}),
        action("also", "host.keep", {"type": "jobs", "id": "job", "document": {"n": 3}, "version": 3}),
        input={"id": "job"},
    )
    assert run.status == "paused"
    assert (await harness.read("jobs", "job"))["version"] == 2

    for other in (await harness.keep("jobs", {"n": 9}, "job", 2), await harness.remove("jobs", "job", 2)):
        error = refused(other, CONFLICT, f"the workflow run {run.id} has locked jobs/job")
        assert error.details["run_id"] == run.id
    expect(await harness.keep("jobs", {}, "another job"))
    expect(await harness.approve(run))
    run = await harness.drive(run.id)

    assert run.status == "succeeded", run.error
    assert await harness.read("jobs", "job") == {"version": 4, "data": {"n": 3}}
    assert await harness.locks() == []
    assert expect(await harness.keep("jobs", {"n": 5}, "job", 4)) == 5


@run_in_mode
async def test_an_approved_action_changes_what_its_own_run_has_locked(harness: Harness) -> None:
    await harness.keep("jobs", {"n": 1}, id="job")
    change = {"type": "jobs", "id": "job", "document": {"n": 2}, "version": 2}
    run = await harness.run(lock("lock"), action("change", "host.keep_approved", change), input={"id": "job"})
    assert run.paused_for == "approval"

    expect(await harness.approve(run))

    assert await harness.read("jobs", "job") == {"version": 3, "data": {"n": 2}}
    assert await harness.locks() == []


@each_storage
@run_in_mode
async def test_a_lock_that_a_run_has_is_a_conflict_for_another_run(harness: Harness) -> None:
    await harness.keep("jobs", {"n": 1}, id="job")
    key = await harness.define(lock("lock"), approval("wait"))
    first, second = [await harness.drive(await harness.start(key, {"id": "job"})) for _ in range(2)]

    assert (first.paused_for, second.paused_for) == ("approval", "failure")
    assert second.error["code"] == "conflict"
    expect(await harness.cancel(first))
    expect(await harness.resume(second))
    assert (await harness.drive(second.id)).paused_for == "approval"


@each_storage
@pytest.mark.parametrize("how", ["release", "expiry", "cancel", "failure", "rejection"])
@run_in_mode
async def test_a_lock_is_given_up(harness: Harness, how: str) -> None:
    await harness.keep("jobs", {"n": 1}, id="job")
    seconds: dict[str, Any] = {"expires_after": 0.01} if how == "expiry" else {}
    rest = [failing_step("odd", on_failure="fail")] if how == "failure" else [approval("wait", on_reject="fail")]
    if how == "release":
        rest = [lock("release", operation="release"), *rest]
    run = await harness.run(lock("lock", **seconds), *rest, input={"id": "job"})
    if how == "expiry":
        await harness.backend.sleep(0.02)
    if how == "cancel":
        expect(await harness.cancel(run))
    if how == "rejection":
        expect(await harness.reject(run))
        assert (await harness.decline(run)).unwrap().status == "failed"

    assert expect(await harness.keep("jobs", {"n": 2}, "job", 2)) == 3
    if how != "expiry":
        assert await harness.locks() == []


@each_storage
@run_in_mode
async def test_an_expired_lock_may_go_to_another_run(harness: Harness) -> None:
    await harness.keep("jobs", {"n": 1}, id="job")
    first = await harness.run(
        lock("lock", expires_after=0.01), approval("wait"), lock("release", operation="release"), input={"id": "job"}
    )
    await harness.backend.sleep(0.02)
    second = await harness.run(lock("lock"), approval("wait"), input={"id": "job"})
    assert second.paused_for == "approval"

    expect(await harness.approve(first))
    first = await harness.drive(first.id)

    assert first.status == "succeeded"
    refused(await harness.keep("jobs", {}, "job", 3), CONFLICT, second.id)


@run_in_mode
async def test_a_lock_on_what_is_not_there_leaves_no_lock(harness: Harness) -> None:
    run = await harness.run(lock("lock"), input={"id": "nobody"})

    assert (run.status, run.error["code"]) == ("paused", "not_found")
    assert await harness.locks() == []


@each_storage
@run_in_mode
async def test_collections_with_slashes_do_not_get_in_each_others_way(harness: Harness) -> None:
    await harness.keep("a/b", {"n": 1}, id="c")
    await harness.keep("a", {"n": 1}, id="b/c")
    run = await harness.run(lock("lock", "c", "a/b"), approval("wait"))

    assert run.paused_for == "approval"
    refused(await harness.keep("a/b", {}, "c", 2), CONFLICT)
    expect(await harness.keep("a", {}, "b/c", 1))


@each_storage
@pytest.mark.parametrize(
    ("collection", "id"), [("jobs", "x" * 255), ("jobs", "日" * 255), ("日" * 100, "job")], ids=["long", "wide", "name"]
)
@run_in_mode
async def test_whatever_can_be_a_document_can_be_locked(harness: Harness, collection: str, id: str) -> None:
    expect(await harness.keep(collection, {"n": 1}, id=id))
    run = await harness.run(lock("lock", id, collection), approval("wait"))

    assert run.paused_for == "approval"
    refused(await harness.keep(collection, {}, id, 2), CONFLICT, run.id)
    expect(await harness.cancel(run))
    expect(await harness.keep(collection, {}, id, 2))


@run_in_mode
async def test_a_nested_approval_does_not_bypass_a_lock(harness: Harness) -> None:
    await harness.keep("jobs", {"n": 1}, id="job")
    run = await harness.run(lock("lock"), approval("one"), approval("two"), input={"id": "job"})

    steps = [
        ["approvals.approve", {"approval_id": run.approval_id}],
        ["host.keep", {"type": "jobs", "id": "job", "document": {}, "version": 2}],
    ]
    came_of_it = expect(await harness.ask("host.run", {"steps": steps}, by=BOB))

    assert came_of_it == ["succeeded", "conflict"]


# Approvals


@run_in_mode
async def test_an_approval_pauses_the_run_until_somebody_approves(harness: Harness) -> None:
    run = await harness.run(
        approval("ok", message="Pay ${input.n}?"), action("go", "host.echo", "${steps.ok}"), input={"n": 7}
    )
    assert (run.status, run.paused_for, run.step, run.position) == ("paused", "approval", "ok", 0)
    waiting = expect(await harness.ask("approvals.get", {"approval_id": run.approval_id}, by=BOB))
    assert (waiting.reason, waiting.permission, waiting.status) == ("Pay 7?", "host.approve", "pending")
    [expiry] = harness.client.enqueued
    assert expiry.id == f"expire/{run.approval_id}"
    assert expiry.delay is not None
    assert 6.9 * 86_400 < expiry.delay <= 7 * 86_400 + 1

    refused(await harness.resume(run), CONFLICT, "waits for the approval", run.approval_id)
    expect(await harness.approve(run))
    await harness.go_on()
    run = await harness.get(run.id)

    assert statuses(run) == [("ok", "succeeded"), ("go", "succeeded")]
    assert run.steps[1].output["approved_by"] == "human:bob"
    row = next(entry for entry in await harness.log() if entry.id == run.steps[0].action_id)
    assert (row.approved_by, row.actor_id) == ("human:bob", run.workflow_key)
    await harness.in_order()


@run_in_mode
async def test_the_starter_approves_only_with_by_starter(harness: Harness) -> None:
    run = await harness.run(approval("ok"))
    own = await harness.run(approval("ok", by_starter=True))

    for each, by, may in ((run, ANN, False), (run, BOB, True), (own, ANN, True)):
        pending = expect(await harness.ask("approvals.get", {"approval_id": each.approval_id}, by=by))
        assert (pending.can_decide, pending.can_approve) == (True, may)
    refused(await harness.approve(run, by=ANN), FORBIDDEN, "human:ann started the run", "another actor")
    for same in (Actor.human("ANN\u200b", (), ANN.permissions), Actor.integration("ann", (), ANN.permissions)):
        refused(await harness.approve(run, by=same), FORBIDDEN, "started the run")
    assert (await harness.get(run.id)).paused_for == "approval"
    expect(await harness.approve(own, by=ANN))
    assert (await harness.get(own.id)).status == "succeeded"
    expect(await harness.approve(run))


@run_in_mode
async def test_the_starter_approves_no_action_of_its_run(harness: Harness) -> None:
    run = await harness.run(action("go", "host.approved", {"n": 1}))
    assert run.paused_for == "approval"

    refused(await harness.approve(run, by=ANN), FORBIDDEN, "human:ann started the run")
    assert await harness.read("notes") == []
    expect(await harness.approve(run, by=BOB))

    run = await harness.get(run.id)
    assert run.status == "succeeded"
    assert run.steps[0].output["n"] == 1
    assert await harness.read("notes") == [{"n": 1}]
    await harness.in_order()


@run_in_mode
async def test_the_starter_of_an_outer_run_approves_neither(harness: Harness) -> None:
    inner = await harness.define(approval("ok"))
    middle = await harness.define(action("start", "workflows.start", {"key": inner}))
    outer = await harness.run(action("start", "workflows.start", {"key": middle}), by=EVE)
    assert outer.status == "succeeded"
    await harness.go_on()
    [run] = expect(await harness.ask("workflows.list", {"key": inner}))

    assert run.started_by == f"workflow:{middle}"
    refused(await harness.approve(run, by=EVE), FORBIDDEN, "human:eve started the run")
    expect(await harness.approve(run, by=BOB))


@run_in_mode
async def test_a_workflow_that_starts_itself_comes_to_an_end(harness: Harness) -> None:
    await harness.define(action("again", "workflows.start", {"key": "endless"}), key="endless")
    await harness.start("endless")

    await harness.go_on()

    runs = expect(await harness.ask("workflows.list", {"key": "endless"}))
    assert [run.status for run in runs] == ["succeeded"] * 50 + ["paused"]
    assert "at most 50 are allowed" in runs[-1].error["message"]
    assert runs[-1].error["code"] == "unprocessable"


@run_in_mode
async def test_an_approval_is_hidden_without_its_permission(harness: Harness) -> None:
    demanding = harness.another(authorizer=StaticAuthorizer())
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
@run_in_mode
async def test_a_rejection_leads_where_the_step_says(
    harness: Harness, on_reject: str | None, status: str, taken: Any
) -> None:
    step = approval("ok", next="end", **({} if on_reject is None else {"on_reject": on_reject}))
    told = action("no", "host.echo", "${steps.ok.error.message}" if on_reject == "no" else "no")
    steps = [step, told] if on_reject == "no" else [step]
    run = await harness.run(*steps)

    expect(await harness.reject(run, comment="too much"))
    for _ in range(2):
        (await harness.decline(run)).unwrap()
    await harness.go_on()
    after = await harness.get(run.id)

    assert (after.status, statuses(after)) == (status, taken)
    assert after.steps[0].error["message"] == "the approval was rejected by human:bob: too much"
    if on_reject == "no":
        assert after.steps[1].output == after.steps[0].error["message"]
    if on_reject == "pause":
        expect(await harness.resume(after))
        again = await harness.drive(after.id)
        assert again.paused_for == "approval"
        assert again.approval_id != run.approval_id
    await harness.in_order()


@run_in_mode
async def test_a_rejected_action_leads_where_its_failure_does(harness: Harness) -> None:
    run = await harness.run(action("go", "host.approved", {"n": 1}, on_failure="other", next="end"), note("other"))

    expect(await harness.reject(run))
    (await harness.decline(run)).unwrap()
    await harness.go_on()

    run = await harness.get(run.id)
    assert statuses(run) == [("go", "rejected"), ("other", "succeeded")]
    assert await harness.read("notes") == [{"step": "other"}]


@each_storage
@run_in_mode
async def test_an_approval_that_nobody_decides_expires(harness: Harness) -> None:
    run = await harness.run(approval("ok", expires_after=0.01, on_reject="late"), note("late"))
    await harness.backend.sleep(0.02)

    refused(await harness.approve(run), CONFLICT, "expired")
    await harness.expire()
    await harness.expire()
    await harness.go_on()

    run = await harness.get(run.id)
    assert statuses(run) == [("ok", "rejected"), ("late", "succeeded")]
    assert run.steps[0].error["details"]["status"] == "expired"


@run_in_mode
async def test_an_approval_that_is_open_or_was_given_does_not_expire(harness: Harness) -> None:
    run = await harness.run(approval("ok"))

    await harness.expire()
    assert (await harness.get(run.id)).paused_for == "approval"
    expect(await harness.approve(run))
    await harness.expire()

    assert (await harness.get(run.id)).status == "succeeded"


@run_in_mode
async def test_an_approval_of_a_cancelled_run_is_closed(harness: Harness) -> None:
    run = await harness.run(approval("ok"), note("after"))

    cancelled = expect(await harness.cancel(run, by=EVE))

    assert (cancelled.status, cancelled.approval_id) == ("cancelled", None)
    assert cancelled.error["message"] == "cancelled by human:eve: no reason was given"
    refused(await harness.approve(run), CONFLICT, "cancelled")
    await harness.expire()
    assert (await harness.get(run.id)).steps == ()
    assert await harness.read("notes") == []


@run_in_mode
async def test_a_further_approval_of_a_cancelled_run_is_cancelled(harness: Harness) -> None:
    asking = harness.another(services=[asks_twice()])
    run = await asking.run(action("twice", "asking.outer", {"a": 1}))
    further = expect(await asking.approve(run)).further_approval_id
    expect(await asking.cancel(run))
    refused(await asking.ask("approvals.approve", {"approval_id": further}, by=EVE), CONFLICT, "cancelled")

    await asking.executor.actions.await_approval(asking.tenant, run.workflow_key, run.id, 0, further)

    pending = expect(await asking.ask("approvals.get", {"approval_id": further}, by=EVE))
    assert (pending.status, pending.comment) == ("cancelled", "no reason was given")
    assert await asking.read("notes") == []


@run_in_mode
async def test_cancelling_a_run_cancels_a_dead_executors_approval(harness: Harness) -> None:
    key = await harness.define(approval("ok"), note("after"))
    id, other = await harness.start(key), await harness.start(key)
    for each in (id, other):
        point = (await harness.executor.actions.next(harness.tenant, key, each)).unwrap()
        await harness.executor.actions.perform(harness.tenant, point)

    expect(await harness.ask("workflows.cancel", {"run_id": id}))

    (pending,) = expect(await harness.ask("approvals.list", {"status": "pending"}, by=BOB)).items
    assert pending.input["run_id"] == other


@run_in_mode
async def test_a_further_approval_that_is_rejected_declines_the_step(harness: Harness) -> None:
    asking = harness.another(services=[asks_twice()])
    run = await asking.run(action("twice", "asking.outer", {"a": 1}, on_failure="no"), note("yes"), note("no"))
    further = expect(await asking.approve(run)).further_approval_id

    expect(await asking.ask("approvals.reject", {"approval_id": further}, by=EVE))
    await asking.executor.actions.decline(asking.tenant, run.workflow_key, further)
    await asking.go_on()

    assert statuses(await asking.get(run.id)) == [("twice", "rejected"), ("no", "succeeded")]
    assert await asking.read("notes") == [{"step": "no"}]


@run_in_mode
async def test_an_approved_step_that_fails_leaves_the_approval_open(harness: Harness) -> None:
    steps = [["host.fail", {"code": "unprocessable"}], ["host.approved", {"n": 1}]]
    run = await harness.run(action("go", "host.run", {"steps": steps, "fails": True}))
    assert run.paused_for == "approval"

    refused(await harness.approve(run), UNPROCESSABLE, "refused by the test")

    assert (await harness.get(run.id)).paused_for == "approval"
    assert await harness.read("notes") == []
    expect(await harness.reject(run))


@each_storage
@run_in_mode
async def test_concurrent_decisions_have_one_winner(harness: Harness) -> None:
    run = await harness.run(approval("ok"), note("after"))
    others = [Actor.human(f"boss-{number}", permissions=["host.approve"]) for number in range(3)]

    answers = await harness.backend.gather(
        *(harness.approve(run, by=by) for by in others), *(harness.reject(run, by=by) for by in others)
    )

    assert sum(not hasattr(answer, "code") for answer in answers) == 1
    (await harness.decline(run)).unwrap()
    await harness.go_on()
    after = await harness.get(run.id)
    assert after.status in ("succeeded", "failed")
    assert len(await harness.read("notes")) == (after.status == "succeeded")


# Limits


@run_in_mode
async def test_a_loop_ends_at_max_visits_and_leaves_once(harness: Harness) -> None:
    run = await harness.run(
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


@run_in_mode
async def test_trying_a_step_again_is_no_further_visit(harness: Harness) -> None:
    flaky = {"name": "visited", "times": 2, "code": "unprocessable"}
    run = await harness.run(action("once", "host.flaky", flaky, max_visits=1))
    for _ in range(2):
        expect(await harness.resume(run))
        run = await harness.drive(run.id)

    assert statuses(run) == [("once", "failed"), ("once", "failed"), ("once", "succeeded")]
    assert run.status == "succeeded"


@run_in_mode
async def test_a_run_ends_at_max_steps(harness: Harness) -> None:
    steps = [failing_step(name, on_failure=other, max_visits=50) for name, other in (("a", "b"), ("b", "a"))]

    run = await harness.run(*steps, max_steps=5)

    assert (run.status, run.position) == ("failed", 6)
    assert run.error["message"] == "the run has taken 5 steps, its limit (max_steps=5): raise it, or end the loop"


# Versions, cancelling, executors


@run_in_mode
async def test_a_run_goes_on_by_the_version_that_it_was_started_with(harness: Harness) -> None:
    key = await harness.define(approval("ok"), note("old"))
    old = await harness.drive(await harness.start(key))
    await harness.define(note("new"), key=key)
    new = await harness.drive(await harness.start(key))

    expect(await harness.approve(old))
    await harness.go_on()
    old = await harness.get(old.id)

    assert (old.workflow_version, statuses(old)[-1]) == (1, ("old", "succeeded"))
    assert (new.workflow_version, statuses(new)) == (2, [("new", "succeeded")])


@each_storage
@run_in_mode
async def test_two_storages_in_a_process_share_no_definitions(harness: Harness) -> None:

    # The same tenant, the same key, the same version.
    backend = SyncBackend(InMemoryStorage())
    backend.tenant = harness.tenant
    other = Harness(backend)
    key = await harness.define(note("here"))
    await other.define(note("there"), key=key)

    here = await harness.drive(await harness.start(key))
    there = await other.drive(await other.start(key))

    assert statuses(here) == [("here", "succeeded")]
    assert statuses(there) == [("there", "succeeded")]


@each_storage
@run_in_mode
async def test_a_definition_that_was_undone_is_not_remembered(harness: Harness) -> None:
    def tried(name: str) -> Any:
        return ["workflows.define", {"key": "k", "definition": {"steps": [note(name)]}}]

    steps = [tried("undone"), ["workflows.activate", {"key": "k"}], ["workflows.start", {"key": "k"}]]
    refused(await harness.ask("host.run", {"steps": steps, "fails": True}), UNPROCESSABLE)

    run = await harness.drive(await harness.start(await harness.define(note("done"), key="k")))

    assert statuses(run) == [("done", "succeeded")]


@run_in_mode
async def test_a_step_does_not_cancel_its_own_run(harness: Harness) -> None:
    run = await harness.run(note("a"), action("stop", "workflows.cancel", {"run_id": "${run.id}"}), note("b"))

    assert (run.status, run.error["code"]) == ("paused", "unprocessable")
    assert "a step of the run" in run.error["message"]


@run_in_mode
async def test_a_cancelled_run_takes_no_further_step(harness: Harness) -> None:
    key = await harness.define(note("a"), note("b"))
    run = await harness.get(await harness.start(key))
    point = (await harness.executor.actions.next(harness.tenant, key, run.id)).unwrap()
    cancelled = expect(await harness.ask("workflows.cancel", {"run_id": run.id, "reason": "enough"}))
    assert (cancelled.status, cancelled.error["message"]) == ("cancelled", "cancelled by human:ann: enough")

    (await harness.executor.actions.perform(harness.tenant, point)).unwrap()
    run = await harness.drive(run.id)

    assert (run.status, run.step, run.steps) == ("cancelled", None, ())
    assert await harness.read("notes") == []
    refused(await harness.resume(run), CONFLICT, "cancelled, not paused")
    assert expect(await harness.cancel(run)).status == "cancelled"
    assert len(await harness.payloads("workflows.ended")) == 1


@each_storage
@run_in_mode
async def test_concurrent_executors_have_each_effect_once(harness: Harness) -> None:
    await harness.keep("jobs", {"n": 1}, id="job")
    key = await harness.define(
        note("a"),
        lock("lock"),
        action("flaky", "host.flaky", {"name": "at once", "times": 1, "code": "conflict"}),
        mutation("insert", "insert", "others", data={"n": 1}),
        note("b"),
    )
    id = await harness.start(key, {"id": "job"})

    driven = [harness.executor.execute_run(harness.tenant, key, id) for _ in range(3)]
    answers = await harness.backend.gather(*driven)

    assert set(answers) == {"succeeded"}
    assert await harness.read("notes") == [{"step": "a"}, {"name": "at once"}, {"step": "b"}]
    assert await harness.read("others") == [{"n": 1}]
    assert await harness.locks() == []
    await harness.in_order()


@each_storage
@run_in_mode
async def test_a_run_may_be_cancelled_while_it_advances(harness: Harness) -> None:
    key = await harness.define(*(note(f"n{number}") for number in range(12)))
    id = await harness.start(key)

    async def cancel() -> Any:
        return await harness.ask("workflows.cancel", {"run_id": id}, by=AUDITOR)

    status, cancelled = await harness.backend.gather(harness.executor.execute_run(harness.tenant, key, id), cancel())

    run = await harness.get(id)
    assert run.status == status
    if run.status == "succeeded":
        refused(cancelled, CONFLICT)
    assert len(await harness.read("notes")) == len(run.steps)
    await harness.in_order()


@each_storage
def test_under_an_event_loop_steps_are_taken_in_the_same_way(shared_backend: Any) -> None:
    backend = AsyncBackend(shared_backend.storage)

    async def test() -> None:
        harness = Harness(backend)
        await harness.keep("jobs", {"n": 1}, id="job")
        flaky = {"name": "async", "times": 1, "code": "conflict"}
        run = await harness.run(
            lock("lock"),
            action("flaky", "host.flaky", flaky, retry=SOON),
            mutation("change", "update", id="job", data={"n": 2}),
            approval("ok"),
            note("after"),
            input={"id": "job"},
        )
        assert run.paused_for == "approval", run.error
        expect(await harness.approve(run))
        await asyncio.gather(harness.drive(run.id), harness.drive(run.id))
        run = await harness.get(run.id)
        assert run.status == "succeeded"
        assert await harness.read("notes") == [{"name": "async"}, {"step": "after"}]
        assert json.dumps(run.steps[-1].output)
        await harness.in_order()

    backend.run(test())
    backend.close()


@run_in_mode
async def test_a_run_in_sync_mode_acts_for_the_chain_of_its_starter(harness: Harness) -> None:
    """More about chains is in `test_chains`."""
    dave = Actor.human("dave")
    agent = Actor.ai("bot", permissions=["host.pay"], on_behalf_of=dave)
    harness = harness.another(
        authorizer=StaticAuthorizer({"payer": Role(allow=["host.pay"])}), roles=lambda *_: ["payer"]
    )
    run = await harness.run(note("a"), action("b", "host.pay"), by=agent)

    assert (run.status, run.on_behalf_of) == ("paused", ("ai:bot", "human:dave"))
    assert "needs the permission host.pay (for ai:bot)" not in run.error["message"]
    assert "needs the permission host.pay (for human:dave)" in run.error["message"]
    [row] = await harness.log(principal="human:dave", action="host.note")
    assert (row.actor_type, row.on_behalf_of) == ("workflow", ("ai:bot", "human:dave"))
