"""Whether a definition hangs together: its names, where its steps lead, its cycles, and what its steps read.

Each check raises `ValueError`, naming the step and what is wrong with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from actionengine.conditions.templates import Path
from actionengine.text.names import nfc
from actionengine.workflows.definitions.steps import END, FAIL, PAUSE, ApprovalStep, DecisionStep, Step

if TYPE_CHECKING:
    from actionengine.workflows.definitions.definition import Definition

_OF_RUN = frozenset({"id", "workflow", "started_by"})
"""What a run says of itself; see `step_handlers.run_scope`."""

_WAYS = f"{PAUSE!r}, {FAIL!r} or a step"


def check(definition: Definition) -> None:
    """Do each of the checks. Raises `ValueError` for the first that fails."""
    _check_names(definition)
    _check_reachable(definition)
    _check_cycles(definition)
    _check_references(definition)
    _check_trigger(definition)


def _edges(definition: Definition) -> dict[str, list[str]]:
    edges: dict[str, list[str]] = {}
    for step in definition.steps:
        edges[step.name] = list(dict.fromkeys(step.targets(definition.next_step(step.name))))
    return edges


def _check_names(definition: Definition) -> None:
    for name, count in Counter(step.name for step in definition.steps).items():
        if count > 1:
            raise ValueError(f"there are {count} steps of the name {name!r}")
    names = {step.name for step in definition.steps}
    for step in definition.steps:
        for target in step.targets(definition.next_step(step.name)):
            if target != END and target not in names:
                key = _key_of(step, target)
                raise ValueError(f"the step {step.name!r} leads to {target!r}, and there is no such step: see {key}")
        if step.on_failure == END:
            raise ValueError(f"the step {step.name!r}: a failure goes to {_WAYS}: `on_failure` is {END!r}")
        if isinstance(step, ApprovalStep) and step.on_reject == END:
            raise ValueError(f"the step {step.name!r}: a rejection goes to {_WAYS}: `on_reject` is {END!r}")


def _key_of(step: Step, target: str) -> str:
    """The key of a step under which a target stands, as its author wrote it."""
    if isinstance(step, DecisionStep):
        for number, branch in enumerate(step.branches):
            if branch.next == target:
                return f"`branches[{number}].next`"
    keys = ("next", "otherwise", "on_failure", "on_reject")
    return next((f"`{key}`" for key in keys if getattr(step, key, None) == target), "`next`")


def _check_reachable(definition: Definition) -> None:
    edges = _edges(definition)
    found = _reachable(definition.steps[0].name, edges)
    lost = [step.name for step in definition.steps if step.name not in found]
    if lost:
        raise ValueError(f"no run comes to {', '.join(map(repr, lost))}: no step leads there")


def _check_cycles(definition: Definition) -> None:
    """Each cycle has a step with `max_visits` in it: without those steps there is none (depth-first search)."""
    bounded = {step.name for step in definition.steps if step.max_visits is not None}
    edges = {
        name: [target for target in targets if target != END and target not in bounded]
        for name, targets in _edges(definition).items()
        if name not in bounded
    }
    done: set[str] = set()
    for first in edges:
        trail: dict[str, Iterator[str]] = {} if first in done else {first: iter(edges[first])}
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
                trail[target] = iter(edges[target])


def _check_references(definition: Definition) -> None:
    declared = None if definition.input is None else {field.name for field in definition.input.fields}
    edges = _edges(definition)
    steps = {step.name: step for step in definition.steps}
    before: dict[str, set[str]] = {name: set() for name in steps}
    for name in steps:
        for after in _reachable(name, edges, include_start=False):
            if after in before:
                before[after].add(name)
    for step in definition.steps:
        for path, _ in step.references:
            _check_reference(step.name, path, declared, steps, before[step.name])


def _check_reference(
    name: str, path: Path, declared: set[str] | None, steps: Mapping[str, Step], before: set[str]
) -> None:
    whole, (root, member, *rest) = ".".join(path), path
    member = nfc(member)
    if root == "input" and declared is not None and member not in declared:
        raise ValueError(f"the step {name!r} reads {whole}: the input has no field {member!r}")
    if root == "run" and member not in _OF_RUN:
        raise ValueError(f"the step {name!r} reads {whole}: a run has {', '.join(sorted(_OF_RUN))}")
    if root != "steps":
        return
    if member not in steps:
        raise ValueError(f"the step {name!r} reads {whole}: there is no step {member!r}")
    if member not in before:
        raise ValueError(f"the step {name!r} reads {whole}: no run has been at {member!r} by then")
    gives = steps[member].output_fields
    if gives is not None and steps[member].goes_on_failed:
        gives |= {"error"}
    if rest and gives is not None and rest[0] not in gives:
        given = ", ".join(sorted(gives)) or "nothing"
        raise ValueError(f"the step {name!r} reads {whole}: {member!r} gives {given}")


def _check_trigger(definition: Definition) -> None:
    """What the trigger starts a run with has the fields that there are, and all that are required."""
    if definition.trigger is None or definition.input is None:
        return
    given = definition.trigger.input.keys()
    for field in definition.input.fields:
        if field.required and field.name not in given:
            raise ValueError(f"the trigger gives no {field.name!r}, which the input requires")
    for name in given - {field.name for field in definition.input.fields}:
        raise ValueError(f"the trigger gives {name!r}: the input has no such field")


def _reachable(start: str, edges: Mapping[str, list[str]], include_start: bool = True) -> set[str]:
    found = {start} if include_start else set()
    waiting = [start]
    while waiting:
        for target in edges.get(waiting.pop(), ()):
            if target not in found:
                found.add(target)
                waiting.append(target)
    return found
