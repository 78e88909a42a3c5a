"""Record types that inherit from each other, and changes that they accept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from actionengine.changes.compensation.way_back import TouchedType
from actionengine.changes.ops import PatchOp, parse_op
from actionengine.changes.transform import OpRefused, apply_op, transform
from actionengine.changes.type_graph import RecordTypeState, TypeGraph
from actionengine.schemas.schema import Field, Schema

KEYS = ("asset", "machine", "crane", "tower_crane", "vehicle")
NAMES = ("code", "name", "weight", "owner", "site")
NEW_NAMES = (*NAMES, "height", "notes")


@st.composite
def definitions(draw: st.DrawFn) -> dict[str, Any]:
    definition: dict[str, Any] = {"type": draw(st.sampled_from(["string", "number", "date"]))}
    if draw(st.booleans()):
        definition["required"] = draw(st.booleans())
    if draw(st.booleans()):
        definition["label"] = draw(st.sampled_from(["One", "Two"]))
    return definition


@st.composite
def graphs(draw: st.DrawFn) -> TypeGraph:
    """Draw up to five types, each of which may derive from an earlier one, so that E7 holds."""
    graph = TypeGraph(())
    for key in KEYS[: draw(st.integers(1, len(KEYS)))]:
        base = draw(st.sampled_from([None, *graph.types]))
        state = RecordTypeState(key, "plant", base, 1, Schema())
        graph = TypeGraph([*graph.types.values(), state])
        fields = []
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=len(NAMES))):
            definition = draw(definitions())
            if graph.requiring(key, name, graph.schemas) is not None:
                definition["required"] = True
            fields.append(Field.of(name, definition))
        graph = TypeGraph([*graph.types.values(), replace(state, schema=Schema(tuple(fields)))])
    return graph


def is_free(op: PatchOp, others: Sequence[PatchOp]) -> bool:
    """Return whether no other op of the change touches the field, or adds the name (G1)."""
    return not any(
        op.record_type == other.record_type
        and (
            op.field == other.field or (op.resulting_field is not None and op.resulting_field == other.resulting_field)
        )
        for other in others
    )


def names_of(ops: Sequence[PatchOp]) -> set[tuple[str | None, str]]:
    """Return the fields that ops edit or add, each with its type."""
    return {(op.record_type, name) for op in ops for name in op.affected_fields}


@st.composite
def ops_on(draw: st.DrawFn, schemas: Mapping[str, Schema]) -> PatchOp:
    """Draw an op that these types may accept."""
    key = draw(st.sampled_from(sorted(schemas)))
    present = [field.name for field in schemas[key]]
    kind = draw(st.sampled_from(["add_field", "set_field", "remove_field", "rename_field"]))
    absent = [name for name in NEW_NAMES if name not in schemas[key]]
    if not present or not absent:
        kind = "add_field" if absent else "set_field"
    field = draw(st.sampled_from(absent if kind == "add_field" else present))
    if kind == "remove_field":
        return parse_op("remove_field", {"record_type": key, "field": field})
    if kind == "rename_field":
        new_name = draw(st.sampled_from(absent))
        return parse_op("rename_field", {"record_type": key, "old_name": field, "new_name": new_name})
    payload: dict[str, Any] = {"record_type": key, "field": field, "definition": draw(definitions())}
    following = draw(st.sampled_from([None, *(name for name in present if name != field)]))
    if following is not None:
        payload["before"] = following
    if kind == "set_field":
        return parse_op("set_field", payload)
    return parse_op("add_field", payload | {"override": draw(st.booleans())})


@st.composite
def changes(
    draw: st.DrawFn, graph: TypeGraph, avoiding: Sequence[PatchOp] = (), attempts: int = 20
) -> tuple[PatchOp, ...]:
    """Draw the ops of a change that these types accept, on other fields than those of `avoiding`."""
    schemas, ops = graph.schemas, list[PatchOp]()
    for _ in range(draw(st.integers(1, attempts))):
        op = draw(ops_on(schemas))
        if not is_free(op, ops) or names_of([op]) & names_of(avoiding):
            continue
        try:
            changed = apply_op(graph, op, schemas)
        except OpRefused:
            continue
        assert op.record_type is not None
        schemas[op.record_type] = changed
        ops.append(op)
    return tuple(ops)


@st.composite
def changed_graphs(draw: st.DrawFn) -> tuple[TypeGraph, tuple[PatchOp, ...]]:
    graph = draw(graphs())
    return graph, draw(changes(graph))


def applied(graph: TypeGraph, ops: Sequence[PatchOp]) -> TypeGraph:
    """Return the types after a change."""
    schemas = transform(graph, ops).schemas
    touched = {op.record_type for op in ops}
    return TypeGraph(
        replace(state, schema=schemas[key], version=state.version + (key in touched))
        for key, state in graph.types.items()
    )


def touched_by(before: TypeGraph, after: TypeGraph, ops: Sequence[PatchOp]) -> dict[str, TouchedType]:
    """Return the effect of a change on each type."""
    return {
        key: TouchedType(before.types[key].schema, after.types[key].schema, [op for op in ops if op.record_type == key])
        for key in sorted({op.record_type for op in ops if op.record_type is not None})
    }
