"""Definitions: their checks, whose errors name the step."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from actionengine import InMemoryStorage
from actionengine.concurrency.run_sync import run_sync
from actionengine.errors import ActionError, ErrorCode
from actionengine.testing import SyncBackend
from actionengine.workflows.definitions.definition import Definition
from actionengine.workflows.definitions.parse import MAX_BYTES, parse_definition, parse_trigger, to_document
from actionengine.workflows.definitions.triggers import MAX_BYTES as MOST_TRIGGER_BYTES
from tests.workflows.harness import (
    Harness,
    Step,
    action,
    approval,
    comparison,
    decision,
    failing_step,
    fields,
    lock,
    mutation,
    note,
)


def defined(*steps: Step, **rest: Any) -> Definition:
    return parse_definition({"steps": list(steps), **rest})


def refusal(*steps: Any, **rest: Any) -> ActionError:
    with pytest.raises(ActionError) as caught:
        parse_definition({"steps": list(steps), **rest})
    error = caught.value
    assert error.code is ErrorCode.INVALID_INPUT
    assert error.message.startswith("the definition")
    return error


ONE = note("one")
EVENT = {"type": "event", "event_type": "job.done"}


def test_steps_follow_in_order_and_the_last_one_ends_the_run() -> None:
    definition = defined(note("a"), note("b", next="d"), note("c", next="end"), note("d", next="c"))

    assert [definition.next_step(name) for name in "abcd"] == ["b", "c", "d", "end"]
    assert definition.step("b").next == "d"
    with pytest.raises(KeyError):
        definition.step("e")


def test_a_definition_is_stored_as_it_was_given() -> None:
    given_definition = {
        "input": fields(n="number!", who="string"),
        "steps": [
            decision("d", ({"not": comparison("input.n", "exists")}, "ok"), otherwise="lock"),
            approval("ok", on_reject="lock", next="lock"),
            lock("lock", "${input.who}"),
            mutation("change", "update", id="${steps.lock.id}", data={"n": "${input.n}"}),
        ],
        "trigger": EVENT | {"input": {"n": "${input.payload.n}"}, "when": comparison("input.subject", "exists")},
        "max_steps": 10,
    }

    definition = parse_definition(given_definition)

    stored = to_document(definition)
    assert stored["steps"] == given_definition["steps"]
    assert stored["trigger"] == given_definition["trigger"]
    assert parse_definition(stored) == definition


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([note("a", next="b")], "the step 'a' leads to 'b' by `next`, but no step has that name"),
        ([note("a", on_failure="b")], "the step 'a' leads to 'b' by `on_failure`, but no step"),
        ([approval("a", on_reject="b")], "the step 'a' leads to 'b' by `on_reject`, but no step"),
        ([decision("a", (comparison("input.n", "exists"), "b"))], "by `branches[0].next`, but no step"),
        ([decision("a", (comparison("input.n", "exists"), "end"), otherwise="b")], "by `otherwise`, but no step"),
        ([decision("a", (comparison("input.n", "exists"), "pause"))], "the step 'a' leads to 'pause'"),
        ([note("a", next="fail")], "the step 'a' leads to 'fail'"),
        ([note("a", on_failure="end")], "the step 'a' has `on_failure` 'end': name 'pause', 'fail' or a step"),
        (
            [approval("a", on_reject="end")],
            "the step 'a' has `on_reject` 'end': name 'pause', 'fail' or a step",
        ),
        ([note("a"), note("b"), note("a")], "2 steps have the name 'a'"),
        ([note("a", next="end"), note("b"), note("c")], "no run reaches 'b', 'c'"),
        ([note("a", next="end"), note("b", next="c"), note("c", next="b")], "no run reaches 'b', 'c'"),
        ([note("a", next="a")], "the cycle a → a has no end: give one of its steps `max_visits`"),
        ([note("a"), note("b"), note("c", next="b")], "the cycle b → c → b has no end"),
        ([note("a", on_failure="a")], "the cycle a → a has no end"),
        ([note("a"), approval("b", on_reject="a")], "the cycle a → b → a has no end"),
        ([note("a"), decision("b", (comparison("input.n", "exists"), "a"))], "the cycle a → b → a has no end"),
        ([note("a", max_visits=1, next="b"), note("b", next="c", on_failure="a"), note("c", next="b")], "b → c → b"),
    ],
)
def test_a_dead_end_or_an_endless_cycle_is_named(steps: list[Step], said: str) -> None:
    assert said in refusal(*steps).message


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([action("a", "host.echo", "${input.x}")], "the step 'a' reads input.x: the input has no field 'x'"),
        ([action("a", "host.echo", [{"b": "x ${input.x}"}])], "the step 'a' reads input.x"),
        ([decision("a", (comparison("input.x", "exists"), "end"))], "the step 'a' reads input.x"),
        ([decision("a", (comparison("input.n", "eq", "${input.x}"), "end"))], "the step 'a' reads input.x"),
        ([decision("a", ({"any": [{"not": comparison("input.x", "missing")}]}, "end"))], "the step 'a' reads input.x"),
        ([action("a", "host.echo", "${run.secret}")], "the step 'a' reads run.secret: a run has id, started_by, work"),
        ([action("a", "host.echo", "${steps.b.id}")], "the step 'a' reads steps.b.id: there is no step 'b'"),
        ([action("a", "host.echo", "${steps.a.id}")], "the step 'a' reads steps.a.id: no run takes 'a' before it"),
        ([action("a", "host.echo", "${steps.b.id}"), note("b")], "no run takes 'b' before it"),
        (
            [
                decision("d", (comparison("input.n", "exists"), "a"), otherwise="b"),
                note("a", next="end"),
                action("b", "host.echo", "${steps.a}"),
            ],
            "the step 'b' reads steps.a: no run takes 'a' before it",
        ),
        (
            [approval("a"), action("b", "host.echo", "${steps.a.by}")],
            "'a' has approval_id, approved_at, approved_by",
        ),
        ([approval("a"), action("b", "host.echo", "${steps.a.error}")], "the step 'b' reads steps.a.error"),
        ([lock("a", "x"), action("b", "host.echo", "${steps.a.n}")], "the output of 'a' has collection, id, version"),
        (
            [
                {"name": "a", "type": "notification", "to": "x", "message": "m"},
                action("b", "host.echo", "${steps.a.to}"),
            ],
            "the output of 'a' has no fields",
        ),
        (
            [decision("a", (comparison("input.n", "exists"), "b"), otherwise="b"), approval("b", message="${run.x}")],
            "b",
        ),
        ([lock("a", "${input.x}")], "the step 'a' reads input.x"),
        ([mutation("a", "insert", data={"n": "${input.x}"})], "the step 'a' reads input.x"),
        ([{"name": "a", "type": "notification", "to": ["b", "${input.x}"], "message": "m"}], "the step 'a' reads"),
    ],
)
def test_an_impossible_reference_is_named_with_its_step(steps: list[Step], said: str) -> None:
    assert said in refusal(*steps, input=fields(n="number")).message


def test_possible_references_are_accepted() -> None:
    rounds = [
        note("a", max_visits=3),
        decision("b", (comparison("steps.c.n", "exists"), "end"), otherwise="c"),
        action("c", "host.echo", "${steps.a.whatever.it.gives}", next="a"),
    ]

    assert defined(*rounds, input=fields(n="number"))
    assert defined(action("a", "host.echo", "${input.anything.at.all}"))
    assert defined(approval("a", on_reject="b"), action("b", "host.echo", "${steps.a.error.message}"))
    assert defined(lock("a", "x", on_failure="b"), action("b", "host.echo", "${steps.a.error}"))
    assert defined(action("a", "host.echo", "${run.id} ${run.workflow} ${run.started_by}", description="at ${5}"))


@pytest.mark.parametrize(
    ("step", "where"),
    [
        (note(""), "name"),
        (note("end"), "name"),
        (note("pause"), "name"),
        (note("fail"), "name"),
        (note("a.b"), "name"),
        (note("a/b"), "name"),
        (note(" a"), "name"),
        (note("a\n"), "name"),
        (note("x" * 101), "name"),
        (note("a", max_visits=0), "max_visits"),
        (note("a", max_visits=1.5), "max_visits"),
        (note("a", next=""), "next"),
        (note("a", next=None, more=1), "more"),
        (note("a") | {"retry": {"attempts": 0}}, "attempts"),
        (note("a") | {"retry": {"attempts": 21}}, "attempts"),
        (note("a") | {"retry": {"seconds": 0}}, "seconds"),
        (note("a") | {"retry": {"seconds": float("inf")}}, "seconds"),
        (action("a", "echo"), "action"),
        (action("a", "host."), "action"),
        (action("a", ".echo"), "action"),
        (action("a", "host.echo.x"), "action"),
        (action("a", "host.${input.action}"), "action"),
        (action("a", "host.echo", "${nobody.n}"), "input"),
        (action("a", "host.echo", {"deep": [{"er": "${input.n"}]}), "input"),
        (action("a", "host.echo", "${}"), "input"),
        (approval("a", permission=""), "permission"),
        (approval("a", permission="${input.p}"), "permission"),
        (approval("a", message=""), "message"),
        (approval("a", expires_after=0), "expires_after"),
        (approval("a", expires_after=10**9), "expires_after"),
        (lock("a", "x", "ae_workflows"), "collection"),
        (lock("a", "x", "${input.collection}"), "collection"),
        (lock("a", ""), "id"),
        (lock("a", "x", operation="steal"), "operation"),
        (mutation("a", "insert", "ae_approvals", data={}), "collection"),
        (mutation("a", "upsert", data={}), "operation"),
        (mutation("a", "insert"), "data"),
        (mutation("a", "update", data={}), "id"),
        (mutation("a", "update", id="x"), "data"),
        (mutation("a", "delete", id="x", data={}), "data"),
        (mutation("a", "delete"), "id"),
        (decision("a"), "branches"),
        (decision("a", (comparison("input.n", "exists"), "end"), next="end"), "next"),
        (decision("a", *[(comparison("input.n", "exists"), "end")] * 51), "branches"),
        ({"name": "a", "type": "notification", "message": "m"}, "to"),
        ({"name": "a", "type": "assignment", "title": "t"}, "assignee"),
        ({"name": "a", "type": "wait"}, "type"),
        ({"name": "a"}, "type"),
        ("a", "steps.0"),
        (None, "steps.0"),
    ],
)
def test_an_invalid_step_is_refused_with_the_wrong_place(step: Any, where: str) -> None:
    error = refusal(step)

    told = [f"{each['path']} {each['reason']}" for each in error.details["fields"]]
    assert any("steps.0" in each and where in each for each in told), told


def test_conditions_stand_in_each_other_ten_deep_and_no_deeper() -> None:
    def nested(count: int) -> Any:
        condition: Any = comparison("input.payload.n", "exists")
        for _ in range(count - 1):
            condition = {"not": condition}
        return condition

    input_condition = {"not": comparison("input.n", "exists")}
    assert defined(decision("a", (input_condition, "end")))
    assert defined(ONE, trigger=EVENT | {"when": nested(10)})
    for deep in (11, 200):
        assert "10 deep" in refusal(ONE, trigger=EVENT | {"when": nested(deep)}).message
        assert "10 deep" in refusal(decision("a", (nested(deep), "end"))).message


def test_the_size_of_a_definition_is_bounded() -> None:
    assert defined(*(note(f"n{number}") for number in range(200)))
    assert "200" in refusal(*(note(f"n{number}") for number in range(201))).message
    assert "at least 1" in refusal().message
    assert "256 KB" in refusal(action("a", "host.echo", "x" * MAX_BYTES)).message


def test_the_size_of_a_trigger_is_bounded() -> None:
    long = {**EVENT, "input": {"text": "x" * MOST_TRIGGER_BYTES}}
    short = {**EVENT, "input": {"text": "x" * (MOST_TRIGGER_BYTES - 100)}}

    assert defined(ONE, trigger=short)
    assert "at most 16 KB" in refusal(ONE, trigger=long).message
    assert "at most 16 KB" in refusal(ONE, trigger={"type": "schedule", "schedule": " ".join("*" * 20_000)}).message
    with pytest.raises(ActionError, match="at most 16 KB"):
        parse_trigger(long)
    assert parse_trigger(long, stored=True), "what is stored is not judged again"


def test_an_error_of_a_part_is_not_repeated_for_the_whole() -> None:
    wrong = decision("a", ({"all": [{"fild": "input.n"}]}, "end"))

    error = refusal(wrong)

    assert [field["path"] for field in error.details["fields"]] == ["steps.0.decision.branches.0.when.all.all.0"]


def test_a_notification_needs_a_recipient() -> None:
    assert "at least 1" in refusal({"name": "tell", "type": "notification", "to": [], "message": "m"}).message


def test_a_definition_that_is_nested_too_deeply_is_refused() -> None:
    deep: Any = "${input.n}"
    for _ in range(3_000):
        deep = [deep]

    with pytest.raises(ActionError) as caught:
        parse_definition({"steps": [action("a", "host.echo", deep)]})

    assert caught.value.code is ErrorCode.INVALID_INPUT


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        ({"type": "cron"}, "trigger"),
        ({"type": "event"}, "event_type"),
        (EVENT | {"input": {"n": "${input.n}"}}, "it has input.actor, input.id"),
        (EVENT | {"input": {"n": "${steps.one.n}"}}, "it has input.actor, input.id"),
        (EVENT | {"when": comparison("run.id", "exists")}, "it has input.actor, input.id"),
        (EVENT | {"input": {}}, "the trigger sets no 'n', which the input requires"),
        (EVENT | {"input": {"n": 1, "m": 2}}, "the trigger sets 'm', but the input has no such field"),
        ({"type": "schedule", "schedule": "often"}, "'often' is not a schedule: write five fields"),
        ({"type": "schedule", "schedule": "61 * * * *"}, "is not a schedule"),
        ({"type": "schedule", "schedule": "R 9 * * *"}, "is not a schedule"),
        ({"type": "schedule", "schedule": "R(0-5) 9 * * *"}, "is not a schedule"),
        ({"type": "schedule", "schedule": "0 0 1 1 * 0 2050"}, "is not a schedule"),
        ({"type": "schedule", "schedule": "0 0 30 2 *"}, "the schedule '0 0 30 2 *' has a time that never comes"),
        ({"type": "schedule", "schedule": "0 9 * * *", "timezone": "Mars/Base"}, "there is no time zone 'Mars/Base'"),
        ({"type": "schedule", "schedule": "0 9 * * *", "timezone": "../../etc/passwd"}, "there is no time zone"),
        (
            {"type": "schedule", "schedule": "0 9 * * *", "input": {"n": "${input.payload}"}},
            "a schedule cannot read",
        ),
        ({"type": "schedule", "schedule": "0 9 * * *", "input": {}}, "the trigger sets no 'n'"),
    ],
)
def test_an_invalid_trigger_is_refused(trigger: Any, said: str) -> None:
    assert said in refusal(ONE, trigger=trigger, input=fields(n="number!", o="string")).message


@pytest.mark.parametrize("schedule", ["0 9 * * MON-FRI", "*/5 * * * *", "30 0 9 * * *", "0 0 29 MAR,APR THU"])
def test_a_schedule_has_five_fields_or_six(schedule: str) -> None:
    trigger = {"type": "schedule", "schedule": schedule, "input": {"at": "${input.scheduled_at}"}}

    assert defined(ONE, trigger=trigger | {"timezone": "Europe/Berlin"}, input=fields(at="datetime"))


@pytest.mark.parametrize("given_definition", [{}, {"steps": []}, {"steps": "a"}, {"steps": {"a": 1}}, {"more": 1}])
def test_an_invalid_definition_is_refused(given_definition: Any) -> None:
    with pytest.raises(ActionError) as caught:
        parse_definition(given_definition)

    assert caught.value.code is ErrorCode.INVALID_INPUT
    assert caught.value.details["fields"]


# Graphs

NAMES = "abcdef"


@st.composite
def graphs(draw: st.DrawFn) -> list[Step]:
    """Draw steps that lead anywhere. In half of the graphs all of them are bounded."""
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    bounds = st.integers(1, 3) if draw(st.booleans()) else st.none() | st.integers(1, 3)
    targets = st.sampled_from([*names, "end"])
    failures = st.sampled_from([*names, "fail", "pause"])
    steps = []
    for name in names:
        bound = draw(bounds)
        more = {"on_failure": draw(failures)} | ({} if bound is None else {"max_visits": bound})
        match draw(st.sampled_from(["good", "bad", "decision", "approval"])):
            case "good":
                steps.append(action(name, "host.echo", 1, next=draw(targets), **more))
            case "bad":
                steps.append(failing_step(name, next=draw(targets), **more))
            case "decision":
                branch = (comparison(f"input.{draw(st.sampled_from('xyz'))}", "eq", True), draw(targets))
                steps.append(decision(name, branch, otherwise=draw(targets), **more))
            case _:
                steps.append(approval(name, next=draw(targets), on_reject=draw(failures), **more))
    return steps


def edges_of(steps: list[Step]) -> dict[str, set[str]]:
    """Return the targets of each step, computed in another way."""
    edges: dict[str, set[str]] = {}
    for step in steps:
        targets = {step.get("next"), step.get("on_failure"), step.get("on_reject"), step.get("otherwise")}
        targets |= {branch["next"] for branch in step.get("branches", ())}
        edges[step["name"]] = {target for target in targets if target} - {"end", "pause", "fail"}
    return edges


def closure(edges: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Return the pairs of steps of which the first leads to the second (Warshall)."""
    reached = {(one, other) for one, others in edges.items() for other in others}
    for middle, one, other in itertools.product(edges, repeat=3):
        if (one, middle) in reached and (middle, other) in reached:
            reached.add((one, other))
    return reached


@given(graphs())
def test_a_graph_needs_reachable_steps_and_bounded_cycles(steps: list[Step]) -> None:
    edges = edges_of(steps)
    first, *others = edges
    reached = closure(edges)
    lost = [name for name in others if (first, name) not in reached]
    bounded = {step["name"] for step in steps if "max_visits" in step}
    unbounded = {name: targets - bounded for name, targets in edges.items() if name not in bounded}
    endless = {one for one, other in closure(unbounded) if one == other}

    if not lost and not endless:
        assert len(defined(*steps).steps) == len(steps)
        return
    message = refusal(*steps).message
    if lost:
        assert f"no run reaches {', '.join(map(repr, lost))}:" in message
    else:
        cycle = message.partition("the cycle ")[2].partition(" has no end")[0].split(" → ")
        assert cycle[0] == cycle[-1]
        assert all(target in unbounded[name] for name, target in itertools.pairwise(cycle))


WORLD = SyncBackend(InMemoryStorage())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(graphs(), st.tuples(*[st.booleans()] * 3), st.integers(1, 40), st.lists(st.booleans(), max_size=30))
def test_every_accepted_graph_ends_within_its_limits(
    steps: list[Step], known: tuple[bool, ...], max_steps: int, decided: list[bool]
) -> None:
    assume(_is_taken(steps))
    run = run_sync(_driven(steps, dict(zip("xyz", known, strict=True)), max_steps, decided))

    assert run.status in ("succeeded", "failed", "paused")
    assert run.position <= max_steps + 1
    for step in steps:
        visits = [taken.step for taken in run.steps].count(step["name"])
        # A run visits a step once more to fail at its limit, and once more if it comes back then.
        assert visits <= step.get("max_visits", max_steps) + 2


def _is_taken(steps: list[Step]) -> bool:
    try:
        return bool(defined(*steps))
    except ActionError:
        return False


async def _driven(steps: list[Step], input: dict[str, bool], max_steps: int, decided: list[bool]) -> Any:
    """Execute a run, and decide its approvals in this order; approve those after the last."""
    harness = Harness(WORLD)
    decisions = iter(decided)
    run = await harness.run(*steps, input=input, max_steps=max_steps)
    while run.paused_for == "approval":
        if next(decisions, True):
            await harness.approve(run)
        else:
            await harness.reject(run)
            await harness.decline(run)
        run = await harness.drive(run.id)
    await harness.in_order_of(run)
    return run


# Values of a wrong type

WAITING = {"name": "a", "type": "assignment", "assignee": "human:bob", "title": "Look"}


@pytest.mark.parametrize("given", ["yes", "true", 0, 1, None], ids=repr)
@pytest.mark.parametrize(
    "place",
    [
        lambda given: {"steps": [WAITING | {"wait": given}]},
        lambda given: {"steps": [approval("a", by_starter=given)]},
        lambda given: {"steps": [ONE], "trigger": EVENT | {"from_workflows": given}},
        lambda given: {"steps": [ONE], "input": {"fields": [{"name": "n", "type": "number", "required": given}]}},
    ],
    ids=["wait", "by_starter", "from_workflows", "required"],
)
def test_flags_refuse_texts_and_numbers(place: Any, given: Any) -> None:
    assert "it is true or false, not " in refusal_of(place(given)).message


@pytest.mark.parametrize("given", ["3", True], ids=repr)
@pytest.mark.parametrize(
    "place",
    [
        lambda given: {"steps": [note("a") | {"retry": {"attempts": given}}]},
        lambda given: {"steps": [note("a") | {"retry": {"seconds": given}}]},
        lambda given: {"steps": [note("a", max_visits=given)]},
        lambda given: {"steps": [approval("a", expires_after=given)]},
        lambda given: {"steps": [lock("a", "x", expires_after=given)]},
        lambda given: {"steps": [ONE], "max_steps": given},
    ],
    ids=["attempts", "seconds", "max_visits", "approval", "lock", "max_steps"],
)
def test_numbers_refuse_texts_and_flags(place: Any, given: Any) -> None:
    shown = "true" if given is True else '"3"'
    assert f"it is a number, not {shown}" in refusal_of(place(given)).message
    assert isinstance(parse_definition(place(3)), Definition)


def refusal_of(given: dict[str, Any]) -> ActionError:
    return refusal(*given.pop("steps"), **given)


def test_names_are_compared_in_one_form_of_unicode() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"

    definition = defined(note(composed, next=decomposed + "2"), note(composed + "2"), input=fields(a="text"))

    assert definition.step(composed).next == composed + "2"
    refusal(note(composed), note(decomposed))
    refusal(note("a\u200b"))
    assert defined(mutation("a", "insert", decomposed, data={})).steps[0].collection == composed  # type: ignore[union-attr]


def test_references_name_steps_and_fields_in_one_form_of_unicode() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    steps = [note(decomposed), approval("b", message=f"${{steps.{decomposed}}} ${{input.{decomposed}}}")]

    assert defined(*steps, input=fields(**{decomposed: "text"})).steps[0].name == composed
    refusal(steps[0], approval("b", message="${steps.cafe}"))


def test_the_permission_of_an_approval_is_taken_as_it_stands() -> None:
    """It is the host's name, and the host spells it in one way."""
    (step,) = defined(approval("a", permission="cafe\u0301.open")).steps

    assert step.permission == "cafe\u0301.open"  # type: ignore[union-attr]
