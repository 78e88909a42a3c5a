"""The cost of a payload depends on its size, not on its shape: counts of calls, never times."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any
from uuid import uuid4

import pytest
from pydantic import BaseModel, SecretStr, model_serializer
from returns.result import Success

from actionengine import (
    Actor,
    Engine,
    ErrorCode,
    InMemoryStorage,
    Limits,
    RequestContext,
    Sensitive,
    Tenant,
    create_engine,
    create_service,
)
from actionengine.errors import ActionError
from actionengine.masking.masking import scrub, scrub_text
from actionengine.masking.secret_types import MASK
from actionengine.pipeline.payload import read_payload
from actionengine.text.json_bounds import has_more_values
from tests.conftest import make_action

MOST = Limits().payload_values
LARGE = 1024 * 1024 - 100


class Card(BaseModel):
    value: Any = None
    card: Annotated[Any, Sensitive()] = None


def repeated(item: str, size: int = LARGE) -> str:
    return "[" + ",".join([item] * ((size - 2) // (len(item) + 1))) + "]"


SHAPES: Mapping[str, str] = {
    "lists": repeated("[]"),
    "objects": repeated("{}"),
    "combs": repeated("[" * 60 + "]" * 60),
    "nested objects": repeated('{"a":' * 30 + "0" + "}" * 30),
    "numbers": repeated("0"),
    "members": "{" + ",".join(f'"{number:x}":0' for number in range(100_000)) + "}",
    "empty texts": repeated('""'),
    "letters": repeated('"a"'),
    "quotes": repeated(r'"\""'),
    "backslashes": repeated(r'"\\"'),
    "control characters": repeated(r'"\u0000"'),
    "endless numbers": repeated("1e999"),
}


class Office:
    """An engine with an action of each kind."""

    def __init__(self, **settings: Any) -> None:
        self.storage = InMemoryStorage()
        self.tenant: Tenant = self.storage.create_tenant(slug="acme", name="Acme")

        def anything(data: Any, ctx: Any) -> Any:
            return Success(None)

        def secret(data: Card, ctx: Any) -> Any:
            return Success(None)

        actions = [
            make_action(name, handler, is_protected=False)
            for name, handler in (("anything", anything), ("secret", secret))
        ]
        service = create_service(name="work", description="", actions=actions)
        self.engine: Engine = create_engine(services=[service], storage=self.storage, **settings)

    def do(self, action: str, payload: Any) -> Any:
        request = RequestContext(self.tenant, Actor.human("ann"), idempotency_key=str(uuid4()))
        return self.engine.execute_action("work", action, payload, request)

    def rows(self) -> list[Any]:
        return list(self.storage._data[self.tenant.id].log)


def calls(work: Callable[[], object]) -> int:
    """Return the number of Python functions, comprehensions included, that a piece of work calls."""
    count = 0

    def see(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def values_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(values_of, value.values()))
    return 1 + sum(map(values_of, value)) if isinstance(value, list) else 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("action", ["anything", "secret"])
def test_a_million_brackets_are_refused_before_parsing(shape: str, action: str) -> None:
    office, payload = Office(), {"value": json.loads(SHAPES[shape])}
    refused: list[Any] = []

    counted = calls(lambda: refused.append(office.do(action, payload)))

    error = refused[0].failure()
    assert error.code is ErrorCode.INVALID_INPUT
    assert f"more than {MOST} values" in error.message
    assert counted < 1000
    (row,) = office.rows()
    assert row.outcome == "invalid"
    assert row.input is None


def test_a_refused_payload_is_read_once() -> None:
    office, reads = Office(), []

    class Unreadable(BaseModel):
        @model_serializer
        def shown(self) -> Any:
            reads.append(self)
            raise ValueError("it has no JSON form")

    assert office.do("anything", Unreadable()).failure().code is ErrorCode.INVALID_INPUT
    assert len(reads) == 1


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "[]",
        "{}",
        "[[],[],{}]",
        '[0,[1,2],"a,b",{"c":",[{","d":[{}]}]',
        '["\\"",",","[]","{}","\\\\",[]]',
        '{"a":{"b":[[]]},"[":1,"\\\\":""}',
        '"[[[[,,,,"',
    ],
)
def test_values_are_counted_as_the_parser_finds_them(text: str) -> None:
    number = values_of(json.loads(text))
    assert not has_more_values(text.encode(), number)
    for limit in range(number):
        assert has_more_values(text.encode(), limit), limit


def test_as_many_values_as_are_allowed_pass() -> None:
    limits = Limits(payload_values=100)
    assert read_payload([0] * 99, None, limits).is_plain
    assert read_payload([",[{" * 100] * 99, None, limits).is_plain
    refused: list[Any] = [[0] * 100, {str(number): "" for number in range(100)}, [[]] * 100, [{"a": 0}] * 50]
    for payload in refused:
        with pytest.raises(ActionError, match="more than 100 values"):
            read_payload(payload, None, limits)


def test_values_that_only_an_instance_reveals_are_counted_too() -> None:
    class Hidden(BaseModel):
        token: SecretStr
        rest: Annotated[Any, Sensitive()] = None

    limits = Limits(payload_values=100, payload_bytes=2000)
    with pytest.raises(ActionError, match="more than 100 values"):
        read_payload(Hidden(token=SecretStr("x"), rest=[0] * 100), Hidden, limits)
    with pytest.raises(ActionError, match="bytes; at most 2000"):
        read_payload(Hidden(token=SecretStr("x" * 2000)), Hidden, limits)


def test_a_misfit_deep_in_a_payload_is_found_in_one_walk() -> None:
    def nested(depth: int) -> Any:
        value: Any = [[[]] * 1000, float("inf")]
        for _ in range(depth):
            value = [value]
        return value

    def refuse(depth: int) -> None:
        with pytest.raises(ActionError, match="is inf"):
            read_payload(nested(depth), None, Limits())

    assert calls(lambda: refuse(60)) < 1.2 * calls(lambda: refuse(1)) + 200


# Secrets


def test_many_secrets_and_texts_are_not_compared_pairwise() -> None:
    secrets = [f"secret-{number}" for number in range(5000)]
    texts = [f"x{secret}" for secret in secrets]
    office = Office()

    counted = calls(lambda: office.do("secret", {"card": secrets, "value": texts}).unwrap())

    assert counted < 30 * 10_000
    (row,) = office.rows()
    assert b"secret-" not in row.input


def test_texts_without_a_secret_stay_unmasked() -> None:
    office = Office()
    office.do("secret", {"card": [f"{number:08x}" for number in range(500)], "value": ["word"] * 500}).unwrap()
    (row,) = office.rows()
    assert json.loads(row.input) == {"card": MASK, "value": ["word"] * 500}


def test_a_secret_in_its_own_image_is_not_followed_step_by_step() -> None:
    text = "a" * 200_000
    assert scrub_text(text, {"a" * length for length in range(4, 12)}) == MASK
    assert scrub({"text": text}, {"a" * length for length in range(4, 400)}) == MASK


def test_a_few_secrets_are_masked_in_a_text_of_any_length() -> None:
    text = "word " * 200_000
    assert scrub_text(f"{text}4111-1111", {"4111-1111", "another", "1111-"}) == text + MASK
