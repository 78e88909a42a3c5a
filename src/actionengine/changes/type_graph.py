"""The record types of a project by inheritance, and the rules that a sound graph of them keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from actionengine.schemas.schema import MAX_FIELDS, Field, Schema


@dataclass(frozen=True)
class RecordTypeState:
    """The parts of a record type that ops and rules look at."""

    key: str
    project_id: str
    base_type: str | None
    version: int
    schema: Schema


class GraphError(Exception):
    """The record types break a rule of inheritance."""


class TypeGraph:
    """Record types by key, with their ancestors and descendants."""

    def __init__(self, types: Iterable[RecordTypeState]) -> None:
        self.types: Mapping[str, RecordTypeState] = {state.key: state for state in types}

    @cached_property
    def children(self) -> Mapping[str, Sequence[str]]:
        """The keys of the types that derive directly from each type."""
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
        """Yield the keys of the types that a type inherits from, the nearest first."""
        base = self.types[key].base_type
        while base is not None:
            yield base
            base = self.types[base].base_type

    def descendants(self, key: str) -> Iterator[str]:
        """Yield the keys of the types that inherit from a type."""
        waiting = list(self.children.get(key, ()))
        while waiting:
            found = waiting.pop()
            yield found
            waiting.extend(self.children.get(found, ()))

    def effective(self, key: str, schemas: Mapping[str, Schema]) -> Schema:
        """Return all fields of a type's documents: inherited ones first, each as the nearest type declares it."""
        fields: dict[str, Field] = {}
        for each in (*reversed(tuple(self.ancestors(key))), key):
            fields.update((field.name, field) for field in schemas[each])
        return Schema(tuple(fields.values()))

    def requiring(self, key: str, field: str, schemas: Mapping[str, Schema]) -> str | None:
        """Return the key of the nearest ancestor that requires a field."""
        return next((base for base in self.ancestors(key) if is_required(schemas[base], field)), None)

    def declaring(self, key: str, field: str, schemas: Mapping[str, Schema]) -> str | None:
        """Return the key of the nearest ancestor that declares a field."""
        return next((base for base in self.ancestors(key) if field in schemas[base]), None)


def check_graph(graph: TypeGraph, schemas: Mapping[str, Schema]) -> None:
    """Raise `GraphError` for an orphan, a cycle, a base type of another project, a duplicate field, a type with too
    many fields, and a field that is required in a base type but not in a derived type."""
    check_hierarchy(graph)
    check_fields(graph, schemas)


def check_hierarchy(graph: TypeGraph) -> None:
    """Raise `GraphError` for an orphan, a cycle, and a base type of another project."""
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
                raise GraphError(f"the base types of {base!r} form a cycle: {' → '.join(cycle)}")
            key = base


def check_fields(graph: TypeGraph, schemas: Mapping[str, Schema]) -> None:
    """Raise `GraphError` for duplicate, too many, and weakened fields."""
    demands, counts = _demands(graph, schemas), _counts(graph, schemas)
    for key, schema in schemas.items():
        if counts[key] > MAX_FIELDS:
            raise GraphError(
                f"{key!r} would have {counts[key]} fields including inherited ones; at most {MAX_FIELDS} are allowed"
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
    """Return for each type the number of fields that it and its base types declare."""
    counts: dict[str, int] = {}
    for key in graph.types:
        path = [key, *graph.ancestors(key)] if key not in counts else []
        for each in reversed(path):
            base = graph.types[each].base_type
            counts[each] = len(schemas[each].fields) + (counts[base] if base is not None else 0)
    return counts


def _demands(graph: TypeGraph, schemas: Mapping[str, Schema]) -> Mapping[str, Mapping[str, str]]:
    """Return for each type the fields that it or a base type requires, each with the nearest such type."""
    demands: dict[str, Mapping[str, str]] = {}
    for key in graph.types:
        path = [key, *graph.ancestors(key)] if key not in demands else []
        for each in reversed(path):
            base = graph.types[each].base_type
            inherited = demands[base] if base is not None else {}
            own = {field.name: each for field in schemas[each] if field.required}
            demands[each] = {**inherited, **own} if own else inherited
    return demands


def is_required(schema: Schema, field: str) -> bool:
    """Return whether a schema has a field and requires it."""
    found = schema.get(field)
    return found is not None and found.required
