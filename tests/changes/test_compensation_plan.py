"""Compensation: ops that take back the effect of a change, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actionengine.changes.compensation.way_back import SchemaConflict, TouchedType, compensation
from actionengine.changes.diff import TypeDiff, diff_schemas
from actionengine.changes.ops import PatchOp, parse_op
from actionengine.changes.transform import OpRefused, transform
from actionengine.changes.type_graph import GraphError, RecordTypeState, TypeGraph
from actionengine.schemas.schema import Field, Schema
from tests.changes.strategies import applied, changed_graphs, changes, names_of, touched_by

thorough = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def attempt(graph: TypeGraph, touched: dict[str, TouchedType]) -> tuple[PatchOp, ...] | OpRefused | SchemaConflict:
    """Return the ops, or the reason why there are none."""
    try:
        return plan(graph, touched)
    except SchemaConflict as changed:
        return changed
    except OpRefused as refused:
        return refused


def plan(graph: TypeGraph, touched: dict[str, TouchedType]) -> tuple[PatchOp, ...]:
    """Return the ops, each of which a change can have. Two are on one name only if it passes from one field to another;
    no name is added twice."""
    ops = compensation(graph, touched)
    for place, op in enumerate(ops):
        assert op == parse_op(op.op_type, op.payload)
        same = [other for other in ops[:place] if (other.record_type, other.field) == (op.record_type, op.field)]
        assert all(other.op_type in ("rename_field", "remove_field") or is_relaxing(other) for other in same), (ops, op)
        assert op.resulting_field is None or not any(
            (other.record_type, other.resulting_field) == (op.record_type, op.resulting_field) for other in ops[:place]
        )
    return ops


def is_relaxing(op: PatchOp) -> bool:
    """Return whether an op only prepares others at a base type."""
    return op.op_type == "set_field" and not op.payload["definition"].get("required")


@thorough
@given(changed_graphs())
def test_a_change_is_taken_back_to_the_order_of_the_fields(changed: tuple[TypeGraph, tuple[PatchOp, ...]]) -> None:
    graph, ops = changed
    after = applied(graph, ops)

    back = plan(after, touched_by(graph, after, ops))

    assert transform(after, back).schemas == graph.schemas


@thorough
@given(changed_graphs(), st.data())
def test_a_change_executed_in_two_parts_is_taken_back_whole(
    changed: tuple[TypeGraph, tuple[PatchOp, ...]], data: st.DataObject
) -> None:
    graph, first = changed
    between = applied(graph, first)
    second = data.draw(changes(between))
    after = applied(between, second)

    back = plan(after, touched_by(graph, after, (*first, *second)))

    assert transform(after, back).schemas == graph.schemas


@thorough
@given(changed_graphs(), st.data())
def test_later_changes_of_other_fields_stay(
    changed: tuple[TypeGraph, tuple[PatchOp, ...]], data: st.DataObject
) -> None:
    graph, ops = changed
    after = applied(graph, ops)
    now = applied(after, data.draw(changes(after, avoiding=ops)))
    back = attempt(now, touched_by(graph, after, ops))
    if isinstance(back, OpRefused):
        assert "require" in back.reason
        return
    assert not isinstance(back, SchemaConflict)
    assert definitions_in(applied(now, back)) == merged(graph, now, ops)


@thorough
@given(changed_graphs(), st.data())
def test_changes_between_two_parts_stay(changed: tuple[TypeGraph, tuple[PatchOp, ...]], data: st.DataObject) -> None:
    graph, first = changed
    between = applied(graph, first)
    others = data.draw(changes(between, avoiding=first, attempts=10))
    later = applied(between, others)
    second = data.draw(changes(later, avoiding=others, attempts=10))
    after = applied(later, second)
    ops = (*first, *second)
    back = attempt(after, touched_by(graph, after, ops))
    if isinstance(back, OpRefused):
        assert "require" in back.reason
        return
    if isinstance(back, SchemaConflict):
        assert any(op.payload.get("before") for op in second), "it stands before a field that another change gave"
        return
    assert definitions_in(applied(after, back)) == merged(graph, after, ops)


@thorough
@given(changed_graphs(), st.data())
def test_a_field_that_others_touched_since_is_a_conflict(
    changed: tuple[TypeGraph, tuple[PatchOp, ...]], data: st.DataObject
) -> None:
    graph, ops = changed
    after = applied(graph, ops)
    others = data.draw(changes(after))
    now = applied(after, others)
    contested = names_of(ops) & names_of(others)
    error = attempt(now, touched_by(graph, after, ops))
    if isinstance(error, OpRefused):
        return
    if isinstance(error, SchemaConflict):
        assert (error.key, error.field) in contested
        assert error.then == after.types[error.key].schema.get(error.field)
        assert error.now == now.types[error.key].schema.get(error.field)
        assert error.then != error.now
        return
    was, then, found = definitions_in(graph), definitions_in(after), definitions_in(now)
    assert all(found.get(name) == then.get(name) for name in contested if was.get(name) != then.get(name))


def definitions_in(graph: TypeGraph) -> dict[tuple[str | None, str], Any]:
    return {(key, field.name): field.definition for key, schema in graph.schemas.items() for field in schema}


def merged(before: TypeGraph, now: TypeGraph, ops: Sequence[PatchOp]) -> dict[tuple[str | None, str], Any]:
    """Return the fields of these ops as they were before, and the others as they are."""
    touched = names_of(ops)
    kept = {name: definition for name, definition in definitions_in(now).items() if name not in touched}
    return kept | {name: definition for name, definition in definitions_in(before).items() if name in touched}


# Examples


def schema(*names: str, required: Sequence[str] = ()) -> Schema:
    return Schema(tuple(Field.of(name, {"type": "string", "required": name in required}) for name in names))


def types(base: str | None = None, **schemas: Schema) -> TypeGraph:
    """Return a graph of the first type and types that derive from it if `base` names it."""
    return TypeGraph(
        RecordTypeState(key, "plant", base if key != base else None, 1, fields) for key, fields in schemas.items()
    )


def add(key: str, field: str, **more: Any) -> PatchOp:
    return parse_op("add_field", {"record_type": key, "field": field, "definition": {"type": "string"}, **more})


def put(key: str, field: str, type: str = "string", required: bool = False, **more: Any) -> PatchOp:
    definition = {"type": type, "required": required}
    return parse_op("set_field", {"record_type": key, "field": field, "definition": definition, **more})


def remove(key: str, field: str) -> PatchOp:
    return parse_op("remove_field", {"record_type": key, "field": field})


def rename(key: str, old: str, new: str) -> PatchOp:
    return parse_op("rename_field", {"record_type": key, "old_name": old, "new_name": new})


def back(graph: TypeGraph, *ops: PatchOp, since: Sequence[PatchOp] = ()) -> tuple[list[str], dict[str, list[str]]]:
    """Return the ops that take a change back, and the names of the resulting fields."""
    after = applied(graph, ops)
    now = applied(after, since)
    found = plan(now, touched_by(graph, after, ops))
    schemas = transform(now, found).schemas
    return [str(op) for op in found], {key: [field.name for field in fields] for key, fields in schemas.items()}


def test_each_kind_of_op_has_its_inverse() -> None:
    graph = types(job=schema("a", "b", "c"))
    ops = (add("job", "d"), put("job", "a", "number"), remove("job", "b"), rename("job", "c", "e"))

    found, names = back(graph, *ops)

    assert found == [
        "rename_field job.e → c",
        "set_field job.a",
        "remove_field job.d",
        "add_field job.b",
    ]
    assert names == {"job": ["a", "b", "c"]}


def test_a_change_that_has_done_nothing_needs_nothing() -> None:
    assert back(types(job=schema("a", "b")), put("job", "a")) == ([], {"job": ["a", "b"]})


def test_a_field_that_was_last_is_so_again() -> None:
    assert back(types(job=schema("a", "b", "c")), put("job", "c", before="a")) == (
        ["set_field job.a", "set_field job.b"],
        {"job": ["a", "b", "c"]},
    )


def test_a_moved_field_goes_back_past_later_fields() -> None:
    moved = put("job", "c", before="a")
    _, names = back(types(job=schema("a", "b", "c", "d")), moved, since=[add("job", "e"), add("job", "f", before="b")])
    assert names == {"job": ["a", "f", "b", "c", "d", "e"]}


def test_a_removed_field_stands_where_it_stood() -> None:
    _, names = back(types(job=schema("a", "b", "c")), remove("job", "b"), since=[remove("job", "a"), add("job", "d")])
    assert names == {"job": ["b", "c", "d"]}


def test_names_that_were_swapped_are_swapped_again() -> None:
    graph = types(job=Schema((Field.of("a", {"type": "string"}), Field.of("b", {"type": "number"}))))
    swap = [rename("job", "a", "c"), rename("job", "b", "a"), rename("job", "c", "b")]

    after = applied(graph, swap)
    found = plan(after, touched_by(graph, after, swap))

    assert transform(after, found).schemas == graph.schemas


def test_a_base_type_relaxes_first_and_requires_last() -> None:
    graph = types("thing", thing=schema("code"), job=schema("code"))
    tighten = [put("job", "code", required=True), put("thing", "code", required=True)]

    assert back(graph, *tighten)[0] == ["set_field thing.code", "set_field job.code"]

    strict = types("thing", thing=schema("code", required=["code"]), job=schema("code", required=["code"]))
    assert back(strict, put("thing", "code"), put("job", "code"))[0] == ["set_field job.code", "set_field thing.code"]


def test_a_field_that_hid_an_inherited_one_hides_it_again() -> None:
    graph = types("thing", thing=schema("note"), job=schema("note"))
    after = applied(graph, [remove("job", "note")])

    (op,) = plan(after, touched_by(graph, after, [remove("job", "note")]))

    assert op.op_type == "add_field"
    assert op.payload["override"] is True


def test_a_derived_type_keeps_what_its_base_requires_now() -> None:
    graph = types("thing", thing=schema("code"), job=schema())
    change = [add("job", "code", override=True, definition={"type": "string", "required": True})]
    after = applied(graph, change)
    now = applied(after, [put("thing", "code", required=True)])

    with pytest.raises(OpRefused, match=r"remove_field job\.code: E7: the base type 'thing' requires the field 'code'"):
        compensation(now, touched_by(graph, after, change))


def test_a_field_removed_and_added_again_has_changed() -> None:
    graph = types(job=schema("a", "b"))
    after = applied(graph, [remove("job", "a")])
    now = applied(after, [add("job", "a")])

    with pytest.raises(SchemaConflict, match=r"job\.a has changed since") as raised:
        compensation(now, touched_by(graph, after, [remove("job", "a")]))

    assert raised.value.then is None
    assert raised.value.now is now.types["job"].schema.get("a")


def test_types_that_do_not_hang_together_are_not_compensated() -> None:
    cyclic = TypeGraph(
        [RecordTypeState("a", "plant", "b", 1, schema()), RecordTypeState("b", "plant", "a", 1, schema())]
    )
    with pytest.raises(GraphError, match="cycle"):
        compensation(cyclic, {"a": TouchedType(schema("x"), schema(), [remove("a", "x")])})


# Contents of documents


def moved(document: dict[str, Any], diff: TypeDiff) -> dict[str, Any]:
    """Return a document as a host moves it by a diff: all fields get their new names at once, removed ones go."""
    names = {each.old_name: each.new_name for each in diff.renamed}
    removed = {definition["name"] for definition in diff.removed}
    return {names.get(name, name): value for name, value in document.items() if name not in removed}


def moved_by(graph: TypeGraph, ops: Sequence[PatchOp], documents: dict[str, dict[str, Any]]) -> TypeGraph:
    """Apply a change to types, and its diffs to a document of each."""
    after = applied(graph, ops)
    for key in {op.record_type for op in ops if op.record_type is not None}:
        diff = diff_schemas(key, 1, graph.types[key].schema, after.types[key].schema, ops)
        documents[key] = moved(documents[key], diff)
    return after


@thorough
@given(changed_graphs(), st.data())
def test_contents_of_documents_are_back_in_their_fields(
    changed: tuple[TypeGraph, tuple[PatchOp, ...]], data: st.DataObject
) -> None:
    graph, first = changed
    documents = {key: {name: f"{key}.{name}" for name in schema.names} for key, schema in graph.schemas.items()}
    before = {key: dict(document) for key, document in documents.items()}
    between = moved_by(graph, first, documents)
    second = data.draw(st.one_of(st.just(()), changes(between)))
    after = moved_by(between, second, documents)
    kept = {value for document in documents.values() for value in document.values()}
    touched = touched_by(graph, after, (*first, *second))

    moved_by(after, plan(after, touched), documents)

    assert documents == {
        key: {name: value for name, value in document.items() if value in kept} for key, document in before.items()
    }
    lost = {f"{key}.{name}" for key, each in touched.items() for name in each.removed}
    assert lost == {value for document in before.values() for value in document.values()} - kept


def ops_back(graph: TypeGraph, *ops: PatchOp) -> list[str]:
    return back(graph, *ops)[0]


def test_a_chain_is_taken_back_from_its_other_end() -> None:
    chain = [rename("job", "b", "c"), rename("job", "a", "b")]

    assert ops_back(types(job=schema("a", "b")), *chain) == ["rename_field job.b → a", "rename_field job.c → b"]


def test_a_renamed_and_redefined_field_gets_both_back() -> None:
    chain = [rename("job", "b", "c"), rename("job", "a", "b"), put("job", "c", "number")]

    assert ops_back(types(job=schema("a", "b")), *chain) == [
        "rename_field job.b → a",
        "rename_field job.c → b",
        "set_field job.b",
    ]


def test_three_fields_that_change_places_need_one_name_between() -> None:
    names = ("a", "b", "c")
    cycle = [rename("job", "a", "t"), rename("job", "c", "a"), rename("job", "b", "c"), rename("job", "t", "b")]

    found, after = back(types(job=schema(*names)), *cycle)

    assert len(found) == 4
    assert after == {"job": list(names)}


def test_a_field_gives_back_the_name_of_a_removed_one() -> None:
    ops = [remove("job", "a"), rename("job", "b", "a")]

    assert ops_back(types(job=schema("a", "b")), *ops) == ["rename_field job.a → b", "add_field job.a"]


def test_a_rename_at_a_base_type_is_taken_back_by_a_rename() -> None:
    """A derived type has fields of the one name and of the other."""
    graph = types("thing", thing=schema("code"), job=schema("code", "number"))
    assert ops_back(graph, rename("thing", "code", "number")) == ["rename_field thing.number → code"]

    both = [rename("thing", "code", "number"), rename("job", "code", "site"), rename("job", "number", "note")]
    found, names = back(graph, *both)
    assert {op.split(".")[0] for op in found} == {"rename_field thing", "rename_field job"}
    assert len(found) == 3
    assert names == {"thing": ["code"], "job": ["code", "number"]}


def test_a_field_hides_an_inherited_one_again() -> None:
    graph = types("thing", thing=schema("note"), job=schema("note"))
    after = applied(graph, [rename("job", "note", "text")])

    (op,) = plan(after, touched_by(graph, after, [rename("job", "note", "text")]))

    assert op.payload == {"record_type": "job", "old_name": "text", "new_name": "note", "override": True}


def test_fields_that_others_have_swapped_since_have_changed() -> None:
    """Both fields have equal definitions, so that the schemas alone do not show the swap."""
    graph = types(job=schema("a", "b"))
    change = [rename("job", "a", "c")]
    after = applied(graph, change)
    swap = [rename("job", "c", "t"), rename("job", "b", "c"), rename("job", "t", "b")]
    again = [put("job", "c", before="b")]
    now = applied(applied(after, swap), again)
    assert now.types["job"].schema == after.types["job"].schema

    with pytest.raises(SchemaConflict, match=r"job\.c has changed since"):
        compensation(now, {"job": replace(touched_by(graph, after, change)["job"], since=[*swap, *again])})

    swapped_back = [rename("job", "b", "t"), rename("job", "c", "b"), rename("job", "t", "c")]
    later = applied(now, swapped_back)
    touched = replace(touched_by(graph, after, change)["job"], since=[*swap, *again, *swapped_back])
    assert [str(op) for op in compensation(later, {"job": touched})] == ["rename_field job.c → a"]


def test_a_long_chain_is_taken_back_in_time() -> None:
    names = [f"f{number}" for number in range(600)]
    chain = [rename("job", old, new) for old, new in zip(reversed(names), reversed([*names[1:], "last"]), strict=True)]
    graph = types(job=schema(*names))
    after = applied(graph, chain)

    found = compensation(after, touched_by(graph, after, chain))

    assert len(found) == len(names)
    assert transform(after, found).schemas == graph.schemas
