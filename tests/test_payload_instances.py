"""An instance as payload: keys and approvals store all that the handler sees, or the request is refused."""

from __future__ import annotations

import dataclasses
import math
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, SecretStr, computed_field, field_serializer
from returns.result import Result, Success

from actionengine import ActionError, Actor, ApprovalPolicy, Engine, ErrorCode, RequestContext, Sensitive, Tenant
from tests.conftest import EngineOf, Execute, log_of, make_action

T = TypeVar("T")


class Pay(BaseModel):
    job: str = "J"
    amount: int = 10


class Excluded(Pay):
    amount: int = Field(default=10, exclude=True)


class Nested(BaseModel):
    pay: Excluded


class Urgent(Pay):
    fee: int = 5


class Holder(BaseModel):
    pay: Pay


class Noted(Pay):
    _note: str = PrivateAttr(default="")


class Coarse(Pay):
    @field_serializer("amount")
    def thousands(self, amount: int) -> int:
        return amount // 1000


class Rated(Pay):
    rate: float | None = None


class Alias(Pay):
    amount: int = Field(default=10, serialization_alias="value")


class SameAlias(BaseModel):
    job: str = Field(default="J", serialization_alias="x")
    amount: int = Field(default=10, serialization_alias="x")


class Computed(Pay):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.amount


class Secretly(Pay):
    token: SecretStr
    pin: Annotated[str, Sensitive()] = "1"


class Amounts(RootModel[dict[str, int]]):
    pass


class Levels(RootModel[dict[int, str]]):
    pass


class Size(StrEnum):
    SMALL = "small"


class Free(BaseModel):
    it: Any


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Boxed(BaseModel, Generic[T]):
    it: T


@dataclasses.dataclass
class Line:
    sku: str
    total: int = dataclasses.field(init=False, default=0)


def line(total: int) -> Line:
    made = Line("a")
    made.total = total
    return made


def noted(note: str) -> Noted:
    made = Noted()
    made._note = note
    return made


FAITHFUL: dict[str, tuple[Any, Any, Any]] = {
    "a model": (Pay, Pay(), Pay(amount=11)),
    "a serialization alias": (Alias, Alias(), Alias(amount=11)),
    "two fields of one alias": (SameAlias, SameAlias(job="1"), SameAlias(job="2")),
    "a computed field": (Computed, Computed(), Computed(amount=11)),
    "secrets": (Secretly, Secretly(token=SecretStr("a")), Secretly(token=SecretStr("b"))),
    "a root model": (Amounts, Amounts({"a": 1}), Amounts({"a": 2})),
    "no validation": (None, Pay(), Pay(amount=11)),
    "keys that are no texts": (Levels, Levels({1: "a"}), Levels({2: "a"})),
    "texts of an enumeration": (Free, Free(it=Size.SMALL), Free(it="large")),
}

PARTIAL: dict[str, tuple[Any, Any]] = {
    "an excluded field": (Excluded, Excluded(amount=11)),
    "an excluded field further in": (Nested, Nested(pay=Excluded(amount=11))),
    "an excluded field without validation": (None, Excluded(amount=11)),
    "a subclass": (Pay, Urgent()),
    "a subclass further in": (Holder, Holder(pay=Urgent())),
    "private attributes": (Noted, noted("x")),
    "a lossy serializer": (Coarse, Coarse(amount=1500)),
    "a field of a dataclass that is not given": (Line, line(5)),
    "a value that validation would refuse": (Pay, Pay.model_construct(job="J", amount="many")),  # type: ignore[arg-type]
    "an excluded field in a field of any type": (Free, Free(it=Excluded(amount=11))),
    "a model in a field of any type": (Free, Free(it=[Pay()])),
    "a dataclass in a field of any type": (Free, Free(it={"line": Line("a")})),
    "a tuple in a field of any type": (Free, Free(it=(1,))),
    "a set in a field of any type": (Free, Free(it={1})),
    "keys that are no texts in a field of any type": (Free, Free(it={1: "a"})),
    "a date in a field of any type": (Free, Free(it=date(2026, 1, 1))),
    "a secret in a field of any type": (Free, Free(it=SecretStr("a"))),
    "bytes in a field that is not named": (Open, Open.model_validate({"more": b"a"})),
    "a subclass in a field without an argument": (Boxed, Boxed(it=Urgent())),
    "a number that is not finite": (Rated, Rated(rate=math.nan)),
}


def engine_for(model: Any, engine_of: EngineOf, **options: Any) -> tuple[Engine, list[Any]]:
    seen: list[Any] = []

    def run(data: Any) -> Result[Any, ActionError]:
        seen.append(data)
        return Success(len(seen))

    return engine_of(make_action("go", run, validation=model, **options)), seen


@pytest.mark.parametrize("what", FAITHFUL)
def test_a_key_tells_instances_apart(what: str, engine_of: EngineOf, execute: Execute) -> None:
    model, one, other = FAITHFUL[what]
    engine, seen = engine_for(model, engine_of)
    assert [execute(engine, "work.go", one, key="k") for _ in range(2)] == [Success(1), Success(1)]
    assert execute(engine, "work.go", other, key="k").failure().code is ErrorCode.IDEMPOTENCY_MISMATCH
    assert seen == [one]


def test_an_instance_and_its_json_are_one_payload(engine_of: EngineOf, execute: Execute) -> None:
    engine, _ = engine_for(Pay, engine_of)
    assert execute(engine, "work.go", Pay(), key="k") == Success(1)
    assert execute(engine, "work.go", {"job": "J", "amount": 10}, key="k") == Success(1)


@pytest.mark.parametrize("what", PARTIAL)
def test_a_key_refuses_an_instance_that_json_does_not_keep_whole(
    what: str, engine_of: EngineOf, execute: Execute
) -> None:
    model, payload = PARTIAL[what]
    engine, seen = engine_for(model, engine_of)
    error = execute(engine, "work.go", payload, key="k").failure()
    assert error.code is ErrorCode.INVALID_INPUT
    assert "an idempotency key keeps the JSON of a payload" in error.message
    assert seen == []
    assert [row.outcome for row in log_of(engine)] == ["invalid"]


@pytest.mark.parametrize("what", PARTIAL)
def test_an_approval_refuses_it_too(what: str, engine_of: EngineOf, execute: Execute, acme: Tenant) -> None:
    model, payload = PARTIAL[what]
    policy = ApprovalPolicy(when=lambda data, ctx: True, permission="p.approve")
    engine, seen = engine_for(model, engine_of, approval=policy)
    assert execute(engine, "work.go", payload).failure().code is ErrorCode.INVALID_INPUT
    boss = RequestContext(tenant=acme, actor=Actor.human("boss", permissions=["p.approve"]))
    assert engine.execute_action("approvals", "list", {}, boss).unwrap().items == ()
    assert seen == []


@pytest.mark.parametrize("what", ["a model", "a computed field", "secrets", "a root model"])
def test_what_is_approved_runs_as_it_was_asked_for(what: str, engine_of: EngineOf, execute: Execute) -> None:
    model, _, payload = FAITHFUL[what]
    policy = ApprovalPolicy(when=lambda data, ctx: True, permission="p.approve")
    engine, seen = engine_for(model, engine_of, approval=policy)
    asked = execute(engine, "work.go", payload).failure()
    boss = Actor.human("boss", permissions=["p.approve"])
    execute(engine, "approvals.approve", {"approval_id": asked.details["approval_id"]}, boss).unwrap()
    assert seen == [payload]


@pytest.mark.parametrize("what", ["an excluded field", "a subclass", "private attributes"])
def test_without_key_and_approval_the_handler_gets_the_instance(
    what: str, engine_of: EngineOf, execute: Execute
) -> None:
    model, payload = PARTIAL[what]
    engine, seen = engine_for(model, engine_of)
    assert execute(engine, "work.go", payload) == Success(1)
    assert seen == [payload]


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("payload", "place", "kind"),
    [
        ({"id": UUID(int=1)}, "id", "uuid.UUID"),
        ({"a": [{"price": Decimal("1.5")}]}, "a[0].price", "decimal.Decimal"),
        ({"at": datetime(2026, 1, 1)}, "at", "datetime.datetime"),
        ({"on": date(2026, 1, 1)}, "on", "datetime.date"),
        ({"for": timedelta(1)}, "for", "datetime.timedelta"),
        ({"raw": b"x"}, "raw", "bytes"),
        ({"tags": {1, 2}}, "tags", "set"),
        ({"pair": (1, 2)}, "pair", "tuple"),
        ({"colour": Colour.RED}, "colour", "Colour"),
        ({"a": {"b": math.inf}}, "a.b", "inf"),
        ({"a": {1: "x"}}, "a", "key of the type int"),
        ([1, Pay()], "[1]", "Pay"),
        ((1, 2), "the payload", "tuple"),
    ],
)
def test_a_value_that_json_cannot_have_is_named_with_its_place(
    payload: Any, place: str, kind: str, engine_of: EngineOf, execute: Execute
) -> None:
    engine, seen = engine_for(None, engine_of)
    error = execute(engine, "work.go", payload).failure()
    assert error.code is ErrorCode.INVALID_INPUT
    assert f": {place} " in error.message
    assert kind in error.message
    assert seen == []
