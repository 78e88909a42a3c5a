"""Bad input gets the right error code and a message that names the op and the field, and nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from uuid_utils import uuid7

from actionengine import ActionError, ErrorCode
from actionengine.testing import run_in_mode
from tests.changes.harness import Harness, Op, add, besides_the_log, edit_file, fields_of, put, remove, rename, schema
from tests.harness import expect, refused

in_memory = pytest.mark.parametrize("shared_backend", ["memory-async"], indirect=True, scope="module")
"""For input that is refused before the storage sees it."""
on_each_storage = pytest.mark.parametrize(
    "shared_backend", ["memory-async", "sqlite-sync", "postgres-async"], indirect=True, scope="module"
)

INVALID, NOT_FOUND, CONFLICT = ErrorCode.INVALID_INPUT, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT
NO_ID = (str(uuid7()), "", "x" * 200, "größe", "'; DROP TABLE ae_changes; --")
"""Ids that no row has."""
UNSTORABLE = ("a\0b", "\ud800")
"""Texts that no storage can keep."""
WRONG = (None, 7, True, ["job"], {"id": "job"})
"""Values that are no texts."""
DIFF = "--- a/main.py\n+++ b/main.py\n@@ -1 +1 @@\n-one\n+two\n"


class Scene(NamedTuple):
    """A project with the active type `job`, and a draft with a target and an op."""

    harness: Harness
    project: Any
    change: Any
    target: Any
    op: Any

    async def asked(self, name: str, payload: Any) -> ActionError:
        """Return the error of an action, which must have written nothing but its row of the log."""
        before = self.harness.dump()
        answer = await self.harness.ask(name, payload)
        assert isinstance(answer, ActionError), (name, payload, answer)
        after = self.harness.dump()
        assert besides_the_log(before, after) == {}, (name, payload)
        assert len(after["ae_action_log"]) == len(before["ae_action_log"]) + 1
        return answer

    async def all_of(self, name: str, payloads: Sequence[Any], *codes: ErrorCode) -> None:
        """Assert that each payload is refused with one of these codes, and only rows of the log are written."""
        before = self.harness.dump()
        for payload in payloads:
            answer = await self.harness.ask(name, payload)
            assert isinstance(answer, ActionError), (name, payload, answer)
            assert answer.code in codes, (name, str(payload)[:200], answer)
            assert answer.to_dict()
        after = self.harness.dump()
        assert besides_the_log(before, after) == {}
        assert len(after["ae_action_log"]) == len(before["ae_action_log"]) + len(payloads)


async def scene(harness: Harness) -> Scene:
    project = await harness.job()
    change = await harness.change(project)
    target = expect(await harness.target(change, "job"))
    return Scene(harness, project, change, target, expect(await harness.op(change, add("job", "a"), target)))


def valid(set: Scene) -> Mapping[str, dict[str, Any]]:
    """Return a valid payload for each action."""
    project, change = {"project_id": set.project.id}, {"change_id": set.change.id}
    job = {**project, "key": "job"}
    return {
        "projects.create": {"name": "another"},
        "projects.get": project,
        "projects.list": {},
        "record_types.create": {**project, "key": "task", "schema": schema(a="string")},
        "record_types.get": job,
        "record_types.list": project,
        "record_types.activate": job,
        "record_types.retire": job,
        "record_types.schema_at": {**job, "at": "2999-01-01T00:00:00Z"},
        "record_types.verify_history": job,
        "record_types.check_documents": job,
        "changes.create": {**project, "title": "a change"},
        "changes.get": change,
        "changes.list": {},
        "changes.add_target": {**change, "type": "record_type", "selector": {"record_type_key": "job"}},
        "changes.list_targets": change,
        "changes.add_patch_op": {
            **change,
            "target_id": set.target.id,
            "op_type": "add_field",
            "payload": add("job", "b")[1],
        },
        "changes.list_patch_ops": change,
        "changes.delete_patch_op": {**change, "op_id": set.op.id},
        "changes.transition": {**change, "status": "Implementing"},
        "changes.preview": change,
        "changes.execute": change,
        "changes.merge": change,
        "changes.list_snapshots": change,
        "changes.plan_compensation": change,
        "changes.write_files": change,
        "changes.start_workspace": change,
        "changes.stop_workspace": change,
        "changes.workspace": change,
    }


# Every action


@in_memory
@run_in_mode
async def test_what_is_no_object_is_invalid(harness: Harness) -> None:
    set = await scene(harness)

    for name in valid(set):
        await set.all_of(name, [None, 7, ["x"]], INVALID)


@in_memory
@run_in_mode
async def test_keys_that_are_not_known_are_invalid(harness: Harness) -> None:
    set = await scene(harness)

    for name, payload in valid(set).items():
        for extra in ("tenant_id", "größe"):
            error = refused(await set.harness.ask(name, {**payload, extra: "x"}), INVALID)
            assert extra in error.message or extra in str(error.details), (name, error)


@in_memory
@run_in_mode
async def test_fields_that_are_missing_are_invalid_and_named(harness: Harness) -> None:
    set = await scene(harness)
    optional = {"schema", "at", "target_id"}

    for name, payload in valid(set).items():
        for field in payload.keys() - optional:
            refused(await set.asked(name, {key: payload[key] for key in payload if key != field}), INVALID, field)
    refused(
        await set.asked("record_types.schema_at", {"project_id": set.project.id, "key": "job"}),
        INVALID,
        "change_id or at",
    )


@on_each_storage
@run_in_mode
async def test_ids_that_nothing_has_are_not_found(harness: Harness) -> None:
    set = await scene(harness)

    for name, payload in valid(set).items():
        for field in payload.keys() & {"project_id", "change_id", "target_id", "op_id"}:
            await set.all_of(name, [{**payload, field: id} for id in NO_ID], NOT_FOUND)
            await set.all_of(name, [{**payload, field: "x" * 10_000}], INVALID)


@in_memory
@run_in_mode
async def test_ids_that_are_no_texts_are_invalid(harness: Harness) -> None:
    set = await scene(harness)

    for name, payload in valid(set).items():
        for field in payload.keys() & {"project_id", "change_id", "target_id", "op_id", "key"}:
            wrongs = [wrong for wrong in WRONG if wrong is not None or field != "target_id"]
            await set.all_of(name, [{**payload, field: wrong} for wrong in wrongs], INVALID)


@on_each_storage
@run_in_mode
async def test_texts_that_no_storage_keeps_are_refused(harness: Harness) -> None:
    set = await scene(harness)

    for name, payload in valid(set).items():
        for field, value in payload.items():
            if isinstance(value, str):
                await set.all_of(name, [{**payload, field: text} for text in UNSTORABLE], INVALID, NOT_FOUND)


@in_memory
@run_in_mode
async def test_payloads_that_are_huge_or_deep_are_invalid(harness: Harness) -> None:
    set = await scene(harness)
    deep: Any = "deep"
    for _ in range(100):
        deep = [deep]
    deeper: Any = {}
    for _ in range(100_000):
        deeper = {"a": deeper}

    for name, payload in valid(set).items():
        await set.all_of(name, [{**payload, "more": each} for each in ("x" * 2_000_000, deep, deeper)], INVALID)
    definitions = [{"type": "string", "label": each} for each in ("x" * 2_000_000, deep)]
    op = valid(set)["changes.add_patch_op"]
    payloads = [{**op, "payload": {**op["payload"], "definition": each}} for each in definitions]
    await set.all_of("changes.add_patch_op", payloads, INVALID)


@on_each_storage
@run_in_mode
async def test_pages_have_1_to_1000_items_and_a_valid_cursor(harness: Harness) -> None:
    set = await scene(harness)
    lists = ("projects.list", "record_types.list", "changes.list", "changes.list_targets", "changes.list_patch_ops")

    for name in (*lists, "record_types.check_documents"):
        payload = valid(set)[name]
        limits = (0, -1, 1001, 10**30, "all", None, 1.5)
        await set.all_of(name, [{**payload, "limit": each} for each in limits], INVALID)
        afters: list[Any] = [[], {}, 1.5]
        await set.all_of(name, [{**payload, "after": each} for each in afters], INVALID)
    ops = valid(set)["changes.list_patch_ops"]
    wrong = ("first", -1, 2**31, 2**63, 10**30, -(10**30))
    await set.all_of("changes.list_patch_ops", [{**ops, "after": each} for each in wrong], INVALID)
    assert await harness.ask("changes.list_patch_ops", {**ops, "after": 2**31 - 1}) == ()


# Projects and record types


@in_memory
@run_in_mode
async def test_names_and_titles_have_1_to_200_characters(harness: Harness) -> None:
    set = await scene(harness)
    wrong = ["", "x" * 201, *WRONG]

    await set.all_of("projects.create", [{"name": each} for each in wrong], INVALID)
    await set.all_of("projects.create", [{"name": "x", "require_review": each} for each in (None, "maybe", 7)], INVALID)
    await set.all_of("projects.create", [{"name": "x", "description": each} for each in (None, "x" * 10_001)], INVALID)
    change = {"project_id": set.project.id}
    await set.all_of("changes.create", [{**change, "title": each} for each in wrong], INVALID)
    plan = valid(set)["changes.plan_compensation"]
    await set.all_of("changes.plan_compensation", [{**plan, "title": each} for each in wrong if each], INVALID)


@in_memory
@run_in_mode
async def test_keys_are_plain_names_that_are_not_the_librarys(harness: Harness) -> None:
    set = await scene(harness)
    create = valid(set)["record_types.create"]
    wrong = ["", " ", " job", "job ", "a\nb", "a\tb", "\u200b", "a\u202eb", "x" * 101, "ae_approvals", "ae_", "a\x7f"]

    await set.all_of("record_types.create", [{**create, "key": each} for each in (*wrong, *UNSTORABLE)], INVALID)
    await set.all_of("record_types.create", [{**create, "base_type": each} for each in ("", " ", 7)], INVALID)


@pytest.mark.parametrize("name", ["größe", "値段 🏗", "a.b", "a'b", 'a"b\\', "__class__", "model_config", "$.x", "%s"])
@on_each_storage
@run_in_mode
async def test_names_may_be_any_printable_text(harness: Harness, name: str) -> None:
    project = await harness.project()
    expect(await harness.type(project, name, schema(**{name: "string!"}), active=True))
    await harness.merged(project, add(name, f"{name}2", "number"))

    id = expect(await harness.keep(name, {name: "x", f"{name}2": 1}))
    error = refused(await harness.keep(name, {f"{name}2": 1}), INVALID, f"{name}: Field required")

    assert await harness.ask("host.read", {"type": name, "id": id}) == {name: "x", f"{name}2": 1}
    assert fields_of(error) == [name]
    await harness.merged(project, rename(name, name, f"{name}3"))
    assert await harness.names(project, name) == [f"{name}3", f"{name}2"]
    assert (await harness.history(project, name)).is_intact


@in_memory
@run_in_mode
async def test_schemas_of_the_wrong_shape_are_invalid(harness: Harness) -> None:
    set = await scene(harness)
    field = {"name": "a", "type": "string"}
    fields: list[Any] = [
        [field, field],
        [{"name": "a"}],
        [{"type": "string"}],
        [{**field, "name": ""}],
        [{**field, "name": 7}],
        [{**field, "name": "a\0"}],
        [{**field, "required": "perhaps"}],
        [{**field, "required": None}],
        [{**field, "type": "money"}],
        [{**field, "choices": ["a"]}],
        [{**field, "type": "choice", "choices": []}],
        [{**field, "type": "choice", "choices": "ab"}],
        [{**field, "type": "choice", "choices": [1]}],
        [{**field, "label": "a\0"}],
        [{**field, "a\0": "label"}],
        ["a"],
        [None],
        {"a": "string"},
        "a",
        None,
    ]
    schemas: list[Any] = [*({"fields": each} for each in fields), None, [], "schema", {"fields": [], "more": 1}]
    create = valid(set)["record_types.create"]

    await set.all_of("record_types.create", [{**create, "schema": each} for each in schemas], INVALID)


@on_each_storage
@run_in_mode
async def test_times_are_times_with_a_zone(harness: Harness) -> None:
    set = await scene(harness)
    job = {"project_id": set.project.id, "key": "job"}

    wrong: list[Any] = ["", "yesterday", "2024-01-01T00:00:00", [], {}, True, "99999-01-01T00:00:00Z"]
    await set.all_of("record_types.schema_at", [{**job, "at": each} for each in wrong], INVALID)
    both = {**job, "at": "2024-01-01T00:00:00Z", "change_id": set.change.id}
    refused(await set.asked("record_types.schema_at", both), INVALID, "either")
    for early in ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00Z"):
        refused(await set.asked("record_types.schema_at", {**job, "at": early}), NOT_FOUND, "'job'")
    for late in ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00"):
        assert expect(await harness.ask("record_types.schema_at", {**job, "at": late})).version == 1


@in_memory
@run_in_mode
async def test_states_are_those_that_there_are(harness: Harness) -> None:
    set = await scene(harness)
    wrong = ["", "draft", "MERGED", "Approved", None, 7, ["Draft"], "Draft\0"]

    await set.all_of("changes.transition", [{"change_id": set.change.id, "status": each} for each in wrong], INVALID)
    await set.all_of("changes.list", [{"status": each} for each in wrong if each is not None], INVALID)
    types = {"project_id": set.project.id}
    await set.all_of("record_types.list", [{**types, "status": each} for each in ("Active", 7, "merged")], INVALID)


# Ops


@in_memory
@run_in_mode
async def test_an_op_type_is_one_that_is_known(harness: Harness) -> None:
    set = await scene(harness)
    op = valid(set)["changes.add_patch_op"]

    wrong = ["", "addField", "ADD_FIELD", "drop_table", None, 7, ["add_field"]]
    await set.all_of("changes.add_patch_op", [{**op, "op_type": each} for each in wrong], INVALID)
    payloads: list[Any] = [None, [], "x", 7]
    await set.all_of("changes.add_patch_op", [{**op, "payload": each} for each in payloads], INVALID)


OPS: Mapping[str, dict[str, Any]] = {
    "add_field": add("job", "b")[1],
    "set_field": put("job", "title")[1],
    "remove_field": remove("job", "title")[1],
    "rename_field": rename("job", "title", "name")[1],
    "edit_file": edit_file()[1],
}


@pytest.mark.parametrize("op_type", OPS)
@in_memory
@run_in_mode
async def test_a_payload_has_every_field_of_its_op_type_and_no_other(harness: Harness, op_type: str) -> None:
    set = await scene(harness)
    right = OPS[op_type]
    op = {"change_id": set.change.id, "target_id": set.target.id, "op_type": op_type}

    for field in right:
        missing = {key: value for key, value in right.items() if key != field}
        error = refused(await set.asked("changes.add_patch_op", {**op, "payload": missing}), INVALID, op_type, field)
        assert error.details["op_type"] == op_type
        assert [refused["path"] for refused in error.details["fields"]] == [field]
        values: list[Any] = [None, 7, [], "", "\0", "x" * 20_000]
        for wrong in values:
            payload = {**op, "payload": {**right, field: wrong}}
            refused(await set.asked("changes.add_patch_op", payload), INVALID, op_type, field)
    refused(await set.asked("changes.add_patch_op", {**op, "payload": {**right, "more": 1}}), INVALID, op_type, "more")


@in_memory
@run_in_mode
async def test_definitions_of_the_wrong_shape_are_invalid(harness: Harness) -> None:
    set = await scene(harness)
    wrong: list[Op] = [
        add("job", "b", "money"),
        add("job", "b", required="perhaps"),
        add("job", "b", required=None),
        add("job", "b", choices=["a"]),
        add("job", "b", "choice", choices=[]),
        add("job", "b", "choice", choices=[None]),
        add("job", "b", name="c"),
        add("job", "b", label="a\0"),
        add("job", "b", before="b"),
        add("job", "b", before=""),
        add("job", "b", before=7),
        add("job", "b", override="perhaps"),
        put("job", "title", name="c"),
        put("job", "title", override=True),
        put("job", "title", before="title"),
        rename("job", "title", "title"),
        rename("job", "title", " name"),
        rename("job", "title", "a\u202eb"),
    ]

    for op_type, payload in wrong:
        given = {"change_id": set.change.id, "target_id": set.target.id, "op_type": op_type, "payload": payload}
        error = refused(await set.asked("changes.add_patch_op", given), INVALID)
        assert op_type in error.message or "u0000" in error.message, error


@pytest.mark.parametrize(
    "diff",
    [
        "not a diff",
        "",
        "--- a/main.py\n+++ b/main.py\n",
        "--- a/main.py\n+++ b/main.py\n@@ -1 +1 @@\n one\n",
        "--- a/main.py\n+++ b/main.py\n@@ -1,5 +1 @@\n-one\n+two\n",
        "@@ -1 +1 @@\n-one\n+two\n",
        DIFF + DIFF.replace("main", "other"),
        DIFF + "\0",
        {"old": "one", "new": "two"},
        None,
    ],
)
@in_memory
@run_in_mode
async def test_a_diff_is_one_of_one_file_that_changes_something(harness: Harness, diff: Any) -> None:
    set = await scene(harness)
    target = expect(await harness.target(set.change, "main.py", "file"))
    op = {"change_id": set.change.id, "target_id": target.id, "op_type": "edit_file"}

    answer = await set.asked("changes.add_patch_op", {**op, "payload": {"file_path": "main.py", "diff": diff}})

    error = refused(answer, INVALID)
    assert ("edit_file" in error.message and "diff" in error.message) or "u0000" in error.message, error


# Well-formed input that is wrong


@in_memory
@run_in_mode
async def test_an_op_on_a_target_of_another_type_is_unprocessable(harness: Harness) -> None:
    set = await scene(harness)
    targets = [expect(await harness.target(set.change, "job", type)) for type in ("form", "workflow", "rule", "script")]
    before = harness.dump()

    for target in targets:
        answer = await harness.op(set.change, add("job", "b"), target)
        error = refused(answer, ErrorCode.UNPROCESSABLE, "add_field job.b", target.type)
        assert (error.details["op_type"], error.details["field"]) == ("add_field", "b")

    assert besides_the_log(before, harness.dump()) == {}


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (rename("job", "hours", "title"), "'title' exists already"),
        (add("job", "title"), "'title' exists already"),
        (put("job", "nothing"), "there is no field 'nothing'"),
        (remove("job", "nothing"), "there is no field 'nothing'"),
        (rename("job", "nothing", "b"), "there is no field 'nothing'"),
        (add("job", "b", before="nothing"), "there is no field 'nothing'"),
        (put("job", "title", before="nothing"), "there is no field 'nothing'"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else None,
)
@in_memory
@run_in_mode
async def test_the_error_of_an_op_names_its_field_and_the_reason(harness: Harness, op: Op, reason: str) -> None:
    set = await scene(harness)
    bad = expect(await harness.op(set.change, op, set.target))

    for name in ("changes.preview", "changes.execute"):
        error = refused(await set.asked(name, {"change_id": set.change.id}), ErrorCode.UNPROCESSABLE, op[0], reason)
        assert error.details["op_id"] == bad.id
        assert error.details["field"] == (op[1].get("field") or op[1]["old_name"])
