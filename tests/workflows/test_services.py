"""The services `workflows` and `triggers`: their effects, and their refusals, which write nothing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from returns.result import Success
from uuid_utils import uuid7

from actionengine import ActionError, Actor, ErrorCode, RequestContext, Role, Rule, StaticAuthorizer
from actionengine.testing import run_in_mode
from actionengine.testing.harness import AUDITOR
from actionengine.workflows import Workflow, WorkflowPermissions
from tests.harness import BOT, expect, refused
from tests.workflows.harness import (
    ANN,
    BOB,
    EVE,
    Harness,
    action,
    approval,
    comparison,
    decision,
    each_storage,
    failing_step,
    fields,
    note,
    statuses,
)

INVALID, NOT_FOUND, CONFLICT = ErrorCode.INVALID_INPUT, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT
FORBIDDEN, UNPROCESSABLE = ErrorCode.FORBIDDEN, ErrorCode.UNPROCESSABLE

NO_ID = (str(uuid7()), "", "x" * 200, "größe", "'; DROP TABLE ae_documents; --", "../w", "%", "a\0b", "\ud800")
"""An id that no run, trigger or workflow has."""
WRONG = (None, 7, True, ["w"], {"id": "w"})
"""Values that are no text."""

STEPS = {"steps": [note("a")]}
EVENT = {"type": "event", "event_type": "job.done"}


async def nothing_written(
    harness: Harness, name: str, payloads: Sequence[Any], *codes: ErrorCode, by: Actor = ANN
) -> None:
    """Check that each payload is refused with one of these codes, and writes only a row of the log."""
    before = await harness.dump()
    rows = len(await harness.log())
    for payload in payloads:
        answer = await harness.ask(name, payload, by=by)
        assert isinstance(answer, ActionError), (name, str(payload)[:300], answer)
        assert answer.code in codes, (name, str(payload)[:300], answer.to_dict())
        assert answer.message
    assert await harness.dump() == before
    assert len(await harness.log()) == rows + len(payloads)


# Definitions


@each_storage
@run_in_mode
async def test_each_definition_is_a_new_version_and_a_draft(harness: Harness) -> None:
    versions: list[Workflow] = []
    for name in ("one", "two", "three"):
        payload = {"key": "w", "name": name.title(), "definition": {"steps": [note(name)]}}
        versions.append(expect(await harness.ask("workflows.define", payload)))
    assert [(each.version, each.status, each.name) for each in versions] == [
        (1, "draft", "One"),
        (2, "draft", "Two"),
        (3, "draft", "Three"),
    ]
    assert versions[0].defined_by == "human:ann"

    first = expect(await harness.ask("workflows.activate", {"key": "w", "version": 1}))
    newest = expect(await harness.ask("workflows.activate", {"key": "w"}))
    assert (first.version, first.status, newest.version, newest.status) == (1, "active", 3, "active")
    found = [await harness.ask("workflows.get_definition", {"key": "w", "version": number}) for number in (1, 2, 3)]
    assert [each.status for each in found] == ["retired", "draft", "active"]
    assert expect(await harness.ask("workflows.get_definition", {"key": "w"})).version == 3
    assert found[0].definition == {"steps": [note("one")]}


@run_in_mode
async def test_an_older_version_can_be_put_into_use_again(harness: Harness) -> None:
    key = await harness.define(note("old"))
    await harness.define(note("new"), key=key)

    expect(await harness.ask("workflows.activate", {"key": key, "version": 1}))
    run = await harness.drive(await harness.start(key))

    assert (run.workflow_version, statuses(run)) == (1, [("old", "succeeded")])
    found = [await harness.ask("workflows.get_definition", {"key": key, "version": number}) for number in (1, 2)]
    assert [each.status for each in found] == ["active", "retired"]


@run_in_mode
async def test_activating_what_is_active_changes_nothing(harness: Harness) -> None:
    key = await harness.define(note("a"), trigger=EVENT)
    before = await harness.dump()

    assert expect(await harness.ask("workflows.activate", {"key": key})).status == "active"

    assert await harness.dump() == before


@each_storage
@run_in_mode
async def test_workflows_are_listed_by_key_a_page_at_a_time(harness: Harness) -> None:
    for key in ("b", "ä", "a", "C"):
        await harness.define(note("x"), key=key)
    await harness.define(note("y"), key="a")

    first = expect(await harness.ask("workflows.list_definitions", {"limit": 3}))
    rest = expect(await harness.ask("workflows.list_definitions", {"limit": 3, "after": first[-1].key}))

    assert [(each.key, each.version) for each in (*first, *rest)] == [("C", 1), ("a", 2), ("b", 1), ("ä", 1)]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (action("a", "host.nothing"), "there is no action host.nothing"),
        (action("a", "nobody.echo"), "there is no action nobody.echo"),
        (action("a", "host.ecoh"), "there is no action host.ecoh; did you mean 'echo'?"),
        (action("a", "workflow_steps.perform"), "advances runs"),
        (action("a", "host.people"), "only for human actors"),
        (action("a", "approvals.approve"), "only for human, integration, system actors"),
    ],
)
@run_in_mode
async def test_an_action_not_for_workflows_is_refused_on_definition(harness: Harness, step: Any, said: str) -> None:
    before = await harness.dump()

    error = refused(await harness.ask("workflows.define", {"key": "w", "definition": {"steps": [step]}}), INVALID, said)

    assert "the step 'a'" in error.message
    assert error.details["fields"][0]["path"] == "definition.steps.a.action"
    assert await harness.dump() == before


@each_storage
@run_in_mode
async def test_bad_definitions_are_refused_and_leave_nothing(harness: Harness) -> None:
    deep: Any = []
    for _ in range(70):
        deep = [deep]
    bad = [
        {},
        {"steps": []},
        {"steps": [note("a", next="b")]},
        {"steps": [note("a", next="end"), note("b")]},
        {"steps": [note("a", next="a")]},
        {"steps": [decision("a", (comparison("input.x", "eq", 1), "end"))], "input": fields(n="number")},
        {"steps": [note("a")], "input": fields(n="integer")},
        {"steps": [note("a")], "input": {"fields": [{"name": "n", "type": "number"}] * 2}},
        {"steps": [note("a")], "max_steps": 0},
        {"steps": [note("a")], "trigger": {"type": "schedule", "schedule": "never"}},
        {"steps": [note("a")], "more": True},
        {"steps": [action("a", "host.echo", deep)]},
        {"steps": [action("a", "host.echo", "x" * 300_000)]},
        {"steps": [action("a", "host.echo", "a\0b")]},
        {"steps": [action("a", "host.echo", float("nan"))]},
    ]

    await nothing_written(harness, "workflows.define", [{"key": "w", "definition": each} for each in bad], INVALID)
    await nothing_written(
        harness, "workflows.define", [{"key": "w", "definition": each} for each in WRONG[:4]], INVALID
    )
    refused(await harness.ask("workflows.get_definition", {"key": "w"}), NOT_FOUND, "there is no workflow 'w'")


@run_in_mode
async def test_a_key_is_a_name(harness: Harness) -> None:
    keys = ("", " w", "w\n", "a/b", "a.b", "x" * 101, "a\0b", *WRONG)

    await nothing_written(harness, "workflows.define", [{"key": key, "definition": STEPS} for key in keys], INVALID)
    assert expect(await harness.ask("workflows.define", {"key": "Größe 1 {x} ${y}", "definition": STEPS})).version == 1


@each_storage
@run_in_mode
async def test_concurrent_definitions_get_their_own_versions(harness: Harness) -> None:
    answers = await harness.backend.gather(
        *(harness.ask("workflows.define", {"key": "w", "definition": STEPS}, by=Actor.human(f"h{n}")) for n in range(4))
    )

    versions = [each.version for each in answers if isinstance(each, Workflow)]
    assert {each.code for each in answers if isinstance(each, ActionError)} <= {CONFLICT}
    assert sorted(versions) == list(range(1, len(versions) + 1))
    assert versions
    assert expect(await harness.ask("workflows.get_definition", {"key": "w"})).version == len(versions)


@each_storage
@run_in_mode
async def test_concurrent_activations_leave_one_active_version(harness: Harness) -> None:
    for _ in range(3):
        expect(await harness.ask("workflows.define", {"key": "w", "definition": {**STEPS, "trigger": EVENT}}))

    answers = await harness.backend.gather(
        *(harness.ask("workflows.activate", {"key": "w", "version": number}) for number in (1, 2, 3))
    )

    assert {answer.code for answer in answers if isinstance(answer, ActionError)} <= {CONFLICT}
    found = [await harness.ask("workflows.get_definition", {"key": "w", "version": number}) for number in (1, 2, 3)]
    assert [each.status for each in found].count("active") == 1
    active = next(each.version for each in found if each.status == "active")
    assert expect(await harness.ask("workflows.start", {"key": "w"})).workflow_version == active
    assert len(expect(await harness.ask("triggers.list", {"key": "w"}))) == 1


@run_in_mode
async def test_missing_workflows_runs_and_triggers_are_not_found(harness: Harness) -> None:
    await harness.define(note("a"), key="w")
    keys = ["nobody", "w ", "W", "x" * 100]

    for name in ("get_definition", "activate", "start"):
        codes = (NOT_FOUND, INVALID)
        await nothing_written(harness, f"workflows.{name}", [{"key": key} for key in (*keys, *WRONG)], *codes)
    missing = [{"key": "w", "version": number} for number in (2, 10**6, 10**30)]
    for name in ("get_definition", "activate"):
        await nothing_written(harness, f"workflows.{name}", missing, NOT_FOUND)
        await nothing_written(harness, f"workflows.{name}", [{"key": "w", "version": n} for n in (0, -1, 1.5)], INVALID)
    for name in ("get", "resume", "cancel"):
        payloads = [{"run_id": id} for id in (*NO_ID, *WRONG)]
        await nothing_written(harness, f"workflows.{name}", payloads, NOT_FOUND, INVALID)
    for name in ("get", "enable", "disable", "delete"):
        payloads = [{"trigger_id": id} for id in (*NO_ID, *WRONG)]
        await nothing_written(harness, f"triggers.{name}", payloads, NOT_FOUND, INVALID)
    await nothing_written(harness, "triggers.create", [{"key": "nobody", "trigger": EVENT}], NOT_FOUND)


# Runs


@run_in_mode
async def test_a_run_has_its_input_and_the_actor_that_started_it(harness: Harness) -> None:
    key = await harness.define(note("a"), input=fields(n="number!", who="string"))

    run = expect(await harness.ask("workflows.start", {"key": key, "input": {"n": 1}}, by=BOT))

    assert (run.status, run.step, run.position, run.started_by) == ("running", "a", 0, "ai:bot")
    assert (run.input, run.workflow_version, run.trigger_id) == ({"n": 1}, 1, None)
    [told] = await harness.payloads("workflows.started")
    assert told == {"run_id": run.id, "workflow_key": key, "dispatch": 0}


@run_in_mode
async def test_an_input_that_does_not_fit_is_refused_by_field(harness: Harness) -> None:
    key = await harness.define(note("a"), input=fields(n="number!", who="string", at="date"))
    bad: list[dict[str, Any]] = [
        {},
        {"n": "1"},
        {"n": True},
        {"n": None},
        {"n": 1, "m": 2},
        {"n": 1, "at": "soon"},
        {"n": 1, "who": "x" * 70_000},
    ]

    await nothing_written(harness, "workflows.start", [{"key": key, "input": each} for each in bad], INVALID)
    await nothing_written(harness, "workflows.start", [{"key": key, "input": each} for each in WRONG[:4]], INVALID)
    error = refused(await harness.ask("workflows.start", {"key": key, "input": {"n": "1"}}), INVALID, "'" + key + "'")
    assert [each["path"] for each in error.details["fields"]] == ["n"]


@run_in_mode
async def test_a_draft_is_not_started(harness: Harness) -> None:
    expect(await harness.ask("workflows.define", {"key": "w", "definition": STEPS}))

    await nothing_written(harness, "workflows.start", [{"key": "w"}], CONFLICT)
    refused(await harness.ask("workflows.start", {"key": "w"}), CONFLICT, "no version of the workflow 'w' is active")


@each_storage
@run_in_mode
async def test_a_start_with_a_key_is_one_run(harness: Harness) -> None:
    key = await harness.define(note("a"))

    first, again = [expect(await harness.ask("workflows.start", {"key": key}, key="once")) for _ in range(2)]
    other = await harness.ask("workflows.start", {"key": key, "input": {"n": 1}}, key="once")
    at_once = await harness.backend.gather(
        *(harness.ask("workflows.start", {"key": key}, key="twice") for _ in range(3))
    )

    assert first.id == again.id
    refused(other, ErrorCode.IDEMPOTENCY_MISMATCH)
    assert len({expect(each).id for each in at_once}) == 1
    assert len(expect(await harness.ask("workflows.list", {}))) == 2
    assert len(await harness.payloads("workflows.started")) == 2


@each_storage
@run_in_mode
async def test_a_nested_start_takes_effect_if_the_outer_action_commits(harness: Harness) -> None:
    key = await harness.define(note("inside"))
    steps = [["host.note", {"n": 1}], ["workflows.start", {"key": key}]]
    before = await harness.dump()

    refused(await harness.ask("host.run", {"steps": steps, "fails": True}), UNPROCESSABLE)
    await harness.go_on()
    assert await harness.dump() == before

    assert expect(await harness.ask("host.run", {"steps": steps})) == ["succeeded", "succeeded"]
    assert await harness.read("notes") == [{"n": 1}]
    await harness.go_on()
    [run] = expect(await harness.ask("workflows.list", {"key": key}))
    assert run.status == "succeeded"
    assert await harness.read("notes") == [{"n": 1}, {"step": "inside"}]


@run_in_mode
async def test_what_is_not_paused_is_not_resumed(harness: Harness) -> None:
    running = await harness.get(await harness.start(await harness.define(note("a"))))
    done = await harness.run(note("a"))
    failed = await harness.run(failing_step("a", on_failure="fail"))
    waiting = await harness.run(approval("ok"))
    cancelled = await harness.run(approval("ok"))
    expect(await harness.cancel(cancelled))

    runs = [running, done, failed, waiting, cancelled]
    await nothing_written(harness, "workflows.resume", [{"run_id": run.id} for run in runs], CONFLICT)
    for run, status in ((running, "running"), (done, "succeeded"), (failed, "failed"), (cancelled, "cancelled")):
        refused(await harness.resume(run), CONFLICT, f"is {status}, not paused", run.id)


@run_in_mode
async def test_an_ended_run_cannot_be_cancelled(harness: Harness) -> None:
    done = await harness.run(note("a"))
    failed = await harness.run(failing_step("a", on_failure="fail"))
    paused = await harness.run(failing_step("a"))

    await nothing_written(harness, "workflows.cancel", [{"run_id": run.id} for run in (done, failed)], CONFLICT)
    first = expect(await harness.ask("workflows.cancel", {"run_id": paused.id, "reason": "of no use"}, by=EVE))
    before = await harness.dump()
    again = expect(await harness.cancel(paused))

    assert first == again
    assert (first.status, first.step, first.paused_for) == ("cancelled", None, None)
    assert first.error["message"] == "cancelled by human:eve: of no use"
    assert first.ended_at is not None
    assert await harness.dump() == before


@each_storage
@run_in_mode
async def test_concurrent_resumes_enqueue_the_run_once(harness: Harness) -> None:
    run = await harness.run(action("a", "host.flaky", {"name": "x", "times": 1, "code": "unprocessable"}))

    answers = await harness.backend.gather(*(harness.resume(run, by=Actor.human(f"h{n}")) for n in range(3)))

    assert [isinstance(answer, ActionError) for answer in answers].count(False) == 1
    assert {answer.code for answer in answers if isinstance(answer, ActionError)} == {CONFLICT}
    assert [told["dispatch"] for told in await harness.payloads("workflows.resumed")] == [1]
    await harness.go_on()
    assert (await harness.get(run.id)).status == "succeeded"


@each_storage
@run_in_mode
async def test_runs_are_listed_oldest_first_by_workflow_and_status(harness: Harness) -> None:
    one, two = await harness.define(note("a")), await harness.define(failing_step("a"))
    ids = [await harness.start(key) for key in (one, two, one, two, one)]
    for id in ids[:4]:
        await harness.drive(id)

    async def listed(**query: Any) -> list[str]:
        return [run.id for run in expect(await harness.ask("workflows.list", query))]

    assert await listed() == ids
    assert await listed(key=one) == [ids[0], ids[2], ids[4]]
    assert await listed(status="paused") == [ids[1], ids[3]]
    assert await listed(key=one, status="running") == [ids[4]]
    assert await listed(key="nobody") == []
    assert await listed(limit=2) == ids[:2]
    assert await listed(limit=2, after=ids[1]) == ids[2:4]
    assert await listed(after=ids[4]) == []
    await nothing_written(
        harness, "workflows.list", [{"limit": 0}, {"limit": 1001}, {"status": "lost"}, {"x": 1}], INVALID
    )


@each_storage
@run_in_mode
async def test_a_run_shows_the_steps_that_it_has_taken_and_no_others(harness: Harness) -> None:
    key = await harness.define(note("a"), note("b"))
    runs = [await harness.drive(await harness.start(key)) for _ in range(3)]

    for run in runs:
        assert [step.step for step in run.steps] == ["a", "b"]
        assert {(step.type, step.status) for step in run.steps} == {("action", "succeeded")}


@run_in_mode
async def test_the_log_names_workflows_and_runs_as_subjects(harness: Harness) -> None:
    run = await harness.run(failing_step("a"))
    expect(await harness.cancel(run))

    named = [entry.action for entry in await harness.log(subject=f"workflow_run/{run.id}")]
    assert named == ["workflows.start", "workflow_steps.perform", "workflows.cancel"]
    named = [entry.action for entry in await harness.log(subject=f"workflow/{run.workflow_key}")]
    assert named == ["workflows.define", "workflows.activate", "workflows.start"]


# Triggers


@run_in_mode
async def test_triggers_are_made_listed_switched_and_deleted(harness: Harness) -> None:
    key, other = await harness.define(note("a")), await harness.define(note("a"))
    schedule = {"type": "schedule", "schedule": "0 9 * * *", "timezone": "Europe/Berlin"}

    event = expect(await harness.ask("triggers.create", {"key": key, "trigger": EVENT}))
    timed = expect(await harness.ask("triggers.create", {"key": key, "trigger": schedule}))
    apart = expect(await harness.ask("triggers.create", {"key": other, "trigger": EVENT}))

    assert (event.status, event.trigger, event.from_definition, event.workflow_key) == ("active", EVENT, False, key)
    assert expect(await harness.ask("triggers.get", {"trigger_id": timed.id})) == timed
    listed = [each.id for each in expect(await harness.ask("triggers.list", {}))]
    assert listed == [event.id, timed.id, apart.id]
    assert [each.id for each in expect(await harness.ask("triggers.list", {"key": other}))] == [apart.id]
    for _ in range(2):
        assert expect(await harness.ask("triggers.disable", {"trigger_id": timed.id})).status == "disabled"
    assert expect(await harness.ask("triggers.enable", {"trigger_id": timed.id})).status == "active"
    assert expect(await harness.ask("triggers.delete", {"trigger_id": timed.id})).id == timed.id
    refused(await harness.ask("triggers.delete", {"trigger_id": timed.id}), NOT_FOUND)
    told = [each["schedule"] for each in await harness.payloads("triggers.changed") if each["trigger_id"] == timed.id]
    assert told == ["0 9 * * *", None, "0 9 * * *", None]


@run_in_mode
async def test_a_bad_trigger_is_refused_and_leaves_nothing(harness: Harness) -> None:
    key = await harness.define(note("a"))
    deep = comparison("input.payload.n", "exists")
    for _ in range(12):
        deep = {"not": deep}
    bad: list[Any] = [
        {},
        {"type": "event"},
        EVENT | {"event_type": ""},
        EVENT | {"when": {"field": "payload.n", "op": "exists"}},
        EVENT | {"when": deep},
        EVENT | {"input": {"n": "${input.nobody}"}},
        EVENT | {"input": {"n": "${input.payload"}},
        EVENT | {"more": 1},
        {"type": "schedule", "schedule": "* * *"},
        {"type": "schedule", "schedule": "0 9 * * *", "timezone": "Nowhere"},
        {"type": "schedule", "schedule": "0 9 * * *", "timezone": "localtime"},
        {"type": "schedule", "schedule": "*/61 * * * *"},
        {"type": "by hand"},
        *WRONG,
    ]

    await nothing_written(harness, "triggers.create", [{"key": key, "trigger": each} for each in bad], INVALID)


@run_in_mode
async def test_the_trigger_of_a_definition_follows_its_version(harness: Harness) -> None:
    key = await harness.define(note("a"), trigger=EVENT)
    own = expect(await harness.ask("triggers.create", {"key": key, "trigger": EVENT | {"event_type": "own"}}))

    async def listed() -> list[tuple[str, bool]]:
        found = expect(await harness.ask("triggers.list", {"key": key}))
        return [(each.trigger["event_type"], each.from_definition) for each in found]

    assert sorted(await listed()) == [("job.done", True), ("own", False)]
    await harness.define(note("a"), key=key, trigger=EVENT | {"event_type": "job.gone"})
    assert sorted(await listed()) == [("job.gone", True), ("own", False)]
    await harness.define(note("a"), key=key)
    assert await listed() == [("own", False)]
    expect(await harness.ask("workflows.activate", {"key": key, "version": 1}))
    assert sorted(await listed()) == [("job.done", True), ("own", False)]
    assert expect(await harness.ask("triggers.get", {"trigger_id": own.id})).status == "active"


# Permissions


ACTIONS = {
    "workflows.define": "define",
    "workflows.activate": "activate",
    "workflows.get_definition": "read",
    "workflows.list_definitions": "read",
    "workflows.start": "start",
    "workflows.resume": "manage",
    "workflows.cancel": "manage",
    "workflows.get": "read",
    "workflows.list": "read",
    "workflows.purge": "manage",
    "triggers.create": "activate",
    "triggers.get": "read",
    "triggers.list": "read",
    "triggers.enable": "activate",
    "triggers.disable": "activate",
    "triggers.delete": "activate",
    "workflow_assignments.list": "read",
    "workflow_assignments.get": "read",
    "workflow_assignments.complete": "complete",
}
EACH = ("define", "activate", "read", "start", "manage", "complete")


@pytest.mark.parametrize("authorizer", [None, StaticAuthorizer()], ids=["rbac", "static"])
@run_in_mode
async def test_each_action_asks_for_its_permission(harness: Harness, authorizer: Any) -> None:
    demanding = harness.another(permissions=WorkflowPermissions(), authorizer=authorizer)
    payloads = await _payloads(demanding)
    assert payloads.keys() == ACTIONS.keys()

    for name, part in ACTIONS.items():
        without = Actor.human("h", permissions=[f"workflows.{each}" for each in EACH if each != part])
        refused(await demanding.ask(name, payloads[name], by=without), FORBIDDEN)
        one = Actor.human("h", permissions=[f"workflows.{part}"])
        answer = await demanding.ask(name, payloads[name], by=one)
        assert not (isinstance(answer, ActionError) and answer.code is FORBIDDEN), (name, answer)


async def _payloads(harness: Harness) -> dict[str, Any]:
    """A payload for each action, about existing things."""
    root = AUDITOR
    expect(await harness.ask("workflows.define", {"key": "w", "definition": STEPS}, by=root))
    expect(await harness.ask("workflows.activate", {"key": "w"}, by=root))
    run = expect(await harness.ask("workflows.start", {"key": "w"}, by=root))
    trigger = expect(await harness.ask("triggers.create", {"key": "w", "trigger": EVENT}, by=root))
    special: dict[str, Any] = {
        "workflows.define": {"key": "w", "definition": STEPS},
        "triggers.create": {"key": "w", "trigger": EVENT},
    }
    for name in ACTIONS:
        service, _, action_name = name.partition(".")
        if "list" in action_name:
            special[name] = {}
        elif service == "triggers":
            special.setdefault(name, {"trigger_id": trigger.id})
        elif service == "workflow_assignments":
            special[name] = {"assignment_id": "x"}
        elif action_name == "purge":
            special[name] = {"ended_before": "2020-01-01T00:00:00Z"}
        elif action_name in ("resume", "cancel", "get"):
            special[name] = {"run_id": run.id}
        else:
            special.setdefault(name, {"key": "w"})
    return special


@pytest.mark.parametrize("demanding", [False, True], ids=["no permissions", "permissions"])
@run_in_mode
async def test_an_ai_may_define_and_start_but_not_activate(harness: Harness, demanding: bool) -> None:
    harness = harness.another(permissions=WorkflowPermissions()) if demanding else harness
    bot = Actor.ai("bot", permissions=[f"workflows.{each}" for each in EACH])
    payloads = await _payloads(harness)

    for name, part in ACTIONS.items():
        answer = await harness.ask(name, payloads[name], by=bot)
        if part == "activate" or name == "workflows.purge":
            refused(answer, FORBIDDEN, "not for ai actors")
        else:
            assert not (isinstance(answer, ActionError) and answer.code is FORBIDDEN), (name, answer)
    assert expect(await harness.ask("workflows.get_definition", {"key": "w"}, by=bot)).status == "draft"


@run_in_mode
async def test_a_role_can_be_for_one_workflow(harness: Harness) -> None:
    role = Role(allow=[Rule("workflows.start", resource="workflow/mine")])
    demanding = harness.another(permissions=WorkflowPermissions(), authorizer=StaticAuthorizer({"starter": role}))
    for key in ("mine", "theirs"):
        expect(await demanding.ask("workflows.define", {"key": key, "definition": STEPS}, by=AUDITOR))
        expect(await demanding.ask("workflows.activate", {"key": key}, by=AUDITOR))
    starter = Actor.human("s", roles=["starter"])

    expect(await demanding.ask("workflows.start", {"key": "mine"}, by=starter))
    refused(await demanding.ask("workflows.start", {"key": "theirs"}, by=starter), FORBIDDEN)


@run_in_mode
async def test_a_workflow_writes_the_documents_its_roles_allow(harness: Harness) -> None:
    roles = {"clerk": Role(allow=["records.orders.insert"])}
    demanding = harness.another(
        permissions=WorkflowPermissions(), authorizer=StaticAuthorizer(roles), roles=lambda tenant, key: ["clerk"]
    )
    system = Actor.system("ops")

    async def run_of(collection: str) -> Any:
        step = {"name": "put", "type": "record_mutation", "operation": "insert", "collection": collection, "data": {}}
        key = f"put-{collection}"
        for name, payload in (
            ("workflows.define", {"key": key, "definition": {"steps": [step]}}),
            ("workflows.activate", {"key": key}),
        ):
            expect(await demanding.ask(name, payload, by=system))
        run = expect(await demanding.ask("workflows.start", {"key": key}, by=system))
        await demanding.executor.execute_run(demanding.tenant, key, run.id)
        return expect(await demanding.ask("workflows.get", {"run_id": run.id}, by=system))

    assert (await run_of("orders")).status == "succeeded"
    refused_run = await run_of("payments")
    assert (refused_run.status, refused_run.error["code"]) == ("paused", "forbidden")
    assert await harness.read("payments") == []


@run_in_mode
async def test_a_rule_about_one_workflow_is_about_its_triggers_too(harness: Harness) -> None:
    roles = {
        "manager": Role(allow=["workflows.*"], deny=[Rule("workflows.activate", "workflow/payroll")]),
        "owner": Role(allow=[Rule("workflows.activate", "workflow/mine")]),
    }
    demanding = harness.another(permissions=WorkflowPermissions(), authorizer=StaticAuthorizer(roles))
    for key in ("mine", "payroll"):
        expect(await demanding.ask("workflows.define", {"key": key, "definition": STEPS}, by=AUDITOR))

    for role in roles:
        who = Actor.human("h", roles=[role])
        made = expect(await demanding.ask("triggers.create", {"key": "mine", "trigger": EVENT}, by=who))
        assert made.workflow_key == "mine"
        refused(await demanding.ask("triggers.create", {"key": "payroll", "trigger": EVENT}, by=who), FORBIDDEN)


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("next", {"run_id": "$run"}),
        ("perform", {"run_id": "$run", "position": 0}),
        ("fail_step", {"run_id": "$run", "position": 0, "error": {"code": "conflict", "message": "m"}}),
        ("await_approval", {"run_id": "$run", "position": 0, "approval_id": "x"}),
        (
            "fire",
            {"trigger_id": "$trigger", "input": {}, "started_by": "x", "cause": "x", "at": "2030-01-31T09:00:00Z"},
        ),
        ("decline", {"approval_id": "$approval"}),
    ],
)
@run_in_mode
async def test_only_its_own_workflow_advances_a_run(harness: Harness, name: str, payload: Any) -> None:
    key = await harness.define(note("a"))
    waiting = await harness.run(approval("ok"))
    expect(await harness.reject(waiting))
    trigger = expect(await harness.ask("triggers.create", {"key": key, "trigger": EVENT}))
    ids = {"$run": await harness.start(key), "$trigger": trigger.id, "$approval": waiting.approval_id}
    filled = {field: ids.get(value, value) if isinstance(value, str) else value for field, value in payload.items()}

    for by in (ANN, BOB, BOT, Actor.system(), Actor.integration("i")):
        await nothing_written(harness, f"workflow_steps.{name}", [filled], FORBIDDEN, by=by)
    await nothing_written(harness, f"workflow_steps.{name}", [filled], FORBIDDEN, by=Actor.workflow("another"))


@run_in_mode
async def test_a_step_fails_only_with_a_valid_error(harness: Harness) -> None:
    key = await harness.define(note("a"))
    payload = {"run_id": await harness.start(key), "position": 0, "error": {}}

    await nothing_written(harness, "workflow_steps.fail_step", [payload], INVALID, by=Actor.workflow(key))


@run_in_mode
async def test_a_trigger_refuses_an_impossible_cause(harness: Harness) -> None:
    key = await harness.define(note("a"))
    trigger = expect(await harness.ask("triggers.create", {"key": key, "trigger": EVENT}))
    fire = {"trigger_id": trigger.id, "input": {}, "started_by": "x", "cause": "x", "at": "2030-01-31T09:00:00Z"}
    wrong = [{**fire, "at": "1969-12-31T23:59:59Z"}, {**fire, "at": -1}, {**fire, "action_id": "x"}]

    await nothing_written(harness, "workflow_steps.fire", wrong, INVALID, by=Actor.workflow(key))


def test_services_can_be_asked_what_they_do(harness: Harness) -> None:
    for service in ("workflows", "triggers", "workflow_assignments"):
        summaries = harness.engine.get_service_actions(service)
        assert isinstance(summaries, Success)
        assert {f"{service}.{each.name}" for each in summaries.unwrap()} == {
            name for name in ACTIONS if name.startswith(f"{service}.")
        }


@each_storage
@run_in_mode
async def test_runs_are_listed_newest_first_on_request(harness: Harness) -> None:
    key = await harness.define(note("one"))
    first, second, third = [await harness.start(key) for _ in range(3)]
    await harness.drive(second)

    async def listed(**query: Any) -> list[str]:
        return [run.id for run in expect(await harness.ask("workflows.list", {"key": key, **query}))]

    assert await listed() == [first, second, third]
    assert await listed(newest_first=True, limit=2) == [third, second]
    assert await listed(newest_first=True, limit=2, after=second) == [first]
    assert await listed(newest_first=True, status="running") == [third, first]


@each_storage
@run_in_mode
async def test_a_purge_removes_old_runs_with_their_steps(harness: Harness) -> None:
    key = await harness.define(note("one"), approval("ok"), note("two"))
    runs = [await harness.drive(await harness.start(key)) for _ in range(5)]
    waiting, *ended = runs
    for run in ended:
        expect(await harness.cancel(run))
    ends = [(await harness.get(run.id)).ended_at for run in ended]

    async def purge(ended_before: datetime, limit: int = 100) -> tuple[int, bool]:
        payload = {"ended_before": ended_before.isoformat(), "limit": limit}
        purged = expect(await harness.ask("workflows.purge", payload))
        return purged.runs, purged.has_more

    assert await purge(ends[0]) == (0, False)
    assert await purge(ends[3], limit=2) == (2, True)
    assert await purge(ends[3], limit=2) == (1, False)
    left = [run.id for run in expect(await harness.ask("workflows.list", {}))]
    assert left == [waiting.id, ended[3].id]
    assert {id.partition("/")[0] for id in await harness.backend.ids("ae_workflow_steps")} == set(left)
    refused(await harness.ask("workflows.get", {"run_id": ended[0].id}), ErrorCode.NOT_FOUND)
    assert await harness.log(subject=f"workflow_run/{ended[0].id}") != []
    expect(await harness.approve(waiting))


@each_storage
@run_in_mode
async def test_a_purge_finds_runs_that_began_after_their_cause(harness: Harness) -> None:
    key = await harness.define(note("one"))
    trigger = expect(await harness.ask("triggers.create", {"key": key, "trigger": EVENT}))
    first, second = [await harness.drive(await harness.start(key)) for _ in range(2)]
    earlier = first.created_at - timedelta(hours=1)
    fire = {"trigger_id": trigger.id, "input": {}, "started_by": "x", "at": earlier.isoformat()}
    for cause in "abc":
        id = expect(await harness.ask("workflow_steps.fire", {**fire, "cause": cause}, by=Actor.workflow(key)))
        await harness.drive(id)

    purge = {"ended_before": (second.ended_at + timedelta(microseconds=1)).isoformat(), "limit": 1}
    assert expect(await harness.ask("workflows.purge", purge)).has_more
    assert not expect(await harness.ask("workflows.purge", purge)).has_more

    left = {run.id for run in expect(await harness.ask("workflows.list", {}))}
    assert len(left) == 3
    assert not left & {first.id, second.id}


@run_in_mode
async def test_a_purge_records_its_actor_and_reason(harness: Harness) -> None:
    run = await harness.run(note("one"))
    purge = {"ended_before": datetime.now(UTC).isoformat()}

    for reason in ("spring cleaning", "nothing is left"):
        expect(await harness.ask("workflows.purge", purge, by=BOB, reason=reason))

    *_, entry = await harness.log(subject=f"workflow_run/{run.id}")
    assert (entry.action, entry.actor_id, entry.reason) == ("workflows.purge", "bob", "spring cleaning")
    assert await harness.payloads("workflows.purged") == [{"run_ids": [run.id]}]
    assert await harness.payloads("workflows.purge") == []


@each_storage
@run_in_mode
async def test_the_cancelled_approval_of_a_run_records_its_actor(harness: Harness) -> None:
    mode = harness.backend.mode
    # Other tests of this storage leave approvals open.
    before = await harness.storage.backlog(mode)
    run = await harness.run(approval("ok"))

    expect(await harness.cancel(run, by=BOB, reason="not needed"))

    (entry,) = await harness.log(subject=f"approval/{run.approval_id}")
    assert (entry.action, entry.actor_id, entry.reason) == ("workflows.cancel", "bob", "not needed")
    # It counts as open for no operator.
    assert (await harness.storage.backlog(mode)).approvals == before.approvals


@run_in_mode
async def test_cancelling_a_run_keeps_approvals_of_other_actions(harness: Harness) -> None:
    run_id = await harness.start(await harness.define(note("a")))
    needed = await harness.ask("host.approved", {"n": 1}, by=EVE, key=f"{run_id}/0")

    expect(await harness.ask("workflows.cancel", {"run_id": run_id}, by=BOB))

    asked = {"approval_id": needed.details["approval_id"]}
    assert expect(await harness.ask("approvals.get", asked, by=EVE)).status == "pending"


@each_storage
def test_concurrent_purges_remove_each_run_once(harness: Harness) -> None:
    key = harness.backend.run(harness.define(note("one")))
    runs = [harness.backend.run(harness.drive(harness.backend.run(harness.start(key)))) for _ in range(6)]
    purge = {"ended_before": datetime.now(UTC).isoformat()}

    def remove(_: int) -> int:
        context = RequestContext(harness.tenant, ANN, source="test")
        removed: int = harness.engine.execute_action("workflows", "purge", purge, context).unwrap().runs
        return removed

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(remove, range(4))) == len(runs)
    told = harness.backend.run(harness.payloads("workflows.purged"))
    assert sorted(id for each in told for id in each["run_ids"]) == sorted(run.id for run in runs)
