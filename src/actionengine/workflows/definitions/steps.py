"""The types of steps of a definition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from actionengine.conditions.conditions import MAX_CONDITION_DEPTH, Condition, depth, not_empty, paths
from actionengine.conditions.templates import Path, references
from actionengine.schemas.json_schemas import NOT_EMPTY, NOT_NULL, NULL, JsonSchema, SchemaExtra, by_case
from actionengine.schemas.models import NUMERIC, Flag, Name, Number, Whole
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


StepName = Annotated[
    Name,
    AfterValidator(_own_name),
    SchemaExtra(pattern=r"^[^\s./]+( [^\s./]+)*$", not_={"enum": sorted(RESERVED)}),
]
_Failure = Annotated[Name, SchemaExtra(not_={"const": END})]
"""The target of a run whose step has failed, which cannot simply end the run."""
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


_Collection = Annotated[Name, AfterValidator(_collection), SchemaExtra(not_={"pattern": rf"^{RESERVED_PREFIX}|\$\{{"})]


class Retry(DefinitionPart):
    """The attempts at a step that fails with a passing error (`conflict`, `timeout`, `unavailable`, `handler_error`).

    `seconds` is the delay before the second attempt; each further delay is twice as long.
    """

    attempts: Whole = Field(default=3, ge=1, le=20, description="The most attempts, the first one included.")
    seconds: Number = Field(default=0.5, gt=0, le=3600, description="The delay before the second attempt, in seconds.")


class _Step(DefinitionPart):
    name: StepName = Field(description="The name of the step, unique in its workflow, without a dot and a slash.")
    description: str = Field(default="", max_length=1000, description="The purpose of the step, for people.")
    next: Name | None = Field(
        default=None,
        description="The step that follows, or `end`, which ends the run. By default the next one in the list, and "
        "after the last one the end.",
    )
    on_failure: _Failure = Field(
        default=PAUSE,
        description="The target of a run whose step has failed permanently: `pause`, from which a person can resume "
        "it; `fail`, which ends it; or the name of a step.",
    )
    retry: Retry = Field(default=Retry(), description="The attempts at the step when it fails with a passing error.")
    max_visits: Annotated[int, Field(ge=1, le=10_000), NUMERIC] | None = Field(
        default=None, description="The number of times that a run may take this step. Each cycle needs one."
    )

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

    type: Literal["action"] = Field(description="Execute an action as the workflow.")
    action: Annotated[str, AfterValidator(_action), SchemaExtra(pattern=r"^[^.${}]+\.[^.${}]+$")] = Field(
        description="The action to execute, as `service.action`."
    )
    input: JsonValue = Field(
        default_factory=dict,
        description="The payload of the action. Its texts may have references, such as `${input.amount}`.",
    )

    @property
    def output_fields(self) -> frozenset[str] | None:
        """None: they are not known before it runs."""
        return None


class AssignmentStep(_Step):
    """A step that gives a person an assignment: a document of the collection `workflow_assignments`.

    With `wait`, the run continues when the assignment is completed through the service of this name.
    """

    type: Literal["assignment"] = Field(description="Give a person an assignment.")
    assignee: Text = Field(description="The person or the group that gets the assignment. May have references.")
    title: Text = Field(description="The title of the assignment. May have references.")
    details: dict[str, JsonValue] = Field(
        default_factory=dict, description="Further data of the assignment. Its texts may have references."
    )
    wait: Flag = Field(default=False, description="True if the run waits until the assignment is completed.")

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The fields of its output."""
        given = frozenset({"id", "assignee", "title"})
        return given | {"result", "completed_by", "completed_at"} if self.wait else given


class ApprovalStep(_Step):
    """A step that waits until an actor with the permission approves, through the service `approvals`.

    The actor that started the run may approve only with `by_starter`.
    """

    type: Literal["approval"] = Field(description="Wait for the approval of an actor with a permission.")
    permission: Annotated[
        str, Field(min_length=1, max_length=100), AfterValidator(_permission), SchemaExtra(pattern=r"^[^*${}]+$")
    ] = Field(description="The permission that the approver needs.")
    message: Text = Field(description="The question to the approver. May have references.")
    expires_after: Number = Field(
        default=7 * _DAY,
        gt=0,
        le=366 * _DAY,
        description="Seconds until an undecided approval counts as refused.",
    )
    on_reject: _Failure = Field(
        default=FAIL,
        description="The target of a run whose approval is refused: `pause`, `fail` or the name of a step.",
    )
    by_starter: Flag = Field(default=False, description="True if the actor that started the run may approve.")

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

    type: Literal["notification"] = Field(description="Emit an event for the host to deliver.")
    to: Text | Annotated[tuple[Text, ...], AfterValidator(not_empty), NOT_EMPTY] = Field(
        description="The recipient, or a list of recipients. May have references."
    )
    message: Text = Field(description="The text of the notification. May have references.")
    subject: str = Field(default="", max_length=1000, description="The subject line. May have references.")
    channel: str = Field(default="", max_length=100, description="The way of delivery, such as `email`; the host's.")
    data: dict[str, JsonValue] = Field(
        default_factory=dict, description="Further data of the notification. Its texts may have references."
    )


def _shallow(condition: Condition) -> Condition:
    if depth(condition) > MAX_CONDITION_DEPTH:
        raise ValueError(f"the condition is nested too deeply: at most {MAX_CONDITION_DEPTH} deep")
    return condition


When = Annotated[Condition, AfterValidator(_shallow)]


class Branch(DefinitionPart):
    """The target of a run for which a condition holds."""

    when: When = Field(description="The condition of the branch.")
    next: Name = Field(description="The step to which the branch leads, or `end`.")


class DecisionStep(_Step):
    """A step that leads to the first branch whose condition holds; to `otherwise` if none does."""

    type: Literal["decision"] = Field(description="Lead to the first branch whose condition holds.")
    branches: Annotated[tuple[Branch, ...], Field(max_length=50), AfterValidator(not_empty), NOT_EMPTY] = Field(
        description="The branches, in the order in which their conditions are evaluated."
    )
    otherwise: Name = Field(description="The step to which the decision leads if no condition holds, or `end`.")

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The fields of its output."""
        return frozenset({"next"})

    @model_validator(mode="after")
    def _check_branches(self) -> DecisionStep:
        if self.next is not None:
            raise ValueError("a decision takes no `next`: name its targets in `branches` and `otherwise`")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Return the schema, in which `next` has to be null."""
        whole = handler.resolve_ref_schema(handler(schema))
        whole["properties"]["next"] = {"description": "A decision has no `next`.", "default": None, **NULL}
        return whole

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

    type: Literal["record_mutation"] = Field(description="Insert, update or delete a document.")
    collection: _Collection = Field(description="The collection of the document.")
    operation: Literal["insert", "update", "delete"] = Field(description="The change of the document.")
    id: Text | None = Field(
        default=None, description="The id of the document. May have references. An insert makes one by default."
    )
    data: dict[str, JsonValue] | None = Field(
        default=None, description="The document, or the fields to replace. Its texts may have references."
    )
    drop: Annotated[tuple[Annotated[Text, AfterValidator(_literal)], ...], Field(max_length=1000)] = Field(
        default=(), description="The top-level fields that an update removes."
    )

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

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Return the schema, in which `operation` decides over the other fields."""
        whole = handler.resolve_ref_schema(handler(schema))
        has_data: JsonSchema = {"properties": {"data": NOT_NULL}, "required": ["data"]}
        drops: JsonSchema = {"properties": {"drop": {"minItems": 1}}, "required": ["drop"]}
        none: JsonSchema = {"maxItems": 0}
        cases: dict[tuple[str, ...], JsonSchema] = {
            ("insert",): {"properties": {"data": NOT_NULL, "drop": none}, "required": ["data"]},
            ("update",): {"properties": {"id": NOT_NULL}, "required": ["id"], "anyOf": [has_data, drops]},
            ("delete",): {"properties": {"id": NOT_NULL, "data": NULL, "drop": none}, "required": ["id"]},
        }
        return by_case(whole, "operation", cases)


class RecordLockStep(_Step):
    """A step that locks a document: only this run can change or delete it, until the run ends or `release`s it, or
    `expires_after` seconds have passed. A lock of another run is a `conflict`, and the step is tried again."""

    type: Literal["record_lock"] = Field(description="Lock a document for this run, or release it.")
    collection: _Collection = Field(description="The collection of the document.")
    id: Text = Field(description="The id of the document. May have references.")
    operation: Literal["lock", "release"] = Field(default="lock", description="Lock the document, or release it.")
    expires_after: Number = Field(
        default=_DAY, gt=0, le=366 * _DAY, description="Seconds after which the lock ends by itself."
    )

    @property
    def output_fields(self) -> frozenset[str] | None:
        """The fields of its output."""
        return frozenset({"collection", "id", "version"})


Step = Annotated[
    ActionStep | AssignmentStep | ApprovalStep | NotificationStep | DecisionStep | RecordMutationStep | RecordLockStep,
    Field(discriminator="type"),
]
