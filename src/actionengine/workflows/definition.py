"""Definitions of workflows: data, checked when they are defined.

A definition has an input (the fields that a run is started with), steps, and perhaps a trigger. The first step is where
a run begins; each step says what comes `next`, or the one after it does; `"end"` ends the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from croniter import croniter  # type: ignore[import-untyped]
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticSerializationError, to_json

from actionengine.changes.models import SchemaDefinition
from actionengine.changes.ops import Name
from actionengine.errors import ActionException, ErrorCode, failing
from actionengine.payload import refusals, summary
from actionengine.storage.port import RESERVED_PREFIX
from actionengine.workflows.conditions import DEEPEST, Condition, depth, paths
from actionengine.workflows.values import ROOTS, Path, references

END = "end"
PAUSE = "pause"
FAIL = "fail"
RESERVED = frozenset({END, PAUSE, FAIL})
"""What a step is not called, because it stands where names of steps do."""

MOST_STEPS = 200
MOST_BYTES = 256 * 1024

_DAY = 24 * 60 * 60.0


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _refers_well(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name != "description":
            list(references(value))
        return value


def _own_name(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name!r} says where a run goes, and cannot be the name of a step")
    if "." in name or "/" in name:
        raise ValueError(f"the name of a step has no dot and no slash in it: {name!r}")
    return name


StepName = Annotated[Name, AfterValidator(_own_name)]
Text = Annotated[str, Field(min_length=1, max_length=10_000)]
"""A text, perhaps with references."""


def _literal(name: str) -> str:
    if list(references(name)):
        raise ValueError(f"{name!r} is taken as it stands, so it refers to nothing")
    return name


def _action(name: str) -> str:
    service, _, action = _literal(name).partition(".")
    if not service or not action or "." in action:
        raise ValueError(f"an action is named service.action, not {name!r}")
    return name


def _collection(name: str) -> str:
    if name.startswith(RESERVED_PREFIX):
        raise ValueError(f"collections that begin with {RESERVED_PREFIX!r} are the library's own")
    return _literal(name)


class Retry(_Part):
    """How often a step is tried that fails with what may pass (`conflict`, `timeout`, `unavailable`, `handler_error`),
    and after how many seconds for the second time; each further wait is twice as long."""

    attempts: int = Field(default=3, ge=1, le=20)
    seconds: float = Field(default=0.5, gt=0, le=3600)


class _Step(_Part):
    name: StepName
    description: str = Field(default="", max_length=1000)
    next: Name | None = None
    """The step that follows: the one after it where none is named."""
    on_failure: Name = PAUSE
    """Where a run goes when the step has failed for good: `pause`, so that a person can look and resume it; `fail`,
    which ends it; or the name of a step."""
    retry: Retry = Retry()
    max_visits: int | None = Field(default=None, ge=1, le=10_000)
    """How often a run may come here; what makes a cycle end."""

    gives: ClassVar[frozenset[str] | None] = frozenset()
    """The members of its output; None where only running it tells."""

    @property
    def reads(self) -> Iterator[tuple[Path, bool]]:
        """The paths that it refers to, each with whether they have to be there."""
        for name, value in self:
            if name not in ("name", "description", "next", "on_failure"):
                for path in references(value):
                    yield path, True

    def goes_to(self, following: str) -> Iterator[str]:
        """Where a run may go from here; `following` is what comes after it."""
        yield self.next or following
        if self.on_failure not in RESERVED:
            yield self.on_failure

    @property
    def goes_on_failed(self) -> bool:
        """Whether a run can go on from here although the step has not succeeded: then its output has an `error`."""
        return self.on_failure not in RESERVED


class ActionStep(_Step):
    """Executes an action, as the workflow."""

    type: Literal["action"]
    action: Annotated[str, AfterValidator(_action)]
    input: JsonValue = Field(default_factory=dict)

    gives: ClassVar[frozenset[str] | None] = None


class AssignmentStep(_Step):
    """Gives somebody something to do: a document of the collection `workflow_assignments`."""

    type: Literal["assignment"]
    assignee: Text
    title: Text
    details: dict[str, JsonValue] = Field(default_factory=dict)

    gives: ClassVar[frozenset[str] | None] = frozenset({"id", "assignee", "title"})


class ApprovalStep(_Step):
    """Waits until somebody with the permission approves, by the service `approvals`. Whoever started the run may not,
    unless `by_starter` says so."""

    type: Literal["approval"]
    permission: Annotated[Name, AfterValidator(_literal)]
    message: Text
    expires_after: float = Field(default=7 * _DAY, gt=0, le=366 * _DAY)
    """Seconds."""
    on_reject: Name = FAIL
    by_starter: bool = False

    gives: ClassVar[frozenset[str] | None] = frozenset({"approved_by", "approval_id", "approved_at"})

    def goes_to(self, following: str) -> Iterator[str]:
        """Where a run may go from here."""
        yield from super().goes_to(following)
        if self.on_reject not in RESERVED:
            yield self.on_reject

    @property
    def goes_on_failed(self) -> bool:
        """Whether a run can go on from here although the step has not succeeded."""
        return super().goes_on_failed or self.on_reject not in RESERVED


class NotificationStep(_Step):
    """Tells somebody something: an event `workflows.notification`, which the host's publisher delivers."""

    type: Literal["notification"]
    to: Text | tuple[Text, ...]
    message: Text
    subject: str = Field(default="", max_length=1000)
    channel: str = Field(default="", max_length=100)
    data: dict[str, JsonValue] = Field(default_factory=dict)


def _shallow(condition: Condition) -> Condition:
    if depth(condition) > DEEPEST:
        raise ValueError(f"conditions stand in each other at most {DEEPEST} deep")
    return condition


When = Annotated[Condition, AfterValidator(_shallow)]


class Branch(_Part):
    """Where to go when a condition holds."""

    when: When
    next: Name


class DecisionStep(_Step):
    """Goes where the first branch leads whose condition holds, and otherwise where `otherwise` says."""

    type: Literal["decision"]
    branches: tuple[Branch, ...] = Field(min_length=1, max_length=50)
    otherwise: Name

    gives: ClassVar[frozenset[str] | None] = frozenset({"next"})

    @model_validator(mode="after")
    def _says_where_by_its_branches(self) -> DecisionStep:
        if self.next is not None:
            raise ValueError("a decision has no `next`: its branches and `otherwise` say where it goes")
        return self

    @property
    def reads(self) -> Iterator[tuple[Path, bool]]:
        """The paths that its conditions read."""
        for branch in self.branches:
            yield from paths(branch.when)

    def goes_to(self, following: str) -> Iterator[str]:
        """Where a run may go from here."""
        for branch in self.branches:
            yield branch.next
        yield self.otherwise
        if self.on_failure not in RESERVED:
            yield self.on_failure


class RecordMutationStep(_Step):
    """Inserts, changes or deletes a document. A change replaces the top-level fields that `data` has."""

    type: Literal["record_mutation"]
    collection: Annotated[Name, AfterValidator(_collection)]
    operation: Literal["insert", "update", "delete"]
    id: Text | None = None
    data: dict[str, JsonValue] | None = None

    gives: ClassVar[frozenset[str] | None] = frozenset({"id", "version", "data"})

    @model_validator(mode="after")
    def _has_what_its_operation_needs(self) -> RecordMutationStep:
        if self.id is None and self.operation != "insert":
            raise ValueError(f"to {self.operation} a document, say its `id`")
        if (self.data is None) == (self.operation != "delete"):
            raise ValueError(f"`data` is for insert and update, and needed there: this is {self.operation}")
        return self


class RecordLockStep(_Step):
    """Keeps everybody but this run from changing or deleting a document, until the run ends, `release`s it, or
    `expires_after` seconds are over. Where another run has it, this is `conflict`, and tried again."""

    type: Literal["record_lock"]
    collection: Annotated[Name, AfterValidator(_collection)]
    id: Text
    operation: Literal["lock", "release"] = "lock"
    expires_after: float = Field(default=_DAY, gt=0, le=366 * _DAY)

    gives: ClassVar[frozenset[str] | None] = frozenset({"collection", "id", "version"})


Step = Annotated[
    ActionStep | AssignmentStep | ApprovalStep | NotificationStep | DecisionStep | RecordMutationStep | RecordLockStep,
    Field(discriminator="type"),
]


def cron(schedule: str) -> str:
    """A schedule. Raises `ValueError` for one that is none."""
    if not croniter.is_valid(schedule, second_at_beginning=True):
        raise ValueError(f"{schedule!r} is no schedule: it has five fields, as in '0 9 * * MON-FRI'")
    return schedule


def zone(name: str) -> str:
    """A time zone's name. Raises `ValueError` for one that there is not."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r}; name one as in Europe/Berlin") from None
    return name


class EventTrigger(_Part):
    """Starts a run for each event of a type for which `when` holds; `input` refers to the event as `input`: its
    `payload`, `id`, `type`, `subject`, `actor` and `occurred_at`. What workflows themselves have caused starts none,
    unless `from_workflows`."""

    type: Literal["event"]
    event_type: Name
    when: When | None = None
    input: dict[str, JsonValue] = Field(default_factory=dict)
    from_workflows: bool = False

    @model_validator(mode="after")
    def _asks_the_event(self) -> EventTrigger:
        asked = [path for path, _ in paths(self.when)] if self.when is not None else []
        for path in (*asked, *references(self.input)):
            if path[0] != "input" or path[1] not in _EVENT:
                raise ValueError(f"{'.'.join(path)!r}: a trigger knows input.{', input.'.join(sorted(_EVENT))}")
        return self


_EVENT = frozenset({"payload", "id", "type", "subject", "actor", "occurred_at"})


class ScheduleTrigger(_Part):
    """Starts a run at each time of a schedule (cron, of five fields or six with seconds first). `input` may refer to
    `input.scheduled_at`."""

    type: Literal["schedule"]
    schedule: Annotated[str, Field(max_length=100), AfterValidator(cron)]
    timezone: Annotated[str, AfterValidator(zone)] = "UTC"
    input: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _asks_the_time(self) -> ScheduleTrigger:
        for path in references(self.input):
            if path != ("input", "scheduled_at"):
                raise ValueError(f"{'.'.join(path)!r}: a schedule knows input.scheduled_at")
        return self


Trigger = Annotated[EventTrigger | ScheduleTrigger, Field(discriminator="type")]


class Definition(_Part):
    """A workflow, as data. `input` has the fields that a run is started with; without it, any will do."""

    input: SchemaDefinition | None = None
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MOST_STEPS)
    trigger: Trigger | None = None
    max_steps: int = Field(default=1000, ge=1, le=100_000)
    """Steps that one run takes at most."""

    def step(self, name: str) -> Step:
        """The step of this name. Raises `KeyError`."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def following(self, name: str) -> str:
        """What comes after a step where it does not say: the next one, or the end."""
        names = [step.name for step in self.steps]
        after = names.index(name) + 1
        return names[after] if after < len(names) else END

    @model_validator(mode="after")
    def _hangs_together(self) -> Definition:
        _check_names(self)
        _check_reachable(self)
        _check_cycles(self)
        _check_references(self)
        _check_trigger(self)
        return self


_DEFINITION: TypeAdapter[Definition] = TypeAdapter(Definition)


def parse_definition(given: Mapping[str, Any]) -> Definition:
    """A definition. Raises `ActionException(invalid_input)`, which says of each part what is wrong with it."""
    try:
        if len(to_json(given)) > MOST_BYTES:
            raise failing(ErrorCode.INVALID_INPUT, f"the definition is too long: it has at most {MOST_BYTES >> 10} KB")
        return _DEFINITION.validate_python(given)
    except ValidationError as error:
        fields = refusals(error)
        raise failing(ErrorCode.INVALID_INPUT, f"the definition: {summary(fields, whole='')}", fields=fields) from None
    except (PydanticSerializationError, RecursionError):
        raise failing(ErrorCode.INVALID_INPUT, "the definition is nested too deeply, or is not JSON") from None


def document(definition: Definition) -> dict[str, Any]:
    """A definition as it is stored."""
    return definition.model_dump(mode="json", by_alias=True, exclude_unset=True)


# The checks


def _edges(definition: Definition) -> dict[str, list[str]]:
    edges: dict[str, list[str]] = {}
    for step in definition.steps:
        edges[step.name] = list(dict.fromkeys(step.goes_to(definition.following(step.name))))
    return edges


def _check_names(definition: Definition) -> None:
    for name, count in Counter(step.name for step in definition.steps).items():
        if count > 1:
            raise ValueError(f"there are {count} steps of the name {name!r}")
    names = {step.name for step in definition.steps}
    for step in definition.steps:
        for target in step.goes_to(definition.following(step.name)):
            if target != END and target not in names:
                raise ValueError(f"the step {step.name!r} leads to {target!r}, and there is no such step")
        for target in (step.on_failure, *((step.on_reject,) if isinstance(step, ApprovalStep) else ())):
            if target == END:
                raise ValueError(f"the step {step.name!r}: a failure goes to {PAUSE!r}, {FAIL!r} or a step")


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
        for path, _ in step.reads:
            _check_reference(step.name, path, declared, steps, before[step.name])


def _check_reference(
    name: str, path: Path, declared: set[str] | None, steps: Mapping[str, Step], before: set[str]
) -> None:
    whole, (root, member, *rest) = ".".join(path), path
    if root == "input" and declared is not None and member not in declared:
        raise ValueError(f"the step {name!r} reads {whole}: the input has no field {member!r}")
    if root == "run" and member not in _RUN:
        raise ValueError(f"the step {name!r} reads {whole}: a run has {', '.join(sorted(_RUN))}")
    if root != "steps":
        return
    if member not in steps:
        raise ValueError(f"the step {name!r} reads {whole}: there is no step {member!r}")
    if member not in before:
        raise ValueError(f"the step {name!r} reads {whole}: no run has been at {member!r} by then")
    gives = steps[member].gives
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


_RUN = frozenset({"id", "workflow", "started_by"})
assert set(ROOTS) == {"input", "steps", "run"}


def _reachable(start: str, edges: Mapping[str, list[str]], include_start: bool = True) -> set[str]:
    found = {start} if include_start else set()
    waiting = [start]
    while waiting:
        for target in edges.get(waiting.pop(), ()):
            if target not in found:
                found.add(target)
                waiting.append(target)
    return found


def no_such_step(name: str) -> ActionException:
    """The answer for a run whose definition has no such step."""
    return failing(ErrorCode.INTERNAL, f"the definition has no step {name!r}")
