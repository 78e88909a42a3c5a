"""Documents older than their record type's schema: the writes that are still accepted."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from actionengine import ErrorCode
from actionengine.changes import guard
from actionengine.schemas.schema import Field, Schema
from actionengine.schemas.validation import field_problems, model_of
from actionengine.storage.records import same_json
from actionengine.testing import run_in_mode
from tests.changes.harness import Harness, add, fields_of, put, remove, rename, schema
from tests.harness import expect, refused

INVALID = ErrorCode.INVALID_INPUT
OLD: dict[str, Any] = {"title": "a", "hours": 3, "colour": {"of": [1, {"the": "wall"}]}, "tags": [1, True]}


async def with_an_old_document(harness: Harness, **options: Any) -> Any:
    """Create a project with a type `job`, and a document of which only the field `note` still fits."""
    project = await harness.project()
    expect(await harness.type(project, "job", schema(title="string!", hours="number", note="string"), **options))
    expect(await harness.keep("job", {**OLD, "note": "n"}, "old"))
    expect(await harness.ask("record_types.activate", {"project_id": project.id, "key": "job"}))
    await harness.merged(
        project, rename("job", "title", "name"), put("job", "hours", "string"), add("job", "crew", required=True)
    )
    return project


GOOD: Mapping[str, dict[str, Any]] = {
    "nothing is changed": {**OLD, "note": "n"},
    "another field is changed": {**OLD, "note": "other"},
    "another field is left out": OLD,
    "an invalid field is made valid": {**OLD, "hours": "3"},
    "an invalid field that nobody requires is left out": {key: OLD[key] for key in OLD if key != "hours"},
    "unknown fields are left out": {"hours": 3},
    "a missing required field is given": {**OLD, "crew": "ann"},
    "the contents go to the new name": {"name": "a", "hours": 3, "colour": OLD["colour"]},
    "all of it fits": {"name": "a", "crew": "ann", "hours": "3"},
    "numbers are equal as JSON compares": {**OLD, "hours": 3.0},
}
BAD: Mapping[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown field is changed": ({**OLD, "title": "b"}, ["title"]),
    "an unknown field is changed deep inside": ({**OLD, "colour": {"of": [1, {"the": "door"}]}}, ["colour"]),
    "an unknown field changes from true to 1": ({**OLD, "tags": [1, 1]}, ["tags"]),
    "an unknown field is added": ({**OLD, "size": 1}, ["size"]),
    "an unknown field becomes null": ({**OLD, "title": None}, ["title"]),
    "an invalid field is changed to another invalid value": ({**OLD, "hours": 4}, ["hours"]),
    "a missing required field is given as null": ({**OLD, "crew": None}, ["crew"]),
    "a valid field is made invalid": ({**OLD, "note": 1}, ["note"]),
    "the contents go to the new name, and do not fit": ({"name": 7}, ["name"]),
    "some of it is good": ({**OLD, "note": "m", "crew": "ann", "hours": 5, "more": 1}, ["hours", "more"]),
}


@run_in_mode
async def test_what_has_not_changed_may_stay_as_it_is(harness: Harness) -> None:
    await with_an_old_document(harness)
    version = 1

    for number, document in enumerate(GOOD.values()):
        kept = f"kept {number}"
        assert kept not in document
        version = expect(await harness.keep("job", document, "old", version=version))
        assert await harness.ask("host.read", {"type": "job", "id": "old"}) == document
        # Start again, past the guard, which an engine without change control lacks.
        await restore(harness, version)
        version += 1


@run_in_mode
async def test_what_is_written_newly_is_judged(harness: Harness) -> None:
    await with_an_old_document(harness)

    for name, (document, wrong) in BAD.items():
        error = refused(await harness.keep("job", document, "old", version=1), INVALID, "'job'")
        assert fields_of(error) == wrong, name

    assert await harness.ask("host.read", {"type": "job", "id": "old"}) == {**OLD, "note": "n"}


async def restore(harness: Harness, version: int) -> None:
    """Write the old document through an engine that validates none."""
    unguarded = harness.another()
    pipeline = unguarded.engine._pipeline
    pipeline._services = replace(pipeline._services, document_guard=None)
    expect(await unguarded.keep("job", {**OLD, "note": "n"}, "old", version=version))


@run_in_mode
async def test_a_new_document_is_checked_whole_beside_an_equal_one(harness: Harness) -> None:
    await with_an_old_document(harness)

    refused(await harness.keep("job", {**OLD, "note": "n"}), INVALID, "title", "crew", "hours")
    refused(await harness.keep("job", {**OLD, "note": "n"}, "another"), INVALID)
    expect(await harness.ask("host.remove", {"type": "job", "id": "old", "version": 1}))
    refused(await harness.keep("job", {**OLD, "note": "n"}, "old"), INVALID)


@run_in_mode
async def test_a_required_field_that_was_there_is_not_left_out(harness: Harness) -> None:
    await harness.job(schema(title="string!", hours="number!"))
    expect(await harness.keep("job", {"title": "a", "hours": 1}, "one"))

    error = refused(await harness.keep("job", {"title": "a"}, "one", version=1), INVALID, "hours: Field required")

    assert fields_of(error) == ["hours"]


@run_in_mode
async def test_stale_and_missing_documents_are_reported_first(harness: Harness) -> None:
    await with_an_old_document(harness)

    refused(await harness.keep("job", {**OLD, "size": 1}, "old", version=2), ErrorCode.CONFLICT, "version 1, not 2")
    refused(await harness.keep("job", {**OLD, "size": 1}, "nobody", version=1), ErrorCode.NOT_FOUND, "job/nobody")


@run_in_mode
async def test_fields_of_base_types_are_judged_alike(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "asset", schema(code="string", site="string")))
    expect(await harness.type(project, "crane", schema(height="number"), base="asset", active=True))
    expect(await harness.keep("crane", {"code": "1", "site": "north", "height": 2}, "one"))
    await harness.merged(project, rename("asset", "code", "number"), remove("asset", "site"))
    old = {"code": "1", "site": "north", "height": 3}

    assert expect(await harness.keep("crane", old, "one", version=1)) == 2
    assert fields_of(refused(await harness.keep("crane", {**old, "site": "south"}, "one", version=2), INVALID)) == [
        "site"
    ]
    assert expect(await harness.keep("crane", {"number": "1", "height": 3}, "one", version=2)) == 3


@run_in_mode
async def test_a_retired_types_document_is_checked_by_its_schema(harness: Harness) -> None:
    project = await with_an_old_document(harness)
    expect(await harness.ask("record_types.retire", {"project_id": project.id, "key": "job"}))

    assert expect(await harness.keep("job", {**OLD, "note": "m"}, "old", version=1)) == 2
    refused(await harness.keep("job", {**OLD, "hours": 4}, "old", version=2), INVALID, "hours")
    await harness.merged(project, remove("job", "note"))
    refused(await harness.keep("job", {**OLD, "note": "o"}, "old", version=2), INVALID, "note")
    assert expect(await harness.keep("job", {**OLD, "crew": "ann"}, "old", version=2)) == 3


@run_in_mode
async def test_a_document_is_compared_with_the_actions_own_write(harness: Harness) -> None:
    await with_an_old_document(harness)

    answers = await harness.run(
        ("host.keep", {"type": "job", "id": "old", "version": 1, "document": {"hours": 3}}),
        ("host.keep", {"type": "job", "id": "old", "version": 2, "document": OLD}),
        ("host.keep", {"type": "job", "id": "old", "version": 2, "document": {"hours": 3, "note": "n"}}),
    )

    assert answers == ["succeeded", "invalid_input", "succeeded"]


@run_in_mode
async def test_another_spelling_of_a_fields_name_is_named(harness: Harness) -> None:
    await harness.job({"fields": [{"name": "\u00e9", "type": "string"}]})

    refused(await harness.keep("job", {"e\u0301": "a"}), INVALID, "another spelling", "NFC")
    expect(await harness.keep("job", {"\u00e9": "a"}))


@run_in_mode
async def test_a_compared_document_cannot_be_replaced_meanwhile(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that was deleted and inserted again has the same version, but other contents."""
    await with_an_old_document(harness)
    if harness.backend.mode == "async":
        return
    other, threads, check = harness.another(), [], guard._Validator.check_change

    def interrupted(self: Any, data: Any, stored: Any) -> None:
        def replace() -> None:
            harness.backend.run(other.ask("host.remove", {"type": "job", "id": "old", "version": 1}))
            harness.backend.run(other.keep("job", {"name": "b", "crew": "b"}, "old"))

        threads.append(threading.Thread(target=replace))
        threads[-1].start()
        threads[-1].join(0.3)
        check(self, data, stored)

    monkeypatch.setattr(guard._Validator, "check_change", interrupted)

    answer = await harness.keep("job", {**OLD, "note": "m"}, "old", version=1)

    for thread in threads:
        thread.join(30)
    assert answer == 2
    assert await harness.ask("host.read", {"type": "job", "id": "old"}) == {**OLD, "note": "m"}


# Properties

NAMES = st.sampled_from(["title", "hours", "crew", "x", "y"])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 1), st.sampled_from([0.0, 1.0]), st.sampled_from(["", "a"])
)
VALUES = st.one_of(LEAVES, st.lists(LEAVES, max_size=2), st.dictionaries(NAMES, LEAVES, max_size=2))
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=5)
MODEL = model_of(
    "job",
    Schema(
        (
            Field.of("title", {"type": "string", "required": True}),
            Field.of("hours", {"type": "number"}),
            Field.of("crew", {"type": "boolean", "required": True}),
        )
    ),
)


@settings(deadline=None)
@given(DOCUMENTS, DOCUMENTS)
def test_a_change_is_refused_for_its_changed_fields_only(stored: dict[str, Any], given: dict[str, Any]) -> None:
    wrong = {field["path"].split(".")[0] for field in field_problems(MODEL, to_json(given))}
    differing = {
        name
        for name in {*stored, *given, "title", "hours", "crew"}
        if (name in stored) != (name in given) or (name in given and not same_json(stored[name], given[name]))
    }

    found = {field["path"].split(".")[0] for field in field_problems(MODEL, to_json(given), stored)}

    assert found == wrong & differing
