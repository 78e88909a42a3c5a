"""Rules of payloads at their edges: reading, copies, bounds, fingerprints and error texts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, cast
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator

from actionengine.errors import ActionError, ErrorCode
from actionengine.masking.secret_types import Everything
from actionengine.pipeline.payload import (
    Limits,
    Payload,
    check_approvable,
    check_claimable,
    copy_payload,
    fingerprint,
    read_payload,
)
from actionengine.schemas.field_errors import field_errors, summarize
from actionengine.text.json_bounds import MAX_JSON_DEPTH, MAX_JSON_DIGITS, check_readable, is_deeper


class Note(BaseModel):
    text: str
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


class Other(BaseModel):
    text: str


@dataclass
class Plain:
    text: str
    tags: list[str]


LIMITS = Limits()


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(ActionError) as caught:
        call(*arguments)
    assert caught.value.code is ErrorCode.INVALID_INPUT
    return caught.value.message


# Copies


def test_a_copy_equals_plain_values_and_objects() -> None:
    for payload in ({"a": [1]}, Plain("x", ["t"])):
        received = read_payload(payload, Plain, LIMITS)
        again = received.copy()
        assert again == received
        assert again.value is not received.value
        assert type(again.value) is type(payload)
    nested = read_payload(Plain("x", ["t"]), Plain, LIMITS)
    assert nested.copy().value.tags is not nested.value.tags


def test_what_is_received_is_nobody_elses() -> None:
    given = {"a": [1]}
    received = read_payload(given, None, LIMITS)
    given["a"].append(2)
    assert received.value == {"a": [1]}
    assert received.json == b'{"a":[1]}'
    assert received.is_plain is True


def test_an_instance_keeps_its_type_and_its_json() -> None:
    given = Plain("x", ["t"])
    received = read_payload(given, Plain, LIMITS)
    given.tags.append("later")
    assert received.value == Plain("x", ["t"])
    assert received.json == b'{"text":"x","tags":["t"]}'
    assert received.is_plain is False


def test_an_instance_of_another_model_becomes_its_json() -> None:
    received = read_payload(Other(text="x"), Note, LIMITS)
    assert (received.value, received.is_plain, received.json) == ({"text": "x"}, True, b'{"text":"x"}')
    subclass = type("Sub", (Note,), {})
    assert type(read_payload(subclass(text="x"), Note, LIMITS).value) is subclass
    assert type(read_payload(Note(text="x"), None, LIMITS).value) is Note


def test_an_instance_of_a_class_that_is_no_model_needs_the_model() -> None:
    assert "a payload is made of" in refusal(read_payload, Plain("x", []), None, LIMITS)
    assert "a payload is made of" in refusal(read_payload, Plain("x", []), Note, LIMITS)
    assert "a payload is made of" in refusal(read_payload, Plain("x", []), list[Plain], LIMITS)
    for text in ("x", 1, 1.5, None, [1], {"a": 1}):
        assert read_payload(text, type(text), LIMITS).is_plain is True


def test_the_secrets_of_an_instance_are_known_with_it() -> None:
    class Login(BaseModel):
        user: str
        password: SecretStr

    received = read_payload(Login(user="ann", password=SecretStr("hunter22")), Login, LIMITS)
    assert received.json == b'{"user":"ann","password":"hunter22"}'
    assert received.masked == b'{"user":"ann","password":"**********"}'
    assert received.secrets == {"hunter22"}
    read = read_payload(Login(user="ann", password=SecretStr("hunter22")), Note, LIMITS)
    assert (read.value, read.is_plain) == ({"user": "ann", "password": "hunter22"}, True)
    assert (read.masked, read.secrets) == (received.masked, received.secrets)


def test_what_a_hook_returns_is_carried_on() -> None:
    plain = copy_payload({"a": 1}, Note, LIMITS)
    assert (plain.value, plain.is_plain) == ({"a": 1}, True)
    note = copy_payload(Note(text="x"), Note, LIMITS)
    assert (note.value, note.is_plain) == (Note(text="x"), False)
    assert copy_payload(Note(text="x"), Other, LIMITS).value == {"text": "x", "at": "2026-01-01T00:00:00Z"}
    assert copy_payload((1, 2), None, LIMITS).value == (1, 2)
    assert "at most 5 are allowed" in refusal(copy_payload, "x" * 10, None, Limits(payload_bytes=5))
    assert "the payload is not JSON: " in refusal(copy_payload, object(), None, LIMITS)


def test_what_cannot_be_copied_is_refused_with_its_type() -> None:
    class Stubborn(BaseModel):
        text: str

        def __deepcopy__(self, memo: Any = None) -> Any:
            raise RuntimeError("no copies")

    message = refusal(read_payload, Stubborn(text="x"), Stubborn, LIMITS)
    assert message == "the payload, a Stubborn, cannot be copied: no copies"


PLAIN = (
    "a payload is made of dicts with texts as keys, lists, texts, finite numbers, booleans and None, or is an instance "
    "of the action's model: give the JSON form of it"
)
UUID_1 = UUID(int=1)


class Odd:
    pass


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (UUID_1, f"the payload is of the type uuid.UUID; {PLAIN}"),
        ((1, 2), f"the payload is of the type tuple; {PLAIN}"),
        ({"a": UUID_1}, f"a is of the type uuid.UUID; {PLAIN}"),
        ({"x": 1, "a": {"b": UUID_1}}, f"a.b is of the type uuid.UUID; {PLAIN}"),
        ({"a": [1, [2, (3,)]]}, f"a[1][1] is of the type tuple; {PLAIN}"),
        ([1, UUID_1], f"[1] is of the type uuid.UUID; {PLAIN}"),
        ([{"a": 1}, {"b": UUID_1}], f"[1].b is of the type uuid.UUID; {PLAIN}"),
        ({1: 2}, "the payload has a key of the type int; keys are texts"),
        ({"a": {UUID_1: 2}}, "a has a key of the type uuid.UUID; keys are texts"),
        (math.inf, "the payload is inf; JSON has finite numbers only"),
        ({"a": [math.inf]}, "a[0] is inf; JSON has finite numbers only"),
    ],
)
def test_what_is_not_plain_is_told_by_its_place_and_type(payload: Any, told: str) -> None:
    assert refusal(read_payload, payload, None, LIMITS) == f"the payload is not JSON: {told}"


def test_what_has_no_json_at_all_is_told_by_the_reason() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    for payload in (Odd(), {"a": Odd()}):
        message = refusal(read_payload, payload, None, LIMITS)
        assert message.startswith("the payload is not JSON: ")
        assert "Odd" in message
    assert "nested" in refusal(read_payload, deep, None, LIMITS) or "depth" in refusal(read_payload, deep, None, LIMITS)

    class Recursing(BaseModel):
        text: str

        def __deepcopy__(self, memo: Any = None) -> Any:
            raise RecursionError("how deep")

    message = refusal(read_payload, Recursing(text="x"), Recursing, LIMITS)
    assert message == "the payload, a Recursing, cannot be copied: it is nested too deeply"


# Bounds


def test_a_payload_has_at_most_so_many_bytes() -> None:
    assert read_payload("x" * 8, None, Limits(payload_bytes=10)).value == "x" * 8
    assert refusal(read_payload, "x" * 9, None, Limits(payload_bytes=10)) == (
        "the payload has 11 bytes; at most 10 are allowed"
    )
    assert "has 6 bytes" in refusal(read_payload, "éé", None, Limits(payload_bytes=5))


def nested(levels: int, inner: Any = 1, brackets: str = "[") -> Any:
    for _ in range(levels):
        inner = [inner] if brackets == "[" else {"a": inner}
    return inner


@pytest.mark.parametrize("brackets", ["[", "{"])
@pytest.mark.parametrize("depth", [1, 2, 3, 10])
def test_a_payload_is_nested_at_most_so_deep(depth: int, brackets: str) -> None:
    limits = Limits(payload_depth=depth)
    wide = nested(depth - 1, [1, 2, "text that makes it long enough to be looked at"], brackets)
    assert read_payload(wide, None, limits).value == wide
    for deep in (nested(depth + 1, 1, brackets), nested(depth + 1, "x" * 100, brackets)):
        message = refusal(read_payload, deep, None, limits)
        assert message == f"the payload is nested deeper than {depth} levels"
    # Siblings add no depth.
    side_by_side = [nested(depth - 1, "x", brackets) for _ in range(depth + 5)]
    assert read_payload(side_by_side, None, limits).value == side_by_side


@pytest.mark.parametrize("text", ['"[[[[', '\\"[[[[', "\\", '\\\\"[[', "]]]]", '{"a":[', "[" * 50])
def test_brackets_in_a_text_are_no_depth(text: str) -> None:
    limits = Limits(payload_depth=2)
    for payload in ([text, text], {text: text}, [[text], [text]], [text, [1], [2], [3]]):
        assert read_payload(payload, None, limits).value == payload
    assert "deeper than 2" in refusal(read_payload, [text, [[1]]], None, limits)
    assert "deeper than 2" in refusal(read_payload, [[[text]]], None, limits)
    assert "deeper than 2" in refusal(read_payload, {text: {text: {text: 1}}}, None, limits)


def test_a_payload_is_never_deeper_than_what_is_written() -> None:
    limits = Limits(payload_depth=10_000)
    assert read_payload(nested(MAX_JSON_DEPTH), None, limits).value == nested(MAX_JSON_DEPTH)
    assert f"deeper than {MAX_JSON_DEPTH}" in refusal(read_payload, nested(MAX_JSON_DEPTH + 1), None, limits)


def test_depth_is_counted_as_containers_within_each_other() -> None:
    assert not is_deeper(b"1", 0)
    assert is_deeper(b"[]", 0)
    assert not is_deeper(b"[[],{}]", 2)
    assert is_deeper(b"[[],{}]", 1)
    assert is_deeper(b'[[],{"a":[]}]', 2)
    assert not is_deeper(b'["[",{"[":"\\"["}]', 2)
    assert is_deeper(b'{"a":{"b":{}}}', 2)
    assert not is_deeper(b'{"a":{"b":{}}}', 3)


def test_json_that_nobody_could_read_again_is_refused() -> None:
    check_readable(b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH)
    deep = b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1)
    with pytest.raises(ValueError, match=f"^it is nested deeper than {MAX_JSON_DEPTH} levels$"):
        check_readable(deep)
    check_readable(b"[" + b"[],{}," * 200 + b"1]")
    objects = b'{"a":' * (MAX_JSON_DEPTH + 1) + b"1" + b"}" * (MAX_JSON_DEPTH + 1)
    with pytest.raises(ValueError, match="nested deeper"):
        check_readable(objects)
    for length in (MAX_JSON_DIGITS + 1, MAX_JSON_DIGITS + 2):
        for start in (0, 1, MAX_JSON_DIGITS - 1, MAX_JSON_DIGITS, MAX_JSON_DIGITS + 1, 3 * MAX_JSON_DIGITS):
            with pytest.raises(ValueError, match="digits"):
                check_readable(b"[" + b" " * start + b"1" * length + b"]")
    check_readable(b"1" * MAX_JSON_DIGITS)
    check_readable(b'"' + b"1" * 3 * MAX_JSON_DIGITS + b'"')
    for before in (b"", b"[1,", b"[" + b"1," * 700, b"[-"):
        after = b"]" if before else b""
        with pytest.raises(ValueError, match=f"^an integer in it has more than {MAX_JSON_DIGITS} digits$"):
            check_readable(before + b"1" * (MAX_JSON_DIGITS + 1) + after)


# Fingerprints


def print_of(value: Any, model: Any = None) -> str:
    return fingerprint(read_payload(value, model, LIMITS))


def test_a_fingerprint_is_the_hash_of_sorted_json() -> None:
    expected = sha256(b'{"a":[{"c":1,"d":2}],"b":null}').hexdigest()
    assert print_of({"b": None, "a": [{"d": 2, "c": 1}]}) == expected
    assert print_of({"a": [{"c": 1, "d": 2}], "b": None}) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}),
        ([{"x": 1, "y": 2}], [{"y": 2, "x": 1}]),
        ({"a": [[{"x": {"p": 1, "q": 2}}]]}, {"a": [[{"x": {"q": 2, "p": 1}}]]}),
    ],
)
def test_keys_are_sorted_at_every_level(one: Any, other: Any) -> None:
    assert print_of(one) == print_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": 2}),
        ({"a": [1]}, {"a": [2]}),
        ({"a": {"b": 1}}, {"a": {"b": 2}}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": "1"}),
        (None, "null"),
        ([], {}),
        ([[1]], [1]),
        ({"a": None}, {}),
    ],
)
def test_other_payloads_have_other_fingerprints(one: Any, other: Any) -> None:
    assert print_of(one) != print_of(other)


def test_an_instance_has_the_fingerprint_of_its_json() -> None:
    assert print_of(Plain("x", ["t"]), Plain) == print_of({"tags": ["t"], "text": "x"})
    assert print_of(Plain("x", ["t"]), Plain) != print_of(Plain("x", ["u"]), Plain)


def test_a_key_and_an_approval_take_what_their_json_gives_back() -> None:
    class Hiding(BaseModel):
        text: str
        hidden: int = 0

        @field_validator("hidden", mode="before")
        @classmethod
        def forget(cls, value: Any) -> Any:
            return 0 if isinstance(value, int) and value > 5 else value

    class Aliased(BaseModel):
        text: str = Field(alias="read", serialization_alias="written")
        more: list[Other] = []

    aliased = read_payload(Aliased(read="x"), Aliased, LIMITS)
    known = check_claimable(aliased, Aliased.__pydantic_validator__)
    assert known == aliased._replace(json=b'{"text":"x","more":[]}')
    assert known.json != aliased.json
    assert refusal(check_approvable, aliased, Aliased.__pydantic_validator__).startswith("an approval keeps the JSON")
    hidden = Payload(b'{"written":"x"}', Aliased.model_construct(text=cast("Any", 7)), False)
    assert "an idempotency key" in refusal(check_claimable, hidden, Aliased.__pydantic_validator__)
    plain = read_payload({"a": 1}, None, LIMITS)
    assert check_claimable(plain, None) is plain
    check_approvable(plain, None)
    note = read_payload(Note(text="x"), Note, LIMITS)
    assert check_claimable(note, Note.__pydantic_validator__) == note
    assert check_claimable(note, None) == note
    check_approvable(note, Note.__pydantic_validator__)
    assert refusal(check_approvable, note, None) == (
        "an approval keeps the JSON of a payload, and that of this Note is not all of it: the action has no validation "
        "that would make it again. Send plain JSON values"
    )
    changed = Payload(b'{"text":"x","hidden":7}', Hiding.model_construct(text="x", hidden=7), False)
    for check, keeper in ((check_claimable, "an idempotency key"), (check_approvable, "an approval")):
        message = refusal(check, changed, Hiding.__pydantic_validator__)
        assert message.startswith(f"{keeper} keeps the JSON of a payload, and that of this Hiding is not all of it: ")
        assert "hidden" in message
        assert message.endswith(". Send plain JSON values")


# Error texts


class Form(BaseModel):
    name: str
    lines: list[Other] = []
    password: str = ""

    @field_validator("name")
    @classmethod
    def is_short(cls, value: str) -> str:
        if len(value) > 3:
            raise ValueError("Value error, as it were: it is too long")
        return value

    @field_validator("password")
    @classmethod
    def is_not_quoted(cls, value: str) -> str:
        if value:
            raise ValueError(f"{value} is no good")
        return value


def errors_of(payload: Any, sensitive: Any = ()) -> list[dict[str, str]]:
    with pytest.raises(ValidationError) as caught:
        Form.model_validate(payload)
    return field_errors(caught.value, sensitive)


def test_a_refusal_names_path_reason_and_type_and_nothing_else() -> None:
    assert errors_of({"name": "long name", "lines": [{"text": "x"}, {"text": 1}]}) == [
        {"path": "name", "reason": "Value error, as it were: it is too long", "type": "value_error"},
        {"path": "lines.1.text", "reason": "Input should be a valid string", "type": "string_type"},
    ]
    assert errors_of([]) == [
        {"path": "", "reason": "Input should be a valid dictionary or instance of Form", "type": "model_type"}
    ]


def test_what_stands_under_a_secret_name_is_not_quoted() -> None:
    payload = {"name": "x", "password": "hunter22"}
    assert errors_of(payload)[0]["reason"] == "hunter22 is no good"
    secret = {"path": "password", "reason": "is not valid", "type": "value_error"}
    assert errors_of(payload, {"password"}) == [secret]
    assert errors_of(payload, {"name"})[0]["reason"] == "hunter22 is no good"
    assert errors_of(payload, Everything())[0]["path"] == ""
    assert errors_of(payload, Everything())[0]["reason"] == "is not valid"
    below = errors_of({"name": "x", "lines": [{"text": 1}]}, {"lines"})
    assert below == [{"path": "lines", "reason": "is not valid", "type": "string_type"}]


def test_refusals_are_told_in_one_line() -> None:
    told = [{"path": "a.b", "reason": "is wrong"}, {"path": "", "reason": "is worse"}]
    assert summarize(told) == "a.b: is wrong; payload: is worse"
    assert summarize(told, "") == "a.b: is wrong; is worse"
    assert summarize([]) == ""


def test_few_values_are_parsed_to_see_whether_they_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr("actionengine.text.json_bounds.from_json", parsed.append)
    check_readable(b"[" + b"[]," * MAX_JSON_DEPTH + b"[]]")
    check_readable(b'"' + b"x" * (2 * MAX_JSON_DIGITS - 2) + b"1" + b"x" * MAX_JSON_DIGITS + b'"')
    assert parsed == []
    check_readable(b'"' + b"x" * (MAX_JSON_DIGITS - 1) + b"1" + b"x" * MAX_JSON_DIGITS + b'"')
    assert len(parsed) == 1
