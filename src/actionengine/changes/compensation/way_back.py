"""Ops that take back the effect of a change on record types.

The way back of each type comes first: its schema as it was, and for each present field the name that it goes back to.
The ops follow from these. A field that goes back to another name is renamed, over an intermediate name if fields swap
names. So a host that moves the contents of documents by the diffs loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actionengine.changes.compensation.planner import WayBack, longest_ordered, plan_ops
from actionengine.changes.diff import original_names
from actionengine.changes.ops import PatchOp
from actionengine.changes.transform import OpRefused, edit, transform
from actionengine.changes.type_graph import TypeGraph, check_graph
from actionengine.schemas.schema import Field, Schema


class SchemaConflict(Exception):
    """A field of a change that another change has touched since."""

    def __init__(self, key: str, field: str, then: Field | None, now: Field | None) -> None:
        super().__init__(f"{key}.{field} has changed since")
        self.key = key
        self.field = field
        self.then = then
        self.now = now


@dataclass(frozen=True, slots=True)
class TouchedType:
    """The effect of a change on one record type: its schema before and after, and the `ops` of the change between;
    `since` are the later ops of other changes.

    If the change was executed in several parts, other changes may lie between them: only `ops` are its own.
    """

    before: Schema
    after: Schema
    ops: Sequence[PatchOp]
    since: Sequence[PatchOp] = ()

    @property
    def removed(self) -> list[str]:
        """The fields that the change removed; their contents do not come back."""
        kept = set(original_names(self.before, self.ops).values())
        return [name for name in self.before.names if name not in kept]


def compensation(graph: TypeGraph, touched: Mapping[str, TouchedType]) -> tuple[PatchOp, ...]:
    """Return ops that take back the effect of a change on the types that it touched.

    If nothing has changed since, they restore the earlier schemas, including the order of the fields. Raises
    `SchemaConflict` for a field that has changed, and `OpRefused` if the rules for base types forbid the way back.
    """
    check_graph(graph, graph.schemas)
    ways = {key: _way_back(key, each, graph.types[key].schema) for key, each in touched.items()}
    ops = plan_ops(graph, ways)
    transform(graph, ops)
    return ops


def _way_back(key: str, touched: TouchedType, now: Schema) -> WayBack:
    before, after = touched.before, _remaining_changes(key, now, touched)
    origins = original_names(before, touched.ops)
    affected = set(before.names).difference(after.names)
    affected |= {field.name for field in after if field != _original(before, origins[field.name])}
    moved = original_names(touched.after, touched.since)
    gone_to = {was: name for name, was in moved.items() if was is not None}
    for name in affected:
        has_other_contents = name in now and moved.get(name) not in (None, name)
        if now.get(name) != after.get(name) or has_other_contents or gone_to.get(name, name) != name:
            raise SchemaConflict(key, name, after.get(name), now.get(name))
    target = before if now == after else _target(before, after, now, origins, affected)
    homes = {field.name: origins[field.name] if field.name in affected else field.name for field in now}
    taken = set(homes.values())
    # A field that comes back under the name of one that goes replaces it.
    stays = {name: name for name, home in homes.items() if home is None and name in target and name not in taken}
    return WayBack(target, {**homes, **stays})


def _remaining_changes(key: str, now: Schema, touched: TouchedType) -> Schema:
    """Return the schema of a type after the ops of the change alone."""
    schema = touched.before
    for op in touched.ops:
        try:
            schema = edit(op, schema)
        except OpRefused:
            name = op.field or ""
            raise SchemaConflict(key, name, touched.after.get(name), now.get(name)) from None
    return schema


def _target(
    before: Schema, after: Schema, now: Schema, origins: Mapping[str, str | None], affected: set[str]
) -> Schema:
    """Return the present schema of a type without the effect of the change."""
    survivors = [origin for field in after if (origin := origins[field.name]) is not None]
    stayed = longest_ordered(survivors, before.names)
    lost = set(before.names).difference(survivors)
    returning = {field.name: field for field in before if field.name in lost}
    standing: list[Field] = []
    for field in now:
        found = _original(before, origins[field.name]) if field.name in affected else field
        if found is None:
            continue
        if found.name in before and found.name not in stayed:
            returning[found.name] = found
        else:
            standing.append(found)
    return Schema(_restore(before, standing, returning))


def _original(before: Schema, origin: str | None) -> Field | None:
    return before.get(origin) if origin is not None else None


def _restore(before: Schema, standing: list[Field], returning: Mapping[str, Field]) -> tuple[Field, ...]:
    """Return fields with others inserted at their former places: before the next field that exists."""
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
