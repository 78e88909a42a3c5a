"""Conditions: their results, failed comparisons, and invalid conditions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from actionengine.conditions.conditions import MAX_COMPARED, Condition, comparisons, depth, evaluate, paths
from actionengine.errors import ActionError, ErrorCode
from tests.workflows.harness import comparison

PARSE: TypeAdapter[Any] = TypeAdapter(Condition)

KNOWN: dict[str, Any] = {
    "input": {
        "n": 3,
        "other": 4,
        "half": 0.5,
        "yes": True,
        "none": None,
        "text": "text",
        "list": [1, "two", True, None],
        "nested": {"list": [[True]]},
    },
    "steps": {},
    "run": {},
}


def asked(condition: Any) -> bool:
    return evaluate(PARSE.validate_python(condition), KNOWN)


@pytest.mark.parametrize(
    ("field", "op", "value", "answer"),
    [
        ("n", "eq", 3, True),
        ("n", "eq", 3.0, True),
        ("n", "eq", "3", False),
        ("n", "ne", "3", True),
        ("yes", "eq", True, True),
        ("yes", "eq", 1, False),
        ("yes", "ne", 1, True),
        ("none", "eq", None, True),
        ("none", "eq", False, False),
        ("none", "ne", 0, True),
        ("n", "eq", "${input.n}", True),
        ("n", "eq", "${input.other}", False),
        ("nested", "eq", {"list": [[True]]}, True),
        ("nested", "eq", {"list": [[1]]}, False),
        ("nested.list", "ne", [[1.0]], True),
        ("list.2", "eq", True, True),
        ("n", "lt", 4, True),
        ("n", "lt", 3, False),
        ("n", "le", 3, True),
        ("n", "gt", 2.5, True),
        ("n", "ge", 3, True),
        ("n", "ge", "${input.other}", False),
        ("half", "gt", 0, True),
        ("text", "lt", "texts", True),
        ("text", "ge", "Text", True),
        ("n", "in", [1, 2, 3], True),
        ("n", "not_in", [1, 2, 3], False),
        ("yes", "in", [1, 2, 3], False),
        ("yes", "not_in", [1], True),
        ("text", "in", "${input.list}", False),
        ("n", "in", [], False),
        ("n", "in", ["${input.n}"], True),
        ("list", "contains", "two", True),
        ("list", "contains", 1.0, True),
        ("list", "contains", 0, False),
        ("text", "contains", "ex", True),
        ("text", "contains", "", True),
        ("text", "contains", "EX", False),
    ],
)
def test_a_comparison_holds_or_not(field: str, op: str, value: Any, answer: bool) -> None:
    assert asked(comparison(f"input.{field}", op, value)) is answer
    assert asked({"not": comparison(f"input.{field}", op, value)}) is not answer


@pytest.mark.parametrize(
    ("field", "is_there"), [("n", True), ("nobody", False), ("none", False), ("n.x", False), ("list.3", False)]
)
def test_what_is_null_or_not_there_is_missing(field: str, is_there: bool) -> None:
    assert asked(comparison(f"input.{field}", "exists")) is is_there
    assert asked(comparison(f"input.{field}", "missing")) is not is_there


def test_conditions_are_evaluated_lazily_in_order() -> None:
    unanswerable = comparison("input.nobody", "eq", 1)
    true, false = comparison("input.n", "eq", 3), comparison("input.n", "eq", 4)

    assert asked({"any": [true, unanswerable]}) is True
    assert asked({"all": [false, unanswerable]}) is False
    assert asked({"all": [true, {"any": [false, {"not": false}]}]}) is True
    assert asked({"all": [comparison("input.nobody", "exists"), unanswerable]}) is False
    with pytest.raises(ActionError):
        asked({"any": [false, unanswerable]})


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (comparison("input.nobody", "eq", 1), "there is no input.nobody"),
        (comparison("input.n", "eq", "${input.nobody}"), "there is no input.nobody"),
        (comparison("input.n", "gt", "2"), "input.n is 3, which 'gt' cannot compare with '2'"),
        (comparison("input.text", "gt", 2), "cannot compare"),
        (comparison("input.yes", "gt", 0), "input.yes is True, which 'gt' cannot compare with 0"),
        (comparison("input.n", "gt", True), "cannot compare"),
        (comparison("input.none", "lt", 1), "cannot compare"),
        (comparison("input.list", "lt", [2]), "cannot compare"),
        (comparison("input.n", "contains", 1), "cannot compare"),
        (comparison("input.text", "contains", 1), "cannot compare"),
        (comparison("input.n", "in", "${input.text}"), "cannot compare"),
    ],
)
def test_what_cannot_be_asked_is_unprocessable_and_named(condition: Any, said: str) -> None:
    with pytest.raises(ActionError) as caught:
        asked(condition)

    assert caught.value.code is ErrorCode.UNPROCESSABLE
    assert said in caught.value.message
    assert "path" in caught.value.details


def test_a_message_shortens_a_long_value() -> None:
    with pytest.raises(ActionError) as caught:
        asked(comparison("input.n", "gt", "x" * 10_000))

    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "condition",
    [
        {},
        None,
        [],
        "input.n",
        True,
        {"al": []},
        {"all": []},
        {"any": []},
        {"not": {}},
        {"not": []},
        {"all": [{}]},
        {"all": comparison("input.n", "eq", 3)},
        comparison("input.n", "exists", 3),
        comparison("input.n", "exists", None),
        comparison("input.n", "eq"),
        comparison("input.n", "like", 3),
        comparison("n", "eq", 3),
        comparison("input", "eq", 3),
        comparison("${input.n}", "eq", 3),
        comparison("input.n", "in", 3),
        comparison("input.n", "in", "abc"),
        comparison("input.n", "not_in", {"a": 1}),
        comparison("input.n", "eq", "${nobody}"),
        comparison("input.n", "eq", 3) | {"all": []},
        comparison("input.n", "eq", 3) | {"more": 1},
        {"not": comparison("input.n", "eq", 3), "any": [comparison("input.n", "eq", 3)]},
    ],
)
def test_what_is_no_condition_is_refused(condition: Any) -> None:
    with pytest.raises(ValidationError):
        PARSE.validate_python(condition)


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, "1", "a", ""])


def each(op: str, value: Any, number: int) -> dict[str, Any]:
    return {"any": [{"not": comparison("input.long", op, value)} for _ in range(number)]}


@pytest.mark.parametrize(
    ("condition", "long"),
    [
        (comparison("input.long", "contains", "x"), list(range(MAX_COMPARED + 1))),
        (each("eq", "${input.long}", 101), list(range(100))),
        ({"any": [comparison("input.long", "contains", "x")] * 101}, list(range(100))),
        (each("eq", "${input.long}", 101), [{str(number): number for number in range(99)}]),
        ({"any": [comparison("input.long", "in", list(range(100)))] * 101}, "x"),
        ({"any": [comparison("input.long", "contains", "x")] * 101}, "y" * 100_000),
    ],
    ids=["a list", "lists with each other", "a list again", "an object", "a list of the condition's", "a text"],
)
def test_a_condition_with_too_many_comparisons_is_refused(condition: Any, long: Any) -> None:
    parsed = PARSE.validate_python(condition)
    with pytest.raises(ActionError, match="the condition compares more than 10000 values") as caught:
        evaluate(parsed, {"input": {"long": long}})
    assert caught.value.code is ErrorCode.UNPROCESSABLE
    assert caught.value.details == {"limit": MAX_COMPARED}


def test_the_references_of_a_condition_have_one_limit() -> None:
    parsed = PARSE.validate_python(each("eq", "${input.long}", 3))
    with pytest.raises(ActionError, match="the references yield more than 1024 KB"):
        evaluate(parsed, {"input": {"long": "x" * 500_000}})


VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
FIELDS = st.sampled_from(["input.a", "input.b", "input.c"])
COMPARISONS = st.one_of(
    st.builds(comparison, FIELDS, st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "contains"]), VALUES),
    st.builds(comparison, FIELDS, st.sampled_from(["in", "not_in"]), st.lists(VALUES, max_size=3)),
    st.builds(comparison, FIELDS, st.sampled_from(["exists", "missing"])),
)
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda each: {"all": each}),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: {"any": each}),
        inner.map(lambda each: {"not": each}),
    ),
    max_leaves=8,
)


@given(CONDITIONS, st.dictionaries(st.sampled_from("abc"), VALUES))
def test_any_condition_has_an_answer_or_says_why_not(given_condition: Any, input: dict[str, Any]) -> None:
    condition = PARSE.validate_python(given_condition)
    known = {"input": input}
    refusal: ActionError | None = None

    try:
        answer: bool | None = evaluate(condition, known)
    except ActionError as caught:
        answer, refusal = None, caught
    assert refusal is None or refusal.code is ErrorCode.UNPROCESSABLE
    assert refusal is None or refusal.details["path"] in {each.field for each in comparisons(condition)}
    assert answer == _reference(given_condition, input)
    assert 1 <= depth(condition) <= 20
    assert {path[0] for path, _ in paths(condition)} == {"input"}
    dumped = condition.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert PARSE.validate_python(dumped) == condition


def _reference(condition: Any, input: dict[str, Any]) -> bool | None:
    """Evaluate a condition in another way: three-valued, from left to right."""
    if "not" in condition:
        answer = _reference(condition["not"], input)
        return None if answer is None else not answer
    for name, decisive in (("all", False), ("any", True)):
        if name in condition:
            for each in condition[name]:
                answer = _reference(each, input)
                if answer is None or answer is decisive:
                    return answer
            return not decisive
    name, op, value = condition["field"][-1], condition["op"], condition.get("value")
    if op in ("exists", "missing"):
        return bool((input.get(name) is not None) == (op == "exists"))
    if name not in input:
        return None
    found = input[name]
    kinds = (type(found) if not isinstance(found, float) else int, type(value) if not isinstance(value, float) else int)
    if op in ("lt", "le", "gt", "ge"):
        if kinds not in ((int, int), (str, str)):
            return None
        answers = {"lt": found < value, "le": found <= value, "gt": found > value, "ge": found >= value}
        return bool(answers[op])
    if op == "contains":
        if isinstance(found, str):
            return bool(value in found) if isinstance(value, str) else None
        return _typed(value) in map(_typed, found) if isinstance(found, list) else None
    if op in ("in", "not_in"):
        return bool((_typed(found) in map(_typed, value)) == (op == "in"))
    return bool((_typed(found) == _typed(value)) == (op == "eq"))


def _typed(value: Any) -> Any:
    """Return a value that equals no value of another JSON type."""
    if isinstance(value, list):
        return ("list", tuple(map(_typed, value)))
    kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    return (kind, value)
