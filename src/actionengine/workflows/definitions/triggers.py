"""The types of triggers, which start runs: part of a definition, or created by the service `triggers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, ValidationInfo, model_validator
from pydantic_core import to_json

from actionengine.conditions.conditions import paths
from actionengine.conditions.templates import references
from actionengine.schemas.models import Flag, Name
from actionengine.workflows.definitions.schedules import cron, zone
from actionengine.workflows.definitions.steps import DefinitionPart, When

STORED = "stored"
"""The validation context of definitions and triggers from the storage. Their schedules were checked when they were
written, possibly on a machine with more time zones."""

MAX_BYTES = 16 * 1024
"""Bytes of the JSON of a trigger. Each event is compared with all triggers of its type."""


def _written(check: Callable[[str], str]) -> AfterValidator:
    """Return a validator that checks what callers write, and skips what is stored."""

    def validate(value: str, info: ValidationInfo) -> str:
        return value if info.context == STORED else check(value)

    return AfterValidator(validate)


class _Trigger(DefinitionPart):
    @model_validator(mode="before")
    @classmethod
    def _check_size(cls, given: Any, info: ValidationInfo) -> Any:
        if info.context != STORED and (size := len(to_json(given))) > MAX_BYTES:
            raise ValueError(f"the trigger has {size} bytes of JSON; at most {MAX_BYTES >> 10} KB are allowed")
        return given


class EventTrigger(_Trigger):
    """A trigger that starts a run for each event of a type for which `when` holds.

    `input` refers to the event as `input`: its `payload`, `id`, `type`, `subject`, `actor` and `occurred_at`. Events
    that workflows caused start runs only with `from_workflows`.
    """

    type: Literal["event"] = Field(description="Start a run for each event of a type.")
    event_type: Name = Field(description="The type of the events, such as `invoices.overdue`.")
    when: When | None = Field(
        default=None, description="The condition on the event, as `input.payload.amount`; null takes each event."
    )
    input: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="The input of the run. Its texts may refer to the event, as in `${input.payload.amount}`.",
    )
    from_workflows: Flag = Field(default=False, description="True if events that workflows caused start runs too.")

    @model_validator(mode="after")
    def _check_event_references(self) -> EventTrigger:
        asked = [path for path, _ in paths(self.when)] if self.when is not None else []
        for path in (*asked, *references(self.input)):
            if path[0] != "input" or path[1] not in _EVENT:
                raise ValueError(
                    f"a trigger cannot read {'.'.join(path)}: it has input.{', input.'.join(sorted(_EVENT))}"
                )
        return self


_EVENT = frozenset({"payload", "id", "type", "subject", "actor", "occurred_at"})


class ScheduleTrigger(_Trigger):
    """A trigger that starts a run at each time of a cron schedule of five fields, or six with seconds first.

    `input` may refer to `input.scheduled_at`.
    """

    type: Literal["schedule"] = Field(description="Start a run at each time of a schedule.")
    schedule: Annotated[str, Field(max_length=100), _written(cron)] = Field(
        description="A cron expression of five fields, as in `0 9 * * MON-FRI`, or of six with seconds first."
    )
    timezone: Annotated[str, Field(max_length=100), _written(zone)] = Field(
        default="UTC", description="The time zone of the schedule, such as `Europe/Berlin`."
    )
    input: dict[str, JsonValue] = Field(
        default_factory=dict, description="The input of the run. Its texts may refer to `${input.scheduled_at}`."
    )

    @model_validator(mode="after")
    def _check_time_references(self) -> ScheduleTrigger:
        for path in references(self.input):
            if path != ("input", "scheduled_at"):
                raise ValueError(f"a schedule cannot read {'.'.join(path)}: it has input.scheduled_at")
        return self


Trigger = Annotated[EventTrigger | ScheduleTrigger, Field(discriminator="type")]
