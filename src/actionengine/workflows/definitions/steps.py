"""The types of steps that a definition may have, each a part of a definition as data."""

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
"""What a step is not called, because it stands where names of steps do."""

_DAY = 24 * 60 * 60.0


class DefinitionPart(BaseModel):
    """What all parts of a definition share: no unknown fields, and references that can be read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _check_references(cls, value: Any, info: ValidationInfo) -> Any:
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


def _permission(name: str) -> str:
    check_permission(_literal(name))
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


class Retry(DefinitionPart):
    """How often a step is tried that fails with what may pass (`conflict`, `timeout`, `unavailable`, `handler_error`),
    and after how many seconds for the second time; each further wait is twice as long."""

    attempts: Whole = Field(default=3, ge=1, le=20)
    seconds: Number = Field(default=0.5, gt=0, le=3600)


class _Step(DefinitionPart):
    name: StepName
    description: str = Field(default="", max_length=1000)
    next: Name | None = None
    """The step that follows: the one after it where none is named."""
    on_failure: Name = PAUSE
    """Where a run goes when the step has failed for good: `pause`, so that a person can look and resume it; `fail`,
    which ends it; or the name of a step."""
    retry: Retry = Retry()
    max_visits: Whole | None = Field(default=None, ge=1, le=10_000)
    """How often a run may come here; what makes a cycle end."""

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The members of its output; None where only running it tells."""
        return frozenset()

    @property
    def references(self) -> Iterator[tuple[Path, bool]]:
        """The paths that it refers to, each with whether they have to be there."""
        for name, value in self:
            if name not in ("name", "description", "next", "on_failure"):
                for path in references(value):
                    yield path, True

    def targets(self, following: str) -> Iterator[str]:
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

    @property
    def output_fields(self) -> frozenset[str] | None:
        """Only running it tells."""
        return None


class AssignmentStep(_Step):
    """Gives somebody something to do: a document of the collection `workflow_assignments`. With `wait`, the run goes on
    once it is done, by the service of this name."""

    type: Literal["assignment"]
    assignee: Text
    title: Text
    details: dict[str, JsonValue] = Field(default_factory=dict)
    wait: Flag = False

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The members of its output."""
        given = frozenset({"id", "assignee", "title"})
        return given | {"result", "completed_by", "completed_at"} if self.wait else given


class ApprovalStep(_Step):
    """Waits until somebody with the permission approves, by the service `approvals`. Whoever started the run may not,
    unless `by_starter` says so."""

    type: Literal["approval"]
    permission: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_permission)]
    message: Text
    expires_after: Number = Field(default=7 * _DAY, gt=0, le=366 * _DAY)
    """Seconds."""
    on_reject: Name = FAIL
    by_starter: Flag = False

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The members of its output."""
        return frozenset({"approved_by", "approval_id", "approved_at"})

    def targets(self, following: str) -> Iterator[str]:
        """Where a run may go from here."""
        yield from super().targets(following)
        if self.on_reject not in RESERVED:
            yield self.on_reject

    @property
    def goes_on_failed(self) -> bool:
        """Return whether a run can go on from here although the step has not succeeded."""
        return super().goes_on_failed or self.on_reject not in RESERVED


class NotificationStep(_Step):
    """Tells somebody something: an event `workflows.notification`, which the host's publisher delivers."""

    type: Literal["notification"]
    to: Text | Annotated[tuple[Text, ...], AfterValidator(not_empty)]
    message: Text
    subject: str = Field(default="", max_length=1000)
    channel: str = Field(default="", max_length=100)
    data: dict[str, JsonValue] = Field(default_factory=dict)


def _shallow(condition: Condition) -> Condition:
    if depth(condition) > MAX_CONDITION_DEPTH:
        raise ValueError(f"conditions stand in each other at most {MAX_CONDITION_DEPTH} deep")
    return condition


When = Annotated[Condition, AfterValidator(_shallow)]


class Branch(DefinitionPart):
    """Where to go when a condition holds."""

    when: When
    next: Name


class DecisionStep(_Step):
    """Goes where the first branch leads whose condition holds, and otherwise where `otherwise` says."""

    type: Literal["decision"]
    branches: Annotated[tuple[Branch, ...], Field(max_length=50), AfterValidator(not_empty)]
    otherwise: Name

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The members of its output."""
        return frozenset({"next"})

    @model_validator(mode="after")
    def _check_branches(self) -> DecisionStep:
        if self.next is not None:
            raise ValueError("a decision has no `next`: its branches and `otherwise` say where it goes")
        return self

    @property
    def references(self) -> Iterator[tuple[Path, bool]]:
        """The paths that its conditions read."""
        for branch in self.branches:
            yield from paths(branch.when)

    def targets(self, following: str) -> Iterator[str]:
        """Where a run may go from here."""
        for branch in self.branches:
            yield branch.next
        yield self.otherwise
        if self.on_failure not in RESERVED:
            yield self.on_failure


class RecordMutationStep(_Step):
    """Inserts, changes or deletes a document. A change replaces the top-level fields that `data` has, and leaves out
    those that `drop` names."""

    type: Literal["record_mutation"]
    collection: Annotated[Name, AfterValidator(_collection)]
    operation: Literal["insert", "update", "delete"]
    id: Text | None = None
    data: dict[str, JsonValue] | None = None
    drop: Annotated[tuple[Annotated[Text, AfterValidator(_literal)], ...], Field(max_length=1000)] = ()

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The members of its output."""
        return frozenset({"id", "version", "data"})

    @model_validator(mode="after")
    def _check_operation(self) -> RecordMutationStep:
        if self.id is None and self.operation != "insert":
            raise ValueError(f"to {self.operation} a document, say its `id`")
        if self.drop and self.operation != "update":
            raise ValueError(f"`drop` is for update: this is {self.operation}")
        if both := sorted({*self.drop} & {*(self.data or ())}):
            raise ValueError(f"`data` gives, and `drop` leaves out, {', '.join(map(repr, both))}: say which")
        if (self.data is None and not self.drop) == (self.operation != "delete"):
            raise ValueError(f"`data` is for insert and update, and needed there: this is {self.operation}")
        return self


class RecordLockStep(_Step):
    """Keeps everybody but this run from changing or deleting a document, until the run ends, `release`s it, or
    `expires_after` seconds are over. Where another run has it, this is `conflict`, and tried again."""

    type: Literal["record_lock"]
    collection: Annotated[Name, AfterValidator(_collection)]
    id: Text
    operation: Literal["lock", "release"] = "lock"
    expires_after: Number = Field(default=_DAY, gt=0, le=366 * _DAY)

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The members of its output."""
        return frozenset({"collection", "id", "version"})


Step = Annotated[
    ActionStep | AssignmentStep | ApprovalStep | NotificationStep | DecisionStep | RecordMutationStep | RecordLockStep,
    Field(discriminator="type"),
]
