"""Declared event types: payloads that fit, payloads that do not, and upcasting."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, TypeAdapter
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    Actor,
    ConfigurationError,
    ErrorCode,
    RequestContext,
    create_action,
    create_engine,
    create_service,
)
from actionengine.event_types import EventType, EventVersionError, by_type, create_event_type
from actionengine.events.event import Event
from actionengine.testing import Backend, run_in_mode
from tests.events.stock import failure_of


class Moved(BaseModel):
    item: str
    by: Annotated[int, Field(ge=-1000, le=1000)] = 1


MOVED = create_event_type(type="stock.moved", payload=Moved, description="A thing was moved")


class Weighed(BaseModel):
    weight: float
    at: datetime
    password: SecretStr | None = None


WEIGHED = create_event_type(type="stock.weighed", payload=Weighed)


class Emitting:
    """Return an engine whose action writes a document, and then emits its payload."""

    def __init__(self, backend: Backend, *emits: str | EventType) -> None:
        def emit(data: Any, ctx: ActionContext) -> Result[None, str]:
            ctx.records("notes").insert({}, "written")
            ctx.emit(self.type, self.payload, subject="item/1")
            return Success(None)

        self.backend = backend
        self.type: Any = "stock.moved"
        self.payload: Any = None
        action = create_action(name="emit", description="Emit", handler=emit, emits=emits)
        service = create_service(name="work", description="Work", actions=[action])
        self.engine = create_engine(services=[service], storage=backend.storage)

    async def emit(self, type: Any, payload: Any) -> Any:
        self.type, self.payload = type, payload
        context = RequestContext(self.backend.tenant, Actor.system())
        return await self.backend.execute(self.engine, "work", "emit", None, context)

    async def event(self) -> Event:
        (stored,) = await self.backend.read_events(self.backend.tenant)
        return Event.of(stored.position, stored.event, self.engine.event_types)

    async def assert_nothing_was_written(self) -> None:
        assert list(await self.backend.read_events(self.backend.tenant)) == []
        assert await self.backend.ids("notes") == []


@pytest.mark.parametrize("type", ["stock.moved", MOVED], ids=["name", "declaration"])
@run_in_mode
async def test_a_payload_that_fits_is_stored_as_its_model_says(backend: Backend, type: Any) -> None:
    emitting = Emitting(backend, MOVED)

    (await emitting.emit(type, {"item": "nail"})).unwrap()

    event = await emitting.event()
    assert (event.type, event.version, event.payload) == ("stock.moved", 1, {"item": "nail", "by": 1})
    assert event.read(MOVED) == Moved(item="nail", by=1)


@run_in_mode
async def test_an_instance_of_the_model_fits_too(backend: Backend) -> None:
    emitting = Emitting(backend, WEIGHED)
    weighed = Weighed(weight=1.5, at=datetime(2026, 1, 2, tzinfo=UTC), password=SecretStr("hush"))

    (await emitting.emit(WEIGHED, weighed)).unwrap()

    event = await emitting.event()
    assert event.payload == {"weight": 1.5, "at": "2026-01-02T00:00:00Z", "password": "**********"}
    assert event.read(WEIGHED).at == weighed.at


@run_in_mode
async def test_a_payload_that_does_not_fit_fails_the_action(backend: Backend) -> None:
    emitting = Emitting(backend, MOVED)

    for payload in ({}, {"item": 7}, {"item": "nail", "by": "secret-text"}, {"item": "nail", "by": 1001}, None, [1]):
        error = failure_of(await emitting.emit("stock.moved", payload))

        assert error.code is ErrorCode.INTERNAL
        assert str(error).startswith("the payload of the event 'stock.moved' does not fit its type: ")
        assert "secret-text" not in str(error)
        await emitting.assert_nothing_was_written()


@run_in_mode
async def test_a_payload_without_a_json_form_fails_the_action(backend: Backend) -> None:
    circular: dict[str, Any] = {}
    circular["self"] = circular
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    payloads = [circular, deep, object(), {"f": lambda: 1}, {"bytes": b"\xff"}, {object(): 1}]

    for emitting in (Emitting(backend), Emitting(backend, create_event_type(type="stock.moved"))):
        for payload in payloads:
            error = failure_of(await emitting.emit("stock.moved", payload))

            assert error.code is ErrorCode.INTERNAL, payload
            assert str(error).startswith("the payload of the event 'stock.moved' has no JSON form")
            await emitting.assert_nothing_was_written()
    del circular["self"]
    while deep:
        deep = deep[0]


@run_in_mode
async def test_a_number_that_is_not_finite_has_no_json_form_either(backend: Backend) -> None:
    declared = create_event_type(type="stock.moved", payload=dict[str, float | None])

    for emitting in (Emitting(backend), Emitting(backend, declared)):
        for number in (float("nan"), float("inf"), float("-inf")):
            error = failure_of(await emitting.emit("stock.moved", {"weight": number, "nothing": None}))

            assert (error.code, "is not finite" in str(error)) == (ErrorCode.INTERNAL, True)
            await emitting.assert_nothing_was_written()
    (await emitting.emit("stock.moved", {"weight": 1.5, "nothing": None})).unwrap()


@run_in_mode
async def test_a_huge_payload_comes_through(backend: Backend) -> None:
    emitting = Emitting(backend, MOVED)
    item = "grüße " * 400_000

    (await emitting.emit("stock.moved", {"item": item})).unwrap()

    assert (await emitting.event()).payload["item"] == item


@run_in_mode
async def test_a_type_that_the_action_does_not_declare_is_refused(backend: Backend) -> None:
    emitting = Emitting(backend, MOVED, "stock.counted")

    for undeclared in ("stock.lost", WEIGHED, "", None, 7):
        error = failure_of(await emitting.emit(undeclared, {}))

        assert error.code is ErrorCode.INTERNAL
        await emitting.assert_nothing_was_written()
    (await emitting.emit("stock.counted", {"anything": 1})).unwrap()
    assert (await emitting.event()).payload == {"anything": 1}


@run_in_mode
async def test_an_action_that_declares_nothing_may_emit_anything(backend: Backend) -> None:
    emitting = Emitting(backend)

    (await emitting.emit(MOVED, {"item": "nail"})).unwrap()

    assert (await emitting.event()).payload == {"item": "nail", "by": 1}


@run_in_mode
async def test_an_event_has_the_version_of_its_declaration(backend: Backend) -> None:
    newest = create_event_type(type="stock.moved", version=2, upcasters={1: lambda old: old})

    (await Emitting(backend, newest).emit("stock.moved", {})).unwrap()

    (stored,) = await backend.read_events(backend.tenant)
    assert stored.event.version == 2
    with pytest.raises(EventVersionError, match="known up to version 1, and this event has version 2"):
        Event.of(stored.position, stored.event).upcast(create_event_type(type="stock.moved"))


def test_an_engine_knows_the_types_that_its_actions_declare() -> None:
    def action(name: str, *emits: Any) -> Any:
        return create_action(name=name, description=name, handler=lambda data: Success(None), emits=emits)

    service = create_service(
        name="stock", description="Stock", actions=[action("move", MOVED, "other"), action("weigh", WEIGHED, MOVED)]
    )

    engine = create_engine(services=[service])

    assert dict(engine.event_types) == {"stock.moved": MOVED, "stock.weighed": WEIGHED}
    with pytest.raises(TypeError):
        engine.event_types["stock.lost"] = MOVED  # type: ignore[index]


def test_a_type_that_two_actions_declare_differently_is_refused() -> None:
    other = create_event_type(type="stock.moved", payload=Weighed)

    def action(name: str, emits: Any) -> Any:
        return create_action(name=name, description=name, handler=lambda data: Success(None), emits=[emits])

    service = create_service(name="stock", description="Stock", actions=[action("a", MOVED), action("b", other)])

    with pytest.raises(ConfigurationError, match=r"'stock\.moved' has two different declarations"):
        create_engine(services=[service])
    with pytest.raises(ConfigurationError, match="make it with create_event_type"):
        by_type(["stock.moved"])  # type: ignore[list-item]


@given(version=st.integers(1, 6))
def test_an_old_payload_goes_through_each_upcaster_in_turn(version: int) -> None:
    def step(number: int) -> Any:
        return lambda old: [*old, number]

    newest = create_event_type(type="t", version=6, upcasters={number: step(number) for number in range(1, 6)})

    assert newest.upcast([], version) == list(range(version, 6))
    assert newest.read([], version) == list(range(version, 6))


def test_errors_of_upcasting_name_the_event_and_the_reason() -> None:
    newest = create_event_type(type="t", payload=Moved, version=2, upcasters={1: lambda old: {"item": old["name"]}})

    assert newest.read({"name": "nail"}, 1) == Moved(item="nail")
    with pytest.raises(EventVersionError, match="the upcaster of t from version 1 raised KeyError"):
        newest.read({}, 1)
    with pytest.raises(EventVersionError, match="a payload of t, version 2, does not fit: item: missing") as refusal:
        newest.read({"by": "secret-text"}, 2)
    assert "secret-text" not in str(refusal.value)


@pytest.mark.parametrize(
    "options",
    [
        {"type": ""},
        {"type": None},
        {"version": 0},
        {"version": True},
        {"version": 1.5},
        {"version": 2},
        {"version": 3, "upcasters": {2: len}},
        {"upcasters": {1: len}},
        {"version": 2, "upcasters": {1: "no function"}},
        {"payload": 17},
    ],
    ids=str,
)
def test_a_mistake_in_a_declaration_is_found_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        create_event_type(**{"type": "stock.moved", **options})


def test_a_payload_may_be_any_type() -> None:
    for payload in (list[int], TypeAdapter(list[int])):
        numbers = create_event_type(type="numbers", payload=payload)

        assert json.loads(numbers.encode(["1", 2])) == [1, 2]
        with pytest.raises(ValueError, match="int_parsing"):
            numbers.encode(["x"])
