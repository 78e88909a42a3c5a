"""The history of record types, its verification, compensations, and conflicts of two changes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from actionengine import ErrorCode, StorageError
from actionengine.changes.store import Store
from actionengine.errors import ActionError
from actionengine.schemas.schema import Schema
from actionengine.storage.tables import CHANGES, PATCH_OPS, RECORD_TYPES, SNAPSHOTS, Row, Table
from actionengine.testing import run_in_mode
from tests.changes.harness import Harness, Op, add, besides_the_log, put, remove, rename, schema
from tests.harness import BOT, expect, refused

CONFLICT, UNPROCESSABLE = ErrorCode.CONFLICT, ErrorCode.UNPROCESSABLE

# Each storage and each mode, but not all pairs.
pytestmark = pytest.mark.parametrize(
    "shared_backend", ["memory-async", "sqlite-sync", "postgres-async"], indirect=True, scope="module"
)


async def schema_at(harness: Harness, project: Any, key: str = "job", **when: Any) -> Any:
    return await harness.ask("record_types.schema_at", {"project_id": project.id, "key": key, **when})


async def compensate(harness: Harness, change: Any, **who: Any) -> Any:
    return await harness.ask("changes.plan_compensation", {"change_id": change.id}, **who)


def names(found: Any) -> list[str]:
    return [field["name"] for field in expect(found).schema["fields"]]


async def tampered(harness: Harness, table: Table, how: str, row: Row) -> bool:
    """Write a row past the services; return whether the database refuses it."""
    try:
        async with harness.backend.writing() as unit:
            rows = unit.rows(table)
            await (rows.insert([row]) if how == "insert" else rows.update([row]))
        return False
    except (ActionError, StorageError):
        return True


# Earlier schemas


@run_in_mode
async def test_the_schema_at_a_change_is_as_it_has_left_it(harness: Harness) -> None:
    project = await harness.job()
    first = await harness.merged(project, add("job", "a"), add("job", "b"))
    second = await harness.merged(project, rename("job", "a", "c"), remove("job", "title"))

    at_first, at_second = [await schema_at(harness, project, change_id=each.id) for each in (first, second)]

    assert (at_first.version, at_first.change_id) == (2, first.id)
    assert names(at_first) == ["title", "hours", "a", "b"]
    assert (at_second.version, at_second.change_id) == (3, second.id)
    assert at_second.schema == (await harness.get_type(project)).schema


@run_in_mode
async def test_verifying_holds_few_schemas_and_parses_none_in_vain(harness: Harness) -> None:
    project = await harness.job()
    for number in range(20):
        await harness.merged(project, add("job", f"a_{number}"), add("job", f"b_{number}"))
    parsed, found = [], []
    from_document, find = Schema.from_document, Store.__init__

    def counted(document: Mapping[str, Any]) -> Schema:
        parsed.append(document)
        return from_document(document)

    def watched(self: Any, *given: Any) -> None:
        find(self, *given)
        ops_find = self.ops.find

        async def find_noted(*arguments: Any, **options: Any) -> Any:
            rows = await ops_find(*arguments, **options)
            found.append(sum("previous_snapshot" in row for row in rows))
            return rows

        self.ops = SimpleNamespace(find=find_noted)

    with patch.object(Schema, "from_document", counted), patch.object(Store, "__init__", watched):
        verified = expect(await harness.history(project))

    assert (verified.is_intact, verified.versions, verified.ops) == (True, 21, 40)
    assert len(parsed) <= 2
    assert sum(found) == 40
    assert max(found) <= 32


@run_in_mode
async def test_the_schema_at_a_time_is_the_one_in_force(harness: Harness) -> None:
    project = await harness.job()
    created = (await harness.get_type(project)).created_at
    first = await harness.merged(project, add("job", "a"))
    second = await harness.merged(project, add("job", "b"))
    moment = timedelta(microseconds=1)

    before = await schema_at(harness, project, at=(created - moment).isoformat())
    found = [
        await schema_at(harness, project, at=at.isoformat())
        for at in (created, first.merged_at, second.merged_at, second.merged_at + timedelta(days=365))
    ]

    refused(before, ErrorCode.NOT_FOUND, "'job'")
    assert [(each.version, each.change_id) for each in found] == [
        (1, None),
        (2, first.id),
        (3, second.id),
        (3, second.id),
    ]
    assert [names(each)[2:] for each in found] == [[], ["a"], ["a", "b"], ["a", "b"]]
    (op,) = await harness.ops(second)
    assert (await schema_at(harness, project, at=(op.executed_at - moment).isoformat())).version == 2
    assert (await schema_at(harness, project, at=op.executed_at.isoformat())).version == 3


@run_in_mode
async def test_the_schema_at_an_unrelated_change_is_of_its_time(harness: Harness) -> None:
    project = await harness.job()
    expect(await harness.type(project, "task"))
    await harness.merged(project, add("job", "a"))
    other = await harness.merged(project, add("task", "x"))
    await harness.merged(project, add("job", "b"))

    found = await schema_at(harness, project, change_id=other.id)

    assert (found.version, names(found)) == (2, ["title", "hours", "a"])


@run_in_mode
async def test_a_change_that_has_done_nothing_yet_has_left_no_schema(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))

    refused(await schema_at(harness, project, change_id=change.id), CONFLICT, change.id, "'job'")


@run_in_mode
async def test_the_schema_at_a_change_executed_twice_is_the_last(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    expect(await harness.execute_change(change))
    await harness.merged(project, add("job", "x"))
    expect(await harness.op(change, add("job", "b")))
    expect(await harness.execute_change(change))

    found = await schema_at(harness, project, change_id=change.id)

    assert (found.version, names(found)) == (4, ["title", "hours", "a", "x", "b"])


# Verification


@run_in_mode
async def test_history_is_intact_after_many_changes(harness: Harness) -> None:
    chosen = random.Random(1)
    project = await harness.project()
    keys = ["asset", "machine", "crane"]
    for key, base in zip(keys, [None, "asset", "machine"], strict=True):
        expect(await harness.type(project, key, schema(**{f"{key}_code": "string!", f"{key}_name": "text"}), base=base))
    seen: list[tuple[Any, str, Any]] = []

    for _ in range(12):
        change = await harness.change(project)
        for _ in range(chosen.randint(1, 3)):
            key = chosen.choice(keys)
            new = f"{key}_{chosen.choice('abcdefgh')}"
            field = chosen.choice([*await harness.names(project, key), new])
            ops = [add(key, new), put(key, field, "text", required=True), remove(key, field), rename(key, field, "x")]
            # An op on a field of another op of the change is refused.
            await harness.op(change, chosen.choice(ops))
        done = await (harness.merge if chosen.random() < 0.7 else harness.execute_change)(change)
        for each in getattr(done, "diff", ()):
            now = await harness.get_type(project, each.record_type_key)
            assert now.version == each.to_version
            seen.append((change, each.record_type_key, now.schema))

    assert len(seen) > 5
    for key in keys:
        history = expect(await harness.history(project, key))
        assert (history.is_intact, history.mismatches) == (True, ())
        assert history.versions == (await harness.get_type(project, key)).version
    for change, key, then in seen:
        assert (await schema_at(harness, project, key, change_id=change.id)).schema == then


OTHER = schema(title="string!", hours="number", forged="string")
FORGERIES: Mapping[str, tuple[Table, Mapping[str, Any]]] = {
    "another schema": (RECORD_TYPES, {"schema": OTHER}),
    "another schema, as if by a change": (RECORD_TYPES, {"schema": OTHER, "version": 4, "changed_by": "CHANGE"}),
    "another first schema": (RECORD_TYPES, {"initial_schema": OTHER}),
    "another version": (RECORD_TYPES, {"version": 7}),
    "another snapshot": (SNAPSHOTS, {"schema": OTHER}),
    "a snapshot of another version": (SNAPSHOTS, {"version": 3}),
    "another stamp": (PATCH_OPS, {"previous_snapshot": OTHER}),
    "another op": (PATCH_OPS, {"payload": add("job", "forged")[1], "field": "forged", "gives": "forged"}),
    "an op that cannot be": (PATCH_OPS, {"payload": remove("job", "nothing")[1], "op_type": "remove_field"}),
    "an op of another version": (PATCH_OPS, {"applied_version": 5}),
}


@pytest.mark.parametrize("forgery", FORGERIES)
@run_in_mode
async def test_rows_that_were_tampered_with_are_refused_or_found(harness: Harness, forgery: str) -> None:
    project = await harness.job()
    change = await harness.merged(project, add("job", "a"))
    await harness.merged(project, add("job", "b"))
    table, forged = FORGERIES[forgery]
    forged = {name: change.id if value == "CHANGE" else value for name, value in forged.items()}
    (op,) = await harness.ops(change)
    key: Row = {"id": op.id if table is PATCH_OPS else (await harness.get_type(project)).id}
    if table is SNAPSHOTS:
        key = {"change_id": change.id, "record_type_key": "job"}
    assert expect(await harness.history(project)).is_intact

    was_refused = await tampered(harness, table, "update", {**key, **forged})

    history = expect(await harness.history(project))
    assert history.is_intact == was_refused
    assert bool(history.mismatches) != was_refused
    if harness.address is None or forgery == "another schema, as if by a change":
        assert not was_refused


@run_in_mode
async def test_a_snapshot_of_no_op_is_found(harness: Harness) -> None:
    project = await harness.job()
    await harness.merged(project, add("job", "a"))
    idle = await harness.change(project)
    (snapshot,) = await harness.snapshots(await harness.merged(project, add("job", "b")))

    was_refused = await tampered(harness, SNAPSHOTS, "insert", {**snapshot.model_dump(), "change_id": idle.id})

    history = expect(await harness.history(project))
    assert history.is_intact == was_refused == (harness.address is not None)
    assert was_refused or any(idle.id in mismatch for mismatch in history.mismatches)


# Compensations


@run_in_mode
async def test_a_compensation_restores_what_a_change_has_touched(harness: Harness) -> None:
    project = await harness.job()
    expect(await harness.type(project, "task", schema(a="string", b="number!")))
    before = [(await harness.get_type(project, key)).schema for key in ("job", "task")]
    change = await harness.merged(
        project,
        add("job", "crew", before="title"),
        rename("job", "hours", "time"),
        put("job", "title", "text", required=True, label="Title"),
        remove("task", "a"),
        put("task", "b"),
    )

    draft = expect(await compensate(harness, change))
    merged = expect(await harness.merge(draft))

    assert (draft.status, draft.compensates, draft.project_id) == ("Draft", change.id, project.id)
    assert merged.applied_count == len(await harness.ops(draft))
    assert [(await harness.get_type(project, key)).schema for key in ("job", "task")] == before
    for key in ("job", "task"):
        assert expect(await harness.history(project, key)).is_intact
        assert (await harness.get_type(project, key)).version == 3


@run_in_mode
async def test_a_compensation_is_itself_taken_back(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.merged(project, add("job", "a", required=True), remove("job", "hours"))
    after = (await harness.get_type(project)).schema

    back = expect(await compensate(harness, change))
    expect(await harness.merge(back))
    again = expect(await compensate(harness, back))
    expect(await harness.merge(again))

    assert again.compensates == back.id
    assert (await harness.get_type(project)).schema == after


@run_in_mode
async def test_a_compensation_leaves_what_others_have_done_since(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.merged(project, add("job", "a"))
    await harness.merged(project, add("job", "b"), put("job", "title", "text", required=True))

    expect(await harness.merge(expect(await compensate(harness, change))))

    assert await harness.names(project) == ["title", "hours", "b"]
    assert (await harness.get_type(project)).schema["fields"][0]["type"] == "text"


@run_in_mode
async def test_the_diffs_of_a_compensation_name_the_renames(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "deal", schema(buyer="string", seller="string", notary="text", price="number")))
    expect(await harness.type(project, "sale", schema(buyer="string", place="string"), base="deal"))
    cycle = [rename("deal", "buyer", "t"), rename("deal", "notary", "buyer"), rename("deal", "seller", "notary")]
    change = await harness.merged(project, *cycle, rename("deal", "t", "seller"), put("deal", "price", "text"))
    there = {(each.old_name, each.new_name) for each in change.diff[0].renamed}
    assert there == {("buyer", "seller"), ("seller", "notary"), ("notary", "buyer")}

    draft = expect(await compensate(harness, change))
    merged = expect(await harness.merge(draft))

    assert (draft.removes, draft.restores_empty) == ((), ())
    (diff,) = merged.diff
    assert {(each.new_name, each.old_name) for each in diff.renamed} == there
    assert (diff.added, diff.removed) == ((), ())
    assert await harness.names(project, "deal") == ["buyer", "seller", "notary", "price"]


@run_in_mode
async def test_a_plan_has_two_ops_on_a_name_that_changes_fields(harness: Harness) -> None:
    project = await harness.job(schema(a="string", b="number"))
    change = await harness.merged(project, remove("job", "a"), rename("job", "b", "a"))

    draft = expect(await compensate(harness, change))
    ops = [(op.op_type, op.payload.get("field", op.payload.get("old_name"))) for op in await harness.ops(draft)]
    refused(await harness.op(draft, put("job", "a", "text")), CONFLICT, "'a'")
    merged = expect(await harness.merge(draft))

    assert ops == [("rename_field", "a"), ("add_field", "a")]
    assert [(each.old_name, each.new_name) for each in merged.diff[0].renamed] == [("a", "b")]
    assert await harness.names(project) == ["a", "b"]
    assert expect(await harness.history(project)).is_intact


@run_in_mode
async def test_a_plan_says_what_does_not_come_back(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.merged(project, add("job", "crew"), remove("job", "hours"), rename("job", "title", "name"))

    draft = expect(await compensate(harness, change))

    assert [(each.record_type_key, each.field) for each in draft.removes] == [("job", "crew")]
    assert [(each.record_type_key, each.field) for each in draft.restores_empty] == [("job", "hours")]
    assert "job.crew" in draft.description
    assert "job.hours" in draft.description
    assert "name" not in draft.description
    assert expect(await harness.ask("changes.get", {"change_id": draft.id})).description == draft.description
    many = await harness.merged(project, *(add("job", f"f{number}") for number in range(30)))
    assert "and 10 more" in expect(await compensate(harness, many)).description


@run_in_mode
async def test_fields_swapped_since_are_not_taken_back(harness: Harness) -> None:
    project = await harness.job(schema(a="string", b="string"))
    change = await harness.merged(project, rename("job", "a", "c"))
    swap = await harness.merged(project, rename("job", "c", "t"), rename("job", "b", "c"), rename("job", "t", "b"))
    await harness.merged(project, put("job", "c", before="b"))

    refused(await compensate(harness, change), CONFLICT, "job.c", "since")

    expect(await harness.merge(expect(await compensate(harness, swap))))
    expect(await harness.merge(expect(await compensate(harness, change))))
    assert sorted(await harness.names(project)) == ["a", "b"]


@pytest.mark.parametrize(
    "since", [put("job", "a", "text"), remove("job", "a"), rename("job", "a", "b")], ids=["set", "removed", "renamed"]
)
@run_in_mode
async def test_what_has_changed_since_is_not_taken_back(harness: Harness, since: Op) -> None:
    project = await harness.job()
    change = await harness.merged(project, add("job", "a"))
    await harness.merged(project, since)
    before = harness.dump()

    error = refused(await compensate(harness, change), CONFLICT, "job.a", "since")

    assert (error.details["record_type"], error.details["field"]) == ("job", "a")
    assert error.details["then"]["type"] == "string"
    assert error.details["now"] == ({**error.details["then"], "type": "text"} if since[0] == "set_field" else None)
    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_an_overtaken_draft_conflicts_when_merged(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.merged(project, add("job", "a"))
    draft = expect(await compensate(harness, change))
    await harness.merged(project, put("job", "a", "text"))

    refused(await harness.merge(draft), CONFLICT, "remove_field job.a")

    assert await harness.status(draft) == "ValidationFailed"


@run_in_mode
async def test_there_is_nothing_to_take_back_of_what_was_not_executed(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    before = harness.dump()

    refused(await compensate(harness, change), CONFLICT, change.id)

    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_an_executed_unmerged_change_is_taken_back(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    expect(await harness.execute_change(change))

    expect(await harness.merge(expect(await compensate(harness, change))))

    assert await harness.names(project) == ["title", "hours"]


@run_in_mode
async def test_what_base_types_forbid_is_not_taken_back(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "asset", schema(code="string")))
    expect(await harness.type(project, "crane", base="asset"))
    change = await harness.merged(project, add("crane", "code", override=True, required=True))
    await harness.merged(project, put("asset", "code", required=True))
    before = harness.dump()

    refused(await compensate(harness, change), UNPROCESSABLE, "crane.code", "E7")

    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_an_agent_drafts_a_compensation_and_a_person_merges_it(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.merged(project, add("job", "a"))
    seen = len(await harness.events())

    draft = expect(await compensate(harness, change, by=BOT))
    preview = expect(await harness.preview(draft, by=BOT))
    refused(await harness.merge(draft, by=BOT), ErrorCode.FORBIDDEN)
    merged = expect(await harness.merge(draft))

    assert preview.diff == merged.diff
    assert [field["name"] for field in merged.diff[0].removed] == ["a"]
    events = (await harness.events())[seen:]
    assert [(event.type, event.actor_id, event.subject) for event in events[-2:]] == [
        ("changes.merged", "ann", f"change/{draft.id}"),
        ("record_types.changed", "ann", f"record_type/{project.id}/job"),
    ]
    subjects = [entry.action for entry in await harness.log(subject=f"change/{draft.id}", actor_id="bot")]
    assert subjects == ["changes.plan_compensation", "changes.preview"]


# Conflicts

MEETING: Mapping[str, tuple[Op, Op]] = {
    "set and set": (put("job", "hours", "string"), put("job", "hours", "text")),
    "set and removed": (put("job", "hours", "string"), remove("job", "hours")),
    "removed and set": (remove("job", "hours"), put("job", "hours", "text")),
    "renamed and set": (rename("job", "hours", "time"), put("job", "hours", "text")),
    "added and added": (add("job", "a"), add("job", "a", "number")),
    "added and renamed onto": (add("job", "a"), rename("job", "hours", "a")),
    "renamed and renamed": (rename("job", "hours", "a"), rename("job", "hours", "b")),
    "renamed twice to one name": (rename("job", "hours", "a"), rename("job", "hours", "a")),
}


@pytest.mark.parametrize("ops", MEETING.values(), ids=MEETING)
@run_in_mode
async def test_the_second_change_of_a_field_conflicts_and_shows_both(harness: Harness, ops: tuple[Op, Op]) -> None:
    project = await harness.job()
    first, second = [await harness.change(project, op) for op in ops]
    (done,), (pending,) = await harness.ops(first), await harness.ops(second)
    expect(await harness.merge(first))
    before = harness.dump()

    previewed, executed = await harness.preview(second), await harness.execute_change(second)
    assert besides_the_log(before, harness.dump()) == {}
    merged = await harness.merge(second)

    for answer in (previewed, executed, merged):
        error = refused(answer, CONFLICT, ops[0][0], ops[1][0], pending.id, first.id)
        (shown,) = error.details["conflicts"]
        assert (shown["op"]["id"], shown["since"]["id"]) == (pending.id, done.id)
        assert (shown["op"]["payload"], shown["since"]["payload"]) == (pending.payload, done.payload)
    assert besides_the_log(before, harness.dump()) == {"ae_changes": [{"status", "updated_at"}]}
    assert await harness.status(second) == "ValidationFailed"


@run_in_mode
async def test_to_delete_the_op_and_add_it_anew_resolves_the_conflict(harness: Harness) -> None:
    project = await harness.job()
    first, second = [await harness.change(project, put("job", "hours", type)) for type in ("string", "text")]
    expect(await harness.merge(first))
    refused(await harness.merge(second), CONFLICT)

    expect(await harness.delete_op(second, (await harness.ops(second))[0]))
    expect(await harness.op(second, put("job", "hours", "text")))
    await harness.move(second, "Validating", "Ready")

    assert expect(await harness.merge(second)).applied_count == 1
    assert (await harness.get_type(project)).schema["fields"][1]["type"] == "text"
    assert expect(await harness.history(project)).is_intact


@run_in_mode
async def test_changes_of_other_fields_go_through(harness: Harness) -> None:
    project = await harness.job()
    changes = [
        await harness.change(project, put("job", "hours", "string"), add("job", "a")),
        await harness.change(project, put("job", "title", "text", required=True)),
        await harness.change(project, add("job", "b", before="title")),
    ]

    merged = [expect(await harness.merge(change)) for change in reversed(changes)]

    assert [each.applied_count for each in merged] == [1, 1, 2]
    assert await harness.names(project) == ["b", "title", "hours", "a"]
    assert (await harness.get_type(project)).version == 4
    assert expect(await harness.history(project)).is_intact


@run_in_mode
async def test_equal_names_in_other_types_or_projects_do_not_conflict(harness: Harness) -> None:
    project, other = await harness.job(), await harness.project()
    expect(await harness.type(project, "task"))
    expect(await harness.type(other, "job", name="the other job"))
    change = await harness.change(project, add("job", "a"))
    await harness.merged(project, add("task", "a"))
    await harness.merged(other, add("job", "a"))

    assert expect(await harness.merge(change)).applied_count == 1


@run_in_mode
async def test_a_change_is_no_conflict_with_itself(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    expect(await harness.execute_change(change))
    expect(await harness.op(change, put("job", "a", "text")))
    expect(await harness.execute_change(change))
    expect(await harness.op(change, remove("job", "a")))

    assert expect(await harness.merge(change)).applied_count == 1
    assert await harness.names(project) == ["title", "hours"]


@run_in_mode
async def test_each_conflict_of_a_change_is_shown(harness: Harness) -> None:
    project = await harness.job()
    fields = ("title", "hours")
    ops = [put("job", field, "text", required=True) for field in fields]
    second = await harness.change(project, *ops, add("job", "a"))
    for field in fields:
        await harness.merged(project, put("job", field, "choice", required=True))

    error = refused(await harness.merge(second), CONFLICT)

    assert [each["op"]["payload"]["field"] for each in error.details["conflicts"]] == ["title", "hours"]


@run_in_mode
async def test_what_was_drafted_after_a_merge_knows_it(harness: Harness) -> None:
    project = await harness.job()
    await harness.merged(project, put("job", "hours", "string"))

    later = await harness.change(project, put("job", "hours", "text"))

    assert [op.record_type_version for op in await harness.ops(later)] == [2]
    assert expect(await harness.merge(later)).applied_count == 1


@run_in_mode
async def test_rows_of_changes_stay_as_they_were_written(harness: Harness) -> None:
    """A merged change stays merged also for direct writes, if the database enforces it."""
    project = await harness.job()
    change = await harness.merged(project, add("job", "a"))

    was_refused = await tampered(harness, CHANGES, "update", {"id": change.id, "title": "forged"})

    assert was_refused == (harness.address is not None)
