"""Orders the ops of a compensation so that each step keeps the rules for base types."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import count

from actionengine.changes.ops import OpType, PatchOp
from actionengine.changes.transform import OpRefused, apply_op
from actionengine.changes.type_graph import TypeGraph
from actionengine.schemas.schema import Field, Schema
from actionengine.storage.records import same_json


@dataclass(frozen=True, slots=True)
class WayBack:
    """The schema that a type goes back to, and for each present field its name there; None for a field that goes."""

    target: Schema
    homes: Mapping[str, str | None]


def plan_ops(graph: TypeGraph, ways: Mapping[str, WayBack]) -> tuple[PatchOp, ...]:
    """Return ops that lead each type to its target. Raises `OpRefused` if no order keeps the rules."""
    return _Planner(graph, ways).plan()


def longest_ordered(names: Sequence[str], order: Sequence[str]) -> set[str]:
    """Return as many names as possible that come in the same sequence in an order.

    This is the longest increasing subsequence, found by patience sorting (Fredman 1975) in O(n log n).
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


class _Phase(IntEnum):
    """The phase of an op, so that E7 holds at each step: base types relax first and require last. A base type that
    relaxes a field for the time being requires it `AGAIN` at the end."""

    RENAME = 0
    RELAX = 1
    EDIT = 2
    REQUIRE = 3
    AGAIN = 4


@dataclass(eq=False, slots=True)
class _Task:
    """One op to plan; `name` is the final name of its field, or the present one of a field that goes. `after` is
    another task of the field that comes first."""

    kind: OpType
    key: str
    name: str
    phase: _Phase
    order: int
    after: _Task | None = None
    is_done: bool = False


class _Planner:
    """Tries the tasks of all types until each is done, and keeps the ops."""

    def __init__(self, graph: TypeGraph, ways: Mapping[str, WayBack]) -> None:
        self._graph = graph
        self._ways = ways
        self._schemas = graph.schemas
        self._ops: list[PatchOp] = []
        # By type: the present name of each field, by its final name; and the names that are in the final order.
        self._names = {
            key: {home: name for name, home in way.homes.items() if home is not None} for key, way in ways.items()
        }
        self._final_names = {key: _final_names(list(self._names[key]), way.target.names) for key, way in ways.items()}
        self._relaxed: set[tuple[str, str]] = set()
        self._between: set[tuple[str, str]] = set()

    def plan(self) -> tuple[PatchOp, ...]:
        """Return the ops. Raises `OpRefused` if there is no order for them."""
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
            if home not in self._final_names[key] or not _has_same_definition(old, new):
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
        """Try a task; return it with the refusal if its op was refused."""
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
        """Insert an op that unblocks a task, when each waits for another; return tasks that have to follow it.

        Raises the `OpRefused` of a task if no such op exists.
        """
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
        """Give the field of a rename an intermediate name, once."""
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
        """Relax a field in the topmost base type that requires it, for the time being; return the key of that type and
        the final name of the field."""
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
    """Return the present names, each after the name that it replaces."""
    ordered: dict[str, None] = {}
    for name in homes:
        chain: dict[str, None] = {}
        next_name: str | None = name
        while next_name is not None and next_name in homes and next_name not in ordered and next_name not in chain:
            chain[next_name] = None
            next_name = homes[next_name] if homes[next_name] != next_name else None
        ordered.update(dict.fromkeys(reversed(chain)))
    return list(ordered)


def _has_same_definition(one: Field, other: Field) -> bool:
    return same_json(_without_name(one), _without_name(other))


def _phase(old: Field | None, new: Field | None) -> _Phase:
    was, becomes = old is not None and old.required, new is not None and new.required
    if was == becomes:
        return _Phase.EDIT
    return _Phase.REQUIRE if becomes else _Phase.RELAX


def _final_names(present: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return the final names of the fields that need not be moved. The last field is one of them, since a field can
    only be moved before another one."""
    if not present:
        return set()
    here = set(present)
    last = next(name for name in reversed(names) if name in here)
    return longest_ordered(present[: present.index(last)], names) | {last}


def _without_name(field: Field) -> dict[str, object]:
    return {part: value for part, value in field.definition.items() if part != "name"}


def _op(op_type: OpType, key: str, **payload: object) -> PatchOp:
    return PatchOp(op_type, {"record_type": key, **payload})
