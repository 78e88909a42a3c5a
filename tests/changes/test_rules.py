"""The rules of change control, D1 to G2, through the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from uuid_utils import uuid7

from actionengine import ErrorCode, StorageError
from actionengine.changes.states import ACCEPTS_OPS, STATUSES
from actionengine.errors import ActionError
from actionengine.storage.tables import PATCH_OPS, TARGETS, Row, Table
from actionengine.testing import run_in_mode
from tests.changes.harness import (
    LOG,
    WAYS,
    Harness,
    Op,
    add,
    besides_the_log,
    differences,
    edit_file,
    put,
    remove,
    rename,
    schema,
)
from tests.harness import BOT, expect, refused

# Each storage and each mode, but not all pairs.
pytestmark = pytest.mark.parametrize(
    "shared_backend", ["memory-sync", "sqlite-async", "postgres-sync"], indirect=True, scope="module"
)

NOBODY = str(uuid7())
"""An id that no row has."""

# D: data


@run_in_mode
async def test_d1_a_record_type_has_a_project(harness: Harness) -> None:
    without = await harness.ask("record_types.create", {"key": "job"})
    of_none = await harness.ask("record_types.create", {"project_id": NOBODY, "key": "job"})

    refused(without, ErrorCode.INVALID_INPUT, "project_id")
    refused(of_none, ErrorCode.NOT_FOUND, NOBODY)


@run_in_mode
async def test_d2_a_change_has_a_project(harness: Harness) -> None:
    without = await harness.ask("changes.create", {"title": "a change"})
    of_none = await harness.ask("changes.create", {"project_id": NOBODY, "title": "a change"})

    refused(without, ErrorCode.INVALID_INPUT, "project_id")
    refused(of_none, ErrorCode.NOT_FOUND, NOBODY)


@run_in_mode
async def test_d3_keys_are_unique_in_a_project_and_a_tenant(harness: Harness) -> None:
    project, other = await harness.project(), await harness.project()
    expect(await harness.type(project, "job"))
    before = harness.dump()

    again = await harness.type(project, "job", name="another name")

    refused(again, ErrorCode.CONFLICT, "'job'")
    assert besides_the_log(before, harness.dump()) == {}
    expect(await harness.type(other, "job", name="another name"))


@run_in_mode
async def test_d3_the_same_key_may_be_another_tenants(harness: Harness) -> None:
    expect(await harness.type(await harness.project(), "job"))

    elsewhere = await harness.project(tenant=harness.backend.other_tenant)

    expect(await harness.type(elsewhere, "job", tenant=harness.backend.other_tenant))


@run_in_mode
async def test_d4_names_of_projects_are_unique_in_a_tenant(harness: Harness) -> None:
    expect(await harness.project("Field service"))
    before = harness.dump()

    again = await harness.project("Field service")

    refused(again, ErrorCode.CONFLICT, "'Field service'")
    assert besides_the_log(before, harness.dump()) == {}
    expect(await harness.project("Field service", tenant=harness.backend.other_tenant))


@run_in_mode
async def test_d4_names_of_record_types_are_unique_in_a_tenant(harness: Harness) -> None:
    expect(await harness.type(await harness.project(), "job", name="Job"))

    again = await harness.type(await harness.project(), "task", name="Job")

    refused(again, ErrorCode.CONFLICT, "'Job'", "another name")


@run_in_mode
async def test_d5_there_is_one_snapshot_for_a_change_and_a_record_type(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))

    expect(await harness.execute_change(change))
    expect(await harness.op(change, add("job", "b")))
    expect(await harness.execute_change(change))
    expect(await harness.execute_change(change))
    expect(await harness.merge(change))
    expect(await harness.merge(change))

    (snapshot,) = await harness.snapshots(change)
    assert snapshot.version == 1
    assert [field["name"] for field in snapshot.schema["fields"]] == ["title", "hours"]
    assert await harness.names(project) == ["title", "hours", "a", "b"]
    assert (await harness.history(project)).is_intact


@run_in_mode
async def test_d6_a_snapshot_is_of_its_changes_project(harness: Harness) -> None:
    project = await harness.job()

    change = await harness.merged(project, add("job", "a"))

    assert [each.project_id for each in await harness.snapshots(change)] == [change.project_id] == [project.id]


@run_in_mode
async def test_d7_previous_snapshot_and_executed_at_are_set_together(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"), add("job", "b"))

    drafted = await harness.ops(change)
    expect(await harness.execute_change(change))
    executed = await harness.ops(change)

    assert {(op.previous_snapshot, op.executed_at, op.applied_version) for op in drafted} == {(None, None, None)}
    assert all(op.executed_at is not None and op.applied_version == 2 for op in executed)
    assert [len(op.previous_snapshot["fields"]) for op in executed] == [2, 3]


@run_in_mode
async def test_d8_field_types_are_from_the_known_set(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    before = harness.dump()

    unknown: list[Any] = ["", "String", "money", "object", None, 7, ["string"]]
    for type in unknown:
        of_schema = await harness.type(project, "task", {"fields": [{"name": "a", "type": type}]})
        refused(of_schema, ErrorCode.INVALID_INPUT, "fields.0.type")
        for op in (add("job", "b", type), put("job", "title", type)):
            refused(await harness.op(change, op), ErrorCode.INVALID_INPUT, op[0], "definition.type")

    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_d9_target_selectors_are_from_the_known_set(harness: Harness) -> None:
    change = await harness.change(await harness.job())
    before = harness.dump()

    unknown: list[tuple[str, Any]] = [
        ("record_type", {}),
        ("record_type", {"record_type_key": ""}),
        ("record_type", {"record_type_key": 7}),
        ("record_type", {"record_type_key": "job", "more": 1}),
        ("record_type", {"file_path": "main.py"}),
        ("file", {"file_path": None}),
        ("file", {"path": "main.py"}),
        ("form", {"record_type_key": "job"}),
        ("workflow", {"form_key": "f"}),
        ("rule", {"rule_key": ["r"]}),
        ("script", {"script_key": "x" * 1001}),
        ("job", {"job_key": "job"}),
        ("file", "main.py"),
    ]
    for type, selector in unknown:
        target = {"change_id": change.id, "type": type, "selector": selector}
        refused(await harness.ask("changes.add_target", target), ErrorCode.INVALID_INPUT)

    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_d9_each_type_of_target_has_a_selector_of_its_own(harness: Harness) -> None:
    change = await harness.change(await harness.job())

    for type in ("form", "workflow", "rule", "script", "file"):
        expect(await harness.target(change, "main", type))
    expect(await harness.target(change, "job"))

    targets = await harness.ask("changes.list_targets", {"change_id": change.id})
    assert [(target.type, *target.selector) for target in targets] == [
        ("form", "form_key"),
        ("workflow", "workflow_key"),
        ("rule", "rule_key"),
        ("script", "script_key"),
        ("file", "file_path"),
        ("record_type", "record_type_key"),
    ]


# E: execution


@run_in_mode
async def test_e1_a_merged_change_takes_no_target_no_op_and_no_status(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    (op,) = await harness.ops(change)
    expect(await harness.merge(change))
    before = harness.dump()

    refused(await harness.target(change, "job"), ErrorCode.CONFLICT, "Merged")
    refused(await harness.op(change, add("job", "b")), ErrorCode.CONFLICT, "add_field job.b", "Merged")
    refused(await harness.delete_op(change, op), ErrorCode.CONFLICT, op.id)
    refused(await harness.execute_change(change), ErrorCode.CONFLICT, "merged")
    for status in STATUSES:
        if status != "Merged":
            refused(await harness.move(change, status), ErrorCode.CONFLICT, "Merged")

    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_e2_ops_execute_once(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"), add("job", "b"))

    first = expect(await harness.execute_change(change))
    stamped = await harness.ops(change)
    second = expect(await harness.execute_change(change))

    assert (first.applied_count, second.applied_count) == (2, 0)
    assert second.diff == ()
    assert await harness.ops(change) == stamped
    assert (await harness.get_type(project)).version == 2


@run_in_mode
async def test_e2_merge_after_execute_applies_nothing_again(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    expect(await harness.execute_change(change))
    record_type, ops, snapshots = (
        await harness.get_type(project),
        await harness.ops(change),
        await harness.snapshots(change),
    )

    merged = expect(await harness.merge(change))

    assert (merged.status, merged.applied_count, merged.diff) == ("Merged", 0, ())
    assert await harness.get_type(project) == record_type
    assert await harness.ops(change) == ops
    assert await harness.snapshots(change) == snapshots


@run_in_mode
async def test_e2_merge_after_execute_applies_what_was_added_between(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    expect(await harness.execute_change(change))
    expect(await harness.op(change, rename("job", "a", "b")))

    merged = expect(await harness.merge(change))

    assert merged.applied_count == 1
    assert await harness.names(project) == ["title", "hours", "b"]


@run_in_mode
async def test_e2_a_merged_change_is_merged_again_without_effect(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.merged(project, add("job", "a"))
    before = harness.dump()

    again = expect(await harness.merge(change))

    assert (again.status, again.applied_count, again.merged_at) == ("Merged", 0, change.merged_at)
    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_e3_an_executed_op_cannot_be_deleted(harness: Harness) -> None:
    change = await harness.change(await harness.job(), add("job", "a"))
    (op,) = await harness.ops(change)
    expect(await harness.execute_change(change))
    before = harness.dump()

    answer = await harness.delete_op(change, op)

    refused(answer, ErrorCode.CONFLICT, op.id, "executed")
    assert besides_the_log(before, harness.dump()) == {}


@pytest.mark.parametrize(
    ("bad", "position"),
    [
        (add("job", "title"), 0),
        (put("job", "nothing"), 3),
        (remove("job", "nothing"), 6),
        (rename("job", "nothing", "something"), 0),
        (rename("job", "hours", "title"), 3),
        (remove("crane", "code"), 6),
        (put("crane", "code"), 0),
        (add("job", "x", before="nothing"), 3),
        (edit_file(), 6),
    ],
)
@run_in_mode
async def test_e4_one_bad_op_and_not_one_row_is_written(harness: Harness, bad: Op, position: int) -> None:
    project = await harness.job()
    expect(await harness.type(project, "asset", schema(code="string!")))
    expect(await harness.type(project, "crane", schema(code="string!"), base="asset"))
    expect(await harness.type(project, "task", schema(code="string")))
    good = [
        add("job", "a"),
        add("asset", "b"),
        rename("task", "code", "number"),
        put("task", "number", "number"),
        add("crane", "load", "number"),
        add("asset", "d"),
    ]
    change = await harness.change(project, *good[:position], bad, *good[position:])
    before = harness.dump()

    executed = await harness.execute_change(change)
    between = harness.dump()
    merged = await harness.merge(change)

    assert besides_the_log(before, between) == {}
    after = differences(before, harness.dump())
    assert {table: rows for table, rows in after.items() if table not in LOG} == {
        "ae_changes": [{"status", "updated_at"}]
    }
    assert len(after["ae_action_log"]) == 2
    op_id = (await harness.ops(change))[position].id
    for answer in (executed, merged):
        error = refused(answer, ErrorCode.UNPROCESSABLE, bad[0])
        assert (error.details["op_id"], error.details["op_type"]) == (op_id, bad[0])
        assert error.details["reason"] in error.message


@run_in_mode
async def test_e5_the_same_ops_on_the_same_schemas_give_the_same(harness: Harness) -> None:
    ops = (add("job", "b"), rename("job", "hours", "time"), put("job", "title", "text", required=True), add("job", "c"))
    came_of_it = []
    for number in range(2):
        project = await harness.project()
        expect(await harness.type(project, "job", schema(title="string!", hours="number"), name=f"job {number}"))
        change = await harness.change(project, *ops)
        previews = [expect(await harness.preview(change)) for _ in range(2)]
        merged = expect(await harness.merge(change))
        assert previews[0] == previews[1]
        assert previews[0].diff == merged.diff
        came_of_it.append((merged.diff, (await harness.get_type(project)).schema))

    assert came_of_it[0] == came_of_it[1]


@run_in_mode
async def test_e5_a_preview_writes_nothing(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"), remove("job", "hours"))
    before = harness.dump()

    preview = expect(await harness.preview(change))

    assert preview.op_count == 2
    assert besides_the_log(before, harness.dump()) == {}


class Listening:
    """A storage that notes its writes, in order: `(insert or update, table, number of rows)`."""

    def __init__(self, within: Any, heard: list[tuple[str, str, int]]) -> None:
        self._within = within
        self._heard = heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._within, name)

    def unit_of_work(self, *arguments: Any) -> Any:
        return Listening(self._within.unit_of_work(*arguments), self._heard)

    def rows(self, table: Table) -> Any:
        return ListeningRows(self._within.rows(table), table, self._heard)


class ListeningRows:
    def __init__(self, within: Any, table: Table, heard: list[tuple[str, str, int]]) -> None:
        self._within = within
        self._table = table
        self._heard = heard

    async def find(self, *arguments: Any, **options: Any) -> Any:
        return await self._within.find(*arguments, **options)

    async def insert(self, rows: Sequence[Row]) -> None:
        self._heard.append(("insert", self._table.name, len(rows)))
        await self._within.insert(rows)

    async def update(self, rows: Sequence[Row]) -> None:
        self._heard.append(("update", self._table.name, len(rows)))
        await self._within.update(rows)


@run_in_mode
async def test_e6_the_snapshots_are_written_before_the_schemas(harness: Harness) -> None:
    project = await harness.job()
    expect(await harness.type(project, "task"))
    change = await harness.change(project, add("job", "a"), add("task", "a"), add("job", "b"))
    heard: list[tuple[str, str, int]] = []
    storage: Any = Listening(harness.backend.storage, heard)

    expect(await harness.another(storage=storage).merge(change))

    assert heard == [
        ("insert", "ae_snapshots", 2),
        ("update", "ae_record_types", 2),
        ("update", "ae_patch_ops", 3),
        ("update", "ae_changes", 1),
    ]


@run_in_mode
async def test_e6_a_snapshot_is_the_schema_as_it_was(harness: Harness) -> None:
    project = await harness.job()
    before = await harness.get_type(project)

    change = await harness.merged(project, remove("job", "hours"), add("job", "a"))

    (snapshot,) = await harness.snapshots(change)
    assert (snapshot.schema, snapshot.version) == (before.schema, before.version)


E7_BREAKERS = {
    "removed": remove("crane", "code"),
    "renamed": rename("crane", "code", "number"),
    "set to not required": put("crane", "code", required=False),
    "set without required": put("crane", "code"),
}


@pytest.mark.parametrize(("op", "levels"), [*zip(E7_BREAKERS.values(), (1, 3, 1, 3), strict=True)], ids=[*E7_BREAKERS])
@run_in_mode
async def test_e7_what_an_ancestor_requires_is_not_weakened(harness: Harness, op: Op, levels: int) -> None:
    project = await harness.project()
    expect(await harness.type(project, "asset", schema(code="string!")))
    base = "asset"
    for level in range(1, levels):
        expect(await harness.type(project, f"level{level}", base=base))
        base = f"level{level}"
    expect(await harness.type(project, "crane", schema(code="string!"), base=base))
    change = await harness.change(project, op)
    before = harness.dump()

    answer = await harness.merge(change)

    error = refused(answer, ErrorCode.UNPROCESSABLE, f"{op[0]} crane.code", "E7", "'asset'")
    assert (error.details["op_type"], error.details["field"]) == (op[0], "code")
    assert besides_the_log(before, harness.dump()) == {"ae_changes": [{"status", "updated_at"}]}


@run_in_mode
async def test_e7_an_inherited_field_is_not_weakened(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "asset", schema(code="string!")))
    expect(await harness.type(project, "machine", base="asset"))
    expect(await harness.type(project, "crane", base="machine"))

    for op in E7_BREAKERS.values():
        refused(await harness.merge(await harness.change(project, op)), ErrorCode.UNPROCESSABLE, "E7")


@run_in_mode
async def test_e7_a_field_may_be_set_as_long_as_it_stays_required(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "asset", schema(code="string!")))
    expect(await harness.type(project, "crane", schema(code="string!"), base="asset"))

    await harness.merged(project, put("crane", "code", "text", required=True, label="Code"))

    (field,) = (await harness.get_type(project, "crane")).schema["fields"]
    assert (field["type"], field["label"]) == ("text", "Code")


@run_in_mode
async def test_e7_a_base_cannot_require_a_derived_optional_field(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "asset", schema(code="string")))
    expect(await harness.type(project, "machine", base="asset"))
    expect(await harness.type(project, "crane", schema(code="string"), base="machine"))

    refused(
        await harness.merge(await harness.change(project, put("asset", "code", required=True))),
        ErrorCode.UNPROCESSABLE,
        "E7",
        "'crane'",
    )
    both = put("crane", "code", required=True), put("asset", "code", required=True)
    await harness.merged(project, *both)


@run_in_mode
async def test_e7_a_derived_type_is_not_created_with_a_weaker_field(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "asset", schema(code="string!")))
    expect(await harness.type(project, "machine", base="asset"))
    before = harness.dump()

    answer = await harness.type(project, "crane", schema(code="string"), base="machine")

    refused(answer, ErrorCode.UNPROCESSABLE, "E7", "'crane'", "'code'", "'asset'")
    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_e7_what_the_same_change_lets_go_may_go(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "asset", schema(code="string!")))
    expect(await harness.type(project, "crane", schema(code="string!"), base="asset"))

    await harness.merged(project, put("asset", "code"), remove("crane", "code"))

    assert await harness.names(project, "crane") == []


# P: projects


@run_in_mode
async def test_p1_an_ops_record_type_is_in_the_changes_project(harness: Harness) -> None:
    project = await harness.job()
    expect(await harness.type(await harness.project(), "task"))
    change = await harness.change(project)
    target = await harness.target(change, "job")
    before = harness.dump()

    of_target = await harness.target(change, "task")
    of_op = await harness.op(change, add("task", "a"), target)

    refused(of_target, ErrorCode.NOT_FOUND, "'task'")
    refused(of_op, ErrorCode.NOT_FOUND, "'task'")
    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_p1_a_key_of_two_projects_means_the_changes_own(harness: Harness) -> None:
    project = await harness.job()
    other = await harness.project()
    expect(await harness.type(other, "job", schema(a="string"), name="the other job"))

    await harness.merged(project, add("job", "b"))

    assert await harness.names(project) == ["title", "hours", "b"]
    assert await harness.names(other) == ["a"]


@run_in_mode
async def test_p1_an_op_is_about_what_its_target_names(harness: Harness) -> None:
    project = await harness.job()
    expect(await harness.type(project, "task"))
    change = await harness.change(project)
    job, file = await harness.target(change, "job"), await harness.target(change, "main.py", "file")
    before = harness.dump()

    on_another = await harness.op(change, add("task", "a"), job)
    on_a_file = await harness.op(change, add("job", "a"), file)
    on_a_type = await harness.op(change, edit_file(), job)
    on_another_file = await harness.op(change, edit_file("other.py"), file)

    refused(on_another, ErrorCode.UNPROCESSABLE, "add_field task.a", "'job'")
    refused(on_a_file, ErrorCode.UNPROCESSABLE, "add_field job.a", "file")
    refused(on_a_type, ErrorCode.UNPROCESSABLE, "edit_file main.py", "record_type")
    refused(on_another_file, ErrorCode.UNPROCESSABLE, "edit_file other.py", "main.py")
    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_p1_an_op_is_added_to_a_target_of_its_change(harness: Harness) -> None:
    project = await harness.job()
    change, other = await harness.change(project), await harness.change(project)
    target = await harness.target(other, "job")

    answer = await harness.op(change, add("job", "a"), target)

    refused(answer, ErrorCode.NOT_FOUND, target.id)


@run_in_mode
async def test_p5_targets_and_ops_have_their_changes_project(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project)

    target = expect(await harness.target(change, "job"))
    given = {"change_id": change.id, "type": "record_type", "selector": {"record_type_key": "job"}}
    with_a_project = await harness.ask("changes.add_target", given | {"project_id": NOBODY})

    assert target.project_id == change.project_id == project.id
    refused(with_a_project, ErrorCode.INVALID_INPUT, "project_id")


@run_in_mode
async def test_p6_a_base_type_is_of_the_same_project(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(await harness.project(), "asset"))
    before = harness.dump()

    of_another = await harness.type(project, "crane", base="asset")
    of_none = await harness.type(project, "crane", base="nothing")

    refused(of_another, ErrorCode.NOT_FOUND, "'asset'")
    refused(of_none, ErrorCode.NOT_FOUND, "'nothing'")
    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_p6_base_types_go_round_in_no_cycle(harness: Harness) -> None:
    project = await harness.project()

    own = await harness.type(project, "crane", base="crane")
    expect(await harness.type(project, "asset"))
    expect(await harness.type(project, "crane", base="asset"))
    closing = await harness.type(project, "asset", base="crane", name="asset again")

    assert refused(own, ErrorCode.UNPROCESSABLE, "'crane'", "cycle").details["field"] == "base_type"
    refused(closing, ErrorCode.CONFLICT, "'asset'")


@run_in_mode
async def test_p6_no_record_type_becomes_an_orphan(harness: Harness) -> None:
    project = await harness.project()
    expect(await harness.type(project, "asset", schema(code="string")))
    expect(await harness.type(project, "crane", base="asset", active=True))

    expect(await harness.ask("record_types.retire", {"project_id": project.id, "key": "asset"}))

    expect(await harness.keep("crane", {"code": "1"}))
    await harness.merged(project, add("asset", "owner"))
    expect(await harness.keep("crane", {"code": "1", "owner": "ann"}))


@run_in_mode
async def test_p7_an_execution_checks_targets_and_types_again(harness: Harness) -> None:
    """The database refuses rows that were changed since, or else the execution does."""
    project, other = await harness.job(), await harness.project()
    expect(await harness.type(other, "task"))
    of_target: dict[str, Any] = {"selector": {"record_type_key": "task"}}
    of_op: dict[str, Any] = {"record_type_key": "task", "payload": add("task", "a")[1]}

    for forged_target, forged_op in ((of_target, None), (None, of_op), (of_target, of_op)):
        change = await harness.change(project)
        target = expect(await harness.target(change, "job"))
        op = expect(await harness.op(change, add("job", "a"), target))
        try:
            async with harness.backend.writing() as unit:
                if forged_target is not None:
                    await unit.rows(TARGETS).update([{"id": target.id, **forged_target}])
                if forged_op is not None:
                    await unit.rows(PATCH_OPS).update([{"id": op.id, **forged_op}])
        except (ActionError, StorageError):
            assert harness.address is not None
            continue
        assert harness.address is None
        before = harness.dump()

        error = refused(await harness.merge(change), ErrorCode.UNPROCESSABLE)

        assert error.details["op_id"] == op.id
        assert besides_the_log(before, harness.dump()) == {"ae_changes": [{"status", "updated_at"}]}


@run_in_mode
async def test_p7_a_type_of_another_project_is_not_touched(harness: Harness) -> None:
    project, other = await harness.job(), await harness.project()
    change = await harness.change(project, add("job", "a"))
    expect(await harness.type(other, "job", schema(hours="string"), name="the other job"))
    await harness.merged(other, add("job", "a"))

    expect(await harness.merge(change))

    assert await harness.names(project) == ["title", "hours", "a"]
    assert (await harness.get_type(other)).version == 2


# T5: tenants


@run_in_mode
async def test_t5_what_is_another_tenants_is_not_found(harness: Harness) -> None:
    theirs = harness.backend.other_tenant
    project = await harness.project(tenant=theirs)
    expect(await harness.type(project, "job", schema(title="string"), tenant=theirs, active=True))
    change = await harness.change(project, tenant=theirs)
    target = expect(await harness.target(change, "job", tenant=theirs))
    op = expect(await harness.op(change, add("job", "a"), target, tenant=theirs))
    own_project = await harness.job()
    own = await harness.change(own_project)
    own_target = expect(await harness.target(own, "job"))
    said = {"op_type": "add_field", "payload": add("job", "b")[1]}
    selector = {"type": "record_type", "selector": {"record_type_key": "job"}}
    of_change = ("get", "list_targets", "list_patch_ops", "preview", "execute", "merge", "list_snapshots")
    of_type = ("get", "activate", "retire", "verify_history", "check_documents")
    asked: list[tuple[str, dict[str, Any]]] = [
        ("projects.get", {"project_id": project.id}),
        ("record_types.create", {"project_id": project.id, "key": "task"}),
        ("record_types.list", {"project_id": project.id}),
        *((f"record_types.{name}", {"project_id": project.id, "key": "job"}) for name in of_type),
        ("record_types.schema_at", {"project_id": project.id, "key": "job", "change_id": own.id}),
        ("record_types.schema_at", {"project_id": own_project.id, "key": "job", "change_id": change.id}),
        ("record_types.check_documents", {"project_id": own_project.id, "key": "job", "change_id": change.id}),
        ("changes.create", {"project_id": project.id, "title": "a change"}),
        *((f"changes.{name}", {"change_id": change.id}) for name in of_change),
        ("changes.plan_compensation", {"change_id": change.id}),
        ("changes.transition", {"change_id": change.id, "status": "Implementing"}),
        ("changes.transition", {"change_id": change.id, "status": "Draft"}),
        ("changes.transition", {"change_id": change.id, "status": "Merged"}),
        ("changes.add_target", {"change_id": change.id, **selector}),
        ("changes.add_patch_op", {"change_id": change.id, "target_id": target.id, **said}),
        ("changes.add_patch_op", {"change_id": change.id, "target_id": own_target.id, **said}),
        ("changes.add_patch_op", {"change_id": own.id, "target_id": target.id, **said}),
        ("changes.delete_patch_op", {"change_id": change.id, "op_id": op.id}),
        ("changes.delete_patch_op", {"change_id": own.id, "op_id": op.id}),
    ]
    before = harness.dump()

    def anonymous(value: Any) -> Any:
        text = json.dumps(value)
        for id in (project.id, change.id, target.id, op.id):
            text = text.replace(id, NOBODY)
        return json.loads(text)

    for name, payload in asked:
        error = refused(await harness.ask(name, payload), ErrorCode.NOT_FOUND)
        as_if = refused(await harness.ask(name, anonymous(payload)), ErrorCode.NOT_FOUND)
        assert anonymous(error.to_dict()) == anonymous(as_if.to_dict()), name

    assert besides_the_log(before, harness.dump()) == {}


@run_in_mode
async def test_t5_lists_have_the_tenants_own_only(harness: Harness) -> None:
    theirs = harness.backend.other_tenant
    await harness.change(await harness.project(tenant=theirs), tenant=theirs)
    project = await harness.job()
    change = await harness.change(project)

    assert [each.id for each in await harness.ask("projects.list", {})] == [project.id]
    assert [each.id for each in await harness.ask("changes.list", {})] == [change.id]


# R1: actors


@run_in_mode
async def test_r1_an_ai_neither_approves_nor_merges(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project, add("job", "a"))
    expect(await harness.move(change, "Validating"))
    before = harness.dump()

    refused(await harness.move(change, "Ready", by=BOT), ErrorCode.FORBIDDEN)
    refused(await harness.move(change, "Merged", by=BOT), ErrorCode.FORBIDDEN)
    refused(await harness.merge(change, by=BOT), ErrorCode.FORBIDDEN)
    refused(await harness.execute_change(change, by=BOT), ErrorCode.FORBIDDEN)

    assert besides_the_log(before, harness.dump()) == {}


# G: targets and ops

CLASHES: Mapping[str, tuple[Op, Op]] = {
    "added twice": (add("job", "a"), add("job", "a", "number")),
    "added and set": (add("job", "a"), put("job", "a")),
    "added and removed": (add("job", "a"), remove("job", "a")),
    "set twice": (put("job", "hours"), put("job", "hours", "text")),
    "set and removed": (put("job", "hours"), remove("job", "hours")),
    "renamed twice": (rename("job", "hours", "time"), rename("job", "hours", "span")),
    "renamed and set by its old name": (rename("job", "hours", "time"), put("job", "hours")),
    "removed and renamed": (remove("job", "hours"), rename("job", "hours", "time")),
    "renamed onto one that is added": (add("job", "time"), rename("job", "hours", "time")),
    "added under the name that a rename gives": (rename("job", "hours", "time"), add("job", "time")),
    "two renamed to one": (rename("job", "hours", "time"), rename("job", "title", "time")),
}


@pytest.mark.parametrize("ops", CLASHES.values(), ids=CLASHES)
@run_in_mode
async def test_g1_two_pending_ops_on_the_same_field_are_a_conflict(harness: Harness, ops: tuple[Op, Op]) -> None:
    change = await harness.change(await harness.job())
    first = expect(await harness.op(change, ops[0]))
    before = harness.dump()

    answer = await harness.op(change, ops[1])

    error = refused(answer, ErrorCode.CONFLICT, ops[1][0], first.id)
    assert error.details["op_id"] == first.id
    assert besides_the_log(before, harness.dump()) == {}


ALLOWED: Mapping[str, tuple[Op, Op]] = {
    "set under the name that an earlier rename gives": (rename("job", "hours", "time"), put("job", "time", "text")),
    "added where another was renamed away": (add("job", "a"), rename("job", "hours", "time")),
    "two fields": (put("job", "title", required=True), put("job", "hours")),
}


@pytest.mark.parametrize("ops", ALLOWED.values(), ids=ALLOWED)
@run_in_mode
async def test_g1_ops_on_other_fields_are_none(harness: Harness, ops: tuple[Op, Op]) -> None:
    project = await harness.job()

    change = await harness.change(project, *ops)

    assert expect(await harness.merge(change)).applied_count == 2


@run_in_mode
async def test_g1_a_field_of_another_type_or_change_is_another_field(harness: Harness) -> None:
    project = await harness.job()
    expect(await harness.type(project, "task"))

    await harness.change(project, add("job", "a"), add("task", "a"))
    await harness.change(project, add("job", "a"))


@run_in_mode
async def test_g1_an_op_that_is_deleted_or_executed_is_in_nobodys_way(harness: Harness) -> None:
    project = await harness.job()
    change = await harness.change(project)
    first = expect(await harness.op(change, add("job", "a")))

    expect(await harness.delete_op(change, first))
    expect(await harness.op(change, add("job", "a", "number")))
    expect(await harness.execute_change(change))
    expect(await harness.op(change, put("job", "a", "text")))

    assert expect(await harness.merge(change)).applied_count == 1


@pytest.mark.parametrize("status", STATUSES)
@run_in_mode
async def test_g2_targets_are_added_in_draft_only(harness: Harness, status: str) -> None:
    change = await harness.change(await harness.job())
    await harness.move(change, *WAYS[status])
    assert await harness.status(change) == status
    before = harness.dump()

    answer = await harness.target(change, "job")

    if status == "Draft":
        expect(answer)
        return
    refused(answer, ErrorCode.CONFLICT, status)
    assert besides_the_log(before, harness.dump()) == {}


@pytest.mark.parametrize("status", STATUSES)
@run_in_mode
async def test_g2_ops_are_added_and_deleted_during_work(harness: Harness, status: str) -> None:
    change = await harness.change(await harness.job(), add("job", "a"))
    (op,) = await harness.ops(change)
    await harness.move(change, *WAYS[status])
    assert await harness.status(change) == status
    before = harness.dump()

    answers = await harness.op(change, add("job", "b")), await harness.delete_op(change, op)

    if status in ACCEPTS_OPS:
        assert [expect(answer).op_type for answer in answers] == ["add_field", "add_field"]
        return
    for answer in answers:
        refused(answer, ErrorCode.CONFLICT)
    assert besides_the_log(before, harness.dump()) == {}
