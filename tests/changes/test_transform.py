"""Ops applied to record types: equal results each time, and no side effects."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actionengine.changes.diff import TypeDiff, diff_schemas
from actionengine.changes.ops import PatchOp, parse_op
from actionengine.changes.transform import OpRefused, apply_op, edit, transform
from actionengine.changes.type_graph import GraphError, RecordTypeState, TypeGraph, check_graph
from actionengine.schemas.schema import Field, Schema
from tests.changes.strategies import applied, changed_graphs, changes, graphs, ops_on

thorough = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

Changed = tuple[TypeGraph, tuple[PatchOp, ...]]


@thorough
@given(changed_graphs(), st.data())
def test_ops_give_equal_schemas_in_one_change_or_several(changed: Changed, data: st.DataObject) -> None:
    graph, ops = changed
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ops)), max_size=3)))
    parts = [ops[start:end] for start, end in zip([0, *cuts], [*cuts, len(ops)], strict=True)]

    in_parts = graph
    for part in parts:
        in_parts = applied(in_parts, part)

    assert in_parts.schemas == transform(graph, ops).schemas


@thorough
@given(changed_graphs())
def test_a_transform_is_pure(changed: Changed) -> None:
    graph, ops = changed
    schemas, documents, sent = graph.schemas, copy.deepcopy(documents_of(graph)), copy.deepcopy(ops)

    first, second = transform(graph, ops), transform(graph, ops)

    assert first == second
    assert ops == sent
    assert documents_of(graph) == documents
    assert all(graph.schemas[key] is schema for key, schema in schemas.items())


@thorough
@given(changed_graphs())
def test_what_no_op_is_about_is_shared(changed: Changed) -> None:
    graph, ops = changed
    result = transform(graph, ops)
    touched = {op.record_type for op in ops}
    for key, schema in graph.schemas.items():
        if key not in touched:
            assert result.schemas[key] is schema
        names = {name for op in ops if op.record_type == key for name in op.affected_fields}
        for field in schema:
            assert field.name in names or result.schemas[key].get(field.name) is field


@thorough
@given(changed_graphs())
def test_a_replay_from_the_first_schemas_gives_each_step(changed: Changed) -> None:
    graph, ops = changed
    result = transform(graph, ops)
    schemas = graph.schemas
    assert tuple(step.op for step in result.steps) == ops
    for step in result.steps:
        key = step.op.record_type or ""
        assert schemas[key] == step.before
        schemas[key] = edit(step.op, schemas[key])
    assert schemas == result.schemas


@thorough
@given(graphs(), st.data())
def test_an_op_is_accepted_exactly_where_the_rules_let_it(graph: TypeGraph, data: st.DataObject) -> None:
    schemas = graph.schemas
    for _ in range(data.draw(st.integers(1, 10))):
        op = data.draw(ops_on(schemas))
        key = op.record_type or ""
        if not is_permitted(graph, op, schemas):
            with pytest.raises(OpRefused):
                apply_op(graph, op, schemas)
            continue
        before, schemas = schemas, {**schemas, key: edit(op, schemas[key])}
        if is_sound(graph, schemas):
            assert apply_op(graph, op, before) == schemas[key]
            continue
        with pytest.raises(OpRefused, match="E7"):
            apply_op(graph, op, before)
        schemas = before


def is_permitted(graph: TypeGraph, op: PatchOp, schemas: Mapping[str, Schema]) -> bool:
    """Return whether an op edits fields of its own type, and respects the fields that ancestors have or require."""
    key = op.record_type or ""
    own = {field.name for field in schemas[key]}
    inherited = [field for base in graph.ancestors(key) for field in schemas[base]]
    declared = {field.name for field in inherited}
    required = {field.name for field in inherited if field.required}
    if op.op_type == "add_field":
        return op.resulting_field not in own | required and (
            op.payload["override"] or op.resulting_field not in declared
        )
    if op.op_type == "set_field":
        return op.field in own and (op.field not in required or bool(op.payload["definition"].get("required")))
    if op.op_type == "remove_field":
        return op.field in own - required
    return op.field in own - required and op.resulting_field not in own | declared


def is_sound(graph: TypeGraph, schemas: Mapping[str, Schema]) -> bool:
    try:
        check_graph(graph, schemas)
    except GraphError:
        return False
    return True


def documents_of(graph: TypeGraph) -> dict[str, Any]:
    return {key: schema.document() for key, schema in graph.schemas.items()}


# Differences


@thorough
@given(changed_graphs(), st.data())
def test_a_difference_leads_from_one_schema_to_the_other(changed: Changed, data: st.DataObject) -> None:
    graph, first = changed
    between = applied(graph, first)
    ops = (*first, *data.draw(changes(between)))
    after = transform(graph, ops).schemas
    for key, before in graph.schemas.items():
        diff = diff_schemas(key, 7, before, after[key], ops)
        assert (diff.record_type_key, diff.from_version, diff.to_version) == (key, 7, 8)
        assert patched({field.name: field.definition for field in before}, diff) == {
            field.name: field.definition for field in after[key]
        }


def patched(fields: dict[str, Any], diff: TypeDiff) -> dict[str, Any]:
    for definition in diff.removed:
        assert fields.pop(str(definition["name"])) == definition
    renamed = {rename.new_name: fields.pop(rename.old_name) for rename in diff.renamed}
    assert not renamed.keys() & fields.keys()
    fields |= {name: {**definition, "name": name} for name, definition in renamed.items()}
    for change in diff.changed:
        assert fields[change.field] == {**change.before, "name": change.field}
        assert change.after != fields[change.field]
        fields[change.field] = change.after
    for definition in diff.added:
        assert definition["name"] not in fields
        fields[str(definition["name"])] = definition
    return fields


def schema(*names: str, required: Sequence[str] = ()) -> Schema:
    return Schema(tuple(Field.of(name, {"type": "string", "required": name in required}) for name in names))


def state(key: str, base: str | None, fields: Schema, project: str = "plant") -> RecordTypeState:
    return RecordTypeState(key, project, base, 1, fields)


def add(key: str, field: str, required: bool = False, **more: Any) -> PatchOp:
    definition = {"type": "string", "required": required}
    return parse_op("add_field", {"record_type": key, "field": field, "definition": definition, **more})


def put(key: str, field: str, type: str = "string", required: bool = False, **more: Any) -> PatchOp:
    definition = {"type": type, "required": required}
    return parse_op("set_field", {"record_type": key, "field": field, "definition": definition, **more})


def remove(key: str, field: str) -> PatchOp:
    return parse_op("remove_field", {"record_type": key, "field": field})


def rename(key: str, old: str, new: str) -> PatchOp:
    return parse_op("rename_field", {"record_type": key, "old_name": old, "new_name": new})


def difference_of(before: Schema, *ops: PatchOp) -> TypeDiff:
    return diff_schemas("job", 1, before, transform(TypeGraph([state("job", None, before)]), ops).schemas["job"], ops)


def renames_in(diff: TypeDiff) -> set[tuple[str, str]]:
    return {(rename.old_name, rename.new_name) for rename in diff.renamed}


def test_a_field_that_was_renamed_twice_was_renamed_once() -> None:
    diff = difference_of(schema("a"), rename("job", "a", "b"), rename("job", "b", "c"))
    assert renames_in(diff) == {("a", "c")}
    assert (diff.added, diff.removed, diff.changed) == ((), (), ())


def test_a_field_that_was_renamed_there_and_back_was_not() -> None:
    diff = difference_of(schema("a"), rename("job", "a", "b"), rename("job", "b", "a"))
    assert diff == TypeDiff(record_type_key="job", from_version=1, to_version=2)


def test_names_that_were_swapped_are_two_renames() -> None:
    swap = (rename("job", "a", "c"), rename("job", "b", "a"), rename("job", "c", "b"))
    diff = difference_of(schema("a", "b"), *swap)
    assert renames_in(diff) == {("a", "b"), ("b", "a")}
    assert (diff.added, diff.removed, diff.changed) == ((), (), ())


def test_a_field_can_be_renamed_and_changed() -> None:
    diff = difference_of(schema("a"), rename("job", "a", "b"), put("job", "b", "number"))
    assert renames_in(diff) == {("a", "b")}
    ((change),) = diff.changed
    assert (change.field, change.before["name"], change.after["type"]) == ("b", "a", "number")


def test_a_field_that_was_added_and_renamed_was_added() -> None:
    diff = difference_of(schema(), add("job", "a"), rename("job", "a", "b"))
    assert [field["name"] for field in diff.added] == ["b"]
    assert not diff.renamed


def test_a_field_that_was_renamed_and_removed_was_removed() -> None:
    diff = difference_of(schema("a"), rename("job", "a", "b"), remove("job", "b"))
    assert [field["name"] for field in diff.removed] == ["a"]
    assert not diff.renamed


def test_a_field_that_replaces_a_removed_one_is_another() -> None:
    diff = difference_of(schema("a"), remove("job", "a"), add("job", "a"))
    assert [field["name"] for field in diff.removed] == ["a"]
    assert [field["name"] for field in diff.added] == ["a"]


def test_ops_of_other_types_count_for_nothing() -> None:
    diff = diff_schemas("job", 1, schema("a"), schema("a"), [remove("person", "a")])
    assert diff == TypeDiff(record_type_key="job", from_version=1, to_version=2)


# Ops

FAMILY = TypeGraph(
    [
        state("thing", None, schema("code", "note", required=["code"])),
        state("job", "thing", schema("title", "date")),
        state("repair", "job", schema("code", "note", "part", required=["code"])),
        state("person", None, schema("name")),
    ]
)


def names_after(*ops: PatchOp, key: str = "job", graph: TypeGraph = FAMILY) -> list[str]:
    return [field.name for field in transform(graph, ops).schemas[key]]


def test_a_field_is_added_at_the_end_or_before_another_one() -> None:
    assert names_after(add("job", "place")) == ["title", "date", "place"]
    assert names_after(add("job", "place", before="date")) == ["title", "place", "date"]


def test_a_field_keeps_its_place_unless_it_is_given_one() -> None:
    assert names_after(put("job", "title", "number")) == ["title", "date"]
    assert names_after(put("job", "date", before="title")) == ["date", "title"]
    assert names_after(rename("job", "title", "heading")) == ["heading", "date"]


def test_what_a_new_definition_leaves_out_is_gone() -> None:
    labelled = Schema((Field.of("a", {"type": "string", "required": True, "label": "A"}),))
    graph = TypeGraph([state("job", None, labelled)])
    op = parse_op("set_field", {"record_type": "job", "field": "a", "definition": {"type": "number"}})

    assert transform(graph, [op]).schemas["job"].document() == {
        "fields": [{"name": "a", "type": "number", "required": False}]
    }


def test_a_new_name_leaves_the_definition_as_it_is() -> None:
    labelled = Schema((Field.of("a", {"type": "string", "required": True, "label": "A"}),))
    graph = TypeGraph([state("job", None, labelled)])

    assert transform(graph, [rename("job", "a", "b")]).schemas["job"].document() == {
        "fields": [{"name": "b", "type": "string", "required": True, "label": "A"}]
    }


def test_a_required_field_may_be_set_if_it_stays_required() -> None:
    changed = transform(FAMILY, [put("repair", "code", "number", required=True)]).schemas["repair"].get("code")
    assert changed is not None
    assert changed.type == "number"


def test_a_field_may_hide_an_inherited_one_that_says_so() -> None:
    assert names_after(add("job", "note", override=True)) == ["title", "date", "note"]


def test_a_field_that_hides_an_inherited_one_may_go() -> None:
    assert names_after(remove("repair", "note"), key="repair") == ["code", "part"]


def test_a_type_inherits_fields_as_the_nearest_declares_them() -> None:
    effective = FAMILY.effective("repair", FAMILY.schemas)
    assert [field.name for field in effective] == ["code", "note", "title", "date", "part"]
    assert effective.get("note") is FAMILY.types["repair"].schema.get("note")


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (add("job", "title"), "the field 'title' exists already"),
        (add("job", "place", before="time"), "there is no field 'time' to place it before"),
        (add("job", "note"), "the base type 'thing' has the field 'note' already"),
        (add("job", "code"), "the base type 'thing' requires the field 'code': choose another name"),
        (
            add("job", "code", True, override=True),
            "the base type 'thing' requires the field 'code': choose another name",
        ),
        (put("job", "place"), "there is no field 'place'"),
        (put("job", "title", before="time"), "there is no field 'time' to place it before"),
        (put("job", "note"), "'note' is a field of the base type 'thing': change it there"),
        (put("job", "code", required=True), "'code' is a field of the base type 'thing': change it there"),
        (
            put("repair", "code"),
            "E7: the base type 'thing' requires the field 'code': set required: true",
        ),
        (remove("job", "place"), "there is no field 'place'"),
        (remove("job", "note"), "'note' is a field of the base type 'thing': change it there"),
        (remove("repair", "code"), "E7: the base type 'thing' requires the field 'code'"),
        (rename("job", "place", "site"), "there is no field 'place'"),
        (rename("job", "title", "date"), "the field 'date' exists already"),
        (rename("job", "title", "note"), "the base type 'thing' has the field 'note' already"),
        (rename("job", "title", "code"), "the base type 'thing' requires the field 'code': choose another name"),
        (rename("repair", "code", "number"), "E7: the base type 'thing' requires the field 'code'"),
        (
            put("thing", "note", required=True),
            "E7: the derived type 'repair' does not require the field 'note'",
        ),
        (
            add("thing", "part", required=True),
            "E7: the derived type 'repair' does not require the field 'part'",
        ),
        (
            rename("thing", "code", "part"),
            "E7: the derived type 'repair' does not require the field 'part'",
        ),
        (add("site", "a"), "there is no record type 'site' in the project of the change"),
    ],
    ids=str,
)
def test_an_op_is_refused_with_the_reason(op: PatchOp, reason: str) -> None:
    with pytest.raises(OpRefused) as raised:
        transform(FAMILY, [add("person", "age"), op])
    assert raised.value.op is op
    assert raised.value.reason == reason
    assert str(raised.value) == f"{op}: {reason}"


def test_a_file_is_not_edited_here() -> None:
    diff = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"
    with pytest.raises(OpRefused, match="edit_file x: the op edits a file"):
        transform(FAMILY, [parse_op("edit_file", {"file_path": "x", "diff": diff})])


# Graphs


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ([state("a", "b", schema())], "the base type 'b' of 'a' does not exist"),
        ([state("c", "a", schema()), state("a", "b", schema())], "the base type 'b' of 'a' does not exist"),
        (
            [state("a", "b", schema()), state("b", None, schema(), project="yard")],
            "the base type 'b' of 'a' is of another project",
        ),
        ([state("a", "a", schema())], "the base types of 'a' form a cycle: a → a"),
        (
            [
                state("d", "a", schema()),
                state("a", "b", schema()),
                state("b", "c", schema()),
                state("c", "a", schema()),
            ],
            "the base types of 'a' form a cycle: a → b → c → a",
        ),
        ([state("a", None, schema("x", "y", "x"))], "'a' has the field 'x' twice"),
        (
            [
                state("a", None, schema("x", required=["x"])),
                state("b", "a", schema()),
                state("c", "b", schema("x")),
            ],
            "E7: 'c' does not require the field 'x', which its base type 'a' requires",
        ),
    ],
)
def test_types_that_do_not_hang_together_are_refused(types: list[RecordTypeState], message: str) -> None:
    graph = TypeGraph(types)
    with pytest.raises(GraphError) as raised:
        check_graph(graph, graph.schemas)
    assert str(raised.value) == message
    with pytest.raises(GraphError):
        transform(graph, [add(types[0].key, "new")])


@thorough
@given(graphs(), st.data())
def test_a_cycle_is_found_wherever_it_is_closed(graph: TypeGraph, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(graph.types)))
    below = data.draw(st.sampled_from([key, *graph.descendants(key)]))
    types = {**graph.types, key: replace(graph.types[key], base_type=below)}
    order = data.draw(st.permutations(sorted(types)))
    with pytest.raises(GraphError, match="form a cycle"):
        transform(TypeGraph(types[each] for each in order), [])


@thorough
@given(graphs())
def test_ancestors_and_descendants_are_each_others(graph: TypeGraph) -> None:
    for key in graph.types:
        for base in graph.ancestors(key):
            assert key in set(graph.descendants(base))
        for derived in graph.descendants(key):
            assert key in set(graph.ancestors(derived))
