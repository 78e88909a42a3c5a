"""Checks that a definition is consistent: its names, the steps that follow each other, its cycles, its references.

Each check raises `ValueError`, which names the step and the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from actionengine.conditions.templates import Path
from actionengine.schemas.fields import FieldDefinition
from actionengine.text.names import nfc
from actionengine.workflows.definitions.steps import END, FAIL, PAUSE, ApprovalStep, DecisionStep, Step
from actionengine.workflows.definitions.triggers import Trigger

Edges = Mapping[str, Sequence[str]]
"""The steps that a run may take after each step, by name."""

_RUN_MEMBERS = frozenset({"id", "workflow", "started_by"})
"""The members of `run` in references; see `step_handlers.run_scope`."""

_FAILURE_TARGETS = f"{PAUSE!r}, {FAIL!r} or a step"


def check_consistency(steps: Sequence[Step], fields: Sequence[FieldDefinition] | None, trigger: Trigger | None) -> None:
    """Raise `ValueError` for the first check that fails. `fields` are those of the input; None takes any input."""
    _check_unique_names(steps)
    edges = {step.name: list(dict.fromkeys(step.targets(next))) for step, next in zip(steps, _next(steps), strict=True)}
    for step in steps:
        _check_targets(step, edges)
    _check_reachable(steps[0].name, edges)
    _check_cycles(steps, edges)
    _check_references(steps, fields, edges)
    if trigger is not None and fields is not None:
        _check_trigger(trigger, fields)


def _next(steps: Sequence[Step]) -> list[str]:
    return [*(step.name for step in steps[1:]), END]


def _check_unique_names(steps: Sequence[Step]) -> None:
    for name, count in Counter(step.name for step in steps).items():
        if count > 1:
            raise ValueError(f"{count} steps have the name {name!r}: give each its own")


def _check_targets(step: Step, edges: Edges) -> None:
    for target in edges[step.name]:
        if target != END and target not in edges:
            key = _key_of(step, target)
            raise ValueError(f"the step {step.name!r} leads to {target!r} by {key}, but no step has that name")
    if step.on_failure == END:
        raise ValueError(f"the step {step.name!r} has `on_failure` {END!r}: name {_FAILURE_TARGETS}")
    if isinstance(step, ApprovalStep) and step.on_reject == END:
        raise ValueError(f"the step {step.name!r} has `on_reject` {END!r}: name {_FAILURE_TARGETS}")


def _key_of(step: Step, target: str) -> str:
    """Return the key under which the author of a step wrote this target."""
    if isinstance(step, DecisionStep):
        for number, branch in enumerate(step.branches):
            if branch.next == target:
                return f"`branches[{number}].next`"
    keys = ("next", "otherwise", "on_failure", "on_reject")
    return next((f"`{key}`" for key in keys if getattr(step, key, None) == target), "`next`")


def _check_reachable(first: str, edges: Edges) -> None:
    reached = {first, *_reachable(first, edges)}
    lost = [name for name in edges if name not in reached]
    if lost:
        raise ValueError(f"no run reaches {', '.join(map(repr, lost))}: no step leads there")


def _check_cycles(steps: Sequence[Step], edges: Edges) -> None:
    """Check that each cycle has a step with `max_visits`: without those steps, none is left (depth-first search)."""
    bounded = {step.name for step in steps if step.max_visits is not None}
    unbounded = {
        name: [target for target in targets if target != END and target not in bounded]
        for name, targets in edges.items()
        if name not in bounded
    }
    done: set[str] = set()
    for first in unbounded:
        trail: dict[str, Iterator[str]] = {} if first in done else {first: iter(unbounded[first])}
        while trail:
            name = next(reversed(trail))
            target = next((each for each in trail[name] if each not in done), None)
            if target is None:
                done.add(name)
                del trail[name]
            elif target in trail:
                cycle = [*list(trail)[list(trail).index(target) :], target]
                raise ValueError(f"the cycle {' → '.join(cycle)} has no end: give one of its steps `max_visits`")
            else:
                trail[target] = iter(unbounded[target])


def _check_references(steps: Sequence[Step], fields: Sequence[FieldDefinition] | None, edges: Edges) -> None:
    names = None if fields is None else {field.name for field in fields}
    by_name = {step.name: step for step in steps}
    before: dict[str, set[str]] = {name: set() for name in by_name}
    for name in by_name:
        for after in _reachable(name, edges):
            if after in before:
                before[after].add(name)
    for step in steps:
        for path, _ in step.references:
            reason = _reference_error(path, names, by_name, before[step.name])
            if reason is not None:
                raise ValueError(f"the step {step.name!r} reads {'.'.join(path)}: {reason}")


def _reference_error(path: Path, fields: set[str] | None, steps: Mapping[str, Step], before: set[str]) -> str | None:
    """Return the reason why a step cannot read a path, or None. `before` are the steps that may come before it."""
    root, member, *rest = path
    member = nfc(member)
    if root == "input" and fields is not None and member not in fields:
        return f"the input has no field {member!r}"
    if root == "run" and member not in _RUN_MEMBERS:
        return f"a run has {', '.join(sorted(_RUN_MEMBERS))}"
    if root != "steps":
        return None
    if member not in steps:
        return f"there is no step {member!r}"
    if member not in before:
        return f"no run takes {member!r} before it"
    output = steps[member].output_fields
    if output is not None and steps[member].continues_after_failure:
        output |= {"error"}
    if rest and output is not None and rest[0] not in output:
        return f"the output of {member!r} has {', '.join(sorted(output)) or 'no fields'}"
    return None


def _check_trigger(trigger: Trigger, fields: Sequence[FieldDefinition]) -> None:
    """Check that the trigger sets only fields of the input, and all required ones."""
    given = trigger.input.keys()
    for field in fields:
        if field.required and field.name not in given:
            raise ValueError(f"the trigger sets no {field.name!r}, which the input requires")
    for name in given - {field.name for field in fields}:
        raise ValueError(f"the trigger sets {name!r}, but the input has no such field")


def _reachable(start: str, edges: Edges) -> set[str]:
    """Return what one step or more lead to from `start`."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for target in edges.get(waiting.pop(), ()):
            if target not in found:
                found.add(target)
                waiting.append(target)
    return found
