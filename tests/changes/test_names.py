"""Names in two spellings of Unicode: each kind of name is one name, whichever spelling a caller sends."""

from __future__ import annotations

from typing import Any

from actionengine import ErrorCode
from actionengine.testing import run_in_mode
from tests.changes.harness import Harness, add, put, remove, rename, schema
from tests.harness import expect, refused

NFC, NFD = "caf\u00e9", "cafe\u0301"
INVALID, CONFLICT = ErrorCode.INVALID_INPUT, ErrorCode.CONFLICT
UNSEEN = ["a\u200bb", "\u202ea", " a", "a ", "a  b", "a\nb", "a\u00a0b", "\u3164", "a\ufe0f"]


def text(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "string", **more}


@run_in_mode
async def test_a_field_is_one_field_in_both_spellings(harness: Harness) -> None:
    project = await harness.job({"fields": [text(NFD), text("a")]})
    assert await harness.names(project) == [NFC, "a"]

    change = await harness.change(project, add("job", NFD))
    refused(await harness.merge(change), ErrorCode.UNPROCESSABLE, "exists already")
    await harness.merged(project, put("job", NFC, "text"))
    change = await harness.change(project, put("job", NFC))
    refused(await harness.op(change, remove("job", NFD)), CONFLICT, "delete it first")
    await harness.merged(project, rename("job", NFD, "b"))
    await harness.merged(project, rename("job", "b", NFD), add("job", "c", before=NFC))

    assert await harness.names(project) == ["c", NFC, "a"]
    both = {"fields": [text(NFC), text(NFD)]}
    refused(await harness.type(project, "twice", both), INVALID, "two fields", NFC)


@run_in_mode
async def test_a_record_type_is_one_type_in_both_spellings(harness: Harness) -> None:
    project = await harness.project()
    made = expect(await harness.type(project, NFD, schema(a="string"), active=True))
    assert (made.key, made.name) == (NFC, NFC)

    refused(await harness.type(project, NFC), CONFLICT, NFC)
    refused(await harness.type(project, "other", name=NFD), CONFLICT, NFC)
    for key in (NFC, NFD):
        assert expect(await harness.get_type(project, key)).id == made.id
        refused(await harness.keep(key, {"b": "x"}), INVALID, "no such field")
        expect(await harness.keep(key, {"a": "x"}))
        assert expect(await harness.history(project, key)).is_intact
    asked = {"project_id": project.id, "key": NFD}
    assert expect(await harness.ask("record_types.check_documents", asked)).checked == 2
    derived = expect(await harness.type(project, "derived", base=NFD))
    assert derived.base_type == NFC
    change = expect(await harness.ask("changes.create", {"project_id": project.id, "title": NFD}))
    target = expect(await harness.target(change, NFD))
    assert target.selector == {"record_type_key": NFC}
    expect(await harness.op(change, add(NFD, "b"), target))
    expect(await harness.merge(change))


@run_in_mode
async def test_a_collection_is_one_collection_in_both_spellings(harness: Harness) -> None:
    id = expect(await harness.keep(NFD, {"a": 1}))

    assert await harness.ask("host.read", {"type": NFC, "id": id}) == {"a": 1}
    assert await harness.ask("host.read", {"type": NFD, "id": id}) == {"a": 1}


@run_in_mode
async def test_a_project_has_its_name_alone_in_both_spellings(harness: Harness) -> None:
    assert expect(await harness.project(NFD)).name == NFC

    refused(await harness.project(NFC), CONFLICT)


@run_in_mode
async def test_a_name_that_looks_like_another_one_is_refused(harness: Harness) -> None:
    project = await harness.project()
    change = await harness.change(project)

    for name in UNSEEN:
        refused(await harness.type(project, name), INVALID, "key", "is not a name")
        refused(await harness.type(project, "a", {"fields": [text(name)]}), INVALID, "is not a name")
        refused(await harness.type(project, "a", name=name), INVALID, "name", "is not a name")
        refused(await harness.type(project, "a", base=name), INVALID, "base_type", "is not a name")
        refused(await harness.project(name), INVALID, "name", "is not a name")
        refused(await harness.target(change, name, "form"), INVALID, "is not a name")


@run_in_mode
async def test_a_choice_is_one_choice_in_both_spellings(harness: Harness) -> None:
    field = {"name": "a", "type": "choice", "choices": [NFD, "b"]}
    await harness.job({"fields": [field]})

    expect(await harness.keep("job", {"a": NFC}))
    refused(await harness.keep("job", {"a": NFD}), INVALID, "a: ")


@run_in_mode
async def test_a_name_is_as_long_as_it_is_stored(harness: Harness) -> None:
    """100 characters in the form NFC: some have fewer there than a caller sends, and some have more."""
    name = "\u00e9" * 100
    project = await harness.job({"fields": [text("e\u0301" * 100)]})
    assert await harness.names(project) == [name]

    change = await harness.change(project, remove("job", name))
    twice = "\u0958" * 100
    refused(await harness.op(change, add("job", twice)), INVALID, "at most 100 characters")
    refused(await harness.type(project, twice), INVALID, "at most 100 characters")
    refused(await harness.project(twice + "a"), INVALID, "at most 200 characters")


ODD: list[dict[str, Any]] = [
    {"required": "yes"},
    {"required": 1},
    {"required": None},
    {"type": "choice", "choices": []},
    {"type": "choice", "choices": ["a", "a"]},
    {"type": "choice", "choices": ["a", ""]},
    {"type": "choice", "choices": ["a", "e\u0301", "\u00e9"]},
]


@run_in_mode
async def test_an_odd_definition_is_refused_where_it_is_taken(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project)
    expect(await harness.target(change, "job"))

    for definition in ODD:
        refused(await harness.type(project, "a", {"fields": [text("a") | definition]}), INVALID, "schema.fields.0")
        for op_type in ("add_field", "set_field"):
            op = {"record_type": "job", "field": "title", "definition": {"type": "string", **definition}}
            payload = {"change_id": change.id, "op_type": op_type, "payload": op}
            refused(await harness.ask("changes.add_patch_op", payload), INVALID, op_type, "definition")
    refused(await harness.ask("projects.create", {"name": "x", "require_review": "yes"}), INVALID, "true or false")
