"""Documents and runs from before a merge: steps handle them, and name the fields that no longer fit."""

from __future__ import annotations

from typing import Any

import pytest

from actionengine import ErrorCode
from actionengine.changes.documents import OWN_FIELDS
from actionengine.testing import run_in_mode
from actionengine.workflows import ASSIGNMENTS
from tests.harness import expect, refused
from tests.workflows.harness import BOB, Harness, Step, action, approval, each_storage, statuses

JOB: list[dict[str, Any]] = [
    {"name": "customer", "type": "string", "required": True},
    {"name": "colour", "type": "string"},
    {"name": "hours", "type": "number"},
]
MERGES: dict[str, tuple[str, dict[str, Any]]] = {
    "removed": ("remove_field", {"field": "colour"}),
    "renamed": ("rename_field", {"old_name": "customer", "new_name": "client"}),
    "required": ("add_field", {"field": "crew", "definition": {"type": "string", "required": True}}),
    "another type": ("set_field", {"field": "colour", "definition": {"type": "number"}}),
}
BACK: dict[str, tuple[str, dict[str, Any]]] = {
    "removed": ("add_field", {"field": "colour", "definition": {"type": "string"}}),
    "renamed": ("rename_field", {"old_name": "client", "new_name": "customer"}),
    "required": ("remove_field", {"field": "crew"}),
    "another type": ("set_field", {"field": "colour", "definition": {"type": "string"}}),
}


async def record_type(harness: Harness, key: str = "job", fields: list[dict[str, Any]] = JOB) -> str:
    """Activate a record type in a project, and return the project's id."""
    project = expect(await harness.ask("projects.create", {"name": "a project"})).id
    named = {"project_id": project, "key": key}
    expect(await harness.ask("record_types.create", {**named, "schema": {"fields": fields}}))
    expect(await harness.ask("record_types.activate", named))
    return str(project)


async def merge(harness: Harness, project: str, op_type: str, payload: dict[str, Any], key: str = "job") -> None:
    """Merge a change of one op."""
    change = expect(await harness.ask("changes.create", {"project_id": project, "title": "a change"})).id
    target = {"change_id": change, "type": "record_type", "selector": {"record_type_key": key}}
    expect(await harness.ask("changes.add_target", target))
    op = {"change_id": change, "op_type": op_type, "payload": {"record_type": key, **payload}}
    expect(await harness.ask("changes.add_patch_op", op))
    expect(await harness.ask("changes.merge", {"change_id": change}))


def mutation(name: str, operation: str, **more: Any) -> Step:
    return {"name": name, "type": "record_mutation", "collection": "job", "operation": operation, **more}


def lock(name: str = "hold") -> Step:
    return {"name": name, "type": "record_lock", "collection": "job", "id": "J1"}


@each_storage
@pytest.mark.parametrize("merged", [*MERGES, "retired"])
@run_in_mode
async def test_an_older_document_is_locked_changed_and_deleted(harness: Harness, merged: str) -> None:
    project = await record_type(harness)
    old = {"customer": "Lee", "colour": "red", "hours": 1}
    expect(await harness.keep("job", old, "J1"))
    if merged == "retired":
        expect(await harness.ask("record_types.retire", {"project_id": project, "key": "job"}))
    else:
        await merge(harness, project, *MERGES[merged])

    run = await harness.run(lock(), mutation("more", "update", id="J1", data={"hours": 2}))

    assert statuses(run) == [("hold", "succeeded"), ("more", "succeeded")], run.error
    assert (await harness.read("job", "J1"))["data"] == {**old, "hours": 2}
    run = await harness.run(mutation("wrong", "update", id="J1", data={"hours": "two", "customer": "Kim"}))
    assert (run.status, run.paused_for, run.error["code"]) == ("paused", "failure", "invalid_input")
    assert "hours" in run.error["message"]
    assert ("customer" in run.error["message"]) == (merged == "renamed")
    run = await harness.run(mutation("gone", "delete", id="J1"))
    assert run.status == "succeeded"


@run_in_mode
async def test_a_step_drops_fields_that_the_type_has_lost(harness: Harness) -> None:
    project = await record_type(harness)
    expect(await harness.keep("job", {"customer": "Lee", "colour": "red"}, "J1"))
    await merge(harness, project, *MERGES["removed"])
    await merge(harness, project, *MERGES["renamed"])

    run = await harness.run(
        mutation("move", "update", id="J1", data={"client": "${input.who}"}, drop=["customer", "colour", "nothing"]),
        mutation("less", "update", id="J1", drop=["client"], on_failure="less_still"),
        mutation("less_still", "update", id="J1", data={"client": "Kim"}, drop=["hours"]),
        input={"who": "Lee"},
    )

    assert statuses(run) == [("move", "succeeded"), ("less", "failed"), ("less_still", "succeeded")]
    assert run.steps[1].error["code"] == "invalid_input"
    assert "client: Field required" in run.steps[1].error["message"]
    assert (await harness.read("job", "J1"))["data"] == {"client": "Kim"}


@each_storage
@run_in_mode
async def test_a_dropped_field_may_have_any_form_of_unicode(harness: Harness) -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    documents = {
        "both": {composed: 1, decomposed: 2, "a": 3},
        "composed": {composed: 1, "a": 3},
        "decomposed": {decomposed: 2, "a": 3},
        "moved": {decomposed: 2, "a": 3},
    }
    for id, document in documents.items():
        expect(await harness.keep("job", document, id))

    run = await harness.run(
        *(mutation(id, "update", id=id, drop=[decomposed]) for id in ("both", "composed")),
        mutation("decomposed", "update", id="decomposed", drop=[composed]),
        mutation("moved", "update", id="moved", drop=[decomposed], data={composed: 4}),
    )

    assert run.status == "succeeded", run.error
    found = {id: (await harness.read("job", id))["data"] for id in documents}
    assert found == {
        "both": {composed: 1, "a": 3},
        "composed": {"a": 3},
        "decomposed": {"a": 3},
        "moved": {"a": 3, composed: 4},
    }


@pytest.mark.parametrize("operation", ["insert", "delete"])
@run_in_mode
async def test_only_an_update_drops_fields(harness: Harness, operation: str) -> None:
    step = mutation("one", operation, id="J1", drop=["a"], **({"data": {}} if operation == "insert" else {}))

    error = await harness.ask("workflows.define", {"key": "w", "definition": {"steps": [step]}})

    refused(error, ErrorCode.INVALID_INPUT, "`drop`", operation)


# A run that has waited for its approval


@each_storage
@pytest.mark.parametrize("merged", ["removed", "renamed"])
@run_in_mode
async def test_a_waiting_run_handles_a_document_older_than_the_merge(harness: Harness, merged: str) -> None:
    project = await record_type(harness)
    old = {"customer": "Lee", "colour": "red", "hours": 1}
    expect(await harness.keep("job", old, "J1"))
    change = {"type": "job", "id": "J1", "version": 1, "document": {**old, "hours": 2}}
    asked = await harness.run(action("change", "host.keep_approved", change), lock())
    stepwise = await harness.run(approval("ok"), mutation("more", "update", id="J1", data={"hours": 3}))
    assert (asked.paused_for, stepwise.paused_for) == ("approval", "approval")

    await merge(harness, project, *MERGES[merged])
    expect(await harness.approve(asked))
    await harness.go_on()
    expect(await harness.approve(stepwise))
    await harness.go_on()

    assert (await harness.get(asked.id)).status == "succeeded"
    # The first run has ended, and its lock too.
    assert (await harness.get(stepwise.id)).status == "succeeded"
    assert (await harness.read("job", "J1"))["data"] == {**old, "hours": 3}


@pytest.mark.parametrize("merged", MERGES)
@run_in_mode
async def test_new_writes_of_a_run_follow_the_current_schema(harness: Harness, merged: str) -> None:
    """The approver is told what does not fit. The approval stays open, and counts once a further change has been
    merged."""
    project = await record_type(harness)
    document = {"customer": "Lee", "colour": "red", "hours": 1}
    run = await harness.run(action("make", "host.keep_approved", {"type": "job", "id": "J1", "document": document}))
    op_type, payload = MERGES[merged]
    await merge(harness, project, op_type, payload)
    field = {"removed": "colour", "renamed": "customer", "required": "crew", "another type": "colour"}[merged]

    refused(await harness.approve(run), ErrorCode.INVALID_INPUT, "this is no 'job' document", field)

    assert (await harness.get(run.id)).paused_for == "approval"
    waiting = expect(await harness.ask("approvals.get", {"approval_id": run.approval_id}, by=BOB))
    assert waiting.status == "pending"
    await merge(harness, project, *BACK[merged])
    expect(await harness.approve(run))
    assert (await harness.get(run.id)).status == "succeeded"
    assert (await harness.read("job", "J1"))["data"] == document


@run_in_mode
async def test_an_invalid_write_after_an_approval_pauses_the_run(harness: Harness) -> None:
    project = await record_type(harness)
    make = mutation("make", "insert", id="J1", data={"customer": "Lee", "colour": "red"})
    run = await harness.run(approval("ok"), make)
    await merge(harness, project, *MERGES["removed"])

    expect(await harness.approve(run))
    await harness.go_on()

    run = await harness.get(run.id)
    assert (run.status, run.paused_for, run.step) == ("paused", "failure", "make")
    assert run.error["code"] == "invalid_input"
    assert run.error["details"]["fields"][0]["path"] == "colour"
    await merge(harness, project, "add_field", {"field": "colour", "definition": {"type": "string"}})
    expect(await harness.resume(run))
    await harness.go_on()
    assert (await harness.get(run.id)).status == "succeeded"


@run_in_mode
async def test_a_retired_type_takes_updates_but_no_inserts(harness: Harness) -> None:
    project = await record_type(harness)
    old = {"customer": "Lee"}
    expect(await harness.keep("job", old, "J1"))
    more = {"type": "job", "id": "J1", "version": 1, "document": {**old, "hours": 2}}
    changing = await harness.run(action("change", "host.keep_approved", more))
    making = await harness.run(action("make", "host.keep_approved", {"type": "job", "id": "J2", "document": old}))
    expect(await harness.ask("record_types.retire", {"project_id": project, "key": "job"}))

    expect(await harness.approve(changing))
    refused(await harness.approve(making), ErrorCode.CONFLICT, "'job'", "retired")

    expect(await harness.ask("record_types.activate", {"project_id": project, "key": "job"}))
    expect(await harness.approve(making))
    assert [(await harness.get(run.id)).status for run in (changing, making)] == ["succeeded", "succeeded"]


# Assignments


@each_storage
@pytest.mark.parametrize("merged", ["required", "another type", "activated"])
@run_in_mode
async def test_an_assignment_from_before_a_merge_is_completed(harness: Harness, merged: str) -> None:
    look = {"name": "look", "type": "assignment", "assignee": "human:bob", "title": "Look", "wait": True}
    if merged == "activated":
        run = await harness.run(look)
    project = await record_type(harness, ASSIGNMENTS, [{"name": "title", "type": "text", "required": True}])
    if merged != "activated":
        run = await harness.run(look)
    if merged == "retired":
        expect(await harness.ask("record_types.retire", {"project_id": project, "key": ASSIGNMENTS}))
    elif merged == "required":
        crew = {"field": "crew", "definition": {"type": "string", "required": True}}
        await merge(harness, project, "add_field", crew, ASSIGNMENTS)
    elif merged == "another type":
        title = {"field": "title", "definition": {"type": "number", "required": True}}
        await merge(harness, project, "set_field", title, ASSIGNMENTS)

    payload = {"assignment_id": run.assignment_id, "result": {"found": ["nothing"]}}
    done = expect(await harness.ask("workflow_assignments.complete", payload, by=BOB))

    await harness.go_on()
    assert (done.status, done.result) == ("completed", {"found": ["nothing"]})
    assert (await harness.get(run.id)).status == "succeeded"


@run_in_mode
async def test_a_record_type_of_assignments_checks_its_own_fields(harness: Harness) -> None:
    choices = ["open", "completed"]
    project = await record_type(harness, ASSIGNMENTS, [{"name": "status", "type": "choice", "choices": choices}])
    look = {"name": "look", "type": "assignment", "assignee": "human:bob", "title": "Look"}
    first, second = [(await harness.run(look)).steps[0].output["id"] for _ in range(2)]
    expect(await harness.ask("workflow_assignments.complete", {"assignment_id": first}, by=BOB))
    document = (await harness.read(ASSIGNMENTS, second))["data"]
    refused(await harness.keep(ASSIGNMENTS, {**document, "mine": 1}, second, 1), ErrorCode.INVALID_INPUT, "mine")
    asked = {"project_id": project, "key": ASSIGNMENTS}
    assert expect(await harness.ask("record_types.check_documents", asked)).invalid == ()

    status = {"type": "choice", "choices": ["open", "done"]}
    await merge(harness, project, "set_field", {"field": "status", "definition": status}, ASSIGNMENTS)

    error = await harness.ask("workflow_assignments.complete", {"assignment_id": second}, by=BOB)
    refused(error, ErrorCode.INVALID_INPUT, "status")


@run_in_mode
async def test_the_library_writes_the_documented_assignment_fields(harness: Harness) -> None:
    run = await harness.run({"name": "look", "type": "assignment", "assignee": "human:bob", "title": "Look"})

    document = (await harness.read(ASSIGNMENTS, run.steps[0].output["id"]))["data"]

    assert list(document) == list(OWN_FIELDS[ASSIGNMENTS])
