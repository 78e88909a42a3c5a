"""The ops that take back what a change has done.

First each type's way back is worked out: its schema as it was, and for each field of today the name to which it goes
back. The ops follow from these. A field that goes back to another name is renamed, over a name between where fields
change places, so that a host that moves the contents of documents by the diffs loses nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import count

from actionengine.changes.diff import original_names
from actionengine.changes.ops import OpType, PatchOp
from actionengine.changes.transform import OpRefused, TypeGraph, apply_op, check_graph, edit, transform
from actionengine.schemas.schema import Field, Schema
from actionengine.storage.records import same_json


class SchemaConflict(Exception):
    """A field that a change has touched was touched again since."""

    def __init__(self, key: str, field: str, then: Field | None, now: Field | None) -> None:
        super().__init__(f"{key}.{field} has changed since")
        self.key = key
        self.field = field
        self.then = then
        self.now = now


@dataclass(frozen=True, slots=True)
class TouchedType:
    """The effect of a change on one record type: its schema before and after, and the ops of the change between;
    `since` are the ops of other changes that came afterwards.

    Where it was executed in several goes, others may have been at work between them: what `ops` do not do is not its.
    """

    before: Schema
    after: Schema
    ops: Sequence[PatchOp]
    since: Sequence[PatchOp] = ()

    @property
    def removed(self) -> list[str]:
        """The fields that the change removed: what documents had in them does not come back."""
        kept = set(original_names(self.before, self.ops).values())
        return [name for name in self.before.names if name not in kept]


def compensation(graph: TypeGraph, touched: Mapping[str, TouchedType]) -> tuple[PatchOp, ...]:
    """Return ops which, applied to the types as they are now, take back what a change has done to those that it
    touched.

    Where nothing has changed since, they restore the schemas as they were before it, to the order of the fields. Raises
    `SchemaConflict` for a field that has, and `OpRefused` where the rules for base types do not let it be taken back.
    """
    check_graph(graph, graph.schemas)
    ways = {key: _way_back(key, each, graph.types[key].schema) for key, each in touched.items()}
    ops = _Planner(graph, ways).plan()
    transform(graph, ops)
    return ops


@dataclass(frozen=True, slots=True)
class _WayBack:
    """The schema of a type as it will be, and for each field of today its name there; None for one that goes."""

    target: Schema
    homes: Mapping[str, str | None]


def _way_back(key: str, touched: TouchedType, now: Schema) -> _WayBack:
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
    # A field that comes back under the name of one that goes takes its place.
    stays = {name: name for name, home in homes.items() if home is None and name in target and name not in taken}
    return _WayBack(target, {**homes, **stays})


def _remaining_changes(key: str, now: Schema, touched: TouchedType) -> Schema:
    """What the ops of a change alone have made of a type."""
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
    """Return the schema of a type as it will be: as it is now, but for what the change has done."""
    survivors = [origin for field in after if (origin := origins[field.name]) is not None]
    stayed = _in_order(survivors, before.names)
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
    """When an op comes, so that E7 holds at each step: bases let go first, and require last. What a base requires no
    longer for a while, it requires `AGAIN` once all else is done."""

    RENAME = 0
    RELAX = 1
    EDIT = 2
    REQUIRE = 3
    AGAIN = 4


@dataclass(eq=False, slots=True)
class _Task:
    """One thing to do with a field of a type; `name` is the field's name in the end, of one that goes today's. It comes
    `after` another task of the field."""

    kind: OpType
    key: str
    name: str
    phase: _Phase
    order: int
    after: _Task | None = None
    is_done: bool = False


class _Planner:
    """Puts tasks into an order in which each step satisfies the rules for base types."""

    def __init__(self, graph: TypeGraph, ways: Mapping[str, _WayBack]) -> None:
        self._graph = graph
        self._ways = ways
        self._schemas = graph.schemas
        self._ops: list[PatchOp] = []
        # By type: the present name of each field, by its name in the end; and the names that are in their order.
        self._names = {
            key: {home: name for name, home in way.homes.items() if home is not None} for key, way in ways.items()
        }
        self._final_names = {key: _final_names(list(self._names[key]), way.target.names) for key, way in ways.items()}
        self._relaxed: set[tuple[str, str]] = set()
        self._between: set[tuple[str, str]] = set()

    def plan(self) -> tuple[PatchOp, ...]:
        """Return the ops. Raises `OpRefused` where there are none."""
        waiting = [task for key in self._ways for task in self._tasks(key)]
        while waiting:
            waiting.sort(key=lambda task: (task.phase, task.order))
            ready = [task for task in waiting if task.phase is not _Phase.AGAIN] or waiting
            refusals = [refusal for task in ready if (refusal := self._attempt(task)) is not None]
            left = [task for task in waiting if not task.is_done]
            if len(left) == len(waiting):
                left += self._make_way(refusals, left)
            waiting = left
        return tuple(self._ops)

    def _tasks(self, key: str) -> Iterator[_Task]:
        now, way = self._graph.types[key].schema, self._ways[key]
        depth = len(tuple(self._graph.ancestors(key)))
        for name in _vacated_first(way.homes):
            old, home = now.get(name), way.homes[name]
            assert old is not None
            if home is None:
                yield _Task("remove_field", key, name, _phase(old, None), depth)
                continue
            new = way.target.get(home)
            assert new is not None
            first: _Task | None = None
            if home not in self._final_names[key] or not _says_the_same(old, new):
                phase = _phase(old, new)
                change = _Task("set_field", key, home, phase, -depth if phase is _Phase.REQUIRE else depth)
                if name != home and phase is not _Phase.RELAX:
                    first = change.after = _Task("rename_field", key, home, _Phase.RENAME, depth)
                    yield first
                yield change
                first = first or change
            if name != home and (first is None or first.kind != "rename_field"):
                yield _Task("rename_field", key, home, _Phase.RENAME, depth, after=first)
        for new in way.target:
            if new.name not in self._names[key]:
                phase = _phase(None, new)
                yield _Task("add_field", key, new.name, phase, -depth if phase is _Phase.REQUIRE else depth)

    def _attempt(self, task: _Task) -> tuple[_Task, OpRefused] | None:
        """Do a task; return why it cannot be done yet, where an op of it was refused."""
        if task.after is not None and not task.after.is_done:
            return None
        try:
            self._apply(self._op(task))
        except OpRefused as refused:
            return task, refused
        task.is_done = True
        if task.kind in ("rename_field", "add_field"):
            self._names[task.key][task.name] = task.name
        if task.kind in ("set_field", "add_field"):
            self._final_names[task.key].add(task.name)
        return None

    def _op(self, task: _Task) -> PatchOp:
        key, name = task.key, task.name
        if task.kind == "remove_field":
            return _op("remove_field", key, field=name)
        overrides = {"override": True} if self._graph.declaring(key, name, self._schemas) is not None else {}
        if task.kind == "rename_field":
            return _op("rename_field", key, old_name=self._names[key][name], new_name=name, **overrides)
        target = self._ways[key].target
        found = target.get(name)
        assert found is not None
        payload: dict[str, object] = {"definition": _without_name(found)}
        if name not in self._final_names[key]:
            later = target.names[target.names.index(name) + 1 :]
            if (following := next((other for other in later if other in self._final_names[key]), None)) is not None:
                payload["before"] = self._names[key][following]
        if task.kind == "set_field":
            return _op("set_field", key, field=self._names[key][name], **payload)
        return _op("add_field", key, field=name, **payload, **overrides)

    def _apply(self, op: PatchOp) -> None:
        assert op.record_type is not None
        self._schemas[op.record_type] = apply_op(self._graph, op, self._schemas)
        self._ops.append(op)

    def _make_way(self, refusals: Sequence[tuple[_Task, OpRefused]], waiting: Sequence[_Task]) -> list[_Task]:
        """Do one thing more that lets a task be done, since each waits for another; return what has to follow.

        Raises the `OpRefused` of a task where there is nothing."""
        for task, refused in refusals:
            if self._is_taken(refused.op) and self._step_aside(task):
                return []
        for task, refused in refusals:
            for name in refused.op.affected_fields:
                if (base := self._relax(task.key, name)) is not None:
                    return self._requiring_again(*base, waiting)
        for task, _ in refusals:
            if self._step_aside(task):
                return []
        raise next((refused for _, refused in refusals if not self._is_taken(refused.op)), refusals[0][1])

    def _is_taken(self, op: PatchOp) -> bool:
        return op.resulting_field is not None and op.resulting_field in self._schemas[op.record_type or ""]

    def _step_aside(self, task: _Task) -> bool:
        """Give the field of a rename a name between, once."""
        if task.kind != "rename_field" or (task.key, task.name) in self._between:
            return False
        self._between.add((task.key, task.name))
        name = self._names[task.key][task.name]
        taken = {field for schema in self._schemas.values() for field in schema.names}
        taken.update(field for way in self._ways.values() for field in way.target.names)
        between = next(each for number in count(1) if (each := f"{name[:90]}~{number}") not in taken)
        try:
            self._apply(_op("rename_field", task.key, old_name=name, new_name=between))
        except OpRefused:
            return False
        self._names[task.key][task.name] = between
        return True

    def _relax(self, key: str, name: str) -> tuple[str, str] | None:
        """Make the topmost base of a type that requires a field require it no longer, for a while; return its key, and
        the name of the field in the end."""
        requiring = [
            base
            for base in self._graph.ancestors(key)
            if (found := self._schemas[base].get(name)) is not None and found.required
        ]
        if not requiring or requiring[-1] not in self._ways or (requiring[-1], name) in self._relaxed:
            return None
        base = requiring[-1]
        self._relaxed.add((base, name))
        found = self._schemas[base].get(name)
        assert found is not None
        self._apply(_op("set_field", base, field=name, definition={**_without_name(found), "required": False}))
        return base, next((home for home, current in self._names[base].items() if current == name), name)

    def _requiring_again(self, base: str, name: str, waiting: Sequence[_Task]) -> list[_Task]:
        own = {task.kind: task for task in waiting if (task.key, task.name) == (base, name)}
        if name not in self._names[base]:
            return []
        if (change := own.get("set_field")) is not None:
            if change.phase is not _Phase.RELAX:
                change.phase = _Phase.AGAIN
            return []
        depth = len(tuple(self._graph.ancestors(base)))
        return [_Task("set_field", base, name, _Phase.AGAIN, -depth, after=own.get("rename_field"))]


def _vacated_first(homes: Mapping[str, str | None]) -> list[str]:
    """Return the names of today, each after the one whose place it takes."""
    ordered: dict[str, None] = {}
    for name in homes:
        chain: dict[str, None] = {}
        next_name: str | None = name
        while next_name is not None and next_name in homes and next_name not in ordered and next_name not in chain:
            chain[next_name] = None
            next_name = homes[next_name] if homes[next_name] != next_name else None
        ordered.update(dict.fromkeys(reversed(chain)))
    return list(ordered)


def _says_the_same(one: Field, other: Field) -> bool:
    return same_json(_without_name(one), _without_name(other))


def _phase(old: Field | None, new: Field | None) -> _Phase:
    was, becomes = old is not None and old.required, new is not None and new.required
    if was == becomes:
        return _Phase.EDIT
    return _Phase.REQUIRE if becomes else _Phase.RELAX


def _final_names(present: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return those of the fields, by their names in the end, that need not be moved. The one that will be the last of
    them is among these, since a field can only be moved to a place before another one."""
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
