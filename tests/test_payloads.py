"""Payloads: JSON within limits or an instance of the model; anything else is `invalid_input`, and nothing runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter
from returns.result import Result, Success

from actionengine import (
    ActionError,
    Actor,
    ErrorCode,
    InMemoryStorage,
    Limits,
    RequestContext,
    Tenant,
    create_engine,
    create_service,
)
from actionengine.pipeline.payload import fingerprint, read_payload
from tests.conftest import EngineOf, Execute, log_of, make_action


class Line(BaseModel):
    sku: str = Field(alias="SKU")
    count: int = Field(gt=0)


class Order(BaseModel):
    when: datetime
    lines: list[Line]
    meta: dict[str, Any] = {}


def echo(data: Any) -> Result[Any, ActionError]:
    return Success(data)


def circular() -> Any:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


NOT_JSON: dict[str, Any] = {
    "a set": {1, 2},
    "bytes": b"x",
    "an object": object(),
    "a datetime": datetime.now(UTC),
    "a UUID": uuid4(),
    "a Decimal": Decimal("1.5"),
    "a tuple": (1, 2),
    "not a number": math.nan,
    "infinity": {"a": math.inf},
    "a key that is no text": {1: 2},
    "half a surrogate pair": {"a": "\ud800"},
    "a circle": circular(),
    "a function": echo,
    "a generator": (n for n in range(3)),
    "100 000 levels": deep(100_000),
    "70 levels": deep(70),
    "too many bytes": "x" * 2_000_000,
}


@pytest.mark.parametrize("what", NOT_JSON)
def test_a_payload_that_json_cannot_carry_is_refused(what: str, engine_of: EngineOf, execute: Execute) -> None:
    ran: list[Any] = []

    def run(data: Any) -> Result[Any, ActionError]:
        ran.append(data)
        return Success(None)

    engine = engine_of(make_action("go", run))
    for payload in (NOT_JSON[what], {"inside": [NOT_JSON[what]]}):
        assert execute(engine, "work.go", payload).failure().code is ErrorCode.INVALID_INPUT
    assert ran == []
    assert [row.outcome for row in log_of(engine)] == ["invalid", "invalid"]


def test_limits_can_be_set(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", echo), limits=Limits(payload_bytes=20, payload_depth=2))
    assert execute(engine, "work.go", ["12345678901234"]) == Success(["12345678901234"])
    assert "at most 20" in execute(engine, "work.go", ["123456789012345678"]).failure().message
    assert execute(engine, "work.go", [[1], [2]]) == Success([[1], [2]])
    assert "deeper than 2" in execute(engine, "work.go", [[[1]]]).failure().message
    assert execute(engine, "work.go", '[[["\\"[') == Success('[[["\\"[')


def test_each_invalid_field_is_named_with_its_reason(
    engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage
) -> None:
    engine = engine_of(make_action("go", echo, validation=Order))
    payload = {"when": "2026-01-01T00:00:00Z", "lines": [{"SKU": "a", "count": 1}, {"count": 0}]}
    error = execute(engine, "work.go", payload).failure()
    assert error.code is ErrorCode.INVALID_INPUT
    fields = {field["path"]: field["reason"] for field in error.details["fields"]}
    assert fields == {"lines.1.SKU": "Field required", "lines.1.count": "Input should be greater than 0"}
    assert storage.read_events(acme) == []
    (row,) = log_of(engine, acme)
    assert (row.outcome, row.input) == ("invalid", payload)


@pytest.mark.parametrize("key", ["", "k" * 10_000, 7])
@pytest.mark.parametrize("idempotency", ["optional", "required"])
def test_an_impossible_idempotency_key_is_refused(
    engine_of: EngineOf, execute: Execute, key: Any, idempotency: Any
) -> None:
    engine = engine_of(make_action("go", echo, idempotency=idempotency))
    error = execute(engine, "work.go", {}, key=key).failure()
    assert error.code is ErrorCode.INVALID_INPUT
    assert "1 to 255 characters" in error.message
    assert [(row.outcome, row.idempotency_key) for row in log_of(engine)] == [("invalid", None)]


def test_a_required_key_that_is_missing_is_refused(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", echo, idempotency="required"))
    assert execute(engine, "work.go", {}).failure().code is ErrorCode.INVALID_INPUT


def test_an_instance_of_the_model_is_a_payload(engine_of: EngineOf, execute: Execute) -> None:
    seen: list[Order] = []

    def keep(data: Order) -> Result[Any, ActionError]:
        seen.append(data)
        data.meta["changed"] = True
        return Success(data.lines[0].count)

    engine = engine_of(make_action("go", keep, validation=Order))
    order = Order(when=datetime.now(UTC), lines=[Line(SKU="a", count=3)], meta={})
    assert execute(engine, "work.go", order) == Success(3)
    assert seen[0] is not order
    assert order.meta == {}


def test_an_instance_of_another_model_is_read_as_its_json(engine_of: EngineOf, execute: Execute) -> None:
    class Wire(BaseModel):
        SKU: str
        count: int

    engine = engine_of(make_action("go", echo, validation=Line))
    assert execute(engine, "work.go", Wire(SKU="a", count=2)) == Success(Line(SKU="a", count=2))
    assert execute(engine, "work.go", Wire(SKU="a", count=0)).failure().code is ErrorCode.INVALID_INPUT


@dataclass
class Point:
    x: int
    y: int


def test_a_dataclass_is_a_model_too(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", echo, validation=Point))
    assert execute(engine, "work.go", {"x": 1, "y": 2}) == Success(Point(1, 2))
    assert execute(engine, "work.go", Point(3, 4)) == Success(Point(3, 4))


def test_validation_that_crashes_is_contained(engine_of: EngineOf, execute: Execute) -> None:
    def explode(value: int) -> int:
        raise OSError("boom")

    adapter: TypeAdapter[int] = TypeAdapter(Annotated[int, AfterValidator(explode)])
    engine = engine_of(make_action("go", echo, validation=adapter))
    error = execute(engine, "work.go", 1).failure()
    assert error.code is ErrorCode.INTERNAL
    assert "boom" not in error.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@given(payload=json_values)
@settings(max_examples=150, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow])
def test_any_json_comes_through_unchanged(payload: Any) -> None:
    storage = InMemoryStorage()
    tenant = storage.create_tenant(slug="acme", name="Acme")
    service = create_service(name="work", description="", actions=[make_action("echo", echo)])
    engine = create_engine(services=[service], storage=storage)
    context = RequestContext(tenant=tenant, actor=Actor.human("ann"), idempotency_key="k")
    try:
        received = read_payload(payload, None, Limits())
    except Exception:
        assert engine.execute_action("work", "echo", payload, context).failure().code is ErrorCode.INVALID_INPUT
        return
    assert received.value == payload
    first = engine.execute_action("work", "echo", payload, context)
    assert first == Success(payload)
    assert engine.execute_action("work", "echo", payload, context) == first
    assert log_of(engine, tenant)[0].input == payload


@given(items=st.dictionaries(st.text(max_size=5), json_values, min_size=2, max_size=6))
def test_the_fingerprint_does_not_depend_on_the_order_of_keys(items: dict[str, Any]) -> None:
    reordered = dict(reversed(list(items.items())))
    limits = Limits()
    assert fingerprint(read_payload(items, None, limits)) == fingerprint(read_payload(reordered, None, limits))
    changed = {**items, "one more": 1}
    assert fingerprint(read_payload(changed, None, limits)) != fingerprint(read_payload(items, None, limits))
