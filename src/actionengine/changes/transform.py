"""Patch ops applied to schemas, by pure functions: the same types and ops give the same result, and nothing is touched.

Each op has to leave a graph of types that is sound, so that it makes no difference whether ops come in one change or in
several. An op acts on the fields of its own type; what a type inherits is changed where it was declared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from actionengine.changes.ops import PatchOp
from actionengine.schemas.schema import MAX_FIELDS, Field, Schema


@dataclass(frozen=True)
class RecordTypeState:
    """A record type as far as a transform is concerned."""

    key: str
    project_id: str
    base_type: str | None
    version: int
    schema: Schema


class OpRefused(Exception):
    """An op cannot be applied; the message says why."""

    def __init__(self, op: PatchOp, reason: str) -> None:
        super().__init__(f"{op}: {reason}")
        self.op = op
        self.reason = reason


class GraphError(Exception):
    """The types do not hang together."""


@dataclass(frozen=True, slots=True)
class Step:
    """An applied op, and the schema of its type as it was before."""

    op: PatchOp
    before: Schema


@dataclass(frozen=True, slots=True)
class Transformed:
    """What came of ops: the schema of every type, and the steps in their order."""

    schemas: Mapping[str, Schema]
    steps: tuple[Step, ...]


class TypeGraph:
    """Record types by key, with those that they inherit from and those that inherit from them."""

    def __init__(self, types: Iterable[RecordTypeState]) -> None:
        self.types: Mapping[str, RecordTypeState] = {state.key: state for state in types}

    @cached_property
    def children(self) -> Mapping[str, Sequence[str]]:
        """The keys of the types that derive directly from each."""
        children: dict[str, list[str]] = {}
        for state in self.types.values():
            if state.base_type is not None:
                children.setdefault(state.base_type, []).append(state.key)
        return children

    @property
    def schemas(self) -> dict[str, Schema]:
        """The schema of each type."""
        return {key: state.schema for key, state in self.types.items()}

    def ancestors(self, key: str) -> Iterator[str]:
        """The keys of the types that one inherits from, the nearest first."""
        base = self.types[key].base_type
        while base is not None:
            yield base
            base = self.types[base].base_type

    def descendants(self, key: str) -> Iterator[str]:
        """The keys of the types that inherit from one."""
        waiting = list(self.children.get(key, ()))
        while waiting:
            found = waiting.pop()
            yield found
            waiting.extend(self.children.get(found, ()))

    def effective(self, key: str, schemas: Mapping[str, Schema]) -> Schema:
        """All fields that documents of a type have: the inherited ones first, each as the nearest type declares it."""
        fields: dict[str, Field] = {}
        for each in (*reversed(tuple(self.ancestors(key))), key):
            fields.update((field.name, field) for field in schemas[each])
        return Schema(tuple(fields.values()))

    def requiring(self, key: str, field: str, schemas: Mapping[str, Schema]) -> str | None:
        """The key of the nearest ancestor that requires a field."""
        return next((base for base in self.ancestors(key) if _is_required(schemas[base], field)), None)

    def declaring(self, key: str, field: str, schemas: Mapping[str, Schema]) -> str | None:
        """The key of the nearest ancestor that declares a field."""
        return next((base for base in self.ancestors(key) if field in schemas[base]), None)


def transform(graph: TypeGraph, ops: Sequence[PatchOp]) -> Transformed:
    """Apply ops in their order. Raises `OpRefused` for the first that cannot be applied, `GraphError` where the types
    do not hang together, before or afterwards."""
    _check_hierarchy(graph)
    schemas = graph.schemas
    steps: list[Step] = []
    for op in ops:
        key = op.record_type
        if key is None:
            raise OpRefused(op, "files are edited in a workspace of a module, and there is none")
        if key not in schemas:
            raise OpRefused(op, f"there is no record type {key!r} in the project of the change")
        before = schemas[key]
        schemas[key] = apply_op(graph, op, schemas)
        steps.append(Step(op, before))
    _check_fields(graph, schemas)
    return Transformed(schemas, tuple(steps))


def apply_op(graph: TypeGraph, op: PatchOp, schemas: Mapping[str, Schema]) -> Schema:
    """The schema of the op's type with the op applied. Raises `OpRefused`."""
    assert op.record_type is not None
    _check_inheritance(graph, op, schemas)
    changed = edit(op, schemas[op.record_type])
    for name in op.affected_fields:
        _check_derived(graph, op, name, changed, schemas)
    return changed


def edit(op: PatchOp, schema: Schema) -> Schema:
    """A schema with an op applied, whatever the type inherits. Raises `OpRefused`."""
    payload, name = op.payload, op.field
    assert name is not None
    before = payload.get("before")
    if before is not None and before not in schema:
        raise OpRefused(op, f"there is no field {before!r} before which it could stand")
    if op.resulting_field is not None and op.resulting_field in schema:
        raise OpRefused(op, f"the field {op.resulting_field!r} is there already")
    if op.op_type == "add_field":
        if len(schema.fields) >= MAX_FIELDS:
            raise OpRefused(op, f"the record type has {len(schema.fields)} fields, and may have {MAX_FIELDS}")
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
    """E7: what an ancestor requires stays required, and where it is; a new field hides no inherited one unasked."""
    key, name = op.record_type, op.field
    assert key is not None
    assert name is not None
    if op.op_type != "add_field" and (base := graph.requiring(key, name, schemas)) is not None:
        if op.op_type != "set_field":
            raise OpRefused(op, f"E7: the base type {base!r} requires the field {name!r}")
        if not op.payload["definition"].get("required"):
            raise OpRefused(op, f"E7: the base type {base!r} requires the field {name!r}: say required: true")
    is_inherited = name not in schemas[key] and op.op_type != "add_field"
    if is_inherited and (base := graph.declaring(key, name, schemas)) is not None:
        raise OpRefused(op, f"{name!r} is a field of the base type {base!r}: change it there")
    if op.resulting_field is None:
        return
    if (base := graph.requiring(key, op.resulting_field, schemas)) is not None:
        raise OpRefused(op, f"the base type {base!r} has, and requires, the field {op.resulting_field!r}")
    if not op.payload.get("override") and (base := graph.declaring(key, op.resulting_field, schemas)) is not None:
        raise OpRefused(op, f"the base type {base!r} has the field {op.resulting_field!r} already")


def _check_derived(graph: TypeGraph, op: PatchOp, name: str, changed: Schema, schemas: Mapping[str, Schema]) -> None:
    """E7, seen from the base: a field becomes required only where no derived type has it as one that is not."""
    assert op.record_type is not None
    if not _is_required(changed, name):
        return
    for derived in graph.descendants(op.record_type):
        own = schemas[derived].get(name)
        if own is not None and not own.required:
            raise OpRefused(op, f"E7: the derived type {derived!r} has the field {name!r}, and does not require it")


def check_graph(graph: TypeGraph, schemas: Mapping[str, Schema]) -> None:
    """Raises `GraphError` for an orphan, a cycle, a base of another project, a field that is there twice, and one that
    is required in a base and not in a type that derives from it."""
    _check_hierarchy(graph)
    _check_fields(graph, schemas)


def _check_hierarchy(graph: TypeGraph) -> None:
    checked: set[str] = set()
    for key in graph.types:
        path: list[str] = []
        while key not in checked:
            checked.add(key)
            path.append(key)
            state = graph.types[key]
            if (base := state.base_type) is None:
                break
            if base not in graph.types:
                raise GraphError(f"the base type {base!r} of {key!r} does not exist")
            if graph.types[base].project_id != state.project_id:
                raise GraphError(f"the base type {base!r} of {key!r} is of another project")
            if base in checked and base in path:
                cycle = (*path[path.index(base) :], base)
                raise GraphError(f"the base types of {base!r} go round in a cycle: {' → '.join(cycle)}")
            key = base


def _check_fields(graph: TypeGraph, schemas: Mapping[str, Schema]) -> None:
    demands, counts = _demands(graph, schemas), _counts(graph, schemas)
    for key, schema in schemas.items():
        if counts[key] > MAX_FIELDS:
            raise GraphError(
                f"{key!r} would have {counts[key]} fields with those of its base types, and may have {MAX_FIELDS}"
            )
        for name, count in Counter(schema.names).items():
            if count > 1:
                raise GraphError(f"{key!r} has the field {name!r} twice")
        if (base := graph.types[key].base_type) is None:
            continue
        for field in schema:
            if not field.required and field.name in demands[base]:
                raise GraphError(
                    f"E7: {key!r} does not require the field {field.name!r}, "
                    f"which its base type {demands[base][field.name]!r} requires"
                )


def _counts(graph: TypeGraph, schemas: Mapping[str, Schema]) -> Mapping[str, int]:
    """For each type: how many fields it and its base types declare."""
    counts: dict[str, int] = {}
    for key in graph.types:
        path = [key, *graph.ancestors(key)] if key not in counts else []
        for each in reversed(path):
            base = graph.types[each].base_type
            counts[each] = len(schemas[each].fields) + (counts[base] if base is not None else 0)
    return counts


def _demands(graph: TypeGraph, schemas: Mapping[str, Schema]) -> Mapping[str, Mapping[str, str]]:
    """For each type: the fields that it or a base of it requires, with the nearest type that does."""
    demands: dict[str, Mapping[str, str]] = {}
    for key in graph.types:
        path = [key, *graph.ancestors(key)] if key not in demands else []
        for each in reversed(path):
            base = graph.types[each].base_type
            inherited = demands[base] if base is not None else {}
            own = {field.name: each for field in schemas[each] if field.required}
            demands[each] = {**inherited, **own} if own else inherited
    return demands


def _is_required(schema: Schema, field: str) -> bool:
    found = schema.get(field)
    return found is not None and found.required
