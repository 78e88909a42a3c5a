"""Limits and corner cases that users rely on: sizes, equality, kept collections, waiting."""

from __future__ import annotations

import asyncio
from threading import Barrier, Thread
from typing import Any

import pytest
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    ErrorCode,
    InMemoryStorage,
    RequestContext,
    create_action,
    create_engine,
    create_service,
)
from actionengine.changes import change_control_services, executor, type_graph
from actionengine.changes.guard import RecordTypeGuard
from actionengine.schemas.schema import Field, Schema
from actionengine.schemas.validation import field_problems, model_of
from actionengine.testing import run_in_mode
from tests.changes.harness import Harness, add, put
from tests.harness import expect, refused


@run_in_mode
async def test_an_execution_with_too_large_snapshots_is_refused(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, *(add("job", f"field {number}", label="x" * 500) for number in range(10)))
    usual, executor.MAX_SNAPSHOT_BYTES = executor.MAX_SNAPSHOT_BYTES, 10_000
    try:
        refused(await harness.ask("changes.preview", {"change_id": change.id}), ErrorCode.UNPROCESSABLE, "several")
        refused(await harness.merge(change), ErrorCode.UNPROCESSABLE, "several")
    finally:
        executor.MAX_SNAPSHOT_BYTES = usual

    assert await harness.status(change) == "ValidationFailed"
    assert await harness.names(project) == ["title", "hours"]


@run_in_mode
async def test_fields_of_base_types_count_as_a_types_own(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    project = await harness.project()
    fields = [{"name": f"f{number}", "type": "string"} for number in range(3)]
    expect(await harness.type(project, "asset", {"fields": fields}))
    expect(await harness.type(project, "crane", {"fields": [{"name": "a", "type": "string"}]}, base="asset"))
    change = await harness.change(project, add("asset", "b"))
    monkeypatch.setattr(type_graph, "MAX_FIELDS", 4)

    two = {"fields": [{"name": name, "type": "string"} for name in ("x", "y")]}
    refused(await harness.type(project, "lift", two, base="asset"), ErrorCode.UNPROCESSABLE, "'lift'", "5 fields", "4")
    refused(
        await harness.ask("changes.preview", {"change_id": change.id}), ErrorCode.UNPROCESSABLE, "'crane'", "5 fields"
    )
    refused(await harness.merge(change), ErrorCode.UNPROCESSABLE, "'crane'", "5 fields", "4")

    assert await harness.names(project, "asset") == ["f0", "f1", "f2"]


@run_in_mode
async def test_a_refusal_shows_some_of_very_many_choices(harness: Harness) -> None:
    choices = [f"choice {number}" for number in range(5_000)]
    project = await harness.job({"fields": [{"name": "a", "type": "choice", "choices": choices}]})

    error = refused(await harness.keep("job", {"a": "another"}), ErrorCode.INVALID_INPUT, "5000 choices: 'choice 0', ")

    assert len(str(error)) < 2_000
    expect(await harness.keep("job", {"a": choices[-1]}))
    await harness.merged(project, put("job", "a", "choice", choices=["x" * 10_000, "b"]))
    error = refused(await harness.keep("job", {"a": "another"}), ErrorCode.INVALID_INPUT, "2 choices: 'xxx")
    assert len(str(error)) < 2_000


@run_in_mode
async def test_an_op_finds_its_target_among_those_of_the_change(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project)
    payload = {"record_type": "job", "field": "a", "definition": {"type": "string"}}
    op = {"change_id": change.id, "op_type": "add_field", "payload": payload}

    refused(await harness.ask("changes.add_patch_op", op), ErrorCode.UNPROCESSABLE, "add_field job.a", "first")
    target = expect(await harness.target(change, "job"))

    assert expect(await harness.ask("changes.add_patch_op", op)).target_id == target.id


@run_in_mode
async def test_a_conflict_shows_some_and_says_how_many(harness: Harness) -> None:
    project = await harness.job()
    late = await harness.change(project, put("job", "hours", "number", label="late"))
    for number in range(25):
        expect(await harness.merge(await harness.change(project, put("job", "hours", "number", label=str(number)))))

    error = refused(await harness.merge(late), ErrorCode.CONFLICT)

    assert (len(error.details["conflicts"]), error.details["conflict_count"]) == (20, 25)


@run_in_mode
async def test_true_is_another_definition_than_one(harness: Harness) -> None:
    project = await harness.job()
    expect(await harness.merge(await harness.change(project, put("job", "hours", "number", most=1))))
    change = await harness.change(project, put("job", "hours", "number", most=True))

    merged = expect(await harness.merge(change))
    back = expect(await harness.ask("changes.plan_compensation", {"change_id": change.id}))
    expect(await harness.merge(back))

    ((changed,),) = (each.changed for each in merged.diff)
    assert (changed.before["most"], changed.after["most"]) == (1, True)
    (hours,) = [field for field in (await harness.get_type(project)).schema["fields"] if field["name"] == "hours"]
    assert hours["most"] is not True


@pytest.mark.parametrize(
    ("type", "text"),
    [
        ("date", "86400"),
        ("date", "-1"),
        ("date", "20240229"),
        ("datetime", "1700000000"),
        ("datetime", "1.5"),
        ("datetime", "2024-02-29"),
        ("datetime", "2024-02-29_12:00"),
    ],
)
def test_a_number_is_no_date_in_disguise(type: str, text: str) -> None:
    model = model_of("job", Schema((Field.of("day", {"type": type}),)))

    (refusal,) = field_problems(model, b'{"day": "%b"}' % text.encode())

    assert refusal["path"] == "day"
    assert text not in refusal["reason"]


def test_an_action_asks_once_for_each_collection_it_writes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    check = RecordTypeGuard.check

    async def counted(guard: RecordTypeGuard, unit_of_work: Any, tenant: Any, collection: str) -> Any:
        asked.append(collection)
        return await check(guard, unit_of_work, tenant, collection)

    monkeypatch.setattr(RecordTypeGuard, "check", counted)

    def fill(data: None, ctx: ActionContext) -> Result[None, ActionError]:
        for _ in range(20):
            ctx.records("jobs").insert({})
            ctx.records("notes").insert({})
        return Success(None)

    office = Office(fill=fill)
    office.do("host", "fill")

    assert asked == ["jobs", "notes"]


def test_a_collection_held_over_a_merge_has_the_new_schema() -> None:
    answers: list[Result[Any, Any]] = []

    def merge_and_write(data: str, ctx: ActionContext) -> Result[None, ActionError]:
        jobs = ctx.records("job")
        jobs.insert({"title": "before"})
        answers.append(ctx.execute("changes", "merge", {"change_id": data}))
        jobs.insert({"title": "after", "crew": "b"})
        return Success(None)

    office = Office(work=merge_and_write)
    office.do("host", "work", office.change())

    assert isinstance(answers[0], Success)


def test_two_actions_that_merge_in_opposite_orders_both_succeed() -> None:
    both = Barrier(2, timeout=60)
    met = set[str]()

    def merge_two(data: list[str], ctx: ActionContext) -> Result[None, ActionError]:
        for change in data:
            ctx.execute("changes", "merge", {"change_id": change}).unwrap()
            if ctx.action_id not in met and len(met) < 2:
                met.add(ctx.action_id)
                both.wait()
        return Success(None)

    office = Office(merge=merge_two)
    one, other = office.change(), office.change("site", key="asset")
    answers: list[Any] = []
    threads = [
        Thread(target=lambda order=order: answers.append(office.ask("host", "merge", order)))
        for order in ([one, other], [other, one])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert [type(answer) for answer in answers] == [Success, Success], answers


def test_a_def_handler_in_a_task_does_not_wait_in_memory() -> None:
    def move(data: str, ctx: ActionContext) -> Result[Any, ActionError]:
        return ctx.execute("changes", "transition", {"change_id": data, "status": "Implementing"})

    async def hold(data: str, ctx: ActionContext) -> Result[Any, ActionError]:
        moved = await ctx.execute_async("changes", "transition", {"change_id": data, "status": "Validating"})
        holding.set()
        await tried.wait()
        return moved

    office = Office(move=move, hold=hold)
    change = office.change()
    holding, tried = asyncio.Event(), asyncio.Event()

    async def race() -> tuple[Any, Any]:
        holder = asyncio.create_task(office.engine.execute_action_async("host", "hold", change, office.request))
        await holding.wait()
        answer = await office.engine.execute_action_async("host", "move", change, office.request)
        tried.set()
        return answer, await holder

    answer, held = asyncio.run(race())

    assert answer.failure().code is ErrorCode.CONFLICT
    assert isinstance(held, Success)


class Office:
    """A host in memory with an active type `job`, a type `asset`, and these handlers."""

    def __init__(self, **handlers: Any) -> None:
        storage = InMemoryStorage()
        actions = [create_action(name=name, description=name, handler=handler) for name, handler in handlers.items()]
        host = create_service(name="host", description="Host", actions=actions)
        self.engine = create_engine(services=[*change_control_services(open=True), host], storage=storage)
        self.request = RequestContext(storage.create_tenant(slug="acme", name="Acme"), Actor.human("ann"))
        self.project = self.do("projects", "create", {"name": "Office"}).id
        schema = {"fields": [{"name": "title", "type": "string"}]}
        for key in ("asset", "job"):
            self.do("record_types", "create", {"project_id": self.project, "key": key, "schema": schema})
        self.do("record_types", "activate", {"project_id": self.project, "key": "job"})

    def ask(self, service: str, action: str, payload: Any = None) -> Result[Any, ActionError]:
        return self.engine.execute_action(service, action, payload, self.request)

    def do(self, service: str, action: str, payload: Any = None) -> Any:
        return self.ask(service, action, payload).unwrap()

    def change(self, field: str = "crew", key: str = "job") -> str:
        """A draft that adds a field."""
        change: str = self.do("changes", "create", {"project_id": self.project, "title": field}).id
        selector = {"record_type_key": key}
        target = self.do("changes", "add_target", {"change_id": change, "type": "record_type", "selector": selector})
        payload = {"record_type": key, "field": field, "definition": {"type": "string"}}
        op = {"change_id": change, "target_id": target.id, "op_type": "add_field", "payload": payload}
        self.do("changes", "add_patch_op", op)
        return change
