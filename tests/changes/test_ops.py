"""Patch ops: the payloads that each kind accepts, and its errors for others."""

from __future__ import annotations

from typing import Any, Literal
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionengine.changes.ops import OpType, PatchOp, parse_op
from actionengine.errors import ActionError, ErrorCode
from actionengine.schemas.schema import FIELD_TYPES

DIFF = """\
--- a/main.py
+++ b/main.py
@@ -1,2 +1,2 @@
 import os
-print("old")
+print("new")
"""

TEXT = {"type": "string"}


def payload(**more: Any) -> dict[str, Any]:
    return {"record_type": "job", "field": "title", **more}


def refusal(op_type: OpType, payload: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """Return the message of an error, and each field with its problem."""
    with pytest.raises(ActionError) as raised:
        parse_op(op_type, payload)
    error = raised.value
    assert error.code == ErrorCode.INVALID_INPUT
    assert error.details["op_type"] == op_type
    return error.message, [(field["path"], field["reason"]) for field in error.details["fields"]]


@pytest.mark.parametrize(
    ("op_type", "sent", "record_type", "field", "gives", "shown"),
    [
        ("add_field", payload(definition=TEXT), "job", "title", "title", "add_field job.title"),
        ("set_field", payload(definition=TEXT), "job", "title", None, "set_field job.title"),
        ("remove_field", payload(), "job", "title", None, "remove_field job.title"),
        (
            "rename_field",
            {"record_type": "job", "old_name": "a", "new_name": "b"},
            "job",
            "a",
            "b",
            "rename_field job.a → b",
        ),
        ("edit_file", {"file_path": "main.py", "diff": DIFF}, None, None, None, "edit_file main.py"),
    ],
)
def test_an_op_knows_what_it_is_about(
    op_type: OpType, sent: dict[str, Any], record_type: str | None, field: str | None, gives: str | None, shown: str
) -> None:
    op = parse_op(op_type, sent)

    assert op == PatchOp(op_type, sent)
    assert (op.record_type, op.field, op.resulting_field, str(op)) == (record_type, field, gives, shown)
    assert op.affected_fields == {name for name in (field, gives) if name is not None}


@pytest.mark.parametrize("type", FIELD_TYPES)
def test_each_type_of_field_can_be_added(type: str) -> None:
    assert parse_op("add_field", payload(definition={"type": type})).payload["definition"] == {"type": type}


def test_what_is_not_said_is_not_stored() -> None:
    assert parse_op("add_field", payload(definition={"type": "string"})).payload == payload(definition=TEXT)


def test_what_the_library_does_not_know_of_a_field_is_kept() -> None:
    definition = {"type": "choice", "choices": ["a", "b"], "label": "Title", "help": {"en": ["…"], "hidden": None}}
    assert parse_op("set_field", payload(definition=definition)).payload["definition"] == definition


def test_a_definition_may_repeat_the_name_of_its_field() -> None:
    assert parse_op("add_field", payload(definition={**TEXT, "name": "title"})).payload["definition"] == TEXT


UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
VISIBLE = st.characters(exclude_categories=["C", "Z"], exclude_characters=UNSEEN).filter(
    lambda each: not ("\ufe00" <= each <= "\ufe0f" or each >= "\U000e0000")
)


# In the form NFC, one character may become three.
@given(st.text(VISIBLE, min_size=1, max_size=33))
def test_a_name_is_any_visible_text_in_the_form_nfc(name: str) -> None:
    plain = normalize("NFC", name)
    assert parse_op("remove_field", {"record_type": name, "field": name}).field == plain
    assert parse_op("remove_field", {"record_type": plain, "field": plain}).field == plain


def test_an_op_that_was_parsed_is_one_again() -> None:
    op = parse_op("add_field", payload(definition={**TEXT, "required": True}, before="date", override=True))
    assert parse_op(op.op_type, op.payload) == op


# Invalid payloads


def test_a_field_that_is_missing_is_named() -> None:
    assert refusal("add_field", {"record_type": "job", "definition": TEXT}) == (
        "add_field: field: Field required",
        [("field", "Field required")],
    )


@pytest.mark.parametrize(
    ("op_type", "fields"),
    [
        ("add_field", ["record_type", "field", "definition"]),
        ("set_field", ["record_type", "field", "definition"]),
        ("remove_field", ["record_type", "field"]),
        ("rename_field", ["record_type", "old_name", "new_name"]),
        ("edit_file", ["file_path", "diff"]),
    ],
)
def test_an_empty_payload_is_told_all_that_it_lacks(op_type: OpType, fields: list[str]) -> None:
    message, problems = refusal(op_type, {})
    assert problems == [(field, "Field required") for field in fields]
    assert message.startswith(f"{op_type}: {fields[0]}: Field required; ")


def test_an_unknown_field_type_is_answered_with_the_types() -> None:
    message, problems = refusal("add_field", payload(definition={"type": "colour"}))
    assert problems[0][0] == "definition.type"
    assert message.startswith("add_field: definition.type: Input should be 'string', 'number', 'boolean', 'reference'")


@pytest.mark.parametrize(
    ("op_type", "sent"),
    [
        ("add_field", payload(definition=TEXT, fields=1)),
        ("set_field", payload(definition=TEXT, override=True)),
        ("remove_field", payload(definition=TEXT)),
        ("rename_field", {"record_type": "job", "old_name": "a", "new_name": "b", "before": "c"}),
        ("edit_file", {"file_path": "main.py", "diff": DIFF, "record_type": "job"}),
    ],
)
def test_a_key_that_an_op_does_not_have_is_refused(op_type: OpType, sent: dict[str, Any]) -> None:
    extra = list(sent)[-1]
    assert refusal(op_type, sent) == (
        f"{op_type}: {extra}: Extra inputs are not permitted",
        [(extra, "Extra inputs are not permitted")],
    )


def test_a_definition_is_of_the_field_of_the_op() -> None:
    message, _ = refusal("set_field", payload(definition={**TEXT, "name": "tittle"}))
    assert message == "set_field: payload: the definition names the field 'tittle', the op 'title'"


@pytest.mark.parametrize("op_type", ["add_field", "set_field"])
def test_a_field_does_not_stand_before_itself(op_type: OpType) -> None:
    message, _ = refusal(op_type, payload(definition=TEXT, before="title"))
    assert message == f"{op_type}: payload: 'title' cannot stand before itself"


def test_a_field_is_not_renamed_to_itself() -> None:
    message, _ = refusal("rename_field", {"record_type": "job", "old_name": "title", "new_name": "title"})
    assert message == "rename_field: payload: 'title' cannot be renamed to itself"


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("a\nb", "a b"),
        ("a\tb", "a b"),
        ("a\x00b", "ab"),
        ("\x1b[31m", "[31m"),
        (" a", "a"),
        ("a ", "a"),
        ("a  b", "a b"),
        ("a\u2028b", "a b"),
        ("a\u202eb", "ab"),
        ("a\u200bb", "ab"),
        ("\ufeffa", "a"),
        ("a\u2066b", "ab"),
        ("\u3164", "customer"),
        ("a\ufe0f", "a"),
        ("a\u00a0b", "a b"),
    ],
)
@pytest.mark.parametrize("field", ["record_type", "field", "before"])
def test_a_name_has_visible_characters_only(field: str, name: str, instead: str) -> None:
    reason = (
        f"{name!a} is not a name: it has spaces at its ends or in a row, or characters that cannot be seen; "
        f"write it as in {instead!r}"
    )
    assert refusal("add_field", payload(definition=TEXT) | {field: name}) == (
        f"add_field: {field}: {reason}",
        [(field, reason)],
    )


@pytest.mark.parametrize("spelling", ["NFC", "NFD"])
def test_a_name_is_taken_in_one_form_of_unicode(spelling: Literal["NFC", "NFD"]) -> None:
    name, other = normalize(spelling, "caf\u00e9"), normalize(spelling, "\u1e9b\u0323")

    added = parse_op("add_field", payload(definition={**TEXT, "name": name}) | {"field": name, "before": other})
    renamed = parse_op("rename_field", {"record_type": name, "old_name": name, "new_name": other})

    assert (added.field, added.payload["before"]) == ("caf\u00e9", normalize("NFC", other))
    assert renamed.record_type == "caf\u00e9"
    assert renamed.affected_fields == {"caf\u00e9", normalize("NFC", other)}


@pytest.mark.parametrize("given", ["yes", "true", "", 0, 1, 1.0, None, [True], {}], ids=repr)
@pytest.mark.parametrize("name", ["required", "override"])
def test_true_and_false_are_no_texts_and_no_numbers(name: str, given: Any) -> None:
    sent = payload(definition={**TEXT, **({name: given} if name == "required" else {})})

    message, problems = refusal("add_field", sent | ({name: given} if name == "override" else {}))

    assert problems == [(name if name == "override" else "definition.required", problems[0][1])]
    assert "it is true or false, not " in message


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ([], "a list of at least one text, as in ['low', 'high'], not []"),
        ("low", "a list of at least one text, as in ['low', 'high'], not \"low\""),
        ({"low": 1}, "a list of at least one text"),
        (["low", 1], "a list of at least one text, as in ['low', 'high'], not [\"low\",1]"),
        ([None], "a list of at least one text"),
        ([["low"]], "a list of at least one text"),
        (["low", ""], "the empty text is not a choice"),
        ([" "], "is not a name"),
        (["low", "low "], "'low ' is not a name"),
        (["low", "lo\u200bw"], "is not a name"),
        (["low", "high", "low"], "the choice 'low' is there 2 times: name it once"),
        (["caf\u00e9", "cafe\u0301"], "the choice 'caf\u00e9' is there 2 times"),
        (["x" * 100, 1], "x…"),
    ],
)
def test_choices_are_texts_that_differ(choices: Any, reason: str) -> None:
    message, problems = refusal("add_field", payload(definition={"type": "choice", "choices": choices}))

    assert [path for path, _ in problems] == ["definition.choices"]
    assert reason in message


def test_choices_are_kept_in_one_form_of_unicode() -> None:
    op = parse_op("add_field", payload(definition={"type": "choice", "choices": ["cafe\u0301", "low cost"]}))

    assert op.payload["definition"]["choices"] == ["caf\u00e9", "low cost"]


@pytest.mark.parametrize("name", ["", "x" * 101])
def test_a_name_has_one_to_a_hundred_characters(name: str) -> None:
    ((field, problem),) = refusal("rename_field", {"record_type": "job", "old_name": "a", "new_name": name})[1]
    assert field == "new_name"
    assert "character" in problem


def test_choices_are_for_a_choice() -> None:
    message, _ = refusal("add_field", payload(definition={"type": "number", "choices": ["1"]}))
    assert message == "add_field: definition: choices are for fields of the type 'choice', not 'number'"


def test_a_choice_has_a_choice() -> None:
    ((field, _),) = refusal("add_field", payload(definition={"type": "choice", "choices": []}))[1]
    assert field == "definition.choices"


def test_a_definition_is_json() -> None:
    ((field, _),) = refusal("add_field", payload(definition={**TEXT, "label": object()}))[1]
    assert field.startswith("definition.label")


# Diffs


def of_file(diff: str) -> str:
    message, problems = refusal("edit_file", {"file_path": "main.py", "diff": diff})
    ((field, problem),) = problems
    assert field == "diff"
    assert message == f"edit_file: diff: {problem}"
    return problem


@pytest.mark.parametrize("diff", ["", "please make it blue", "\n\n", "--- a/main.py\n+++ b/main.py\n"])
def test_a_text_without_hunks_is_no_diff(diff: str) -> None:
    assert of_file(diff) == "this is not a unified diff: it adds and removes no line"


def test_a_diff_that_changes_nothing_is_none() -> None:
    assert of_file("--- a/x\n+++ b/x\n@@ -1 +1 @@\n same\n") == (
        "this is not a unified diff: it adds and removes no line"
    )


def test_a_diff_is_of_one_file() -> None:
    assert of_file(DIFF + DIFF.replace("main.py", "other.py")) == "an edit changes one file, and this diff changes 2"


@pytest.mark.parametrize(
    "diff",
    [
        DIFF.replace("-1,2 +1,2", "-1,3 +1,3"),
        DIFF.replace("-1,2 +1,2", "-1,1 +1,1"),
        DIFF.replace("--- a/main.py\n+++ b/main.py\n", ""),
        DIFF.replace(" import os", "import os"),
    ],
)
def test_a_damaged_diff_is_refused_without_what_is_in_it(diff: str) -> None:
    problem = of_file(diff)
    assert problem.startswith("this is not a unified diff: ")
    assert "import os" not in problem


@given(st.lists(st.sampled_from([*DIFF.splitlines(), "\\ No newline at end of file", "rubbish", "@@", ""])))
def test_any_text_is_a_diff_or_invalid_input(lines: list[str]) -> None:
    sent = {"file_path": "main.py", "diff": "\n".join(lines)}
    try:
        op = parse_op("edit_file", sent)
    except ActionError:
        refusal("edit_file", sent)
    else:
        assert op.payload == sent
