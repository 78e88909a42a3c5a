"""The types of triggers: what starts runs by itself, as a part of a definition or by the service `triggers`."""

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
"""The context in which a definition or a trigger from the storage is read. Its schedule was checked when it was
written, perhaps on a machine that knows more time zones."""

MAX_BYTES = 16 * 1024
"""Of the JSON of a trigger: an event is compared with all that wait for its type."""


def _written(check: Callable[[str], str]) -> AfterValidator:
    """Return the validator that checks what a caller writes."""

    def validate(value: str, info: ValidationInfo) -> str:
        return value if info.context == STORED else check(value)

    return AfterValidator(validate)


class _Trigger(DefinitionPart):
    @model_validator(mode="before")
    @classmethod
    def _is_short(cls, given: Any, info: ValidationInfo) -> Any:
        if info.context != STORED and len(to_json(given)) > MAX_BYTES:
            raise ValueError(
                f"a trigger has at most {MAX_BYTES >> 10} KB of JSON: each event of its type is read with it"
            )
        return given


class EventTrigger(_Trigger):
    """Starts a run for each event of a type for which `when` holds; `input` refers to the event as `input`: its
    `payload`, `id`, `type`, `subject`, `actor` and `occurred_at`. What workflows themselves have caused starts none,
    unless `from_workflows`."""

    type: Literal["event"]
    event_type: Name
    when: When | None = None
    input: dict[str, JsonValue] = Field(default_factory=dict)
    from_workflows: Flag = False

    @model_validator(mode="after")
    def _check_event_references(self) -> EventTrigger:
        asked = [path for path, _ in paths(self.when)] if self.when is not None else []
        for path in (*asked, *references(self.input)):
            if path[0] != "input" or path[1] not in _EVENT:
                raise ValueError(f"{'.'.join(path)!r}: a trigger knows input.{', input.'.join(sorted(_EVENT))}")
        return self


_EVENT = frozenset({"payload", "id", "type", "subject", "actor", "occurred_at"})


class ScheduleTrigger(_Trigger):
    """Starts a run at each time of a schedule (cron, of five fields or six with seconds first). `input` may refer to
    `input.scheduled_at`."""

    type: Literal["schedule"]
    schedule: Annotated[str, Field(max_length=100), _written(cron)]
    timezone: Annotated[str, Field(max_length=100), _written(zone)] = "UTC"
    input: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_time_references(self) -> ScheduleTrigger:
        for path in references(self.input):
            if path != ("input", "scheduled_at"):
                raise ValueError(f"{'.'.join(path)!r}: a schedule knows input.scheduled_at")
        return self


Trigger = Annotated[EventTrigger | ScheduleTrigger, Field(discriminator="type")]
