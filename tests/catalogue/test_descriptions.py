"""Descriptions of actions: what declarations say, schemas of inputs and results, examples, and no secret in any."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import FrozenInstanceError, asdict, replace
from threading import Thread
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, SecretStr
from returns.result import Result, Success

from actionengine import (
    ActionDescription,
    ActionError,
    ActionHooks,
    ActionResultConfig,
    ApprovalPolicy,
    ConfigurationError,
    Engine,
    HookDefinition,
    RequestContext,
    Sensitive,
    always,
)
from tests.conftest import EngineOf, make_action


class Refund(BaseModel):
    """A refund."""

    payment: str = Field(description="The payment, such as payment/17.")
    amount: float = Field(gt=0)


class Receipt(BaseModel):
    number: int


def refund(data: Refund) -> Result[Receipt, ActionError]:
    return Success(Receipt(number=17))


def anything(data: Any) -> Result[Any, ActionError]:
    return Success(data)


def described(engine: Engine, context: RequestContext, name: str) -> ActionDescription:
    (found,) = (each for each in engine.catalogue(context).unwrap() if each.name == f"work.{name}")
    return found


def test_a_description_says_what_the_declaration_says(engine_of: EngineOf, as_ann: RequestContext) -> None:
    engine = engine_of(
        make_action(
            "refund",
            refund,
            title="Refund a payment",
            destructive=False,
            idempotency="required",
            emits=["payments.refunded"],
            approval=ApprovalPolicy(when=lambda data, ctx: data.amount > 100, permission="payments.approve"),
            examples=[{"payment": "payment/17", "amount": 5}, Refund(payment="payment/18", amount=6)],
        )
    )

    found = described(engine, as_ann, "refund")

    assert asdict(found) == {
        "name": "work.refund",
        "title": "Refund a payment",
        "description": "",
        "input_schema": Refund.model_json_schema(),
        "output_schema": Receipt.model_json_schema(mode="serialization"),
        "read_only": False,
        "destructive": False,
        "idempotency": "required",
        "approval": "depends",
        "emits": ("payments.refunded",),
        "examples": ({"payment": "payment/17", "amount": 5}, {"payment": "payment/18", "amount": 6.0}),
    }


def test_what_a_declaration_leaves_out_has_a_default(engine_of: EngineOf, as_ann: RequestContext) -> None:
    policy = ApprovalPolicy(when=always, permission="work.approve")
    engine = engine_of(
        make_action("addLineItem", anything, approval=policy), make_action("look_up", anything, read_only=True)
    )

    adding, looking = described(engine, as_ann, "addLineItem"), described(engine, as_ann, "look_up")

    assert (adding.title, looking.title) == ("Work: add line item", "Work: look up")
    assert (adding.destructive, looking.destructive) == (True, False)
    assert (adding.approval, looking.approval) == ("always", "never")
    assert (adding.input_schema, adding.output_schema, adding.examples) == ({}, None, ())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"title": " "}, "title"),
        ({"destructive": "yes"}, "destructive"),
        ({"destructive": True, "read_only": True}, "read-only"),
        ({"examples": [{"payment": "payment/17", "amount": 0}]}, r"examples\[0\]"),
        ({"examples": [{"payment": "payment/17", "amount": 1}, {}]}, r"examples\[1\]"),
        ({"examples": {"payment": "payment/17"}}, r"examples\[0\]"),
        ({"examples": [object()]}, r"examples\[0\]"),
    ],
)
def test_a_wrong_declaration_is_refused_at_boot(engine_of: EngineOf, options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"work.refund: .*{words}"):
        engine_of(make_action("refund", refund, **options))


def test_a_caller_cannot_change_what_the_next_one_reads(engine_of: EngineOf, as_ann: RequestContext) -> None:
    engine = engine_of(make_action("refund", refund, examples=[{"payment": "payment/17", "amount": 5}]))
    found = described(engine, as_ann, "refund")

    found.input_schema["properties"].clear()
    found.examples[0].clear()
    with pytest.raises(FrozenInstanceError):
        found.input_schema = {}  # type: ignore[misc]

    assert described(engine, as_ann, "refund").input_schema == Refund.model_json_schema()
    assert described(engine, as_ann, "refund").examples == ({"payment": "payment/17", "amount": 5},)
    assert len({found, described(engine, as_ann, "refund")}) == 1


def test_threads_that_read_a_schema_first_get_the_same(engine_of: EngineOf, as_ann: RequestContext) -> None:
    found = described(engine_of(make_action("refund", refund)), as_ann, "refund")
    read: list[Any] = []
    threads = [Thread(target=lambda: read.append(found.input_schema)) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert read == [Refund.model_json_schema()] * 8


def test_a_description_can_go_to_another_process(engine_of: EngineOf, as_ann: RequestContext) -> None:
    found = described(engine_of(make_action("refund", refund)), as_ann, "refund")

    for copy in (pickle.loads(pickle.dumps(found)), deepcopy(found), replace(found)):
        assert copy == found
        assert copy.input_schema == Refund.model_json_schema()


class Unserializable:
    """A class of the host that Pydantic only knows as a class."""


class Odd(BaseModel):
    model_config = {"arbitrary_types_allowed": True}

    name: str
    thing: Unserializable | None = None


class Broken:
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return handler(str)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        raise RuntimeError("no schema")


def test_a_type_without_a_schema_stops_nothing(engine_of: EngineOf, as_ann: RequestContext) -> None:
    engine = engine_of(
        make_action("odd", anything, validation=Odd),
        make_action("broken", lambda data: Success(data), validation=Broken),
    )

    odd, broken = described(engine, as_ann, "odd"), described(engine, as_ann, "broken")

    assert odd.input_schema["properties"]["name"] == {"title": "Name", "type": "string"}
    assert broken.input_schema == {}
    assert broken.output_schema is None


class Login(BaseModel):
    user: str = Field(examples=["ann"])
    password: Annotated[str, Sensitive()] = Field(
        default="hunter2", examples=["tiger3"], json_schema_extra={"example": "tiger3"}
    )


class Connection(BaseModel):
    model_config = {"json_schema_extra": {"examples": [{"key": "tiger3", "login": {"password": "tiger3"}}]}}

    login: Login = Login(user="root", password="hunter2")
    key: SecretStr = Field(default=SecretStr("hunter2"), examples=["tiger3"])
    fallback: Annotated[Login | None, Sensitive()] = None


def connect(data: Connection) -> Result[Connection, ActionError]:
    return Success(data)


def test_no_schema_and_no_example_tells_a_secret(engine_of: EngineOf, as_ann: RequestContext) -> None:
    example = {"login": {"user": "ann", "password": "hunter2"}, "key": "hunter2"}
    engine = engine_of(make_action("connect", connect, examples=[example, Connection()]))

    found = described(engine, as_ann, "connect")

    assert found.examples[0]["login"] == {"user": "ann", "password": "**********"}
    assert "password" in str(found.input_schema)
    for part in (found.input_schema, found.output_schema, found.examples):
        assert "hunter2" not in str(part)
        assert "tiger3" not in str(part)


def test_the_schema_of_a_result_is_that_of_the_last_hook(engine_of: EngineOf, as_ann: RequestContext) -> None:
    def receipts(data: Any) -> Result[list[Receipt], ActionError]:
        return Success([])

    hook = HookDefinition("work", "receipts")
    maybe = HookDefinition("work", "receipts", is_critical=False)
    engine = engine_of(
        make_action("receipts", receipts),
        make_action("changed", refund, hooks=ActionHooks(after=[hook])),
        make_action("unknown", refund, hooks=ActionHooks(after=[maybe])),
        make_action("logged", refund, result=ActionResultConfig(pipeline=True)),
    )

    changed, unknown, logged = (described(engine, as_ann, name) for name in ("changed", "unknown", "logged"))

    assert (changed.output_schema or {})["type"] == "array"
    assert unknown.output_schema is None
    assert sorted((logged.output_schema or {})["properties"]) == ["data", "pipeline"]
    assert (logged.output_schema or {})["$defs"]["Receipt"] == Receipt.model_json_schema(mode="serialization")
