"""The types of steps of a definition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from actionengine.conditions.conditions import MAX_CONDITION_DEPTH, Condition, depth, not_empty, paths
from actionengine.conditions.templates import Path, references
from actionengine.schemas.models import Flag, Name, Number, Whole
from actionengine.storage.records import RESERVED_PREFIX
from actionengine.text.names import check_permission

END = "end"
PAUSE = "pause"
FAIL = "fail"
RESERVED = frozenset({END, PAUSE, FAIL})
"""Targets of a run that are not steps, so no step has such a name."""

_DAY = 24 * 60 * 60.0


class DefinitionPart(BaseModel):
    """A part of a definition. It refuses unknown fields, and references that cannot be read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _check_references(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name != "description":
            list(references(value))
        return value


def _own_name(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name!r} is a target of runs, and cannot be the name of a step")
    if "." in name or "/" in name:
        raise ValueError(f"the name {name!r} has a dot or a slash: leave it out of the names of steps")
    return name


StepName = Annotated[Name, AfterValidator(_own_name)]
Text = Annotated[str, Field(min_length=1, max_length=10_000)]
"""A text that may have references."""


def _literal(name: str) -> str:
    if list(references(name)):
        raise ValueError(f"{name!r} has a reference, but this field is taken literally")
    return name


def _permission(name: str) -> str:
    check_permission(_literal(name))
    return name


def _action(name: str) -> str:
    service, _, action = _literal(name).partition(".")
    if not service or not action or "." in action:
        raise ValueError(f"{name!r} names no action: write service.action")
    return name


def _collection(name: str) -> str:
    if name.startswith(RESERVED_PREFIX):
        raise ValueError(f"{name!r} belongs to the library, as all collections that begin with {RESERVED_PREFIX!r}")
    return _literal(name)


class Retry(DefinitionPart):
    """The attempts at a step that fails with a passing error (`conflict`, `timeout`, `unavailable`, `handler_error`).

    `seconds` is the delay before the second attempt; each further delay is twice as long.
    """

    attempts: Whole = Field(default=3, ge=1, le=20)
    seconds: Number = Field(default=0.5, gt=0, le=3600)


class _Step(DefinitionPart):
    name: StepName
    description: str = Field(default="", max_length=1000)
    next: Name | None = None
    """The step that follows; the next one in the list by default."""
    on_failure: Name = PAUSE
    """The target of a run whose step has failed permanently: `pause`, from which a person can resume it; `fail`, which
    ends it; or the name of a step."""
    retry: Retry = Retry()
    max_visits: Whole | None = Field(default=None, ge=1, le=10_000)
    """The number of times that a run may take this step. It ends a cycle."""

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The fields of its output; None if they are not known before it runs."""
        return frozenset()

    @property
    def references(self) -> Iterator[tuple[Path, bool]]:
        """The paths that it refers to. Each has a flag: whether its value is required."""
        for name, value in self:
            if name not in ("name", "description", "next", "on_failure"):
                for path in references(value):
                    yield path, True

    def targets(self, following: str) -> Iterator[str]:
        """Yield the steps that a run may take next. `following` is the next one in the list."""
        yield self.next or following
        if self.on_failure not in RESERVED:
            yield self.on_failure

    @property
    def continues_after_failure(self) -> bool:
        """True if a run can continue when the step has failed. Its output has an `error` then."""
        return self.on_failure not in RESERVED


class ActionStep(_Step):
    """A step that executes an action as the workflow."""

    type: Literal["action"]
    action: Annotated[str, AfterValidator(_action)]
    input: JsonValue = Field(default_factory=dict)

    @property
    def output_fields(self) -> frozenset[str] | None:
        """None: they are not known before it runs."""
        return None


class AssignmentStep(_Step):
    """A step that gives a person an assignment: a document of the collection `workflow_assignments`.

    With `wait`, the run continues when the assignment is completed through the service of this name.
    """

    type: Literal["assignment"]
    assignee: Text
    title: Text
    details: dict[str, JsonValue] = Field(default_factory=dict)
    wait: Flag = False

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The fields of its output."""
        given = frozenset({"id", "assignee", "title"})
        return given | {"result", "completed_by", "completed_at"} if self.wait else given


class ApprovalStep(_Step):
    """A step that waits until an actor with the permission approves, through the service `approvals`.

    The actor that started the run may approve only with `by_starter`.
    """

    type: Literal["approval"]
    permission: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_permission)]
    message: Text
    expires_after: Number = Field(default=7 * _DAY, gt=0, le=366 * _DAY)
    """Seconds until an undecided approval counts as refused."""
    on_reject: Name = FAIL
    by_starter: Flag = False

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The fields of its output."""
        return frozenset({"approved_by", "approval_id", "approved_at"})

    def targets(self, following: str) -> Iterator[str]:
        """Yield the steps that a run may take next."""
        yield from super().targets(following)
        if self.on_reject not in RESERVED:
            yield self.on_reject

    @property
    def continues_after_failure(self) -> bool:
        """True if a run can continue when the step has failed, or was rejected."""
        return super().continues_after_failure or self.on_reject not in RESERVED


class NotificationStep(_Step):
    """A step that emits an event `workflows.notification`, which the host's publisher delivers."""

    type: Literal["notification"]
    to: Text | Annotated[tuple[Text, ...], AfterValidator(not_empty)]
    message: Text
    subject: str = Field(default="", max_length=1000)
    channel: str = Field(default="", max_length=100)
    data: dict[str, JsonValue] = Field(default_factory=dict)


def _shallow(condition: Condition) -> Condition:
    if depth(condition) > MAX_CONDITION_DEPTH:
        raise ValueError(f"the condition is nested too deeply: at most {MAX_CONDITION_DEPTH} deep")
    return condition


When = Annotated[Condition, AfterValidator(_shallow)]


class Branch(DefinitionPart):
    """The target of a run for which a condition holds."""

    when: When
    next: Name


class DecisionStep(_Step):
    """A step that leads to the first branch whose condition holds; to `otherwise` if none does."""

    type: Literal["decision"]
    branches: Annotated[tuple[Branch, ...], Field(max_length=50), AfterValidator(not_empty)]
    otherwise: Name

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The fields of its output."""
        return frozenset({"next"})

    @model_validator(mode="after")
    def _check_branches(self) -> DecisionStep:
        if self.next is not None:
            raise ValueError("a decision takes no `next`: name its targets in `branches` and `otherwise`")
        return self

    @property
    def references(self) -> Iterator[tuple[Path, bool]]:
        """The paths that its conditions read."""
        for branch in self.branches:
            yield from paths(branch.when)

    def targets(self, following: str) -> Iterator[str]:
        """Yield the steps that a run may take next."""
        for branch in self.branches:
            yield branch.next
        yield self.otherwise
        if self.on_failure not in RESERVED:
            yield self.on_failure


class RecordMutationStep(_Step):
    """A step that inserts, updates or deletes a document.

    An update replaces the top-level fields in `data`, and removes those in `drop`.
    """

    type: Literal["record_mutation"]
    collection: Annotated[Name, AfterValidator(_collection)]
    operation: Literal["insert", "update", "delete"]
    id: Text | None = None
    data: dict[str, JsonValue] | None = None
    drop: Annotated[tuple[Annotated[Text, AfterValidator(_literal)], ...], Field(max_length=1000)] = ()

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The fields of its output."""
        return frozenset({"id", "version", "data"})

    @model_validator(mode="after")
    def _check_operation(self) -> RecordMutationStep:
        if self.id is None and self.operation != "insert":
            raise ValueError(f"the operation {self.operation!r} needs the `id` of a document")
        if self.drop and self.operation != "update":
            raise ValueError(f"the operation {self.operation!r} takes no `drop`: only update does")
        if both := sorted({*self.drop} & {*(self.data or ())}):
            raise ValueError(f"{', '.join(map(repr, both))} stands in both `data` and `drop`: leave it in one")
        if (self.data is None and not self.drop) == (self.operation != "delete"):
            verb = "takes no" if self.operation == "delete" else "needs"
            raise ValueError(f"the operation {self.operation!r} {verb} `data`")
        return self


class RecordLockStep(_Step):
    """A step that locks a document: only this run can change or delete it, until the run ends or `release`s it, or
    `expires_after` seconds have passed. A lock of another run is a `conflict`, and the step is tried again."""

    type: Literal["record_lock"]
    collection: Annotated[Name, AfterValidator(_collection)]
    id: Text
    operation: Literal["lock", "release"] = "lock"
    expires_after: Number = Field(default=_DAY, gt=0, le=366 * _DAY)

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The fields of its output."""
        return frozenset({"collection", "id", "version"})


Step = Annotated[
    ActionStep | AssignmentStep | ApprovalStep | NotificationStep | DecisionStep | RecordMutationStep | RecordLockStep,
    Field(discriminator="type"),
]
