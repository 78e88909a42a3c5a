"""Patch ops applied to schemas by pure functions: equal types and ops give equal results.

Each op must leave a sound graph of types. So it makes no difference whether ops come in one change or in several. An op
acts on the fields of its own type; an inherited field is changed in the type that declares it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actionengine.changes.ops import PatchOp
from actionengine.changes.type_graph import TypeGraph, check_fields, check_hierarchy, is_required
from actionengine.schemas.schema import MAX_FIELDS, Field, Schema


class OpRefused(Exception):
    """An op that cannot be applied; the message says why."""

    def __init__(self, op: PatchOp, reason: str) -> None:
        super().__init__(f"{op}: {reason}")
        self.op = op
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Step:
    """An applied op, and the schema of its type before it."""

    op: PatchOp
    before: Schema


@dataclass(frozen=True, slots=True)
class Transformed:
    """The result of ops: the schema of every type, and the steps in order."""

    schemas: Mapping[str, Schema]
    steps: tuple[Step, ...]


def transform(graph: TypeGraph, ops: Sequence[PatchOp]) -> Transformed:
    """Apply ops in order. Raises `OpRefused` for the first that cannot be applied, and `GraphError` if the types break
    a rule before or after them."""
    check_hierarchy(graph)
    schemas = graph.schemas
    steps: list[Step] = []
    for op in ops:
        key = op.record_type
        if key is None:
            raise OpRefused(op, "the op edits a file, and the project has no module with files")
        if key not in schemas:
            raise OpRefused(op, f"there is no record type {key!r} in the project of the change")
        before = schemas[key]
        schemas[key] = apply_op(graph, op, schemas)
        steps.append(Step(op, before))
    check_fields(graph, schemas)
    return Transformed(schemas, tuple(steps))


def apply_op(graph: TypeGraph, op: PatchOp, schemas: Mapping[str, Schema]) -> Schema:
    """Return the schema of the op's type with the op applied. Raises `OpRefused`."""
    assert op.record_type is not None
    _check_inheritance(graph, op, schemas)
    changed = edit(op, schemas[op.record_type])
    for name in op.affected_fields:
        _check_derived(graph, op, name, changed, schemas)
    return changed


def edit(op: PatchOp, schema: Schema) -> Schema:
    """Return a schema with an op applied, without regard to inheritance. Raises `OpRefused`."""
    payload, name = op.payload, op.field
    assert name is not None
    before = payload.get("before")
    if before is not None and before not in schema:
        raise OpRefused(op, f"there is no field {before!r} to place it before")
    if op.resulting_field is not None and op.resulting_field in schema:
        raise OpRefused(op, f"the field {op.resulting_field!r} exists already")
    if op.op_type == "add_field":
        if len(schema.fields) >= MAX_FIELDS:
            raise OpRefused(op, f"the record type has {len(schema.fields)} fields; at most {MAX_FIELDS} are allowed")
        return schema.adding(Field.of(name, payload["definition"]), before)
    current = schema.get(name)
    if current is None:
        raise OpRefused(op, f"there is no field {name!r}")
    if op.op_type == "remove_field":
        return schema.removing(name)
    if op.op_type == "rename_field":
        return schema.replacing(name, Field.of(payload["new_name"], current.definition))
    field = Field.of(name, payload["definition"])
    return schema.replacing(name, field) if before is None else schema.removing(name).adding(field, before)


def _check_inheritance(graph: TypeGraph, op: PatchOp, schemas: Mapping[str, Schema]) -> None:
    """E7: a field that an ancestor requires stays required; a new field hides an inherited one on request only."""
    key, name = op.record_type, op.field
    assert key is not None
    assert name is not None
    if op.op_type != "add_field" and (base := graph.requiring(key, name, schemas)) is not None:
        if op.op_type != "set_field":
            raise OpRefused(op, f"E7: the base type {base!r} requires the field {name!r}")
        if not op.payload["definition"].get("required"):
            raise OpRefused(op, f"E7: the base type {base!r} requires the field {name!r}: set required: true")
    is_inherited = name not in schemas[key] and op.op_type != "add_field"
    if is_inherited and (base := graph.declaring(key, name, schemas)) is not None:
        raise OpRefused(op, f"{name!r} is a field of the base type {base!r}: change it there")
    if op.resulting_field is None:
        return
    if (base := graph.requiring(key, op.resulting_field, schemas)) is not None:
        raise OpRefused(op, f"the base type {base!r} requires the field {op.resulting_field!r}: choose another name")
    if not op.payload.get("override") and (base := graph.declaring(key, op.resulting_field, schemas)) is not None:
        raise OpRefused(op, f"the base type {base!r} has the field {op.resulting_field!r} already")


def _check_derived(graph: TypeGraph, op: PatchOp, name: str, changed: Schema, schemas: Mapping[str, Schema]) -> None:
    """E7, seen from the base type: a field becomes required only if no derived type has it as optional."""
    assert op.record_type is not None
    if not is_required(changed, name):
        return
    for derived in graph.descendants(op.record_type):
        own = schemas[derived].get(name)
        if own is not None and not own.required:
            raise OpRefused(op, f"E7: the derived type {derived!r} does not require the field {name!r}")
