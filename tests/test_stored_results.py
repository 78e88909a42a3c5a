"""A result under a key: first caller and retry get the same, or the action fails and nothing is written."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from itertools import count
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
    model_serializer,
    model_validator,
)
from returns.result import Failure, Result, Success
from typing_extensions import TypedDict

from actionengine import (
    ActionError,
    ActionHooks,
    ActionResultConfig,
    Actor,
    ApprovalPolicy,
    Engine,
    ErrorCode,
    HookDefinition,
    InMemoryStorage,
    RequestContext,
    Sensitive,
    Tenant,
    create_engine,
    create_service,
)
from tests.conftest import EngineOf, Execute, log_of, make_action

T = TypeVar("T")


class Receipt(BaseModel):
    number: str
    amount: Decimal = Decimal("0")
    at: datetime | None = None


class Alias(BaseModel):
    number: str = Field(serialization_alias="receiptNumber")


class ValidationAlias(BaseModel):
    number: str = Field(validation_alias="receipt_no")


class Generated(BaseModel):
    model_config = ConfigDict(alias_generator=str.upper, populate_by_name=True, serialize_by_alias=False)
    number: str


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    net: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def gross(self) -> int:
        return self.net * 2


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    kind: str = "base"


class Base(BaseModel):
    kind: str = "base"


class Sub(Base):
    extra: int = 7


class Twin(Base):
    pass


class Cat(BaseModel):
    name: str


class Dog(BaseModel):
    name: str


class Number(BaseModel):
    x: float | None = None


class Excluded(BaseModel):
    a: int
    internal: int = Field(default=0, exclude=True)


_ids = count()


class Counted(BaseModel):
    a: int
    serial: int = Field(default_factory=lambda: next(_ids), exclude=True)


class Rounded(BaseModel):
    price: float

    @field_serializer("price")
    def round_it(self, price: float) -> float:
        return round(price)


class Grows(BaseModel):
    n: int

    @model_validator(mode="after")
    def grow(self) -> Grows:
        self.__dict__["n"] = self.n + 1
        return self


class Wrapped(BaseModel):
    n: int

    @model_serializer
    def wrap(self) -> dict[str, Any]:
        return {"v": 1, "data": self.n}


class Noted(BaseModel):
    a: int
    _note: str = PrivateAttr(default="")

    @classmethod
    def make(cls, a: int, note: str) -> Noted:
        noted = cls(a=a)
        noted._note = note
        return noted


class Page(BaseModel, Generic[T]):
    items: list[T]


class Tags(RootModel[set[str]]):
    pass


class Point(NamedTuple):
    x: int
    y: int


class Movie(TypedDict):
    title: str
    year: int


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


@dataclasses.dataclass
class Line:
    sku: str
    price: float
    total: float = dataclasses.field(init=False, default=0.0)


def totalled(line: Line) -> Line:
    line.total = line.price
    return line


@dataclasses.dataclass(frozen=True)
class Simple:
    a: int
    b: tuple[int, ...] = ()


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64")
    data: bytes


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime
    id: UUID


class Key(BaseModel):
    value: SecretStr
    also: Annotated[str, Sensitive()] = "x"


ID = UUID("12345678-1234-5678-1234-567812345678")
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

COMES_BACK: dict[str, tuple[Any, Any]] = {
    "a model": (Receipt, Receipt(number="1", amount=Decimal("1.50"), at=NOW)),
    "another time zone": (Receipt, Receipt(number="1", at=datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/Berlin")))),
    "a serialization alias": (Alias, Alias(number="1")),
    "a validation alias": (ValidationAlias, ValidationAlias(receipt_no="1")),
    "an alias generator": (Generated, Generated(number="1")),
    "a computed field under extra=forbid": (Computed, Computed(net=2)),
    "extra fields": (Extra, Extra.model_validate({"other": [1]})),
    "a model that holds aliases": (Page[Alias], Page[Alias](items=[Alias(number="1")])),
    "a generic model": (Page[Receipt], Page[Receipt](items=[Receipt(number="1")])),
    "a root model": (Tags, Tags({"a", "b"})),
    "a dataclass": (Simple, Simple(1, (2, 3))),
    "a named tuple": (Point, Point(1, 2)),
    "a set": (set[int], {1, 2}),
    "a tuple": (tuple[int, str], (1, "a")),
    "bytes": (bytes, b"abc"),
    "a Decimal": (Decimal, Decimal("1.00")),
    "an enum": (Colour, Colour.RED),
    "keys that are numbers": (dict[int, str], {1: "a"}),
    "a date": (date, date(2026, 1, 2)),
    "a duration": (timedelta, timedelta(seconds=90)),
    "strict types": (Strict, Strict(at=NOW, id=ID)),
    "a secret": (Key, Key(value=SecretStr("s3cret-value"), also="s3cret-too")),
    "a union": (Receipt | Simple, Simple(1)),
    "None": (Receipt | None, None),
    "private attributes as they begin": (Noted, Noted(a=1)),
    "an integer where a float may be": (Annotated[float, AfterValidator(lambda x: x)], 1),
    "plain JSON": (dict[str, Any], {"a": [1, 2.5, None, True, "x"]}),
    "a typed dictionary": (Movie, {"title": "x", "year": 1}),
    "one of few": (Literal["a", "b"], "a"),
    "a field of a dataclass that is not given": (Line, Line("a", 1.0)),
    "a serializer that the annotation alone names": (Annotated[Decimal, PlainSerializer(round)], Decimal("1.25")),
}

IN_STORED_FORM: dict[str, tuple[Any, Any, Any]] = {
    "a tuple": (None, (1, 2), [1, 2]),
    "a set": (Any, {1}, [1]),
    "a date inside": (dict[str, Any], {"at": date(2026, 1, 2)}, {"at": "2026-01-02"}),
    "a UUID, a Decimal and an enum": (None, [ID, Decimal("1.0"), Level.LOW], [str(ID), "1.0", 1]),
    "bytes": (None, b"abc", "abc"),
    "keys that are numbers": (None, {1: "a"}, {"1": "a"}),
    "a model that no annotation names": (None, Alias(number="1"), {"receiptNumber": "1"}),
    "a model where anything may be": (dict[str, Any], {"r": Alias(number="1")}, {"r": {"receiptNumber": "1"}}),
    "a dataclass that no annotation names": (None, Simple(1), {"a": 1, "b": []}),
    "a model of anything": (Page[Any], Page[Any](items=[date(2026, 1, 2)]), Page[Any](items=["2026-01-02"])),
    "a secret that no annotation puts back": (None, {"k": SecretStr("s3cret-value")}, {"k": "*" * 10}),
}

REFUSED: dict[str, tuple[Any, Any]] = {
    "an excluded field": (Excluded, Excluded(a=1, internal=2)),
    "an excluded field with a changing default": (Counted, Counted(a=1)),
    "a subclass": (Base, Sub()),
    "a subclass without fields of its own": (Base, Twin()),
    "a list with a subclass": (list[Base], [Sub(), Base()]),
    "the second of two equal members of a union": (Cat | Dog, Dog(name="x")),
    "a number that is not finite": (Number, Number(x=math.nan)),
    "infinity in a dictionary": (None, {"x": math.inf}),
    "infinity under a number": (None, {1: math.inf}),
    "infinity in a set": (None, {math.inf}),
    "a Decimal that is no number": (Decimal, Decimal("NaN")),
    "a lossy serializer": (Rounded, Rounded(price=1.4)),
    "a serializer that validation does not undo": (Wrapped, Wrapped(n=1)),
    "a validator that changes what it validates": (Grows, Grows(n=1)),
    "private attributes": (Noted, Noted.make(1, "x")),
    "two keys that are the same text": (None, {1: "a", "1": "b"}),
    "bytes that are written in base64 and read as text": (Base64, Base64(data=b"\xff\x00")),
    "another type than the annotation names": (Receipt, {"number": "1"}),
    "a field of a dataclass that is not given": (Line, totalled(Line("a", 1.0))),
}


def engine_with(result: Any, value: Any, engine_of: EngineOf, **options: Any) -> tuple[Engine, list[int]]:
    calls: list[int] = []

    def answer(data: Any) -> Any:
        calls.append(1)
        return Success(value)

    if result is not None:
        answer.__annotations__["return"] = Result[result, ActionError]
    return engine_of(make_action("go", answer, **options)), calls


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and repr(one) == repr(other) and bool(one == other)


@pytest.mark.parametrize("what", COMES_BACK)
def test_first_caller_and_retry_get_the_annotated_type(what: str, engine_of: EngineOf, execute: Execute) -> None:
    result, value = COMES_BACK[what]
    engine, calls = engine_with(result, value, engine_of)
    first, second = (execute(engine, "work.go", {}, key="k").unwrap() for _ in range(2))
    assert same(first, second)
    assert first == value
    assert type(first) is type(value) or (type(value), type(first)) == (int, float)
    assert calls == [1]


@pytest.mark.parametrize("what", IN_STORED_FORM)
def test_both_get_plain_json_where_no_type_is_annotated(what: str, engine_of: EngineOf, execute: Execute) -> None:
    result, value, stored = IN_STORED_FORM[what]
    engine, calls = engine_with(result, value, engine_of)
    first, second = (execute(engine, "work.go", {}, key="k").unwrap() for _ in range(2))
    assert same(first, second)
    assert same(first, stored)
    assert calls == [1]


@pytest.mark.parametrize("what", REFUSED)
def test_a_result_that_would_not_come_back_is_refused(
    what: str, engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage
) -> None:
    result, value = REFUSED[what]
    engine, calls = engine_with(result, value, engine_of)
    errors = [execute(engine, "work.go", {}, key="k").failure() for _ in range(2)]
    assert {error.code for error in errors} == {ErrorCode.INTERNAL}
    assert "work.go" in errors[0].message
    assert "idempotency='none'" in errors[0].message
    assert calls == [1, 1]
    assert storage.read_events(acme) == []
    assert [row.outcome for row in log_of(engine, acme)] == ["failed", "failed"]


def test_the_refusal_names_the_place_and_no_value(engine_of: EngineOf, execute: Execute) -> None:
    engine, _ = engine_with(Page[Excluded], Page[Excluded](items=[Excluded(a=1, internal=4711)]), engine_of)
    message = execute(engine, "work.go", {}, key="k").failure().message
    assert "items[0].internal" in message
    assert "4711" not in message


def test_without_a_key_the_caller_gets_what_the_handler_returned(engine_of: EngineOf, execute: Execute) -> None:
    value = Excluded(a=1, internal=2)
    engine, _ = engine_with(Excluded, value, engine_of)
    assert execute(engine, "work.go", {}).unwrap() is value


def test_an_action_that_takes_no_key_answers_anything(engine_of: EngineOf, execute: Execute) -> None:
    value = Excluded(a=1, internal=2)
    engine, calls = engine_with(Excluded, value, engine_of, idempotency="none")
    assert execute(engine, "work.go", {}, key="k").unwrap() is value
    assert execute(engine, "work.go", {}, key="k").unwrap() is value
    assert len(calls) == 2


@pytest.mark.parametrize("pipeline", [False, True])
@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda data: data, Receipt(number="1")),
        (
            lambda data: {**data.model_dump(), "note": (1, 2)},
            {"number": "1", "amount": "0", "at": None, "note": [1, 2]},
        ),
        (lambda data: Sub(), {"kind": "base", "extra": 7}),
    ],
)
def test_what_an_after_hook_makes_comes_back_too(
    engine_of: EngineOf, execute: Execute, made: Any, expected: Any, pipeline: bool
) -> None:
    def give(data: Any) -> Result[Receipt, ActionError]:
        return Success(Receipt(number="1"))

    hooks = ActionHooks(after=(HookDefinition("work", "hook"),))
    shape = ActionResultConfig(pipeline=pipeline)
    engine = engine_of(
        make_action("go", give, hooks=hooks, result=shape), make_action("hook", lambda data: Success(made(data)))
    )
    first, second = (execute(engine, "work.go", {}, key="k").unwrap() for _ in range(2))
    assert same(first, second)
    assert same(first.data if pipeline else first, expected)


def test_what_an_approval_ran_is_what_the_requester_gets(engine_of: EngineOf, execute: Execute) -> None:
    policy = ApprovalPolicy(when=lambda data, ctx: True, permission="p.approve")
    engine, _ = engine_with(Alias, Alias(number="1"), engine_of, approval=policy)
    asked = execute(engine, "work.go", {}, key="k").failure()
    payload = {"approval_id": asked.details["approval_id"]}
    first, second = (
        execute(engine, "approvals.approve", payload, Actor.human("boss", permissions=["p.approve"]), key="b").unwrap()
        for _ in range(2)
    )
    assert same(first, second)
    assert first.result == {"receiptNumber": "1"}
    assert execute(engine, "work.go", {}, key="k").unwrap() == Alias(number="1")


def test_an_approved_result_that_would_not_come_back_is_refused(
    engine_of: EngineOf, execute: Execute, acme: Tenant
) -> None:
    policy = ApprovalPolicy(when=lambda data, ctx: True, permission="p.approve")
    engine, _ = engine_with(Base, Sub(), engine_of, approval=policy)
    asked = execute(engine, "work.go", {}, key="k").failure()
    boss = RequestContext(acme, Actor.human("boss", permissions=["p.approve"]))
    payload = {"approval_id": asked.details["approval_id"]}
    assert execute(engine, "approvals.approve", payload, boss).failure().code is ErrorCode.INTERNAL
    (listed,) = engine.execute_action("approvals", "list", {}, boss).unwrap().items
    assert listed.status == "pending"


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.binary(max_size=4)
    | st.decimals()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.uuids()
    | st.sampled_from([Colour.RED, Level.LOW, Point(1, 2)])
    | st.builds(Receipt, number=st.text("ab"))
    | st.builds(Alias, number=st.text("ab"))
    | st.builds(Number, x=st.none() | st.floats())
    | st.builds(Excluded, a=st.integers(), internal=st.integers(0, 1))
    | st.builds(Simple, a=st.integers(), b=st.lists(st.integers(), max_size=2).map(tuple))
    | st.builds(Key, value=st.text("ab", min_size=1).map(SecretStr))
)
results = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("ab1", max_size=2) | st.integers(0, 2), inner, max_size=3)
        | st.builds(lambda items: Page[Any](items=items), st.lists(inner, max_size=2))
    ),
    max_leaves=6,
)
result_types: st.SearchStrategy[Any] = st.sampled_from(
    [None, Any, list[Any], dict[str, Any], Page[Any], Receipt, Alias, Excluded, Simple, Receipt | Alias | Simple, float]
)


@given(value=results, annotation=result_types)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_retry_gets_the_first_answer_or_there_is_none(value: Any, annotation: Any) -> None:
    calls: list[int] = []

    def answer(data: Any) -> Any:
        calls.append(1)
        return Success(value)

    answer.__annotations__ = {} if annotation is None else {"return": Result[annotation, ActionError]}
    storage = InMemoryStorage()
    tenant = storage.create_tenant(slug="acme", name="Acme")
    action = make_action("go", answer)
    engine = create_engine(services=[create_service(name="work", description="", actions=[action])], storage=storage)
    context = RequestContext(tenant, Actor.human("ann"), idempotency_key="k")
    first, second = (engine.execute_action("work", "go", {}, context) for _ in range(2))
    if isinstance(first, Failure):
        assert first.failure().code is ErrorCode.INTERNAL
        assert isinstance(second, Failure)
    else:
        assert same(first.unwrap(), second.unwrap())
        assert calls == [1]
    assert len(log_of(engine, tenant)) == 2
