"""References: their values, plain texts, and refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionengine.conditions.templates import look_up, parse_path, references, render
from actionengine.errors import ActionError, ErrorCode

KNOWN: dict[str, Any] = {
    "input": {
        "n": 3,
        "half": 0.5,
        "yes": True,
        "none": None,
        "text": "téxt",
        "list": ["zero", {"name": "one"}],
        "007": "bond",
        "tricky": "${input.n}",
        "empty": {},
    },
    "steps": {"a": {"id": "1", "deep": {"er": [[1, 2]]}}},
    "run": {"id": "r"},
}

NAMES = st.text(st.characters(exclude_characters=".{}$", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${input.n}", 3),
        ("${ input.n }", 3),
        ("${input.yes}", True),
        ("${input.none}", None),
        ("${input.list}", ["zero", {"name": "one"}]),
        ("${input.list.1.name}", "one"),
        ("${input.list.0}", "zero"),
        ("${input.007}", "bond"),
        ("${steps.a.deep.er.0.1}", 2),
        ("n is ${input.n}", "n is 3"),
        ("${input.n}${input.n}", "33"),
        ("${input.n} ", "3 "),
        ("${input.yes}, ${input.none}, ${input.half}", "true, null, 0.5"),
        ("${input.text}: ${input.list}", 'téxt: ["zero",{"name":"one"}]'),
        ("$${input.n}", "${input.n}"),
        ("$${input.n} is ${input.n}", "${input.n} is 3"),
        ("$$${input.n}", "$${input.n}"),
        ("$5, $, {}, }{, $ {input.n}", "$5, $, {}, }{, $ {input.n}"),
        ("", ""),
        ("${input.tricky}", "${input.n}"),
        ("<${input.tricky}>", "<${input.n}>"),
    ],
)
def test_a_text_is_filled(text: str, value: Any) -> None:
    found = render(text, KNOWN)

    assert found == value
    assert type(found) is type(value)


def test_a_member_may_have_another_form_of_unicode() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    reference = f"${{input.{decomposed}.{decomposed}}}"

    assert render(reference, {"input": {composed: {composed: 1}}}) == 1
    assert render(reference, {"input": {composed: 1, decomposed: {composed: 2, decomposed: 3}}}) == 3


def test_references_are_filled_in_values_not_in_names() -> None:
    value = {"${input.n}": ["${input.n}", ("${input.yes}",), {"a": "<${input.n}>"}], "n": 1, "x": None}

    assert render(value, KNOWN) == {"${input.n}": [3, [True], {"a": "<3>"}], "n": 1, "x": None}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("input.nobody", "there is no input.nobody: input has no 'nobody'"),
        ("input.empty.x.y", "there is no input.empty.x.y: input.empty has no 'x'"),
        ("input.list.2", "input.list has no '2'"),
        ("input.list.-1", "input.list has no '-1'"),
        ("input.list.name", "input.list has no 'name'"),
        ("input.list.²", "input.list has no '²'"),
        ("input.list." + "9" * 5000, "input.list has no '999"),
        ("input.text.0", "input.text has no '0'"),
        ("input.none.x", "input.none has no 'x'"),
        ("input.n.real", "input.n has no 'real'"),
        ("input.list.__class__", "input.list has no '__class__'"),
        ("steps.b.id", "steps has no 'b'"),
    ],
)
def test_what_is_not_there_is_unprocessable_and_said(path: str, said: str) -> None:
    with pytest.raises(ActionError) as caught:
        render(f"<${{{path}}}>", KNOWN)

    error = caught.value
    assert error.code is ErrorCode.UNPROCESSABLE
    assert said in error.message
    assert error.details["path"] == path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a path"),
        ("input", "names all of input"),
        ("input.", "members are joined by dots"),
        (".input", "members are joined by dots"),
        ("input..n", "members are joined by dots"),
        ("secrets.n", "it begins with input, steps, run"),
        ("Input.n", "it begins with"),
        ("__class__.n", "it begins with"),
    ],
)
def test_what_is_no_path_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_path(text)
    with pytest.raises(ValueError, match=said):
        list(references({"a": [f"x ${{{text}}}"]}))


@pytest.mark.parametrize("text", ["${input.n", "a ${", "${input.${input.n}}", "$${input.n} ${", "${a{b}}"])
def test_a_reference_without_an_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="has no end"):
        list(references(text))


def test_references_are_found_wherever_they_stand() -> None:
    value = {"a": ["${input.n}", {"b": "x ${steps.a.id} $${not.one} ${run.id}"}], "${input.key}": 1}

    assert list(references(value)) == [("input", "n"), ("steps", "a", "id"), ("run", "id")]


@given(JSON, st.lists(NAMES, min_size=1, max_size=3))
def test_a_reference_alone_gives_the_value_as_it_is(value: Any, path: list[str]) -> None:
    known: Any = value
    for name in reversed(path):
        known = {name: known}

    assert look_up(("input", *path), {"input": known}) == value
    assert render("${input." + ".".join(path) + "}", {"input": known}) == value


@given(JSON)
def test_within_a_text_a_value_is_its_json(value: Any) -> None:
    text = render("<${input.value}>", {"input": {"value": value}})

    if isinstance(value, str):
        assert text == f"<{value}>"
    else:
        assert json.loads(text[1:-1]) == value


@given(st.text())
def test_a_text_with_each_dollar_brace_escaped_stands_for_itself(text: str) -> None:
    escaped = text.replace("${", "$${")
    if "$$${" in escaped:
        # This looks like an escape.
        return

    assert list(references(escaped)) == []
    assert render(escaped, KNOWN) == text


@given(st.text(alphabet="${}.inputa1 "))
def test_any_text_is_filled_or_refused_and_never_more_than_once(text: str) -> None:
    known = {"input": {"a": "${input.a}"}, "steps": {}, "run": {}}
    try:
        paths = list(references(text))
    except ValueError:
        return
    try:
        found = render(text, known)
    except ActionError as caught:
        found = caught.code

    assert isinstance(found, str)
    assert found is not ErrorCode.UNPROCESSABLE or paths


def test_references_do_not_make_much_of_a_long_input() -> None:
    known = {"input": {"long": "x" * 60_000, "list": ["x" * 60_000]}}

    assert len(render("${input.long}" * 17, known)) == 17 * 60_000
    for value in ("${input.long}" * 18, ["${input.long}"] * 18, {str(n): "${input.list}" for n in range(18)}):
        with pytest.raises(ActionError) as caught:
            render(value, known)
        assert caught.value.code is ErrorCode.UNPROCESSABLE
        assert "more than 1024 KB" in caught.value.message
