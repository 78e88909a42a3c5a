"""What record types were like, whether that can be trusted, how it is taken back, and how two changes meet."""

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
from tests.changes.desk import (
    BOT,
    Desk,
    Op,
    add,
    besides_the_log,
    expect,
    put,
    refused,
    remove,
    rename,
    scenario,
    schema,
)

CONFLICT, UNPROCESSABLE = ErrorCode.CONFLICT, ErrorCode.UNPROCESSABLE

# Each storage, and both worlds: not each in both.
pytestmark = pytest.mark.parametrize(
    "place", ["memory-async", "sqlite-sync", "postgres-async"], indirect=True, scope="module"
)


async def schema_at(desk: Desk, project: Any, key: str = "job", **when: Any) -> Any:
    return await desk.ask("record_types.schema_at", {"project_id": project.id, "key": key, **when})


async def compensate(desk: Desk, change: Any, **who: Any) -> Any:
    return await desk.ask("changes.plan_compensation", {"change_id": change.id}, **who)


def names(found: Any) -> list[str]:
    return [field["name"] for field in expect(found).schema["fields"]]


async def tampered(desk: Desk, table: Table, how: str, row: Row) -> bool:
    """Write a row past the services; whether the database refuses that."""
    try:
        async with desk.world.writing() as unit:
            rows = unit.rows(table)
            await (rows.insert([row]) if how == "insert" else rows.update([row]))
        return False
    except (ActionError, StorageError):
        return True


# What it was like


@scenario
async def test_the_schema_at_a_change_is_as_it_has_left_it(desk: Desk) -> None:
    project = await desk.job()
    first = await desk.merged(project, add("job", "a"), add("job", "b"))
    second = await desk.merged(project, rename("job", "a", "c"), remove("job", "title"))

    at_first, at_second = [await schema_at(desk, project, change_id=each.id) for each in (first, second)]

    assert (at_first.version, at_first.change_id) == (2, first.id)
    assert names(at_first) == ["title", "hours", "a", "b"]
    assert (at_second.version, at_second.change_id) == (3, second.id)
    assert at_second.schema == (await desk.get_type(project)).schema


@scenario
async def test_verifying_reads_few_schemas_at_once_and_parses_none_that_is_as_expected(desk: Desk) -> None:
    project = await desk.job()
    for number in range(20):
        await desk.merged(project, add("job", f"a_{number}"), add("job", f"b_{number}"))
    parsed, found = [], []
    from_document, find = Schema.from_document, Store.__init__

    def counted(document: Mapping[str, Any]) -> Schema:
        parsed.append(document)
        return from_document(document)

    def watched(self: Any, rows: Any) -> None:
        find(self, rows)
        ops_find = self.ops.find

        async def find_noted(*arguments: Any, **options: Any) -> Any:
            rows = await ops_find(*arguments, **options)
            found.append(sum("previous_snapshot" in row for row in rows))
            return rows

        self.ops = SimpleNamespace(find=find_noted)

    with patch.object(Schema, "from_document", counted), patch.object(Store, "__init__", watched):
        verified = expect(await desk.history(project))

    assert (verified.is_intact, verified.versions, verified.ops) == (True, 21, 40)
    assert len(parsed) <= 2
    assert sum(found) == 40
    assert max(found) <= 32


@scenario
async def test_the_schema_at_a_time_is_the_one_in_force(desk: Desk) -> None:
    project = await desk.job()
    created = (await desk.get_type(project)).created_at
    first = await desk.merged(project, add("job", "a"))
    second = await desk.merged(project, add("job", "b"))
    moment = timedelta(microseconds=1)

    before = await schema_at(desk, project, at=(created - moment).isoformat())
    found = [
        await schema_at(desk, project, at=at.isoformat())
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
    (op,) = await desk.ops(second)
    assert (await schema_at(desk, project, at=(op.executed_at - moment).isoformat())).version == 2
    assert (await schema_at(desk, project, at=op.executed_at.isoformat())).version == 3


@scenario
async def test_the_schema_at_a_change_of_something_else_is_the_one_of_that_time(desk: Desk) -> None:
    project = await desk.job()
    expect(await desk.type(project, "task"))
    await desk.merged(project, add("job", "a"))
    other = await desk.merged(project, add("task", "x"))
    await desk.merged(project, add("job", "b"))

    found = await schema_at(desk, project, change_id=other.id)

    assert (found.version, names(found)) == (2, ["title", "hours", "a"])


@scenario
async def test_a_change_that_has_done_nothing_yet_has_left_no_schema(desk: Desk) -> None:
    project = await desk.job()
    change = await desk.change(project, add("job", "a"))

    refused(await schema_at(desk, project, change_id=change.id), CONFLICT, change.id, "'job'")


@scenario
async def test_of_a_change_that_was_executed_twice_the_schema_is_the_last(desk: Desk) -> None:
    project = await desk.job()
    change = await desk.change(project, add("job", "a"))
    expect(await desk.execute(change))
    await desk.merged(project, add("job", "x"))
    expect(await desk.op(change, add("job", "b")))
    expect(await desk.execute(change))

    found = await schema_at(desk, project, change_id=change.id)

    assert (found.version, names(found)) == (4, ["title", "hours", "a", "x", "b"])


# Whether it can be trusted


@pytest.mark.parametrize("seed", range(3))
@scenario
async def test_history_is_intact_after_many_changes(desk: Desk, seed: int) -> None:
    chosen = random.Random(seed)
    project = await desk.project()
    keys = ["asset", "machine", "crane"]
    for key, base in zip(keys, [None, "asset", "machine"], strict=True):
        expect(await desk.type(project, key, schema(**{f"{key}_code": "string!", f"{key}_name": "text"}), base=base))
    seen: list[tuple[Any, str, Any]] = []

    for _ in range(12):
        change = await desk.change(project)
        for _ in range(chosen.randint(1, 3)):
            key = chosen.choice(keys)
            new = f"{key}_{chosen.choice('abcdefgh')}"
            field = chosen.choice([*await desk.names(project, key), new])
            ops = [add(key, new), put(key, field, "text", required=True), remove(key, field), rename(key, field, "x")]
            # What another op of the change is about already is refused.
            await desk.op(change, chosen.choice(ops))
        done = await (desk.merge if chosen.random() < 0.7 else desk.execute)(change)
        for each in getattr(done, "diff", ()):
            now = await desk.get_type(project, each.record_type_key)
            assert now.version == each.to_version
            seen.append((change, each.record_type_key, now.schema))

    assert len(seen) > 5
    for key in keys:
        history = expect(await desk.history(project, key))
        assert (history.is_intact, history.mismatches) == (True, ())
        assert history.versions == (await desk.get_type(project, key)).version
    for change, key, then in seen:
        assert (await schema_at(desk, project, key, change_id=change.id)).schema == then


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
@scenario
async def test_rows_that_were_tampered_with_are_refused_or_found(desk: Desk, forgery: str) -> None:
    project = await desk.job()
    change = await desk.merged(project, add("job", "a"))
    await desk.merged(project, add("job", "b"))
    table, forged = FORGERIES[forgery]
    forged = {name: change.id if value == "CHANGE" else value for name, value in forged.items()}
    (op,) = await desk.ops(change)
    key: Row = {"id": op.id if table is PATCH_OPS else (await desk.get_type(project)).id}
    if table is SNAPSHOTS:
        key = {"change_id": change.id, "record_type_key": "job"}
    assert expect(await desk.history(project)).is_intact

    was_refused = await tampered(desk, table, "update", {**key, **forged})

    history = expect(await desk.history(project))
    assert history.is_intact == was_refused
    assert bool(history.mismatches) != was_refused
    if desk.address is None or forgery == "another schema, as if by a change":
        assert not was_refused


@scenario
async def test_a_snapshot_of_no_op_is_found(desk: Desk) -> None:
    project = await desk.job()
    await desk.merged(project, add("job", "a"))
    idle = await desk.change(project)
    (snapshot,) = await desk.snapshots(await desk.merged(project, add("job", "b")))

    was_refused = await tampered(desk, SNAPSHOTS, "insert", {**snapshot.model_dump(), "change_id": idle.id})

    history = expect(await desk.history(project))
    assert history.is_intact == was_refused == (desk.address is not None)
    assert was_refused or any(idle.id in mismatch for mismatch in history.mismatches)


# Taking back


@scenario
async def test_a_compensation_restores_what_a_change_has_touched(desk: Desk) -> None:
    project = await desk.job()
    expect(await desk.type(project, "task", schema(a="string", b="number!")))
    before = [(await desk.get_type(project, key)).schema for key in ("job", "task")]
    change = await desk.merged(
        project,
        add("job", "crew", before="title"),
        rename("job", "hours", "time"),
        put("job", "title", "text", required=True, label="Title"),
        remove("task", "a"),
        put("task", "b"),
    )

    draft = expect(await compensate(desk, change))
    merged = expect(await desk.merge(draft))

    assert (draft.status, draft.compensates, draft.project_id) == ("Draft", change.id, project.id)
    assert merged.applied_count == len(await desk.ops(draft))
    assert [(await desk.get_type(project, key)).schema for key in ("job", "task")] == before
    for key in ("job", "task"):
        assert expect(await desk.history(project, key)).is_intact
        assert (await desk.get_type(project, key)).version == 3


@scenario
async def test_a_compensation_is_itself_taken_back(desk: Desk) -> None:
    project = await desk.job()
    change = await desk.merged(project, add("job", "a", required=True), remove("job", "hours"))
    after = (await desk.get_type(project)).schema

    back = expect(await compensate(desk, change))
    expect(await desk.merge(back))
    again = expect(await compensate(desk, back))
    expect(await desk.merge(again))

    assert again.compensates == back.id
    assert (await desk.get_type(project)).schema == after


@scenario
async def test_a_compensation_leaves_what_others_have_done_since(desk: Desk) -> None:
    project = await desk.job()
    change = await desk.merged(project, add("job", "a"))
    await desk.merged(project, add("job", "b"), put("job", "title", "text", required=True))

    expect(await desk.merge(expect(await compensate(desk, change))))

    assert await desk.names(project) == ["title", "hours", "b"]
    assert (await desk.get_type(project)).schema["fields"][0]["type"] == "text"


@scenario
async def test_the_diffs_of_a_compensation_name_the_renames(desk: Desk) -> None:
    project = await desk.project()
    expect(await desk.type(project, "deal", schema(buyer="string", seller="string", notary="text", price="number")))
    expect(await desk.type(project, "sale", schema(buyer="string", place="string"), base="deal"))
    cycle = [rename("deal", "buyer", "t"), rename("deal", "notary", "buyer"), rename("deal", "seller", "notary")]
    change = await desk.merged(project, *cycle, rename("deal", "t", "seller"), put("deal", "price", "text"))
    there = {(each.old_name, each.new_name) for each in change.diff[0].renamed}
    assert there == {("buyer", "seller"), ("seller", "notary"), ("notary", "buyer")}

    draft = expect(await compensate(desk, change))
    merged = expect(await desk.merge(draft))

    assert (draft.removes, draft.restores_empty) == ((), ())
    (diff,) = merged.diff
    assert {(each.new_name, each.old_name) for each in diff.renamed} == there
    assert (diff.added, diff.removed) == ((), ())
    assert await desk.names(project, "deal") == ["buyer", "seller", "notary", "price"]


@scenario
async def test_a_plan_has_two_ops_on_a_name_that_goes_from_one_field_to_another(desk: Desk) -> None:
    project = await desk.job(schema(a="string", b="number"))
    change = await desk.merged(project, remove("job", "a"), rename("job", "b", "a"))

    draft = expect(await compensate(desk, change))
    ops = [(op.op_type, op.payload.get("field", op.payload.get("old_name"))) for op in await desk.ops(draft)]
    refused(await desk.op(draft, put("job", "a", "text")), CONFLICT, "'a'")
    merged = expect(await desk.merge(draft))

    assert ops == [("rename_field", "a"), ("add_field", "a")]
    assert [(each.old_name, each.new_name) for each in merged.diff[0].renamed] == [("a", "b")]
    assert await desk.names(project) == ["a", "b"]
    assert expect(await desk.history(project)).is_intact


@scenario
async def test_a_plan_says_what_does_not_come_back(desk: Desk) -> None:
    project = await desk.job()
    change = await desk.merged(project, add("job", "crew"), remove("job", "hours"), rename("job", "title", "name"))

    draft = expect(await compensate(desk, change))

    assert [(each.record_type_key, each.field) for each in draft.removes] == [("job", "crew")]
    assert [(each.record_type_key, each.field) for each in draft.restores_empty] == [("job", "hours")]
    assert "job.crew" in draft.description
    assert "job.hours" in draft.description
    assert "name" not in draft.description
    assert expect(await desk.ask("changes.get", {"change_id": draft.id})).description == draft.description
    many = await desk.merged(project, *(add("job", f"f{number}") for number in range(30)))
    assert "and 10 more" in expect(await compensate(desk, many)).description


@scenario
async def test_fields_that_were_swapped_since_are_not_taken_back_as_each_other(desk: Desk) -> None:
    project = await desk.job(schema(a="string", b="string"))
    change = await desk.merged(project, rename("job", "a", "c"))
    swap = await desk.merged(project, rename("job", "c", "t"), rename("job", "b", "c"), rename("job", "t", "b"))
    await desk.merged(project, put("job", "c", before="b"))

    refused(await compensate(desk, change), CONFLICT, "job.c", "since")

    expect(await desk.merge(expect(await compensate(desk, swap))))
    expect(await desk.merge(expect(await compensate(desk, change))))
    assert sorted(await desk.names(project)) == ["a", "b"]


@pytest.mark.parametrize(
    "since", [put("job", "a", "text"), remove("job", "a"), rename("job", "a", "b")], ids=["set", "removed", "renamed"]
)
@scenario
async def test_what_has_changed_since_is_not_taken_back(desk: Desk, since: Op) -> None:
    project = await desk.job()
    change = await desk.merged(project, add("job", "a"))
    await desk.merged(project, since)
    before = desk.dump()

    error = refused(await compensate(desk, change), CONFLICT, "job.a", "since")

    assert (error.details["record_type"], error.details["field"]) == ("job", "a")
    assert error.details["then"]["type"] == "string"
    assert error.details["now"] == ({**error.details["then"], "type": "text"} if since[0] == "set_field" else None)
    assert besides_the_log(before, desk.dump()) == {}


@scenario
async def test_a_draft_that_is_overtaken_meets_a_conflict_when_it_is_merged(desk: Desk) -> None:
    project = await desk.job()
    change = await desk.merged(project, add("job", "a"))
    draft = expect(await compensate(desk, change))
    await desk.merged(project, put("job", "a", "text"))

    refused(await desk.merge(draft), CONFLICT, "remove_field job.a")

    assert await desk.status(draft) == "ValidationFailed"


@scenario
async def test_there_is_nothing_to_take_back_of_what_was_not_executed(desk: Desk) -> None:
    project = await desk.job()
    change = await desk.change(project, add("job", "a"))
    before = desk.dump()

    refused(await compensate(desk, change), CONFLICT, change.id)

    assert besides_the_log(before, desk.dump()) == {}


@scenario
async def test_a_change_that_is_executed_and_not_merged_is_taken_back_too(desk: Desk) -> None:
    project = await desk.job()
    change = await desk.change(project, add("job", "a"))
    expect(await desk.execute(change))

    expect(await desk.merge(expect(await compensate(desk, change))))

    assert await desk.names(project) == ["title", "hours"]


@scenario
async def test_what_base_types_forbid_is_not_taken_back(desk: Desk) -> None:
    project = await desk.project()
    expect(await desk.type(project, "asset", schema(code="string")))
    expect(await desk.type(project, "crane", base="asset"))
    change = await desk.merged(project, add("crane", "code", override=True, required=True))
    await desk.merged(project, put("asset", "code", required=True))
    before = desk.dump()

    refused(await compensate(desk, change), UNPROCESSABLE, "crane.code", "E7")

    assert besides_the_log(before, desk.dump()) == {}


@scenario
async def test_an_agent_drafts_a_compensation_and_a_person_merges_it(desk: Desk) -> None:
    project = await desk.job()
    change = await desk.merged(project, add("job", "a"))
    seen = len(await desk.events())

    draft = expect(await compensate(desk, change, by=BOT))
    preview = expect(await desk.preview(draft, by=BOT))
    refused(await desk.merge(draft, by=BOT), ErrorCode.FORBIDDEN)
    merged = expect(await desk.merge(draft))

    assert preview.diff == merged.diff
    assert [field["name"] for field in merged.diff[0].removed] == ["a"]
    events = (await desk.events())[seen:]
    assert [(event.type, event.actor_id, event.subject) for event in events[-2:]] == [
        ("changes.merged", "ann", f"change/{draft.id}"),
        ("record_types.changed", "ann", f"record_type/{project.id}/job"),
    ]
    subjects = [entry.action for entry in await desk.log(subject=f"change/{draft.id}", actor_id="bot")]
    assert subjects == ["changes.plan_compensation", "changes.preview"]


# How two changes meet

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
@scenario
async def test_the_second_of_two_changes_of_one_field_is_a_conflict_that_shows_both(
    desk: Desk, ops: tuple[Op, Op]
) -> None:
    project = await desk.job()
    first, second = [await desk.change(project, op) for op in ops]
    (done,), (pending,) = await desk.ops(first), await desk.ops(second)
    expect(await desk.merge(first))
    before = desk.dump()

    previewed, executed = await desk.preview(second), await desk.execute(second)
    assert besides_the_log(before, desk.dump()) == {}
    merged = await desk.merge(second)

    for answer in (previewed, executed, merged):
        error = refused(answer, CONFLICT, ops[0][0], ops[1][0], pending.id, first.id)
        (shown,) = error.details["conflicts"]
        assert (shown["op"]["id"], shown["since"]["id"]) == (pending.id, done.id)
        assert (shown["op"]["payload"], shown["since"]["payload"]) == (pending.payload, done.payload)
    assert besides_the_log(before, desk.dump()) == {"ae_changes": [{"status", "updated_at"}]}
    assert await desk.status(second) == "ValidationFailed"


@scenario
async def test_to_delete_the_op_and_add_it_anew_resolves_the_conflict(desk: Desk) -> None:
    project = await desk.job()
    first, second = [await desk.change(project, put("job", "hours", type)) for type in ("string", "text")]
    expect(await desk.merge(first))
    refused(await desk.merge(second), CONFLICT)

    expect(await desk.delete_op(second, (await desk.ops(second))[0]))
    expect(await desk.op(second, put("job", "hours", "text")))
    await desk.move(second, "Validating", "Ready")

    assert expect(await desk.merge(second)).applied_count == 1
    assert (await desk.get_type(project)).schema["fields"][1]["type"] == "text"
    assert expect(await desk.history(project)).is_intact


@scenario
async def test_changes_of_other_fields_go_through(desk: Desk) -> None:
    project = await desk.job()
    changes = [
        await desk.change(project, put("job", "hours", "string"), add("job", "a")),
        await desk.change(project, put("job", "title", "text", required=True)),
        await desk.change(project, add("job", "b", before="title")),
    ]

    merged = [expect(await desk.merge(change)) for change in reversed(changes)]

    assert [each.applied_count for each in merged] == [1, 1, 2]
    assert await desk.names(project) == ["b", "title", "hours", "a"]
    assert (await desk.get_type(project)).version == 4
    assert expect(await desk.history(project)).is_intact


@scenario
async def test_the_same_field_of_another_type_or_project_is_another_field(desk: Desk) -> None:
    project, other = await desk.job(), await desk.project()
    expect(await desk.type(project, "task"))
    expect(await desk.type(other, "job", name="the other job"))
    change = await desk.change(project, add("job", "a"))
    await desk.merged(project, add("task", "a"))
    await desk.merged(other, add("job", "a"))

    assert expect(await desk.merge(change)).applied_count == 1


@scenario
async def test_a_change_is_no_conflict_with_itself(desk: Desk) -> None:
    project = await desk.job()
    change = await desk.change(project, add("job", "a"))
    expect(await desk.execute(change))
    expect(await desk.op(change, put("job", "a", "text")))
    expect(await desk.execute(change))
    expect(await desk.op(change, remove("job", "a")))

    assert expect(await desk.merge(change)).applied_count == 1
    assert await desk.names(project) == ["title", "hours"]


@scenario
async def test_each_conflict_of_a_change_is_shown(desk: Desk) -> None:
    project = await desk.job()
    fields = ("title", "hours")
    ops = [put("job", field, "text", required=True) for field in fields]
    second = await desk.change(project, *ops, add("job", "a"))
    for field in fields:
        await desk.merged(project, put("job", field, "choice", required=True))

    error = refused(await desk.merge(second), CONFLICT)

    assert [each["op"]["payload"]["field"] for each in error.details["conflicts"]] == ["title", "hours"]


@scenario
async def test_what_was_drafted_after_a_merge_knows_it(desk: Desk) -> None:
    project = await desk.job()
    await desk.merged(project, put("job", "hours", "string"))

    later = await desk.change(project, put("job", "hours", "text"))

    assert [op.record_type_version for op in await desk.ops(later)] == [2]
    assert expect(await desk.merge(later)).applied_count == 1


@scenario
async def test_rows_of_changes_stay_as_they_were_written(desk: Desk) -> None:
    """`Merged` is the end, for whoever writes to the table as well, where the database can say so."""
    project = await desk.job()
    change = await desk.merged(project, add("job", "a"))

    was_refused = await tampered(desk, CHANGES, "update", {"id": change.id, "title": "forged"})

    assert was_refused == (desk.address is not None)
