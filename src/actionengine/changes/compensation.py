"""The ops that take back what a change has done.

What a type is to be again is worked out first, then the ops that lead there: at most one for each field, in an order in
which every step satisfies the rules for base types.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from actionengine.changes.difference import origins_of
from actionengine.changes.ops import OpType, PatchOp
from actionengine.changes.schema import Field, Schema
from actionengine.changes.transform import OpRefused, TypeGraph, check_graph, edit, transform


class ChangedSince(Exception):
    """A field that a change has touched was touched again since."""

    def __init__(self, key: str, field: str, then: Field | None, now: Field | None) -> None:
        super().__init__(f"{key}.{field} has changed since")
        self.key = key
        self.field = field
        self.then = then
        self.now = now


@dataclass(frozen=True, slots=True)
class Touched:
    """What a change has done to one record type: its schema before and after, and the ops of the change between.

    Where it was executed in several goes, others may have been at work between them: what `ops` do not do is not its.
    """

    before: Schema
    after: Schema
    ops: Sequence[PatchOp]


def compensation(graph: TypeGraph, touched: Mapping[str, Touched]) -> tuple[PatchOp, ...]:
    """Ops which, applied to the types as they are now, take back what a change has done to those that it touched.

    Where nothing has changed since, they restore the schemas as they were before it, to the order of the fields. Raises
    `ChangedSince` for a field that has, and `OpRefused` where the rules for base types do not let it be taken back.
    """
    check_graph(graph, graph.schemas)
    left = {key: _left_by(key, graph.types[key].schema, each) for key, each in touched.items()}
    origins = {key: origins_of(each.before, each.ops) for key, each in touched.items()}
    targets = {
        key: _target(key, each.before, left[key], graph.types[key].schema, origins[key])
        for key, each in touched.items()
    }
    planned = [step for key in targets for step in _steps(graph, key, targets, origins[key])]
    planned.sort(key=lambda step: (step.phase, step.order))
    ops = tuple(step.op for step in planned)
    transform(graph, ops)
    return ops


def _left_by(key: str, now: Schema, touched: Touched) -> Schema:
    """What the ops of a change alone have made of a type."""
    schema = touched.before
    for op in touched.ops:
        try:
            schema = edit(op, schema)
        except OpRefused:
            name = op.field or ""
            raise ChangedSince(key, name, touched.after.get(name), now.get(name)) from None
    return schema


def _target(key: str, before: Schema, after: Schema, now: Schema, origins: Mapping[str, str | None]) -> Schema:
    """The schema of a type as it is to be: as it is now, but for what the change has done."""
    if now == after:
        return before
    affected = set(before.names).difference(after.names)
    affected |= {field.name for field in after if field != _was(before, origins[field.name])}
    for name in affected:
        if now.get(name) != after.get(name):
            raise ChangedSince(key, name, after.get(name), now.get(name))
    survivors = [origin for field in after if (origin := origins[field.name]) is not None]
    stayed = _in_order(survivors, before.names)
    lost = set(before.names).difference(survivors)
    returning = {field.name: field for field in before if field.name in lost}
    standing: list[Field] = []
    for field in now:
        found = _was(before, origins[field.name]) if field.name in affected else field
        if found is None:
            continue
        if found.name in before and found.name not in stayed:
            returning[found.name] = found
        else:
            standing.append(found)
    return Schema(_put_back(before, standing, returning))


def _was(before: Schema, origin: str | None) -> Field | None:
    return before.get(origin) if origin is not None else None


def _put_back(before: Schema, standing: list[Field], returning: Mapping[str, Field]) -> tuple[Field, ...]:
    """Fields with others put back where they stood: before the next one that is there."""
    fields = list(standing)
    names = [field.name for field in fields]
    present = set(names)
    following: str | None = None
    for field in reversed(before.fields):
        if (found := returning.get(field.name)) is not None:
            place = names.index(following) if following is not None else len(names)
            fields.insert(place, found)
            names.insert(place, field.name)
            present.add(field.name)
        if field.name in present:
            following = field.name
    return tuple(fields)


class _Phase(IntEnum):
    """When an op comes, so that E7 holds at each step: bases let go first, and require last."""

    RENAME = 0
    RELAX = 1
    EDIT = 2
    REQUIRE = 3


@dataclass(frozen=True, slots=True)
class _Planned:
    op: PatchOp
    phase: _Phase
    order: int


def _steps(
    graph: TypeGraph, key: str, targets: Mapping[str, Schema], origins: Mapping[str, str | None]
) -> Iterator[_Planned]:
    """The ops that make a type what it is to be."""
    now, target = graph.types[key].schema, targets[key]
    for op in _renames(graph, key, targets, origins):
        yield _Planned(op, _Phase.RENAME, 0)
        now = edit(op, now)
    names = target.names
    settled = _settled(now, names)
    edits = [
        (_phase(now.get(name), target.get(name)), name)
        for name in dict.fromkeys((*now.names, *names))
        if now.get(name) != target.get(name) or name not in settled
    ]
    depth = len(tuple(graph.ancestors(key)))
    inherited = _names_in(graph, graph.ancestors(key), targets)
    for phase, name in sorted(edits, key=lambda edit: edit[0]):
        order = -depth if phase is _Phase.REQUIRE else depth
        field = target.get(name)
        if field is None:
            yield _Planned(_op("remove_field", key, field=name), phase, order)
            continue
        payload: dict[str, object] = {"field": name, "definition": _without_name(field)}
        if name not in settled:
            later = names[names.index(name) + 1 :]
            if (following := next((other for other in later if other in settled), None)) is not None:
                payload["before"] = following
            settled.add(name)
        if name in now:
            yield _Planned(_op("set_field", key, **payload), phase, order)
            continue
        if name in inherited:
            payload["override"] = True
        yield _Planned(_op("add_field", key, **payload), phase, order)


def _phase(old: Field | None, new: Field | None) -> _Phase:
    was, becomes = old is not None and old.required, new is not None and new.required
    if was == becomes:
        return _Phase.EDIT
    return _Phase.REQUIRE if becomes else _Phase.RELAX


def _renames(
    graph: TypeGraph, key: str, targets: Mapping[str, Schema], origins: Mapping[str, str | None]
) -> Iterator[PatchOp]:
    """The fields that can simply get their old names back: both names are this type's alone, and no other field has had
    the one or is to have the other. The rest are removed and added, or get each other's definitions."""
    now, target = graph.types[key].schema, targets[key]
    renamed = [
        (name, origin)
        for name, origin in origins.items()
        if origin is not None and name != origin and name not in target and origin not in now
    ]
    if not renamed:
        return
    elsewhere = _names_in(graph, (*graph.ancestors(key), *graph.descendants(key)), targets)
    for name, origin in renamed:
        if not elsewhere & {name, origin}:
            yield _op("rename_field", key, old_name=name, new_name=origin)


def _names_in(graph: TypeGraph, keys: Iterable[str], targets: Mapping[str, Schema]) -> set[str]:
    """The names of the fields that any of these types has, or is to have."""
    schemas = [schema for key in keys for schema in (graph.types[key].schema, targets.get(key)) if schema is not None]
    return set[str]().union(*(schema.names for schema in schemas))


def _settled(now: Schema, names: Sequence[str]) -> set[str]:
    """Fields of today that need not be moved. The one that is to be the last of them is among these, since a field can
    only be moved to a place before another one."""
    wanted = set(names)
    present = [name for name in now.names if name in wanted]
    if not present:
        return set()
    here = set(present)
    last = next(name for name in reversed(names) if name in here)
    return _in_order(present[: present.index(last)], names) | {last}


def _in_order(names: Sequence[str], order: Sequence[str]) -> set[str]:
    """As many names as can be that come one after the other in an order, too.

    The longest increasing subsequence, by patience sorting (Fredman 1975), in O(n log n).
    """
    places = {name: place for place, name in enumerate(order)}
    ends: list[int] = []
    piles: list[str] = []
    previous: dict[str, str | None] = {}
    for name in names:
        pile = bisect_left(ends, places[name])
        ends[pile : pile + 1] = [places[name]]
        piles[pile : pile + 1] = [name]
        previous[name] = piles[pile - 1] if pile else None
    found: set[str] = set()
    last = piles[-1] if piles else None
    while last is not None:
        found.add(last)
        last = previous[last]
    return found


def _without_name(field: Field) -> dict[str, object]:
    return {part: value for part, value in field.definition.items() if part != "name"}


def _op(op_type: OpType, key: str, **payload: object) -> PatchOp:
    return PatchOp(op_type, {"record_type": key, **payload})
