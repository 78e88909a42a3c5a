"""Documents of record types: the checks of `ctx.records`, also after a merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from actionengine import ErrorCode, PostgresStorage, SQLiteStorage
from actionengine.testing import run_in_mode
from tests.changes.harness import Harness, add, besides_the_log, fields_of, put, remove, rename, schema
from tests.harness import expect, refused

INVALID = ErrorCode.INVALID_INPUT

VALUES: Mapping[str, tuple[Sequence[Any], Sequence[Any]]] = {
    "string": (["", "x", "größe", "x" * 10_000], [7, 1.5, True, [], {}, ["x"], "x" * 10_001]),
    "text": (["", "two\nlines", "x" * 100_000], [7, True, [], {}]),
    "number": ([0, -1, 1.5, 1e300, 2**53], ["1", "", True, False, [], {}]),
    "boolean": ([True, False], [0, 1, "true", "", [], {}]),
    "reference": (["job/7", "x" * 255], ["", "x" * 256, 7, True, {}]),
    "choice": (["red", "green"], ["Red", "", "blue", 1, ["red"]]),
    "date": (["2024-02-29", "0001-01-01"], ["2023-02-29", "", "today", True, [], "2024-02-29T12:00:00Z"]),
    "datetime": (
        ["2024-02-29T12:00:00Z", "2024-02-29T12:00:00.123456+02:00", "2024-02-29T12:00:00"],
        ["2024-02-30T12:00:00Z", "", "noon", True, [], {}],
    ),
}

# Accepted documents


@pytest.mark.parametrize("type", VALUES)
@run_in_mode
async def test_a_field_takes_values_of_its_type_only(harness: Harness, type: str) -> None:
    definition: dict[str, Any] = {"name": "a", "type": type}
    if type == "choice":
        definition["choices"] = ["red", "green"]
    await harness.job({"fields": [definition, {**definition, "name": "b", "required": True}]})
    good, bad = VALUES[type]
    before = harness.dump()

    for value in bad:
        for document in ({"b": value}, {"a": value, "b": good[0]}):
            error = refused(await harness.keep("job", document), INVALID, "'job'")
            assert fields_of(error) == ["a" if "a" in document else "b"], value
    refused(await harness.keep("job", {"b": None}), INVALID, "b: ")
    refused(await harness.keep("job", {}), INVALID, "b: Field required")
    assert besides_the_log(before, harness.dump()) == {}
    for value in good:
        id = expect(await harness.keep("job", {"a": value, "b": value}))
        assert await harness.ask("host.read", {"type": "job", "id": id}) == {"a": value, "b": value}
    expect(await harness.keep("job", {"a": None, "b": good[0]}))


@run_in_mode
async def test_a_choice_without_choices_is_any_text(harness: Harness) -> None:
    await harness.job(schema(a="choice"))

    expect(await harness.keep("job", {"a": "whatever"}))
    refused(await harness.keep("job", {"a": 7}), INVALID, "a: ")


@run_in_mode
async def test_what_does_not_fit_is_named_and_not_shown(harness: Harness) -> None:
    await harness.job()

    error = refused(await harness.keep("job", {"hours": "my secret", "more": "another secret"}), INVALID)

    assert {*fields_of(error)} == {"title", "hours", "more"}
    assert "secret" not in str(error.to_dict())


@run_in_mode
async def test_updates_are_checked_as_inserts_are(harness: Harness) -> None:
    await harness.job()
    expect(await harness.keep("job", {"title": "a"}, "one"))
    before = harness.dump()

    refused(await harness.keep("job", {"hours": 1}, "one", version=1), INVALID, "title")

    assert besides_the_log(before, harness.dump()) == {}
    assert expect(await harness.keep("job", {"title": "a", "hours": 1}, "one", version=1)) == 2


@run_in_mode
async def test_the_fields_of_ancestors_count_too(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "asset", schema(code="string!", owner="string")))
    expect(await harness.type(project, "machine", schema(weight="number!"), base="asset"))
    expect(await harness.type(project, "crane", schema(code="text!", height="number"), base="machine", active=True))

    expect(await harness.keep("crane", {"code": "x" * 20_000, "weight": 1, "owner": "ann", "height": 2}))

    refused(await harness.keep("crane", {"weight": 1}), INVALID, "code: Field required")
    refused(await harness.keep("crane", {"code": "1"}), INVALID, "weight: Field required")
    refused(await harness.keep("crane", {"code": "1", "weight": 1, "owner": 7}), INVALID, "owner")


# Types in use


@run_in_mode
async def test_a_draft_checks_nothing(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "job", schema(title="string!")))

    expect(await harness.keep("job", {"anything": [1, 2]}, "old"))
    expect(await harness.ask("record_types.activate", {"project_id": project.id, "key": "job"}))

    refused(await harness.keep("job", {"anything": [1, 2]}), INVALID)
    assert await harness.ask("host.read", {"type": "job", "id": "old"}) == {"anything": [1, 2]}


@run_in_mode
async def test_collections_without_a_record_type_take_anything(harness: Harness) -> None:
    await harness.job()

    expect(await harness.keep("notes", {"anything": [1, 2]}))


@run_in_mode
async def test_a_retired_type_takes_changes_and_no_new_documents(harness: Harness) -> None:
    project = await harness.job()
    expect(await harness.keep("job", {"title": "a"}, "one"))
    expect(await harness.ask("record_types.retire", {"project_id": project.id, "key": "job"}))
    before = harness.dump()

    refused(await harness.keep("job", {"title": "b"}), ErrorCode.CONFLICT, "'job'", "retired", "no new")
    refused(await harness.keep("job", {"title": "b"}, "two"), ErrorCode.CONFLICT, "retired")
    refused(await harness.keep("job", {"title": 7}, "one", version=1), INVALID, "title")
    refused(await harness.keep("job", {"title": "b", "more": 1}, "one", version=1), INVALID, "more")

    assert besides_the_log(before, harness.dump()) == {}
    assert expect(await harness.keep("job", {"title": "b"}, "one", version=1)) == 2
    assert await harness.ask("host.read", {"type": "job", "id": "one"}) == {"title": "b"}
    expect(await harness.ask("host.remove", {"type": "job", "id": "one", "version": 2}))
    refused(await harness.keep("job", {"title": "b"}, "one"), ErrorCode.CONFLICT, "retired")
    expect(await harness.ask("record_types.activate", {"project_id": project.id, "key": "job"}))
    expect(await harness.keep("job", {"title": "b"}))


@run_in_mode
async def test_a_draft_elsewhere_does_not_open_a_retired_type(harness: Harness) -> None:
    project, other = await harness.job(), await harness.project()
    expect(await harness.ask("record_types.retire", {"project_id": project.id, "key": "job"}))
    expect(await harness.type(other, "job", schema(number="number!"), name="the other job"))

    refused(await harness.keep("job", {"anything": 1}), ErrorCode.CONFLICT, "retired")


@run_in_mode
async def test_of_one_key_in_two_projects_one_is_active(harness: Harness) -> None:
    project, other = await harness.job(), await harness.project()
    expect(await harness.type(other, "job", schema(number="number!"), name="the other job"))
    theirs, own = ({"project_id": each.id, "key": "job"} for each in (other, project))

    refused(await harness.ask("record_types.activate", theirs), ErrorCode.CONFLICT, "'job'", "another project")
    expect(await harness.keep("job", {"title": "a"}))
    expect(await harness.ask("record_types.retire", own))
    expect(await harness.ask("record_types.activate", theirs))

    refused(await harness.keep("job", {"title": "a"}), INVALID)
    expect(await harness.keep("job", {"number": 1}))


@run_in_mode
async def test_tenants_have_schemas_of_their_own_under_one_key(harness: Harness) -> None:
    theirs = harness.backend.other_tenant
    await harness.job(schema(title="string!"))
    project = await harness.project(tenant=theirs)
    expect(await harness.type(project, "job", schema(number="number!"), tenant=theirs, active=True))

    for _ in range(2):
        expect(await harness.keep("job", {"title": "a"}))
        expect(await harness.keep("job", {"number": 1}, tenant=theirs))
        refused(await harness.keep("job", {"number": 1}), INVALID)
        refused(await harness.keep("job", {"title": "a"}, tenant=theirs), INVALID)


# After a merge


@run_in_mode
async def test_a_merged_change_holds_at_once_in_every_engine(harness: Harness) -> None:
    project = await harness.job()
    other = harness.another()
    expect(await other.keep("job", {"title": "a"}))
    expect(await harness.keep("job", {"title": "a"}))
    refused(await other.keep("job", {"title": "a", "crew": "b"}), INVALID, "crew")

    await harness.merged(project, add("job", "crew", required=True))

    for each in (harness, other):
        refused(await each.keep("job", {"title": "a"}), INVALID, "crew: Field required")
        expect(await each.keep("job", {"title": "a", "crew": "b"}))


@run_in_mode
async def test_a_merged_change_holds_for_another_storage(harness: Harness) -> None:
    project = await harness.job()
    if harness.address is None:
        # In memory there is one storage only: use another engine.
        await harness.merged(project, add("job", "crew"))
        expect(await harness.another().keep("job", {"title": "a", "crew": "b"}))
        return
    is_postgres = harness.address.startswith("postgres")
    with PostgresStorage(harness.address) if is_postgres else SQLiteStorage(harness.address) as storage:
        other = harness.another(storage=storage)
        expect(await other.keep("job", {"title": "a"}))

        await harness.merged(project, add("job", "crew", required=True))

        refused(await other.keep("job", {"title": "a"}), INVALID, "crew")
        expect(await other.keep("job", {"title": "a", "crew": "b"}))
        await storage.aclose() if harness.backend.mode == "async" else storage.close()


@run_in_mode
async def test_a_merged_base_type_holds_for_the_types_derived_from_it(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "asset", schema(code="string")))
    expect(await harness.type(project, "machine", base="asset"))
    expect(await harness.type(project, "crane", schema(height="number"), base="machine", active=True))
    expect(await harness.keep("crane", {"height": 1}))

    await harness.merged(project, put("asset", "code", required=True), add("asset", "owner"))

    refused(await harness.keep("crane", {"height": 1}), INVALID, "code: Field required")
    expect(await harness.keep("crane", {"height": 1, "code": "1", "owner": "ann"}))


@run_in_mode
async def test_a_merge_holds_at_once_inside_the_action_that_does_it(harness: Harness) -> None:
    project = await harness.job()
    expect(await harness.keep("job", {"title": "a"}))
    change = await harness.change(project, add("job", "crew", required=True))

    answer = await harness.run(
        ("changes.merge", {"change_id": change.id}),
        ("host.keep", {"type": "job", "document": {"title": "a"}}),
        ("host.keep", {"type": "job", "document": {"title": "a", "crew": "b"}}),
    )

    assert answer == ["succeeded", "invalid_input", "succeeded"]


@run_in_mode
async def test_a_merge_that_is_rolled_back_leaves_no_schema_behind(harness: Harness) -> None:
    """Two changes make a version 2 of the type; the first of them is rolled back."""
    project = await harness.job()
    first = await harness.change(project, add("job", "crew", required=True))
    second = await harness.change(project, add("job", "site", required=True))
    with_crew, with_site = {"title": "a", "crew": "b"}, {"title": "a", "site": "c"}

    answer = await harness.run(
        ("changes.merge", {"change_id": first.id}),
        ("host.keep", {"type": "job", "document": with_crew}),
        ("host.keep", {"type": "job", "document": with_site}),
        fails=True,
    )
    refused(answer, ErrorCode.UNPROCESSABLE)
    refused(await harness.keep("job", with_crew), INVALID, "crew")
    expect(await harness.merge(second))

    assert (await harness.get_type(project)).version == 2
    refused(await harness.keep("job", with_crew), INVALID, "crew", "site")
    expect(await harness.keep("job", with_site))


@run_in_mode
async def test_a_failed_nested_merge_leaves_no_schema(harness: Harness) -> None:
    project = await harness.job()
    good = await harness.change(project, add("job", "crew", required=True))
    steps = [["changes.merge", {"change_id": good.id}], ["host.keep", {"type": "job", "document": {}}]]

    answer = await harness.run(
        ("host.run", {"steps": steps, "fails": True}),
        ("host.keep", {"type": "job", "document": {"title": "a"}}),
    )

    assert answer == ["unprocessable", "succeeded"]
    expect(await harness.keep("job", {"title": "b"}))


@run_in_mode
async def test_documents_of_an_older_schema_stay_readable(harness: Harness) -> None:
    project = await harness.job()
    old = {"title": "a", "hours": 3}
    expect(await harness.keep("job", old, "old"))

    await harness.merged(
        project, rename("job", "title", "name"), put("job", "hours", "string"), add("job", "crew", required=True)
    )
    await harness.merged(project, remove("job", "hours"))

    assert await harness.ask("host.read", {"type": "job", "id": "old"}) == old
    refused(await harness.keep("job", {**old, "hours": 4}, "old", version=1), INVALID)
    expect(await harness.keep("job", {"name": "a", "crew": "b"}, "old", version=1))
    expect(await harness.ask("host.remove", {"type": "job", "id": "old", "version": 2}))


# Checks of stored documents


@run_in_mode
async def test_check_documents_goes_through_them_in_pages(harness: Harness) -> None:
    project = await harness.job(schema(title="string"))
    for number in range(7):
        expect(await harness.keep("job", {"title": "a"} if number % 2 else {}, f"d{number}"))
    await harness.merged(project, put("job", "title", required=True))
    pages, after = [], None

    while True:
        asked = {"project_id": project.id, "key": "job", "limit": 3, "after": after}
        page = expect(await harness.ask("record_types.check_documents", asked))
        pages.append((page.checked, [misfit.id for misfit in page.invalid]))
        after = page.next
        if after is None:
            break

    assert pages == [(3, ["d0", "d2"]), (3, ["d4"]), (1, ["d6"])]


@run_in_mode
async def test_check_documents_says_what_a_change_would_make_of_them(harness: Harness) -> None:
    project = await harness.job()
    expect(await harness.keep("job", {"title": "my secret", "hours": 1}, "one"))
    expect(await harness.keep("job", {"title": "b"}, "two"))
    change = await harness.change(project, put("job", "hours", required=True), rename("job", "title", "name"))
    asked = {"project_id": project.id, "key": "job"}
    before = harness.dump()

    now = expect(await harness.ask("record_types.check_documents", asked))
    then = expect(await harness.ask("record_types.check_documents", {**asked, "change_id": change.id}))

    assert (now.checked, now.invalid) == (2, ())
    assert [(misfit.id, {*misfit.problems}) for misfit in then.invalid] == [
        ("one", {"title", "name", "hours"}),
        ("two", {"title", "name", "hours"}),
    ]
    assert "secret" not in str(then)
    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_a_preview_has_the_documents_that_would_not_fit(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "asset", schema(code="string")))
    expect(await harness.type(project, "crane", schema(height="number"), base="asset", active=True))
    expect(await harness.type(project, "task", active=True))
    expect(await harness.keep("crane", {"height": 1}, "one"))
    expect(await harness.keep("crane", {"height": 1, "code": "1"}, "two"))
    change = await harness.change(project, put("asset", "code", required=True))

    preview = expect(await harness.preview(change))

    found = {each.record_type_key: (each.checked, [misfit.id for misfit in each.invalid]) for each in preview.documents}
    assert found == {"asset": (0, []), "crane": (2, ["one"])}
    expect(await harness.merge(change))
    asked = {"project_id": project.id, "key": "crane"}
    checked = expect(await harness.ask("record_types.check_documents", asked))
    assert checked == next(each for each in preview.documents if each.record_type_key == "crane")


@run_in_mode
async def test_a_check_with_a_change_that_cannot_be_applied_says_so(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, remove("job", "nothing"))

    answer = await harness.ask(
        "record_types.check_documents", {"project_id": project.id, "key": "job", "change_id": change.id}
    )

    refused(answer, ErrorCode.UNPROCESSABLE, "remove_field job.nothing")
